"""Labelled examples: rows of (anchor, positive) or (anchor, positive, hard negative) from named columns.

They are kept as a corpus is: the distinct sentences once, and for each example the indices of its sentences, all in
memory maps. Sentences are normalised as those of a corpus are. Of the rows read,

- one with an empty or missing cell is left out: there is nothing to compare;
- one whose hard negative equals its anchor or positive is left out: it says that a sentence is unlike itself;
- one that equals an earlier one in all its sentences is left out;
- one whose positive equals its anchor is kept and counted: it teaches no more than an unlabelled sentence does.

A cache folder holds what `text.corpus` describes, and

- ``rows.npy``        (R, C) int64: example r is sentences ``rows[r]``
- ``examples.json``   format, hash, columns, counts, sources
"""

from __future__ import annotations

import hashlib
import io
import json
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diffcse.config import Text
from diffcse.errors import InputError
from diffcse.text import store
from diffcse.text.corpus import check_strings
from diffcse.text.digest import Plan, digest, digest_sources, processes_for
from diffcse.text.formats import Rows, Wanted, has_columns
from diffcse.text.sources import Source, find_sources
from diffcse.text.store import Builder, Built, Sentences, SourceFile

COLUMNS = ("anchor", "positive", "hard_negative")
"""The roles, in the order of an example's sentences."""


@dataclass(frozen=True)
class ExampleCounts:
    """What was read and what became of it: ``rows == empty + contradictory + duplicates + examples``."""

    files: int
    bytes: int
    """Of the cells, in UTF-8."""
    rows: int
    empty: int
    """Rows with a cell without text."""
    contradictory: int
    """Rows whose hard negative equals their anchor or positive."""
    duplicates: int
    """Rows that, once normalised, equal an earlier one."""
    examples: int
    equal: int
    """Rows, duplicates included, whose positive equals their anchor; they are kept."""
    sentences: int
    """Distinct sentences in the examples."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Distinct examples in their first order of appearance; made by `read_examples` or `from_rows`.

    Pickling one that has a folder passes the folder's name and opens the memory maps again on the other side.
    """

    counts: ExampleCounts
    columns: tuple[str, ...]
    """Names of the columns, in the order anchor, positive and, where there is one, hard negative."""
    sha256: str
    """SHA-256 (hex) of the examples joined by newlines, each of them its sentences joined by tabs."""
    sources: tuple[SourceFile, ...]
    folder: Path | None
    """The cache folder; None for examples in memory."""
    sentences: Sentences = field(repr=False)
    """The distinct sentences."""
    rows: npt.NDArray[np.int64] = field(repr=False)
    """(R, C): for each example, the indices of its sentences."""

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[str]]) -> Examples:
        """Examples in memory, from pairs or triplets of strings, normalised and counted as `read_examples` does it.

        Raises:
            InputError: not a list of pairs or of triplets of strings, or no example is left.

        >>> examples = Examples.from_rows([("A dog  runs.", "A dog is running."), ("A cat.", "")])
        >>> examples[0], examples.counts.empty
        (('A dog runs.', 'A dog is running.'), 1)
        """
        if isinstance(rows, str):
            raise InputError("rows: one string was given. Give a list of pairs or triplets of strings.")
        rows = list(rows)
        for index, row in enumerate(rows):
            check_strings(row, f"rows[{index}]")
            if len(row) not in (2, 3) or len(row) != len(rows[0]):
                raise InputError(
                    f"rows[{index}] has {len(row)} strings: every row must have 2 (anchor, positive), or every row 3 "
                    "(and a hard negative)."
                )
        width = len(rows[0]) if rows else 2
        cells = [[row[c] for row in rows] for c in range(width)]
        size = sum(len(cell.encode()) for column in cells for cell in column)
        memory = io.BytesIO()
        builder = Builder(memory)
        if rows:
            builder.add(digest(Rows(cells, bytes=size), Plan(Wanted(COLUMNS[:width], None, 0))))
        built, indices = _finish(builder, width, "The list")
        sentences = Sentences(memory.getvalue(), built.offsets)
        counts = _counts(builder, built, indices)
        return cls(counts, COLUMNS[:width], _sha256(sentences, indices), (), None, sentences, indices)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[str, ...]:
        """Example `index`: its sentences, in the order of `columns`. IndexError outside."""
        i = operator.index(index)
        if not -len(self) <= i < len(self):
            raise IndexError(f"example {i} of {len(self)}")
        return tuple(self.sentences[int(s)] for s in self.rows[i])

    def __iter__(self) -> Iterator[tuple[str, ...]]:
        return (self[i] for i in range(len(self)))

    def __reduce__(self) -> tuple[Callable[..., Examples], tuple[Any, ...]]:
        if self.folder is not None:
            return _open, (self.folder,)
        return Examples, (
            self.counts,
            self.columns,
            self.sha256,
            self.sources,
            self.folder,
            self.sentences,
            self.rows,
        )

    def summary(self) -> str:
        """One line for people: examples, files, and what was left out."""
        c = self.counts
        what = "triplets" if len(self.columns) == 3 else "pairs"
        origin = f"{c.files:,} file{'s' * (c.files != 1)}" if c.files else "memory"
        left_out = [f"{c.empty:,} with an empty cell", f"{c.duplicates:,} duplicate"]
        if len(self.columns) == 3:
            left_out.insert(1, f"{c.contradictory:,} contradictory")
        equal = f"; {c.equal:,} with anchor = positive kept" if c.equal else ""
        return (
            f"{c.examples:,} {what} of {c.sentences:,} sentences from {origin} ({c.rows:,} rows; "
            f"{', '.join(left_out[:-1])} and {left_out[-1]} left out{equal})"
        )


