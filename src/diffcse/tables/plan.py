"""What one `diffcse ablate` command is to do: rows, settings, seeds, cells. A plan is printed, or run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffcse.config import Config, identity, read_toml, to_dict
from diffcse.errors import InputError
from diffcse.figures import counted
from diffcse.files import write_json, write_text
from diffcse.tables.cells import Cell, Shared, cells_of, is_begun, is_finished, outcome_of
from diffcse.tables.columns import COLUMNS, measured_on, read_data
from diffcse.tables.grids import Grid, Row, load_grid, seconds_of
from diffcse.tables.page import ALIKE

_MOST = 20
_FIRST = 42
_OWN_OPTIONS = {"training.seed": "--seeds", "training.dev": "--dev FILE"}
"""Fields that every cell gets from an option."""


@dataclass(frozen=True)
class Request:
    """What a command asks for, in the words of its options (`cli.ablate`)."""

    grid: str
    text: tuple[str, ...] = ()
    output: Path | None = None
    cells: Path | None = None
    seeds: tuple[int, ...] = (5,)
    recipe: str | None = None
    model: str | None = None
    dev: str | None = None
    data: tuple[str, ...] = ()
    given: tuple[str, ...] = ()
    max_steps: int | None = None
    only: tuple[str, ...] = ()
    keep_models: bool = False
    command: str = ""
    """The command without --only, as the table repeats it."""


@dataclass(frozen=True)
class Plan:
    """A table to be made: its rows' settings, and its cells."""

    request: Request
    grid: Grid
    seeds: tuple[int, ...]
    configs: Mapping[str, Config]
    """Row -> its settings, for the rows that can run."""
    skipped: Mapping[str, str]
    """Row -> why it cannot run."""
    shared: Shared
    cells: tuple[Cell, ...]
    """Of all rows that can run. Empty where the request names no text or no folder."""

    @property
    def recipe(self) -> str:
        """Name of the recipe that every row starts from."""
        return self.request.recipe or self.grid.recipe

    @property
    def rows(self) -> list[Row]:
        """The rows asked for."""
        return [row for row in self.grid.rows if not self.request.only or row.name in self.request.only]

    @property
    def chosen(self) -> list[Cell]:
        """The cells of the rows asked for."""
        names = {row.name for row in self.rows}
        return [cell for cell in self.cells if cell.row in names]

    def runs_of(self, row: Row) -> int:
        """How many runs a row has in this plan; 0 if it cannot run."""
        return (len(self.seeds) if row.trained else 1) if row.name in self.configs else 0

    def changes_of(self, row: Row) -> str:
        """What a row changes, as field = value."""
        fields = [row.fields, row.with_recipe.get(self.recipe, {})]
        flat = [
            f"{section}.{key} = {json.dumps(value)}"
            for each in fields
            for section, values in each.items()
            for key, value in values.items()
        ]
        return ", ".join(flat) or ("the base" if row.trained else "not trained")

    @property
    def in_table(self) -> list[str]:
        """Names of the rows asked for, and of those that earlier commands ran."""
        begun = {cell.row for cell in self.cells if outcome_of(cell) is not None}
        asked = {row.name for row in self.rows}
        return [row.name for row in self.grid.rows if row.name in asked | begun]

    @property
    def alike(self) -> list[list[str]]:
        """Rows that are the same runs under several names: some recipes leave a grid nothing to compare."""
        plain = to_dict(Config())
        same: dict[str, list[str]] = {}
        for row in self.rows:
            config = self.configs.get(row.name)
            if config is not None and row.trained:
                values = to_dict(config)
                for section, _, key in (name.partition(".") for name in config.unused()):
                    values[section][key] = plain[section][key]
                same.setdefault(identity(values, Config), []).append(row.name)
        return [names for names in same.values() if len(names) > 1]

    # ---- printed -----------------------------------------------------------------------------------------------------

    def lines(self) -> list[str]:
        """What a person should know of the plan before it runs."""
        return [self._first_line(), *self._row_lines(), *self._column_lines(), *self._output_lines()]

    def _first_line(self) -> str:
        request, runs = self.request, sum(map(self.runs_of, self.rows))
        line = f"{counted(runs, 'run')} from recipe {self.recipe}, seeds {', '.join(map(str, self.seeds))}"
        fields = [text for text in request.given if "." in text.partition("=")[0]]
        needs = [text for text in request.given if text not in fields]
        line += f", with {', '.join(needs)}" if needs else ""
        line += f", rows that do not set it themselves: {', '.join(fields)}" if fields else ""
        return line + ("" if request.max_steps is None else f", all rows: training.max_steps={request.max_steps}")

    def _row_lines(self) -> list[str]:
        lines = [f"left out {row.name}: {self.skipped[row.name]}" for row in self.rows if row.name in self.skipped]
        lines += [f"note     {', '.join(names)}: {ALIKE}" for names in self.alike]
        able, present = [row for row in self.rows if row.name in self.configs], self.in_table
        for other in dict.fromkeys(other for row in able if (other := self.grid.against(row)) and other not in present):
            alone = ", ".join(row.name for row in able if self.grid.against(row) == other)
            lines.append(f"note     no difference for {alone}: the reference {other} is not among --only")
        return lines

    def _column_lines(self) -> list[str]:
        return [
            f"column   {name} is measured on {', '.join(measured_on(jobs, self.shared.dev))}"
            if jobs
            else f"note     no {name}: it needs {COLUMNS[name].needs}"
            for name, jobs in self.shared.jobs.items()
        ]

    def _output_lines(self) -> list[str]:
        if not self.chosen:
            return []
        cells = {cell.identity: cell for cell in self.chosen}.values()
        finished = sum(is_finished(cell, self.shared) for cell in cells)
        begun = sum(is_begun(cell) for cell in cells)
        place = Path(self.chosen[0].folder).parent
        return [
            f"cells    {place}: {finished} of {counted(len(cells), 'run')} finished"
            + (f", {begun} begun" if begun else "")
        ]

    # ---- run ---------------------------------------------------------------------------------------------------------

    @property
    def costs(self) -> dict[Cell, tuple[float, float]]:
        """Cell -> rough seconds of training and measuring, for the cells that are not finished."""
        measured = [name for name, jobs in self.shared.jobs.items() if jobs]
        unfinished = {cell.identity: cell for cell in self.chosen if not is_finished(cell, self.shared)}
        return {
            cell: seconds_of(self.configs[cell.row], measured, trained=cell.trained) for cell in unfinished.values()
        }

    def run(self, *, parallel: int, report: Callable[[Cell, str, dict[str, Any]], None]) -> dict[str, Any]:
        """Run what is not finished, and write and return the table. Ctrl-C leaves the table so far.

        Raises:
            InputError: a file cannot be written, or `parallel` is more than the machine has.
        """
        from diffcse.tables.workers import run_cells

        assert self.request.output is not None
        write_text(self.request.output / "grid.toml", self.grid.text)
        try:
            run_cells(self.chosen, self.shared, parallel=parallel, report=report)
        finally:
            table = self._table()
            _write(table, self.request.output)
        return table

    def _table(self) -> dict[str, Any]:
        from diffcse.tables.tabulate import tabulate

        present = self.in_table
        only = [] if len(present) == len(self.grid.rows) else present
        models = dict.fromkeys(config.method.model for config in self.configs.values())
        facts = {
            "command": self.request.command + "".join([" --only", *(f" {name}" for name in only)] if only else ""),
            "recipe": self.recipe,
            "model": ", ".join(models) or "none",
            "seeds": [*self.seeds],
            "only": only,
            "dev": _dev_name(self.shared.dev),
            "alike": self.alike,
        }
        return tabulate(self.grid, self.cells, self.shared, skipped=self.skipped, facts=facts)


