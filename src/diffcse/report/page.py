"""The quickstart's page: everything its records say, as one HTML file that needs no network.

A record outlives the terminal it was printed on; the page is for reading it next week, or for handing to someone
else. It is drawn from records alone, so it can be drawn again without training anything, and it shows what is
missing (a figure that was not finite is null in run.json) as a dash instead of hiding it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from diffcse.record import Record
from diffcse.report.parts import COLOURS, MISSING, drawn, escaped, template_and_plotly

_NOT_FINITE = ("nan", "inf", "-inf")
"""How a table's cell, which is text already, spells what has no value."""

_RUN_STYLES = (("#2f7fc1", "dash"), ("#d97706", "solid"), ("#8a63d2", "dashdot"))
"""Colour and stroke of each run's lines, in the order of the runs; readable on white and on black."""

_VERDICTS = {
    "better": ("▲", "#2a9d4a", "triangle-up"),
    "tie": ("=", COLOURS[0], "circle"),
    "worse": ("▼", "#d64545", "triangle-down"),
}


@dataclass(frozen=True)
class Curve:
    """One line of a panel."""

    name: str
    steps: list[float]
    values: list[float | None]
    colour: str
    stroke: str
    last: str
    """The last value there is, formatted."""

    @property
    def dash_array(self) -> str:
        """The stroke as SVG writes it, for the legend."""
        return {"dash": "6 3", "dot": "2 3", "dashdot": "6 3 2 3"}.get(self.stroke, "none")


@dataclass(frozen=True)
class Panel:
    """One small plot of the training curves."""

    title: str
    about: str
    curves: list[Curve]
    figure: str
    """HTML, safe as it is."""


@dataclass(frozen=True)
class Piece:
    """A token of an edited sentence as it is shown: without the mark that joins it to the piece before."""

    text: str
    was: str | None
    """The original, if the token was replaced."""
    probability: float | None


# Title, explanation, number format, and the log's keys with a name each ("": the run's own).
_PANELS: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    (
        "Contrastive loss",
        "Nats. How well a sentence finds its other view (dropout's, or its next one) in the batch; lower is better.",
        ".4f",
        {"contrastive": ""},
    ),
    ("Positive cosine", "Between the two views of a sentence.", ".3f", {"positive_cosine": ""}),
    ("Negative cosine", "Between different sentences of a batch.", ".3f", {"negative_cosine": ""}),
    (
        "RTD log-loss",
        "Nats a token. How surprised the discriminator is by which tokens were replaced; lower is better.",
        ".4f",
        {"rtd_log_loss": ""},
    ),
    (
        "RTD accuracy",
        "Share of tokens judged rightly, and what always giving the commoner answer would score.",
        ".1%",
        {"rtd_accuracy": "", "rtd_majority": "majority"},
    ),
    (
        "RTD accuracy by kind",
        "The same, apart for tokens that were replaced and for those that were kept.",
        ".1%",
        {"rtd_accuracy_replaced": "replaced", "rtd_accuracy_kept": "kept"},
    ),
    ("Dev score", "Spearman, points; higher is better.", ".2f", {"dev": ""}),
)


def quickstart_page(record: Record, runs: dict[str, Record]) -> str:
    """The quickstart's record and those of its training runs (by name) as one self-contained HTML page.

    Raises:
        InputError: plotly or jinja2 is not installed.
    """
    template, plotly = template_and_plotly(
        "quickstart.html", finalize=_shown, filters={"num": _formatted, "duration": _duration}
    )
    scores = record.scores
    verdicts = scores.get("verdicts") or []
    different, shared = _recipes(record.config)
    page = template.render(
        record=record,
        runs=runs,
        data=record.data or {},
        steps=_steps(record, runs),
        warnings=list(dict.fromkeys([*record.warnings, *(w for run in runs.values() for w in run.warnings)])),
        columns=scores.get("columns") or [],
        rows=[[None if cell in _NOT_FINITE else cell for cell in row] for row in scores.get("rows") or []],
        verdicts=verdicts,
        marks={name: mark for name, (mark, *_) in _VERDICTS.items()},
        forest=_forest(verdicts),
        panels=_panels(runs),
        gain=scores.get("conditional_gain") or {},
        edited=[_words(sentence) for sentence in scores.get("edited") or []],
        searches=scores.get("searches") or [],
        different=different,
        shared=shared,
        facts=_facts(record, runs),
        plotly=plotly,
    )
    return str(page)


