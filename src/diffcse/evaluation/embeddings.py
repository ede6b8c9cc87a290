"""`Encode`, the function from sentences to rows that every score starts from.

A model, a bag of words and a file of vectors are all such functions, so all are measured alike. Sets repeat sentences,
so each distinct sentence is embedded once. Rows may be a scipy sparse matrix: TF-IDF then fits in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from scipy import sparse

from diffcse.errors import InputError

EmbeddingMatrix: TypeAlias = np.ndarray | sparse.sparray | sparse.spmatrix
"""(n, d), one row for each sentence: a numpy array or a scipy sparse matrix, of any length."""

Encode: TypeAlias = Callable[[list[str]], EmbeddingMatrix]
"""n sentences -> their (n, d) embeddings, in order."""

_DIGITS = 9
_NOISE = 1e-6
_BLOCK = 2**22  # cosines held at once by `cosine_blocks`: 32 MB in float64


def as_matrix(x: Any) -> EmbeddingMatrix:
    """`x` (n, d) as a float ndarray or CSR matrix; float32 stays float32, all else becomes float64.

    Raises `InputError` where `x` is not a two-dimensional table of real numbers.
    """
    rows = x.tocsr() if sparse.issparse(x) else np.asarray(x)
    if rows.ndim != 2 or rows.dtype.kind not in "fiub":
        raise InputError(
            f"embeddings of shape {rows.shape} and type {rows.dtype}: must be real numbers, one row for each sentence"
        )
    return rows if rows.dtype == np.float32 else rows.astype(np.float64, copy=False)


def normalise(x: EmbeddingMatrix) -> EmbeddingMatrix:
    """Rows of `x` (n, d) at unit length; a zero row stays zero. Sparse stays sparse.

    >>> normalise(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6, 0.8], [0.0, 0.0]]
    """
    x = as_matrix(x)
    if isinstance(x, np.ndarray):
        norms = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))[:, None]
        return np.divide(x, norms, out=np.zeros_like(x), where=norms > 0, casting="same_kind")
    norms = np.sqrt(np.asarray(x.multiply(x).sum(axis=1)).ravel())
    inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    return x.multiply(inverse[:, None]).tocsr()


def cosines(a: EmbeddingMatrix, b: EmbeddingMatrix) -> np.ndarray:
    """Cosine of row i of `a` (n, d) with row i of `b` (n, d): (n,) float64. A zero row gives 0, never NaN.

    Rounded to nine digits, and made equal where all are within 1e-6. Smaller differences come from the order of
    additions in float64, and from the rounding of a collapsed encoder in float32. Ranks would magnify both.

    >>> cosines(np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[3.0, 4.0], [1.0, 1.0]])).tolist()
    [0.6, 0.0]
    """
    if a.shape != b.shape:
        raise ValueError(f"cosines of shapes {a.shape} and {b.shape}: they must be equal")
    first, second = (normalise(as_matrix(x).astype(np.float64)) for x in (a, b))
    if isinstance(first, np.ndarray):
        if isinstance(second, np.ndarray):
            return _without_noise(np.einsum("nd,nd->n", first, second))
        first, second = second, first
    return _without_noise(np.asarray(first.multiply(second).sum(axis=1)).ravel())


def _without_noise(values: np.ndarray) -> np.ndarray:
    values = np.round(values, _DIGITS)
    return np.full_like(values, np.median(values)) if len(values) > 1 and np.ptp(values) <= _NOISE else values


def cosine_blocks(a: EmbeddingMatrix, b: EmbeddingMatrix) -> Iterator[tuple[slice, np.ndarray]]:
    """Cosines of every row of `a` (n, d) with every row of `b` (m, d), a few rows of `a` at a time.

    Yields (rows, (len(rows), m) dense cosines), in order: memory stays bounded however large n is.
    """
    unit_a, unit_b = normalise(a), normalise(b)
    step = max(1, _BLOCK // max(1, unit_b.shape[0]))
    for start in range(0, unit_a.shape[0], step):
        rows = slice(start, min(start + step, unit_a.shape[0]))
        block = unit_a[rows] @ unit_b.T
        yield rows, block if isinstance(block, np.ndarray) else block.toarray()


def embed_once(encode: Encode, *lists: Sequence[str]) -> tuple[EmbeddingMatrix, ...]:
    """Embeddings of each list, a row a sentence, from one call of `encode` on the distinct sentences.

    Raises `InputError` where there is no sentence, where `encode` returns another number of rows, or where an
    embedding holds NaN or infinity (it names the first such sentence).
    """
    distinct = list(dict.fromkeys(sentence for sentences in lists for sentence in sentences))
    if not distinct:
        raise InputError("no sentence to embed: give at least one")
    x = as_matrix(encode(distinct))
    if x.shape[0] != len(distinct):
        raise InputError(f"the encoder gave {x.shape[0]} embeddings for {len(distinct)} sentences")
    # A sum of magnitudes is finite exactly where every entry is; it needs no dense copy of a sparse matrix.
    broken = ~np.isfinite(np.asarray(abs(x).sum(axis=1, dtype=np.float64)).ravel())
    if broken.any():
        raise InputError(
            f"the encoder gave NaN or infinity for {broken.sum()} of {len(distinct)} sentences, first for "
            f"{distinct[int(broken.argmax())]!r}: its weights have probably diverged"
        )
    row = {sentence: i for i, sentence in enumerate(distinct)}
    return tuple(x[[row[sentence] for sentence in sentences]] for sentences in lists)
