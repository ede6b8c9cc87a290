"""The quickstart's records as one HTML page that needs no network.

The page is drawn from records alone, so it can be drawn again without training. A figure that was not finite is null
in run.json and a dash on the page.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from typing import Any

from diffcse.record import Record
from diffcse.report.curves import Curve, curves_html
from diffcse.report.forest import Interval, forest_html
from diffcse.report.parts import COLOURS, MISSING, page_template

_NOT_FINITE = ("nan", "inf", "-inf")
"""Cells of a table that have no value. They are text already."""

_RUN_STYLES = (("#2f7fc1", "6 3"), ("#d97706", "none"), ("#8a63d2", "6 3 2 3"))
"""Colour and stroke of each run's lines, in the order of the runs. All are readable on white and on black."""

_VERDICTS = {"better": "▲", "tie": "=", "worse": "▼"}


@dataclass(frozen=True)
class Panel:
    """One small plot of the training curves."""

    title: str
    about: str
    curves: list[tuple[Curve, str]]
    """Each with its last value, formatted."""
    figure: str
    """HTML."""


@dataclass(frozen=True)
class Piece:
    """A token of an edited sentence as it is shown, without the mark of a word's continuation."""

    text: str
    was: str | None
    """The original, if the token was replaced."""
    probability: float | None


# Title, explanation, number format, and the log's keys with a name each ("": the run's own).
_PANELS: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    (
        "Contrastive loss",
        "Nats. How well a sentence finds its other view (dropout's, or its next one) in the batch. Lower is better.",
        ".4f",
        {"contrastive": ""},
    ),
    ("Positive cosine", "Between the two views of a sentence.", ".3f", {"positive_cosine": ""}),
    ("Negative cosine", "Between different sentences of a batch.", ".3f", {"negative_cosine": ""}),
    (
        "RTD log-loss",
        "Nats a token, of the discriminator's answers which tokens were replaced. Lower is better.",
        ".4f",
        {"rtd_log_loss": ""},
    ),
    (
        "RTD accuracy",
        "Share of tokens judged rightly, and the share that the commoner answer alone would get.",
        ".1%",
        {"rtd_accuracy": "", "rtd_majority": "majority"},
    ),
    (
        "RTD accuracy by kind",
        "The same for the replaced tokens alone, and for the kept tokens alone.",
        ".1%",
        {"rtd_accuracy_replaced": "replaced", "rtd_accuracy_kept": "kept"},
    ),
    ("Dev score", "Spearman, points. Higher is better.", ".2f", {"dev": ""}),
)


def quickstart_page(record: Record, runs: dict[str, Record]) -> str:
    """The quickstart's record and those of its training runs (by name) as one self-contained HTML page.

    Raises:
        InputError: jinja2 is not installed.
    """
    template = page_template("quickstart.html", finalize=_shown, filters={"num": _formatted, "duration": _duration})
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
        marks=_VERDICTS,
        headline=_headline(verdicts),
        forest=_forest(verdicts),
        panels=_panels(runs),
        gain=scores.get("conditional_gain") or {},
        edited=[_words(sentence) for sentence in scores.get("edited") or []],
        different=different,
        shared=shared,
        facts=_facts(record, runs),
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
    """What the template prints for `value`. A missing key arrives as a jinja2 object whose text is empty."""
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
    """Steps that each run took: one number if all took as many."""
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
    """The panels for which the logs have values."""
    panels: list[Panel] = []
    for title, about, form, keys in _PANELS:
        having = [name for name, run in runs.items() if any(key in entry for entry in run.log for key in keys)]
        curves = []
        for index, (name, run) in enumerate(runs.items()):
            for position, (key, label) in enumerate(keys.items()):
                points = [
                    (step, value)
                    for entry in run.log
                    if (step := _number(entry.get("step"))) is not None
                    and (value := _number(entry.get(key))) is not None
                ]
                if points:
                    own = label if label and len(having) == 1 else f"{name}, {label}" if label else name
                    paint, dash = _RUN_STYLES[index % len(_RUN_STYLES)] if position == 0 else (COLOURS[0], "2 3")
                    curves.append((Curve(own, points, paint, dash), format(points[-1][1], form)))
        if curves:
            panels.append(Panel(title, about, curves, curves_html([curve for curve, _ in curves], form=form)))
    return panels


def _headline(verdicts: list[dict[str, Any]]) -> str:
    """What DiffCSE is better and worse than, by measure; empty without verdicts."""
    sentences = []
    for measure in dict.fromkeys(str(row.get("measure")) for row in verdicts):
        parts = []
        for verdict, words in (("better", "better than"), ("worse", "worse than"), ("tie", "level with")):
            others = [
                str(row.get("other"))
                for row in verdicts
                if str(row.get("measure")) == measure and row.get("verdict") == verdict
            ]
            parts += [f"{words} {', '.join(others)}"] if others else []
        sentences += [f"On {measure} DiffCSE is {'; '.join(parts)}."] if parts else []
    return " ".join(sentences)


def _forest(verdicts: list[dict[str, Any]]) -> str:
    """The differences with their intervals, by measure; empty if there is none."""
    parts = []
    for measure in dict.fromkeys(str(row.get("measure")) for row in verdicts):
        rows = []
        for row in verdicts:
            centre, low, high = (_number(row.get(key)) for key in ("difference", "low", "high"))
            if str(row.get("measure")) == measure and centre is not None:
                verdict = row.get("verdict") if row.get("verdict") in _VERDICTS else None
                rows.append(Interval(f"against {row.get('other')}", centre, low, high, verdict))
        parts += [f"<h3>{escape(measure)}</h3>", forest_html(rows, digits=1)] if rows else []
    return "".join(parts)
