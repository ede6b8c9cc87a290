"""Rows of cells, whatever file they come from, and which cells are wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffcse.errors import InputError
from diffcse.text.lines import STRICT, Notes, Reading, raise_limit
from diffcse.text.sources import Source
from diffcse.text.tables import LONGEST_RECORD

ROWS = 2048
"""Rows in a block of the formats that are not cut by bytes."""
Needed = Callable[[int, int], bool]
"""Whether any of some rows of a file is needed: (number of the first, from 1; how many)."""


@dataclass(frozen=True)
class Wanted:
    """Which cells are read, and how."""

    columns: tuple[str, ...]
    document: str | None
    """Column that names a row's document."""
    max_bytes: int
    is_prose: bool = False
    """Cells are split into sentences later: then `max_bytes` limits the sentences, not the cells."""
    reading: Reading = STRICT
    kept: tuple[str, ...] = ()
    """Columns that are handed on as they are; their cells need not be text."""

    @property
    def names(self) -> tuple[str, ...]:
        """All columns that are read: the texts', those that are kept, and the document's."""
        return (*self.columns, *self.kept, *([self.document] if self.document else []))

    @property
    def kept_range(self) -> range:
        """The places of `kept` in `names`."""
        return range(len(self.columns), len(self.columns) + len(self.kept))

    @property
    def options(self) -> dict[str, str]:
        """Column -> the option that names it."""
        roles = ("anchor", "positive", "hard_negative") if len(self.columns) > 1 else ("column",)
        return (
            dict.fromkeys(self.kept, "keep")
            | dict(zip(self.columns, roles, strict=False))
            | ({self.document: "document"} if self.document else {})
        )

    @property
    def longest(self) -> int:
        """Bytes of the longest cell or line."""
        return self.longest_record if self.is_prose else self.max_bytes

    @property
    def longest_record(self) -> int:
        """Bytes of the longest line of a table or of JSON Lines."""
        return max(self.max_bytes, LONGEST_RECORD)

    @property
    def advice(self) -> str:
        """The end of the message about a cell or line that is too long."""
        if self.is_prose:
            return f"{self.longest:,}. Cut the text into paragraphs first."
        return (
            f"max_line_bytes = {self.longest:,}. Put one sentence on a line: split the text into sentences first, or "
            "set text.split_sentences (--split-sentences). Or raise the limit: "
            f"{raise_limit('max_line_bytes')}."
        )


@dataclass
class Rows:
    """Rows in order: `cells[c][i]` is column c of row i."""

    cells: list[list[str]]
    documents: list[str] | None = None
    """The name of each row's document; "" for a row that stands alone."""
    kept: Sequence[Any] = ()
    """The kept columns: Arrow arrays from .parquet, lists of text or None from other files."""
    numbers: Sequence[int] = ()
    """Line (or row) of each row in the file, from 1."""
    lines: int = 0
    """Lines of the file in these rows, blank ones included; 0 if `numbers` were known when the block was read."""
    bytes: int = 0
    """Size of the text in UTF-8: whole lines, or the cells."""
    notes: Notes = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.cells[0])


def rows_of(source: Source, wanted: Wanted, values: Sequence[Sequence[Any]], numbers: Sequence[int]) -> Rows:
    """Rows from Python values, one list a column, the document's last."""
    cells = [
        [_cell(value, source, number, column) for value, number in zip(column_values, numbers, strict=True)]
        for column, column_values in zip(wanted.columns, values, strict=False)
    ]
    documents = None
    if wanted.document:
        pairs = zip(values[-1], numbers, strict=True)
        documents = [_document(value, source, number, wanted.document) for value, number in pairs]
    return Rows(cells, documents, [values[index] for index in wanted.kept_range], numbers)


def _cell(value: Any, source: Source, number: int, column: str) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    where = f"{source.name}, {source.unit} {number}, column {column!r}"
    raise InputError(f"{where}: {kind_of(value)}, not text. Choose a column of text (null counts as empty).")


def _document(value: Any, source: Source, number: int, column: str) -> str:
    if value is None or isinstance(value, (str, int, float)):
        return "" if value is None else str(value)
    where = f"{source.name}, {source.unit} {number}, column {column!r}"
    raise InputError(f"{where}: {kind_of(value)} cannot name a document. Choose a column of text or numbers.")


def kind_of(value: Any) -> str:
    """The type of a JSON value, in words."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else f"a {type(value).__name__}")
