"""Tables of text (.csv and .tsv): lines -> rows of cells.

- The first line names the columns, unless `Reading.header` does. A blank line is not a row.
- In .csv, a cell may stand in double quotes, with quotes inside it doubled; it may then hold commas and line breaks.
- In .tsv, quotes are text, unless the whole file is consistently quoted. That is so in two cases. Either a line has
  another number of tabs than the first, so quotes must enclose tabs or line breaks. Or each cell that begins with a
  quote is closed, and also holds a doubled quote or belongs to a column whose cells are all quoted.
- `Reading.quoting` replaces both rules: "csv" reads quotes as enclosing cells, "none" as text.
"""

from __future__ import annotations

import csv
import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from diffcse.config import Quoting
from diffcse.errors import InputError
from diffcse.text.lines import Notes, add_note

LONGEST_RECORD = 1 << 24
"""Longest line of a .csv or .jsonl file in bytes, and longest text that is split into sentences."""
LONGEST_LIST = 1 << 26
"""Longest .json list in bytes."""
_CLOSED = re.compile('"(?:[^"]|"")*"')

Row = tuple[int, list[str]]
"""(number of the first line, cells)"""


def table_rows(lines: Iterable[str], delimiter: str, is_quoted: bool, name: str, notes: Notes) -> Iterator[Row]:
    """The rows of a table, header included, each with the number of its first line.

    Raises:
        InputError: a quoted cell is not closed, or text follows its end.
    """
    if not is_quoted:
        yield from ((number, line.split(delimiter)) for number, line in enumerate(lines, 1) if line)
        return
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_RECORD))
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter, strict=True)
    number = 1
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise InputError(f"{name}, line {number}: {_quote_problem(str(error), reader.line_num)}") from error
        if row is None:
            return
        if reader.line_num > number:
            add_note(notes, "spanning", number)
        if row:
            yield number, row
        number = reader.line_num + 1


def tsv_rows(lines: Sequence[str], name: str, notes: Notes) -> list[Row]:
    """The rows of a .tsv file in memory. Blank lines are rows, and quotes that do not parse are text."""
    guessed: Notes = {}
    if is_quoted_table("tsv", "auto", lines, guessed):
        with suppress(InputError):
            rows = list(table_rows(lines, "\t", True, name, guessed))
            notes |= guessed
            return rows
        guessed = {"quotes": guessed["unquoted"]}
    notes |= guessed
    return [(number, line.split("\t")) for number, line in enumerate(lines, 1)]


def _quote_problem(error: str, last: int) -> str:
    if "unexpected end of data" in error or "field larger" in error:
        problem = f"a cell that begins with a double quote is not closed by line {last}"
    elif "expected after" in error:
        problem = "text follows the double quote that closes a cell"
    else:
        return f"{error}. Save the table again as UTF-8 .csv."
    return (
        f'{problem}. If quotes are text in this file, set text.quoting = "none" (--quoting none). Otherwise close the '
        'cell, and double each quote inside it: "He said ""no""."'
    )


def width_problem(row: Sequence[str], header: Sequence[str], delimiter: str) -> str:
    """What is wrong with a row of another width than the header, and what to do."""
    cells, columns = (f"{n} {noun}{'s' * (n != 1)}" for n, noun in ((len(row), "cell"), (len(header), "column")))
    mark = "tab" if delimiter == "\t" else "comma"
    return (
        f"{cells}, but the table has {columns}. Put a cell that holds a {mark} or a line break in double quotes, and "
        'set text.quoting = "csv" (--quoting csv).'
    )


def is_quoted_table(format_name: str, quoting: Quoting, lines: Iterable[str], notes: Notes) -> bool:
    """Whether double quotes enclose cells. `lines` are read only where the file must decide."""
    if quoting != "auto" or format_name != "tsv":
        return quoting == "csv" or (quoting == "auto" and format_name == "csv")
    return _is_consistently_quoted(lines, notes)


def _is_consistently_quoted(lines: Iterable[str], notes: Notes) -> bool:
    """Whether the quotes of a .tsv file enclose cells; the guess becomes a note."""
    rows = quoted_lines = first = 0
    tabs = -1
    fits = is_closed = is_needed = True
    quoted: Counter[int] = Counter()  # column -> quoted cells
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        rows += 1
        tabs = line.count("\t") if tabs < 0 else tabs
        fits = fits and line.count("\t") == tabs
        cells = [(i, cell) for i, cell in enumerate(line.split("\t")) if cell.startswith('"')] if '"' in line else []
        if cells:
            first = first or number
            quoted_lines += 1
            quoted.update(i for i, _ in cells)
            is_closed = is_closed and all(_CLOSED.fullmatch(cell) for _, cell in cells)
            is_needed = is_needed and all('"' in cell[1:-1] for _, cell in cells)
    if not quoted:
        return False
    is_quoted = not fits or (is_closed and (is_needed or min(quoted.values()) >= rows - 1))
    add_note(notes, "unquoted" if is_quoted else "quotes", first, quoted_lines)
    return is_quoted


# Columns


def check_columns(where: str, columns: Sequence[str], options: dict[str, str], delimiter: str | None = None) -> None:
    """Check that each wanted column exists once.

    Args:
        where: file and line.
        columns: names in the file.
        options: wanted column -> the option that names it.
        delimiter: of a table with a header.

    Raises:
        InputError: a column is missing or has several namesakes.
    """
    for column in options:
        if column not in columns:
            raise InputError(f"{where}: {missing_column(column, columns, options, delimiter)}")
        if columns.count(column) > 1:
            raise InputError(f"{where}: {columns.count(column)} columns are called {column!r}. Rename all but one.")


def _guessed_names(cells: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Names for the columns of a row: the longest cells that are no numbers are taken for the wanted ones."""
    by_length = sorted(range(len(cells)), key=lambda i: (cells[i].replace(".", "").isdigit(), -len(cells[i])))
    names = dict(zip(sorted(by_length[: len(wanted)]), wanted, strict=False))
    return [names.get(i, f"column{i}") for i in range(len(cells))]


def missing_column(column: str, columns: Sequence[str], options: dict[str, str], delimiter: str | None = None) -> str:
    """What is wrong and what to do if `columns` has no `column`; the other arguments as for `check_columns`."""
    near = difflib.get_close_matches(column, columns, 1) or [c for c in columns if c.lower() == column.lower()]
    hint = f" Did you mean {near[0]!r}?" if near else ""
    more = f" and {len(columns) - 20} more" if len(columns) > 20 else ""
    problem = f"no column {column!r}.{hint} There are: {', '.join(map(repr, columns[:20])) or 'none'}{more}."
    others = [d for d in ";\t,|" if d != delimiter and d in columns[0]] if delimiter and len(columns) == 1 else []
    if others:
        shown = {"\t": "tabs", ";": "semicolons", ",": "commas", "|": "bars"}[others[0]]
        fix = "Name the file .tsv" if others[0] == "\t" else "Save it with commas, or as .tsv with tabs"
        return f"{problem} Its cells seem to be separated by {shown}. {fix}."
    if delimiter and any(len(name.split()) > 2 or name.replace(".", "").isdigit() for name in columns):
        names = ",".join(_guessed_names(columns, list(options)))
        return (
            f"{problem} This line looks like a row: the table seems to have no header. Then name all its columns: "
            f'text.columns = "{names}" (--columns {names}).'
        )
    option = options[column]
    if option == "keep":
        return f"{problem} Choose among them with --keep."
    section = "training" if option.startswith("dev_") else "text"
    return f"{problem} Set {section}.{option} (--{option.replace('_', '-')})."
