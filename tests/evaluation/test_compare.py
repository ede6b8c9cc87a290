"""The paired bootstrap: against a loop, in its verdicts, its coverage on simulated encoders, and its time."""

import math
import time

import numpy as np
import pytest
from scipy import stats

from diffcse.evaluation.compare import mean_score, paired_bootstrap, spearman_with


@pytest.mark.parametrize("metric", ["mean", "spearman"])
def test_interval_is_that_of_a_loop(metric):
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 6, size=40) / 2
    a, b = gold + rng.normal(size=40), gold + 2 * rng.normal(size=40)
    chosen = spearman_with(gold) if metric == "spearman" else mean_score
    got = paired_bootstrap(chosen, a, b, resamples=300, seed=7)

    def by_hand(values, rows):
        if metric == "spearman":
            return stats.spearmanr(values[rows], gold[rows])[0]
        return sum(values[rows]) / 40

    draws = np.random.default_rng(7).integers(40, size=(300, 40))
    differences = [by_hand(a, rows) - by_hand(b, rows) for rows in draws]
    every = np.arange(40)
    assert got.value_a == pytest.approx(by_hand(a, every))
    assert got.value_b == pytest.approx(by_hand(b, every))
    assert got.difference == pytest.approx(by_hand(a, every) - by_hand(b, every))
    assert (got.low, got.high) == pytest.approx(tuple(np.percentile(differences, [2.5, 97.5])))
    assert got.probability_better == pytest.approx(np.mean([d > 0 for d in differences]))


def test_verdicts():
    rng = np.random.default_rng(1)
    low = rng.random(200)
    better = paired_bootstrap(mean_score, low + 0.1 + 0.05 * rng.normal(size=200), low)
    assert (better.verdict, better.probability_better) == ("better", 1.0)
    assert better.low > 0
    worse = paired_bootstrap(mean_score, low, low + 0.1 + 0.05 * rng.normal(size=200))
    assert (worse.verdict, worse.probability_better) == ("worse", 0.0)
    same = paired_bootstrap(mean_score, low, low)
    assert (same.verdict, same.probability_better, same.low, same.high) == ("tie", 0.5, 0.0, 0.0)
    # Pairing is what tells them apart: the same values in another order are only noise apart.
    shuffled = paired_bootstrap(mean_score, rng.permutation(low) + 0.01, low)
    assert shuffled.verdict == "tie"


def test_the_seed_decides_and_blocks_do_not(monkeypatch):
    rng = np.random.default_rng(2)
    a, b = rng.random((2, 50))
    first = paired_bootstrap(mean_score, a, b, resamples=200, seed=3)
    assert first == paired_bootstrap(mean_score, a, b, resamples=200, seed=3)
    assert first != paired_bootstrap(mean_score, a, b, resamples=200, seed=4)
    monkeypatch.setattr("diffcse.evaluation.compare._BLOCK", 350)
    assert first == paired_bootstrap(mean_score, a, b, resamples=200, seed=3)


def simulated_mean(rng):
    """Hits of two encoders on 80 queries that share their difficulty: one finds 60 %, the other 50 %."""
    difficulty = rng.random(80)
    noise = rng.random((2, 80)) * 0.2 - 0.1
    a, b = ((difficulty + n < t).astype(float) for n, t in zip(noise, (0.6, 0.5), strict=True))
    return mean_score, a, b, 0.1


def simulated_spearman(rng):
    """Cosines of two encoders on 120 pairs, normal with r = .7 and .5; rho = 6 / pi * asin(r / 2)."""
    gold, shared, *own = rng.normal(size=(4, 120))
    noise = [0.6 * shared + 0.8 * e for e in own]
    values = [r * gold + math.sqrt(1 - r * r) * e for r, e in zip((0.7, 0.5), noise, strict=True)]
    truth = 6 / math.pi * (math.asin(0.35) - math.asin(0.25))
    return spearman_with(gold), *values, truth


@pytest.mark.parametrize("simulate", [simulated_mean, simulated_spearman])
def test_the_interval_covers_the_truth_as_often_as_it_says(simulate):
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        metric, a, b, truth = simulate(rng)
        got = paired_bootstrap(metric, a, b, resamples=400, seed=seed)
        covered += got.low <= truth <= got.high
    assert 180 <= covered <= 198


def test_two_thousand_spearmans_take_little_time():
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 26, size=350) / 5
    start = time.process_time()
    paired_bootstrap(spearman_with(gold), rng.random(350), rng.random(350))
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("a", "b", "options"),
    [
        ([1, 2, 3], [1, 2], {}),
        ([1], [1], {}),
        ([1, 2], [1, np.nan], {}),
        ([[1, 2]], [[1, 2]], {}),
        ([1, 2], [1, 3], {"resamples": 0}),
    ],
)
def test_what_cannot_be_compared_is_refused(a, b, options):
    with pytest.raises(ValueError, match=r"a comparison of|at least 1"):
        paired_bootstrap(mean_score, np.array(a), np.array(b), **options)


def test_gold_of_another_length_is_refused():
    with pytest.raises(ValueError, match="one a pair"):
        paired_bootstrap(spearman_with(np.arange(3)), np.arange(4), np.arange(4))
