"""A grid: the rows of a table, each a run's settings, and its columns, each a score.

A grid is a TOML file. Its rows are named cells: overrides of a recipe's fields, and what was published for them. A
mistyped field is an error that names file, row, key and the nearest known key. Every cell is built once while the grid
is read: a grid that can be read can be run.

    title = "Share of tokens that are edited"
    recipe = "mini_cpu"                  # what every row starts from
    reference = "thirty"                 # the row that others are compared with
    columns = ["dev", "transfer_dev"]    # see tables/columns.py

    [base]                               # fields of all rows
    method.rtd_weight = 0.005

    [needs.small]                        # what a user must supply, and where it comes from
    what = "a smaller generator"
    make = "diffcse pretrain TEXT --layers 2 --output small"

    [[rows]]
    name = "thirty"
    method.mask_ratio = 0.30             # fields of this row
    method.generator = "{small}"         # filled by --set small=FOLDER
    published.dev = 84.56                # beside ours in the table

    with_recipe.simcse_bert_base.training.learning_rate = 1e-5    # fields of this row where --recipe is that one
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffcse.config import (
    Config,
    Method,
    load_recipe,
    override,
    read_fields,
    read_toml,
    recipe_file,
    recipe_names,
)
from diffcse.errors import InputError
from diffcse.tables.columns import COLUMNS

FOLDER = "recipes/ablations"


@dataclass(frozen=True)
class Need:
    """Something that a row's fields name and the package does not have."""

    what: str = ""
    make: str = ""
    """How to come by it."""


@dataclass(frozen=True)
class RowHead:
    """The keys of a row that are no fields of a run."""

    name: str = ""
    """Part of its cells' names: letters, digits, "_", "-" and "."."""
    label: str = ""
    group: str = ""
    note: str = ""
    against: str = ""
    """The row it is compared with; the grid's reference if not given."""
    trained: bool = True
    """False: the checkpoint as it is, measured without training."""
    published: dict[str, float] = field(default_factory=dict)
    """Column -> the published figure."""


@dataclass(frozen=True)
class Row(RowHead):
    """One line of the table."""

    fields: dict[str, Any] = field(default_factory=dict)
    """What it overrides, as in a recipe."""
    with_recipe: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Recipe -> what it overrides as well where the table is made from that recipe."""

    def placeholders(self, recipe: str) -> list[str]:
        """Names of the needs that its fields hold where the table is made from `recipe`."""
        more = self.with_recipe.get(recipe, {})
        return list(dict.fromkeys([*_placeholders(self.fields), *_placeholders(more)]))


@dataclass(frozen=True)
class GridHead:
    """The keys at the top of a grid."""

    title: str = ""
    paper: str = ""
    """Where the published figures stand."""
    note: str = ""
    recipe: str = "mini_cpu"
    reference: str = ""
    """The row that others are compared with; the first if not given."""
    columns: tuple[str, ...] = ("dev",)


@dataclass(frozen=True)
class Grid(GridHead):
    """A table to be made."""

    source: str = ""
    text: str = ""
    """The file's content."""
    base: dict[str, Any] = field(default_factory=dict)
    needs: dict[str, Need] = field(default_factory=dict)
    rows: tuple[Row, ...] = ()

    def row(self, name: str) -> Row:
        """The row of that name.

        Raises:
            InputError: no row has the name; names the nearest row.
        """
        return next((row for row in self.rows if row.name == name), None) or _unknown(
            f"{self.source}: no row {name!r}", name, [row.name for row in self.rows]
        )

    def against(self, row: Row) -> str | None:
        """Name of the row that `row` is compared with; None for the reference itself."""
        other = row.against or self.reference or self.rows[0].name
        return None if other == row.name else other

    def config(
        self, row: Row, *, recipe: str = "", given: Mapping[str, str] | None = None, changes: str = ""
    ) -> Config:
        """What `row` runs: the recipe, then the grid's base, `changes`, the row's fields, its fields for that recipe.

        Args:
            recipe: in place of the grid's.
            given: what fills placeholders. Placeholders without a value stay.
            changes: TOML that changes all rows.

        Raises:
            InputError: the result is no valid run.
        """
        config = override(load_recipe(recipe or self.recipe), self.base, self.source)
        if changes:
            config = override(config, read_toml(changes.encode(), "--set"), "--set")
        try:
            config = override(config, _filled(row.fields, given or {}), self.source)
            name = recipe or self.recipe
            if name in row.with_recipe:
                more = _filled(row.with_recipe[name], given or {})
                config = override(config, more, self.source)
        except InputError as error:
            raise InputError(f"{error} (row {row.name!r}{f', with --recipe {recipe}' if recipe else ''})") from None
        return dataclasses.replace(config, name=row.name, reproduces="", hardware="")


