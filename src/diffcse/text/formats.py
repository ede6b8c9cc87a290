"""Files -> rows: a reader for each format; all of them give cells of text in the order of the file.

`read` does what is quick and must happen in order: it unpacks the file and cuts it into blocks. `parse` does the slow
part; it needs only its block, so other processes can do it. `lines` states the rule for lines and cells.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffcse.errors import InputError
from diffcse.text import hub
from diffcse.text.lines import STRICT, Notes, Reading, decode_lines, read_blocks, remove_invisible
from diffcse.text.sources import Source, open_unpacked
from diffcse.text.tables import (
    LONGEST_RECORD,
    Row,
    check_columns,
    is_quoted_table,
    missing_column,
    table_rows,
    width_problem,
)

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
        return max(self.max_bytes, LONGEST_RECORD) if self.is_prose else self.max_bytes

    @property
    def advice(self) -> str:
        """The end of the message about a cell or line that is too long."""
        if self.is_prose:
            return f"{self.longest:,}. Cut the text into paragraphs first."
        return (
            f"max_line_bytes = {self.longest:,}. Put one sentence on a line: split the text into sentences first, or "
            "set text.split_sentences (--split-sentences)."
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


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a source, before they are parsed."""

    source: Source
    data: bytes | Rows
    first: int
    """Number of the first line or row in the file, from 1; 0 if the blocks before it must be parsed to know."""
    opens: bool = False
    """Whether the file begins with it."""
    notes: Notes = field(default_factory=dict)


def read(source: Source, wanted: Wanted, needed: Needed | None = None) -> Iterator[Block]:
    """The blocks of a source. In a .parquet file, row groups that are not `needed` are left out.

    Raises:
        InputError: the source cannot be read, a column is missing, or a row is malformed.
    """
    if source.format in ("text", "jsonl"):
        longest = wanted.longest if source.format == "text" else LONGEST_RECORD
        notes: Notes = {}
        opens = True
        for data in read_blocks(source.path, longest, wanted.reading.encoding, notes):
            yield Block(source, data, int(opens), opens, dict(notes))
            notes.clear()
            opens = False
        return
    if source.format == "parquet":
        for rows in _read_parquet(source, wanted, needed):
            yield Block(source, rows, rows.numbers[0])
        return
    readers = {"csv": _read_table, "tsv": _read_table, "json": _read_list, "hub": _read_hub}
    for rows in readers[source.format](source, wanted):
        yield Block(source, rows, rows.numbers[0])


def parse(block: Block, wanted: Wanted) -> Rows:
    """The rows of a block, with every cell checked.

    Raises:
        InputError: not UTF-8, a malformed row, or a cell that is too long or not text. Names file and line.
    """
    if isinstance(block.data, Rows):
        rows = block.data
    elif block.source.format == "jsonl":
        rows = _parse_json(block, block.data, wanted)
    else:
        rows = _parse_text(block, block.data, wanted)
    rows.notes |= block.notes
    for column, cells in zip(wanted.columns, rows.cells, strict=True):
        remove_invisible(cells, rows.numbers, rows.notes)
        if block.source.has_columns:
            _check_cells(block.source, column, rows, cells, wanted)
    return rows


def _check_cells(source: Source, column: str, rows: Rows, cells: list[str], wanted: Wanted) -> None:
    for index, cell in enumerate(cells):
        try:
            size = len(cell) if cell.isascii() else len(cell.encode())
        except UnicodeEncodeError:
            raise InputError(
                f"{source.name}, {source.unit} {rows.numbers[index]}, column {column!r}: half of a surrogate pair, "
                "which is not a character. Write the file again from the original text, as UTF-8."
            ) from None
        rows.bytes += size
        if size > wanted.longest:
            raise InputError(
                f"{source.name}, {source.unit} {rows.numbers[index]}, column {column!r}: {size:,} bytes long, more "
                f"than {wanted.advice}"
            )


def _parse_text(block: Block, data: bytes, wanted: Wanted) -> Rows:
    notes: Notes = {}
    encoding = wanted.reading.encoding
    lines = decode_lines(block.source.name, data, block.first, wanted.longest, wanted.advice, notes, encoding)
    return Rows([lines], None, (), range(block.first, block.first + len(lines)), len(lines), len(data), notes)


# JSON


