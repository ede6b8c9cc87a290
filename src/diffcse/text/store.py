"""Distinct sentences on disk: written once, then opened at once by any number of processes.

Sentences are compared by 64-bit hashes. Among 100 million distinct sentences, the chance of one wrong match is 1 in
3,700.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import mmap
import operator
import os
import shutil
import uuid
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt

from diffcse.errors import InputError
from diffcse.files import clear_dead, sync_files, temporary_name
from diffcse.text.digest import Piece
from diffcse.text.lines import Note
from diffcse.text.sources import Source

FORMAT = 5  # part of the cache key: raise it when the rules for text or the files change
WINDOW = 4096  # sentences handled at once

T = TypeVar("T")


@dataclass(frozen=True)
class SourceFile:
    """A file that was read: its name without folders, and its size in bytes on disk (packed, if it is)."""

    name: str
    bytes: int

    @classmethod
    def of(cls, source: Source) -> SourceFile:
        """Name and size of `source`; the name of a hub data set includes its commit."""
        if source.format == "hub":
            commit = str(source.stamp[2])
            is_known = len(commit) == 40 and commit not in source.name
            return cls(f"{source.name} ({commit})" if is_known else source.name, int(source.stamp[1]))
        return cls(source.path.name, int(source.stamp[1]))


@dataclass(frozen=True, eq=False)
class Sentences:
    """Sentences in one piece of memory or in a mapped file, with a newline between two."""

    text: mmap.mmap | bytes
    offsets: npt.NDArray[np.int64]
    """(N + 1,): sentence i is bytes ``offsets[i] : offsets[i + 1] - 1``."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:
        """Sentence `index`; a negative index counts from the end. Raises IndexError outside."""
        i = operator.index(index)
        if not -len(self) <= i < len(self):
            raise IndexError(f"sentence {i} of {len(self)}")
        i %= len(self)
        return self.text[int(self.offsets[i]) : int(self.offsets[i + 1]) - 1].decode()

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), WINDOW):
            end = min(first + WINDOW, len(self))
            yield from self.text[int(self.offsets[first]) : int(self.offsets[end]) - 1].decode().split("\n")

    @classmethod
    def of(cls, file: BinaryIO, offsets: npt.NDArray[np.int64]) -> Sentences:
        """The sentences in `file`: a copy of memory, a map of a file on disk.

        Raises:
            ValueError: `offsets` belong to another file.
        """
        file.flush()
        text = file.getvalue() if isinstance(file, io.BytesIO) else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if offsets.ndim != 1 or int(offsets[-1]) != len(text) + 1:
            raise ValueError("the parts do not belong together")
        return cls(text, offsets)


# Building


