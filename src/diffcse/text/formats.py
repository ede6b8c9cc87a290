"""Files -> rows: one reader for each format, all of which give cells of text in the order of the file.

A file is read in blocks small enough to be handed to other processes. What is quick and must go in order (unpacking,
finding the rows of a .csv) is done by `read`; what takes long and needs nothing but its block by `parse`.

A null, and a key that a JSON object lacks, is an empty cell. Anything else that is not text is an error.
"""

from __future__ import annotations

import csv
import difflib
import io
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from diffcse.errors import InputError
from diffcse.text import hub
from diffcse.text.lines import decode_lines, read_blocks
from diffcse.text.sources import Source, open_unpacked

ROWS = 2048
"""Rows in a block of those formats that are not cut by bytes."""
LONGEST_RECORD = 1 << 26
"""Bytes of the longest line of a .csv or .jsonl file, other columns included, and of the longest text to be split."""


@dataclass(frozen=True)
class Wanted:
    """Which cells of a row are read, and how long one may be."""

    columns: tuple[str, ...]
    document: str | None
    max_bytes: int
    split: bool = False
    """Cells are running prose, to be split: not they but their sentences must keep to `max_bytes`."""

    @property
    def names(self) -> tuple[str, ...]:
        """All columns that are read; the one that names the document is the last."""
        return (*self.columns, *([self.document] if self.document else []))

    @property
    def longest(self) -> int:
        """Bytes that a cell, or line of text, may have."""
        return max(self.max_bytes, LONGEST_RECORD) if self.split else self.max_bytes


@dataclass(frozen=True)
class Block:
    """Some rows of a source in a row, as they are handed on to be parsed."""

    source: Source
    data: bytes | Rows
    first: int
    """Number of its first line or row in the file, from 1; 0 where only reading on will tell."""
    opens: bool = False
    """Whether the file begins here."""


@dataclass
class Rows:
    """Rows in order: `cells[c][i]` is column c of row i."""

    cells: list[list[str]]
    documents: list[str] | None = None
    """For each row what names its document; "" for a row that stands alone."""
    numbers: list[int] | range = range(0)
    """Each row's line (or row) in the file, from 1."""
    lines: int = 0
    """Lines of the file that these are, blank ones included; 0 where rows are numbered as they are read."""
    bytes: int = 0
    """Of text: whole lines, or the cells' UTF-8."""
    crlf: int = 0
    cr: int = 0

    def __len__(self) -> int:
        return len(self.cells[0])


def has_columns(source: Source) -> bool:
    """Whether cells have names there."""
    return source.format != "text"


def unit(source: Source) -> str:
    """What the numbers of its rows count."""
    return "row" if source.format in ("parquet", "hub") else "line"


def read(source: Source, wanted: Wanted) -> Iterator[Block]:
    """The blocks of a source.

    Raises:
        InputError: it cannot be read, or has no such column, or a row is malformed.
    """
    if source.format in ("text", "jsonl"):
        longest = wanted.longest if source.format == "text" else LONGEST_RECORD
        opens = True
        for data in read_blocks(source.path, longest):
            yield Block(source, data, int(opens), opens)
            opens = False
    else:
        readers = {"csv": _read_csv, "tsv": _read_csv, "parquet": _read_parquet, "hub": _read_hub}
        for rows in readers[source.format](source, wanted):
            yield Block(source, rows, rows.numbers[0])


def parse(block: Block, wanted: Wanted) -> Rows:
    """The rows of a block, every cell checked.

    Raises:
        InputError: no UTF-8, a malformed row, a cell that is too long or no text. Names file and line.
    """
    if isinstance(block.data, Rows):
        rows = block.data
    elif block.source.format == "jsonl":
        rows = _parse_json(block, block.data, wanted)
    else:
        return _parse_text(block, block.data, wanted)
    what = unit(block.source)
    for column, cells in zip(wanted.columns, rows.cells, strict=True):
        for index, cell in enumerate(cells):
            try:
                size = len(cell) if cell.isascii() else len(cell.encode())
            except UnicodeEncodeError:
                raise InputError(
                    f"{block.source.name}, {what} {rows.numbers[index]}, column {column!r}: half of a surrogate pair, "
                    "which is no character. Write the file again from the original text, as UTF-8."
                ) from None
            rows.bytes += size
            if size > wanted.longest:
                raise InputError(
                    f"{block.source.name}, {what} {rows.numbers[index]}, column {column!r}: {size:,} bytes long, more "
                    f"than {_too_long(wanted)}"
                )
    return rows


def _too_long(wanted: Wanted) -> str:
    if wanted.split:
        return f"{wanted.longest:,}. Cut the text into paragraphs first."
    return (
        f"max_line_bytes = {wanted.longest:,}. Put one sentence on a line: split the text into sentences first, "
        "or let text.split_sentences do it."
    )