def _parse_json(block: Block, data: bytes, wanted: Wanted) -> Rows:
    """One object a line."""
    name = block.source.name
    notes: Notes = {}
    advice = f"{LONGEST_RECORD:,}. Put one object on a line."
    lines = decode_lines(name, data, block.first, LONGEST_RECORD, advice, notes, wanted.reading.encoding)
    numbered = [(number, line) for number, line in enumerate(lines, block.first) if line and not line.isspace()]
    objects = [
        _json_object(_load(line, f"{name}, line {number}"), block.source, number, wanted) for number, line in numbered
    ]
    rows = _rows_of_objects(block.source, objects, [number for number, _ in numbered], wanted, block.opens)
    rows.lines, rows.notes = len(lines), notes
    return rows


def _read_list(source: Source, wanted: Wanted) -> Iterator[Rows]:
    """A .json file that is one list of objects; its rows are numbered from 1."""
    data = b"".join(read_blocks(source.path, LONGEST_RECORD, wanted.reading.encoding, {}))
    if len(data) > LONGEST_RECORD:
        raise InputError(f"{source.name}: a list of more than {LONGEST_RECORD:,} bytes. Write one object a line.")
    advice = f"{LONGEST_RECORD:,}. Write one object a line."
    text = "\n".join(decode_lines(source.name, data, 1, LONGEST_RECORD, advice, {}))
    values = _load(text, source.name)
    for first in range(0, len(values), ROWS):
        numbers = range(first + 1, min(first + ROWS, len(values)) + 1)
        objects = [_json_object(values[number - 1], source, number, wanted) for number in numbers]
        yield _rows_of_objects(source, objects, numbers, wanted, first == 0)


def _load(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError also for a number of thousands of digits
        place = f" at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
        raise InputError(
            f"{where}: not JSON: {getattr(error, 'msg', error)}{place}. Write one whole object on each line."
        ) from None


def _json_object(value: Any, source: Source, number: int, wanted: Wanted) -> dict[str, Any]:
    if not isinstance(value, dict):
        example = json.dumps({wanted.columns[0]: "A sentence."})
        where = f"{source.name}, {source.unit} {number}"
        raise InputError(f"{where}: {_kind(value)}, not an object. Write an object such as {example}.")
    return value


def _rows_of_objects(
    source: Source, objects: Sequence[dict[str, Any]], numbers: Sequence[int], wanted: Wanted, opens: bool
) -> Rows:
    """Rows from JSON objects. In the block that opens the file, each wanted key must occur once at least."""
    missing = [name for name in wanted.names if not any(name in value for value in objects)]
    if opens and objects and missing:
        keys = list(dict.fromkeys(key for value in objects for key in value))
        span = f"{source.unit}s {numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else f"{source.unit} {numbers[0]}"
        problem = missing_column(missing[0], keys, wanted.options)
        raise InputError(f"{source.name}, {span}: {problem}")
    values = [[value.get(name) for value in objects] for name in wanted.names]
    for index in wanted.kept_range:
        values[index] = [_as_text(value) for value in values[index]]
    return _rows_of(source, wanted, values, numbers)


def _as_text(value: Any) -> str | None:
    """A cell that is kept: text as it is, null as None, anything else as JSON."""
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _rows_of(source: Source, wanted: Wanted, values: Sequence[Sequence[Any]], numbers: Sequence[int]) -> Rows:
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
    raise InputError(f"{where}: {_kind(value)}, not text. Choose a column of text (null counts as empty).")


def _document(value: Any, source: Source, number: int, column: str) -> str:
    if value is None or isinstance(value, (str, int, float)):
        return "" if value is None else str(value)
    where = f"{source.name}, {source.unit} {number}, column {column!r}"
    raise InputError(f"{where}: {_kind(value)} cannot name a document. Choose a column of text or numbers.")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else f"a {type(value).__name__}")


# Tables


def _table_lines(source: Source, wanted: Wanted, notes: Notes) -> Iterator[str]:
    first = 1
    advice = f'{LONGEST_RECORD:,}. If quotes are text in this file, set text.quoting = "none" (--quoting none).'
    encoding = wanted.reading.encoding
    for block in read_blocks(source.path, LONGEST_RECORD, encoding, notes):
        lines = decode_lines(source.name, block, first, LONGEST_RECORD, advice, notes, encoding)
        first += len(lines)
        yield from lines


