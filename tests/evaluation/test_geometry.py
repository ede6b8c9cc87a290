"""Each figure from its definition in loops, dense and sparse, and where the answer is known."""

import itertools
import math

import numpy as np
import pytest
from scipy import sparse

from diffcse.evaluation.geometry import alignment, effective_rank, mean_cosine, score_geometry, spectrum, uniformity
from diffcse.evaluation.sts import PairSet


@pytest.fixture
def rows():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2, 9, 4))
    x[rng.random(x.shape) < 0.3] = 0
    x[3] = 0
    return x, y


def unit(x):
    return [[v / (math.sqrt(sum(w * w for w in row)) or 1.0) for v in row] for row in x.tolist()]


def squared_distance(u, v):
    return sum((a - b) ** 2 for a, b in zip(u, v, strict=True))


forms = pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, lambda x: x.astype(np.float32)])


@forms
def test_alignment_is_its_definition(rows, form):
    x, y = rows
    expected = sum(squared_distance(u, v) for u, v in zip(unit(x), unit(y), strict=True)) / 9
    assert alignment(form(x), form(y)) == pytest.approx(expected, rel=1e-6)


@forms
@pytest.mark.parametrize("block", [1, 30, 10**6])
def test_uniformity_is_its_definition(rows, form, block, monkeypatch):
    monkeypatch.setattr("diffcse.evaluation.embeddings._BLOCK", block)
    pairs = list(itertools.combinations(unit(rows[0]), 2))
    expected = math.log(sum(math.exp(-2 * squared_distance(u, v)) for u, v in pairs) / len(pairs))
    assert uniformity(form(rows[0])) == pytest.approx(expected, rel=1e-5)


@forms
def test_mean_cosine_is_its_definition(rows, form):
    pairs = list(itertools.combinations(unit(rows[0]), 2))
    expected = sum(sum(a * b for a, b in zip(u, v, strict=True)) for u, v in pairs) / len(pairs)
    assert mean_cosine(form(rows[0])) == pytest.approx(expected, abs=1e-6)


@forms
@pytest.mark.parametrize("turn", [False, True])
def test_effective_rank_is_its_definition(rows, form, turn):
    x = rows[0].T.copy() if turn else rows[0]
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(x.T @ x if not turn else x @ x.T), 0))
    p = [v / values.sum() for v in values if v > 0]
    assert effective_rank(form(x)) == pytest.approx(math.exp(-sum(q * math.log(q) for q in p)), rel=1e-5)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_known_answers(form):
    same, basis = form(np.tile([3.0, 4.0, 0.0], (5, 1))), form(2 * np.eye(5))
    assert alignment(same, same) == 0
    assert alignment(basis, -basis) == pytest.approx(4)
    assert uniformity(same) == pytest.approx(0, abs=1e-12)
    assert uniformity(basis) == pytest.approx(-4)
    assert effective_rank(same) == pytest.approx(1)
    assert effective_rank(basis) == pytest.approx(5)
    assert effective_rank(form(np.zeros((2, 3)))) == 0
    assert mean_cosine(same) == pytest.approx(1)
    assert mean_cosine(basis) == pytest.approx(0)


def test_a_low_rank_stays_low_in_a_wide_sparse_matrix():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2)) @ rng.normal(size=(2, 90))
    assert effective_rank(sparse.csr_array(x)) == pytest.approx(effective_rank(x), rel=1e-9)
    assert effective_rank(x) < 2.0001


def test_too_few_rows_are_refused():
    for figure in (uniformity, mean_cosine):
        with pytest.raises(ValueError, match="at least 2"):
            figure(np.ones((1, 3)))
    with pytest.raises(ValueError, match="at least 1"):
        effective_rank(np.ones((0, 3)))


def test_spectrum_is_shares_of_squared_singular_values(rows):
    x, _ = rows
    unit = [row / math.sqrt(sum(v * v for v in row)) if row.any() else row for row in x]
    eigen = sorted(np.linalg.eigvalsh(sum(np.outer(u, u) for u in unit)), reverse=True)
    expected = [value / sum(eigen) for value in eigen]
    assert spectrum(x) == pytest.approx(expected)
    assert spectrum(sparse.csr_array(x))[:4] == pytest.approx(expected)
    assert spectrum(np.zeros((2, 3))).tolist() == [0, 0]
    assert spectrum(np.ones((5, 3))) == pytest.approx([1, 0, 0], abs=1e-12)


def test_a_set_of_pairs_is_measured_as_simcse_does():
    place = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [1.0, 1.0], "d": [-1.0, 0.0]}
    pairs = PairSet("STSB-dev", np.array([5.0, 4.0, 4.2]), ("a", "a", "a"), ("c", "b", "d"), ("x",) * 3, "")
    encode = lambda sentences: np.array([place[s] for s in sentences])  # noqa: E731
    found = score_geometry(encode, ["a", "b", "c", "d", "a"], pairs)
    # graded above 4: a and c, at 45 degrees, squared distance 2 - sqrt(2); a and d, opposite, 4
    assert found.alignment == pytest.approx((2 - math.sqrt(2) + 4) / 2)
    assert (found.n, found.positive_pairs, found.width) == (4, 2, 2)
    x = encode(["a", "b", "c", "d"])
    assert found.uniformity == uniformity(x)
    assert found.effective_rank == effective_rank(x)
    assert found.mean_cosine == mean_cosine(x)
    assert found.spectrum == pytest.approx(spectrum(x))
    assert found.directions_90 == 2
    assert score_geometry(encode, ["a", "b"]).alignment is None
