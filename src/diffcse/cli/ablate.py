"""`diffcse ablate`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from rich.console import Console
from tyro.conf import Positional, UseAppendAction, arg

from diffcse.errors import InputError
from diffcse.machine import one_process

if TYPE_CHECKING:
    from diffcse.tables.plan import Plan, Request


@dataclass(frozen=True)
class Ablate:
    """Make a table of the paper: rows of settings, several seeds each, beside the published figures."""

    arguments: Annotated[Positional[tuple[str, ...]], arg(metavar="GRID TEXT...", help_behavior_hint="")]
    """Name of a bundled grid, or a .toml file; then the text, as `diffcse train` takes it."""
    output: Path | None = None
    """Folder for the table. The same command goes on there."""
    cells: Path | None = None
    """Folder for the runs, OUTPUT/cells if not given. Tables that share it train equal rows once."""
    seeds: tuple[int, ...] = (5,)
    """How many seeds, from 42 on; or the seeds themselves. One number up to 20 is a count. Intervals need four."""
    recipe: str | None = None
    """Recipe that every row starts from, in place of the grid's own."""
    model: str | None = None
    """Checkpoint that every row starts from, in place of the recipe's."""
    dev: str | None = None
    """TSV of graded pairs that choose each run's best step; "pairs" for the bundled ones. Default: STSB-dev of --data
    if it is there, else the bundled ones."""
    data: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="DIR|hub:ID|pairs")] = ()
    """Folder with the sets of the other columns, as `diffcse evaluate` takes them."""
    given: Annotated[UseAppendAction[tuple[str, ...]], arg(name="set", metavar="NAME=VALUE")] = ()
    """What a grid needs (small=FOLDER), or a field of all rows that do not set it themselves
    (training.learning_rate=1e-4)."""
    max_steps: int | None = None
    """Weight updates of each run, in place of the recipe's."""
    only: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], arg(metavar="ROW...")] = ()
    """Only these rows."""
    parallel: int = 1
    """Runs at once, each in a process with its share of the cores, or a GPU of its own."""
    keep_models: bool = False
    """Keep each run's model/ and last/. Otherwise a score asked for later trains the run again."""
    show_list: Annotated[bool, arg(name="list")] = False
    """Show the bundled grids and stop."""
    dry_run: bool = False
    """Show the plan and stop: rows, what each changes, what is missing, what is finished."""

    ON_STOP: ClassVar[str] = (
        " The same command goes on: finished runs are kept, begun ones resume at their last checkpoint, if any."
    )

    def __call__(self, console: Console) -> None:
        if self.show_list:
            _show_grids(console)
            return
        if not self.arguments:
            raise InputError("no grid: diffcse ablate --list shows the bundled ones; or give a .toml file")
        one_process("ablate", "its runs go on side by side with --parallel N")
        request = self._request()
        if request.text and request.output is not None and not self.dry_run:
            _run(request, request.output, self.parallel, console)
            return
        from diffcse.tables.plan import make_plan

        plan = make_plan(request)
        if self.dry_run:
            _show(plan, console)
        elif not request.text:
            raise InputError(f"no text: give files, e.g. diffcse ablate {request.grid} sentences.txt --output out")
        else:
            raise InputError("no output folder: give --output DIR")

    def _request(self) -> Request:
        from diffcse.tables.plan import Request

        only = tuple(name for names in self.only for name in names)
        same = {field.name: getattr(self, field.name) for field in fields(Request) if hasattr(self, field.name)}
        grid, *text = self.arguments
        return Request(**{**same, "grid": grid, "text": tuple(text), "only": only, "command": self._command()})

    def _command(self) -> str:
        """The command in the user's words, without --only, and without options that change no figure."""
        words = ["diffcse", "ablate", *self.arguments, "--seeds", *map(str, self.seeds)]
        for name in ("recipe", "model", "dev", "max_steps"):
            value = getattr(self, name)
            words += [f"--{name.replace('_', '-')}", str(value)] if value is not None else []
        words += [word for folder in self.data for word in ("--data", folder)]
        words += [word for text in self.given for word in ("--set", text)]
        return shlex.join([*words, "--output", str(self.output)])


