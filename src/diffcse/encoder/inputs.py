"""Files -> sentences to embed, one for each line or row, in order; with the columns that are kept beside them.

Training leaves out blank and repeated lines. Here nothing is left out, because row i of the output belongs to line i of
the input. `text.lines` states what a line and a cell is.

The rows of all files are numbered from 0. A *part* is `part_rows` consecutive rows. A batch never spans two parts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from diffcse.errors import InputError
from diffcse.text.formats import Block, Needed, Rows, Wanted, parse, read
from diffcse.text.lines import BLOCK_BYTES, STRICT, Note, Notes, Reading, gather_notes, whole_lines
from diffcse.text.sources import Source, Transcoder, find_sources, open_unpacked
from diffcse.text.strings import iter_strings
from diffcse.text.tables import check_columns

BLOCK = 4096
"""Sentences embedded and written at once: enough for batches of even length, few enough for frequent progress."""
_BLOCK_CHARACTERS = 1 << 22
"""A block of long sentences has fewer."""
_COUNTED_BYTES, _SAMPLE_BYTES = 1 << 30, 1 << 24
"""Lines are counted in files up to the first size together; in more text they are estimated from the second."""
RESERVED = ("text", "embedding")
"""Columns of the output that no kept column may have as its name."""
STDIN = "-"
_STANDARD_INPUT = Source("standard input", "text", Path("standard input"), ("", 0, 0))
_LONGEST = 1 << 20


@dataclass
class Batch:
    """Consecutive rows of the input."""

    first: int
    """The number of its first row among all rows, from 0."""
    texts: list[str]
    kept: Any = None
    """The kept columns as a pyarrow table; None without any."""

    def cut(self, start: int, end: int) -> Batch:
        """Rows `start` to `end` - 1 of this batch."""
        kept = None if self.kept is None else self.kept.slice(start, end - start)
        return Batch(self.first + start, self.texts[start:end], kept)


def batches(chunks: Iterable[Batch], part_rows: int | None = None) -> Iterator[Batch]:
    """The rows of `chunks` in batches of at most `BLOCK` rows, none across the edge of a part."""
    pieces: list[Batch] = []
    rows = characters = 0
    for chunk in chunks:
        if pieces and chunk.first != pieces[0].first + rows:  # rows in between were left out
            yield _join(pieces)
            pieces, rows, characters = [], 0, 0
        start = 0
        for index, text in enumerate(chunk.texts, 1):
            rows += 1
            characters += len(text)
            ends = part_rows is not None and (chunk.first + index) % part_rows == 0
            if rows == BLOCK or characters >= _BLOCK_CHARACTERS or ends:
                yield _join([*pieces, chunk.cut(start, index)])
                pieces, rows, characters, start = [], 0, 0, index
        if start < len(chunk.texts):
            pieces.append(chunk.cut(start, len(chunk.texts)))
    if pieces:
        yield _join(pieces)


def _join(pieces: Sequence[Batch]) -> Batch:
    if len(pieces) == 1:
        return pieces[0]
    kept = None
    if pieces[0].kept is not None:
        import pyarrow as pa

        kept = pa.concat_tables([piece.kept for piece in pieces])
    return Batch(pieces[0].first, [text for piece in pieces for text in piece.texts], kept)


def string_chunks(sentences: Any) -> Iterator[Batch]:
    """Any iterable of strings, one a chunk, so that a slow source is not read ahead.

    Raises:
        InputError: an item is not a Unicode string.
    """
    for index, text in enumerate(iter_strings(sentences)):
        yield Batch(index, [text])


class Sentences:
    """The lines (or a column's cells) of files, read when they are asked for.

    It reads every format of training, and "-" as plain text on standard input. Empty and repeated lines and empty
    cells are sentences. Blank lines of a .jsonl, .csv or .tsv file are not rows and are skipped.

    Args:
        files: files, globs and hub data sets.
        column: the column of sentences in files that have columns; None: "text".
        keep: columns that `chunks` hands on. They keep their type from .parquet and are text from other files.
        lines: read whole lines, also of files with columns.
        reading: how bytes become lines and cells.

    Raises:
        InputError: a file or column is missing, or (while reading) something is not text; names file and line.
    """

    def __init__(
        self,
        files: Sequence[str | Path],
        column: str | None = None,
        *,
        keep: Sequence[str] = (),
        lines: bool = False,
        reading: Reading = STRICT,
    ) -> None:
        if not files:
            raise InputError("no file: name one or more text files, one sentence a line, or - for standard input")
        if [str(file) for file in files].count(STDIN) > 1:
            raise InputError("-: standard input can be read only once")
        self.sources: list[Source] = []
        for file in files:
            sources = [_STANDARD_INPUT] if str(file) == STDIN else find_sources([file])
            self.sources += [replace(source, format="text") if lines else source for source in sources]
        if column is not None and not any(source.has_columns for source in self.sources):
            raise InputError(f"--column {column}: {self.sources[0].name} is plain text, which has no columns")
        self.column = column or "text"
        self.keep = self._check_kept([keep] if isinstance(keep, str) else keep)
        self.notes: dict[str, Note] = {}
        """What was replaced, removed, merged or guessed so far."""
        longest = reading.max_line_bytes or _LONGEST
        self._wanted = Wanted((self.column,), None, longest, reading=reading, kept=self.keep)
        self._count = 0
        self._starts: list[tuple[int, Source]] = []  # (rows before it, source)

    def _check_kept(self, keep: Sequence[str]) -> tuple[str, ...]:
        for name in keep:
            if name in RESERVED and name != self.column:
                raise InputError(f"--keep {name}: the output has a column of this name. Rename it in the input")
        plain = next((source for source in self.sources if not source.has_columns), None)
        if keep and plain:
            raise InputError(f"--keep {keep[0]}: {plain.name} is plain text, which has no columns")
        return tuple(dict.fromkeys(name for name in keep if name not in RESERVED))

    @cached_property
    def kept_schema(self) -> Any:
        """The pyarrow schema of the kept columns.

        Raises:
            InputError: a .parquet file lacks one, or two files have it with different types.
        """
        import pyarrow as pa
        from pyarrow import parquet

        schema = pa.schema([])
        for index, source in enumerate(self.sources if self.keep else ()):
            ours = pa.schema([(name, pa.string()) for name in self.keep])
            if source.format == "parquet":
                with open_unpacked(source.path) as file:
                    theirs = parquet.read_schema(file)
                check_columns(source.name, theirs.names, self._wanted.options)
                ours = pa.schema([theirs.field(name).with_nullable(True).remove_metadata() for name in self.keep])
            for one, other in zip(ours, schema if index else ours, strict=True):
                if one.type != other.type:
                    raise InputError(
                        f"{source.name}, column {one.name!r}: holds {one.type}, but {other.type} in "
                        f"{self.sources[0].name}. Write the files again with one type"
                    )
            schema = ours
        return schema

    @cached_property
    def total(self) -> int | None:
        """The number of rows: counted, or estimated in more than a GiB; None if only reading tells it.

        A table whose quoted cells hold line breaks has fewer rows.
        """
        if any(source == _STANDARD_INPUT or source.format in ("json", "hub") for source in self.sources):
            return None
        is_small = sum(source.unpacked_bytes for source in self.sources) <= _COUNTED_BYTES
        header = not self._wanted.reading.header
        return sum(_rows_of(source, is_small) - (header and source.format in ("csv", "tsv")) for source in self.sources)

    def place(self, index: int) -> str:
        """File and line (or row) of a sentence that was read."""
        start, source = next(pair for pair in reversed(self._starts) if pair[0] <= index)
        return f"{source.name}, {'row' if source.has_columns else 'line'} {index - start + 1}"

    def __iter__(self) -> Iterator[str]:
        for chunk in self.chunks():
            yield from chunk.texts

    def chunks(self, needed: Needed | None = None) -> Iterator[Batch]:
        """The rows in the pieces that the readers give.

        Args:
            needed: whether any of some rows is needed: (number of the first, from 0; how many). Pieces without such a
                row are left out, most of them unread.
        """
        self._count = 0
        self._starts.clear()
        for source in self.sources:
            self._starts.append((self._count, source))
            for rows in self._rows(source, needed):
                if needed is None or needed(self._count, len(rows)):
                    yield Batch(self._count, rows.cells[0], self._table(rows))
                self._count += len(rows)

    @property
    def count(self) -> int:
        """The rows of the last `chunks` or iteration so far, also those that were left out."""
        return self._count

    def _table(self, rows: Rows) -> Any:
        if not self.keep:
            return None
        import pyarrow as pa

        schema = self.kept_schema
        pairs = zip(rows.kept, schema, strict=True)
        arrays = [values if isinstance(values, pa.Array) else pa.array(values, field.type) for values, field in pairs]
        return pa.Table.from_arrays(arrays, schema=schema)

    def _rows(self, source: Source, needed: Needed | None) -> Iterator[Rows]:
        """Some rows after the other, in order; `_count` jumps over those that are not needed and were not read."""
        begins = self._count
        end = line = 1  # of the file; later blocks of text do not know their line

        def group(number: int, rows: int) -> bool:
            """Whether a row group of a .parquet file is needed."""
            nonlocal end
            end = number + rows
            return needed is None or needed(begins + number - 1, rows)

        blocks = _standard_input(self._wanted.reading)
        if source != _STANDARD_INPUT:
            blocks = read(source, self._wanted, group if needed else None)
        for block in blocks:
            count = _quick_count(block) if needed else None
            if needed and count is not None and not needed(self._count, count):
                self._count += count
                line += count
                continue
            if source.format == "parquet":
                self._count = begins + block.first - 1
            rows = parse(replace(block, first=block.first or line), self._wanted)
            line += rows.lines
            gather_notes(self.notes, rows.notes, f"{source.name}, {source.unit}")
            yield rows
        self._count = max(self._count, begins + end - 1)


def _quick_count(block: Block) -> int | None:
    """The rows of a block that is not parsed; None if only parsing tells them."""
    if not isinstance(block.data, bytes):
        return None
    lines = block.data.count(b"\n") + (not block.data.endswith(b"\n"))
    if block.source.format == "text":
        return lines
    objects = block.data.count(b"\n{") + block.data.startswith(b"{")  # blank lines are no rows of .jsonl
    return lines if objects == lines else None


def _rows_of(source: Source, exact: bool) -> int:
    """The rows of a .parquet file, or the lines of another file; in a long file estimated from its beginning."""
    with open_unpacked(source.path) as file:
        if source.format == "parquet":
            from pyarrow import parquet

            return int(parquet.read_metadata(file).num_rows)
        size = lines = 0
        data = b""
        while (chunk := file.read(1 << 20)) and (exact or size < _SAMPLE_BYTES):
            size += len(chunk)
            lines += chunk.count(b"\n") or chunk.count(b"\r")
            data = chunk
    if chunk and size:
        return round(lines * source.unpacked_bytes / size)
    return lines + (not data.endswith((b"\n", b"\r")) if data else 0)


def _standard_input(reading: Reading) -> Iterator[Block]:
    """Whole lines as they come; a pipe is not read ahead until a block is full."""
    if sys.stdin is None:  # the caller closed it
        raise InputError("-: standard input is closed. Name a file, or pipe text to this command")
    stdin: Any = sys.stdin.buffer
    if reading.encoding:
        file = Transcoder(stdin, reading.encoding)
        chunks = iter(lambda: file.read(BLOCK_BYTES), b"")
    else:
        chunks = iter(lambda: stdin.read1(BLOCK_BYTES), b"")
    notes: Notes = {}
    for data in whole_lines(chunks, reading.max_line_bytes or _LONGEST, notes):
        yield Block(_STANDARD_INPUT, data, 0, notes=dict(notes))
        notes.clear()