class Builder:
    """Writes the sentences of pieces to `file`, and at the end removes the duplicates from it.

    Each sentence is written with the newline *before* it. The first sentence is never a duplicate, so any other can be
    removed and newlines still stand between two sentences only.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.hashes = array("Q")
        self.sizes = array("I")  # bytes written for each sentence
        self.starts = bytearray()  # whether it begins a document; empty if documents are not recorded
        self.files = self.bytes = self.rows = self.empty = self.equal = self.contradictory = 0
        self.notes: dict[str, Note] = {}
        self._is_break = True
        self._document: str | None = None

    def add(self, piece: Piece) -> None:
        """Append a piece; pieces must come in order."""
        self.files += piece.file_ends
        self.rows += piece.rows
        self.empty += piece.empty
        self.equal += piece.equal
        self.contradictory += piece.contradictory
        self.bytes += piece.bytes
        for note in piece.notes:
            before = self.notes.get(note.kind)
            self.notes[note.kind] = replace(before, count=before.count + note.count) if before else note
        if piece.data:
            self.file.write(b"\n" + piece.data if self.hashes else piece.data)
            self.hashes.frombytes(piece.hashes)
            self.sizes.frombytes(piece.sizes)
        self._join_documents(piece)

    def _join_documents(self, piece: Piece) -> None:
        if piece.first_document is not None:
            self._is_break |= not piece.first_document or piece.first_document != self._document
            self._document = piece.last_document
        if piece.starts:
            self.starts += piece.starts
            self.starts[-len(piece.starts)] |= self._is_break
            self._is_break = False
        self._is_break |= piece.break_after
        if piece.file_ends:
            self._is_break, self._document = True, None

    def finish(self, origin: str, least: int = 2) -> Built:
        """Remove the duplicates; `origin` begins the sentence of an error.

        Raises:
            InputError: fewer than `least` distinct sentences.
        """
        hashes = np.frombuffer(self.hashes, np.uint64)
        keep = first_occurrences(hashes)
        sentences = int(np.count_nonzero(keep))
        if sentences < least:
            problem = (
                "only 1 distinct sentence"
                if sentences
                else "only blank lines (without visible characters)"
                if self.rows
                else "no text at all"
            )
            raise InputError(f"{origin} holds {problem}. Training compares sentences: give at least 2 different ones.")
        sizes = np.frombuffer(self.sizes, np.uint32)
        sizes[0] -= 1  # the first has no newline before it
        sha256 = self._remove_duplicates(keep, sizes)
        offsets = np.ones(sentences + 1, np.int64)
        offsets[0] = 0
        offsets[1:] += np.cumsum(sizes[keep], dtype=np.int64)
        return Built(sha256, offsets, hashes, keep)

    def sentences(self, built: Built) -> Sentences:
        """The distinct sentences, after `finish`."""
        return Sentences.of(self.file, built.offsets)

    def _remove_duplicates(self, keep: npt.NDArray[np.bool_], sizes: npt.NDArray[np.uint32]) -> str:
        """Move the sentences to keep to the beginning of the file, cut the rest off, and return the SHA-256."""
        digest = hashlib.sha256()
        source = target = 0
        for first in range(0, len(keep), WINDOW):
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
        return digest.hexdigest()


@dataclass(frozen=True)
class Built:
    """The result of `Builder.finish` for N sentences, duplicates included."""

    sha256: str
    offsets: npt.NDArray[np.int64]
    """See `Sentences.offsets`."""
    hashes: npt.NDArray[np.uint64]
    """(N,)"""
    keep: npt.NDArray[np.bool_]
    """(N,) whether no earlier sentence is equal."""

    def indices(self) -> npt.NDArray[Any]:
        """(N,) int32 (int64 from 2^31 on): the index under which each sentence is kept."""
        small = np.int32 if len(self.keep) < 2**31 else np.int64
        order = np.argsort(self.hashes, kind="stable").astype(small)
        firsts = self.keep[order]  # equal hashes stand together, the earliest first
        kept = np.cumsum(self.keep, dtype=small)[order[firsts]] - 1
        indices = np.empty(len(order), small)
        indices[order] = kept[np.cumsum(firsts, dtype=small) - 1]
        return indices

    def repeated(self, most: int = 20) -> tuple[tuple[int, int], ...]:
        """(index, times) of the most frequent sentences, in descending order."""
        values, again = np.unique(self.hashes[~self.keep], return_counts=True)
        top = np.argsort(-again, kind="stable")[:most]
        firsts = np.flatnonzero(np.isin(self.hashes, values[top]) & self.keep)
        times = dict(zip(values[top].tolist(), (again[top] + 1).tolist(), strict=True))
        kept = np.cumsum(self.keep) - 1
        pairs = [(int(kept[place]), times[int(self.hashes[place])]) for place in firsts]
        return tuple(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))


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
    """The folder that belongs to `key` (JSON values)."""
    cache_dir = default_cache_dir() if cache_dir is None else Path(cache_dir).expanduser().absolute()
    name = hashlib.sha256(json.dumps([FORMAT, *key]).encode()).hexdigest()[:32]
    return cache_dir / name


def build(folder: Path, fill: Callable[[Path], None], open_folder: Callable[[Path], T]) -> T:
    """Let `fill` write a folder, move it to `folder` when it is complete, and open it.

    Raises:
        InputError: the folder cannot be written.
    """
    clear_dead(folder)
    temporary = temporary_name(folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}"))  # threads build too
    try:
        temporary.mkdir(parents=True)
        fill(temporary)
        sync_files(temporary)
        return _move_into_place(temporary, folder, open_folder)
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        written = temporary / "sentences.bin"
        so_far = f" ({written.stat().st_size:,} bytes needed so far)" if is_full and written.exists() else ""
        raise InputError(
            f"{folder.parent}: the corpus cache cannot be written there: {error.strerror or error}{so_far}. "
            f"{'Free some space, or keep' if is_full else 'Keep'} the cache elsewhere: pass cache_dir, or set the "
            "environment variable XDG_CACHE_HOME."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _move_into_place(temporary: Path, folder: Path, open_folder: Callable[[Path], T]) -> T:
    try:
        temporary.rename(folder)
    except OSError:  # another process has built the folder in the meantime, or it is damaged
        try:
            return open_folder(folder)
        except InputError:
            shutil.rmtree(folder)
            temporary.rename(folder)
    return open_folder(folder)


def limit_access(folder: Path, files: Iterable[Path]) -> None:
    """Let nobody read `folder` and the files in it who may not read all of `files`."""
    allowed = 0o777
    for file in files:
        with suppress(OSError):  # a hub data set is not a file
            readable = file.stat().st_mode & 0o444
            allowed &= 0o700 | readable | readable >> 2  # a folder needs the right to enter it
    for part in (*folder.iterdir(), folder):
        part.chmod(part.stat().st_mode & 0o777 & allowed)
