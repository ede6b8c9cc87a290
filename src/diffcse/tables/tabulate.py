"""Outcomes of cells -> the table, as plain JSON values.

A difference between two rows is taken between runs of the same seed (`evaluation.seeds`), and has an interval from four
seeds on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffcse.errors import InputError
from diffcse.evaluation.seeds import EXACT, Effect, effect, spread, verdict
from diffcse.record import finite, read_record, versions
from diffcse.tables.cells import Cell, Shared, outcome_of, score_of
from diffcse.tables.columns import COLUMNS, Column, measured_on
from diffcse.tables.grids import Grid, Row

SCHEMA = "diffcse-ablation/1"

_Values = Mapping[str, Mapping[int, float]]
"""Row -> seed -> score."""


def tabulate(
    grid: Grid, cells: Sequence[Cell], shared: Shared, *, skipped: Mapping[str, str], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """The table as plain JSON values, from what is on disk of `cells`.

    Args:
        skipped: row -> why it has no cells.
        facts: what else the table says of its command, such as its words and the seeds.
    """
    outcomes = {cell: outcome_of(cell) for cell in cells}
    columns = {}
    for name in grid.columns:
        jobs = shared.jobs[name]
        values: dict[str, dict[int, float]] = {}
        for cell, outcome in outcomes.items():
            score = score_of(outcome, name, jobs)
            if score and score["value"] is not None:
                values.setdefault(cell.row, {})[cell.seed] = score["value"]
        columns[name] = _column(grid, name, values, measured_on(jobs, shared.dev))
    by_row = {row.name: {cell: outcomes[cell] for cell in cells if cell.row == row.name} for row in grid.rows}
    return finite(
        {
            "schema": SCHEMA,
            "title": grid.title,
            "paper": grid.paper,
            "note": grid.note,
            **facts,
            "rows": [_row(grid, row, by_row[row.name], skipped.get(row.name)) for row in grid.rows],
            "columns": columns,
            "versions": versions(),
        }
    )


def _row(grid: Grid, row: Row, outcomes: Mapping[Cell, dict[str, Any] | None], skipped: str | None) -> dict[str, Any]:
    """What the table says of a row beside its scores."""
    return {
        "name": row.name,
        "label": row.label,
        "group": row.group,
        "note": row.note,
        "against": grid.against(row),
        "skipped": skipped,
        "runs": [_run(cell, outcome or {"status": "not run"}) for cell, outcome in outcomes.items()],
    }


def _run(cell: Cell, outcome: Mapping[str, Any]) -> dict[str, Any]:
    run: dict[str, Any] = {"seed": cell.seed if cell.trained else None, "status": outcome["status"], "curve": []}
    run |= {"message": outcome.get("message"), "seconds": outcome.get("seconds")}
    if outcome["status"] == "complete" and cell.trained:
        try:
            record = read_record(Path(cell.folder) / "run.json")
        except InputError:
            return run  # the scores are in the outcome; only the curve is lost
        points = ([entry.get("step"), entry.get("dev")] for entry in record.log)
        run["curve"] = [point for point in points if None not in point]
        run |= {"steps": record.scores.get("steps"), "hardware": record.hardware, "warnings": record.warnings}
    return run


def _column(grid: Grid, name: str, values: _Values, sets: list[str]) -> dict[str, Any]:
    column = COLUMNS[name]
    scored = {row.name: _score(grid, row, name, values) for row in grid.rows}
    return {
        "label": column.label,
        "digits": column.digits,
        "lower_is_better": column.lower_is_better,
        "measured_on": sets,
        "lacks": None if sets else column.needs,
        "rows": scored,
        "agreement": agreement(list(scored.values())),
    }


def _score(grid: Grid, row: Row, column: str, values: _Values) -> dict[str, Any]:
    """A row's scores in one column, the published figure, and both differences from its reference."""
    ours, against = values.get(row.name, {}), grid.against(row)
    theirs = values.get(against, {}) if against else {}
    published = row.published.get(column)
    other = grid.row(against).published.get(column) if against else None
    compared = effect(ours, theirs) if ours and theirs else None
    return {
        "values": {str(seed): value for seed, value in ours.items()},
        "n": len(ours),
        **(spread(list(ours.values())) if ours else {"mean": None, "sd": None}),
        "published": published,
        "published_difference": None if published is None or other is None else published - other,
        "effect": None if compared is None else compared.to_dict(),
        "verdict": None if compared is None else _verdict(compared, COLUMNS[column]),
    }


def _verdict(compared: Effect, column: Column) -> str | None:
    if column.lower_is_better is None:
        return None
    return verdict(compared, digits=column.digits, lower_is_better=column.lower_is_better)


def agreement(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Whether ours and the published figures rank the rows alike. None for fewer than three rows.

    p is Kendall's, exact where no two rows tie: the chance that unrelated orders agree or disagree as much.
    """
    from scipy import stats

    both = [
        (score["mean"], score["published"])
        for score in scores
        if score["mean"] is not None and score["published"] is not None
    ]
    if len(both) < 3:
        return None
    ours, published = np.round(both, EXACT).T  # equal scores may differ in their last bits
    if np.ptp(ours) == 0 or np.ptp(published) == 0:
        return None
    spearman, kendall = stats.spearmanr(ours, published).statistic, stats.kendalltau(ours, published)
    return {
        "n": len(both),
        "spearman": float(spearman),
        "kendall": float(kendall.statistic),
        "p": float(kendall.pvalue),
    }
