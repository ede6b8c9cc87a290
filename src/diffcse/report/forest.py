"""Forest plots: differences with their intervals, as part of a page or as a picture in light and dark.

Plain SVG, without a drawing library. In a page each row is a line of text above or beside its interval, so that the
plot fits a phone; colours are the page's.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from diffcse.report.parts import run_values, signed


@dataclass(frozen=True)
class Interval:
    """A difference in points, and its 95 % interval if it has one."""

    label: str
    difference: float
    low: float | None = None
    high: float | None = None
    verdict: str | None = None
    """"better", "worse" or "tie"; None where nothing is concluded."""

    @classmethod
    def of(cls, label: str, effect: dict[str, Any], verdict: str | None) -> Interval:
        """From an effect as plain JSON values (`evaluation.seeds.Effect`)."""
        return cls(label, effect["difference"], effect["low"], effect["high"], verdict)

    @property
    def ends(self) -> list[float]:
        """All its known values."""
        return [value for value in (self.difference, self.low, self.high) if value is not None]


def axis_range(values: Sequence[float], digits: int = 2) -> tuple[float, float]:
    """Low and high end of an axis that holds `values`, with a margin.

    It spans at least a hundred units of the last digit shown, so that 0.08 points do not fill the plot.
    """
    low, high = min(values), max(values)
    span = max(1.15 * (high - low), 100 * 10.0**-digits)
    middle = (low + high) / 2
    return middle - span / 2, middle + span / 2


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round values between `low` and `high`, at most `most`, at distances of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def forest_html(rows: Sequence[Interval], *, digits: int = 2) -> str:
    """Differences with their intervals as an HTML fragment that takes the page's width and colours."""
    if not rows:
        return ""
    low, high = axis_range([0.0, *(value for row in rows for value in row.ends)], digits)
    zero = _Axis(low, high).line("zero", 0, 0)
    lines = []
    for row in rows:
        axis = _Axis(low, high)
        known = row.low is not None and row.high is not None
        shapes = zero + (axis.line("bar", row.low, row.high) if known else "") + axis.point(row.difference, 5)
        lines.append((row.verdict or "open", row.label, signed(row.difference, digits), shapes))
    return _lines_html(lines, _Axis(low, high))


def dots_html(rows: Sequence[tuple[str, dict[str, Any]]], *, digits: int = 2) -> str:
    """Scores as an HTML fragment: for each (label, score) the mean, ± the standard deviation, and every run."""
    shown = [(label, score, run_values(score)) for label, score in rows if score["mean"] is not None]
    if not shown:
        return ""
    values = [value for _, score, each in shown for value in (score["mean"], *each)]
    values += [score["mean"] + side * (score["sd"] or 0) for _, score, _ in shown for side in (-1, 1)]
    axis = _Axis(*axis_range(values, digits))
    lines = []
    for label, score, each in shown:
        spread = score["sd"] or 0
        shapes = axis.line("bar", score["mean"] - spread, score["mean"] + spread) + axis.point(score["mean"], 5)
        shapes += "".join(axis.point(value, 3, y=15) for value in each)
        lines.append(("dots", label, f"{score['mean']:.{digits}f}", shapes))
    return _lines_html(lines, axis)


@dataclass(frozen=True)
class _Axis:
    """Shapes of SVG, placed in percent of the width."""

    low: float
    high: float

    def at(self, value: float) -> str:
        return f"{100 * (value - self.low) / (self.high - self.low):.2f}%"

    def line(self, kind: str, first: float | None, last: float | None) -> str:
        ys = 'y1="-8" y2="24"' if kind == "zero" else 'y1="8" y2="8"'
        return f'<line class="{kind}" x1="{self.at(first or 0)}" x2="{self.at(last or 0)}" {ys}/>'

    def point(self, value: float, radius: int, y: int = 8) -> str:
        return f'<circle cx="{self.at(value)}" cy="{y}" r="{radius}"/>'


def _lines_html(lines: Sequence[tuple[str, str, str, str]], axis: _Axis) -> str:
    """(class, label, figure, shapes) as lines of a plot, and its axis below."""
    html_lines = [
        f'<div class="{kind}"><span>{html.escape(label)}</span><b>{figure}</b>'
        f'<svg width="100%" height="18">{shapes}</svg></div>'
        for kind, label, figure, shapes in lines
    ]
    plain = axis.low > 0  # scores; differences have signs
    marks = "".join(
        f'<text x="{axis.at(tick)}" y="12">{f"{tick:.4g}" if plain else _tick(tick)}</text>'
        for tick in ticks(axis.low, axis.high, 5)
    )
    bottom = f'<div class="axis"><span></span><b></b><svg width="100%" height="16">{marks}</svg></div>'
    words = "; ".join(f"{label}: {figure}" for _, label, figure, _ in lines)
    return f'<div class="forest" role="img" aria-label="{html.escape(words)}">{"".join(html_lines)}{bottom}</div>'


