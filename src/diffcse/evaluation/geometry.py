"""Geometry of embeddings: figures that need no labels and show a collapse before a score does.

Alignment and uniformity are what the contrastive loss trades off (Wang & Isola, ICML 2020, arXiv 2005.10242,
section 4); the effective rank tells how many directions are in use; the mean cosine, how narrow the cone is.
Dense and sparse rows are welcome throughout. A zero row (a sentence of unknown words) has no direction and
stays at the origin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diffcse.evaluation.embeddings import (
    EmbeddingMatrix,
    Encode,
    as_matrix,
    cosine_blocks,
    cosines,
    embed_once,
    normalise,
)
from diffcse.evaluation.sts import PairSet

ALIKE = 4.0
"""Pairs graded above this (of 5) are the positive pairs of alignment: SimCSE's choice (arXiv 2104.08821, section 3)."""

SHOWN = 64
"""Shares of the spectrum that are kept in a record."""


@dataclass(frozen=True)
class Geometry:
    """The geometry of the embeddings of a text."""

    n: int
    """Distinct sentences."""
    alignment: float | None
    """Over the positive pairs; None where there are none."""
    positive_pairs: int
    uniformity: float
    effective_rank: float
    mean_cosine: float
    width: int
    spectrum: tuple[float, ...]
    """Shares of the squared singular values of the unit rows, the largest first, `SHOWN` at most."""
    directions_90: int
    """Directions that hold 90 % of the squared length."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in vars(self).items()}


def score_geometry(encode: Encode, sentences: Sequence[str], pairs: PairSet | None = None) -> Geometry:
    """Geometry of the distinct `sentences`; alignment is over the pairs of `pairs` graded above 4.

    SimCSE computes uniformity over all sentences of STS-B, repeats included. Here a repeated sentence counts once,
    because its copies coincide under any encoder.

    Raises:
        InputError: as `embed_once` does.
    """
    distinct = list(dict.fromkeys(sentences))
    alike = [] if pairs is None else alike_pairs(pairs)
    x, a, b = embed_once(encode, distinct, [first for first, _ in alike], [second for _, second in alike])
    shares = spectrum(x)
    return Geometry(
        n=len(distinct),
        alignment=alignment(a, b) if alike else None,
        positive_pairs=len(alike),
        uniformity=uniformity(x),
        effective_rank=effective_rank(x),
        mean_cosine=mean_cosine(x),
        width=int(x.shape[1]),
        spectrum=tuple(float(share) for share in shares[:SHOWN]),
        directions_90=int(np.searchsorted(np.cumsum(shares), 0.9) + 1) if shares.any() else 0,
    )


def alike_pairs(pairs: PairSet) -> list[tuple[str, str]]:
    """The pairs graded above `ALIKE`: the positive pairs of alignment."""
    rows = zip(pairs.first, pairs.second, pairs.scores, strict=True)
    return [(first, second) for first, second, score in rows if score > ALIKE]


def alignment(x: EmbeddingMatrix, y: EmbeddingMatrix) -> float:
    """Mean squared distance of unit rows of `x` (n, d) from those of `y` (n, d); row i and row i are a pair.

    0 (all pairs coincide) to 4 (all opposite); lower is better. Wang & Isola's alignment loss with alpha = 2.
    """
    _need(x, 1)
    distances = _squared_lengths(x) + _squared_lengths(y) - 2 * cosines(x, y)
    return float(np.maximum(distances, 0.0).mean())  # rounding leaves -1e-16 where rows coincide


def uniformity(x: EmbeddingMatrix) -> float:
    """log of the mean, over the distinct pairs of unit rows of `x` (n, d), of exp(-2 |x_i - x_j|^2).

    0 when all coincide; lower is better, about -4 (every pair orthogonal) on a high-dimensional sphere. Wang
    & Isola's uniformity loss with t = 2.
    """
    n = _need(x, 2)
    lengths = _squared_lengths(x)
    total = 0.0
    for rows, cosine in cosine_blocks(x, x):
        distances = np.maximum(lengths[rows, None] + lengths - 2 * cosine, 0.0)
        potentials = np.exp(-2 * distances)
        potentials[np.arange(len(cosine)), np.arange(n)[rows]] = 0.0  # a row is no pair with itself
        total += potentials.sum()
    return float(np.log(total / (n * (n - 1))))


def effective_rank(x: EmbeddingMatrix) -> float:
    """Number of directions that the rows of `x` (n, d) use, neither centred nor normalised.

    exp of the entropy of the singular values divided by their sum (Roy & Vetterli, EUSIPCO 2007): 1 for rows
    all parallel, min(n, d) at most; 0 for rows all zero. A sparse matrix costs a dense square of its shorter
    side.

    >>> round(effective_rank(np.eye(3)), 6)
    3.0
    """
    _need(x, 1)
    values = _singular_values(as_matrix(x).astype(np.float64))
    if not values.any():
        return 0.0
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def spectrum(x: EmbeddingMatrix) -> np.ndarray:
    """Shares of the squared singular values of unit rows of `x` (n, d), the largest first: (min(n, d),), sum 1.

    Not centred: a first share near 1 is a narrow cone, all equal is a ball. All 0 where every row is zero.
    """
    _need(x, 1)
    squares = np.sort(_singular_values(normalise(as_matrix(x).astype(np.float64))))[::-1] ** 2
    return squares / squares.sum() if squares.any() else squares


def mean_cosine(x: EmbeddingMatrix) -> float:
    """Mean cosine over distinct pairs of rows of `x` (n, d): near 0 for directions all over, 1 if collapsed.

    In one pass: the squared length of the sum of unit rows is their own squared lengths plus twice the pairs.
    """
    n = _need(x, 2)
    total = np.asarray(normalise(x).sum(axis=0, dtype=np.float64)).ravel()
    return float((total @ total - _squared_lengths(x).sum()) / (n * (n - 1)))


def _singular_values(x: EmbeddingMatrix) -> np.ndarray:
    """Of `x` (n, d) in float64, in no order."""
    if isinstance(x, np.ndarray):
        return np.linalg.svd(x, compute_uv=False)
    gram = (x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x).toarray()
    squares = np.linalg.eigvalsh(gram)
    # Zero eigenvalues come out as rounding dust, of which the root below would make something.
    dust = squares.max(initial=0.0) * len(gram) * np.finfo(np.float64).eps
    return np.sqrt(np.where(squares > dust, squares, 0.0))


def _squared_lengths(x: EmbeddingMatrix) -> np.ndarray:
    """Squared length of each row of `x` once normalised, (n,): 1, or 0 for a zero row."""
    return cosines(x, x).round()


def _need(x: EmbeddingMatrix, fewest: int) -> int:
    n = int(x.shape[0])
    if n < fewest:
        raise ValueError(f"{n} embeddings given; at least {fewest} are needed")
    return n
