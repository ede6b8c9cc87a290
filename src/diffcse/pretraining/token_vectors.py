"""Token vectors from the text, which save a small model the first part of its training.

Counted: co-occurrence counts -> positive pointwise mutual information -> truncated SVD. The choices are those of Levy,
Goldberg and Dagan (2015, "Improving Distributional Similarity with Lessons Learned from Word Embeddings"): context
counts to the power 0.75, and square roots of the singular values.

Learned: a weight for each token, and the vectors. The weighted sum of a sentence's tokens must be nearer to that of the
next sentence than to others. Weights start at those of SIF (Arora, Liang and Ma, 2017, "A Simple but Tough-to-Beat
Baseline for Sentence Embeddings"). `with_own_directions` keeps words apart that learn one vector, and `as_embeddings`
adapts the result to a transformer.

Shape suffixes: V vocabulary, H width, N tokens, P pairs of sentences, B sentences of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse
from sklearn.utils.extmath import randomized_svd
from torch import Tensor
from torch.nn import functional as F

from diffcse.errors import InputError
from diffcse.method.paper import symmetric_contrastive_loss
from diffcse.method.views import same_meaning
from diffcse.pretraining.tokens import occurrences

Rows = Sequence[npt.NDArray[np.integer]]
"""Token ids of sentences, each in its own length."""
Views = Callable[[np.random.Generator], tuple[Rows, Rows, Tensor | None]]
"""Draws a batch: B sentences, B positives, and (B, B) bool: the negatives to leave out, or None."""

_CHUNK = 1 << 20  # tokens counted at once: bounds the memory for pairs that are not summed yet
LONGEST = 64
"""Tokens of a sentence that are read; the rest is cut."""
_SIF = 1e-3  # a: a token of share p starts with the weight a / (a + p)
_BATCH, _PASSES, _STEPS = 1024, 4, 500
"""Pairs of a step; the most passes over all pairs; the most steps. Longer training makes the vectors worse."""
_LEARNING_RATE, _TEMPERATURE = 3e-3, 0.1
FILLING = 2
"""Coordinates that `as_embeddings` adds."""
_HEAVIEST = 0.995  # quantile of the weighted vectors' lengths; longer vectors are cut to it


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

    Tokens without a neighbour, and those of `skip`, get random vectors of about the same length.

    Args:
        ids_N: (N,) token ids of the text.
        offsets: (sentences + 1,) positions in `ids_N` where sentences start and end. No pair crosses them.
        window: largest distance of a pair, in tokens.
        smoothing: power of the context counts.
        length: of every vector.
        skip: ids that are neither counted nor serve as context, such as the unknown token.
        seed: decides the random vectors and the SVD's starting point.

    Raises:
        InputError: the vocabulary is not larger than the width.
    """
    if width >= vocabulary_size:
        raise InputError(
            f"width = {width}: must be below the vocabulary's {vocabulary_size} tokens, or set start_embeddings = none"
        )
    counts_VV = cooccurrences(ids_N, offsets, vocabulary_size, window=window, skip=skip)
    random_VH = np.random.default_rng([seed, 1]).normal(0, length / width**0.5, (vocabulary_size, width))
    vectors_VH: npt.NDArray[np.float32] = random_VH.astype(np.float32)
    if not counts_VV.nnz:
        return vectors_VH
    u_VH, s_H, _ = randomized_svd(
        ppmi(counts_VV, smoothing), width, n_iter=3, random_state=np.random.RandomState(seed % 2**32)
    )
    counted_VH = (u_VH * np.sqrt(s_H)).astype(np.float32)
    norms_V = np.linalg.norm(counted_VH, axis=1)
    has_neighbour_V = norms_V > 1e-6 * norms_V.max()
    vectors_VH[has_neighbour_V] = counted_VH[has_neighbour_V] * (length / norms_V[has_neighbour_V, None])
    return vectors_VH


def cooccurrences(
    ids_N: npt.NDArray[np.integer],
    offsets: npt.NDArray[np.int64],
    vocabulary_size: int,
    *,
    window: int,
    skip: tuple[int, ...] = (),
) -> sparse.csr_array:
    """How often two tokens are at most `window` apart in one sentence, in both orders: (V, V) float32."""
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
        # p(w, c) / p(w) is a share of the token's own pairs, so the grand total cancels out.
        token_logs_V = np.log(token_V).astype(np.float32)
        context_logs_V = np.log(context_V / context_V.sum()).astype(np.float32)
    pmi = np.log(counts.data)
    pmi -= token_logs_V[rows]
    pmi -= context_logs_V[columns]
    kept = pmi > 0
    return sparse.coo_array((pmi[kept], (rows[kept], columns[kept])), shape=counts.shape).tocsr()