def _tick(value: float) -> str:
    return "0" if abs(value) < 1e-9 else f"{value:+.4g}".replace("-", "−")


# ---- a picture -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Panel:
    """One set of a picture: a row for each method, None where it was not measured."""

    title: str
    rows: Sequence[Interval | None]


THEMES = {
    "light": {"paper": "#ffffff", "ink": "#1b1f24", "muted": "#57606a", "rule": "#d8dee4", "better": "#1a7f37",
              "worse": "#b42318", "tie": "#808890"},
    "dark": {"paper": "#0d1117", "ink": "#e6e9ee", "muted": "#a3adb8", "rule": "#323942", "better": "#4cc266",
             "worse": "#ff8a7a", "tie": "#8b949e"},
}  # fmt: skip
_WIDTH, _LABELS, _GAP, _ROW, _TOP = 800, 240, 22, 40, 78


def forest_picture(title: str, labels: Sequence[str], panels: Sequence[Panel], note: str, theme: str) -> str:
    """An SVG of 800 units' width: methods as rows, sets side by side, all on one scale.

    Args:
        labels: of the rows; each panel has as many.
        note: a line below the plot.
        theme: one of `THEMES`.
    """
    colours = THEMES[theme]
    values = [value for panel in panels for row in panel.rows if row is not None for value in row.ends]
    low, high = axis_range([0.0, *values])
    width = (_WIDTH - _LABELS - 16) / len(panels) - _GAP
    bottom = _TOP + _ROW * len(labels)
    height = bottom + 68
    shapes = [_text(20, 30, title, "title")]
    shapes += [_text(20, _TOP + _ROW * (i + 0.5) + 5, label, "ink") for i, label in enumerate(labels)]
    for number, panel in enumerate(panels):
        left = _LABELS + number * (width + _GAP)
        shapes += _panel(panel, left, width, low, high, bottom)
    shapes.append(_text(20, height - 14, note, "muted"))
    style = (
        f"text{{font:14px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}}.ink{{fill:{colours['ink']}}}"
        f".title{{fill:{colours['ink']};font-size:17px;font-weight:600}}.muted{{fill:{colours['muted']};font-size:12px}}"
        f".value{{fill:{colours['ink']};font-size:12px;paint-order:stroke;stroke:{colours['paper']};stroke-width:4px}}"
        f".zero{{stroke:{colours['muted']};stroke-width:1.5}}.grid{{stroke:{colours['rule']}}}"
        + "".join(f".{name}{{stroke:{colours[name]};fill:{colours[name]}}}" for name in ("better", "worse", "tie"))
        + ".bar{stroke-width:3}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" width="{_WIDTH}" role="img" '
        f'aria-label="{html.escape(title)}"><style>{style}</style>'
        f'<rect width="{_WIDTH}" height="{height:.0f}" rx="6" fill="{colours["paper"]}"/>{"".join(shapes)}</svg>\n'
    )


def _panel(panel: Panel, left: float, width: float, low: float, high: float, bottom: float) -> list[str]:
    def at(value: float) -> float:
        return left + width * (value - low) / (high - low)

    shapes = [_text(left + width / 2, _TOP - 14, panel.title, "ink", anchor="middle")]
    for tick in ticks(low, high, 4):
        kind = "zero" if abs(tick) < 1e-9 else "grid"
        shapes.append(f'<line class="{kind}" x1="{at(tick):.1f}" x2="{at(tick):.1f}" y1="{_TOP}" y2="{bottom}"/>')
        shapes.append(_text(at(tick), bottom + 18, _tick(tick), "muted", anchor="middle"))
    for place, row in enumerate(panel.rows):
        y = _TOP + _ROW * (place + 0.5)
        if row is None:
            shapes.append(_text(at(0), y + 4, "not measured", "muted", anchor="middle"))
            continue
        kind = row.verdict or "tie"
        if row.low is not None and row.high is not None:
            ends = f'x1="{at(row.low):.1f}" x2="{at(row.high):.1f}"'
            shapes.append(f'<line class="bar {kind}" {ends} y1="{y:.1f}" y2="{y:.1f}"/>')
        shapes.append(f'<circle class="{kind}" cx="{at(row.difference):.1f}" cy="{y:.1f}" r="5"/>')
        shapes.append(_text(at(row.difference), y - 9, signed(row.difference), "value", anchor="middle"))
    return shapes


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'
