"""Cells of a grid: each an ordinary run, never run twice, resumed after a kill; what the table makes of them."""

import dataclasses
import json
import math
import queue
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffcse.config import load_recipe
from diffcse.encoder.load import load
from diffcse.errors import InputError
from diffcse.evaluation.sts import OWN_PAIRS, read_pairs, score_sts
from diffcse.machine import UNBOUND
from diffcse.method.build import build
from diffcse.method.inspect import conditional_gain
from diffcse.record import read_record
from diffcse.tables import cells as ablate
from diffcse.tables.cells import (
    Shared,
    cells_of,
    changes_of,
    column_jobs,
    is_begun,
    is_finished,
    measured_on,
    outcome_of,
    reusable,
    rtd_losses,
    run_cells,
    tabulate,
    take_over,
)
from diffcse.tables.grids import parse_grid
from diffcse.text.corpus import Corpus
from diffcse.training.collate import Collate
from tests.models import SENTENCES, save_tiny

GRID = """\
title = "A table"
columns = {columns}

[base]
method.model = "{model}"
method.pooling = "mean"
training.batch_size = 8
training.max_steps = 4
training.checkpoint_every = 1
training.log_every = 1
training.precision = "fp32"

[[rows]]
name = "plain"
published.dev = 80

[[rows]]
name = "half"
method.mask_ratio = {ratio}
{more}
"""


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A tiny model, a text and a dev set."""
    folder = tmp_path_factory.mktemp("ablate")
    save_tiny(folder / "model", "bert", hidden=16)
    (folder / "text.txt").write_text("\n".join(SENTENCES[:40]))
    pairs = zip(range(40), SENTENCES[40:], SENTENCES[:40], strict=True)
    (folder / "dev.tsv").write_text("".join(f"{i * 7 % 11 / 2}\t{a}\t{b}\n" for i, a, b in pairs))
    return folder


def made(place, output, *, columns='["dev", "dev_last"]', ratio=0.5, more="", seeds=(1, 2), **shared):
    grid = parse_grid(GRID.format(model=place / "model", columns=columns, ratio=ratio, more=more).encode(), "a.toml")
    shared = Shared((str(place / "text.txt"),), str(place / "dev.tsv"), columns=grid.columns, **shared)
    configs = {row.name: grid.config(row) for row in grid.rows}
    output.mkdir(parents=True, exist_ok=True)
    (output / "grid.toml").write_text(grid.text)  # as the command does
    return grid, cells_of(grid, configs, shared, seeds, output), shared


def ended(cells, shared, **options):
    """The (row, seed) of the cells that were run."""
    seen = []
    run_cells(cells, shared, report=lambda cell, event, facts: event == "end" and seen.append((cell.row, cell.seed)))
    return seen


def table_of(grid, cells, shared):
    return tabulate(grid, cells, shared, skipped={}, facts={"command": "x", "seeds": [1, 2]})


@pytest.fixture(scope="module")
def done(place, tmp_path_factory):
    output = tmp_path_factory.mktemp("done")
    grid, cells, shared = made(place, output)
    assert ended(cells, shared) == [("plain", 1), ("plain", 2), ("half", 1), ("half", 2)]
    return output, grid, cells, shared


def test_a_cell_is_an_ordinary_run_that_keeps_records_and_scores(done):
    output, *_ = done
    folder = output / "cells" / "half" / "seed-2"
    record = read_record(folder / "run.json")
    assert (record.status, record.seed, record.config["method"]["mask_ratio"]) == ("complete", 2, 0.5)
    assert sorted(path.name for path in folder.iterdir()) == ["log.jsonl", "recipe.toml", "run.json"]
    outcome = json.loads((output / "cells" / "half" / "seed-2.json").read_text())
    assert outcome["scores"]["dev"]["value"] == record.scores["dev"]["best"]
    assert outcome["scores"]["dev_last"]["value"] == record.scores["dev"]["last"]


def test_a_finished_cell_is_never_run_again_and_another_one_is(place, done):
    output, _, cells, shared = done
    before = cells[0].record.stat().st_mtime_ns
    assert ended(cells, shared) == []
    assert cells[0].record.stat().st_mtime_ns == before
    # Other seeds, other log intervals: only what is new is missing.
    _, more, shared = made(place, output, seeds=(1, 2, 3), more="training.log_every = 2")
    assert [(c.row, c.seed) for c in more if not is_finished(c, shared)] == [("plain", 3), ("half", 3)]
    _, other, shared = made(place, output, ratio=0.4)
    assert [(c.row, c.seed) for c in other if not is_finished(c, shared)] == [("half", 1), ("half", 2)]
    _, longer, shared = made(place, output, columns='["dev", "dev_last", "uniformity_dev"]')
    assert not any(is_finished(c, shared) for c in longer)


def test_a_run_of_another_table_is_copied_where_it_is_the_same(place, done, tmp_path):
    output, _, cells, _ = done
    # Another name, another order, kept training parts and log intervals change no score; another ratio or seed does.
    text = GRID.format(model=place / "model", columns='["dev"]', ratio=0.5, more="training.log_every = 2")
    text = text.replace('"half"', '"halved"').replace("published.dev = 80", "method.mask_ratio = 0.4")
    grid = parse_grid(text.encode(), "b.toml")
    shared = Shared((str(place / "text.txt"),), str(place / "dev.tsv"), columns=grid.columns)
    configs = {row.name: grid.config(row) for row in grid.rows}
    wanted = cells_of(grid, configs, shared, (2, 3), tmp_path)
    (tmp_path / "grid.toml").write_text(grid.text)
    found = reusable(wanted, shared, [str(output)])
    assert {(cell.row, cell.seed): str(file.relative_to(output)) for cell, file in found.items()} == {
        ("halved", 2): "cells/half/seed-2.json"
    }
    take_over(found, shared)
    assert [cell for cell in wanted if is_finished(cell, shared)] == [wanted[2]]
    assert reusable(wanted, shared, [str(output)]) == {}
    rows = {row["name"]: row for row in table_of(grid, wanted, shared)["rows"]}
    run, _ = rows["halved"]["runs"]
    assert run["taken_from"] == f"{output.name}/cells/half/seed-2"
    assert len(run["curve"]) > 1
    assert table_of(grid, wanted, shared)["columns"]["dev"]["rows"]["halved"]["values"] == {
        "2": outcome_of(cells[3])["scores"]["dev"]["value"]
    }
    # A copy of a copy says where the run was made.
    third = cells_of(grid, configs, shared, (2,), tmp_path / "third")
    take_over(reusable(third, shared, [str(tmp_path)]), shared)
    assert outcome_of(third[1])["taken_from"] == f"{output.name}/cells/half/seed-2"


def test_a_run_without_the_scores_asked_for_is_not_copied(place, done, tmp_path):
    output, *_ = done
    _, wanted, shared = made(place, tmp_path, columns='["dev", "uniformity_dev"]')
    assert reusable(wanted, shared, [str(output)]) == {}
    (tmp_path / "dev.tsv").write_text("1\ta b\tc d\n4\ta b\tb a\n2\tc\td c\n")
    grid, _, shared = made(place, tmp_path)
    shared = dataclasses.replace(shared, dev=str(tmp_path / "dev.tsv"))
    configs = {row.name: grid.config(row) for row in grid.rows}
    assert reusable(cells_of(grid, configs, shared, (1, 2), tmp_path), shared, [str(output)]) == {}


@pytest.mark.parametrize("damage", ["{", "[]", '{"status": "complete"}'])
def test_a_damaged_record_elsewhere_is_passed_over(place, done, tmp_path, damage):
    shutil.copytree(done[0], tmp_path / "other")
    (tmp_path / "other/cells/plain/seed-1.json").write_text(damage)
    _, wanted, shared = made(place, tmp_path / "new")
    found = reusable(wanted, shared, [str(tmp_path / "other")])
    assert [(cell.row, cell.seed) for cell in found] == [("plain", 2), ("half", 1), ("half", 2)]


def test_scores_on_other_data_are_not_copied(place, done, tmp_path):
    shutil.copytree(done[0], tmp_path / "other")
    file = tmp_path / "other/cells/plain/seed-1.json"
    record = json.loads(file.read_text())
    record["scores"]["dev"]["data"] = "0" * 64
    file.write_text(json.dumps(record))
    _, wanted, shared = made(place, tmp_path / "new")
    assert ("plain", 1) not in [(cell.row, cell.seed) for cell in reusable(wanted, shared, [str(tmp_path / "other")])]


def test_the_tables_own_runs_and_folders_without_any(place, done, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(done[0])
    _, wanted, shared = made(place, done[0], ratio=0.4)  # its "half" is another than what lies there
    assert reusable(wanted, shared, [str(done[0]), str(tmp_path / "link"), str(tmp_path / "empty")]) == {}
    assert reusable(wanted, shared, [str(tmp_path / "gone")]) == {}  # the command says so, the first time


def test_a_run_that_is_made_anew_meanwhile_is_not_taken(place, done, tmp_path):
    shutil.copytree(done[0], tmp_path / "other")
    _, wanted, shared = made(place, tmp_path / "new")
    found = reusable(wanted, shared, [str(tmp_path / "other")])
    files = {(cell.row, cell.seed): file for cell, file in found.items()}
    files["plain", 1].write_text(files["half", 1].read_text())  # another run is there now
    files["plain", 2].unlink()
    shutil.rmtree(files["half", 1].with_suffix(""))
    assert [(cell.row, cell.seed) for cell in reusable(wanted, shared, [str(tmp_path / "other"), str(done[0])])] == [
        ("plain", 1),
        ("plain", 2),
        ("half", 1),
        ("half", 2),
    ], "what one table has lost another may have"
    assert [(cell.row, cell.seed) for cell in take_over(found, shared)] == [("half", 2)]
    assert [(cell.row, cell.seed) for cell in wanted if is_finished(cell, shared)] == [("half", 2)]


def test_an_untrained_row_is_copied_too(place, tmp_path):
    more = "[[rows]]\nname = 'start'\ntrained = false\nmethod.pooling = 'cls'"
    _, cells, shared = made(place, tmp_path / "one", more=more, seeds=(1,))
    start = [cell for cell in cells if cell.row == "start"]
    ended(start, shared)
    _, wanted, shared = made(place, tmp_path / "two", more=more, seeds=(1,))
    found = reusable(wanted, shared, [str(tmp_path / "one")])
    assert [cell.row for cell in found] == ["start"]
    take_over(found, shared)
    assert not Path(wanted[-1].folder).exists()
    assert outcome_of(wanted[-1])["scores"] == outcome_of(start[0])["scores"]
    grid = parse_grid((tmp_path / "two/grid.toml").read_bytes(), "a.toml")
    assert table_of(grid, wanted, shared)["rows"][-1]["runs"][0]["taken_from"] == "one/cells/start/start"


def test_models_come_along_where_they_are_kept(place, tmp_path):
    _, cells, shared = made(place, tmp_path / "one", seeds=(1,), keep_models=True)
    ended(cells, shared)
    shutil.copy(place / "dev.tsv", tmp_path / "dev.tsv")  # the same pairs under another name
    for name, kept in (("two", True), ("three", False)):
        grid, _, shared = made(place, tmp_path / name, seeds=(1,), keep_models=kept)
        shared = dataclasses.replace(shared, dev=str(tmp_path / "dev.tsv"))
        configs = {row.name: grid.config(row) for row in grid.rows}
        wanted = cells_of(grid, configs, shared, (1,), tmp_path / name)
        assert len(take_over(reusable(wanted, shared, [str(tmp_path / "one")]), shared)) == 2
        assert [(Path(cell.folder) / "model").is_dir() for cell in wanted] == [kept, kept]
        assert ended(wanted, shared) == []
    # One more score is measured on what was copied, without training; and what lies there is not swept for a copy.
    before = read_record(tmp_path / "two/cells/half/seed-1/run.json").created
    grid, _, shared = made(place, tmp_path / "two", columns='["dev", "uniformity_dev"]', seeds=(1,), keep_models=True)
    shared = dataclasses.replace(shared, dev=str(tmp_path / "dev.tsv"))
    configs = {row.name: grid.config(row) for row in grid.rows}
    wanted = cells_of(grid, configs, shared, (1,), tmp_path / "two")
    assert reusable(wanted, shared, [str(tmp_path / "one")]) == {}
    assert len(ended(wanted, shared)) == 2
    assert read_record(tmp_path / "two/cells/half/seed-1/run.json").created == before
    # Kept models are asked for, and there are none: the runs are no substitute.
    _, wanted, shared = made(place, tmp_path / "four", seeds=(1,), keep_models=True)
    assert reusable(wanted, shared, [str(tmp_path / "three")]) == {}


def test_what_changed_between_what_is_there_and_what_is_asked_for(place, done, tmp_path):
    output, _, cells, _ = done
    assert [changes_of(cell) for cell in cells] == [None] * 4
    changed = made(place, output, ratio=0.4, more="training.log_every = 2")[1]
    assert [changes_of(cell) for cell in changed] == [None, None, *[["method.mask_ratio was 0.5"]] * 2]
    (tmp_path / "dev.tsv").write_text("1\ta b\tc d\n4\ta b\tb a\n2\tc\td c\n")
    grid, _, shared = made(place, output)
    configs = {row.name: grid.config(row) for row in grid.rows}
    other = cells_of(grid, configs, dataclasses.replace(shared, dev=str(tmp_path / "dev.tsv")), (1, 2), output)
    assert [changes_of(cell) for cell in other] == [["the dev file"]] * 4
    (tmp_path / "text.txt").write_text("\n".join(SENTENCES[1:]))
    other = cells_of(grid, configs, dataclasses.replace(shared, corpus=(str(tmp_path / "text.txt"),)), (1, 2), output)
    assert [changes_of(cell) for cell in other] == [["the text"]] * 4
    older = dataclasses.replace(other[0], folder=str(tmp_path / "older"))
    outcome = json.loads(cells[0].record.read_text())
    older.record.write_text(json.dumps(outcome | {"source": "other"}))
    assert changes_of(older) == ["the text", "the code that trains"]
    older.record.write_text(json.dumps({name: outcome[name] for name in ("identity", "recipe")}))
    assert changes_of(older) == []  # it does not say what it was made from
    damaged = dataclasses.replace(changed[2], folder=str(tmp_path / "damaged"))
    for content in ("{", "[]", '{"identity": "x"}', '{"recipe": "[method"}', '{"recipe": 3}'):
        damaged.record.write_text(content)
        assert changes_of(damaged) == []
    damaged.record.unlink()
    assert changes_of(damaged) is None


def test_what_changed_of_an_untrained_row(place, tmp_path):
    def asked(more):
        text = f'title = "x"\ncolumns = ["dev"]\n[base]\nmethod.model = "{place / "model"}"\n{more}\n'
        grid = parse_grid((text + '[[rows]]\nname = "start"\ntrained = false\n').encode(), "a.toml")
        shared = Shared((str(place / "text.txt"),), str(place / "dev.tsv"), columns=grid.columns)
        return cells_of(grid, {"start": grid.config(grid.rows[0])}, shared, (1,), tmp_path), shared

    run_cells(*asked("method.pooling = 'mean'"))
    [cell], _ = asked("method.pooling = 'cls'")
    assert changes_of(cell) == ['method.pooling was "mean"']


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
    folder = tmp_path / "out" / "cells" / "half" / "seed-1"

    def mean(model):
        sets = [read_pairs(data / f"{name}.tsv") for name in ("one", "two")]
        return sum(score_sts(load(folder / model), one).all.spearman for one in sets) / 2

    assert outcome_of(cells[1])["scores"]["sts_last"]["value"] == pytest.approx(mean("last"), abs=1e-6)
    assert mean("last") != pytest.approx(mean("model"), abs=0.01)


@pytest.mark.parametrize("what", ["text", "dev"])
def test_other_data_are_another_cell(place, tmp_path, what):
    _, cells, _ = made(place, tmp_path)
    text, dev = tmp_path / "text.txt", tmp_path / "dev.tsv"
    text.write_text((place / "text.txt").read_text() + ("\none more" if what == "text" else ""))
    dev.write_text((place / "dev.tsv").read_text() + ("5\tone more\tanother\n" if what == "dev" else ""))
    grid = made(place, tmp_path)[0]
    shared = Shared((str(text),), str(dev), columns=grid.columns)
    others = cells_of(grid, {row.name: grid.config(row) for row in grid.rows}, shared, (1, 2), tmp_path)
    assert not {cell.identity for cell in cells} & {cell.identity for cell in others}


def test_other_documents_are_another_cell_where_they_are_read(place, tmp_path):
    grid, lines = made(place, tmp_path, more='method.positives = "next"')[0], SENTENCES[:40]
    found = []
    for name, text in (("one", "\n".join(lines)), ("two", "\n".join([*lines[:20], "", *lines[20:]]))):
        (tmp_path / f"{name}.txt").write_text(text)
        shared = Shared((str(tmp_path / f"{name}.txt"),), str(place / "dev.tsv"), columns=grid.columns)
        found.append(cells_of(grid, {row.name: grid.config(row) for row in grid.rows}, shared, (1,), tmp_path))
    assert [one.identity == other.identity for one, other in zip(*found, strict=True)] == [True, False]
    # What reads no documents keeps the identity that finished tables know it by.
    assert found[0][0].data["the text"] == Corpus.from_sentences(lines).sha256


@pytest.mark.parametrize(("part", "rest"), [("model", ""), ("generator", ""), ("model", "trained = false")])
def test_other_weights_in_the_same_folder_are_another_cell(place, tmp_path, part, rest):
    folder = tmp_path / "changed"
    save_tiny(folder, "bert", hidden=16)
    more = f'method.{part} = "{folder}"\n{rest}'

    def identities():
        return [cell.identity for cell in made(place, tmp_path, more=more)[1]]

    before = identities()
    assert identities() == before
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    same = [old == new for old, new in zip(before, identities(), strict=True)]
    assert same == [True, True, *[False] * (len(same) - 2)]


def test_a_killed_cell_goes_on_and_ends_as_if_it_had_not_been(place, done, tmp_path):
    _, _, whole, shared = done
    _, cells, _ = made(place, tmp_path)

    def kill_early(cell, event, facts):
        if event == "log" and facts["step"] == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cells(cells[:1], shared, report=kill_early)
    assert list((tmp_path / "cells/plain/seed-1/checkpoints").iterdir()), (
        "the start's scores, but nothing to go on from"
    )
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


def test_a_begun_run_of_other_settings_is_swept_away(place, tmp_path):
    _, cells, shared = made(place, tmp_path, ratio=0.5)
    run_cells(cells[2:3], shared)
    _, other, shared = made(place, tmp_path, ratio=0.2)
    assert ended(other[2:3], shared) == [("half", 1)]
    assert read_record(tmp_path / "cells/half/seed-1/run.json").config["method"]["mask_ratio"] == 0.2


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


def test_the_pairs_that_come_along_have_a_name_of_their_own_in_the_table_alone(tmp_path):
    (tmp_path / "pairs.tsv").write_text(OWN_PAIRS.read_text())
    for dev, said in ((OWN_PAIRS, "bundled pairs"), (tmp_path / "pairs.tsv", "pairs")):
        shared = Shared((), str(dev))
        assert measured_on("dev", shared) == [said]
        assert column_jobs(shared)["dev"][0].name == "pairs", "another name would make every finished run unfinished"


def test_an_error_of_ours_does_not_end_the_table(place, tmp_path, monkeypatch):
    _, cells, shared = made(place, tmp_path, seeds=(1,))
    monkeypatch.setattr(ablate, "_trained", lambda *_: 1 / 0)
    assert ended(cells, shared) == [("plain", 1), ("half", 1)]
    assert outcome_of(cells[0])["message"] == "ZeroDivisionError: division by zero"
    assert "1 / 0" in outcome_of(cells[0])["traceback"]


def test_models_are_kept_on_request(place, tmp_path):
    _, cells, shared = made(place, tmp_path, seeds=(1,), keep_models=True)
    run_cells(cells[:1], shared)
    dev = read_pairs(place / "dev.tsv")
    score = score_sts(load(tmp_path / "cells/plain/seed-1/model"), dev).all.spearman
    assert outcome_of(cells[0])["scores"]["dev"]["value"] == pytest.approx(score, abs=1e-3)
    # A column more is then measured without training.
    _, more, shared = made(place, tmp_path, seeds=(1,), columns='["dev", "uniformity_dev"]', keep_models=True)
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


def tiny_method(place, **choices):
    config = load_recipe("mini_cpu")
    method = dataclasses.replace(config.method, model=str(place / "model"), **choices)
    return build(method, seed=0)


def test_log_losses_are_those_of_conditional_gain(place):
    model, tokenizer = tiny_method(place, generator=str(place / "model"))
    losses = rtd_losses(model, tokenizer, SENTENCES[:30], 32)
    import random

    order = SENTENCES[:30]
    random.Random(0).shuffle(order)
    gain = conditional_gain(model, [Collate(tokenizer, 32)(order)])
    assert losses["rtd_own"] == pytest.approx(gain.own, abs=1e-6)
    assert losses["rtd_shuffled"] == pytest.approx(gain.shuffled, abs=1e-6)
    assert abs(losses["rtd_none"] - losses["rtd_own"]) > 1e-4
    with torch.no_grad():  # a head that says nothing: all three are ln 2
        for weight in model.head.parameters():
            weight.zero_()
    assert rtd_losses(model, tokenizer, SENTENCES[:30], 32) == pytest.approx(
        dict.fromkeys(("rtd_own", "rtd_shuffled", "rtd_none"), math.log(2)), abs=1e-6
    )


def test_no_log_losses_where_nothing_is_judged(place):
    model, tokenizer = tiny_method(place, difference="none")
    assert rtd_losses(model, tokenizer, SENTENCES[:30], 32) == {}


# ---- the table -------------------------------------------------------------------------------------------------------


def written(cells, shared, values):
    """Outcomes on disk as if the cells had these dev scores."""
    jobs = ablate.column_jobs(shared)
    for cell in cells:
        if (cell.row, cell.seed) in values:
            score = {"value": values[cell.row, cell.seed], "data": ablate._jobs_hash(jobs["dev"])}
            cell.record.parent.mkdir(parents=True, exist_ok=True)
            outcome = {"identity": cell.identity, "status": "complete", "scores": {"dev": score}}
            cell.record.write_text(json.dumps(outcome))


def scored(place, output, values, seeds=(1, 2, 3), column="dev"):
    grid, cells, shared = made(place, output, seeds=seeds, columns='["dev"]')
    written(cells, shared, values)
    return table_of(grid, cells, shared)["columns"]["dev"]["rows"]["half"]


def test_differences_are_between_runs_of_one_seed(place, tmp_path):
    values = {("plain", 1): 50.0, ("plain", 2): 60.0, ("plain", 3): 70.0}
    values |= {("half", 1): 51.0, ("half", 2): 61.1, ("half", 3): 70.9}
    score = scored(place, tmp_path, values)
    assert (score["mean"], score["n"]) == (pytest.approx(61.0), 3)
    effect = score["effect"]
    # By hand: differences 1, 1.1, 0.9: mean 1, standard error 0.1 / sqrt 3, t quantile 4.303.
    assert effect["difference"] == pytest.approx(1.0)
    assert effect["low"] == pytest.approx(1 - 4.302653 * 0.1 / math.sqrt(3), abs=1e-4)
    assert (score["verdict"], effect["seeds"]) == ("better", 3)
    values[("half", 3)] = 60.0
    assert scored(place, tmp_path / "b", values)["verdict"] == "tie"
    values = {
        (row, seed): 50.0 + 0.004 * (row == "half") + 0.0001 * seed for row in ("plain", "half") for seed in (1, 2)
    }
    values[("half", 2)] += 1e-6
    score = scored(place, tmp_path / "c", values, seeds=(1, 2))
    assert score["effect"]["low"] > 0
    assert score["verdict"] == "tie"  # it would read "+0.00 better"


def test_of_two_seeds_all_rows_together_tell_how_far_runs_vary(place, tmp_path):
    # Row -> half the difference of its two seeds, and its lead.
    rows = {"plain": (0.0, 0.0), "half": (0.05, 0.3), "wild": (20.0, 0.0)}
    rows |= {f"r{i}": (noise, 0.5 * i) for i, noise in enumerate((0.05, -0.03, 0.04, -0.06, 0.02), start=1)}
    more = "".join(f'\n[[rows]]\nname = "r{i}"\nmethod.mask_ratio = 0.{i}\n' for i in range(1, 6))
    more += '\n[[rows]]\nname = "wild"\nmethod.mask_ratio = 0.7\n'
    values = {}
    for name, (noise, lead) in rows.items():
        values |= {(name, 1): 51.0 + lead + noise, (name, 2): 52.0 + lead - noise}
    values["half", 1] = values["half", 2] - 1  # the same lead in both
    grid, cells, shared = made(place, tmp_path, columns='["dev"]', more=more)
    written(cells, shared, values)
    found = table_of(grid, cells, shared)["columns"]["dev"]["rows"]

    # By hand, "wild" aside: residuals of rows x seeds are ±(noise - mean noise); 7 rows, 2 seeds, 6 degrees.
    noises = [0.0 if name == "half" else noise for name, (noise, _) in rows.items() if name != "wild"]
    mean = sum(noises) / 7
    variance = 2 * sum((noise - mean) ** 2 for noise in noises) / 6
    effect = found["r5"]["effect"]
    assert (effect["pooled"], found["r5"]["verdict"]) == (True, "better")
    # Two seeds of one row and two of the other: the error of their difference.
    assert effect["error_seeds"] == pytest.approx(math.sqrt(2 * variance / 2), rel=1e-6)
    assert effect["low"] == pytest.approx(effect["difference"] - 2.446912 * effect["error_seeds"], rel=1e-6)
    # Both seeds gave "half" the same lead: alone they would be certain, or know nothing.
    same = found["half"]["effect"]
    assert same["error_seeds"] == pytest.approx(effect["error_seeds"])
    assert 0 < same["low"] < same["difference"] < same["high"]
    # r4's two leads lie further apart than the scatter of all: the larger error counts.
    assert found["r4"]["effect"]["error_seeds"] == pytest.approx(0.06)
    # A row that varies by itself keeps its own, larger error.
    assert (found["wild"]["effect"]["pooled"], found["wild"]["verdict"]) == (False, "tie")


def test_equal_scores_have_no_order():
    rows = [{"mean": 92.19706439 + 1e-13 * n, "published": 80.0 + n} for n in range(4)]
    assert ablate._agreement(rows) is None
    more = ablate._agreement([*rows, {"mean": 93.0, "published": 90.0}])
    assert more["spearman"] == pytest.approx(2**-0.5)  # four rows tie, and the best is the published best
    assert ablate._agreement([{**row, "mean": row["published"], "published": 80.0} for row in rows]) is None


def test_one_seed_never_gets_a_verdict(place, tmp_path):
    score = scored(place, tmp_path, {("plain", 1): 10.0, ("half", 1): 90.0}, seeds=(1,))
    assert score["effect"]["difference"] == 80.0
    assert (score["verdict"], score["effect"]["low"], score["sd"]) == (None, None, None)
    score = scored(place, tmp_path / "b", {("plain", 1): 10.0, ("plain", 2): 11.0, ("half", 1): 90.0})
    assert (score["verdict"], score["effect"]["low"]) == (None, None)


def test_scores_on_other_data_do_not_count(place, tmp_path):
    grid, cells, shared = made(place, tmp_path, seeds=(1,), columns='["dev"]')
    written(cells, shared, {("half", 1): 50.0})
    outcome = json.loads(cells[1].record.read_text())
    outcome["scores"]["dev"]["data"] = "other"
    cells[1].record.write_text(json.dumps(outcome))
    assert table_of(grid, cells, shared)["columns"]["dev"]["rows"]["half"]["n"] == 0


def test_data_that_no_column_is_measured_on_are_refused(place, tmp_path):
    (tmp_path / "CR").mkdir()
    for name in ("custrev.pos", "custrev.neg"):
        (tmp_path / "CR" / name).write_text("one sentence\nanother one\n")
    with pytest.raises(InputError, match=r"holds nothing for sts\. .*measured on a dev set .*: leave that --data out"):
        ablate.read_data((str(tmp_path),), ("dev", "dev_last"))
    with pytest.raises(InputError, match=r" and STS test sets in --data: give one with STS test sets in --data$"):
        ablate.read_data((str(tmp_path),), ("dev", "sts_test"))


def test_agreement_is_of_the_order_of_rows_that_have_both():
    both = lambda *pairs: [{"mean": mean, "published": published} for mean, published in pairs]  # noqa: E731
    assert ablate._agreement(both((1, 10), (2, 20), (3, 30), (None, 5), (4, None))) == {
        "n": 3, "spearman": 1.0, "kendall": 1.0, "p": pytest.approx(2 / 6),  # of six orders, this one and its reverse
    }  # fmt: skip
    found = ablate._agreement(both((1, 30), (2, 20), (3, 40), (4, 10)))
    # Of the 24 orders of four, 18 are as far from chance as one with four inversions.
    expected = {"n": 4, "spearman": pytest.approx(-0.4), "kendall": pytest.approx(-1 / 3), "p": pytest.approx(18 / 24)}
    assert found == expected
    assert ablate._agreement(both((1, 10), (2, 20))) is None


def test_lower_is_better_where_it_is(place, tmp_path, monkeypatch):
    column = dataclasses.replace(ablate.COLUMNS["dev"], lower_is_better=True)
    monkeypatch.setitem(ablate.COLUMNS, "dev", column)
    values = {("plain", 1): 50.0, ("plain", 2): 60.0, ("half", 1): 51.0, ("half", 2): 61.01}
    assert scored(place, tmp_path, values, seeds=(1, 2))["verdict"] == "worse"
    monkeypatch.setitem(ablate.COLUMNS, "dev", dataclasses.replace(column, lower_is_better=None))
    assert scored(place, tmp_path, values, seeds=(1, 2))["verdict"] is None


# ---- worker processes ------------------------------------------------------------------------------------------------


def served(cells, shared, environment):
    pending = queue.SimpleQueue()
    for cell in cells:
        pending.put(cell)
    events = []
    with ablate._workers([environment]) as (worker,):
        worker.serve(pending, shared, lambda cell, event, facts: events.append((cell.seed, event)))
    assert worker.broken is None
    return events


def test_a_worker_process_runs_cells_as_this_one_does(place, done, tmp_path):
    _, _, whole, shared = done
    _, cells, _ = made(place, tmp_path)
    events = served(cells[:2], shared, {"OMP_NUM_THREADS": "1"})
    assert [event for event in events if event[1] == "end"] == [(1, "end"), (2, "end")]
    assert (1, "start") in events
    assert [outcome_of(c)["scores"] for c in cells[:2]] == [outcome_of(c)["scores"] for c in whole[:2]]


def test_a_worker_that_dies_is_a_failed_cell(place, tmp_path):
    _, cells, shared = made(place, tmp_path)
    events = served(cells[:2], shared, {"PYTHONHOME": str(tmp_path / "nowhere")})
    assert events == [(1, "end"), (2, "end")]
    assert outcome_of(cells[1])["status"] == "failed"
    assert outcome_of(cells[1])["message"].startswith("the process that ran it ended (")
    assert changes_of(dataclasses.replace(cells[1], identity="x", data=cells[1].data | {"the text": "y"})) == [
        "the text"
    ]


def test_ctrl_c_leaves_checkpoints_of_all_runs_at_work(place, tmp_path):
    """In a process of its own, which hears one Ctrl-C when both of its workers have trained some steps."""
    grid, _, shared = made(place, tmp_path)
    long = "training.max_steps = 100000\ntraining.checkpoint_every = 100000"
    cells = cells_of(grid, {row.name: grid.config(row, changes=long) for row in grid.rows}, shared, (1,), tmp_path)
    program = """
