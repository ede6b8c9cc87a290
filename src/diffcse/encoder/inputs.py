"""Files -> sentences to embed, one for each line, in order.

Training leaves out blank and repeated lines; here nothing is left out, because row i of the output must be line i of
the input.
"""

from __future__ import annotations

import gzip
import lzma
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

from diffcse.errors import InputError

STDIN = "-"
_OPENERS: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open}
_COLUMNS = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".arrow")
_BLOCK = 1 << 18
_LONGEST = 1 << 20
_MARKS = (
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
    (b"\x1f\x8b", "packed by gzip"),
    (b"\xfd7zX", "packed by xz"),
)


class Sentences:
    """The lines of some files, read as they are asked for; `share` says how much of the files has been given.

    Plain UTF-8 text, also packed as .gz or .xz, or "-" for what comes on standard input. A line ends at ``\\n``,
    ``\\r\\n`` or a lone ``\\r``; empty and repeated lines are sentences like any other.

    Args:
        column: where the sentences are, in files that have columns.
        lines: take whole lines as they are, of files with columns too.

    Raises:
        InputError: no such file, a format that is not read, or (while reading) no UTF-8 text; names file and line.
    """

    def __init__(self, files: Sequence[str | Path], column: str | None = None, *, lines: bool = False) -> None:
        self.files = [STDIN if str(file) == STDIN else Path(file) for file in files]
        if not self.files:
            raise InputError("no file: name one or more text files, one sentence a line, or - for standard input")
        if self.files.count(STDIN) > 1:
            raise InputError("-: standard input can be read only once")
        for file in self.files:
            _check(file, column, lines)
        self._sizes = [0 if isinstance(file, str) else file.stat().st_size for file in self.files]
        self._read = 0

    @property
    def share(self) -> float | None:
        """Share of the files' bytes whose lines were given, 0 to 1; None where standard input is among them."""
        return None if STDIN in self.files else min(1.0, self._read / max(1, sum(self._sizes)))

    def __iter__(self) -> Iterator[str]:
        # The one place where a file becomes sentences: formats with columns belong here.
        before = 0
        for file, size in zip(self.files, self._sizes, strict=True):
            block_begins = 0
            for lines, block_ends in _read_text(file):
                for done, line in enumerate(lines, 1):
                    self._read = before + block_begins + (block_ends - block_begins) * done // len(lines)
                    yield line
                block_begins = block_ends
            before += size


def _check(file: str | Path, column: str | None, lines: bool) -> None:
    if isinstance(file, Path):
        if file.is_dir():
            raise InputError(f"{file}: is a folder: name the files in it")
        if not file.exists():
            raise InputError(f"{file}: there is no such file")
        inner = file.with_suffix("") if file.suffix.lower() in _OPENERS else file
        if inner.suffix.lower() in _COLUMNS and not lines:
            raise InputError(
                f"{file}: only plain text, one sentence a line, is read so far (.txt, .txt.gz, .txt.xz), not "
                f"{inner.suffix}: write its column of sentences to a text file first"
            )
    if column is not None:
        raise InputError(f"--column {column}: {file} is plain text, which has no columns: leave --column out")


def _read_text(file: str | Path) -> Iterator[tuple[list[str], int]]:
    """(some lines, bytes of the file read so far), about a block of text at a time."""
    name = "standard input" if isinstance(file, str) else str(file)
    done, carry, first = 0, b"", True
    try:
        with nullcontext(sys.stdin.buffer) if isinstance(file, str) else file.open("rb") as raw:
            opener = _OPENERS.get(Path(file).suffix.lower())
            with opener(raw) if opener else nullcontext(raw) as text:
                while data := _next(text):
                    if first:
                        _refuse_foreign(name, data)
                        data, first = data.removeprefix(b"\xef\xbb\xbf"), False
                    data = carry + data
                    end = max(data.rfind(b"\n"), data.rfind(b"\r", 0, -1)) + 1  # a last \r may be half of a \r\n
                    block, carry = data[:end], data[end:]
                    if len(carry) > _LONGEST:
                        number = done + len(block.splitlines()) + 1
                        raise InputError(
                            f"{name}, line {number}: longer than {_LONGEST:,} bytes: put one sentence on a line"
                        )
                    lines = _decode(name, block, done)
                    done += len(lines)
                    yield lines, 0 if isinstance(file, str) else raw.tell()
                if carry:
                    yield _decode(name, carry, done), 0 if isinstance(file, str) else raw.tell()
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise InputError(f"{name}: the packed data is cut off or damaged ({error}): copy the file again") from error
    except OSError as error:
        raise InputError(f"{name}: cannot be read: {error.strerror or error}") from error


def _next(text: BinaryIO) -> bytes:
    """What is there of the next block: on a pipe not the whole of it, so that nobody waits."""
    return text.read1(_BLOCK) if hasattr(text, "read1") else text.read(_BLOCK)


def _refuse_foreign(name: str, data: bytes) -> None:
    for mark, what in _MARKS:
        if data.startswith(mark):
            raise InputError(f"{name}: is {what}, not plain UTF-8 text: convert it first, or give it the right suffix")


def _decode(name: str, block: bytes, done: int) -> list[str]:
    lines = block.splitlines()  # of bytes: at \n, \r\n and \r only
    if (at := block.find(b"\0")) >= 0:
        number = done + len((block[:at] + b".").splitlines())
        raise InputError(f"{name}, line {number}: a zero byte, so this is no plain UTF-8 text: convert it first")
    joined = b"\n".join(lines)
    try:
        text = joined.decode()
    except UnicodeDecodeError as error:
        number = done + joined.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{name}, line {number}: 0x{joined[error.start]:02X} is not UTF-8 here: convert the file first, for "
            "Western European text: iconv -f WINDOWS-1252 -t UTF-8"
        ) from error
    return text.split("\n") if lines else []
