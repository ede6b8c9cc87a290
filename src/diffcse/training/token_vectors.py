"""Token vectors from counting: which tokens stand near which, compressed.

A small model that starts from such vectors knows from its first step which words are alike, and need not spend a short
training on finding out. Counts -> positive pointwise mutual information -> truncated SVD, with the choices that Levy,
Goldberg and Dagan (2015, "Improving Distributional Similarity with Lessons Learned from Word Embeddings") recommend:
contexts smoothed by the power 0.75, singular values by their square root.

Shape suffixes: V vocabulary, H width, N tokens.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.utils.extmath import randomized_svd

from diffcse.errors import InputError

_CHUNK = 1 << 20  # tokens counted at once: bounds the memory for pairs not yet summed


def ppmi_svd(
    ids_N: npt.NDArray[np.integer],
    offsets: npt.NDArray[np.int64],
    vocabulary_size: int,
    width: int,
    *,
    window: int = 5,
    smoothing: float = 0.75,
    length: float = 0.32,
    skip: tuple[int, ...] = (),
    seed: int = 42,
) -> npt.NDArray[np.float32]:
    """A vector for each token of the vocabulary: (V, H) float32.

    Tokens never met near another, and those of `skip`, get small random ones of about the same length.

    Args:
        ids_N: (N,) the text as one row of token ids.
        offsets: (sentences + 1,) where sentences begin and end in it; no pair reaches across.
        window: how many tokens apart a pair may be.
        smoothing: power of the context counts.
        length: of every vector.
        skip: ids that count as neither token nor context, e.g. the unknown one.
        seed: decides the random rows, and the SVD's starting point.

    Raises:
        InputError: the vocabulary is not larger than the width.
    """
    if width >= vocabulary_size:
        raise InputError(f"start_embeddings: needs more tokens than dimensions, not {vocabulary_size} and {width}")
    counts_VV = cooccurrences(ids_N, offsets, vocabulary_size, window=window, skip=skip)
    random_VH = np.random.default_rng([seed, 1]).normal(0, length / width**0.5, (vocabulary_size, width))
    vectors_VH: npt.NDArray[np.float32] = random_VH.astype(np.float32)
    if not counts_VV.nnz:
        return vectors_VH
    u_VH, s_H, _ = randomized_svd(
        ppmi(counts_VV, smoothing), width, n_iter=3, random_state=np.random.RandomState(seed % 2**32)
    )
    found_VH = (u_VH * np.sqrt(s_H)).astype(np.float32)
    norms_V = np.linalg.norm(found_VH, axis=1)
    met_V = norms_V > 1e-6 * norms_V.max()
    vectors_VH[met_V] = found_VH[met_V] * (length / norms_V[met_V, None])
    return vectors_VH


def cooccurrences(
    ids_N: npt.NDArray[np.integer],
    offsets: npt.NDArray[np.int64],
    vocabulary_size: int,
    *,
    window: int,
    skip: tuple[int, ...] = (),
) -> sparse.csr_array:
    """How often each two tokens stand at most `window` apart in one sentence, counted both ways: (V, V) float32."""
    total_VV = sparse.csr_array((vocabulary_size, vocabulary_size), dtype=np.float32)
    first = 0
    while first < len(offsets) - 1:
        last = int(np.searchsorted(offsets, offsets[first] + _CHUNK, side="right")) - 1
        last = max(first + 1, min(last, len(offsets) - 1))
        ids = np.asarray(ids_N[offsets[first] : offsets[last]], dtype=np.int32)
        sentence = np.repeat(np.arange(last - first), np.diff(offsets[first : last + 1]))
        real = ~np.isin(ids, skip)
        rows, columns = [], []
        for apart in range(1, window + 1):
            near = (sentence[apart:] == sentence[:-apart]) & real[apart:] & real[:-apart]
            rows.append(ids[:-apart][near])
            columns.append(ids[apart:][near])
        pair = np.concatenate(rows), np.concatenate(columns)
        ones = np.ones(len(pair[0]), dtype=np.float32)
        total_VV += sparse.coo_array((ones, pair), shape=total_VV.shape).tocsr()
        first = last
    return (total_VV + total_VV.T).tocsr()


def ppmi(counts_VV: sparse.csr_array, smoothing: float) -> sparse.csr_array:
    """max(0, log( p(w, c) / (p(w) p'(c)) )), where p'(c) ~ count(c) ^ smoothing: (V, V), sparse."""
    counts = counts_VV.tocoo()
    token_V = np.asarray(counts.sum(axis=1), dtype=np.float64)
    context_V = np.asarray(counts.sum(axis=0), dtype=np.float64) ** smoothing
    rows, columns = counts.coords
    with np.errstate(divide="ignore"):
        # p(w, c) / p(w) is a share of the token's own pairs; the grand total falls out.
        token_logs_V = np.log(token_V).astype(np.float32)
        context_logs_V = np.log(context_V / context_V.sum()).astype(np.float32)
    pmi = np.log(counts.data)
    pmi -= token_logs_V[rows]
    pmi -= context_logs_V[columns]
    kept = pmi > 0
    return sparse.coo_array((pmi[kept], (rows[kept], columns[kept])), shape=counts.shape).tocsr()