def make_plan(request: Request) -> Plan:
    """The plan of a request. Reads the grid, the text and the data, and writes nothing.

    Raises:
        InputError: the grid, a row, an option, the text or the data cannot be used.
    """
    grid = load_grid(request.grid)
    seeds = _seeds(request.seeds)
    configs, skipped = _configs(grid, request)
    shared = Shared(request.text, _dev(request, grid), request.data, grid.columns, request.keep_models)
    cells: list[Cell] = []
    if request.output is not None:
        _check_grid(request.output / "grid.toml", grid)
        if request.text:
            folder = request.cells or request.output / "cells"
            cells = cells_of(grid, configs, shared, seeds, folder)
    return Plan(request, grid, seeds, configs, skipped, shared, tuple(cells))


def _seeds(asked: Sequence[int]) -> tuple[int, ...]:
    """The seeds themselves; a single small number is a count."""
    count = asked[0] if len(asked) == 1 and asked[0] <= _MOST else None
    seeds = tuple(asked) if count is None else tuple(range(_FIRST, _FIRST + count))
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise InputError(f"--seeds {' '.join(map(str, asked))}: give a count from 1 on, or different seeds")
    return seeds


def _dev(request: Request, grid: Grid) -> str | None:
    """File of the dev set; None where it is STSB-dev of the data."""
    from diffcse.evaluation.sts import OWN_PAIRS, named_pairs

    if request.dev is not None:
        return str(named_pairs(request.dev))
    return None if "STSB-dev" in read_data(request.data, grid.columns).sts else str(OWN_PAIRS)