# ---- values as text ------------------------------------------------------------------------------------------------


def _number(value: Any) -> float | None:
    """`value` if it is a finite number."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def _formatted(value: Any, form: str = "") -> str:
    number = _number(value)
    return MISSING if number is None else format(number, form)


def _shown(value: Any) -> Any:
    """What the template prints for `value`. A key that is missing arrives as a jinja2 object whose text is empty."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return MISSING
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value if isinstance(value, int | float) or hasattr(value, "__html__") else (str(value) or MISSING)


def _duration(seconds: Any) -> str:
    number = _number(seconds)
    if number is None:
        return MISSING
    return f"{number:.0f} seconds" if number < 100 else f"{number / 60:.1f} minutes"


# ---- the parts -----------------------------------------------------------------------------------------------------


def _steps(record: Record, runs: dict[str, Record]) -> str:
    """Steps each run took: one number if all took as many, which they should have."""
    taken = [run.scores.get("steps") for run in runs.values()]
    asked = [config.get("training", {}).get("max_steps") for config in record.config.values()]
    known = {f"{n:,.0f}" for n in map(_number, taken) if n is not None} or {
        f"{n:,.0f}" for n in map(_number, asked) if n is not None
    }
    return " or ".join(sorted(known)) or MISSING


def _words(tokens: Iterable[dict[str, Any]]) -> list[list[Piece]]:
    """The tokens of a sentence, WordPiece continuations joined to the word they continue."""
    words: list[list[Piece]] = []
    for token in tokens:
        text, was = (str(token.get(key) or MISSING) for key in ("token", "original"))
        joins = text.startswith("##") and len(text) > 2 and bool(words)
        if joins:
            text, was = text[2:], was.removeprefix("##")
        piece = Piece(text, was if token.get("replaced") else None, _number(token.get("probability")))
        if joins:
            words[-1].append(piece)
        else:
            words.append([piece])
    return words


def _recipes(configs: dict[str, Any]) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """Dotted keys whose values differ between the recipes (a value each), and those they share."""
    flat = [_flat(config) for config in configs.values()]
    keys = list(dict.fromkeys(key for one in flat for key in one))
    values = {key: [one.get(key) for one in flat] for key in keys}
    different = {key: each for key, each in values.items() if any(value != each[0] for value in each)}
    return different, {key: each[0] for key, each in values.items() if key not in different}


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(config, dict):
        return {prefix.removesuffix("."): config}
    return {key: value for name, inner in config.items() for key, value in _flat(inner, f"{prefix}{name}.").items()}


def _facts(record: Record, runs: dict[str, Record]) -> dict[str, dict[str, Any]]:
    """Small tables of names and values, by title."""
    read = {f"What {name} read": run.data for name, run in runs.items()}
    first = next(iter(read.values()), {})
    if all(data == first for data in read.values()):
        read = {"What each run read": first}
    time = {"all": _duration(record.timing.get("seconds"))}
    for name, run in runs.items():
        time[f"training {name}"] = _duration(run.timing.get("seconds"))
    return {
        "Text and pairs": record.data,
        **read,
        "Time": time,
        "Hardware": record.hardware,
        "Versions": record.versions,
        "Record": {"status": record.status, "created": record.created, "schema": record.schema},
    }


def _panels(runs: dict[str, Record]) -> list[Panel]:
    """The training curves the logs have something for."""
    panels: list[Panel] = []
    for title, about, form, keys in _PANELS:
        having = [name for name, run in runs.items() if any(key in entry for entry in run.log for key in keys)]
        curves = []
        for index, (name, run) in enumerate(runs.items()):
            colour, stroke = _RUN_STYLES[index % len(_RUN_STYLES)]
            for position, (key, label) in enumerate(keys.items()):
                points = [
                    (step, _number(entry[key]))
                    for entry in run.log
                    if key in entry and (step := _number(entry.get("step"))) is not None
                ]
                finite = [value for _, value in points if value is not None]
                if not finite:
                    continue
                own_name = label if label and len(having) == 1 else f"{name}, {label}" if label else name
                curves.append(
                    Curve(
                        name=own_name,
                        steps=[step for step, _ in points],
                        values=[value for _, value in points],
                        colour=colour if position == 0 else COLOURS[0],
                        stroke=stroke if position == 0 else "dot",
                        last=format(finite[-1], form),
                    )
                )
        if curves:
            panels.append(Panel(title, about, curves, _small_plot(f"curve-{len(panels)}", curves, form)))
    return panels