def _read_table(source: Source, wanted: Wanted) -> Iterator[Rows]:
    notes: Notes = {}
    batch: list[Row] = []
    characters = 0
    for number, cells in _wanted_cells(source, wanted, notes):
        batch.append((number, cells))
        characters += sum(map(len, cells))
        if len(batch) >= ROWS or characters > 1 << 20:
            yield _table_block(batch, wanted, notes)
            batch, characters = [], 0
    if batch:
        yield _table_block(batch, wanted, notes)


def _wanted_cells(source: Source, wanted: Wanted, notes: Notes) -> Iterator[Row]:
    """The wanted cells of each row."""
    delimiter = "\t" if source.format == "tsv" else ","
    is_quoted = is_quoted_table(source.format, wanted.reading.quoting, _table_lines(source, wanted, {}), notes)
    header = list(wanted.reading.header)
    if header:
        check_columns(source.name, header, wanted.options)
    places = [header.index(name) for name in wanted.names] if header else []
    for number, row in table_rows(_table_lines(source, wanted, notes), delimiter, is_quoted, source.name, notes):
        if not header:
            header = row
            check_columns(f"{source.name}, line {number}", header, wanted.options, delimiter)
            places = [header.index(name) for name in wanted.names]
        elif len(row) == len(header):
            yield number, [row[place] for place in places]
        else:
            raise InputError(f"{source.name}, line {number}: {width_problem(row, header, delimiter)}")
    if not header:
        raise InputError(f"{source.name}: empty. The first line must name the columns.")


def _table_block(batch: Sequence[Row], wanted: Wanted, notes: Notes) -> Rows:
    columns = [list(column) for column in zip(*(cells for _, cells in batch), strict=True)]
    documents = columns.pop() if wanted.document else None
    texts = len(wanted.columns)
    rows = Rows(columns[:texts], documents, columns[texts:], [number for number, _ in batch], notes=dict(notes))
    notes.clear()
    return rows


# .parquet and hub data sets


def _read_parquet(source: Source, wanted: Wanted, needed: Needed | None) -> Iterator[Rows]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_unpacked(source.path) as opened, tempfile.TemporaryFile() as copy:
        file: Any = opened
        if source.path.suffix.lower() != ".parquet":  # pyarrow must seek, so a packed table is unpacked first
            shutil.copyfileobj(opened, copy)
            copy.seek(0)
            file = copy
        try:
            parquet = pq.ParquetFile(file)
            schema = parquet.schema_arrow
            check_columns(source.name, schema.names, wanted.options)
            for column in wanted.columns:
                _check_type(source.name, column, schema.field(column).type)
            number = 1
            for groups, rows in _row_groups(parquet, whole=needed is None):
                if needed and not needed(number, rows):
                    number += rows
                    continue
                names = list(dict.fromkeys(wanted.names))
                for batch in parquet.iter_batches(ROWS, groups, names, use_threads=False):
                    arrays = [batch.column(column) for column in wanted.names]
                    values = [x if i in wanted.kept_range else x.to_pylist() for i, x in enumerate(arrays)]
                    yield _rows_of(source, wanted, values, range(number, number + batch.num_rows))
                    number += batch.num_rows
        except InputError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise InputError(
                f"{source.name}: not a whole .parquet file ({reason}). Copy, download or write the file again."
            ) from error


def _row_groups(parquet: Any, *, whole: bool) -> list[tuple[list[int], int]]:
    """(row groups that are read together, their rows)"""
    sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
    return [(list(range(len(sizes))), sum(sizes))] if whole else [([group], rows) for group, rows in enumerate(sizes)]


def _check_type(name: str, column: str, kind: Any) -> None:
    import pyarrow as pa

    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    if not any(is_kind(inner) for is_kind in texts):
        raise InputError(f"{name}, column {column!r} holds {kind}, not text. Choose a column of text (string).")


def _read_hub(source: Source, wanted: Wanted) -> Iterator[Rows]:
    dataset = hub.parse(source.name)
    columns, data = hub.open_columns(dataset, source.stamp)
    check_columns(source.name, columns, wanted.options)
    number = 1
    for values in hub.stream(dataset, data, wanted.names, ROWS):
        for index in wanted.kept_range:
            values[index] = [_as_text(value) for value in values[index]]
        yield _rows_of(source, wanted, values, range(number, number + len(values[0])))
        number += len(values[0])