def _dev_name(dev: str | None) -> str:
    from diffcse.evaluation.sts import OWN_PAIRS

    if dev is None:
        return "STSB-dev of --data"
    return "the toolkit's own graded pairs, no benchmark" if Path(dev) == OWN_PAIRS else dev


def _check_grid(file: Path, grid: Grid) -> None:
    """Raise an `InputError` if the folder holds another grid's table, which would be overwritten."""
    if file.is_file():
        title = read_toml(file.read_bytes(), str(file)).get("title")
        if title != grid.title:
            raise InputError(
                f"{file.parent}: holds the table of another grid ({title!r}): give another --output, "
                f"and --cells {file.parent / 'cells'} to share its runs"
            )


def _configs(grid: Grid, request: Request) -> tuple[dict[str, Config], dict[str, str]]:
    """(row -> its Config, row -> why it has none)."""
    for name in request.only:
        if Path(name).is_file() and name not in [row.name for row in grid.rows]:
            raise InputError(f"--only {name}: is a file: write the text before the options")
        grid.row(name)
    given, changes = _given(grid, request)
    configs, skipped = {}, {}
    for row in grid.rows:
        try:
            config = grid.config(row, recipe=request.recipe or "", given=given, changes=changes)
        except InputError as error:
            if request.only and row.name not in request.only:
                skipped[row.name] = str(error)
                continue
            raise
        if request.max_steps is not None:
            training = dataclasses.replace(config.training, max_steps=request.max_steps)
            config = dataclasses.replace(config, training=training)
        missing = [name for name in row.placeholders(request.recipe or grid.recipe) if name not in given]
        if missing:
            skipped[row.name] = "; ".join(_how(grid, name, config) for name in missing)
        else:
            configs[row.name] = config
    return configs, skipped


def _given(grid: Grid, request: Request) -> tuple[dict[str, str], str]:
    """(what fills the grid's placeholders, TOML that changes all rows), from --set and --model."""
    given: dict[str, str] = {}
    changes = []
    for text in request.given:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise InputError(f"--set {text}: write NAME=VALUE")
        if name in _OWN_OPTIONS:
            raise InputError(f"--set {text}: give {_OWN_OPTIONS[name]}")
        if "." in name:
            changes.append(_assignment(text, name, value))
        elif name in grid.needs:
            given[name] = value
        else:
            raise InputError(
                f"--set {text}: this grid needs {', '.join(grid.needs) or 'nothing'}; "
                "a field of all rows has a section, as in method.mask_ratio=0.2"
            )
    if request.model is not None:
        changes.append(f"method.model = {json.dumps(request.model)}")
    return given, "\n".join(changes)


def _assignment(text: str, name: str, value: str) -> str:
    """NAME=VALUE as TOML; a word needs no quotes."""
    try:
        read_toml(text.encode(), "--set")
        return text
    except InputError:
        return f"{name} = {json.dumps(value)}"


def _how(grid: Grid, name: str, config: Config) -> str:
    need = grid.needs[name]
    make = need.make.replace("MODEL", config.method.model)
    return f"it needs {need.what} as --set {name}=FOLDER" + (f" ({make})" if make else "")


def _write(table: dict[str, Any], output: Path) -> None:
    from diffcse.tables.page import ablation_markdown, ablation_page

    write_json(output / "table.json", table)
    write_text(output / "table.md", ablation_markdown(table))
    write_text(output / "table.html", ablation_page(table))
