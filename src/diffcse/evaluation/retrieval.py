"""Search: does the right document rank near the top? Most embeddings are used for search, and STS does not measure it.

Ties count against the encoder: a document whose cosine equals that of the relevant one, within rounding, ranks before
it. So an encoder that maps everything to one point scores nothing, and a score never depends on the order of a file. A
second copy of the relevant text counts as a wrong document, so remove duplicate documents first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from diffcse.errors import InputError
from diffcse.evaluation.beir import Collection
from diffcse.evaluation.embeddings import EmbeddingMatrix, Encode, cosine_blocks, embed_once
from diffcse.evaluation.floors import Bm25, similarity_blocks

CUTOFF = 10  # of the reciprocal rank and of nDCG: what MS MARCO and BEIR report
_TIE = 1e-6  # cosines this close are equal: matrix products in float32 round equal rows apart by about 1e-7


@dataclass(frozen=True)
class RetrievalScore:
    """One encoder's score on one search task, in fractions of 1, and for each query."""

    queries: int
    documents: int
    mrr: float  # mean reciprocal rank, 0 below rank 10
    ndcg: float  # normalised discounted cumulative gain over the first 10
    recall: dict[int, float]  # k -> share of queries whose relevant document is among the first k
    ranks: np.ndarray = field(repr=False, compare=False)  # (queries,) of the relevant document, from 1
    reciprocal_ranks: np.ndarray = field(repr=False, compare=False)  # (queries,), their mean is `mrr`
    gains: np.ndarray = field(repr=False, compare=False)  # (queries,), their mean is `ndcg`
    hits: dict[int, np.ndarray] = field(repr=False, compare=False)  # k -> (queries,) of 0.0 or 1.0

    def to_dict(self) -> dict[str, Any]:
        """The summary, without the per-query arrays, as plain JSON values."""
        return {
            "queries": self.queries,
            "documents": self.documents,
            f"mrr@{CUTOFF}": self.mrr,
            f"ndcg@{CUTOFF}": self.ndcg,
        } | {f"recall@{k}": value for k, value in self.recall.items()}


def score_retrieval(
    encode: Encode,
    queries: Sequence[str],
    documents: Sequence[str],
    relevant: Sequence[int],
    ks: Sequence[int] = (1, 5, 10),
) -> RetrievalScore:
    """Search `documents` by cosine for each query, whose one relevant document is documents[relevant[i]].

    Raises `InputError` as `embed_once` and `score_rankings` do.
    """
    query_rows, document_rows = embed_once(encode, queries, documents)
    return score_rankings(query_rows, document_rows, relevant, ks)


def score_rankings(
    queries: EmbeddingMatrix,
    documents: EmbeddingMatrix,
    relevant: Sequence[int] | np.ndarray,
    ks: Sequence[int] = (1, 5, 10),
) -> RetrievalScore:
    """The same from embeddings: `queries` (q, d), `documents` (m, d), `relevant` (q,) rows of `documents`.

    With one relevant document at rank r, nDCG@10 is 1 / log2(1 + r) for r <= 10 and 0 below.

    Raises `InputError` where `relevant` does not name one existing document for each query, or a k is below
    1.
    """
    ranks = relevant_ranks(queries, documents, relevant)
    if any(k < 1 for k in ks):
        raise InputError(f"recall at {min(ks)}: must be at 1 or more")
    counts = ranks <= CUTOFF
    reciprocal_ranks = np.where(counts, 1.0 / ranks, 0.0)
    gains = np.where(counts, 1.0 / np.log2(1.0 + ranks), 0.0)
    hits = {int(k): (ranks <= k).astype(np.float64) for k in ks}
    return RetrievalScore(
        queries=queries.shape[0],
        documents=documents.shape[0],
        mrr=float(reciprocal_ranks.mean()),
        ndcg=float(gains.mean()),
        recall={k: float(hit.mean()) for k, hit in hits.items()},
        ranks=ranks,
        reciprocal_ranks=reciprocal_ranks,
        gains=gains,
        hits=hits,
    )


