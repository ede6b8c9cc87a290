"""Plotly's plots of a table: scores beside the published figures, and learning curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from diffcse.report.forest import axis_range
from diffcse.report.parts import AXIS, COLOURS, colour, drawn, escaped, mean_and_sd

_OURS, _PAPER = COLOURS[2], COLOURS[1]


def dots_plot(table: dict[str, Any], name: str, shown: Sequence[dict[str, Any]]) -> str | None:
    """Every run of a column and its row's mean ± sd; beside them, on an axis of their own, the published figures.

    Returns:
        None if no run has a score.
    """
    from plotly.subplots import make_subplots

    column = table["columns"][name]
    rows = [row for row in shown if not row["skipped"] or column["rows"][row["name"]]["published"] is not None]
    scores = [column["rows"][row["name"]] for row in rows]
    if not any(score["n"] for score in scores):
        return None
    digits, places = column["digits"], {row["name"]: len(rows) - 1 - i for i, row in enumerate(rows)}
    published = [score["published"] for score in scores if score["published"] is not None]
    titles = ["ours", "published"] if published else [""]
    figure = make_subplots(1, len(titles), shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=titles)
    for row, score in zip(rows, scores, strict=True):
        _add_row(figure, escaped(_label(row)), places[row["name"]], score, digits)
    figure.update_xaxes(**AXIS, nticks=5)
    ours = [value for score in scores for value in score["values"].values()]
    ours += [score["mean"] + side * score["sd"] for score in scores if score["sd"] for side in (-1, 1)]
    figure.update_xaxes(range=axis_range(ours, digits), row=1, col=1)
    if published:
        figure.update_xaxes(range=axis_range(published, digits), row=1, col=2)
    height = len(rows)
    figure.update_yaxes(
        **{**AXIS, "gridcolor": "rgba(128,136,144,0.12)"},
        range=[-0.6, height - 0.4],
        tickvals=list(places.values()),
        ticktext=[escaped(_cut(_label(row))) for row in rows],
    )
    figure.update_annotations(font={"size": 12})
    figure.update_layout(height=86 + 26 * height, margin={"l": 4, "r": 12, "t": 28, "b": 4}, showlegend=False)
    return drawn(figure, f"dots-{name.replace('@', '-')}")


def _label(row: dict[str, Any]) -> str:
    return row["label"] + (f" ({row['group']})" if row["group"] else "")


def _add_row(figure: Any, label: str, y: float, score: dict[str, Any], digits: int) -> None:
    if score["n"]:
        figure.add_scatter(
            x=list(score["values"].values()),
            y=[y - 0.26] * score["n"],
            mode="markers",
            cliponaxis=False,
            marker={"color": _OURS, "size": 6, "opacity": 0.6},
            hovertemplate=[f"{label}, seed {seed}: %{{x:.{digits}f}}<extra></extra>" for seed in score["values"]],
            row=1,
            col=1,
        )
        figure.add_scatter(
            x=[score["mean"]],
            y=[y],
            mode="markers",
            cliponaxis=False,
            marker={"color": _OURS, "size": 11},
            error_x={"type": "data", "array": [score["sd"] or 0], "color": _OURS, "thickness": 2, "width": 5},
            hovertemplate=f"{label}: {mean_and_sd(score, digits)}<extra></extra>",
            row=1,
            col=1,
        )
    if score["published"] is not None:
        figure.add_scatter(
            x=[score["published"]],
            y=[y],
            mode="markers",
            cliponaxis=False,
            marker={"color": _PAPER, "size": 11, "symbol": "diamond-open", "line": {"width": 2}},
            hovertemplate=f"{label}: {score['published']:.{digits}f} published<extra></extra>",
            row=1,
            col=2,
        )


_LONGEST = 40
"""Characters of a label beside or above a plot."""


def _cut(label: str) -> str:
    return label if len(label) <= _LONGEST else label[: _LONGEST - 1].rstrip(" ,(") + "…"


# ---- learning curves -------------------------------------------------------------------------------------------------

_ACROSS = 3


def curves_plot(table: dict[str, Any]) -> str | None:
    """A small plot for each trained row: the dev score of each seed over the steps, and the reference's mean.

    Returns:
        None if no row was trained.
    """
    from plotly.subplots import make_subplots

    rows = [row for row in table["rows"] if any(len(run["curve"]) > 1 for run in row["runs"])]
    if not rows:
        return None
    by_name = {row["name"]: row for row in rows}
    down = math.ceil(len(rows) / _ACROSS)
    figure = make_subplots(
        down,
        min(_ACROSS, len(rows)),
        shared_xaxes=True,
        shared_yaxes="all",
        horizontal_spacing=0.03,
        vertical_spacing=0.24 / down,
        subplot_titles=[escaped(row["name"]) for row in rows],
    )
    for index, row in enumerate(rows):
        place = {"row": index // _ACROSS + 1, "col": index % _ACROSS + 1}
        _add_curves(figure, row, by_name.get(row["against"] or ""), place)
    values = [value for row in rows for value in mean_curve(row)[1]]
    values += [value for row in rows for run in row["runs"] for _, value in run["curve"] if value is not None]
    figure.update_xaxes(**AXIS, nticks=5, showticklabels=True)
    figure.update_yaxes(**AXIS, nticks=6, range=axis_range(values))
    figure.update_annotations(font={"size": 12})
    figure.update_layout(height=60 + 170 * down, margin={"l": 4, "r": 8, "t": 28, "b": 4}, showlegend=False)
    return drawn(figure, "curves")


def _add_curves(figure: Any, row: dict[str, Any], reference: dict[str, Any] | None, place: dict[str, int]) -> None:
    if reference is not None:
        steps, means = mean_curve(reference)
        line = {"color": COLOURS[0], "width": 2, "dash": "dot"}
        hover = f"{escaped(reference['label'])}, mean: %{{y:.2f}}<extra></extra>"
        figure.add_scatter(x=steps, y=means, mode="lines", line=line, hovertemplate=hover, **place)
    for run in row["runs"]:
        if run["curve"]:
            at, values = zip(*run["curve"], strict=True)
            line = {"color": colour(2), "width": 1.5}
            hover = f"seed {run['seed']}, step %{{x}}: %{{y:.2f}}<extra></extra>"
            figure.add_scatter(x=at, y=values, mode="lines", line=line, hovertemplate=hover, **place)


def mean_curve(row: dict[str, Any]) -> tuple[list[float], list[float]]:
    """(steps, mean dev score of the row's runs at each)."""
    at: dict[float, list[float]] = {}
    for run in row["runs"]:
        for step, value in run["curve"]:
            if value is not None:
                at.setdefault(step, []).append(value)
    return list(at), [sum(values) / len(values) for values in at.values()]
