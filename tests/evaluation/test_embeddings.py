"""Cosines against plain loops; each distinct sentence embedded once; what a broken encoder is told."""

import math

import numpy as np
import pytest
from scipy import sparse

from diffcse.errors import InputError
from diffcse.evaluation.embeddings import as_matrix, cosine_blocks, cosines, embed_once, normalise


def cosine_by_loop(u, v):
    dot = sum(float(a) * float(b) for a, b in zip(u, v, strict=True))
    lengths = math.sqrt(sum(float(a) ** 2 for a in u)) * math.sqrt(sum(float(b) ** 2 for b in v))
    return dot / lengths if lengths else 0.0


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 7, 5))
    a[2] = 0
    b[4] = 0
    a[rng.random(a.shape) < 0.4] = 0
    return a, b


@pytest.mark.parametrize("form_a", [np.asarray, sparse.csr_matrix, sparse.coo_array])
@pytest.mark.parametrize("form_b", [np.asarray, sparse.csr_array])
def test_cosines_are_those_of_a_loop_dense_or_sparse(rows, form_a, form_b):
    a, b = rows
    expected = [cosine_by_loop(u, v) for u, v in zip(a, b, strict=True)]
    assert cosines(form_a(a), form_b(b)) == pytest.approx(expected, abs=1e-9)
    assert cosines(form_a(a), form_b(b))[2] == 0


def test_dust_of_floating_point_orders_nothing():
    # The same words in another order: one vector, whose cosines with itself differ in the last bit by its length.
    rng = np.random.default_rng(0)
    bags = rng.integers(0, 5, size=(50, 40)).astype(float)
    assert len(set(cosines(bags, bags * rng.uniform(1, 9, size=(50, 1))))) == 1
    # An encoder that gives every sentence one direction, in float32.
    one = rng.normal(size=(1, 64)) * rng.uniform(0.5, 2, size=(30, 1))
    assert len(set(cosines(*(x.astype(np.float32) for x in (one, one[::-1]))))) == 1
    assert len(set(cosines(np.eye(3), np.eye(3) + 0.01 * rng.normal(size=(3, 3))))) == 3


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_blocks_put_together_are_every_cosine(rows, form, monkeypatch):
    monkeypatch.setattr("diffcse.evaluation.embeddings._BLOCK", 15)
    a, b = rows
    blocks = list(cosine_blocks(form(a), form(b)))
    assert len(blocks) == 4
    assert [r.start for r, _ in blocks] == [0, 2, 4, 6]
    expected = [[cosine_by_loop(u, v) for v in b] for u in a]
    assert np.concatenate([block for _, block in blocks]) == pytest.approx(np.array(expected), abs=1e-12)


def test_float32_is_kept_and_its_small_and_large_rows_have_a_direction():
    x = np.array([[3e30, 4e30], [3e-30, 4e-30]], dtype=np.float32)
    assert normalise(x).dtype == np.float32
    assert normalise(x) == pytest.approx(np.array([[0.6, 0.8], [0.6, 0.8]]), abs=1e-6)
    assert as_matrix(np.array([[1, 2]], dtype=np.int8)).dtype == np.float64


def test_each_distinct_sentence_is_embedded_once():
    asked = []

    def encode(sentences):
        asked.append(list(sentences))
        return np.array([[len(s), 1.0] for s in sentences])

    first, second = embed_once(encode, ["a", "bb", "a"], ["bb", "ccc"])
    assert asked == [["a", "bb", "ccc"]]
    assert first.tolist() == [[1, 1], [2, 1], [1, 1]]
    assert second.tolist() == [[2, 1], [3, 1]]


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_embeddings_that_are_not_finite_name_the_first_sentence(form, bad):
    def encode(sentences):
        return form(np.array([[1.0, bad if "x" in s else 0.5] for s in sentences]))

    with pytest.raises(InputError, match="2 of 3 sentences, first for 'bx'"):
        embed_once(encode, ["a", "bx"], ["cx"])


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (lambda s: np.ones((1, 3)), "1 embeddings for 2 sentences"),
        (lambda s: np.ones(2), "must be real numbers"),
        (lambda s: np.array([["a"], ["b"]]), "must be real numbers"),
        (lambda s: np.ones((2, 1), dtype=complex), "must be real numbers"),
    ],
)
def test_an_encoder_of_the_wrong_shape_is_told_so(encode, message):
    with pytest.raises(InputError, match=message):
        embed_once(encode, ["a", "b"])


def test_no_sentence_and_unequal_shapes_are_refused():
    with pytest.raises(InputError, match="no sentence"):
        embed_once(lambda s: np.ones((0, 1)), [], [])
    with pytest.raises(ValueError, match="must be equal"):
        cosines(np.ones((2, 3)), np.ones((1, 3)))
