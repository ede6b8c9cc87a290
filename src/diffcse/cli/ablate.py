"""`diffcse ablate`."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from rich.console import Console
from tyro.conf import Positional, UseAppendAction, arg

from diffcse.config import Config, read_toml, to_dict
from diffcse.errors import InputError
from diffcse.tables.page import ALIKE
from diffcse.text.hub import PREFIX

if TYPE_CHECKING:
    from diffcse.tables.cells import Cell, Shared
    from diffcse.tables.grids import Grid, Row

_MOST = 20
_FIRST = 42
_DEV = "STSB-dev.tsv"
_OWN_OPTIONS = {"training.seed": "--seeds", "training.dev": "--dev FILE"}
"""Fields that every cell gets from an option, whatever else is set."""


@dataclass(frozen=True)
class Ablate:
    """Make a table of the paper: a grid of settings, each with several seeds, beside the published figures."""

    arguments: Annotated[Positional[tuple[str, ...]], arg(metavar="GRID TEXT...", help_behavior_hint="")]
    """Name of a bundled grid, or a .toml file; then the text, as `diffcse train` takes it. "results" and tables made
    before: one page of them all."""
    output: Path | None = None
    """Folder for the runs and the table; the same command goes on there. With "results": the page's file."""
    seeds: tuple[int, ...] = (5,)
    """How many, from 42 on; or the seeds themselves. One number up to 20 is a count."""
    recipe: str | None = None
    """What every row starts from, in place of the grid's own."""
    model: str | None = None
    """Checkpoint every row starts from, in place of the recipe's."""
    dev: str | None = None
    """TSV of graded pairs that chooses each run's best step, or "pairs", 399 that come along. Without: STSB-dev of
    --data, if it is there, else these."""
    data: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="DIR|hub:ID|pairs")] = ()
    """Folder with the sets of the other columns, as `diffcse evaluate` takes them."""
    given: Annotated[UseAppendAction[tuple[str, ...]], arg(name="set", metavar="NAME=VALUE")] = ()
    """What a grid needs (small=FOLDER), or a field of all rows that do not set it themselves
    (training.learning_rate=1e-4)."""
    max_steps: int | None = None
    """Weight updates of each run, in place of the recipe's."""
    only: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], arg(metavar="ROW...")] = ()
    """Only these rows."""
    reuse: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], arg(metavar="DIR...")] = ()
    """Tables made before, by their --output: runs there that this table has too (same settings, seed, text, dev file
    and data) are copied, not run again."""
    parallel: int = 1
    """Runs at once, each in a process with its share of the cores, or its own GPU."""
    keep_models: bool = False
    """Keep each run's model/ and last/. Without, records and scores stay, and a score that is asked for later (other
    --data) trains the run again."""
    replace: bool = False
    """Make anew the runs in --output that had other settings or data; without, these are an error."""
    show_list: Annotated[bool, arg(name="list")] = False
    """Show the grids that come along, and stop."""
    dry_run: bool = False
    """Show the rows, what each changes, what is missing, and with text what is finished in --output, and stop."""

    ON_STOP: ClassVar[str] = (
        " The same command goes on: finished runs are kept, begun ones resume at their last checkpoint, if any."
    )

    def __call__(self, console: Console) -> None:
        if self.show_list:
            _show_grids(console)
            return
        if not self.arguments:
            raise InputError("no grid: diffcse ablate --list shows those that come along; or give a .toml file")
        name, *text = self.arguments
        if name == "results":
            self._write_results(text, console)
            return
        from diffcse.tables.grids import load_grid

        grid = load_grid(name)
        configs, skipped = self._configs(grid)
        self._check_reused()
        if self.dry_run:
            self._show_rows(grid, configs, skipped, tuple(text), console)
            return
        if not text:
            raise InputError(f"no text: give one or more files, e.g. diffcse ablate {name} sentences.txt --output out")
        if self.output is None:
            raise InputError("no output folder: give --output DIR")
        from diffcse.files import only_one
        from diffcse.report.parts import template_and_plotly
        from diffcse.training.run import check_output

        template_and_plotly("table.html")  # that a package is missing is to be known before hours of runs
        check_output(self.output, resume=True, begun="grid.toml")
        with only_one(self.output):
            self._run(grid, configs, skipped, tuple(text), self.output, console)

    # ---- the table ---------------------------------------------------------------------------------------------------

    def _run(
        self,
        grid: Grid,
        configs: Mapping[str, Config],
        skipped: Mapping[str, str],
        text: tuple[str, ...],
        output: Path,
        console: Console,
    ) -> None:
        from diffcse.files import write_text
        from diffcse.tables.cells import (
            cells_of,
            column_jobs,
            is_finished,
            reusable,
            run_cells,
            tabulate,
            take_over,
        )
        from diffcse.tables.grids import seconds_of
        from diffcse.terminal import CellsView, say

        _check_grid(output / "grid.toml", grid)
        with _withdrawn(output):
            shared = self._shared(grid, text, output)
            cells = cells_of(grid, configs, shared, self._seeds, output)
        lacking = [name for name, jobs in column_jobs(shared).items() if not jobs]
        chosen = [cell for cell in cells if not self._only or cell.row in self._only]
        taken = reusable(chosen, shared, self._reused)
        finished = [cell for cell in chosen if is_finished(cell, shared)]
        said = f"{_counted(len(chosen), 'run')} of {_counted(len({cell.row for cell in chosen}), 'row')}"
        say(console, f"grid     {grid.title}: {said}{f', {len(finished)} finished before' if finished else ''}")
        others = _others(chosen)
        if others and not self.replace:
            raise InputError(
                f"{output}: {others}: give the options they were made with, another --output, or --replace to make "
                "them anew"
            )
        write_text(output / "grid.toml", grid.text)
        reused = take_over(taken, shared)
        if self.reuse and len(finished) < len(chosen):
            say(console, f"reused   {_from_where(taken, reused)}")
        for row, reason in skipped.items():
            if not self._only or row in self._only:
                say(console, f"left out {row}: {reason}")
        alike = _alike(grid, configs, in_table := _in_table(grid, cells, self._only))
        for names in alike:
            say(console, f"note     {', '.join(names)}: {ALIKE}")
        asked = [row for row in grid.rows if row.name in {cell.row for cell in chosen}]
        for other in dict.fromkeys(other for row in asked if (other := grid.against(row)) and other not in in_table):
            alone = ", ".join(row.name for row in asked if grid.against(row) == other)
            say(console, f"note     no difference for {alone}: compared with {other}, which is not among --only")
        for column in lacking:
            say(console, f"note     no {column}: it needs {_needs(column)}")
        facts = self._facts(grid, configs, shared, in_table) | {"alike": alike}
        say(console, f"dev      {facts['dev']}")
        measured = [column for column in grid.columns if column not in lacking]
        todo = [cell for cell in chosen if cell not in finished and cell not in reused]
        costs = {cell: seconds_of(configs[cell.row], measured, trained=cell.trained) for cell in todo}
        view = CellsView(console, costs=costs, total=len(chosen))
        try:
            run_cells(chosen, shared, parallel=self.parallel, report=view)
        except KeyboardInterrupt:
            view.close()
            self._write(tabulate(grid, cells, shared, skipped=skipped, facts=facts), output)
            raise
        finally:
            view.close()
        table = tabulate(grid, cells, shared, skipped=skipped, facts=facts)
        print(f"\n{self._write(table, output)}", end="")
        say(console, f"\nwritten  {output / 'table.md'}, table.json and table.html")
        _check_failures(table, chosen)

    def _write(self, table: dict[str, Any], output: Path) -> str:
        from diffcse.files import write_json, write_text
        from diffcse.tables.page import ablation_markdown, ablation_page

        markdown = ablation_markdown(table)
        write_json(output / "table.json", table)
        write_text(output / "table.md", markdown)
        write_text(output / "table.html", ablation_page(table))
        return markdown

    def _shared(self, grid: Grid, text: tuple[str, ...], output: Path) -> Shared:
        from diffcse.evaluation.sts import OWN_PAIRS, named_pairs
        from diffcse.tables.cells import Shared, read_data

        dev = named_pairs(self.dev) if self.dev is not None else None
        if dev is None and self.data:
            pairs = read_data(self.data, grid.columns).sts.get("STSB-dev")
            if pairs is not None:
                from diffcse.files import write_text

                dev = output / _DEV
                lines = zip(pairs.scores, pairs.first, pairs.second, strict=True)
                write_text(dev, "".join(f"{float(score)!r}\t{first}\t{second}\n" for score, first, second in lines))
        return Shared(text, str(dev or OWN_PAIRS), self.data, grid.columns, self.keep_models)

    @property
    def _seeds(self) -> tuple[int, ...]:
        one = self.seeds[0] if len(self.seeds) == 1 else None
        seeds = self.seeds if one is None or one > _MOST else tuple(range(_FIRST, _FIRST + one))
        if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise InputError(f"--seeds {' '.join(map(str, self.seeds))}: give a count from 1 on, or different seeds")
        return seeds

    @property
    def _only(self) -> list[str]:
        return [name for some in self.only for name in some]

    @property
    def _reused(self) -> list[str]:
        return [folder for some in self.reuse for folder in some]

    def _check_reused(self) -> None:
        """That there is something to reuse. Where the table was begun before, its sources may be gone by now."""
        if self.output is not None and (self.output / "grid.toml").is_file():
            return
        for folder in map(Path, self._reused):
            if folder.is_file():
                raise InputError(f"--reuse {folder}: is a file: the text stands before the options")
            own = self.output is not None and folder.resolve() == self.output.resolve()
            if not own and not (folder / "grid.toml").is_file():
                raise InputError(
                    f"--reuse {folder}: there is no table of diffcse ablate (grid.toml): give the --output of one"
                )

    def _configs(self, grid: Grid) -> tuple[dict[str, Config], dict[str, str]]:
        """Row -> its Config, and row -> why it has none."""
        for name in self._only:
            if Path(name).is_file() and name not in [row.name for row in grid.rows]:
                raise InputError(f"--only {name}: is a file: the text stands before the options")
            grid.row(name)
        given, changes = self._given(grid)
        configs, skipped = {}, {}
        for row in grid.rows:
            try:
                config = grid.config(row, recipe=self.recipe or "", given=given, changes=changes)
            except InputError as error:
                if self._only and row.name not in self._only:
                    skipped[row.name] = str(error)  # nobody asked for it
                    continue
                raise
            if self.max_steps is not None:
                config = replace(config, training=replace(config.training, max_steps=self.max_steps))
            missing = [name for name in row.placeholders(self.recipe or grid.recipe) if name not in given]
            if missing:
                skipped[row.name] = "; ".join(_how(grid, name, config) for name in missing)
            else:
                configs[row.name] = config
        return configs, skipped

    def _given(self, grid: Grid) -> tuple[dict[str, str], str]:
        """What fills the grid's placeholders, and TOML that changes all rows."""
        given: dict[str, str] = {}
        changes = []
        for text in self.given:
            name, found, value = text.partition("=")
            if not found:
                raise InputError(f"--set {text}: write NAME=VALUE")
            if name.strip() in _OWN_OPTIONS:
                raise InputError(f"--set {text}: give {_OWN_OPTIONS[name.strip()]}")
            if "." in name:
                try:
                    read_toml(text.encode(), "--set")
                    changes.append(text)
                except InputError:  # a word without quotes
                    changes.append(f"{name} = {json.dumps(value)}")
            elif name in grid.needs:
                given[name] = value
            else:
                raise InputError(
                    f"--set {text}: this grid needs {', '.join(grid.needs) or 'nothing'}; "
                    "fields of all rows have a section, as in method.mask_ratio=0.2"
                )
        if self.model is not None:
            changes.append(f"method.model = {json.dumps(self.model)}")
        return given, "\n".join(changes)

    def _facts(
        self, grid: Grid, configs: Mapping[str, Config], shared: Shared, in_table: Sequence[str]
    ) -> dict[str, Any]:
        from diffcse.evaluation.sts import OWN_PAIRS

        own = Path(shared.dev) == OWN_PAIRS
        only = [] if len(in_table) == len(grid.rows) else [*in_table]
        models = dict.fromkeys(_short(config.method.model) for config in configs.values())
        return {
            "command": self._command(only),
            "recipe": _short(self.recipe or grid.recipe),
            "model": ", ".join(models) or "none",
            "seeds": [*self._seeds],
            "only": only,
            "dev": "the toolkit's own graded pairs, no benchmark" if own else _short(shared.dev),
        }

    def _command(self, only: Sequence[str]) -> str:
        """What makes the table, in words that say it on another machine too."""
        words = ["diffcse", "ablate", *map(_short, self.arguments), "--seeds", *map(str, self.seeds)]
        for name in ("recipe", "model", "dev"):
            value = getattr(self, name)
            words += [f"--{name}", _short(str(value))] if value is not None else []
        words += [word for folder in self.data for word in ("--data", _short(folder))]
        words += [word for text in self.given for word in ("--set", _shorter(text))]
        words += ["--max-steps", str(self.max_steps)] if self.max_steps is not None else []
        words += ["--output", _short(str(self.output))]
        return shlex.join([*words, *(["--only", *only] if only else [])])

    # ---- looking -----------------------------------------------------------------------------------------------------

    def _show_rows(
        self,
        grid: Grid,
        configs: Mapping[str, Config],
        skipped: Mapping[str, str],
        text: tuple[str, ...],
        console: Console,
    ) -> None:
        from diffcse.tables.cells import cells_of, column_jobs, is_begun, is_finished, measured_on, reusable
        from diffcse.terminal import say, table
        from diffcse.text.sources import find_sources

        if files := [source for source in text if not source.startswith(PREFIX)]:
            find_sources(files)  # a mistyped name is to be known now, not when it is run
        chosen: list[Cell] = []
        finished: int | None = None
        begun = 0
        taken: dict[Cell, Path] = {}
        with tempfile.TemporaryDirectory() as elsewhere:  # for a dev file that the data bring: nothing is changed
            shared = self._shared(grid, text, Path(elsewhere))
            columns = column_jobs(shared)
            if text and self.output is not None:
                say(console, "reading  the text, to see which runs are finished")
                _check_grid(self.output / "grid.toml", grid)
                cells = cells_of(grid, configs, shared, self._seeds, self.output)
                chosen = [cell for cell in cells if not self._only or cell.row in self._only]
                finished = sum(is_finished(cell, shared) for cell in chosen)
                begun = sum(is_begun(cell) for cell in chosen)
                taken = reusable(chosen, shared, self._reused)
        rows = [row for row in grid.rows if not self._only or row.name in self._only]
        shown = [
            [row.name, _changes(row, self.recipe or grid.recipe), f"{len(self._seeds) if row.trained else 1}"]
            for row in rows
        ]
        runs = sum(int(line[2]) for line, row in zip(shown, rows, strict=True) if row.name in configs)
        for line, row in zip(shown, rows, strict=True):
            line[2] = line[2] if row.name in configs else "left out"
        view = table(grid.title, ["row", "changes", "runs"], shown)
        view.columns[1].justify, view.columns[1].no_wrap = "left", False
        console.print(view)
        fields = [text for text in self.given if "." in text.partition("=")[0]]
        needs = [text for text in self.given if text not in fields]
        changed = f", with {', '.join(needs)}" if needs else ""
        changed += f", rows that do not set it themselves: {', '.join(fields)}" if fields else ""
        changed += "" if self.max_steps is None else f", all rows: training.max_steps={self.max_steps}"
        seeds = ", ".join(map(str, self._seeds))
        say(console, f"{_counted(runs, 'run')} from recipe {self.recipe or grid.recipe}, seeds {seeds}{changed}")
        for row in rows:
            if row.name in skipped:
                say(console, f"left out {row.name}: {skipped[row.name]}")
        for names in _alike(grid, configs, self._only):
            say(console, f"note     {', '.join(names)}: {ALIKE}")
        for column, jobs in columns.items():
            measured = f"column   {column} is measured on {', '.join(measured_on(column, shared))}"
            say(console, measured if jobs else f"note     no {column}: it needs {_needs(column)}")
        if finished is not None and self.output is not None:
            others = _others(chosen)
            found = f"{self.output}: {finished} of {_counted(len(chosen), 'run')} finished"
            found += f", {begun} begun" if begun else ""
            found += f"; reused would be {_from_where(taken, list(taken))}" if self.reuse else ""
            refused = "; this would be refused without --replace" if others and not self.replace else ""
            say(console, f"output   {found}" + (f"; {others}{refused}" if others else ""))

    def _write_results(self, folders: list[str], console: Console) -> None:
        from diffcse.files import write_text
        from diffcse.tables.page import results_markdown
        from diffcse.terminal import say

        if not folders or self.output is None:
            raise InputError(
                "give the folders of tables, and --output FILE: diffcse ablate results runs/* --output page.md"
            )
        tables = {folder: _read_table(Path(folder)) for folder in folders}
        command = shlex.join(["diffcse", "ablate", "results", *map(_short, folders), "--output", _short(self.output)])
        try:
            page = results_markdown(tables, command)
        except (KeyError, TypeError) as error:
            raise InputError(f"not a whole table of this version ({error} is missing): make it again") from error
        write_text(self.output, page)
        say(console, f"written  {self.output}")


