"""An ablation's table as Markdown and as a page: every figure with what it is, nothing loaded, no text believed."""

import json
import re
from pathlib import Path

import pytest

from diffcse.tables.page import ablation_markdown, ablation_page, headline


def score(mean, *, values=None, published=None, against=None, low=None, high=None, difference=0.5, verdict=None):
    values = {"1": mean - 1, "2": mean + 1} if values is None and mean is not None else values or {}
    effect = None if against is None else {"difference": difference, "low": low, "high": high}
    return {
        "values": values, "n": len(values), "mean": mean, "sd": 1.41 if len(values) > 1 else None,
        "published": published, "effect": effect, "verdict": verdict,
        "published_difference": None if against is None or published is None else published - 80,
    }  # fmt: skip


def row(name, *, label="", group="", against="plain", note="", skipped=None, runs=None):
    run = {
        "seed": 1,
        "status": "complete",
        "message": None,
        "seconds": 90,
        "steps": 300,
        "curve": [[0, 40.0], [5, 50.0]],
    }
    run["hardware"] = {"processor": "A processor", "threads": 2}
    runs = [run, {**run, "seed": 2}] if runs is None else runs
    return {
        "name": name, "label": label or name, "group": group, "note": note, "against": against, "skipped": skipped,
        "runs": runs,
    }  # fmt: skip


def made(label="other", agreement=None):
    failed = {"seed": 1, "status": "failed", "message": "training diverged", "seconds": 1, "curve": []}
    column = {"digits": 2, "lower_is_better": False, "measured_on": ["pets"], "lacks": None, "agreement": agreement}
    return {
        "schema": "diffcse-ablation/1",
        "title": "A table",
        "paper": "the paper's table 4",
        "note": "To know.",
        "command": "diffcse ablate a text.txt --seeds 2",
        "recipe": "mini_cpu",
        "model": "mini",
        "dev": "pets.tsv",
        "seeds": [1, 2],
        "rows": [
            row("plain", against=None),
            row("other", label=label, note="a remark"),
            row("gone", group="More", skipped="it needs a thing", runs=[]),
            row("broken", group="More", against="other", runs=[failed, {**failed, "seed": 2}]),
            row("late", group="More", runs=[{**failed, "status": "not run"}]),
        ],
        "columns": {
            "dev": {
                **column,
                "label": "dev",
                "rows": {
                    "plain": score(60.0, published=80.0),
                    "other": score(60.5, published=82.5, against=1, low=0.25, high=0.75, verdict="better"),
                    "gone": score(None, published=70.0),
                    "broken": score(None),
                    "late": score(None),
                },
            },
            "sts_test": {**column, "label": "STS", "lacks": "STS sets in --data", "measured_on": [], "rows": {}},
        },
        "versions": {"python": "3.12"},
    }


def plain(lines):
    return [re.sub(r" +", " ", line) for line in lines.splitlines()]


def drawn(table):
    pytest.importorskip("jinja2")
    return ablation_page(table)


def test_markdown_says_everything():
    lines = plain(ablation_markdown(made(agreement={"n": 3, "spearman": 0.5, "kendall": 0.3333, "p": 0.031})))
    assert lines[0] == "# A table"
    for expected in (
        "| row | runs | ours | published | difference | 95 % interval | published difference |",
        "| plain | 2 | 60.00 ± 1.41 | 80.00 | reference | | – |",
        "| other | 2 | 60.50 ± 1.41 | 82.50 | +0.50 ▲ | +0.25 to +0.75 | +2.50 |",
        "| — More — | | | | | | |",
        "| gone | not run | – | 70.00 | – | – | – |",
        "| broken | 0, 2 failed | – | – | – | – | – |",
        "Order of the 3 rows with a published figure, ours against the published: "
        "Spearman +0.50, Kendall +0.33 (p = 0.031).",
        "Not measured: it needs STS sets in --data.",
        "- To know.",
        "- other: a remark",
        "- gone (More): not run: it needs a thing",
        "- broken (More): FAILED, seed 1, 2: training diverged",
        "- broken (More): compared with “other”",
        "- Not finished: late",
    ):
        assert expected in lines
    assert lines[2] == "- dev: clearly better: other (+0.50)."
    made_by = next(line for line in lines if line.startswith("Made by"))
    assert made_by == (
        "Made by `diffcse ablate a text.txt --seeds 2`. Start: mini, recipe mini_cpu; dev set: pets.tsv; seeds 1, 2; "
        "300 steps a run; A processor, 2 threads a run; 6 minutes of runs."
    )
    assert "the paper's table 4" in lines[-1]


