"""A table of figures: what a terminal, a log and a notebook show of a result."""

from __future__ import annotations

import html
import io
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "", prose: bool = False
) -> Table:
    """A table whose first column is text and whose other columns are figures, or text too (`prose`)."""
    view = Table(
        title=title or None, caption=caption or None, title_justify="left", caption_justify="left",
        show_header=any(columns),
    )  # fmt: skip
    for index, column in enumerate(columns):
        is_figure = index > 0 and not prose
        view.add_column(column, justify="right" if is_figure else "left", no_wrap=is_figure, overflow="fold")
    for row in rows:
        view.add_row(*(escape(cell) for cell in row))
    return view


@dataclass(frozen=True, repr=False)
class Figures:
    """A table with a title above and a caption below; the first column is text, the others are figures.

    In a notebook it is an HTML table.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    prose: bool = False
    """All columns are text, folded to the width."""

    def __str__(self) -> str:
        file, width = io.StringIO(), shutil.get_terminal_size((100, 24)).columns
        print_figures(Console(file=file, width=width, color_system=None, force_jupyter=False), self)
        return file.getvalue().strip("\n")

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """A table for notebooks."""

        def row(cells: Sequence[str], tag: str) -> str:
            side = (
                f"<{tag} style='text-align:{'right' if i and not self.prose else 'left'};white-space:pre-wrap'>"
                for i in range(len(cells))
            )
            return "".join(f"{start}{html.escape(cell)}</{tag}>" for start, cell in zip(side, cells, strict=True))

        body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in self.rows)
        caption = f"<p>{html.escape(self.caption)}</p>" if self.caption else ""
        title = f"<b>{html.escape(self.title)}</b>" if self.title else ""
        head = f"<tr>{row(self.columns, 'th')}</tr>" if any(self.columns) else ""
        return f"{title}<table>{head}{body}</table>{caption}"


def print_figures(console: Console, figures: Figures) -> None:
    """Print a table. Columns that do not fit the console's width follow below, again beside the first column."""
    console.print(f"\n{figures.title}", style="bold", markup=False, highlight=False)
    if figures.prose:
        console.print(table("", figures.columns, figures.rows, caption=figures.caption, prose=True))
        return
    widths = [max(map(len, cells)) + 3 for cells in zip(figures.columns, *figures.rows, strict=True)]
    first = min(widths[0], _FIRST_COLUMN)
    parts: list[list[int]] = [[]]
    for column in range(1, len(widths)):
        if parts[-1] and first + 1 + sum(widths[i] for i in parts[-1]) + widths[column] > console.width:
            parts.append([])
        parts[-1].append(column)
    for part in parts:
        chosen = [0, *part]
        rows = [[row[i] for i in chosen] for row in figures.rows]
        console.print(table("", [figures.columns[i] for i in chosen], rows))
    if figures.caption:
        console.print(figures.caption, style="dim", markup=False, highlight=False)


_FIRST_COLUMN = 24  # columns that the text of a table keeps beside its figures


def without_controls(text: str) -> str:
    """`text` with a space for each control character: data must not move the cursor, or give the terminal orders."""
    return _CONTROL.sub(" ", text)


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def counted(n: int, noun: str) -> str:
    """A number and its noun, such as "1 run" or "2,000 runs"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