# ---- plotly --------------------------------------------------------------------------------------------------------

_GRID = "rgba(128,136,144,0.25)"
_AXIS = {
    "gridcolor": _GRID,
    "zeroline": False,
    "fixedrange": True,
    "automargin": True,
    "tickfont": {"size": 11},
    "ticklabelstandoff": 3,
}


def _small_plot(div: str, curves: list[Curve], form: str) -> str:
    import plotly.graph_objects as go

    figure = go.Figure()
    size = 4 if any(len(curve.steps) > 1 for curve in curves) else 7
    for curve in curves:
        figure.add_scatter(
            x=curve.steps,
            y=curve.values,
            name=escaped(curve.name),
            mode="lines+markers",
            line={"color": curve.colour, "dash": curve.stroke, "width": 2},
            marker={"size": size + 4, "symbol": "circle-open"} if curve.stroke == "dash" else {"size": size},
            hovertemplate=f"%{{y:{form}}}",
        )
    values = [value for curve in curves for value in curve.values if value is not None]
    low, high = min(values), max(values)
    margin = 0.08 * (high - low)
    if max(len(curve.steps) for curve in curves) == 1 or not margin:  # no curve yet: do not blow up what is nothing
        margin = max(margin, 0.2 * abs(high)) or 0.01
    last = max(step for curve in curves for step in curve.steps)
    figure.update_layout(
        height=190,
        margin={"l": 4, "r": 8, "t": 6, "b": 4},
        hovermode="x unified",
        showlegend=False,
        xaxis={
            **_AXIS,
            "range": [0, 1.04 * max(last, 1)],
            "nticks": 6,
            "title": {"text": "step", "font": {"size": 11}},
            "spikethickness": -1,  # without the broad outline that plotly lays under the pointer's line
        },
        yaxis={**_AXIS, "range": [low - margin, high + margin], "nticks": 6, "tickformat": _tick_format(form)},
    )
    return drawn(figure, div)


def _tick_format(form: str) -> str:
    """Percentages stay percentages; other ticks get the decimals plotly finds fitting."""
    return ".0%" if form.endswith("%") else ""


def _forest(verdicts: list[dict[str, Any]]) -> str | None:
    """The differences with their intervals, grouped by measure; None if there is nothing to draw."""
    import plotly.graph_objects as go

    rows = [v for v in verdicts if _number(v.get("difference")) is not None]
    if not rows:
        return None
    figure, ticks, y = go.Figure(), {}, 0
    for measure in dict.fromkeys(str(row.get("measure")) for row in rows):
        figure.add_annotation(
            text=f"<b>{escaped(measure)}</b>",
            xref="paper",
            x=0,
            y=y,
            xanchor="left",
            showarrow=False,
            font={"size": 12},
            bgcolor="#ffffff",
        )
        y -= 1
        for row in (row for row in rows if str(row.get("measure")) == measure):
            _, colour, symbol = _VERDICTS.get(str(row.get("verdict")), ("", COLOURS[0], "circle"))
            centre, low, high = (_number(row.get(key)) for key in ("difference", "low", "high"))
            interval = low is not None and high is not None
            figure.add_scatter(
                x=[centre],
                y=[y],
                mode="markers",
                marker={"color": colour, "symbol": symbol, "size": 9},
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [high - centre if interval else 0],  # type: ignore[operator]
                    "arrayminus": [centre - low if interval else 0],  # type: ignore[operator]
                    "color": colour,
                    "thickness": 2,
                    "width": 5,
                },
                hovertemplate=escaped(
                    f"{row.get('other')}: {_formatted(centre, '+.2f')} points, "
                    f"95 % {_formatted(low, '+.2f')} to {_formatted(high, '+.2f')}"
                )
                + "<extra></extra>",
            )
            ticks[y] = escaped(str(row.get("other")))
            y -= 1
    figure.add_vline(x=0, line={"color": COLOURS[0], "width": 1.5})
    figure.update_layout(
        height=70 + 27 * -y,
        margin={"l": 4, "r": 12, "t": 4, "b": 4},
        showlegend=False,
        xaxis={**_AXIS, "title": {"text": "points", "font": {"size": 11}}},
        yaxis={
            **_AXIS,
            "showgrid": False,
            "range": [y + 0.4, 0.6],
            "tickvals": list(ticks),
            "ticktext": list(ticks.values()),
        },
    )
    return drawn(figure, "forest")