def grid_names() -> list[str]:
    """Names of the grids that come with the package."""
    return recipe_names(FOLDER)


def load_grid(name_or_path: str) -> Grid:
    """The named grid, or the one in a TOML file.

    Raises:
        InputError: no such grid, not TOML, an unknown key or column, or a cell that is no valid run.
    """
    return parse_grid(*recipe_file(name_or_path, FOLDER, "grid"))


def parse_grid(data: bytes, source: str) -> Grid:
    """A `Grid` from TOML bytes; `source` is the file's name in messages. Every cell is built once, to check it."""
    table = read_toml(data, source)
    known = [*(field.name for field in dataclasses.fields(GridHead)), *_TABLES]
    for key in table:
        if key not in known:
            _unknown(f"{source}: unknown key {key!r}", key, known)
    base, needs, rows = (_popped(table, key, kind, source) for key, kind in _TABLES.items())
    head = read_fields(GridHead, table, source)
    grid = Grid(
        **head,
        source=source,
        text=data.decode("utf-8-sig"),
        base=base,
        needs={name: Need(**read_fields(Need, need, source, path=("needs", name))) for name, need in needs.items()},
        rows=tuple(_row(row, source, number) for number, row in enumerate(rows, 1)),
    )
    for key, value in (("title", grid.title), ("rows", grid.rows), ("columns", grid.columns)):
        if not value:
            raise InputError(f"{source}: {key} is missing or empty")
    for name in grid.columns:
        if name not in COLUMNS:
            _unknown(f"{source}: columns: unknown column {name!r}", name, list(COLUMNS))
    try:
        load_recipe(grid.recipe)
    except InputError as error:
        raise InputError(f"{source}: {error}".replace("--recipe", "recipe =", 1)) from None
    _check_rows(grid)
    return grid


def cost(grid: Grid, seeds: int) -> str:
    """How long the mini recipe takes for all columns, two runs at once on `COST_HARDWARE`, in words."""
    configs = [grid.config(row) for row in grid.rows if row.trained]
    if grid.recipe != "mini_cpu" or any(config.training.max_steps is None for config in configs):
        return MISSING_COST
    hours = seeds * sum(sum(seconds_of(config, grid.columns)) for config in configs) / 2 / 3600
    return f"about {hours:.1f} h" if hours >= 1 else f"about {60 * hours:.0f} min"


def seconds_of(config: Config, columns: Iterable[str], *, trained: bool = True) -> tuple[float, float]:
    """Roughly what training and measuring `columns` take with the mini recipe, on one core of `COST_HARDWARE`.

    For another model or machine only ratios are right. Where the number of steps depends on the text, a pass over it
    counts as so many steps that the columns hardly count.
    """
    transfer = _SECONDS_OF_TRANSFER * sum(name.startswith("transfer") for name in columns)
    training = config.training
    steps = _STEPS_OF_A_PASS * training.epochs if training.max_steps is None else training.max_steps
    return _seconds_a_step(config.method) * steps * trained, transfer


def _seconds_a_step(method: Method) -> float:
    """Of one core, evaluation on the dev set included: means over the runs of docs/results."""
    if method.edit_role != "difference":
        return 0.4
    if method.difference == "none":
        return 0.3
    return 0.75 if method.difference == "rtd" else 1.1  # the others have a head over the whole vocabulary


