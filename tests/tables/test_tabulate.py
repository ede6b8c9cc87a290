"""What the table makes of outcomes: differences by seed, verdicts, the order of rows."""

import dataclasses
import json

import pytest
from scipy import stats

from diffcse.tables.columns import COLUMNS
from diffcse.tables.tabulate import agreement
from tests.tables.grid import ended, made, table_of, written


def test_equal_rows_of_one_table_are_run_once(place, tmp_path):
    more = '[[rows]]\nname = "again"\nmethod.mask_ratio = 0.5'
    grid, cells, shared = made(place, tmp_path, seeds=(1,), more=more)
    assert cells[1].folder == cells[2].folder
    assert len(ended(cells[1:], shared)) == 1
    scores = table_of(grid, cells, shared)["columns"]["dev"]["rows"]
    assert scores["half"]["values"] == scores["again"]["values"] != {}


def scored(place, output, values, seeds=(1, 2, 3, 4, 5)):
    grid, cells, shared = made(place, output, seeds=seeds, columns='["dev"]')
    written(cells, shared, values)
    return table_of(grid, cells, shared)["columns"]["dev"]["rows"]["half"]


FIVE = {("plain", seed): 50.0 + 3 * seed for seed in range(1, 6)}


def test_differences_are_between_runs_of_one_seed(place, tmp_path):
    leads = [1.0, 1.1, 0.9, 1.2, 0.8]
    values = FIVE | {("half", seed): FIVE["plain", seed] + lead for seed, lead in enumerate(leads, 1)}
    score = scored(place, tmp_path, values)
    assert (score["mean"], score["n"]) == (pytest.approx(60.0), 5)
    effect = score["effect"]
    interval = stats.ttest_1samp(leads, 0).confidence_interval(0.95)
    assert (effect["low"], effect["high"]) == pytest.approx((interval.low, interval.high))
    assert (score["verdict"], effect["seeds"]) == ("better", 5)
    values["half", 3] = 49.0
    assert scored(place, tmp_path / "b", values)["verdict"] == "tie"
    tiny = FIVE | {("half", seed): FIVE["plain", seed] + 0.004 + 1e-5 * seed for seed in range(1, 6)}
    score = scored(place, tmp_path / "c", tiny)
    assert score["effect"]["low"] > 0
    assert score["verdict"] == "tie", "it would read +0.00 better"


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_fewer_than_four_seeds_give_values_and_no_interval(place, tmp_path, seeds):
    values = {key: value for key, value in FIVE.items() if key[1] <= seeds}
    values |= {("half", seed): value + 30 for (_, seed), value in values.items()}
    score = scored(place, tmp_path, values)
    assert score["effect"]["difference"] == pytest.approx(30)
    assert (score["verdict"], score["effect"]["low"], score["sd"]) == (None, None, None)
    assert score["values"] == {str(seed): 80.0 + 3 * seed for seed in range(1, seeds + 1)}


def test_scores_on_other_data_do_not_count(place, tmp_path):
    grid, cells, shared = made(place, tmp_path, seeds=(1,), columns='["dev"]')
    written(cells, shared, {("half", 1): 50.0})
    outcome = json.loads(cells[1].record.read_text())
    outcome["scores"]["dev"]["data"] = "other"
    cells[1].record.write_text(json.dumps(outcome))
    assert table_of(grid, cells, shared)["columns"]["dev"]["rows"]["half"]["n"] == 0


def test_lower_is_better_where_it_is(place, tmp_path, monkeypatch):
    column = dataclasses.replace(COLUMNS["dev"], lower_is_better=True)
    monkeypatch.setitem(COLUMNS, "dev", column)
    values = FIVE | {("half", seed): FIVE["plain", seed] + 1 + 0.01 * seed for seed in range(1, 6)}
    assert scored(place, tmp_path, values)["verdict"] == "worse"
    monkeypatch.setitem(COLUMNS, "dev", dataclasses.replace(column, lower_is_better=None))
    assert scored(place, tmp_path, values)["verdict"] is None


def test_equal_scores_have_no_order():
    rows = [{"mean": 92.19706439 + 1e-13 * n, "published": 80.0 + n} for n in range(4)]
    assert agreement(rows) is None
    more = agreement([*rows, {"mean": 93.0, "published": 90.0}])
    assert more["spearman"] == pytest.approx(2**-0.5)  # four rows tie, and the best is the published best
    assert agreement([{**row, "mean": row["published"], "published": 80.0} for row in rows]) is None


def test_agreement_is_of_the_order_of_rows_that_have_both():
    both = lambda *pairs: [{"mean": mean, "published": published} for mean, published in pairs]  # noqa: E731
    assert agreement(both((1, 10), (2, 20), (3, 30), (None, 5), (4, None))) == {
        "n": 3, "spearman": 1.0, "kendall": 1.0, "p": pytest.approx(2 / 6),  # of six orders, this one and its reverse
    }  # fmt: skip
    found = agreement(both((1, 30), (2, 20), (3, 40), (4, 10)))
    # Of the 24 orders of four, 18 are as far from chance as one with four inversions.
    expected = {"n": 4, "spearman": pytest.approx(-0.4), "kendall": pytest.approx(-1 / 3), "p": pytest.approx(18 / 24)}
    assert found == expected
    assert agreement(both((1, 10), (2, 20))) is None