def _run(request: Request, output: Path, parallel: int, console: Console) -> None:
    from diffcse.files import only_one
    from diffcse.report.parts import page_template
    from diffcse.tables.plan import make_plan
    from diffcse.terminal import CellsView, say
    from diffcse.training.folder import check_output

    page_template("table.html")  # a missing package must be known before hours of runs
    check_output(output, resume=True, begun="grid.toml")
    with only_one(output), only_one(request.cells or output / "cells"):
        plan = make_plan(request)
        say(console, f"grid     {plan.grid.title}")
        for line in plan.lines():
            say(console, line)
        costs = plan.costs
        total = len({cell.identity for cell in plan.chosen})
        view = CellsView(console, costs=costs, total=total)
        try:
            table = plan.run(parallel=parallel, report=view)
        finally:
            view.close()
    _show_table(table, console)
    say(console, f"written  {output / 'table.md'}, table.json and table.html")
    _check_failures(table, [row.name for row in plan.rows])


def _show_grids(console: Console) -> None:
    from diffcse.tables.grids import COST_HARDWARE, cost, grid_names, load_grid
    from diffcse.terminal import table

    rows = []
    for name in grid_names():
        grid = load_grid(name)
        needs = f", needs {', '.join(grid.needs)}" if grid.needs else ""
        rows.append([name, str(len(grid.rows)), cost(grid, 5), f"{grid.title}{needs}"])
    view = table("", ["grid", "rows", "5 seeds", "what"], rows)
    view.columns[-1].justify, view.columns[-1].no_wrap = "left", False
    console.print(view)
    console.print(
        f"Times are for the mini recipe with all columns, on {COST_HARDWARE}, with --parallel 2. Without such "
        "instructions they are about three times as long.\n"
        "--recipe diffcse_bert_base_sts is the paper's and needs a GPU.",
        markup=False,
        highlight=False,
    )


def _show(plan: Plan, console: Console) -> None:
    """Print the plan."""
    from diffcse.terminal import say, table
    from diffcse.text.hub import PREFIX
    from diffcse.text.sources import find_sources

    if files := [source for source in plan.request.text if not source.startswith(PREFIX)]:
        find_sources(files)  # without --output the text is not read: a mistyped name must still be an error
    rows = [[row.name, plan.changes_of(row), str(plan.runs_of(row) or "left out")] for row in plan.rows]
    view = table(plan.grid.title, ["row", "changes", "runs"], rows)
    view.columns[1].justify, view.columns[1].no_wrap = "left", False
    console.print(view)
    for line in plan.lines():
        say(console, line)


def _show_table(table: dict[str, Any], console: Console) -> None:
    """Print a table of scores for each column that was measured."""
    from diffcse.report.parts import MISSING
    from diffcse.tables.page import heading, headline, score_rows
    from diffcse.terminal import Figures, print_figures, say

    for name, column in table["columns"].items():
        if not column["lacks"]:
            heads, rows = score_rows(table, name)
            # The published figures come last: 80 columns have no room for them beside the intervals.
            full = [i for i, head in enumerate(heads) if any(row[i] not in ("", MISSING) for row in rows)]
            shown = sorted(full, key=lambda i: heads[i].startswith("published"))
            cells = [[row[i] for i in shown] for row in rows]
            print_figures(console, Figures(heading(column), [heads[i] for i in shown], cells))
    for line in headline(table):
        say(console, line)


def _check_failures(table: Mapping[str, Any], rows: Sequence[str]) -> None:
    runs = [(row["name"], run) for row in table["rows"] if row["name"] in rows for run in row["runs"]]
    failed = [f"{name} (seed {run['seed']})" for name, run in runs if run["status"] == "failed"]
    if failed:
        more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
        raise InputError(
            f"{len(failed)} of {len(runs)} runs failed: {', '.join(failed[:5])}{more}. The table says why. The same "
            "command runs them again"
        )
