"""The pictures of README and findings are those that their command makes from the published tables."""

import sys
from pathlib import Path

import pytest

from benchmarks import forest_plot

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("picture", ["forest", "own-text"])
def test_the_pictures_in_docs_are_those_of_the_command(picture, tmp_path, monkeypatch):
    json_file = str(DOCS / f"{picture}.json")
    monkeypatch.setattr(sys, "argv", ["forest_plot", json_file, "--output", str(tmp_path / picture)])
    forest_plot.main()
    for name in (f"{picture}-light.svg", f"{picture}-dark.svg"):
        assert (tmp_path / name).read_text() == (DOCS / name).read_text(), (
            "make it again: see benchmarks/forest_plot.py"
        )


def test_a_difference_can_be_read_in_both_directions():
    row = {"label": "x", "table": "results/beyond/table.json", "row": "simcse_short", "against": "diffcse"}
    one = forest_plot.interval(DOCS, row, "sts_last")
    other = forest_plot.interval(DOCS, row | {"row": "diffcse", "against": "simcse_short"}, "sts_last")
    assert (one.verdict, other.verdict) == ("worse", "better")
    assert (other.difference, other.low, other.high) == (-one.difference, -one.high, -one.low)
    assert forest_plot.interval(DOCS, row, "no_such_column") is None
    with pytest.raises(SystemExit, match="has no difference"):
        forest_plot.interval(DOCS, row | {"against": "further"}, "dev")