def test_rows_that_were_not_asked_for_are_not_called_unfinished():
    table = made()
    assert any(line.startswith("| late |") for line in plain(ablation_markdown(table)))
    lines = plain(ablation_markdown({**table, "only": ["plain", "other"]}))
    assert not any(line.startswith(("| late |", "| gone |")) for line in lines)
    assert "| broken | 0, 2 failed | – | – | – | – | – |" in lines
    assert "- Not asked for (--only): gone, late" in lines
    assert not any(line.startswith("- gone (More)") for line in lines)
    for tick in ("gone", "late"):
        row_head = f'<th scope="row">{tick}</th>'
        assert row_head in drawn(table)
        assert row_head not in drawn({**table, "only": ["plain", "other"]})
    assert not any("Not finished" in line for line in lines)
    table["rows"][4]["runs"].append(dict(table["rows"][0]["runs"][0]))
    table["rows"][4]["label"] = "a late one"
    lines = plain(ablation_markdown({**table, "only": ["plain", "other"]}))
    assert "- Not finished: late (a late one)" in lines  # begun by an earlier command
    # The reference is what the others are compared with: it stays, though nothing was run of it.
    for run in table["rows"][0]["runs"]:
        run["status"] = "not run"
    table["columns"]["dev"]["rows"]["plain"] = score(None)
    lines = plain(ablation_markdown({**table, "only": ["other"]}))
    assert "| plain | 0 | – | – | reference | | – |" in lines
    assert "- Not asked for (--only): plain, gone" in lines


def test_markdown_shows_how_the_scores_came_about():
    table = made()
    first, second = [[0, 40.0], [5, 50.0], [10, 51.0]], [[0, 40.0], [5, 48.0], [10, None]]
    runs = [{**table["rows"][0]["runs"][0], "curve": curve} for curve in (first, second)]
    table["rows"][1]["runs"] = runs
    lines = plain(ablation_markdown(table))
    start = lines.index("## dev Spearman by step, mean over the runs")
    assert lines[start + 2] == "| row | runs | 0 | 5 | 10 |"
    assert lines[start + 4 : start + 7] == [
        "| plain | 2 | 40.00 | 50.00 | – |",
        "| other | 2 | 40.00 | 49.00 | 51.00 |",
        "",
    ]

    long = [{**runs[0], "curve": [[step, 1.0] for step in range(0, 1001, 10)]}]
    table["rows"] = [{**row, "runs": row["runs"] and long} for row in table["rows"]]
    heads = plain(ablation_markdown(table))[start + 2]
    assert heads == "| row | runs | 0 | 170 | 330 | 500 | 670 | 830 | 1,000 |"  # the ends, and five between them


def test_rows_of_one_name_are_told_apart_by_their_group():
    table = made()
    table["rows"][4] |= {"runs": table["rows"][0]["runs"], "label": "other"}
    table["rows"][3] |= {"runs": table["rows"][0]["runs"][:1], "label": "other"}
    lines = plain(ablation_markdown(table))
    start = lines.index("## dev Spearman by step, mean over the runs")
    assert lines[start + 4 : start + 9] == [
        "| plain | 2 | 40.00 | 50.00 |",
        "| other | 2 | 40.00 | 50.00 |",
        "| — More — | | | |",
        "| other | 1 | 40.00 | 50.00 |",
        "| other | 2 | 40.00 | 50.00 |",
    ]


def test_plots_tell_rows_of_one_name_apart():
    table = made(label="same")
    table["rows"][4] |= {"runs": table["rows"][0]["runs"], "label": "same"}
    table["columns"]["dev"]["rows"]["late"] = score(61.0)
    page = drawn(table)
    assert re.findall(r'<div class="dots"><span>(.*?)</span><b>(.*?)</b>', page) == [
        ("plain", "60.00"), ("same", "60.50"), ("same (More)", "61.00"),
    ]  # fmt: skip
    assert re.findall(r"<figure><h3>(.*?)</h3>", page) == ["plain", "same", "same (More)"]


