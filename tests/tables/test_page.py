"""An ablation's table as Markdown and as a page: every figure with what it is, nothing loaded, no text believed."""

import json
import re
from pathlib import Path

import pytest

from diffcse.tables.page import _titles, ablation_markdown, ablation_page, results_markdown, summary_rows


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
    offline = pytest.importorskip("plotly.offline")
    pytest.importorskip("jinja2")
    before, after = ablation_page(table).split(offline.get_plotlyjs())
    return before + after


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
    start = next(line for line in lines if line.startswith("Start:"))
    assert start == (
        "Start: mini, recipe mini_cpu; dev set: pets.tsv; seeds 1, 2; 300 steps a run; A processor, 2 threads a run; "
        "6 minutes of runs."
    )
    assert "the paper's table 4" in lines[-1]


def test_where_the_spread_is_that_of_all_rows_the_table_says_so():
    table = made()
    assert "residual of rows" not in ablation_markdown(table)
    table["columns"]["dev"]["rows"]["other"]["effect"]["pooled"] = True
    for text in (ablation_markdown(table), drawn(table)):
        assert "from all rows together (residual of rows × seeds" in " ".join(text.split())


def test_rows_that_were_not_asked_for_are_not_called_unfinished():
    table = made()
    assert any(line.startswith("| late |") for line in plain(ablation_markdown(table)))
    lines = plain(ablation_markdown({**table, "only": ["plain", "other"]}))
    assert not any(line.startswith(("| late |", "| gone |")) for line in lines)
    assert "| broken | 0, 2 failed | – | – | – | – | – |" in lines
    assert "- Not asked for (--only): gone, late" in lines
    assert not any(line.startswith("- gone (More)") for line in lines)
    for tick in ("gone", "late"):
        assert f'"{tick}"' not in drawn({**table, "only": ["plain", "other"]})
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
    ticks = json.loads(re.search(r'"ticktext":(\[.*?\])', page)[1])
    at = json.loads(re.search(r'"tickvals":(\[.*?\])', page)[1])
    by_height = [text for _, text in sorted(zip(at, ticks, strict=True), reverse=True)]
    assert by_height == ["plain", "same", "<i>— More —</i>", "gone", "broken", "same"]  # headings as in the table
    titles = re.findall(r'"text":"((?:plain|same|other|late)[^"]*)"', page)
    assert titles == ["plain", r"same\u003cbr\u003e[other]", r"same\u003cbr\u003e(More)"]
    assert "same (More), seed 1: " in page


def test_titles_of_plots_are_labels_that_fit():
    group = "Another conditional task"
    rows = [
        row("a", label="DiffCSE, from a start that was trained further"),
        row("b", label="masked tokens <filled>", group=group),
        row("c", label="masked tokens <filled>", group=group),
        row("d", label="masked tokens <filled>", group="As one more negative"),
        row("e", label="masked tokens <filled>"),
    ]
    assert _titles(rows) == [
        "DiffCSE, from a start that was tr…",
        "masked tokens &lt;filled&gt;<br>[b]",
        "masked tokens &lt;filled&gt;<br>[c]",
        "masked tokens &lt;filled&gt;<br>(As one more negative)",
        "masked tokens &lt;filled&gt;<br>[e]",
    ]


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
    assert any("single run" in line for line in lines)
    assert not any("▲ better" in line for line in lines)


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
    assert "*With another dev set, text, model or steps compare orders, not scores.*" in ablation_markdown(table)


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
    assert page.count("Plotly.newPlot(") == 2
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
    assert drawn(table).count("Plotly.newPlot(") == 0