import dataclasses, json, os, signal, sys
from diffcse.tables.cells import Cell, Shared, run_cells
signal.signal(signal.SIGINT, signal.default_int_handler)
cells, shared = json.loads(sys.argv[1])
at = {}
def report(cell, event, facts):
    if event == "log":
        at[cell.row] = facts["step"]
        if len(at) == 2 and min(at.values()) > 2:
            os.kill(os.getpid(), signal.SIGINT)
            at.clear()
            at["never again"] = 0
shared = {key: tuple(value) if isinstance(value, list) else value for key, value in shared.items()}
run_cells([Cell(**cell) for cell in cells], Shared(**shared), parallel=2, report=report)
"""
    asked = json.dumps([[dataclasses.asdict(cell) for cell in cells], dataclasses.asdict(shared)])
    done = subprocess.run([sys.executable, "-c", program, asked], capture_output=True, text=True, timeout=240)
    assert done.returncode == -signal.SIGINT, done.stderr
    assert "stopping after the step at hand of each run" in done.stderr
    for cell in cells:
        [left] = Path(cell.folder).glob("checkpoints/step-*")  # none was due
        assert 2 < int(left.name.removeprefix("step-")) < 100000
        assert json.loads(cell.record.read_text())["status"] == "stopped"


def test_a_process_that_starts_while_all_are_stopped_does_not_outlive_it(place, tmp_path, monkeypatch):
    _, cells, shared = made(place, tmp_path)
    worker, started = ablate._Worker({"OMP_NUM_THREADS": "1"}), []

    class Slow(subprocess.Popen):
        def __init__(self, *words, **options):
            worker.stop()  # Ctrl-C, just now
            super().__init__(*words, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Slow)
    assert worker._run(cells[0], shared, lambda *_: pytest.fail("it ran")) is None
    assert started[0].wait(timeout=10) != 0


def test_no_more_processes_than_there_is_room_for(place, tmp_path, monkeypatch):
    _, cells, shared = made(place, tmp_path)
    with pytest.raises(InputError, match="--parallel 0: must be at least 1"):
        run_cells(cells, shared, parallel=0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InputError, match=r"--parallel 5000: there are \d+ cores"):
        run_cells(cells, shared, parallel=5000)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="--parallel 3: there are 2 GPUs"):
        run_cells(cells, shared, parallel=3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert ablate._environments(2) == [
        {"CUDA_VISIBLE_DEVICES": "5", **UNBOUND},
        {"CUDA_VISIBLE_DEVICES": "7", **UNBOUND},
    ]