def test_no_curves_where_nothing_was_trained():
    table = made()
    for row in table["rows"]:
        row["runs"] = [{**run, "curve": []} for run in row["runs"]]
    assert "by step" not in ablation_markdown(table)


def test_a_difference_without_an_interval_claims_nothing():
    table = made()
    table["columns"]["dev"]["rows"]["other"] = score(60.5, values={"1": 60.5}, published=82.5, against=1)
    lines = plain(ablation_markdown(table))
    assert "| other | 1 | 60.50 | 82.50 | +0.50 | – | +2.50 |" in lines
    assert lines[2] == "- dev: no interval: fewer than four seeds; ask for --seeds 4."
    assert not any("▲ better" in line for line in lines)


def test_few_runs_are_shown_one_by_one():
    table = made()
    table["columns"]["dev"]["rows"]["plain"] |= {"values": {"1": 59.0, "2": 61.0}, "sd": None}
    assert "| plain | 2 | 60.00 (59.00, 61.00) | 80.00 | reference | | – |" in plain(ablation_markdown(table))


def test_the_headline_names_what_is_clear():
    table = made()
    rows = table["columns"]["dev"]["rows"]
    assert headline(table) == ["dev: clearly better: other (+0.50)."]
    rows["late"] = score(59.0, against=1, low=-1.5, high=-0.5, difference=-1.0, verdict="worse")
    rows["broken"] = score(60.1, against=1, low=-0.5, high=0.7, difference=0.1, verdict="tie")
    assert headline(table) == [
        "dev: clearly better: other (+0.50); clearly worse: late (More) (-1.00); no clear difference: 1 of 3 rows."
    ]
    for each in rows.values():
        each["verdict"] = None
    assert headline(table) == ["dev: no direction is better by itself."]


def test_nothing_published_needs_no_column():
    table = made()
    for one in table["columns"]["dev"]["rows"].values():
        one["published"] = None
    text = ablation_markdown(table)
    assert "| row | runs | ours | difference | 95 % interval |" in plain(text)
    assert "Published" not in text
    assert drawn(table).count(">published<") == 0
    table = made()
    table["paper"] = ""  # a grid of one's own need not say where its figures are from
    assert "\nWith another dev set, text, model or steps compare orders, not scores.\n" in ablation_markdown(table)


def test_the_page_holds_the_table_and_plots():
    page = drawn(made())
    for shown in (
        "60.50 ± 1.41",
        "+0.25 to +0.75",
        "it needs a thing",
        "training diverged",
        "82.50",
        "A remark".lower(),
    ):
        assert shown in page
    assert (page.count('class="forest"'), page.count('class="curve"')) == (2, 2)
    assert page.index("clearly better: other") < page.index('class="forest"')
    assert page.index('class="forest"') < page.index("<table>") < page.index("How to read this")
    assert page == drawn(made())


def test_the_page_loads_nothing_and_believes_no_text():
    page = drawn(made(label="<script>alert(1)</script>\"'"))
    assert "<script>alert" not in page
    assert not re.search(r"<(link|img|iframe|object|form)\b|\b(src|href)=", page)
    assert "default-src 'none'" in page


def test_a_table_of_nothing_is_still_a_page():
    table = made()
    for one in table["rows"]:
        one["runs"] = []
    table["columns"]["dev"]["rows"] = {name: score(None) for name in table["columns"]["dev"]["rows"]}
    assert drawn(table).count("<svg") == 0


PUBLISHED = sorted((Path(__file__).parents[2] / "docs/results").glob("*/table.json"))


@pytest.mark.parametrize("file", PUBLISHED, ids=[file.parent.name for file in PUBLISHED])
def test_published_tables_can_be_drawn(file):
    table = json.loads(file.read_text())
    text = ablation_markdown(table)
    for column in table["columns"].values():
        for one in column["rows"].values():
            assert one["mean"] is None or f"{one['mean']:.{column['digits']}f}" in text
    intervals = [
        one["effect"] is not None and one["effect"]["low"] is not None
        for column in table["columns"].values()
        for one in column["rows"].values()
    ]
    assert len(re.findall(r'<div class="(?:better|worse|tie|open)">', drawn(table))) == sum(intervals)