MISSING_COST = "–"
COST_HARDWARE = "two cores with bf16 instructions"
_SECONDS_OF_TRANSFER = 60
_STEPS_OF_A_PASS = 10_000
_TABLES: dict[str, type] = {"base": dict, "needs": dict, "rows": list}


def _popped(table: dict[str, Any], key: str, kind: type, source: str) -> Any:
    value = table.pop(key, kind())
    tables = value if isinstance(value, list) else value.values() if key == "needs" and isinstance(value, dict) else ()
    if not isinstance(value, kind) or not all(isinstance(each, dict) for each in tables):
        shape = {"base": "[base]", "needs": "[needs.NAME]", "rows": "[[rows]]"}[key]
        raise InputError(f"{source}: {key} must be written as {shape}")
    return value


def _row(table: dict[str, Any], source: str, number: int) -> Row:
    """A `Row` from its table, the `number`-th of the file."""
    sections = ("method", "text", "training")
    fields: dict[str, Any] = {key: table.pop(key) for key in sections if key in table}
    published, with_recipe = table.pop("published", {}), table.pop("with_recipe", {})
    where = f"{source}: row {table.get('name', number)!r}"
    head = read_fields(RowHead, table, where, root=Config)
    name = head.get("name", "")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):
        raise InputError(f'{where}: name = {name!r}: name each row by letters, digits, "_", "-" and "."')
    if not isinstance(published, dict) or not all(type(value) in (int, float) for value in published.values()):
        raise InputError(f"{where}: published: write published.COLUMN = NUMBER")
    _check_with_recipe(with_recipe, sections, where)
    label = head.pop("label", "") or name
    return Row(**head, label=label, published=published, fields=fields, with_recipe=with_recipe)


def _check_with_recipe(table: Any, sections: Sequence[str], where: str) -> None:
    """Raise an `InputError` unless it has the shape recipe -> section -> field."""
    for _, fields in table.items() if isinstance(table, dict) else [("", None)]:
        if not isinstance(fields, dict) or not set(fields) <= set(sections):
            raise InputError(
                f"{where}: with_recipe: write with_recipe.RECIPE.SECTION.FIELD = VALUE, SECTION one of "
                f"{', '.join(sections)}"
            )


def _check_rows(grid: Grid) -> None:
    names = [row.name for row in grid.rows]
    if grid.reference and grid.reference not in names:
        _unknown(f"{grid.source}: reference = {grid.reference!r}: no such row", grid.reference, names)
    for row in grid.rows:
        where = f"{grid.source}: row {row.name!r}"
        if names.count(row.name) > 1:
            raise InputError(f"{where}: two rows have this name")
        if row.against and row.against not in names:
            _unknown(f"{where}: against = {row.against!r}: no such row", row.against, names)
        for column in row.published:
            if column not in grid.columns:
                _unknown(f"{where}: published.{column}: no column of this grid", column, list(grid.columns))
        for recipe in ("", *row.with_recipe):
            for name in row.placeholders(recipe):
                if name not in grid.needs:
                    _unknown(f"{where}: {{{name}}} is not explained under [needs]", name, list(grid.needs))
        grid.config(row)
        for recipe in row.with_recipe:
            try:
                load_recipe(recipe)
            except InputError as error:
                raise InputError(f"{where}: {error}".replace("--recipe", "with_recipe", 1)) from None
            grid.config(row, recipe=recipe)


def _unknown(problem: str, name: str, known: list[str]) -> Any:
    near = difflib.get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known) or 'none'}"
    raise InputError(f"{problem}: {hint}")


_PLACEHOLDER = re.compile(r"\{([\w-]+)\}", re.ASCII)


def _placeholders(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [name for inner in value.values() for name in _placeholders(inner)]
    match = _PLACEHOLDER.fullmatch(value) if isinstance(value, str) else None
    return [match[1]] if match else []


def _filled(value: Any, given: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(inner, given) for key, inner in value.items()}
    names = _placeholders(value)
    return given.get(names[0], value) if names else value