def missing_column(where: str, column: str, columns: Sequence[str], option: str, also: str = "") -> InputError:
    """The error for a column that is not there: what is, and which of them was probably meant; or why all are wrong."""
    near = difflib.get_close_matches(column, columns, 1) or [c for c in columns if c.lower() == column.lower()]
    hint = f" Did you mean {near[0]!r}?" if near else ""
    shown = ", ".join(map(repr, columns[:20])) + (f" and {len(columns) - 20} more" if len(columns) > 20 else "")
    there = f"There are: {shown or 'none'}."
    if also:
        return InputError(f"{where}: no column {column!r}. {there} {also}")
    return InputError(f"{where}: no column {column!r}.{hint} {there} Set text.{option} (--{option.replace('_', '-')}).")


def _option(wanted: Wanted, column: str) -> str:
    if column == wanted.document:
        return "document"
    return (
        ("anchor", "positive", "hard_negative")[wanted.columns.index(column)] if len(wanted.columns) > 1 else "column"
    )


def _check_columns(where: str, columns: Sequence[str], wanted: Wanted, also: str = "") -> None:
    for column in wanted.names:
        if column not in columns:
            raise missing_column(where, column, columns, _option(wanted, column), also)
        if columns.count(column) > 1:
            raise InputError(f"{where}: {columns.count(column)} columns are called {column!r}. Rename all but one.")


# Plain text


def _parse_text(block: Block, data: bytes, wanted: Wanted) -> Rows:
    lines = decode_lines(block.source.path, data, block.first, wanted.longest, _too_long(wanted))
    crlf = data.count(b"\r\n")
    numbers = range(block.first, block.first + len(lines))
    return Rows([lines], None, numbers, len(lines), len(data), crlf, data.count(b"\r") - crlf)


# JSON, one object a line


def _parse_json(block: Block, data: bytes, wanted: Wanted) -> Rows:
    name = block.source.name
    advice = f"{LONGEST_RECORD:,}. Put one object on a line; a .json file that is one long list is not read."
    lines = decode_lines(block.source.path, data, block.first, LONGEST_RECORD, advice)
    cells: list[list[str]] = [[] for _ in wanted.columns]
    documents: list[str] = []
    numbers: list[int] = []
    lacking = set(wanted.names)
    keys: dict[str, None] = {}
    for number, line in enumerate(lines, block.first):
        if not line or line.isspace():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:  # ValueError also for a number of thousands of digits
            raise InputError(
                f"{name}, line {number}: not JSON: {getattr(error, 'msg', error)}"
                f"{f' at character {error.pos + 1}' if isinstance(error, json.JSONDecodeError) else ''}. "
                'Every line must be one whole object, such as {"' + wanted.columns[0] + '": "A sentence."}'
            ) from None
        if not isinstance(value, dict):
            raise InputError(
                f"{name}, line {number}: {_kind(value)}, where an object is wanted, such as "
                '{"' + wanted.columns[0] + '": "A sentence."}'
            )
        if lacking:
            keys |= dict.fromkeys(value)
            lacking.difference_update(value)
        for column, into in zip(wanted.columns, cells, strict=True):
            into.append(_cell(value.get(column), name, f"line {number}", column))
        if wanted.document:
            documents.append(_document(value.get(wanted.document), name, f"line {number}", wanted.document))
        numbers.append(number)
    if block.opens and numbers and lacking:
        column = min(lacking, key=wanted.names.index)
        where = f"{name}, lines {numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else f"{name}, line {numbers[0]}"
        raise missing_column(where, column, list(keys), _option(wanted, column))
    return Rows(cells, documents if wanted.document else None, numbers, len(lines))


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else f"a {type(value).__name__}")


def _cell(value: Any, name: str, place: str, column: str) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    raise InputError(
        f"{name}, {place}, column {column!r}: {_kind(value)}, not text. Choose a column of text (null counts as empty)."
    )


def _document(value: Any, name: str, place: str, column: str) -> str:
    if value is None or isinstance(value, (str, int, float)):
        return "" if value is None else str(value)
    raise InputError(
        f"{name}, {place}, column {column!r}: {_kind(value)} cannot name a document. Choose a column of text or "
        "numbers."
    )


# .csv and .tsv


