"""Files -> sentences to embed, one for each line or row, in order.

Training leaves out blank and repeated lines. Here nothing is left out, because row i of the output belongs to line i of
the input. `text.lines` states what a line and a cell is.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffcse.errors import InputError
from diffcse.text.formats import Block, Rows, Wanted, parse, read
from diffcse.text.lines import BLOCK_BYTES, STRICT, Note, Notes, Reading, whole_lines
from diffcse.text.sources import Source, Transcoder, find_sources

STDIN = "-"
_STANDARD_INPUT = Source("standard input", "text", Path("standard input"), ("", 0, 0))
_LONGEST = 1 << 20
_PACKED = (".gz", ".xz", ".zst", ".bz2")


class Sentences:
    """The lines (or a column's cells) of files, read when they are asked for.

    It reads every format of training, and "-" as plain text on standard input. Empty and repeated lines and empty
    cells are sentences. Blank lines of a .jsonl, .csv or .tsv file are not rows and are skipped.

    Args:
        files: files, globs and hub data sets.
        column: the column of sentences in files that have columns; None: "text".
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
        self.notes: dict[str, Note] = {}
        """What was replaced, removed, merged or guessed so far."""
        self._wanted = Wanted((column or "text",), None, _LONGEST, reading=reading)
        is_known = all(
            source.format in ("text", "jsonl") and source.path.suffix not in _PACKED and source != _STANDARD_INPUT
            for source in self.sources
        )
        self._bytes = sum(source.unpacked_bytes for source in self.sources) if is_known else None
        self._bytes_read, self._count = 0.0, 0
        self._starts: list[tuple[int, Source]] = []  # (sentences before it, source)

    @property
    def share(self) -> float | None:
        """Share of the files' bytes that was read, 0 to 1; None if the sizes do not tell (packed, tables, -)."""
        return None if self._bytes is None else min(1.0, self._bytes_read / max(1, self._bytes))

    def share_of(self, done: int) -> float | None:
        """Share of the files' bytes in the first `done` sentences, for a caller that reads ahead."""
        return None if self.share is None else self.share * done / max(1, self._count)

    def place(self, index: int) -> str:
        """File and line (or row) of a sentence that was read."""
        start, source = next(pair for pair in reversed(self._starts) if pair[0] <= index)
        return f"{source.name}, {'row' if source.has_columns else 'line'} {index - start + 1}"

    def __iter__(self) -> Iterator[str]:
        for source in self.sources:
            self._starts.append((self._count, source))
            for rows, size in self._rows(source):
                for sentence in rows.cells[0]:
                    self._bytes_read += size / len(rows)
                    self._count += 1
                    yield sentence

    def _rows(self, source: Source) -> Iterator[tuple[Rows, int]]:
        """(some rows, their bytes in the file if these are known), in order."""
        first = 1  # line of the file; later blocks of text do not know it
        blocks = _standard_input(self._wanted.reading) if source == _STANDARD_INPUT else read(source, self._wanted)
        for block in blocks:
            rows = parse(replace(block, first=block.first or first), self._wanted)
            first += rows.lines
            for kind, (count, line) in rows.notes.items():
                note = self.notes.get(kind, Note(kind, 0, f"{source.name}, {source.unit} {line}"))
                self.notes[kind] = replace(note, count=note.count + count)
            yield rows, len(block.data) if isinstance(block.data, bytes) else 0


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
    for data in whole_lines(chunks, _LONGEST, notes):
        yield Block(_STANDARD_INPUT, data, 0, notes=dict(notes))
        notes.clear()
