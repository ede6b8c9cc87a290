"""What pages and tables share: figures as text, Markdown, plots, templates."""

from __future__ import annotations

import html
from collections.abc import Callable
from importlib import resources
from typing import Any

from diffcse.errors import InputError

MISSING = "–"
COLOURS = ("#808890", "#d97706", "#2f7fc1", "#8a63d2", "#2a9d4a", "#c2417c")
_GRID = "rgba(128,136,144,0.25)"
AXIS = {"gridcolor": _GRID, "zeroline": False, "fixedrange": True, "automargin": True, "tickfont": {"size": 12}}


def mean_and_sd(score: dict[str, Any], digits: int = 2) -> str:
    """Mean and standard deviation. Without one: the mean, and the values of the runs if there are several.

    `score` has "mean", "sd" and "values", a list or a dict by seed.
    """
    if score["mean"] is None:
        return MISSING
    mean = f"{round(score['mean'], digits) + 0.0:.{digits}f}"  # adding 0.0 turns -0.0 into 0.0
    if score["sd"] is not None:
        return f"{mean} ± {score['sd']:.{digits}f}"
    values = score.get("values") or []
    each = [f"{value:.{digits}f}" for value in (values.values() if isinstance(values, dict) else values)]
    return f"{mean} ({', '.join(each)})" if len(each) > 1 else mean


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


def template_and_plotly(
    name: str, *, finalize: Callable[[Any], Any] | None = None, filters: dict[str, Any] | None = None
) -> tuple[Any, str]:
    """The page's template, and plotly's code to put into it.

    Args:
        finalize: applied to every value before it is written.
        filters: further filters of the template, by name.

    Raises:
        InputError: plotly or jinja2 is not installed.
    """
    try:
        import jinja2
        import plotly.offline
    except ImportError as error:
        raise InputError(
            f'the page needs plotly and jinja2, and {error.name} is missing: pip install "diffcse[report]"'
        ) from error

    def read(file: str) -> str:
        return resources.files("diffcse.report").joinpath(file).read_text(encoding="utf-8")

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(read), autoescape=True, trim_blocks=True, lstrip_blocks=True, finalize=finalize
    )
    environment.filters.update(filters or {})
    return environment.get_template(name), plotly.offline.get_plotlyjs()


def colour(index: int) -> str:
    """The colour of the `index`-th series. All are readable on white and on black."""
    return COLOURS[index % len(COLOURS)]


def escaped(text: str) -> str:
    """`text` for a plotly label, in which tags and entities have a meaning."""
    return html.escape(text, quote=False)


def drawn(figure: Any, div: str) -> str:
    """The figure as an HTML fragment without plotly's code. The page's style sheet sets the colours of its text."""
    figure.update_layout(
        template="none",
        dragmode=False,
        hovermode=figure.layout.hovermode or "closest",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "color": COLOURS[0]},
        hoverlabel={"bgcolor": "#262c36", "font": {"color": "#ffffff", "size": 12}},
    )
    return str(
        figure.to_html(
            config={"responsive": True, "displayModeBar": False},
            include_plotlyjs=False,
            full_html=False,
            default_height=f"{figure.layout.height}px",
            div_id=div,
        )
    )
