"""The comparison as Markdown and as a page: every figure is there, nothing is loaded, no text is believed."""

import re
import sys

import pytest

from diffcse.errors import InputError
from diffcse.report.comparison import comparison_markdown, comparison_page


def effect(difference=1.25, low=0.5, high=2.0, probability=0.9987, pairs=0.3, seeds=0.2, p=0.0123, verdict="better"):
    return {
        "difference": difference, "low": low, "high": high, "probability": probability,
        "error_pairs": pairs, "error_seeds": seeds, "p_seeds": p, "seeds": 4 if seeds else 0,
        "verdict": verdict,
    }  # fmt: skip


def made(one=None, name="ours"):
    one = one or effect()
    score = lambda *values: {"mean": sum(values) / len(values), "sd": 0.5, "values": list(values)}  # noqa: E731
    methods = [
        {"method": "plain", "seeds": [1, 2, 3, 4], "scores": {"STS12": score(60.0, 61.0, 62.0, 61.0)}},
        {"method": name, "seeds": [1, 2, 3, 4], "scores": {"STS12": score(61.0, 62.5, 63.0, 62.5)}},
    ]
    return {
        "methods": ["plain", name],
        "baseline": "plain",
        "resamples": 1000,
        "metric": "points",
        "checkpoints": {
            "best": {
                "sets": ["STS12"],
                "headlines": ["STS12"],
                "methods": methods,
                "effects": [{"method": name, "against": "plain", "sets": {"STS12": one}}],
            }
        },
        "data": {"STS12": {"sha256": "ab" * 32, "pairs": 3108}},
        "sources": [{"run": "runs/a", "method": "plain", "seed": 1}],
        "notes": ["something to know"],
        "versions": {"python": "3.12"},
    }


def test_what_is_said_of_some_methods_names_them():
    found = made()
    (part,) = found["checkpoints"].values()
    part["headlines"] = ["average STS"]
    several = [
        {"method": name, "against": "plain", "sets": {"average STS": one}}
        for name, one in (
            ("ours", effect()),
            ("theirs", effect(seeds=None, p=None)),
            ("other", {**effect(), "seeds": 0}),
        )
    ]
    part["effects"] = several
    text = comparison_markdown(found)
    assert "\nours, other: Intervals cover other seeds (t-test over seeds) and other sentence pairs" in text
    assert "\ntheirs: Intervals cover other sentence pairs alone" in text
    assert "\nours: Runs of the same seed are compared" in text
    assert "\nother: The methods share too few seeds" in text
    assert "ours is clearly better than plain on the average of the STS sets (+1.25 points)" in text
    level = effect(0.0, None, None, None, pairs=None, verdict=None)
    part["effects"] = [{"method": "ours", "against": "plain", "sets": {"average STS": level}}]
    assert "+0.00 points, no verdict: every seed gave the same difference" in comparison_markdown(found)


def drawn(found):
    pytest.importorskip("jinja2")
    return comparison_page(found)


def test_markdown_says_everything():
    text = comparison_markdown(made())
    lines = [re.sub(r" +", " ", line) for line in text.splitlines()]
    assert lines[0] == "# ours against plain"
    assert "| — STS12 — | | | | |" in lines
    assert "| plain | 4 | 61.00 ± 0.50 | baseline | |" in lines
    assert "| ours | 4 | 62.25 ± 0.50 | +1.25 ▲ | +0.50 to +2.00 |" in lines
    assert "- ours is clearly better than plain on STS12 (+1.25 points)." in lines
    assert "- Note: something to know" in lines
    assert "t-test over seeds" in text


NOTHING = effect(low=None, high=None, probability=None, pairs=None, seeds=None, p=None, verdict=None)


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (effect(low=-0.5, verdict="tie"), "ours and plain cannot be told apart on STS12 (+1.25 points)"),
        (effect(-1.25, -2, -0.5, verdict="worse"), "ours is clearly worse than plain on STS12 (-1.25 points)"),
        (NOTHING, "ours against plain on STS12: +1.25 points, no verdict: fewer than four seeds"),
        (NOTHING, "No interval: fewer than four seeds"),
        (effect(seeds=None, p=None, verdict=None), "Intervals cover other sentence pairs alone"),
        (effect(pairs=None), "Intervals cover other seeds alone"),
    ],
)
def test_what_is_not_known_is_not_claimed(one, said):
    assert said in comparison_markdown(made(one))
    assert said in drawn(made(one))


def test_the_page_holds_scores_differences_and_plots():
    page = drawn(made())
    for shown in ("61.00 ± 0.50", "+0.50 to +2.00", "Best step by dev score", "runs/a", "ab" * 32, "something to know"):
        assert shown in page
    assert re.findall(r'<div class="(\w+)"><span>', page) == ["better", "axis", "dots", "dots", "axis"]
    assert page.index("clearly better") < page.index('class="forest"') < page.index("<table>")
    assert page.index("<table>") < page.index("How to read this")
    assert re.findall(r'<div class="(\w+)"><span>', drawn(made(NOTHING))) == ["dots", "dots", "axis"]
    assert page == drawn(made())


def test_the_page_loads_nothing_and_believes_no_text():
    evil = "<script>alert(1)</script>\"'"
    page = drawn(made(name=evil))
    assert "<script>alert" not in page
    assert not re.search(r"<(link|img|iframe|object|form)\b|\b(src|href)=", page)
    assert "default-src 'none'" in page


def test_markdown_keeps_its_columns():
    text = comparison_markdown(made(name="a|b"))
    assert "a\\|b" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6}


def test_without_the_extra_the_error_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(InputError, match=re.escape('pip install "diffcse[report]"')):
        comparison_page(made())
