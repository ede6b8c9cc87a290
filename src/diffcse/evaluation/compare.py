"""Is one encoder better than another, or were these items kind to it?

Two encoders judged on the same pairs or queries rise and fall together with the items drawn. So the difference is known
far better than either score. The paired bootstrap redraws the items with replacement and scores both encoders on each
draw (Efron & Tibshirani 1993, chapter 13; for systems on one test set Koehn, EMNLP 2004).

It speaks of other items, not of other training seeds. Those vary more; see `evaluation.seeds`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from diffcse.evaluation.correlation import spearman
from diffcse.evaluation.seeds import Verdict, excludes_zero

Metric: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Values (n,) of n items, and rows (r, n) of r draws of them -> the metric on each draw, (r,)."""

_BLOCK = 2**20  # items drawn at once: 8 MB of row numbers


@dataclass(frozen=True)
class Difference:
    """How `a` compares with `b`, in the metric's own unit; the interval holds 95 % of the draws."""

    value_a: float
    value_b: float
    difference: float  # value_a - value_b
    low: float
    high: float
    probability_better: float  # share of draws in which a scores above b; equal scores count half
    verdict: Verdict  # of a: the interval is above 0, below 0, or holds it


def paired_bootstrap(
    metric: Metric, a: np.ndarray, b: np.ndarray, *, resamples: int = 2000, seed: int = 0
) -> Difference:
    """Compare `a` with `b`, (n,) values of the same n items under two encoders. One `seed` always gives one answer.

    Args:
        metric: `mean_score` for reciprocal ranks or hits a query, `spearman_with(gold)` for cosines a pair.

    Raises:
        ValueError: the two do not hold the same number of finite values, at least two, or resamples < 1.

    >>> paired_bootstrap(mean_score, np.array([1.0, 1.0, 0.5]), np.array([0.5, 0.5, 0.0])).verdict
    'better'
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or len(a) < 2:
        raise ValueError(f"a comparison of shapes {a.shape} and {b.shape}: give two equal lengths, >= 2")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("a comparison of values that include NaN or infinity")
    if resamples < 1:
        raise ValueError(f"{resamples} resamples: at least 1 is needed")
    generator, n = np.random.default_rng(seed), len(a)
    step = max(1, _BLOCK // n)
    draws = []
    for start in range(0, resamples, step):
        rows = generator.integers(n, size=(min(step, resamples - start), n))
        draws.append(metric(a, rows) - metric(b, rows))
    differences = np.concatenate(draws)
    once = np.arange(n)[None]
    value_a, value_b = float(metric(a, once)[0]), float(metric(b, once)[0])
    low, high = (float(bound) for bound in np.percentile(differences, [2.5, 97.5]))
    return Difference(
        value_a=value_a,
        value_b=value_b,
        difference=value_a - value_b,
        low=low,
        high=high,
        probability_better=float((differences > 0).mean() + (differences == 0).mean() / 2),
        verdict=excludes_zero(low, high),
    )


def mean_score(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The metric that is a mean over items, such as MRR. `values` (n,), `rows` (r, n) -> (r,)."""
    return values[rows].mean(axis=1)


def spearman_with(gold: np.ndarray) -> Metric:
    """The metric that is Spearman's rho with the human scores `gold` (n,). Each draw is ranked anew."""
    gold = np.asarray(gold, dtype=np.float64)

    def metric(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        if values.shape != gold.shape:
            raise ValueError(f"{values.shape} values for {gold.shape} gold scores: give one a pair")
        return spearman(values[rows], gold[rows])

    return metric
