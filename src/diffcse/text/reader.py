"""The one cached reader: files -> sentences with their record, in a cache folder or in memory.

A list of strings would need several times the memory of the text, in each worker of a data loader. So the text is read
once, in blocks, and written to a cache folder. All processes then share memory maps of it. Building needs about 40
bytes of memory a line, however long the lines are (55 with documents).

`Corpus` and `Examples` say what is kept. A cache folder belongs to its files (path, size and modification time of each)
and to the `Plan`. It holds

- ``sentences.bin``   the distinct sentences, UTF-8, joined by ``\\n``
- ``offsets.npy``     (N + 1,) int64: sentence i is bytes ``offsets[i] : offsets[i + 1] - 1``
- ``NAME.npy``        each array in `Stored.ARRAYS`
- ``record.json``     format, hash, counts, sources, and the other fields
- ``manifest.json``   size and SHA-256 of each of these files, checked when a run begins
"""

from __future__ import annotations

import io
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Self

import numpy as np

from diffcse.config import Text
from diffcse.errors import InputError
from diffcse.files import is_whole, write_manifest
from diffcse.text import store
from diffcse.text.digest import Piece, Plan, digest, digest_sources, processes_for
from diffcse.text.formats import Rows
from diffcse.text.lines import Note, Reading, remove_invisible
from diffcse.text.sources import Source
from diffcse.text.store import Builder, Sentences, SourceFile