def _read_csv(source: Source, wanted: Wanted) -> Iterator[Rows]:
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_RECORD))
    delimiter = "\t" if source.format == "tsv" else ","
    reader = csv.reader(_text_lines(source), delimiter=delimiter, strict=True)
    header: list[str] = []
    places: list[int] = []
    numbers: list[int] = []
    rows, cells = _new_rows(wanted, numbers), 0
    before = 0
    while True:
        number = before + 1
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise InputError(
                f"{source.name}, line {number}: {_csv_problem(str(error), number, reader.line_num)}"
            ) from error
        before = reader.line_num
        if row is None:
            break
        if not row:  # a blank line
            continue
        if not header:
            header = row
            others = [d for d in ";\t,|" if d != delimiter and d in row[0]] if len(row) == 1 else []
            also = ""
            if others:
                shown = {"\t": "tabs", ";": "semicolons", ",": "commas", "|": "bars"}
                fix = "name the file .tsv" if others[0] == "\t" else "save it with commas, or as .tsv with tabs"
                also = f"Cells seem to be separated by {shown[others[0]]}: {fix}."
            _check_columns(f"{source.name}, line {number}", header, wanted, also)
            places = [header.index(column) for column in wanted.names]
            continue
        if len(row) != len(header):
            mark = "tab" if delimiter == "\t" else "comma"
            has = f"{len(row)} cell{'s' * (len(row) != 1)}"
            names = f"{len(header)} column{'s' * (len(header) != 1)}"
            raise InputError(
                f"{source.name}, line {number}: {has}, but the first line names {names}. "
                f"A cell that holds a {mark} or a line break must stand in double quotes."
            )
        targets = rows.cells if rows.documents is None else [*rows.cells, rows.documents]
        for place, into in zip(places, targets, strict=True):
            into.append(row[place])
            cells += len(row[place])
        numbers.append(number)
        if len(rows) >= ROWS or cells > 1 << 20:
            yield rows
            numbers = []
            rows, cells = _new_rows(wanted, numbers), 0
    if not header:
        raise InputError(f"{source.name}: empty. The first line must name the columns.")
    if len(rows):
        yield rows


def _new_rows(wanted: Wanted, numbers: list[int]) -> Rows:
    return Rows([[] for _ in wanted.columns], [] if wanted.document else None, numbers)


def _csv_problem(error: str, number: int, last: int) -> str:
    if "unexpected end of data" in error or "field larger" in error:
        return (
            f"a cell that begins with a double quote is not closed by line {last}. Close it; a quote that belongs to "
            'the text is written twice, in a cell that stands in quotes: "He said ""no""."'
        )
    if "expected after" in error:
        return (
            "text follows the double quote that closes a cell. A quote that belongs to the text is written twice, in "
            'a cell that stands in quotes: "He said ""no""."'
        )
    return f"{error}. Save the table again as UTF-8 .csv."


def _text_lines(source: Source) -> Iterator[str]:
    """Lines with their ends: they may belong to a cell."""
    first = 1
    advice = f"{LONGEST_RECORD:,}. Is a double quote not closed?"
    for block in read_blocks(source.path, LONGEST_RECORD):
        lines = decode_lines(source.path, block, first, LONGEST_RECORD, advice)
        first += len(lines)
        yield from io.StringIO(block.decode(), newline="")  # cut where `decode_lines` cuts


# .parquet


def _read_parquet(source: Source, wanted: Wanted) -> Iterator[Rows]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_unpacked(source.path) as opened, tempfile.TemporaryFile() as copy:
        file: Any = opened
        if source.path.suffix.lower() != ".parquet":  # the end of a table is read first, so a packed one is unpacked
            shutil.copyfileobj(opened, copy)
            copy.seek(0)
            file = copy
        try:
            parquet = pq.ParquetFile(file)
            schema = parquet.schema_arrow
            _check_columns(source.name, schema.names, wanted)
            for column in wanted.columns:
                _check_type(source.name, column, schema.field(column).type)
            number = 1
            for batch in parquet.iter_batches(batch_size=ROWS, columns=list(wanted.names), use_threads=False):
                values = [batch.column(column).to_pylist() for column in wanted.names]
                yield _rows_of(source, wanted, values, number)
                number += batch.num_rows
        except InputError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            said = str(error).strip().partition("\n")[0]
            raise InputError(
                f"{source.name}: not a whole .parquet file ({said}). Copy, download or write the file again."
            ) from error


def _check_type(name: str, column: str, kind: Any) -> None:
    import pyarrow as pa

    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    if not any(is_kind(inner) for is_kind in texts):
        raise InputError(f"{name}, column {column!r} holds {kind}, not text. Choose a column of text (string).")


def _rows_of(source: Source, wanted: Wanted, values: Sequence[Sequence[Any]], first: int) -> Rows:
    """Rows from Python values, one list a column, the document's last."""
    cells = [
        [_cell(value, source.name, f"row {first + index}", column) for index, value in enumerate(column_values)]
        for column, column_values in zip(wanted.columns, values, strict=False)
    ]
    documents = None
    if wanted.document:
        documents = [
            _document(value, source.name, f"row {first + index}", wanted.document)
            for index, value in enumerate(values[-1])
        ]
    return Rows(cells, documents, range(first, first + len(cells[0])))


# Hub data sets


def _read_hub(source: Source, wanted: Wanted) -> Iterator[Rows]:
    name = hub.parse(source.name)
    columns, data = hub.open_columns(name, source.stamp)
    _check_columns(source.name, columns, wanted)
    number = 1
    for values in hub.stream(name, data, wanted.names, ROWS):
        yield _rows_of(source, wanted, values, number)
        number += len(values[0])