def test_results_are_all_tables_one_level_down():
    text = results_markdown({"t/a": made(), "t/b": {**made(), "title": "Another"}}, "diffcse ablate results a b")
    headings = [line for line in text.splitlines() if line.startswith("#")]
    assert headings == [
        "# Results",
        "## How far the paper's differences show here",
        "## A table",
        "### dev (pets)",
        "### STS",
        "### dev Spearman by step, mean over the runs",
        "## Another",
        "### dev (pets)",
        "### STS",
        "### dev Spearman by step, mean over the runs",
    ]
    assert "`diffcse ablate results a b`" in text
    assert text.count("`diffcse ablate a text.txt --seeds 2`") == 2
    assert "these are runs of 300 steps from mini. Comparisons with its differences (1 published, some in" in text
    assert "in several tables): 2, of which 2 find its direction beyond the luck of the seeds, 0 the contrary" in text


def test_tables_of_one_title_are_told_apart_by_their_folders():
    text = results_markdown({"t/a": made(), "u/b": made(), "c": {**made(), "title": "Another"}}, "x")
    assert re.findall(r"^## (.*)", text, re.MULTILINE)[1:] == ["A table (a)", "A table (b)", "Another"]


def test_the_summary_counts_what_the_runs_bear_out():
    column = {
        "label": "dev",
        "digits": 2,
        "agreement": {"n": 5, "spearman": 0.9, "kendall": 0.8, "p": 0.08},
        "rows": {},
    }
    cases = {  # name: difference, low, high, published difference
        "base": (None, None, None, None),
        "sure": (2.0, 1.0, 3.0, 0.5),
        "wrong": (-2.0, -3.0, -1.0, 0.5),
        "luck": (0.5, -1.0, 2.0, 3.0),
        "single": (-0.5, None, None, -1.0),
        "nothing": (0.004, 0.003, 0.005, -1.0),  # is shown as +0.00
        "unpublished": (0.5, 0.2, 0.8, None),
    }
    column["rows"]["unrun"] = {**score(None), "published_difference": None}
    for name, (difference, low, high, published) in cases.items():
        effect = None if difference is None else {"difference": difference, "low": low, "high": high}
        figures = {"published": published, "published_difference": published}
        column["rows"][name] = {"n": 1 if name == "single" else 3, "effect": effect, **figures}
    rows = [{"name": name, "label": f"row {name}", "against": "base"} for name in (*cases, "unrun")]
    table = {"title": "T", "recipe": "mini_cpu", "rows": rows, "columns": {"dev": column}}
    heads, lines = summary_rows([table])
    assert dict(zip(heads, lines[0], strict=True)) == {
        "table": "T",
        "recipe": "mini_cpu",
        "score": "dev",
        "rows run": "7 of 8",
        "seeds": "1 to 3",
        "same sign": "3 of 5",
        "agree": "1",
        "contrary": "1: row wrong (-2.00)",
        "open": "3",
        "Kendall's τ": "+0.80 (p = 0.08)",
    }
    # A row that is the same run as its reference says nothing of a difference.
    heads, lines = summary_rows([{**table, "alike": [["base", "sure"], ["wrong", "luck"]]}])
    assert dict(zip(heads, lines[0], strict=True)) | {"same sign": "2 of 4", "agree": "0"} == dict(
        zip(heads, lines[0], strict=True)
    )
    # A reference without a published figure: no differences, but an order.
    column["rows"]["sure"]["published_difference"] = None
    column["rows"] = {name: column["rows"][name] for name in ("base", "sure", "unpublished")}
    _, lines = summary_rows([table])
    assert lines == [["T", "mini_cpu", "dev", "3 of 3", "3", "–", "–", "–", "–", "+0.80 (p = 0.08)"]]
    column["agreement"] = None
    assert summary_rows([table]) is None


def test_the_page_in_docs_is_that_of_the_tables_in_docs():
    root = Path(__file__).parents[2]
    page = (root / "docs/results.md").read_text()
    command = re.search(r"`(diffcse ablate results .+?)`", page)[1]
    folders = command.removeprefix("diffcse ablate results ").split(" --output")[0].split()
    assert sorted(folders) == sorted(f"docs/results/{path.name}" for path in (root / "docs/results").iterdir())
    tables = {folder: json.loads((root / folder / "table.json").read_text()) for folder in folders}
    assert page == results_markdown(tables, command), "make it anew: see the command in its first lines"