_RECORD = "record.json"


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What was read, whatever the rows are."""

    files: int
    bytes: int
    """Bytes of text: whole lines of plain text after unpacking, or the cells."""
    empty: int
    """Blank lines, cells without text, or rows with such a cell."""
    duplicates: int
    """Sentences or examples that equal an earlier one after normalisation."""
    sentences: int
    """Distinct sentences."""
    notes: tuple[Note, ...] = ()
    """What was replaced, removed, merged or guessed."""

    @property
    def origin(self) -> str:
        """The number of files, in words."""
        return f"{self.files:,} file{'s' * (self.files != 1)}" if self.files else "memory"

    @property
    def remarks(self) -> str:
        """The notes as the end of a sentence; empty without notes."""
        return "".join(f"; {note}" for note in self.notes)


@dataclass(frozen=True, eq=False)
class Stored(ABC):
    """Distinct sentences and what belongs to them.

    Pickling an object with a folder passes the folder's name; the other side opens the memory maps again.
    """

    COUNTS: ClassVar[type[Counts]]
    ARRAYS: ClassVar[tuple[str, ...]]

    counts: Any
    sha256: str
    sources: tuple[SourceFile, ...]
    folder: Path | None
    """The cache folder; None in memory."""
    sentences: Sentences = field(repr=False)

    @classmethod
    @abstractmethod
    def finish(cls, builder: Builder, plan: Plan, origin: str) -> dict[str, Any]:
        """All fields but `sources` and `folder`, from a full `builder`; `origin` begins the sentence of an error."""

    @abstractmethod
    def check(self) -> None:
        """Raise ValueError if the parts do not belong together."""

    @classmethod
    def of_rows(cls, rows: Rows, plan: Plan) -> Self:
        """The same in memory, from rows that are numbered from 0."""
        for cells in rows.cells:
            remove_invisible(cells, range(len(cells)), rows.notes)
            rows.bytes += sum(len(cell.encode()) for cell in cells)
        piece = digest(rows, plan)
        piece.notes = [Note(kind, count, f"item {index}") for kind, (count, index) in rows.notes.items()]
        return cls(sources=(), folder=None, **cls._gather(io.BytesIO(), [piece], plan, "The list"))

    @classmethod
    def read(cls, sources: Sequence[Source], plan: Plan, *, cache_dir: Path | None, processes: int | None) -> Self:
        """Open the cache folder of `sources`, or read them and build it. A folder that was changed is built again.

        Raises:
            InputError: a source cannot be read or is malformed, too little text, or the cache cannot be written.
        """
        number = processes_for(sources, processes)
        key = [cls.__name__, asdict(plan), [source.stamp for source in sources]]
        folder = store.cache_folder(cache_dir, *key)
        is_damaged = folder.exists() and not is_whole(folder)
        if is_damaged:
            shutil.rmtree(folder, ignore_errors=True)
        try:
            return cls.open(folder)
        except InputError:  # missing, or of another version
            stored = store.build(folder, lambda temporary: cls._write(temporary, sources, plan, number), cls.open)
        if not is_damaged:
            return stored
        note = Note("rebuilt", 1, str(folder))
        return replace(stored, counts=replace(stored.counts, notes=(*stored.counts.notes, note)))

    @classmethod
    def _write(cls, folder: Path, sources: Sequence[Source], plan: Plan, processes: int) -> None:
        more = f" and {len(sources) - 1} more"
        origin = sources[0].name if len(sources) == 1 else f"The text in {sources[0].name}{more}"
        with (folder / "sentences.bin").open("w+b") as file:
            parts = cls._gather(file, digest_sources(sources, plan, processes), plan, origin)
        np.save(folder / "offsets.npy", parts["sentences"].offsets)
        arrays = {name: parts.pop(name) for name in cls.ARRAYS}
        for name, array in arrays.items():
            if array is not None:
                np.save(folder / f"{name}.npy", array)
        record = {
            **{name: part for name, part in parts.items() if name != "sentences"},
            "format": store.FORMAT,
            "counts": asdict(parts["counts"]),
            "sources": [asdict(SourceFile.of(source)) for source in sources],
            "arrays": [name for name, array in arrays.items() if array is not None],
        }
        (folder / _RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        write_manifest(folder)
        store.limit_access(folder, [source.path for source in sources])

    @classmethod
    def _gather(cls, file: BinaryIO, pieces: Iterable[Piece], plan: Plan, origin: str) -> dict[str, Any]:
        builder = Builder(file)
        for piece in pieces:
            builder.add(piece)
        return cls.finish(builder, plan, origin)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open a cache folder.

        Raises:
            InputError: it is missing or damaged.
        """
        try:
            record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
            if record.pop("format") != store.FORMAT:
                raise ValueError("another format")
            notes = tuple(Note(**note) for note in record["counts"].pop("notes"))
            record["counts"] = cls.COUNTS(**record["counts"], notes=notes)
            record["sources"] = tuple(SourceFile(**source) for source in record["sources"])
            names = record.pop("arrays")
            arrays: dict[str, Any] = {
                name: _open_array(folder / f"{name}.npy") if name in names else None for name in cls.ARRAYS
            }
            with (folder / "sentences.bin").open("rb") as file:
                sentences = Sentences.of(file, _open_array(folder / "offsets.npy"))
            others = {name: _as_tuples(value) for name, value in record.items()}
            stored = cls(folder=folder, sentences=sentences, **arrays, **others)
            stored.check()
            return stored
        except Exception as error:  # a damaged .npy header raises errors of many kinds
            raise InputError(
                f"{folder}: the cached corpus is missing or damaged ({error}). Read its files again."
            ) from error

    def __reduce__(self) -> tuple[Callable[..., Self], tuple[Any, ...]]:
        if self.folder is not None:
            return type(self).open, (self.folder,)
        return type(self), tuple(getattr(self, part.name) for part in fields(self))


def _as_tuples(value: Any) -> Any:
    """JSON lists as the tuples that they were."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _open_array(file: Path) -> np.ndarray:
    return np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))


def reading_of(text: Text) -> Reading:
    """How files are read, from the options of a run.

    Raises:
        InputError: an unknown encoding.
    """
    reading = Reading.of(text.encoding, text.quoting, text.columns)
    return replace(reading, max_blank_lines=text.max_blank_lines, max_expansion=text.max_expansion)


def longest_line(text: Text, max_line_bytes: int | None) -> int:
    """Bytes of the longest line or cell: as asked in the call, else as in `text`.

    Raises:
        InputError: less than 1.
    """
    longest = text.max_line_bytes if max_line_bytes is None else max_line_bytes
    if longest < 1:
        raise InputError(f"max_line_bytes = {longest}: must be at least 1.")
    return longest
