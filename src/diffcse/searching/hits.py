"""Answers, and search in memory without an index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diffcse.encoder.encode import Encoder
from diffcse.encoder.outputs import to_unit
from diffcse.errors import InputError
from diffcse.searching.encoders import Sides
from diffcse.searching.place import check_queries
from diffcse.searching.rows import Rows, rows_of

_BLOCK = 256


@dataclass(frozen=True)
class Hit:
    """One row that answers a query."""

    rank: int
    """From 1."""
    score: float
    """Higher is nearer: cosine, product, or minus the distance, as the encoder compares; with hybrid search the sum of
    1 / (60 + rank) over both rankings."""
    row: int
    """The row's number in the input, from 0; added rows go on counting."""
    text: str
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The kept columns."""

    def to_dict(self) -> dict[str, Any]:
        """All fields in one level, the kept columns last."""
        return {"rank": self.rank, "score": self.score, "row": self.row, "text": self.text, **self.columns}


def search(
    texts: Any,
    queries: str | Sequence[str],
    *,
    model: Encoder | str | Path,
    k: int = 10,
    column: str | None = None,
    keep: Sequence[str] = (),
) -> list[Hit] | list[list[Hit]]:
    """The `k` texts nearest to each query, by exact comparison in memory; nothing is written.

    Args:
        texts: a list of strings, a generator, a pandas Series, a table with `column`, or a path.
        queries: one query, or several.
        model: an encoder, or what `diffcse.load` takes. Its query prompt is used if it has one.
        k: number of answers to each query.
        column: the texts' column in a table or file; None: "text".
        keep: further columns that each answer shall have; a string is one name.

    Returns:
        One list of `Hit` for one query, a list of such lists for several. Equal scores stand in the texts' order.

    Raises:
        InputError: an unusable model, text or query, or k below 1.

    >>> search(["A cat sleeps.", "Stocks fell."], "a kitten", model="mini", k=1)[0].text
    'A cat sleeps.'
    """
    asked = [queries] if isinstance(queries, str) else list(queries)
    check_queries(asked, k)
    rows = rows_of(texts, column, keep)
    sides = Sides.of(model)
    hits = _nearest(rows, sides, asked, k)
    return hits[0] if isinstance(queries, str) else hits


def _nearest(rows: Rows, sides: Sides, queries: Sequence[str], k: int) -> list[list[Hit]]:
    blocks, texts, kept = [], list[str](), list[dict[str, Any]]()
    for batch, vectors in rows.batches():
        made = sides.documents(batch.texts) if vectors is None else vectors
        if vectors is not None:
            first_texts = batch.texts if rows.has_text and batch.first == 0 else []
            sides.check_vectors(first_texts, vectors, rows.place(batch.first))
        blocks.append(to_unit(made) if sides.is_unit else made)
        texts += batch.texts
        kept += [{}] * len(batch.texts) if batch.kept is None else batch.kept.to_pylist()
    if not texts:
        raise InputError("texts: there are none. Give one or more")
    documents_NH, queries_QH = np.concatenate(blocks), sides.queries(list(queries))
    hits = []
    for first in range(0, len(queries), _BLOCK):
        asked = queries_QH[first : first + _BLOCK]
        scores_QN = asked @ documents_NH.T
        if sides.encoder.settings.similarity == "euclidean":
            squares = (asked**2).sum(1)[:, None] + (documents_NH**2).sum(1) - 2 * scores_QN
            scores_QN = -np.sqrt(np.maximum(squares, 0))
        for scores in scores_QN:
            order = np.argsort(-scores, kind="stable")[:k].tolist()
            hits.append([Hit(n, float(scores[i]), i, texts[i], kept[i]) for n, i in enumerate(order, 1)])
    return hits
