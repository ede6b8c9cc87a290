"""Approximate search: which index is built, how it is asked, and how much it misses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from diffcse.errors import InputError

AnnKind = Literal["hnsw", "ivf-pq"]
LEAST_ROWS = 256
"""Fewer rows do not suffice to learn the codes of IVF-PQ, and exact search reads them in a millisecond."""
QUERIES, NEAREST = 1000, 10
"""Recall is measured on so many rows of the index, each with so many neighbours."""


@dataclass(frozen=True)
class Ann:
    """An approximate index and how it is asked.

    hnsw: a graph of neighbours in each of some N / 250,000 cells, with a byte a dimension.
    ivf-pq: rows in some sqrt(N) cells, each vector as codes of 8 bits for every 8 dimensions. A search reads `nprobes`
    cells, and more only if these have fewer than k rows that pass a filter. Both compare the best `refine_factor` * k
    rows exactly.
    """

    kind: AnnKind
    partitions: int
    nprobes: int
    refine_factor: int
    dimension: int
    rows: int
    """Rows of the index when this was built."""

    @classmethod
    def of(cls, kind: AnnKind, rows: int, dimension: int) -> Ann:
        """The index for so many rows.

        Raises:
            InputError: there are too few rows, or no such kind.
        """
        if rows < LEAST_ROWS:
            raise InputError(
                f"--ann: the index has {rows:,} rows, and an approximate one needs {LEAST_ROWS}. Leave --ann out: "
                "exact search is fast here"
            )
        if kind == "ivf-pq":
            partitions = max(1, round(math.sqrt(rows)))
            return cls(kind, partitions, max(20, math.ceil(partitions / 10)), 20, dimension, rows)
        if kind == "hnsw":
            partitions = max(1, round(rows / 250_000))
            return cls(kind, partitions, partitions, 4, dimension, rows)
        raise InputError(f"--ann-kind {kind}: must be hnsw or ivf-pq")

    def config(self, metric: Any) -> Any:
        """For LanceDB's `create_index`."""
        from lancedb.index import HnswSq, IvfPq

        if self.kind == "hnsw":
            return HnswSq(distance_type=metric, num_partitions=self.partitions, m=16, ef_construction=100)
        codes = next(n for n in (8, 4, 2, 1) if self.dimension % n == 0)
        return IvfPq(
            distance_type=metric,
            num_partitions=self.partitions,
            num_sub_vectors=self.dimension // codes,
            max_iterations=15,
            sample_rate=64,
        )

    def applied(self, search: Any, k: int) -> Any:
        """A LanceDB query for `k` rows that asks this index."""
        search = (
            search.minimum_nprobes(self.nprobes).maximum_nprobes(0).refine_factor(self.refine_factor)
        )  # 0: no limit
        return search.ef(max(150, k * self.refine_factor)) if self.kind == "hnsw" else search

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)


def sample_rows(rows: int) -> np.ndarray:
    """Positions of the rows that ask, spread over all rows: (at most 1,000,)."""
    return np.unique(np.linspace(0, rows - 1, min(QUERIES, rows)).astype(int))


def recall(
    vectors: Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]],
    rows: int,
    approximate: Callable[[np.ndarray, int], list[int]],
    *,
    is_product: bool,
) -> float:
    """Share of the 10 nearest rows, by exact comparison, that `approximate` also gives; 0 to 1.

    Up to 1,000 rows of the index ask, each for its neighbours without itself.

    Args:
        vectors: gives (row numbers (N,), vectors (N, H)) of all rows, a batch at a time; called twice.
        approximate: (query (H,), k) -> row numbers of its nearest.
        is_product: nearer is a higher product; else a lower Euclidean distance.
    """
    chosen = sample_rows(rows)
    own, asked, before = [], [], 0
    for numbers, block in vectors():
        inside = chosen[(chosen >= before) & (chosen < before + len(block))] - before
        own.append(numbers[inside])
        asked.append(block[inside])
        before += len(block)
    own_Q, asked_QH = np.concatenate(own), np.concatenate(asked)
    k = min(NEAREST, rows - 1)
    best_QK = np.full((len(own_Q), k), -np.inf, dtype=np.float32)
    rows_QK = np.full((len(own_Q), k), -1, dtype=np.int64)
    for numbers, block in vectors():
        near = asked_QH @ block.T
        if not is_product:
            near = 2 * near - (block**2).sum(1)  # orders as minus the squared distance does
        near[own_Q[:, None] == numbers] = -np.inf
        every = np.concatenate([best_QK, near], axis=1)
        ids = np.concatenate([rows_QK, np.broadcast_to(numbers, near.shape)], axis=1)
        order = np.argpartition(-every, k - 1, axis=1)[:, :k]
        best_QK, rows_QK = np.take_along_axis(every, order, 1), np.take_along_axis(ids, order, 1)
    hits = [
        len(set(true.tolist()) & set([row for row in approximate(query, k + 1) if row != number][:k])) / k
        for number, query, true in zip(own_Q, asked_QH, rows_QK, strict=True)
    ]
    return float(np.mean(hits))
