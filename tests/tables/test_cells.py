"""Cells: what makes one another, and which are finished."""

import shutil

import pytest

from diffcse.tables.cells import Shared, cells_of, is_finished, outcome_of
from diffcse.tables.grids import parse_grid
from tests.models import SENTENCES, save_tiny
from tests.tables.grid import BY_MEAN, GRID, ended, made, table_of


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


def test_tables_that_share_a_folder_run_equal_rows_once(place, done, tmp_path):
    output, _, cells, _ = done
    # Another name, another order, kept training parts and log intervals change no score. Another ratio or seed does.
    text = GRID.format(
        model=place / "model", columns='["dev"]', ratio=0.5, more="training.log_every = 2", pooling=BY_MEAN
    )
    text = text.replace('"half"', '"halved"').replace("published.dev = 80", "method.mask_ratio = 0.4")
    grid = parse_grid(text.encode(), "b.toml")
    shared = Shared((str(place / "text.txt"),), str(place / "dev.tsv"), columns=grid.columns)
    configs = {row.name: grid.config(row) for row in grid.rows}
    wanted = cells_of(grid, configs, shared, (2, 3), output / "cells")
    assert [cell.row for cell in wanted if is_finished(cell, shared)] == ["halved"]
    assert (wanted[2].folder, wanted[2].identity) == (cells[3].folder, cells[3].identity)
    rows = {row["name"]: row for row in table_of(grid, wanted, shared)["rows"]}
    assert len(rows["halved"]["runs"][0]["curve"]) > 1
    assert table_of(grid, wanted, shared)["columns"]["dev"]["rows"]["halved"]["values"] == {
        "2": outcome_of(cells[3])["scores"]["dev"]["value"]
    }


@pytest.mark.parametrize("damage", ["{", "[]", '{"status": "complete"}', '{"identity": 3}'])
def test_a_damaged_outcome_is_no_outcome(place, done, tmp_path, damage):
    shutil.copytree(done[0], tmp_path / "other")
    _, cells, shared = made(place, tmp_path / "other")
    cells[0].record.write_text(damage)
    assert [cell for cell in cells if not is_finished(cell, shared)] == [cells[0]]


@pytest.mark.parametrize("what", ["text", "dev"])
def test_other_data_are_another_cell(place, tmp_path, what):
    _, cells, _ = made(place, tmp_path)
    text, dev = tmp_path / "text.txt", tmp_path / "dev.tsv"
    text.write_text((place / "text.txt").read_text() + ("\none more" if what == "text" else ""))
    dev.write_text((place / "dev.tsv").read_text() + ("5\tone more\tanother\n" if what == "dev" else ""))
    grid = made(place, tmp_path)[0]
    shared = Shared((str(text),), str(dev), columns=grid.columns)
    others = cells_of(grid, {row.name: grid.config(row) for row in grid.rows}, shared, (1, 2), tmp_path / "cells")
    assert not {cell.identity for cell in cells} & {cell.identity for cell in others}


def test_other_documents_are_another_cell_where_they_are_read(place, tmp_path):
    grid, lines = made(place, tmp_path, more='method.positives = "next"')[0], SENTENCES[:40]
    found = []
    for name, text in (("one", "\n".join(lines)), ("two", "\n".join([*lines[:20], "", *lines[20:]]))):
        (tmp_path / f"{name}.txt").write_text(text)
        shared = Shared((str(tmp_path / f"{name}.txt"),), str(place / "dev.tsv"), columns=grid.columns)
        found.append(cells_of(grid, {row.name: grid.config(row) for row in grid.rows}, shared, (1,), tmp_path))
    assert [one.identity == other.identity for one, other in zip(*found, strict=True)] == [True, False]


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
