"""Labelled examples: rows of (anchor, positive) or (anchor, positive, hard negative) from named columns.

The distinct sentences are kept once, and each example as the indices of its sentences. Sentences are normalised as in
a corpus. A row is left out if

- a cell is empty or missing: there is nothing to compare;
- its hard negative equals its anchor or positive: this says that a sentence is unlike itself;
- it equals an earlier row in all its sentences.

A row whose positive equals its anchor is kept and counted; it teaches as much as an unlabelled sentence.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from diffcse.config import Text
from diffcse.errors import InputError
from diffcse.text.digest import Plan
from diffcse.text.formats import Rows, Wanted
from diffcse.text.reader import Counts, Stored, longest_line, reading_of
from diffcse.text.sources import find_sources
from diffcse.text.store import Builder, Built, Sentences
from diffcse.text.strings import iter_strings

COLUMNS = ("anchor", "positive", "hard_negative")
"""The roles, in the order of an example's sentences."""


@dataclass(frozen=True, kw_only=True)
class ExampleCounts(Counts):
    """What was read: ``rows == empty + contradictory + duplicates + examples``."""

    rows: int
    contradictory: int
    """Rows whose hard negative equals their anchor or positive."""
    examples: int
    equal: int
    """Rows, duplicates included, whose positive equals their anchor; they are kept."""


@dataclass(frozen=True, eq=False)
class Examples(Stored):
    """Distinct examples in their first order of appearance.

    `sha256` (hex) is that of the examples joined by newlines, the sentences of each joined by tabs.
    """

    COUNTS: ClassVar = ExampleCounts
    ARRAYS: ClassVar = ("rows",)

    columns: tuple[str, ...]
    """Names of the columns: anchor, positive and perhaps hard negative."""
    rows: npt.NDArray[np.int64] = field(repr=False)
    """(R, C): the indices of each example's sentences."""

    @classmethod
    def from_rows(cls, rows: Iterable[Sequence[str]]) -> Examples:
        """Make examples in memory from pairs or triplets of strings, normalised and counted as by `read_examples`.

        Raises:
            InputError: not pairs or triplets of strings, or no example is left.

        >>> examples = Examples.from_rows([("A dog  runs.", "A dog is running."), ("A cat.", "")])
        >>> examples[0], examples.counts.empty
        (('A dog runs.', 'A dog is running.'), 1)
        """
        if isinstance(rows, str):
            raise InputError("rows: one string was given. Give a list of pairs or triplets of strings.")
        table = [list(iter_strings(row, f"rows[{index}]")) for index, row in enumerate(rows)]
        width = len(table[0]) if table else 2
        for index, row in enumerate(table):
            if len(row) not in (2, 3) or len(row) != width:
                raise InputError(
                    f"rows[{index}] has {len(row)} strings. Give every row 2 (anchor, positive), or every row 3 (and a "
                    "hard negative)."
                )
        cells = [[row[c] for row in table] for c in range(width)]
        return cls.of_rows(Rows(cells), Plan(Wanted(COLUMNS[:width], None, 0)))

    @classmethod
    def finish(cls, builder: Builder, plan: Plan, origin: str) -> dict[str, Any]:
        columns = plan.wanted.columns
        if not builder.hashes:
            raise InputError(
                f"{origin} holds no example ({builder.rows:,} rows; {builder.empty:,} with an empty cell, "
                f"{builder.contradictory:,} contradictory). Check the columns' roles."
            )
        built = builder.finish(origin, least=1)
        sentences = builder.sentences(built)
        rows = _distinct_rows(built, len(columns))
        counts = ExampleCounts(
            files=builder.files,
            bytes=builder.bytes,
            rows=builder.rows,
            empty=builder.empty,
            contradictory=builder.contradictory,
            duplicates=builder.rows - builder.empty - builder.contradictory - len(rows),
            examples=len(rows),
            equal=builder.equal,
            sentences=len(sentences),
            notes=tuple(builder.notes.values()),
        )
        parts = {"counts": counts, "sha256": _sha256(sentences, rows), "columns": columns}
        return parts | {"sentences": sentences, "rows": rows}

    def check(self) -> None:
        """Raise ValueError if the parts do not belong together."""
        shape = (self.counts.examples, len(self.columns))
        if len(self.sentences) != self.counts.sentences or self.rows.shape != shape:
            raise ValueError("the parts do not belong together")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[str, ...]:
        """The sentences of example `index`, in the order of `columns`. Raises IndexError outside."""
        i = operator.index(index)
        if not -len(self) <= i < len(self):
            raise IndexError(f"example {i} of {len(self)}")
        return tuple(self.sentences[int(s)] for s in self.rows[i])

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        return (self[i] for i in range(len(self)))

    def summary(self) -> str:
        """One line: examples, files, what was left out, and the notes."""
        c = self.counts
        kind = "triplets" if len(self.columns) == 3 else "pairs"
        left_out = [f"{c.empty:,} with an empty cell", f"{c.duplicates:,} duplicate"]
        if kind == "triplets":
            left_out.insert(1, f"{c.contradictory:,} contradictory")
        equal = f"; {c.equal:,} with anchor = positive kept" if c.equal else ""
        return (
            f"{c.examples:,} {kind} of {c.sentences:,} sentences from {c.origin} ({c.rows:,} rows; "
            f"{', '.join(left_out[:-1])} and {left_out[-1]} left out{equal}){c.remarks}"
        )


