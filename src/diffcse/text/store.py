"""Distinct sentences on disk: how they are written once, and opened at once by any number of processes.

Sentences are compared by 64-bit hashes: among 100 million distinct ones, the chance that any is mistaken for a
duplicate is 1 in 3,700.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import operator
import os
import shutil
import time
import uuid
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt

from diffcse.errors import InputError
from diffcse.text.digest import Piece
from diffcse.text.sources import Source

FORMAT = 2  # part of the cache key: raise it when the normalisation or the files change
WINDOW = 4096  # sentences handled at once when duplicates are cut out and when a corpus is iterated

T = TypeVar("T")


@dataclass(frozen=True)
class SourceFile:
    """A file that was read: its name without folders, and its size in bytes on disk (packed, if it is)."""

    name: str
    bytes: int

    @classmethod
    def of(cls, source: Source) -> SourceFile:
        """Name and size of `source`; a hub data set is named with its commit."""
        if source.format == "hub":
            commit = str(source.stamp[2])
            known = len(commit) == 40 and commit not in source.name
            return cls(source.name + f" ({commit})" * known, int(source.stamp[1]))
        return cls(source.path.name, int(source.stamp[1]))


@dataclass(frozen=True, eq=False)
class Sentences:
    """Sentences in one piece of memory, or of a file: `offsets` (N + 1,) int64, sentence i ends before a newline."""

    text: mmap.mmap | bytes
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:
        """Sentence `index`; negative ones count from the end. IndexError outside."""
        i = operator.index(index)
        if not -len(self) <= i < len(self):
            raise IndexError(f"sentence {i} of a corpus of {len(self)}")
        i %= len(self)
        return self.text[int(self.offsets[i]) : int(self.offsets[i + 1]) - 1].decode()

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), WINDOW):
            end = min(first + WINDOW, len(self))
            yield from self.text[int(self.offsets[first]) : int(self.offsets[end]) - 1].decode().split("\n")

    @classmethod
    def open(cls, folder: Path) -> Sentences:
        """Map what `Builder` wrote to a folder. Raises OSError or ValueError where that is gone or torn."""
        offsets = open_array(folder / "offsets.npy")
        with (folder / "sentences.bin").open("rb") as file:
            text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if offsets.ndim != 1 or int(offsets[-1]) != len(text) + 1:
            raise ValueError("the parts do not belong together")
        return cls(text, offsets)


def open_array(file: Path) -> npt.NDArray[Any]:
    """A memory map of a .npy file."""
    return np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))


# Building


class Builder:
    """Takes pieces, writes their sentences to `file`, and at the end cuts the duplicates out of it again.

    A sentence is written with the newline *before* it: the first sentence of all is never a duplicate, so any of the
    others can be cut out and what stays is still "joined by newlines".
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.hashes = array("Q")
        self.sizes = array("I")  # bytes written for each sentence
        self.starts = bytearray()  # whether a document begins with it; empty if nobody asked
        self.files = self.bytes = self.rows = self.empty = self.crlf = self.cr = 0
        self.equal = self.contradictory = 0
        self._break = True
        self._document: str | None = None

    def add(self, piece: Piece) -> None:
        """Append one piece; they must come in order."""
        self.files += piece.file_ends
        self.rows += piece.rows
        self.empty += piece.empty
        self.equal += piece.equal
        self.contradictory += piece.contradictory
        self.bytes += piece.bytes
        self.crlf += piece.crlf
        self.cr += piece.cr
        if piece.data:
            self.file.write(b"\n" + piece.data if self.hashes else piece.data)
            self.hashes.frombytes(piece.hashes)
            self.sizes.frombytes(piece.sizes)
        self._join_documents(piece)

    def _join_documents(self, piece: Piece) -> None:
        if piece.first_document is not None:
            self._break |= not piece.first_document or piece.first_document != self._document
            self._document = piece.last_document
        if piece.starts:
            self.starts += piece.starts
            self.starts[-len(piece.starts)] |= self._break
            self._break = False
        self._break |= piece.break_after
        if piece.file_ends:
            self._break, self._document = True, None

    def finish(self, origin: str, least: int = 2) -> Built:
        """Cut out the duplicates; `origin` begins the sentence of an error.

        Raises:
            InputError: fewer than `least` distinct sentences.
        """
        read = len(self.hashes)
        hashes = np.frombuffer(self.hashes, np.uint64)
        keep = first_occurrences(hashes)
        sentences = int(np.count_nonzero(keep))
        if sentences < least:
            what = "only 1 distinct sentence" if read else "only blank lines" if self.rows else "no text at all"
            raise InputError(f"{origin} holds {what}. Training compares sentences: give at least 2 different ones.")
        sizes = np.frombuffer(self.sizes, np.uint32)
        sizes[0] -= 1  # no newline before the first
        digest = hashlib.sha256()
        source = target = 0
        for first in range(0, read, WINDOW):
            window = slice(first, first + WINDOW)
            self.file.seek(source)
            data = self.file.read(int(sizes[window].sum()))
            source += len(data)
            if not keep[window].all():
                data = np.frombuffer(data, np.uint8)[np.repeat(keep[window], sizes[window])].tobytes()
            digest.update(data)
            if target + len(data) < source:
                self.file.seek(target)
                self.file.write(data)
            target += len(data)
        self.file.truncate(target)
        offsets = np.ones(sentences + 1, np.int64)
        offsets[0] = 0
        offsets[1:] += np.cumsum(sizes[keep], dtype=np.int64)
        return Built(digest.hexdigest(), offsets, hashes, keep)


