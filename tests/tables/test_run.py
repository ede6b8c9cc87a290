"""One cell is an ordinary run: resumed after a kill, measured on the right weights, failing alone."""

import json
from pathlib import Path

import pytest

from diffcse.encoder.load import load
from diffcse.evaluation.sts import read_pairs, score_sts
from diffcse.record import read_record
from diffcse.tables import run
from diffcse.tables.cells import is_begun, is_finished, outcome_of
from diffcse.tables.workers import run_cells
from tests.tables.grid import BY_MEAN, ended, made, table_of


def test_a_cell_is_an_ordinary_run_that_keeps_records_and_scores(done):
    output, _, cells, _ = done
    folder = output / "cells" / f"half-seed-2-{cells[3].identity[:12]}"
    assert cells[3].folder == str(folder)
    record = read_record(folder / "run.json")
    assert (record.status, record.seed, record.config["method"]["mask_ratio"]) == ("complete", 2, 0.5)
    assert sorted(path.name for path in folder.iterdir()) == ["log.jsonl", "recipe.toml", "run.json"]
    outcome = json.loads(Path(f"{folder}.json").read_text())
    assert outcome["scores"]["dev"]["value"] == record.scores["dev"]["best"]
    assert outcome["scores"]["dev_last"]["value"] == record.scores["dev"]["last"]


def test_scores_of_other_tables_stay_with_the_cell(place, tmp_path):
    _, cells, shared = made(place, tmp_path, seeds=(1,), columns='["dev", "uniformity_dev"]', keep_models=True)
    ended(cells[:1], shared)
    before = outcome_of(cells[0])["scores"]
    columns = '["dev", "dev_last", "alignment_dev"]'
    _, other, shared = made(place, tmp_path, seeds=(1,), columns=columns, keep_models=True)
    assert not is_finished(other[0], shared)
    ended(other[:1], shared)
    assert outcome_of(cells[0])["scores"].items() >= before.items()
    assert {*outcome_of(cells[0])["scores"]} == {"dev", "dev_last", "uniformity_dev", "alignment_dev"}