def read_examples(
    patterns: Sequence[str | Path],
    *,
    text: Text,
    cache_dir: Path | None = None,
    max_line_bytes: int = 100_000,
    processes: int | None = None,
) -> Examples:
    """Read labelled examples; a second call with unchanged files opens the cached result.

    Args:
        patterns: as for `read_corpus`, but only files with columns.
        text: names the columns: ``anchor``, ``positive`` and perhaps ``hard_negative``.
        cache_dir: where cache folders are kept; `default_cache_dir` when None.
        max_line_bytes: the longest cell accepted.
        processes: how many read; as many as pay when None. The result does not depend on it.

    Raises:
        InputError: no such file or column, plain text, not UTF-8, a malformed row, a cell too long or not text, no
            example left, or a cache that cannot be written. Names file, line and column.
    """
    if text.anchor is None or text.positive is None:
        raise InputError("text.anchor and text.positive must name the columns of the pairs, such as sent0 and sent1.")
    if max_line_bytes < 1:
        raise InputError(f"max_line_bytes = {max_line_bytes}: must be at least 1.")
    sources = find_sources(patterns)
    for source in sources:
        if not has_columns(source):
            raise InputError(
                f"{source.name}: plain text has no columns to take pairs from. Give .csv, .tsv, .jsonl or .parquet "
                "files, or train without labels: leave text.anchor out."
            )
    columns = (text.anchor, text.positive, *([text.hard_negative] if text.hard_negative is not None else []))
    plan = Plan(Wanted(columns, None, max_line_bytes))
    number = processes_for(sources, processes)
    stamps = [source.stamp for source in sources]
    folder = store.cache_folder(cache_dir, "examples", max_line_bytes, asdict(text), stamps)
    try:
        return _open(folder)
    except InputError:  # not there yet, or torn
        return store.build(folder, lambda temporary: _fill(temporary, sources, plan, number), _open)


def _fill(folder: Path, sources: Sequence[Source], plan: Plan, processes: int) -> None:
    columns = plan.wanted.columns
    with (folder / "sentences.bin").open("w+b") as file:
        builder = Builder(file)
        for piece in digest_sources(sources, plan, processes):
            builder.add(piece)
        built, rows = _finish(builder, len(columns), store.origin_of(sources))
    np.save(folder / "offsets.npy", built.offsets)
    np.save(folder / "rows.npy", rows)
    record = {
        "sha256": _sha256(Sentences.open(folder), rows),
        "columns": columns,
        "counts": asdict(_counts(builder, built, rows)),
        "sources": [asdict(SourceFile.of(source)) for source in sources],
    }
    store.write_record(folder, "examples.json", record)


def _finish(builder: Builder, width: int, origin: str) -> tuple[Built, npt.NDArray[np.int64]]:
    if not builder.hashes:
        c = builder
        what = f"{c.rows:,} rows, {c.empty:,} with an empty cell and {c.contradictory:,} contradictory"
        raise InputError(f"{origin} holds no example{f' ({what})' if c.rows else ''}. Check the columns' roles.")
    built = builder.finish(origin, least=1)
    rows = built.indices().astype(np.int64).reshape(-1, width)
    order = np.lexsort(rows.T)  # stable: the earliest of equal rows comes first
    distinct = np.ones(len(rows), np.bool_)
    distinct[order[1:]] = (rows[order[1:]] != rows[order[:-1]]).any(axis=1)
    return built, rows[distinct]


def _sha256(sentences: Sentences, rows: npt.NDArray[np.int64]) -> str:
    digest = hashlib.sha256()
    for index, row in enumerate(rows):
        line = "\t".join(sentences[int(s)] for s in row)
        digest.update(f"{chr(10) * (index > 0)}{line}".encode())
    return digest.hexdigest()


def _counts(builder: Builder, built: Built, rows: npt.NDArray[np.int64]) -> ExampleCounts:
    return ExampleCounts(
        files=builder.files,
        bytes=builder.bytes,
        rows=builder.rows,
        empty=builder.empty,
        contradictory=builder.contradictory,
        duplicates=builder.rows - builder.empty - builder.contradictory - len(rows),
        examples=len(rows),
        equal=builder.equal,
        sentences=len(built.offsets) - 1,
    )


def _open(folder: Path) -> Examples:
    try:
        record = json.loads((folder / "examples.json").read_text(encoding="utf-8"))
        counts = ExampleCounts(**record["counts"])
        sources = tuple(SourceFile(**source) for source in record["sources"])
        sentences = Sentences.open(folder)
        rows = store.open_array(folder / "rows.npy")
        columns = tuple(record["columns"])
        if (record["format"], len(sentences), rows.shape) != (
            store.FORMAT,
            counts.sentences,
            (counts.examples, len(columns)),
        ):
            raise ValueError("the parts do not belong together")
        return Examples(counts, columns, record["sha256"], sources, folder, sentences, rows)
    except store.OPENING_ERRORS as error:
        raise store.damaged(folder, error) from error
