"""Spearman and Pearson by hand, by loop and against scipy, ties included."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from diffcse.evaluation.correlation import pearson, spearman


def ranks_by_loop(values):
    """1 + how many are smaller + half of how many others are equal."""
    return [1 + sum(w < v for w in values) + (sum(w == v for w in values) - 1) / 2 for v in values]


def pearson_by_loop(a, b):
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    both = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    of_a, of_b = sum((x - mean_a) ** 2 for x in a), sum((y - mean_b) ** 2 for y in b)
    return both / (of_a * of_b) ** 0.5


def spearman_by_loop(a, b):
    return pearson_by_loop(ranks_by_loop(a), ranks_by_loop(b))


def test_ties_by_hand():
    # Ranks 1 2.5 2.5 4 and 1 3 2 4; deviations -1.5 0 0 1.5 and -1.5 .5 -.5 1.5; rho 4.5 / sqrt(4.5 * 5).
    assert spearman([1, 2, 2, 3], [0, 5, 4, 9]) == pytest.approx(4.5 / 22.5**0.5, abs=1e-15)


ties = st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=2, max_size=30)


@given(ties)
def test_agrees_with_the_loop_and_with_scipy(pairs):
    a, b = (np.array(v, dtype=float) for v in zip(*pairs, strict=True))
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert spearman(a, b) == pearson(a, b) == 0
        return
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b)[0], abs=1e-12)
    assert spearman(a, b) == pytest.approx(spearman_by_loop(a, b), abs=1e-12)
    assert pearson(a, b) == pytest.approx(stats.pearsonr(a, b)[0], abs=1e-12)


def test_many_at_once_are_each_alone():
    a, b = np.random.default_rng(1).integers(0, 5, size=(2, 6, 9)).astype(float)
    a[3] = 0.1
    together = spearman(a, b)
    assert together.shape == (6,)
    assert together.tolist() == [float(spearman(u, v)) for u, v in zip(a, b, strict=True)]
    assert together[3] == 0


@pytest.mark.parametrize("constant", [0.1, 1 / 3, 1e-9, 0.0])
def test_a_constant_correlates_with_nothing(constant):
    # The mean of 0.1 repeated differs from 0.1 in the last bit; that dust must not be correlated.
    values = np.full(11, constant)
    assert pearson(values, np.arange(11)) == 0
    assert spearman(np.arange(11), values) == 0


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_no_scale_is_too_small_or_too_large(scale):
    a, b = np.array([1.0, 2, 4, 3]), np.array([2.0, 1, 5, 9])
    assert pearson(scale * a, b) == pytest.approx(pearson_by_loop(a, b))


BAD = [([1, 2], [1, 2, 3]), ([1], [1]), ([1, np.nan], [1, 2]), ([1, 2], [1, np.inf])]


@pytest.mark.parametrize("bad", BAD)
def test_what_has_no_correlation_is_refused(bad):
    with pytest.raises(ValueError, match="a correlation of"):
        pearson(*bad)


def test_ranks_do_not_hide_a_nan():
    with pytest.raises(ValueError, match="a correlation of"):
        spearman([1, np.nan, 3], [1, 2, 3])