def test_sets_of_the_last_step_are_measured_on_the_last_model(place, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    lines = (place / "dev.tsv").read_text().splitlines(keepends=True)
    for name, chosen in (("one", lines[:20]), ("two", lines[15:])):
        (data / f"{name}.tsv").write_text("".join(chosen))
    # Evaluated at every step, and so hot that the best one is unlikely to be the last.
    more = "training.eval_every = 1\ntraining.learning_rate = 0.05"
    _, cells, shared = made(
        place,
        tmp_path / "out",
        columns='["dev", "sts_last"]',
        more=more,
        seeds=(1,),
        data=(str(data),),
        keep_models=True,
    )
    run_cells(cells[1:], shared)
    assert outcome_of(cells[1])["message"] is None
    folder = Path(cells[1].folder)

    def mean(model):
        sets = [read_pairs(data / f"{name}.tsv") for name in ("one", "two")]
        return sum(score_sts(load(folder / model), one).all.spearman for one in sets) / 2

    assert outcome_of(cells[1])["scores"]["sts_last"]["value"] == pytest.approx(mean("last"), abs=1e-6)
    assert mean("last") != pytest.approx(mean("model"), abs=0.01)


def test_a_killed_cell_goes_on_and_ends_as_if_it_had_not_been(place, done, tmp_path):
    _, _, whole, shared = done
    _, cells, _ = made(place, tmp_path)

    def kill_early(cell, event, facts):
        if event == "log" and facts["step"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cells(cells[:1], shared, report=kill_early)
    assert list(Path(cells[0].folder, "checkpoints").iterdir()), "the start's scores, but nothing to go on from"
    assert not is_begun(cells[0])

    def kill(cell, event, facts):
        if event == "log" and facts["step"] == 3 and "loss" in facts:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cells(cells[:1], shared, report=kill)
    assert outcome_of(cells[0])["status"] == "stopped"
    assert not is_finished(cells[0], shared)
    assert [is_begun(cell) for cell in cells[:2]] == [True, False]
    record = json.loads(cells[0].record.read_text())
    cells[0].record.write_text(json.dumps({**record, "status": "running"}))  # as a kill leaves it
    assert is_begun(cells[0])
    events = []
    run_cells(cells[:1], shared, report=lambda cell, event, facts: events.append((event, facts)))
    assert next(facts for event, facts in events if event == "start")["resumed"] == "step-00000002"
    assert outcome_of(cells[0])["scores"] == outcome_of(whole[0])["scores"]
    assert not is_begun(cells[0])


def test_a_changed_setting_makes_another_cell(place, tmp_path):
    _, cells, shared = made(place, tmp_path, ratio=0.5)
    run_cells(cells[2:3], shared)
    _, other, shared = made(place, tmp_path, ratio=0.2)
    assert ended(other[2:3], shared) == [("half", 1)]
    ratios = [read_record(Path(each[2].folder, "run.json")).config["method"]["mask_ratio"] for each in (cells, other)]
    assert ratios == [0.5, 0.2]


def test_a_failing_cell_says_why_and_the_others_go_on(place, tmp_path):
    grid, cells, shared = made(place, tmp_path, more="training.max_tokens = 1000", seeds=(1,))
    chosen = [cells[1], cells[0]]
    assert ended(chosen, shared) == [("half", 1), ("plain", 1)]
    failed, well = (outcome_of(cell) for cell in chosen)
    assert (failed["status"], well["status"]) == ("failed", "complete")
    assert failed["message"].startswith("training.max_tokens = 1000:")
    assert ended(chosen, shared) == [("half", 1)]  # tried again, and only it
    table = table_of(grid, cells, shared)
    row = table["rows"][1]
    assert (row["runs"][0]["status"], row["runs"][0]["message"]) == ("failed", failed["message"])
    assert table["columns"]["dev"]["rows"]["half"]["n"] == 0


def test_an_error_of_ours_does_not_end_the_table(place, tmp_path, monkeypatch):
    _, cells, shared = made(place, tmp_path, seeds=(1,))
    monkeypatch.setattr(run, "_train", lambda *_: 1 / 0)
    assert ended(cells, shared) == [("plain", 1), ("half", 1)]
    assert outcome_of(cells[0])["message"] == "ZeroDivisionError: division by zero"
    assert "1 / 0" in outcome_of(cells[0])["traceback"]


@pytest.mark.parametrize("pooling", [BY_MEAN, ""])
def test_models_are_kept_on_request(place, tmp_path, pooling):
    _, cells, shared = made(place, tmp_path, seeds=(1,), keep_models=True, pooling=pooling)
    run_cells(cells[:1], shared)
    dev = read_pairs(place / "dev.tsv")
    score = score_sts(load(Path(cells[0].folder, "model")), dev).all.spearman
    assert outcome_of(cells[0])["scores"]["dev"]["value"] == pytest.approx(score, abs=1e-3)
    # A column more is then measured without training.
    columns = '["dev", "uniformity_dev"]'
    _, more, shared = made(place, tmp_path, seeds=(1,), columns=columns, keep_models=True, pooling=pooling)
    events = []
    run_cells(more[:1], shared, report=lambda cell, event, facts: events.append(event))
    assert "log" not in events
    assert outcome_of(more[0])["scores"]["uniformity_dev"]["value"] < 0


def test_an_untrained_row_is_the_checkpoint_measured_once(place, tmp_path):
    grid, cells, shared = made(place, tmp_path, more="trained = false")
    assert [(cell.row, cell.seed) for cell in cells] == [("plain", 1), ("plain", 2), ("half", 1)]
    run_cells(cells[2:], shared)
    expected = score_sts(load(place / "model", pooling="mean"), read_pairs(place / "dev.tsv")).all.spearman
    assert outcome_of(cells[2])["scores"]["dev"]["value"] == pytest.approx(expected, abs=1e-3)
    assert table_of(grid, cells, shared)["rows"][1]["runs"][0]["seed"] is None