@dataclass(frozen=True)
class Built:
    """What `Builder.finish` found. N sentences were read, some of them more than once."""

    sha256: str
    offsets: npt.NDArray[np.int64]
    hashes: npt.NDArray[np.uint64]
    """(N,)"""
    keep: npt.NDArray[np.bool_]
    """(N,) whether no earlier one is equal."""

    def indices(self) -> npt.NDArray[Any]:
        """(N,) int32 (int64 from 2^31 on): for each sentence read, the index it is kept under."""
        small = np.int32 if len(self.keep) < 2**31 else np.int64
        order = np.argsort(self.hashes, kind="stable").astype(small)
        firsts = self.keep[order]  # equal hashes stand together, the earliest first
        kept = np.cumsum(self.keep, dtype=small)[order[firsts]] - 1
        found = np.empty(len(order), small)
        found[order] = kept[np.cumsum(firsts, dtype=small) - 1]
        return found

    def repeated(self, most: int = 20) -> list[tuple[int, int]]:
        """The sentences read most often: the index each is kept under, and how often it came, most often first."""
        values, again = np.unique(self.hashes[~self.keep], return_counts=True)
        top = np.argsort(-again, kind="stable")[:most]
        firsts = np.flatnonzero(np.isin(self.hashes, values[top]) & self.keep)
        times = dict(zip(values[top].tolist(), (again[top] + 1).tolist(), strict=True))
        kept = np.cumsum(self.keep) - 1
        found = [(int(kept[place]), times[int(self.hashes[place])]) for place in firsts]
        return sorted(found, key=lambda one: (-one[1], one[0]))


def first_occurrences(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """(N,) whether no earlier element is equal."""
    order = np.argsort(hashes, kind="stable")  # stable: the earliest of equal hashes comes first
    ordered = hashes[order]
    is_first = np.ones(len(hashes), np.bool_)
    is_first[order[1:]] = ordered[1:] != ordered[:-1]
    return is_first


# The cache


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/diffcse/corpora``, or ``~/.cache/diffcse/corpora`` where that is not an absolute path."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "diffcse" / "corpora"


def cache_folder(cache_dir: Path | None, *key: Any) -> Path:
    """The folder for what `key` (of JSON values) determines."""
    cache_dir = default_cache_dir() if cache_dir is None else Path(cache_dir).expanduser().absolute()
    name = hashlib.sha256(json.dumps([FORMAT, *key]).encode()).hexdigest()[:32]
    return cache_dir / name


def build(folder: Path, fill: Callable[[Path], None], open_folder: Callable[[Path], T]) -> T:
    """Let `fill` write a folder that then appears at `folder`, complete or not at all, and open it.

    Raises:
        InputError: the folder cannot be written.
    """
    for leftover in folder.parent.glob("*.partial"):
        # A build that was killed; one that is a day old is not running any more.
        with suppress(FileNotFoundError):  # it has just become whole
            if time.time() - leftover.stat().st_mtime > 86_400:
                shutil.rmtree(leftover, ignore_errors=True)
    temporary = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        temporary.mkdir(parents=True)
        fill(temporary)
        return _move_into_place(temporary, folder, open_folder)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        written = temporary / "sentences.bin"
        so_far = f" ({written.stat().st_size:,} bytes needed so far)" if full and written.exists() else ""
        raise InputError(
            f"{folder.parent}: the corpus cache cannot be written there: {error.strerror or error}{so_far}. "
            f"{'Free some space, or keep' if full else 'Keep'} the cache elsewhere: pass cache_dir, or set the "
            "environment variable XDG_CACHE_HOME."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move_into_place(temporary: Path, folder: Path, open_folder: Callable[[Path], T]) -> T:
    try:
        temporary.rename(folder)
    except OSError:  # something is there: what another process has just finished, or a torn folder
        try:
            return open_folder(folder)
        except InputError:
            shutil.rmtree(folder)
            temporary.rename(folder)
    return open_folder(folder)


def fill_sentences(folder: Path, pieces: Iterator[Piece], origin: str) -> tuple[Builder, Built]:
    """Write the sentences of `pieces` and their offsets to a new folder."""
    with (folder / "sentences.bin").open("w+b") as file:
        builder = Builder(file)
        for piece in pieces:
            builder.add(piece)
        built = builder.finish(origin)
    np.save(folder / "offsets.npy", built.offsets)
    return builder, built


def origin_of(sources: Sequence[Source]) -> str:
    """The sources, as the beginning of a sentence."""
    return sources[0].name if len(sources) == 1 else f"The text in {sources[0].name} and {len(sources) - 1} more"


def write_record(folder: Path, name: str, record: dict[str, Any]) -> None:
    """Write what belongs to the folder beside the sentences; the last thing to be written."""
    (folder / name).write_text(json.dumps({"format": FORMAT, **record}, indent=1) + "\n", encoding="utf-8")


def damaged(folder: Path, error: Exception) -> InputError:
    """The error for a folder that cannot be opened."""
    return InputError(f"{folder}: the cached corpus is gone or damaged ({error}). Read its files again.")


OPENING_ERRORS = (OSError, EOFError, ValueError, KeyError, TypeError, IndexError)
"""What opening a folder that is gone or damaged may raise."""
