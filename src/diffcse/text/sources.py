"""Which files are read, what their names say about them, and how they are opened.

A name's ending tells the format (`.csv`, `.parquet`, ...; anything unknown is plain text) and the packing (`.gz`,
`.xz`, `.zst`). A format that is not read is refused here, with the command that converts it.
"""

from __future__ import annotations

import difflib
import glob
import gzip
import lzma
import os
import shlex
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

PACKED = ((b"\x1f\x8b", ".gz"), (b"\xfd7zX", ".xz"), (b"\x28\xb5\x2f\xfd", ".zst"))  # how packed files begin

_UNPACK = {".gz": "gzip -dc", ".xz": "xz -dc", ".zst": "zstd -dc"}
_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open, ".zst": zstd.open}
_TABLES = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_ROWS_OF_JSON = "import json, sys; [print(json.dumps(row)) for row in json.load(sys.stdin)]"
_CONVERTERS = {  # what is not read, each with a command that makes something of it that is, and its ending
    ".json": (f'python -c "{_ROWS_OF_JSON}"', ".jsonl"),
    ".bz2": ("bzip2 -dc", ""),
    ".zip": ("funzip", ".txt"),
    ".arrow": None,
    ".tar": None,
    ".tgz": None,
    ".7z": None,
    ".html": None,
    ".xml": None,
    ".pdf": None,
    ".docx": None,
    ".xlsx": None,
    ".doc": None,
    ".xls": None,
    ".odt": None,
    ".epub": None,
}
READ = ".txt, .csv, .tsv, .jsonl, .ndjson and .parquet, each also with .gz, .xz or .zst, and hub:OWNER/NAME"


@dataclass(frozen=True)
class Source:
    """A file, or a data set of the hub, as it was named."""

    name: str
    """As messages show it."""
    format: str
    """"text", "csv", "tsv", "jsonl", "parquet" or "hub"."""
    path: Path
    """The file. For the hub: its spelling, which is no file."""
    stamp: tuple[str, int, int | str]
    """What tells one state of it from another: absolute path, bytes, modification time in ns (hub: revision)."""


def find_sources(patterns: Sequence[str | Path]) -> list[Source]:
    """The files that `patterns` name, in order, each once; the files of a glob are sorted.

    Raises:
        InputError: no such file, a folder, or a format that is not read.
    """
    try:
        found: dict[Path, Source] = {}  # where it really is -> as it was named
        for pattern in [patterns] if isinstance(patterns, (str, Path)) else patterns:
            if str(pattern).startswith(hub.PREFIX):
                spelling = hub.parse(str(pattern))
                found.setdefault(
                    Path(spelling.name), Source(spelling.name, "hub", Path(spelling.name), spelling.stamp())
                )
                continue
            for path in _expand(pattern):
                check_file(path)
                real = path.resolve()
                if real not in found:
                    found[real] = Source(str(path), _TABLES.get(_inner_suffix(path), "text"), path, stamp(path))
    except OSError as error:  # such as a folder that may not be entered
        raise InputError(f"{error.filename} cannot be read: {error.strerror}. Check its permissions.") from error
    if not found:
        raise InputError("No text file was given. Name one or more files or globs, such as 'text/*.txt'.")
    return list(found.values())


def _expand(pattern: str | Path) -> list[Path]:
    path = Path(os.path.expanduser(pattern))  # noqa: PTH111 - Path's own knows no name of no user
    if path.exists() or not any(c in "*?[" for c in str(pattern)):
        return [path]
    names = glob.glob(str(path), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    found = [Path(name) for name in sorted(names) if not Path(name).is_dir()]
    if not found:
        raise InputError(f"{pattern}: no file matches. Check the spelling; relative paths start at {Path.cwd()}.")
    return found


def check_file(path: Path) -> None:
    """Refuse what is no file, or holds a format that is not read."""
    if path.is_dir():
        raise InputError(f"{path} is a folder. Name the files in it: '{path / '*.txt'}'.")
    if not path.exists():
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, names, n=1)
        advice = f"Did you mean {path.parent / near[0]}?" if near else f"Relative paths start at {Path.cwd()}."
        raise InputError(f"{path} does not exist. {advice}")
    if not path.is_file():
        raise InputError(f"{path} is not a regular file. Write its text to a file first: cat {path} > text.txt")
    suffix = _inner_suffix(path)
    if suffix in _CONVERTERS:
        converter = _CONVERTERS[suffix]
        advice = f"Convert it: {shell(path, *converter)}" if converter else "Convert it to one of these."
        raise InputError(f"{path}: {suffix} is not read; {READ} are. {advice}")


def _inner_suffix(path: Path) -> str:
    """The suffix that tells what is in the file, any packing aside."""
    inner = path.with_suffix("") if path.suffix.lower() in _UNPACK else path
    return inner.suffix.lower()


def shell(path: Path, command: str, ending: str | None = None) -> str:
    """A shell line that sends the file, unpacked, through `command` into a new file beside it.

    That one is named with `ending` in place of the format's; without one it keeps its format as `.utf8.` of it.
    """
    unpack = _UNPACK.get(path.suffix.lower())
    inner = path.with_suffix("") if unpack else path
    kept = inner.suffix if inner.suffix.lower() in _TABLES else ".txt"
    stem = (
        inner.name[: len(inner.name) - len(inner.suffix)] if ending is not None or inner.suffix == kept else inner.name
    )
    target = path.with_name(f"{stem}{f'.utf8{kept}' if ending is None else ending}")
    name = shlex.quote(str(path))
    start = f"{unpack} {name} | {command}" if unpack else f"{command} < {name}"
    return f"{start} > {shlex.quote(str(target))}"


def stamp(path: Path) -> tuple[str, int, int]:
    """What tells one state of a file from another: absolute path, bytes, modification time in ns."""
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    return str(path.absolute()), status.st_size, status.st_mtime_ns


def unpacked_bytes(source: Source) -> int:
    """About how many bytes the file unpacks to, for deciding how to read it."""
    return int(source.stamp[1]) * (4 if source.path.suffix.lower() in _UNPACK or source.format == "parquet" else 1)


@contextmanager
def open_unpacked(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading its bytes, unpacked if its name says that it is packed.

    Raises:
        InputError: what goes wrong while it is opened or read: no permission, an archive cut off or damaged.
    """
    opener = _OPENERS.get(path.suffix.lower(), open)
    try:
        with opener(path, "rb") as file:
            yield file
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, zstd.ZstdError) as error:
        tool = _UNPACK[path.suffix.lower()].split()[0]
        raise InputError(
            f"{path}: the {tool} data is cut off or damaged ({error}). Copy or download the file again; "
            f"'{tool} -t {path}' checks it. If it is not packed at all, take {path.suffix} off its name."
        ) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}. Check its permissions.") from error
