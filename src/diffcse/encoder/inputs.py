"""Files -> sentences to embed, one for each line or row, in order.

Training leaves out blank and repeated lines; here nothing is left out, because row i of the output must be line i of
the input.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffcse.errors import InputError
from diffcse.text.formats import Block, Rows, Wanted, has_columns, parse, read
from diffcse.text.lines import BLOCK_BYTES
from diffcse.text.sources import Source, find_sources, unpacked_bytes

STDIN = "-"
_STANDARD_INPUT = Source("standard input", "text", Path("standard input"), ("", 0, 0))
_LONGEST = 1 << 20
_PACKED = (".gz", ".xz", ".zst", ".bz2")


class Sentences:
    """The lines (or a column's cells) of some files, read as they are asked for; `share` says how much was given.

    Every format that training reads, and "-" for plain text on standard input. A line ends at ``\\n``, ``\\r\\n`` or a
    lone ``\\r``; empty and repeated lines are sentences like any other, and so are empty cells. Only blank lines of a
    .jsonl, .csv or .tsv file, which are no rows, are passed over.

    Args:
        files: files, globs and hub data sets.
        column: where the sentences are, in files that have columns; "text" if not given.
        lines: take whole lines as they are, of files with columns too.

    Raises:
        InputError: no such file or column, or (while reading) what is no text; names file and line.
    """

    def __init__(self, files: Sequence[str | Path], column: str | None = None, *, lines: bool = False) -> None:
        if not files:
            raise InputError("no file: name one or more text files, one sentence a line, or - for standard input")
        if [str(file) for file in files].count(STDIN) > 1:
            raise InputError("-: standard input can be read only once")
        self.sources: list[Source] = []
        for file in files:
            found = [_STANDARD_INPUT] if str(file) == STDIN else find_sources([file])
            self.sources += [replace(source, format="text") if lines else source for source in found]
        if column is not None and not any(map(has_columns, self.sources)):
            raise InputError(f"--column {column}: {self.sources[0].name} is plain text, which has no columns")
        self._wanted = Wanted((column or "text",), None, _LONGEST)
        known = all(
            source.format in ("text", "jsonl") and source.path.suffix not in _PACKED and source != _STANDARD_INPUT
            for source in self.sources
        )
        self._bytes = sum(map(unpacked_bytes, self.sources)) if known else None
        self._given, self._sentences = 0.0, 0

    @property
    def share(self) -> float | None:
        """Share of the files' bytes that was given, 0 to 1; None where sizes do not tell (packed, tables, -)."""
        return None if self._bytes is None else min(1.0, self._given / max(1, self._bytes))

    def share_of(self, done: int) -> float | None:
        """The same of the first `done` sentences, for whoever takes more than he has finished."""
        return None if self.share is None else self.share * done / max(1, self._sentences)

    def __iter__(self) -> Iterator[str]:
        for source in self.sources:
            for rows, size in self._rows(source):
                for sentence in rows.cells[0]:
                    self._given += size / len(rows)
                    self._sentences += 1
                    yield sentence

    def _rows(self, source: Source) -> Iterator[tuple[Rows, int]]:
        """(some rows, their bytes in the file as far as these are known), in order."""
        first = 1  # line of the file: blocks of text after the first do not know it
        for block in _standard_input() if source == _STANDARD_INPUT else read(source, self._wanted):
            rows = parse(replace(block, first=block.first or first), self._wanted)
            first += rows.lines
            yield rows, len(block.data) if isinstance(block.data, bytes) else 0


def _standard_input() -> Iterator[Block]:
    """Whole lines as they come: on a pipe nobody waits for a block to be full."""
    stdin: Any = sys.stdin.buffer
    carry, first = b"", True
    while data := stdin.read1(BLOCK_BYTES):
        data = carry + (data.removeprefix(b"\xef\xbb\xbf") if first else data)
        first = False
        end = max(data.rfind(b"\n"), data.rfind(b"\r", 0, -1)) + 1  # a last \r may be half of a \r\n
        if end == 0 and len(data) > _LONGEST:
            end = len(data)
        if end:
            yield Block(_STANDARD_INPUT, data[:end], 0)
        carry = data[end:]
    if carry:
        yield Block(_STANDARD_INPUT, carry, 0)