def _show_grids(console: Console) -> None:
    from diffcse.tables.grids import COST_HARDWARE, cost, grid_names, load_grid
    from diffcse.terminal import say, table

    rows = []
    for name in grid_names():
        grid = load_grid(name)
        needs = f", needs {', '.join(grid.needs)}" if grid.needs else ""
        rows.append([name, str(len(grid.rows)), cost(grid, 5), f"{grid.title}{needs}"])
    view = table("", ["grid", "rows", "5 seeds", "what"], rows)
    view.columns[-1].justify, view.columns[-1].no_wrap = "left", False
    console.print(view)
    say(
        console,
        f"Times are the mini recipe's with all columns, on {COST_HARDWARE}, --parallel 2; without such instructions "
        "some three times as long.\n--recipe diffcse_bert_base_sts is the paper's: a GPU.",
    )


def _check_grid(file: Path, grid: Grid) -> None:
    """That the folder holds this grid's cells, if any: another's would be swept away."""
    if file.is_file():
        title = read_toml(file.read_bytes(), str(file)).get("title")
        if title != grid.title:
            raise InputError(f"{file.parent}: holds the runs of another grid ({title!r}): give another --output")


def _others(cells: list[Cell]) -> str:
    """How many of the runs on disk are others than `cells`, and in what; empty if none is."""
    from diffcse.tables.cells import changes_of

    others = [changes for cell in cells if (changes := changes_of(cell)) is not None]
    named = list(dict.fromkeys(name for changes in others for name in changes))
    differs = [", ".join(named)] if named else []
    if not all(others):
        differs.append("a setting, the text, the dev file, a model, or the version of diffcse; or the file is damaged")
    if not others:
        return ""
    return f"{_counted(len(others), 'run')} there had other settings or data ({'; '.join(differs)})"


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


