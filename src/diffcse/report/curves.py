"""Curves over training steps as plain SVG that takes the page's width and colours."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from diffcse.report.forest import axis_range, ticks


@dataclass(frozen=True)
class Curve:
    """One line of a plot."""

    name: str
    points: Sequence[tuple[float, float]]
    """(step, value)."""
    colour: str
    dash: str = "none"
    """As SVG writes it."""


def curves_html(
    curves: Sequence[Curve],
    *,
    form: str = ".2f",
    values: Sequence[float] = (),
    height: int = 150,
    mark: float | None = None,
) -> str:
    """The curves as an HTML fragment.

    Args:
        form: format of the values; its decimals set the least span of the axis.
        values: further values that the vertical axis must hold.
        height: of the plot, in pixels.
        mark: a step that a vertical line marks.
    """
    own = [value for curve in curves for _, value in curve.points]
    decimals = int(form[1]) + 2 * form.endswith("%")
    low, high = axis_range([*own, *values], decimals)
    last = max(max((step for curve in curves for step, _ in curve.points), default=1), 1) * 1.03

    def place(step: float, value: float) -> str:
        return f"{100 * step / last:.2f} {100 * (high - value) / (high - low):.2f}"

    lines = []
    for curve in curves:
        way = " L".join(place(*point) for point in curve.points)
        dots = " ".join(f"M{place(*point)}h0" for point in curve.points)
        style = f'stroke="{curve.colour}" fill="none" vector-effect="non-scaling-stroke"'
        lines.append(
            f'<g><title>{html.escape(curve.name)}</title><path d="M{way}" stroke-width="2" '
            f'stroke-dasharray="{curve.dash}" {style}/><path d="{dots}" stroke-width="5" stroke-linecap="round" '
            f"{style}/></g>"
        )
    across = [(100 * (high - tick) / (high - low), tick) for tick in ticks(low, high, 5)]
    grid = "".join(f'<path class="grid" d="M0 {y:.2f}H100" vector-effect="non-scaling-stroke"/>' for y, _ in across)
    if mark is not None:
        grid += f'<path class="mark" d="M{100 * mark / last:.2f} 0V100" vector-effect="non-scaling-stroke"/>'
    decimal = "%" if form.endswith("%") else ""
    left = "".join(
        f'<span style="top:{y:.2f}%">{f"{tick:.0%}" if decimal else f"{tick:.5g}"}</span>' for y, tick in across
    )
    below = "".join(f'<span style="left:{100 * t / last:.2f}%">{t:,.5g}</span>' for t in ticks(0, last, 4))
    return (
        f'<div class="curve" style="height:{height}px"><div class="ys">{left}</div>'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none">{grid}{"".join(lines)}</svg>'
        f'<div class="xs">{below}</div></div>'
    )
