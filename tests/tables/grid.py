"""A grid of two rows, its cells, and what running them gives."""

import json

from diffcse.tables.cells import Shared, cells_of
from diffcse.tables.columns import jobs_hash
from diffcse.tables.grids import parse_grid
from diffcse.tables.tabulate import tabulate
from diffcse.tables.workers import run_cells

GRID = """\
title = "A table"
columns = {columns}

[base]
method.model = "{model}"
{pooling}
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


BY_MEAN = 'method.pooling = "mean"'


def made(place, output, *, columns='["dev", "dev_last"]', ratio=0.5, more="", seeds=(1, 2), pooling=BY_MEAN, **shared):
    text = GRID.format(model=place / "model", columns=columns, ratio=ratio, more=more, pooling=pooling)
    grid = parse_grid(text.encode(), "a.toml")
    shared = Shared((str(place / "text.txt"),), str(place / "dev.tsv"), columns=grid.columns, **shared)
    configs = {row.name: grid.config(row) for row in grid.rows}
    output.mkdir(parents=True, exist_ok=True)
    return grid, cells_of(grid, configs, shared, seeds, output / "cells"), shared


def ended(cells, shared, **options):
    """The (row, seed) of the cells that were run."""
    seen = []
    run_cells(cells, shared, report=lambda cell, event, facts: event == "end" and seen.append((cell.row, cell.seed)))
    return seen


def table_of(grid, cells, shared):
    return tabulate(grid, cells, shared, skipped={}, facts={"command": "x", "seeds": [1, 2]})


def written(cells, shared, values):
    """Outcomes on disk as if the cells had these dev scores."""
    jobs = shared.jobs
    for cell in cells:
        if (cell.row, cell.seed) in values:
            score = {"value": values[cell.row, cell.seed], "data": jobs_hash(jobs["dev"])}
            cell.record.parent.mkdir(parents=True, exist_ok=True)
            outcome = {"identity": cell.identity, "status": "complete", "scores": {"dev": score}}
            cell.record.write_text(json.dumps(outcome))