@contextmanager
def _withdrawn(output: Path) -> Iterator[None]:
    """Take the dev set that the data brought away again, where nothing was begun and a mistake ends the block: in its
    way the folder would be refused the next time."""
    try:
        yield
    except InputError:
        if not (output / "grid.toml").exists():
            (output / _DEV).unlink(missing_ok=True)
        raise


def _alike(grid: Grid, configs: Mapping[str, Config], only: Sequence[str]) -> list[list[str]]:
    """Which rows are the same runs under several names: some recipes leave a grid nothing to compare."""
    plain = to_dict(Config())["method"]
    same: dict[str, list[str]] = {}
    for name, config in configs.items():
        if grid.row(name).trained and (not only or name in only):
            values = to_dict(config)
            method = values["method"] | {idle: plain[idle] for idle in config.method.unused()}
            key = json.dumps([method, values["text"], values["training"]])
            same.setdefault(key, []).append(name)
    return [names for names in same.values() if len(names) > 1]


def _in_table(grid: Grid, cells: Sequence[Cell], only: Sequence[str]) -> list[str]:
    """The rows asked for, and those that earlier commands ran."""
    from diffcse.tables.cells import outcome_of

    there = {cell.row for cell in cells if outcome_of(cell) is not None}
    return [row.name for row in grid.rows if not only or row.name in only or row.name in there]


