"""`diffcse ablate` as a user runs it."""

import json
import re
import sys

import pytest

from diffcse.files import only_one
from diffcse.tables import workers
from diffcse.tables.grids import grid_names
from diffcse.tables.plan import Request, make_plan
from diffcse.tables.run import run_cell
from tests.cli.runs import command
from tests.models import SENTENCES, save_tiny

GRID = """\
title = "A table"
columns = ["dev", "transfer_dev"]

[base]
method.pooling = "mean"
training.batch_size = 8
training.precision = "fp32"

[needs.small]
what = "a small generator"
make = "diffcse pretrain TEXT --tokenizer MODEL"

[[rows]]
name = "plain"

[[rows]]
name = "half"
method.mask_ratio = 0.5
published.dev = 81

[[rows]]
name = "own"
method.generator = "{small}"
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save_tiny(tmp_path / "tiny", "bert", hidden=16)
    (tmp_path / "text.txt").write_text("\n".join(SENTENCES[:40]))
    (tmp_path / "a.toml").write_text(GRID)
    pairs = zip(range(20), SENTENCES[40:], SENTENCES[:20], strict=False)
    (tmp_path / "pets.tsv").write_text("".join(f"{i * 7 % 11 / 2}\t{a}\t{b}\n" for i, a, b in pairs))
    return tmp_path


ASKED = ("ablate", "a.toml", "text.txt", "--model", "tiny", "--dev", "pets.tsv", "--max-steps", "2", "--output", "out")


def test_from_a_grid_to_a_table_and_its_pages(place, capsys):
    code, out, err = command(capsys, *ASKED, "--seeds", "7", "9")
    assert (code, err) == (0, "")
    assert (
        "left out own: it needs a small generator as --set small=FOLDER (diffcse pretrain TEXT --tokenizer tiny)" in out
    )
    assert "no transfer_dev: it needs SentEval's transfer tasks in --data" in out
    assert re.search(r"4/4  half, seed 9  dev -?\d", out)
    table = json.loads((place / "out/table.json").read_text())
    assert [(row["name"], len(row["runs"])) for row in table["rows"]] == [("plain", 2), ("half", 2), ("own", 0)]
    values = table["columns"]["dev"]["rows"]["half"]["values"]
    assert set(values) == {"7", "9"}
    page = (place / "out/table.md").read_text()
    for text in (out, page):
        assert f"({values['7']:.2f}, {values['9']:.2f})" in text, "of two seeds each value is shown"
        assert "no interval: fewer than four seeds; ask for --seeds 4" in " ".join(text.split())
    assert "| row " not in out, "a terminal gets no Markdown"
    assert re.search(r"│ half +│ +2 │ ", out), "80 columns leave the names room"
    assert "<title>A table</title>" in (place / "out/table.html").read_text()
    # Again: nothing is run, the table is the same.
    code, out, _ = command(capsys, *ASKED, "--seeds", "7", "9")
    assert re.search(r"out/cells: 4 of 4 runs finished", out)
    assert "4/4" not in out
    assert json.loads((place / "out/table.json").read_text()) == table
    # Another grid does not overwrite this table.
    (place / "b.toml").write_text(GRID.replace("A table", "Another"))
    code, _, err = command(capsys, "ablate", "b.toml", *ASKED[2:])
    assert code == 2
    assert "out: holds the table of another grid ('A table'): give another --output" in err


def test_four_seeds_have_intervals(place, capsys):
    code, out, err = command(capsys, *ASKED, "--seeds", "4", "--only", "half", "plain")
    assert (code, err) == (0, "")
    table = json.loads((place / "out/table.json").read_text())
    score = table["columns"]["dev"]["rows"]["half"]
    assert (score["n"], score["effect"]["seeds"]) == (4, 4)
    assert score["verdict"] in ("better", "worse", "tie")
    assert "no interval" not in out


def test_tables_that_share_their_cells_run_equal_rows_once(place, capsys, monkeypatch):
    asked = (*ASKED, "--seeds", "7", "9", "--cells", "runs")
    assert command(capsys, *asked, "--only", "half")[0] == 0
    before = sorted(path.name for path in (place / "runs").glob("*.json"))
    assert [name.rpartition("-")[0] for name in before] == ["half-seed-7", "half-seed-9"]
    (place / "b.toml").write_text(GRID.replace("A table", "Another").replace('"half"', '"halved"'))
    other = ("ablate", "b.toml", *asked[2:], "--output", "more", "--only", "halved")
    _, out, _ = command(capsys, *other, "--dry-run")
    assert "runs: 2 of 2 runs finished" in out
    monkeypatch.setattr(workers, "run_cell", lambda *_, **__: pytest.fail("it ran"))
    assert command(capsys, *other)[0] == 0
    tables = [json.loads((place / name / "table.json").read_text()) for name in ("out", "more")]
    scores = [table["columns"]["dev"]["rows"] for table in tables]
    assert scores[1]["halved"]["values"] == scores[0]["half"]["values"] != {}
    assert not (place / "more/cells").exists()


def test_a_changed_setting_makes_other_cells_and_loses_none(place, capsys, monkeypatch):
    asked = (*ASKED, "--seeds", "7", "9", "--only", "plain")
    command(capsys, *asked)
    _, out, _ = command(capsys, *asked, "--set", "method.temperature=0.1", "--dry-run")
    assert "0 of 2 runs finished" in out
    assert command(capsys, *asked, "--set", "method.temperature=0.1")[0] == 0
    monkeypatch.setattr(workers, "run_cell", lambda *_, **__: pytest.fail("it ran"))
    assert command(capsys, *asked)[0] == 0
    (place / "text.txt").write_text("\n".join(SENTENCES[:39]))
    _, out, _ = command(capsys, *asked, "--dry-run")
    assert "0 of 2 runs finished" in out


def test_a_failed_run_is_in_the_table_and_in_the_exit_code(place, capsys):
    (place / "a.toml").write_text(GRID.replace("method.mask_ratio = 0.5", "training.max_tokens = 1000"))
    code, out, err = command(capsys, *ASKED, "--seeds", "7", "9", "--only", "half")
    assert code == 2
    assert "FAILED: training.max_tokens = 1000" in out
    assert "error: 2 of 2 runs failed: half (seed 7), half (seed 9). The table says why" in err
    assert "half: FAILED, seed 7, 9: training.max_tokens = 1000" in (place / "out/table.md").read_text()


def test_ctrl_c_leaves_the_table_so_far_and_says_how_to_go_on(place, capsys, monkeypatch):
    def stopped(cells, shared, **options):
        run_cell(cells[0], shared)
        raise KeyboardInterrupt

    monkeypatch.setattr(workers, "run_cells", stopped)
    code, _, err = command(capsys, *ASKED, "--seeds", "2")
    assert code == 130
    assert "The same command goes on" in err
    table = json.loads((place / "out/table.json").read_text())
    assert [run["status"] for run in table["rows"][0]["runs"]] == ["complete", "not run"]


def test_a_table_without_its_reference_says_so(place, capsys, monkeypatch):
    monkeypatch.setattr(workers, "run_cells", lambda cells, shared, **options: None)
    (place / "a.toml").write_text(GRID.replace("columns =", 'reference = "plain"\ncolumns ='))
    note = "note     no difference for half: the reference plain is not among --only"
    _, out, _ = command(capsys, *ASKED, "--only", "half")
    assert note in out
    assert "left out own" not in out
    _, out, _ = command(capsys, *ASKED, "--only", "half", "plain")
    assert note not in out
    _, out, _ = command(capsys, *ASKED)
    assert "left out own" in out


def test_a_failed_start_leaves_nothing_in_the_way(place, capsys):
    (place / "sets").mkdir()
    lines = (place / "pets.tsv").read_text().splitlines()
    whole = "".join(f"{lines[i % len(lines)]} {i}\n" for i in range(1500))
    (place / "sets/STSB-dev.tsv").write_text(whole)
    asked = ("--model", "tiny", "--data", "sets", "--max-steps", "2", "--seeds", "7", "--only", "plain")
    code, _, err = command(capsys, "ablate", "a.toml", "nothing.txt", *asked, "--output", "out")
    assert code == 2
    assert "nothing.txt" in err
    assert not (place / "out").exists()
    code, _, err = command(capsys, "ablate", "a.toml", "text.txt", *asked, "--output", "out")
    assert (code, err) == (0, "")
    assert (place / "out/cells/STSB-dev.tsv").is_file()
    assert json.loads((place / "out/table.json").read_text())["dev"] == "STSB-dev of --data"
    # What was begun before stays.
    assert command(capsys, "ablate", "a.toml", "nothing.txt", *asked, "--output", "out")[0] == 2
    assert (place / "out/cells/STSB-dev.tsv").is_file()


def test_rows_that_a_recipe_makes_the_same_are_named(capsys):
    _, out, _ = command(capsys, "ablate", "lambda", "--dry-run")
    assert "the same settings" not in out
    _, out, _ = command(
        capsys, "ablate", "lambda", "--recipe", "mini_deletion", "--only", "0", "0.05", "50", "--dry-run"
    )
    assert "0, 0.05, 50: the same settings, and so the same scores" in out
    _, out, _ = command(capsys, "ablate", "positives", "--recipe", "mini_deletion", "--dry-run")
    assert "the same settings" not in out


def test_rows_that_are_the_same_run_are_named_in_the_table(place, capsys):
    same = GRID.replace("method.mask_ratio = 0.5", "training.batch_size = 8").replace(
        'name = "plain"', 'name = "plain"\npublished.dev = 80'
    )
    (place / "a.toml").write_text(same)
    command(capsys, *ASKED, "--seeds", "7")
    assert json.loads((place / "out/table.json").read_text())["alike"] == [["plain", "half"]]
    assert "- plain, half: the same settings, and so the same scores" in (place / "out/table.md").read_text()
    assert "the same settings" in (place / "out/table.html").read_text()


def test_a_row_that_a_recipe_forbids_can_be_left_out(capsys):
    asked = ("ablate", "objective", "--recipe", "mini_deletion", "--dry-run")
    code, _, err = command(capsys, *asked)
    assert code == 2
    assert "(row 'no_contrast', with --recipe mini_deletion)" in err
    _, _, err = command(capsys, "ablate", "objective", "--recipe", "mini_deletoin", "--dry-run")
    assert "Did you mean 'mini_deletion'?" in err
    assert "row" not in err  # it is no row's fault
    code, out, _ = command(capsys, *asked, "--only", "diffcse")
    assert code == 0
    assert "no_contrast" not in out


@pytest.mark.parametrize("name", grid_names())
def test_no_shipped_table_has_a_row_twice(name):
    plan = make_plan(Request(name))
    needs = tuple(f"{need}={need}" for need in plan.grid.needs)
    assert make_plan(Request(name, given=needs)).alike == []


def test_the_command_of_a_table_makes_all_its_rows(place, capsys):
    def made():
        return json.loads((place / "out/table.json").read_text())

    command(capsys, *ASKED, "--seeds", "7", "--only", "plain")
    assert made()["command"].endswith("--only plain")
    command(capsys, *ASKED, "--seeds", "7", "--only", "half")
    assert made()["command"].endswith("--only plain half"), "the table has both"
    assert "Not asked for (--only): own" in (place / "out/table.md").read_text()


def test_a_missing_package_is_known_before_anything_runs(place, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.setattr(workers, "run_cells", lambda *_, **__: pytest.fail("it ran"))
    code, _, err = command(capsys, *ASKED)
    assert (code, (place / "out").exists()) == (2, False)
    assert 'pip install "diffcse[report]"' in err


def test_one_command_a_folder(place, capsys, monkeypatch):
    monkeypatch.setattr(workers, "run_cells", lambda *_, **__: pytest.fail("it ran"))
    with only_one(place / "out"):
        code, _, err = command(capsys, *ASKED)
    assert code == 2
    assert "another process is writing there" in err
    assert not (place / "out" / "grid.toml").exists()


def test_the_list_names_every_grid(capsys):
    code, out, _ = command(capsys, "ablate", "--list")
    assert code == 0
    assert [line.split()[1] for line in out.splitlines() if line.startswith("│")] == grid_names()
    assert re.search(r"│ pooler +│ +4 │ about 36 min │", out)


def test_a_dry_run_shows_rows_and_what_is_missing(place, capsys):
    code, out, _ = command(capsys, "ablate", "a.toml", "--dry-run", "--seeds", "2", "--set", "training.max_steps=7")
    assert code == 0
    assert re.search(r"half +│ method.mask_ratio = 0.5 +│ +2 │", out)
    assert re.search(r"own +│ .*│ left out │", out)
    assert "4 runs from recipe mini_cpu, seeds 42, 43, rows that do not set it themselves: training.max_steps=7" in out
    assert "column   dev is measured on bundled pairs" in out
    assert "note     no transfer_dev: it needs SentEval's transfer tasks in --data" in out
    _, out, _ = command(capsys, "ablate", "a.toml", "--dry-run", "--set", "small=tiny", "--only", "own")
    assert "5 runs" in out
    assert "left out" not in out
    _, named, _ = command(capsys, "ablate", "a.toml", "--dry-run", "--dev", "pairs")
    assert "column   dev is measured on bundled pairs" in named
    (place / "pairs").mkdir()
    code, _, err = command(capsys, "ablate", "a.toml", "--dry-run", "--dev", "pairs")
    assert (code, "write ./pairs" in err) == (2, True)
    code, _, err = command(capsys, "ablate", "a.toml", "texd.txt", "--dry-run")
    assert code == 2
    assert "texd.txt does not exist. Did you mean text.txt?" in err
    _, out, _ = command(capsys, "ablate", "a.toml", "--dry-run", "--only", "half", "--only", "plain", "--seeds", "1")
    assert "2 runs from" in out, "the second --only would take the first one's place"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no grid: diffcse ablate --list"),
        (["mian"], "Did you mean 'main'?"),
        (["a.toml"], "no text: give files"),
        (["a.toml", "text.txt"], "no output folder: give --output DIR"),
        (["a.toml", "--only", "half", "text.txt"], "--only text.txt: is a file: "),
        (["a.toml", "--only", "hlaf"], "no row 'hlaf': did you mean 'half'?"),
        (["a.toml", "--set", "smal=x"], "--set smal=x: this grid needs small"),
        (["a.toml", "--set", "small"], "--set small: write NAME=VALUE"),
        (["a.toml", "--set", "training.seed=3"], "--set training.seed=3: give --seeds"),
        (["a.toml", "--set", "training.dev=x.tsv"], "--set training.dev=x.tsv: give --dev FILE"),
        (["a.toml", "--set", "method.poling=cls"], "unknown key method.poling: did you mean method.pooling?"),
        (["a.toml", "--set", "method.pooling=clz"], "method.pooling = 'clz': must be one of"),
        (["a.toml", "text.txt", "--output", "x", "--seeds", "0"], "--seeds 0: give a count from 1 on"),
        (["a.toml", "text.txt", "--output", "x", "--seeds", "3", "3"], "--seeds 3 3: give a count"),
        (["a.toml", "text.txt", "--output", "."], "other files"),
        (["a.toml", "none.txt", "--output", "x"], "none.txt"),
    ],
)
def test_what_cannot_be_done_is_said(place, capsys, arguments, message):
    code, _, err = command(capsys, "ablate", *arguments)
    assert code == 2
    assert message in err
