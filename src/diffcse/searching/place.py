"""Where an index is, and the record beside its rows: which encoder made them, and which version of them answers.

    DIR/index.json     the record, replaced in one atomic step at the end of every change
    DIR/rows.lance/    the rows, by LanceDB; each commit is a version

A search reads the version that the record names. So a killed run never changes an answer: what it committed stands in
later versions, which a resumed run completes and any other run drops.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from diffcse.errors import InputError
from diffcse.files import only_one, write_json
from diffcse.record import versions
from diffcse.values import as_type

RECORD = "index.json"
SCHEMA = 1
"""Raised when a field of the record is added, removed, or changes its meaning."""


def require_extra() -> None:
    """Check that LanceDB is installed.

    Raises:
        InputError: names the command that installs it.
    """
    if find_spec("lancedb") is None:
        raise InputError('An index needs the package lancedb. Install it: pip install "diffcse[search]"')


def lancedb() -> Any:
    """The module, without its warnings, which would mix with the progress.

    Raises:
        InputError: as `require_extra`.
    """
    require_extra()
    os.environ.setdefault("LANCEDB_LOG", "error")
    import lancedb

    return lancedb


@dataclass(frozen=True)
class Place:
    """The address of an index."""

    uri: str
    """A path, or an address with a scheme that LanceDB takes, such as s3://bucket/folder."""

    @classmethod
    def of(cls, address: str | Path) -> Place:
        """From a path or an address; file:// addresses become paths."""
        text = str(address)
        if text.startswith("file://"):
            text = unquote(urlsplit(text).path)
        return cls(text.rstrip("/") or text)

    @property
    def folder(self) -> Path | None:
        """The folder on this machine; None for a remote address."""
        return None if "://" in self.uri else Path(self.uri)

    def lock(self) -> AbstractContextManager[None]:
        """Within the block no other process changes the index. A remote address has no lock."""
        return nullcontext() if self.folder is None else only_one(self.folder)

    def read(self) -> dict[str, Any] | None:
        """The record's values; None if there is no index.

        Raises:
            InputError: the record cannot be read, or this is a folder with other files.
        """
        try:
            data = self._bytes()
        except FileNotFoundError:
            folder = self.folder
            if folder is not None and folder.exists() and any(not path.name.startswith(".") for path in _list(folder)):
                raise InputError(
                    f"{self.uri}: holds files but no {RECORD}, so it is no index. Give a new folder"
                ) from None
            return None
        except OSError as error:
            raise InputError(f"{self.uri}/{RECORD}: cannot be read: {error.strerror or error}") from error
        try:
            values = json.loads(data)
            if values["schema"] != SCHEMA:
                raise ValueError(f"schema {values['schema']}, where this version reads {SCHEMA}")
            return dict(values)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(
                f"{self.uri}/{RECORD}: damaged ({error}). Copy it back, or make the index again"
            ) from error

    def _bytes(self) -> bytes:
        if self.folder is not None:
            return (self.folder / RECORD).read_bytes()
        filesystem, path = self._remote()
        with filesystem.open_input_stream(path) as stream:
            return bytes(stream.read())

    def _remote(self) -> tuple[Any, str]:
        from pyarrow.fs import FileSystem

        try:
            filesystem, path = FileSystem.from_uri(f"{self.uri}/{RECORD}")
        except Exception as error:
            raise InputError(f"{self.uri}: not an address that can be read ({error})") from error
        return filesystem, path

    def clear(self) -> None:
        """Remove an index without rows; a remote address keeps its record."""
        if self.folder is not None:
            shutil.rmtree(self.folder / "rows.lance", ignore_errors=True)
            (self.folder / RECORD).unlink(missing_ok=True)

    def write(self, values: dict[str, Any]) -> None:
        """Replace the record in one step."""
        if self.folder is not None:
            write_json(self.folder / RECORD, values)
            return
        filesystem, path = self._remote()
        with filesystem.open_output_stream(path) as stream:  # an object store shows a whole object or the old one
            stream.write(json.dumps(values, indent=2).encode())


def _list(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file. Give the folder of an index")
    return list(folder.iterdir())


@dataclass(frozen=True)
class Record:
    """What made the rows of an index, and what answers."""

    model: str | None
    """Folder (absolute), hub id or "mini"; None: an encoder that was in memory."""
    fingerprint: str
    """As `encoder.fingerprint`, whatever the device."""
    pooling: str
    max_tokens: int
    dimension: int
    similarity: str
    """cosine, dot or euclidean. With cosine, the rows have length 1."""
    prompts: dict[str, str]
    query_prompt: str | None
    """Name of the prompt before queries; None: there is none."""
    document_prompt: str | None
    has_text: bool
    """False if vectors came without their texts."""
    language: str
    """Of the stems of words for hybrid search, such as English; none: words are compared as they are."""
    rows: int = 0
    version: int | None = None
    """The version of the rows that answers; None: the first run has not finished."""
    ann: dict[str, Any] | None = None
    """kind, nprobes, refine_factor and recall of the approximate index; None: search is exact."""
    pending: dict[str, Any] | None = None
    """The unfinished run: its input, and the rows and the next row number at its start."""
    finished: Any = None
    """The input of the last finished run; None if rows were deleted since."""
    next_row: int = 0
    """The number of the next row; numbers of deleted rows are not used again."""
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    versions: dict[str, str] = field(default_factory=lambda: {**versions(), "lancedb": version("lancedb")})
    schema: int = SCHEMA

    @classmethod
    def read(cls, place: Place) -> Record | None:
        """The record at `place`; None if there is no index.

        Raises:
            InputError: as `Place.read`, or a field is missing.
        """
        values = place.read()
        if values is None:
            return None
        try:
            record: Record = as_type(values, cls, "")
        except InputError as error:
            raise InputError(f"{place.uri}/{RECORD}: damaged: {error}. Make the index again") from None
        return record

    def write(self, place: Place) -> None:
        """Replace the record at `place` in one atomic step."""
        place.write(asdict(self))


# ---- checks that need no heavy library ---------------------------------------------------------------------------


def check_new(place: Place, *, resume: bool) -> None:
    """Check that a new index can be made at `place`; with `resume` also that an unfinished one may be continued.

    Raises:
        InputError: LanceDB is missing, or the output exists.
    """
    require_extra()
    record = Record.read(place)
    if record is None or resume:
        return
    if record.version is not None:
        raise InputError(f"{place.uri}: an index exists. Add to it with --add, or give another --output")
    raise InputError(
        f"{place.uri}: a run that makes this index was stopped. Continue it with --resume, or give another --output"
    )


def check_queries(queries: Sequence[str], k: int) -> None:
    """Check what can be checked without an index.

    Raises:
        InputError: no query, an empty one, or k below 1.
    """
    if k < 1:
        raise InputError(f"k = {k}: must be at least 1")
    if not queries:
        raise InputError("no query: give one or more texts to search for")
    for index, query in enumerate(queries, 1):
        if not query.strip():
            where = "" if len(queries) == 1 else f" {index}"
            raise InputError(f"query{where}: is empty. Give a text to search for")


def check_language(language: str) -> None:
    """Check that LanceDB knows the stems of a language.

    Raises:
        InputError: it does not; lists those that it knows.
    """
    if language.lower() == "none":
        return
    lancedb()
    from lancedb.index import lang_mapping

    known = sorted(set(lang_mapping.values()))
    if language.capitalize() not in known:
        raise InputError(f"--language {language}: must be none or one of {', '.join(known)}")
