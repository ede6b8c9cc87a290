"""Curves: every point where its numbers are, axes that do not magnify, nothing but SVG."""

import re
import xml.etree.ElementTree as ET

import pytest

from diffcse.report.curves import Curve, curves_html


def points(page, place=0):
    """(x, y) in percent of the plot, of a curve."""
    paths = [each.get("d") for each in ET.fromstring(page).iter("path") if each.get("stroke-dasharray")]
    return [tuple(map(float, pair.split())) for pair in re.split(r" ?[ML]", paths[place])[1:]]


def test_points_lie_where_their_numbers_are():
    page = curves_html([Curve("a", [(0, 10.0), (50, 12.0), (100, 11.0)], "#123456")])
    (x0, y0), (x1, y1), (x2, y2) = points(page)
    assert (x0, x1 * 2) == (0, pytest.approx(x2, abs=0.03))
    assert (y0 - y2) * 2 == pytest.approx(y0 - y1, abs=0.05)
    assert y0 > y2 > y1, "up is more"
    assert "#123456" in page


def test_a_flat_curve_stays_flat():
    page = curves_html([Curve("a", [(1, 0.5), (2, 0.501)], "red")], form=".3f")
    (_, first), (_, second) = points(page)
    assert abs(first - second) < 1.1, "0.001 of a span of 0.1"
    assert "%</span>" in curves_html([Curve("a", [(1, 0.5)], "red")], form=".1%")


def test_curves_can_share_an_axis_and_no_name_is_believed():
    one = curves_html([Curve("<script>", [(1, 1.0)], "red")], values=[0.0, 10.0])
    other = curves_html([Curve("b", [(1, 10.0)], "red")], values=[0.0, 1.0])
    assert "<script>" not in one
    assert points(one)[0][1] > 80 > 20 > points(other)[0][1]