def learn_from_next(
    vectors_VH: npt.NDArray[np.float32],
    weights_V: npt.NDArray[np.floating],
    ids_N: npt.NDArray[np.integer],
    offsets: npt.NDArray[np.int64],
    first_P: npt.NDArray[np.int64],
    second_P: npt.NDArray[np.int64],
    *,
    seed: int = 42,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Train token vectors and weights on pairs of neighbouring sentences: ((V, H), (V,)) float32.

    A sentence is the weighted sum of its tokens' vectors. The loss is L_contrast both ways: its positive is the next
    sentence, its negatives are the other next sentences of the batch. It takes about half a minute on one core.

    Args:
        vectors_VH: initial vectors.
        weights_V: initial weights, as of `sif_weights`.
        ids_N: (N,) token ids of the text.
        offsets: (sentences + 1,) positions in `ids_N` where sentences start and end.
        first_P: sentences that have a next sentence.
        second_P: their next sentences.
        seed: decides the batches.
    """
    batch = min(_BATCH, len(first_P))
    steps = min(_STEPS, max(1, _PASSES * len(first_P) // batch))
    views = next_views(ids_N, offsets, first_P, second_P, batch)
    learned_VH, learned_V, _ = learn(vectors_VH, weights_V, views, steps=steps, seed=seed)
    return learned_VH, learned_V


def sif_weights(ids_N: npt.NDArray[np.integer], vocabulary_size: int) -> npt.NDArray[np.float64]:
    """a / (a + p) for a token of share p, with a = 0.001: (V,)."""
    share_V = occurrences(ids_N, vocabulary_size) / max(len(ids_N), 1)
    return _SIF / (_SIF + share_V)


def next_views(
    ids_N: npt.NDArray[np.integer],
    offsets: npt.NDArray[np.int64],
    first_P: npt.NDArray[np.int64],
    second_P: npt.NDArray[np.int64],
    batch: int,
) -> Views:
    """Draws `batch` different pairs.

    A sentence can be the second of one pair and the first of another. If both are drawn, it is not its own negative.
    """

    def draw(random: np.random.Generator) -> tuple[Rows, Rows, Tensor]:
        chosen_B = random.choice(len(first_P), batch, replace=False)
        numbers = first_P[chosen_B], second_P[chosen_B]
        first, second = ([ids_N[offsets[i] : offsets[i + 1]][:LONGEST] for i in of_B] for of_B in numbers)
        return first, second, same_meaning(*(torch.from_numpy(of_B) for of_B in numbers))

    return draw


@torch.enable_grad()
def learn(
    vectors_VH: npt.NDArray[np.float32],
    weights_V: npt.NDArray[np.floating],
    views: Views,
    *,
    steps: int,
    learning_rate: float = _LEARNING_RATE,
    temperature: float = _TEMPERATURE,
    seed: int = 42,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], float]:
    """Train token vectors and weights so that the weighted sum of a sentence is near that of its positive.

    Args:
        vectors_VH: initial vectors.
        weights_V: initial weights, above 0.
        views: draws the batch of a step.
        steps: weight updates; the learning rate falls linearly to 0.
        temperature: tau of L_contrast, which is computed both ways.
        seed: of the generator that `views` gets.

    Returns:
        (vectors (V, H) float32, weights (V,) float32, the last step's loss in nats).
    """
    vectors = torch.nn.Parameter(torch.from_numpy(vectors_VH.copy()))
    logs = torch.nn.Parameter(torch.from_numpy(np.log(weights_V).astype(np.float32)))
    optimizer = torch.optim.Adam([vectors, logs], lr=learning_rate, fused=True)
    random = np.random.default_rng([seed, 3])
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        first, second, left_out_BB = views(random)
        first_BH, second_BH = (sums_of(rows, vectors, logs.exp()) for rows in (first, second))
        loss = symmetric_contrastive_loss(first_BH, second_BH, temperature, left_out_BB)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return vectors.detach().numpy(), logs.detach().exp().numpy(), loss.item()


def with_own_directions(
    weighted_VH: npt.NDArray[np.float32], shares_V: npt.NDArray[np.floating], *, seed: int = 42
) -> npt.NDArray[np.float32]:
    """Each token's vector plus a random vector of its own, of its share times the median length: (V, H).

    Words that can replace each other learn nearly one vector. Sums of such vectors cannot show whether two sentences
    share a word or only a subject; with the random vectors they can.
    """
    own_VH = np.random.default_rng([seed, 5]).normal(size=weighted_VH.shape)
    own_VH /= np.linalg.norm(own_VH, axis=1, keepdims=True)
    lengths_V = np.linalg.norm(weighted_VH, axis=1)
    usual = float(np.median(lengths_V[lengths_V > 0])) if lengths_V.any() else 0.0
    mixed_VH: npt.NDArray[np.float32] = (weighted_VH + usual * shares_V[:, None] * own_VH).astype(np.float32)
    return mixed_VH


def sums_of(rows: Rows, vectors_VH: Tensor, weights_V: Tensor | None = None) -> Tensor:
    """Sums of the rows' token vectors, weighted or not, scaled to length 1: (R, H). A sum of 0 stays 0."""
    ids_N = torch.from_numpy(np.concatenate(rows).astype(np.int64))
    starts_R = torch.from_numpy(np.cumsum([0, *(len(row) for row in rows[:-1])]))
    weights_N = None if weights_V is None else weights_V[ids_N]
    return F.normalize(F.embedding_bag(ids_N, vectors_VH, starts_R, mode="sum", per_sample_weights=weights_N), dim=-1)


def as_embeddings(weighted_VH: npt.NDArray[np.float32], *, length: float) -> npt.NDArray[np.float32]:
    """Weighted vectors for a model that normalises token vectors: (V, H + FILLING) float32, all of one `length`.

    A LayerNorm gives all vectors one length and the mean 0, which would remove the weights. So the mean is removed
    here, and two more coordinates of opposite signs fill each vector up to one length. If the last LayerNorm's gain is
    0 at these two, the mean over a sentence's tokens points where the sum of `weighted_VH` does. Exceptions are the
    removed mean, and the heaviest 0.5 % of the tokens, which are cut to the length of the next.
    """
    weighted_VH = weighted_VH - weighted_VH.mean(axis=1, keepdims=True)
    lengths_V = np.linalg.norm(weighted_VH, axis=1)
    most = float(np.quantile(lengths_V, _HEAVIEST))
    weighted_VH *= np.minimum(1, most / np.maximum(lengths_V, 1e-12))[:, None]
    rest_V = np.sqrt(np.maximum(0, most**2 - np.square(weighted_VH).sum(axis=1)) / 2)
    whole = np.concatenate([weighted_VH, rest_V[:, None], -rest_V[:, None]], axis=1)
    return (whole * (length / most)).astype(np.float32)
