"""Forest plots: round ticks, axes that do not magnify, every interval where its numbers are."""

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffcse.report.forest import THEMES, Interval, Panel, axis_range, forest_html, forest_picture, ticks


@given(st.lists(st.floats(-100, 100), min_size=1), st.integers(0, 4))
def test_an_axis_holds_its_values_and_never_spans_less_than_a_hundred_last_digits(values, digits):
    low, high = axis_range(values, digits)
    assert low <= min(values)
    assert high >= max(values)
    assert high - low >= 100 * 10.0**-digits * (1 - 1e-9)
    marks = ticks(low, high)
    assert 2 <= len(marks) <= 7
    assert all(low - 1e-6 <= mark <= high + 1e-6 for mark in marks)


def test_ticks_are_round():
    assert ticks(-0.5, 0.5, 5) == pytest.approx([-0.4, -0.2, 0, 0.2, 0.4])
    assert ticks(60, 85, 5) == pytest.approx([60, 65, 70, 75, 80, 85])
    assert ticks(-3.1, 1.4, 4) == pytest.approx([-2, 0])


def test_a_small_difference_does_not_fill_the_plot():
    page = forest_html([Interval("small", 0.08, 0.06, 0.10, "better")])
    first, last = (float(x) for x in re.search(r'class="bar" x1="(.+?)%" x2="(.+?)%"', page).groups())
    assert last - first == pytest.approx(4, abs=0.1)  # 0.04 of a whole point


def test_each_row_has_its_interval_and_no_text_is_believed():
    rows = [
        Interval("<b>one</b>", 1.0, 0.5, 2.0, "better"),
        Interval("two", -3.0),
        Interval("three", 0.5, -1, 2, "tie"),
    ]
    page = forest_html(rows)
    assert re.findall(r'<div class="(\w+)"><span>', page) == ["better", "open", "tie", "axis"]
    assert page.count('y1="8"') == 2
    assert "<b>one" not in page
    root = ET.fromstring(page)
    assert root.get("aria-label") == "<b>one</b>: +1.00; two: -3.00; three: +0.50"
    assert forest_html([]) == ""


@pytest.mark.parametrize("theme", THEMES)
def test_a_picture_is_plain_svg_on_one_scale(theme):
    panels = [Panel("A & B", [Interval("x", 1, 0, 2, "better"), None]), Panel("C", [Interval("x", 1, 0, 2), None])]
    root = ET.fromstring(forest_picture("Title <1>", ["x", "y"], panels, "a note", theme))
    space = "{http://www.w3.org/2000/svg}"
    texts = [each.text for each in root.iter(f"{space}text")]
    assert {"Title <1>", "x", "y", "A & B", "C", "a note", "not measured"} <= set(texts)
    bars = [each for each in root.iter(f"{space}line") if each.get("class").startswith("bar")]
    widths = [float(bar.get("x2")) - float(bar.get("x1")) for bar in bars]
    assert widths[0] == pytest.approx(widths[1], abs=0.11)
    assert {each.tag for each in root.iter()} == {
        f"{space}{tag}" for tag in ("svg", "style", "rect", "text", "line", "circle")
    }
