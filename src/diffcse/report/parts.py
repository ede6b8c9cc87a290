"""What pages and tables share: figures as text, Markdown, templates."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from typing import Any

from diffcse.errors import InputError

MISSING = "–"
COLOURS = ("#808890", "#d97706", "#2f7fc1", "#8a63d2", "#2a9d4a", "#c2417c")


def mean_and_sd(score: dict[str, Any], digits: int = 2) -> str:
    """Mean and standard deviation. Without one: the mean, and the values of the runs if there are several.

    `score` has "mean", "sd" and "values", a list or a dict by seed.
    """
    if score["mean"] is None:
        return MISSING
    mean = f"{round(score['mean'], digits) + 0.0:.{digits}f}"  # adding 0.0 turns -0.0 into 0.0
    if score["sd"] is not None:
        return f"{mean} ± {score['sd']:.{digits}f}"
    each = [f"{value:.{digits}f}" for value in run_values(score)]
    return f"{mean} ({', '.join(each)})" if len(each) > 1 else mean


def run_values(score: dict[str, Any]) -> list[float]:
    """The runs' values of a score."""
    values = score.get("values") or []
    return [*(values.values() if isinstance(values, dict) else values)]


def signed(points: float, digits: int = 2) -> str:
    """A difference, with its sign."""
    return f"{round(points, digits) + 0.0:+.{digits}f}"


def markdown_table(columns: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a table that reads well as plain text too, and an empty line."""
    cells = [[text.replace("|", "\\|") for text in row] for row in (columns, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = [f"| {' | '.join(text.ljust(width) for text, width in zip(row, widths, strict=True))} |" for row in cells]
    rule = f"|{'|'.join('-' * (width + 1) + ('-' if i == 0 else ':') for i, width in enumerate(widths))}|"
    return [lines[0], rule, *lines[1:], ""]


def page_template(
    name: str, *, finalize: Callable[[Any], Any] | None = None, filters: dict[str, Any] | None = None
) -> Any:
    """The jinja2 template of a page.

    Args:
        finalize: applied to every value before it is written.
        filters: further filters of the template, by name.

    Raises:
        InputError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise InputError('the page needs jinja2, which is missing: pip install "diffcse[report]"') from error

    def read(file: str) -> str:
        return resources.files("diffcse.report").joinpath(file).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(read), autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=finalize
    )
    environment.filters.update(filters or {})
    return environment.get_template(name)


def colour(index: int) -> str:
    """The colour of the `index`-th series. All are readable on white and on black."""
    return COLOURS[index % len(COLOURS)]