def read_examples(
    patterns: Sequence[str | Path],
    *,
    text: Text,
    cache_dir: Path | None = None,
    max_line_bytes: int | None = None,
    processes: int | None = None,
) -> Examples:
    """Read labelled examples; a second call with unchanged files opens the cached result.

    Args:
        patterns: as for `read_corpus`, but only files with columns.
        text: names the columns: ``anchor``, ``positive`` and perhaps ``hard_negative``.
        cache_dir: folder of the cache folders; None: `default_cache_dir`.
        max_line_bytes: the longest cell; None: that of `text`.
        processes: number of reading processes; None: as many as pay. The result does not depend on it.

    Raises:
        InputError: a file or column is missing, plain text, another encoding, a malformed row, a cell that is too long
            or not text, no example left, or a cache that cannot be written. Names file, line and column.
    """
    if text.anchor is None or text.positive is None:
        raise InputError("text.anchor and text.positive must name the columns of the pairs, such as sent0 and sent1.")
    sources = find_sources(patterns)
    for source in sources:
        if not source.has_columns:
            raise InputError(
                f"{source.name}: plain text has no columns for pairs. Give .csv, .tsv, .jsonl or .parquet files, or "
                "train without labels: leave text.anchor out."
            )
    columns = (text.anchor, text.positive, *([text.hard_negative] if text.hard_negative is not None else []))
    plan = Plan(Wanted(columns, None, longest_line(text, max_line_bytes), reading=reading_of(text)))
    return Examples.read(sources, plan, cache_dir=cache_dir, processes=processes)


def _distinct_rows(built: Built, width: int) -> npt.NDArray[np.int64]:
    """(R, width): the distinct rows in their first order."""
    rows = built.indices().astype(np.int64).reshape(-1, width)
    order = np.lexsort(rows.T)  # stable: the earliest of equal rows comes first
    is_distinct = np.ones(len(rows), np.bool_)
    is_distinct[order[1:]] = (rows[order[1:]] != rows[order[:-1]]).any(axis=1)
    return rows[is_distinct]


def _sha256(sentences: Sentences, rows: npt.NDArray[np.int64]) -> str:
    digest = hashlib.sha256()
    for index, row in enumerate(rows):
        line = "\t".join(sentences[int(s)] for s in row)
        digest.update(f"{chr(10) * (index > 0)}{line}".encode())
    return digest.hexdigest()
