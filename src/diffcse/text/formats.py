"""Files -> rows: a reader for each format; all of them give cells of text in the order of the file.

`read` does what is quick and must happen in order: it unpacks the file and cuts it into blocks. `parse` does the slow
part; it needs only its block, so other processes can do it. `lines` states the rule for lines and cells.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffcse.errors import InputError
from diffcse.text import hub
from diffcse.text.lines import (
    BLOCK_BYTES,
    Notes,
    decode_lines,
    raise_limit,
    read_blocks,
    remove_invisible,
)
from diffcse.text.parquet import read_parquet
from diffcse.text.rows import ROWS, kind_of, rows_of
from diffcse.text.rows import Needed as Needed
from diffcse.text.rows import Rows as Rows
from diffcse.text.rows import Wanted as Wanted
from diffcse.text.sources import Source
from diffcse.text.tables import (
    LONGEST_LIST,
    Row,
    check_columns,
    is_quoted_table,
    missing_column,
    table_rows,
    width_problem,
)


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
        longest = wanted.longest if source.format == "text" else wanted.longest_record
        notes: Notes = {}
        opens = True
        for data in read_blocks(source.path, longest, wanted.reading, notes):
            yield Block(source, data, int(opens), opens, dict(notes))
            notes.clear()
            opens = False
        return
    if source.format == "parquet":
        for rows in read_parquet(source, wanted, needed):
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
    longest = wanted.longest_record
    advice = f"{longest:,}. Put one object on a line, or raise the limit: {raise_limit('max_line_bytes')}."
    lines = decode_lines(name, data, block.first, longest, advice, notes, wanted.reading.encoding)
    numbered = [(number, line) for number, line in enumerate(lines, block.first) if line and not line.isspace()]
    objects = [
        _json_object(_load(line, f"{name}, line {number}"), block.source, number, wanted) for number, line in numbered
    ]
    rows = _rows_of_objects(block.source, objects, [number for number, _ in numbered], wanted, block.opens)
    rows.lines, rows.notes = len(lines), notes
    return rows


def _read_list(source: Source, wanted: Wanted) -> Iterator[Rows]:
    """A .json file that is one list of objects; its rows are numbered from 1."""
    longest, blocks, size = max(wanted.max_bytes, LONGEST_LIST), [], 0
    for block in read_blocks(source.path, BLOCK_BYTES, wanted.reading, {}):
        blocks.append(block)
        size += len(block)
        if size > longest:
            raise InputError(f"{source.name}: a list of more than {longest:,} bytes. Write one object a line.")
    text = "\n".join(decode_lines(source.name, b"".join(blocks), 1, longest, "", {}))
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
        raise InputError(f"{where}: {kind_of(value)}, not an object. Write an object such as {example}.")
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
    return rows_of(source, wanted, values, numbers)


def _as_text(value: Any) -> str | None:
    """A cell that is kept: text as it is, null as None, anything else as JSON."""
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


# Tables


def _table_lines(source: Source, wanted: Wanted, notes: Notes) -> Iterator[str]:
    first = 1
    longest, reading = wanted.longest_record, wanted.reading
    advice = f"{longest:,}. If it is right, raise the limit: {raise_limit('max_line_bytes')}."
    for block in read_blocks(source.path, longest, reading, notes):
        lines = decode_lines(source.name, block, first, longest, advice, notes, reading.encoding)
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


def _read_hub(source: Source, wanted: Wanted) -> Iterator[Rows]:
    dataset = hub.parse(source.name)
    columns, data = hub.open_columns(dataset, source.stamp)
    check_columns(source.name, columns, wanted.options)
    number = 1
    for values in hub.stream(dataset, data, wanted.names, ROWS):
        for index in wanted.kept_range:
            values[index] = [_as_text(value) for value in values[index]]
        yield rows_of(source, wanted, values, range(number, number + len(values[0])))
        number += len(values[0])