@dataclass(frozen=True)
class CollectionScore:
    """One encoder's score on a collection where a query may have several graded answers, in points (x 100)."""

    queries: int
    documents: int
    mrr: float
    """Mean reciprocal rank of the first answer, 0 below rank 10."""
    ndcg: float
    """Over the first 10, with the grades as gains, relative to the best possible order."""
    recall: dict[int, float]
    """k -> mean share of a query's answers among its first k."""
    gains: np.ndarray = field(repr=False, compare=False)  # (queries,), their mean is `ndcg`
    reciprocal_ranks: np.ndarray = field(repr=False, compare=False)  # (queries,), their mean is `mrr`
    hits: dict[int, np.ndarray] = field(repr=False, compare=False)  # k -> (queries,), their mean is `recall[k]`

    def to_dict(self) -> dict[str, Any]:
        """The summary as plain JSON values."""
        return {f"ndcg@{CUTOFF}": self.ndcg, f"mrr@{CUTOFF}": self.mrr} | {
            f"recall@{k}": value for k, value in self.recall.items()
        }


def score_collection(
    encode: Encode | Bm25, collection: Collection, ks: Sequence[int] = (1, 5, 10, 100)
) -> CollectionScore:
    """Rank `collection.documents` by cosine for each query; of equal cosines the wrong documents rank first.

    nDCG is that of trec_eval, which BEIR uses: gain = grade, discount = log2(1 + rank).

    Raises:
        InputError: as `embed_once` does.
    """
    n = len(collection.queries)
    depth = max(CUTOFF, *ks)
    mrr, gains, hits = np.zeros(n), np.zeros(n), {k: np.zeros(n) for k in ks}
    discounts = 1 / np.log2(np.arange(2, CUTOFF + 2))
    for rows, cosine in similarity_blocks(encode, collection.queries, collection.documents):
        for i, values in zip(range(rows.start, rows.stop), cosine, strict=True):
            answers = collection.relevant[i]
            places = np.fromiter(answers, dtype=np.int64)
            grades = np.fromiter(answers.values(), dtype=np.float64)
            values = values.astype(np.float64)
            values[list(collection.excluded[i])] = -np.inf
            # Slightly lowered, an answer loses every tie to a wrong document, and to an answer with a lower grade.
            values[places] -= _TIE * (1 + grades / grades.max())
            top = np.argpartition(-values, min(depth, len(values)) - 1)[:depth]
            top = top[np.argsort(-values[top], kind="stable")]
            grade_of = dict(zip(places.tolist(), grades.tolist(), strict=True))
            ranked = np.array([grade_of.get(place, 0.0) for place in top.tolist()])
            head = ranked[:CUTOFF]
            first = np.flatnonzero(head)
            mrr[i] = 1 / (1 + first[0]) if len(first) else 0.0
            best = np.sort(grades)[::-1][:CUTOFF]
            gains[i] = (head * discounts[: len(head)]).sum() / (best * discounts[: len(best)]).sum()
            for k in ks:
                hits[k][i] = (ranked[:k] > 0).sum() / len(places)
    return CollectionScore(
        queries=n,
        documents=len(collection.documents),
        mrr=100 * float(mrr.mean()),
        ndcg=100 * float(gains.mean()),
        recall={k: 100 * float(hit.mean()) for k, hit in hits.items()},
        gains=100 * gains,
        reciprocal_ranks=100 * mrr,
        hits={k: 100 * hit for k, hit in hits.items()},
    )


def relevant_ranks(
    queries: EmbeddingMatrix, documents: EmbeddingMatrix, relevant: Sequence[int] | np.ndarray
) -> np.ndarray:
    """Rank of each query's relevant document by cosine: (q,) int64 from 1; every tie ranks before it.

    >>> relevant_ranks(np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0]]), [1]).tolist()
    [3]
    """
    target = np.asarray(relevant)
    if target.shape != (queries.shape[0],) or target.size == 0 or target.dtype.kind not in "iu":
        raise InputError(
            f"relevant of shape {target.shape} and type {target.dtype}: must give one document number for each of the "
            f"{queries.shape[0]} queries, and at least one"
        )
    outside = (target < 0) | (target >= documents.shape[0])
    if outside.any():
        i = int(outside.argmax())
        raise InputError(
            f"query {i}: its relevant document is number {target[i]}; the {documents.shape[0]} documents are numbered "
            "from 0"
        )
    ranks = np.empty(len(target), dtype=np.int64)
    for rows, cosine in cosine_blocks(queries, documents):
        relevant_cosine = np.take_along_axis(cosine, target[rows, None], axis=1)
        ranks[rows] = (cosine >= relevant_cosine - _TIE).sum(axis=1)
    return ranks
