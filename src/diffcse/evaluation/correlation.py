"""Pearson and Spearman along the last axis, so that a bootstrap can compute thousands at once.

An undefined correlation is 0 here, not NaN. A constant orders nothing, and random order would score 0 on average. So a
collapsed encoder scores 0, and an evaluation during training does not stop.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata


def pearson(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Pearson's r of `a` and `b`, both (..., n), along the last axis: (...), in [-1, 1]; a constant gives 0.

    Raises `ValueError` on unequal lengths, fewer than two values, NaN or infinity.

    >>> round(float(pearson([1, 2, 3], [2, 4, 6])), 9), float(pearson([1, 2, 3], [5, 5, 5]))
    (1.0, 0.0)
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.ndim == 0 or b.ndim == 0 or a.shape[-1] != b.shape[-1] or a.shape[-1] < 2:
        raise ValueError(f"a correlation of shapes {a.shape} and {b.shape}: give two equal lengths, >= 2")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("a correlation of values that include NaN or infinity")
    return np.clip((_unit(a) * _unit(b)).sum(axis=-1), -1.0, 1.0)


def spearman(a: ArrayLike, b: ArrayLike) -> np.ndarray:
    """Spearman's rho: `pearson` of the ranks, tied values sharing the average of their ranks.

    >>> float(spearman([1, 2, 3, 4], [10, 20, 30, 25]))
    0.8
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return pearson(rankdata(a, axis=-1), rankdata(b, axis=-1))


def _unit(a: np.ndarray) -> np.ndarray:
    """`a` (..., n) centred and at unit length along the last axis; zero where it is constant."""
    # Scaled first, a constant is exactly 1 and its centred values are exactly 0. Unscaled, the mean of many 0.1 is not
    # 0.1, and the rounding errors would correlate with something. Scaling also keeps squares from over- and underflow.
    largest = np.abs(a).max(axis=-1, keepdims=True)
    a = np.divide(a, largest, out=np.zeros_like(a), where=largest > 0)
    a = a - a.mean(axis=-1, keepdims=True)
    norms = np.sqrt((a * a).sum(axis=-1, keepdims=True))
    return np.divide(a, norms, out=np.zeros_like(a), where=norms > 0)