def _from_where(taken: Mapping[Cell, Path], reused: list[Cell]) -> str:
    """How many runs of which tables."""
    if not reused:
        return "no runs: none there has the same settings, seed, text, dev file, and all scores"
    tables = [str(taken[cell].parents[2]) for cell in reused]
    return ", ".join(f"{_counted(tables.count(one), 'run')} of {one}" for one in dict.fromkeys(tables))


def _check_failures(table: Mapping[str, Any], chosen: list[Cell]) -> None:
    rows = {cell.row for cell in chosen}
    failed = [
        f"{row['name']} (seed {run['seed']})"
        for row in table["rows"]
        for run in row["runs"]
        if run["status"] == "failed" and row["name"] in rows
    ]
    if failed:
        raise InputError(
            f"{len(failed)} of {len(chosen)} runs failed: {', '.join(failed[:5])}{', ...' if failed[5:] else ''}. The "
            "table says why; the same command tries them again"
        )


def _read_table(folder: Path) -> dict[str, Any]:
    file = folder / "table.json"
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        if (folder / "run.json").is_file():
            raise InputError(
                f"{folder}: is one run; results reads the folders of diffcse ablate, and diffcse compare reads runs"
            ) from error
        raise InputError(f"{file}: cannot be read: {error.strerror}. Give folders of diffcse ablate") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not JSON: {error}") from error
    if not isinstance(table, dict) or table.get("schema") != "diffcse-ablation/1":
        raise InputError(f"{file}: not a table of diffcse ablate of this version")
    return table


