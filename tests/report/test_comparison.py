"""The comparison as Markdown and as a page: every figure is there, nothing is loaded, no text is believed."""

import re
import sys

import pytest

from diffcse.errors import InputError
from diffcse.report.comparison import comparison_markdown, comparison_page


def effect(difference=1.25, low=0.5, high=2.0, probability=0.9987, pairs=0.3, seeds=0.2, p=0.0123):
    return {
        "difference": difference, "low": low, "high": high, "probability": probability,
        "error_pairs": pairs, "error_seeds": seeds, "p_seeds": p, "seeds": 3 if seeds else 0,
        "pooled": False,
    }  # fmt: skip


def made(one=None, name="ours"):
    one = one or effect()
    score = lambda *values: {"mean": sum(values) / len(values), "sd": 0.5, "values": list(values)}  # noqa: E731
    methods = [
        {"method": "plain", "seeds": [1, 2, 3], "scores": {"STS12": score(60.0, 61.0, 62.0)}},
        {"method": name, "seeds": [1, 2, 3], "scores": {"STS12": score(61.0, 62.5, 63.0)}},
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
    assert "*ours, other: intervals hold both kinds of luck" in text
    assert "*theirs: one seed of a method: intervals hold the luck of the sentence pairs alone" in text
    assert "*ours: runs of the same seed are compared" in text
    assert "*other: the methods share fewer than two seeds" in text
    assert "ours is 1.25 points above plain on the average of the STS sets" in text
    level = {**effect(difference=0.0), "low": None, "high": None, "probability": None}
    part["effects"] = [{"method": "ours", "against": "plain", "sets": {"average STS": level}}]
    assert "ours and plain are level on the average of the STS sets; nothing says" in comparison_markdown(found)


def drawn(found):
    offline = pytest.importorskip("plotly.offline")
    pytest.importorskip("jinja2")
    before, after = comparison_page(found).split(offline.get_plotlyjs())
    return before + after


def test_markdown_says_everything():
    text = comparison_markdown(made())
    lines = [re.sub(r" +", " ", line) for line in text.splitlines()]
    assert lines[0] == "# ours against plain"
    assert "| plain | 3 (1, 2, 3) | 61.00 ± 0.50 |" in lines
    assert "| ours | STS12 | +1.25 | +0.50 to +2.00 | 99.9 % | 0.012 |" in lines
    assert "- ours is 1.25 points above plain on STS12: the interval excludes zero" in lines
    assert "- Note: something to know" in lines
    assert "t-test over seeds" in text
    assert "taken from all methods" not in text


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (effect(low=-0.5), "ours and plain cannot be told apart on STS12 (+1.25)"),
        (effect(difference=-1.25, low=-2, high=-0.5), "ours is 1.25 points below plain"),
        (effect(low=None, high=None, probability=None, pairs=None, seeds=None, p=None), "nothing says how sure"),
        (effect(seeds=None, p=None), "One seed of a method"),
        (effect(pairs=None), "the luck of the seeds alone"),
        ({**effect(), "pooled": True}, "taken from all methods together"),
        (effect(probability=0.99999), "> 99.9 %"),
    ],
)
def test_what_is_not_known_is_not_claimed(one, said):
    assert said in comparison_markdown(made(one))
    assert said.replace(">", "&gt;") in drawn(made(one))


def test_the_page_holds_scores_differences_and_plots():
    page = drawn(made())
    for shown in ("61.00 ± 0.50", "+0.50 to +2.00", "Best step by dev score", "runs/a", "ab" * 32, "something to know"):
        assert shown in page
    assert page.count("Plotly.newPlot(") == 2
    without = made(effect(low=None, high=None, probability=None, pairs=None, seeds=None, p=None))
    assert drawn(without).count("Plotly.newPlot(") == 1
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
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4, 7}


@pytest.mark.parametrize("module", ["jinja2", "plotly", "plotly.offline"])
def test_without_the_extra_the_error_names_the_command(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=re.escape('pip install "diffcse[report]"')):
        comparison_page(made())
