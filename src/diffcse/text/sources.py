"""Which files are read, what kind each is, and how its bytes are opened.

The name's ending gives the format (`.csv`, `.parquet`; an unknown ending is plain text) and the packing (`.gz`, `.xz`,
`.zst`). The content of a `.json` file decides whether it holds a list or JSON Lines.
"""

from __future__ import annotations

import codecs
import difflib
import glob
import gzip
import lzma
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from diffcse.errors import InputError
from diffcse.text import hub

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

PACKED_STARTS = ((b"\x1f\x8b", ".gz"), (b"\xfd7zX", ".xz"), (b"\x28\xb5\x2f\xfd", ".zst"))
"""First bytes of packed files."""
_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open, ".zst": zstd.open}
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, zstd.ZstdError)
_FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet"}
_NOT_READ = frozenset(
    ".arrow .bz2 .zip .tar .tgz .7z .html .xml .pdf .docx .xlsx .doc .xls .odt .epub".split()  # noqa: SIM905
)
READ = ".txt, .csv, .tsv, .jsonl, .ndjson, .json and .parquet, each also with .gz, .xz or .zst, and hub:OWNER/NAME"


@dataclass(frozen=True)
class Source:
    """A file, or a data set of the hub."""

    name: str
    """The name in messages."""
    format: str
    """"text", "csv", "tsv", "jsonl", "json" (one list), "parquet" or "hub"."""
    path: Path
    """The file. For the hub: the name as a path that does not exist."""
    stamp: tuple[str, int, int | str]
    """The state of the file: absolute path, bytes, modification time in ns (hub: revision)."""

    @property
    def short_name(self) -> str:
        """The name without folders, for records that others may read."""
        return self.name if self.format == "hub" else self.path.name

    @property
    def has_columns(self) -> bool:
        """Whether its rows have named columns."""
        return self.format != "text"

    @property
    def unit(self) -> str:
        """The unit of its row numbers."""
        return "row" if self.format in ("json", "parquet", "hub") else "line"

    @property
    def unpacked_bytes(self) -> int:
        """A rough size of its text."""
        is_packed = self.path.suffix.lower() in _OPENERS or self.format == "parquet"
        return int(self.stamp[1]) * (4 if is_packed else 1)


def find_sources(patterns: Sequence[str | Path]) -> list[Source]:
    """The files that `patterns` name, in order, each once; the files of a glob are sorted.

    Raises:
        InputError: a file is missing, is a folder, or has a format that is not read.
    """
    sources: dict[Path, Source] = {}  # by real path
    try:
        for pattern in [patterns] if isinstance(patterns, (str, Path)) else patterns:
            if str(pattern).startswith(hub.PREFIX):
                dataset = hub.parse(str(pattern))
                name = Path(dataset.name)
                sources.setdefault(name, Source(dataset.name, "hub", name, dataset.stamp()))
                continue
            for path in _expand(pattern):
                check_file(path)
                if (real := path.resolve()) not in sources:
                    sources[real] = Source(str(path), _format(path), path, stamp(path))
    except OSError as error:  # for example a folder without permission
        raise InputError(f"{error.filename} cannot be read: {error.strerror}. Check its permissions.") from error
    if not sources:
        raise InputError("No text file was given. Name one or more files or globs, such as 'text/*.txt'.")
    return list(sources.values())


def _expand(pattern: str | Path) -> list[Path]:
    path = Path(os.path.expanduser(pattern))  # noqa: PTH111 - Path.expanduser raises for an unknown user
    if path.exists() or not any(c in "*?[" for c in str(pattern)):
        return [path]
    names = glob.glob(str(path), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    paths = [Path(name) for name in sorted(names) if not Path(name).is_dir()]
    if not paths:
        raise InputError(f"{pattern}: no file matches. Check the spelling; relative paths start at {Path.cwd()}.")
    return paths


def check_file(path: Path) -> None:
    """Check that `path` is a file of a format that is read.

    Raises:
        InputError: it is not.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder. Name the files in it: '{path / '*.txt'}'.")
    if not path.exists():
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, names, n=1)
        advice = f"Did you mean {path.parent / near[0]}?" if near else f"Relative paths start at {Path.cwd()}."
        raise InputError(f"{path} does not exist. {advice}")
    if not path.is_file():
        raise InputError(f"{path} is not a regular file. Write its text to a file first.")
    if (suffix := _inner_suffix(path)) in _NOT_READ:
        raise InputError(f"{path}: {suffix} is not read; {READ} are. Convert the file to one of these.")


def _inner_suffix(path: Path) -> str:
    """The suffix without that of the packing."""
    return (path.with_suffix("") if path.suffix.lower() in _OPENERS else path).suffix.lower()


def _format(path: Path) -> str:
    name = _FORMATS.get(_inner_suffix(path), "text")
    if name == "json":
        with open_unpacked(path) as file:
            return "json" if file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[") else "jsonl"
    return name


def stamp(path: Path) -> tuple[str, int, int]:
    """The state of a file: absolute path, bytes, modification time in ns."""
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    return str(path.absolute()), status.st_size, status.st_mtime_ns


@contextmanager
def open_unpacked(path: Path) -> Iterator[BinaryIO]:
    """Open a file to read its bytes, unpacked if its name ends like a packed file's.

    Raises:
        InputError: the file cannot be opened or read, or its archive is cut off or damaged.
    """
    try:
        with _OPENERS.get(path.suffix.lower(), open)(path, "rb") as file:
            yield file
    except _DAMAGED as error:
        raise InputError(
            f"{path}: the {path.suffix[1:]} data is cut off or damaged ({error}). Copy or download the file again. "
            f"If it is not packed, remove {path.suffix} from its name."
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}. Check its permissions.") from error


def check_encoding(name: str) -> None:
    """Check that Python knows the encoding.

    Raises:
        InputError: it does not.
    """
    try:
        "".encode(name)
    except LookupError as error:
        raise InputError(f"text.encoding = {name!r}: {error}. Use a name such as windows-1252 or gb18030.") from error


class Transcoder:
    """A file in another encoding, read as UTF-8; bytes that are not in that encoding become U+FFFD."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder(encoding)("replace")

    def read(self, size: int) -> bytes:
        """About `size` bytes; empty at the end of the file."""
        while data := self._file.read(size):
            if text := self._decoder.decode(data):
                return text.encode(errors="replace")
        return self._decoder.decode(b"", final=True).encode(errors="replace")