def _how(grid: Grid, name: str, config: Config) -> str:
    need = grid.needs[name]
    make = need.make.replace("MODEL", config.method.model)
    return f"it needs {need.what} as --set {name}=FOLDER" + (f" ({make})" if make else "")


def _needs(column: str) -> str:
    from diffcse.tables.grids import COLUMNS

    return COLUMNS[column].needs


def _changes(row: Row, recipe: str) -> str:
    flat = [
        f"{section}.{key} = {json.dumps(value)}"
        for fields in (row.fields, row.with_recipe.get(recipe, {}))
        for section, values in fields.items()
        for key, value in values.items()
    ]
    return ", ".join(flat) or ("the base" if row.trained else "not trained")


def _short(source: object) -> str:
    """As it was typed, but of a path from the root, from home or upwards the name alone (of a run's `model` with the
    run's): where a machine keeps its folders is nobody's business."""
    text = str(source)
    if text.startswith(PREFIX):
        return PREFIX + _short(text.removeprefix(PREFIX))
    path = Path(text)
    if not path.is_absolute() and ".." not in path.parts and not text.startswith("~"):
        return text
    if path.name in ("mini", "pairs"):
        return f"./{path.name}"  # the bare name means what comes along
    return str(Path(*path.parts[-2:])) if path.name == "model" and len(path.parts) > 1 else path.name or text


def _shorter(text: str) -> str:
    name, _, value = text.partition("=")
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return f"{name}={value[0]}{_short(value[1:-1])}{value[0]}" if quoted else f"{name}={_short(value)}"
