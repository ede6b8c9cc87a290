"""One row of a grid with one seed: what it is, and its outcome on disk.

A cell's identity is a hash of everything its scores follow from: settings, seed, text, dev set, weights it starts from,
and the code that trains. A cell is looked up by its identity, so a finished cell is never run again, and a changed
setting makes another cell. Tables that share a folder of cells share the runs of equal rows.

    CELLS/ROW-seed-42-IDENTITY/        the run: run.json, log.jsonl, recipe.toml (and model/, last/ if models are kept)
    CELLS/ROW-seed-42-IDENTITY.json    what the cell is, and its scores
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from diffcse.config import Config, Method, Text, identity, to_dict, to_toml
from diffcse.errors import InputError
from diffcse.files import model_sha256
from diffcse.tables.columns import column_jobs, dev_pairs, jobs_hash
from diffcse.tables.grids import Grid, Row
from diffcse.tables.source import source_hash
from diffcse.values import read_json

if TYPE_CHECKING:
    from diffcse.evaluation.jobs import Job

DEV_FILE = "STSB-dev.tsv"
"""Where the dev set lies that comes from the folders of test sets, beside the cells."""


@dataclass(frozen=True)
class Shared:
    """What all cells of one table have in common."""

    corpus: tuple[str, ...]
    dev: str | None
    """File of graded pairs; None for STSB-dev of `data`."""
    data: tuple[str, ...] = ()
    columns: tuple[str, ...] = ("dev",)
    keep_models: bool = False

    @property
    def jobs(self) -> dict[str, list[Job]]:
        """What each column is measured on."""
        return column_jobs(self.dev, self.data, self.columns)


@dataclass(frozen=True)
class Cell:
    """One row with one seed."""

    row: str
    seed: int
    recipe: str
    """Its Config, as TOML."""
    folder: str
    identity: str
    trained: bool = True

    @property
    def record(self) -> Path:
        """File of its outcome."""
        return Path(f"{self.folder}.json")


def cells_of(
    grid: Grid, configs: Mapping[str, Config], shared: Shared, seeds: Sequence[int], folder: Path
) -> list[Cell]:
    """The cells of the rows in `configs`, row by row, kept in `folder`. A row that is not trained has one cell.

    Reads the text and the weights, whose hashes are part of a cell's identity.

    Raises:
        InputError: the text or the weights cannot be read.
    """
    hashes = _Hashes(shared)
    dev = folder / DEV_FILE if shared.dev is None else Path(shared.dev)
    places: dict[str, Path] = {}
    cells = []
    for row in grid.rows:
        if row.name in configs:
            data = hashes.of(configs[row.name], row)
            for seed in seeds if row.trained else seeds[:1]:
                config = _seeded(configs[row.name], seed, dev, shared.columns)
                key = _identity(config, data)
                name = f"{row.name}-seed-{seed}" if row.trained else row.name
                place = places.setdefault(key, _place(folder, name, key))
                cells.append(Cell(row.name, seed, to_toml(config), str(place), key, row.trained))
    return cells


def _seeded(config: Config, seed: int, dev: Path, columns: Sequence[str]) -> Config:
    training = dataclasses.replace(
        config.training,
        seed=seed,
        dev=str(dev.absolute()),
        select="auto",
        keep_training_parts=any(name.startswith("rtd") for name in columns),
    )
    return dataclasses.replace(config, training=training)


_SHOWN = 12
"""Digits of an identity in a cell's name."""


def _place(folder: Path, name: str, identity: str) -> Path:
    """Folder of the cell with this identity, whichever row it was run for; else a new one."""
    records = sorted(folder.glob(f"*-{identity[:_SHOWN]}.json"))
    return records[0].with_suffix("") if records else folder / f"{name}-{identity[:_SHOWN]}"


class _Hashes:
    """SHA-256 of the data that cells follow from. Each file is read once."""

    def __init__(self, shared: Shared) -> None:
        self._corpus = shared.corpus
        self._dev = dev_pairs(shared.dev, shared.data, shared.columns).sha256
        self._texts: dict[tuple[Text, bool], str] = {}
        self._folders: dict[Path, str] = {}

    def of(self, config: Config, row: Row) -> list[str]:
        """Hashes of the dev set, of the text, and of the folders of weights that are no part of the package."""
        hashes = [self._dev, *self._weights(config.method)]
        if row.trained:
            kind = (config.text, config.method.reads_next)
            if kind not in self._texts:
                self._texts[kind] = _text_sha256(self._corpus, *kind)
            hashes.append(self._texts[kind])
        return hashes

    def _weights(self, method: Method) -> list[str]:
        from diffcse.method.loading import model_folders

        hashes = []
        for field, folder in model_folders(method).items():
            if getattr(method, field) == "mini":
                continue  # `source_hash` covers the bundled model
            if folder not in self._folders:
                self._folders[folder] = model_sha256(folder)
            hashes.append(f"{field} {self._folders[folder]}")
        return hashes


def _text_sha256(corpus: tuple[str, ...], text: Text, documents: bool) -> str:
    from diffcse.text.corpus import read_corpus
    from diffcse.text.examples import read_examples

    if text.supervised:
        return read_examples(corpus, text=text).sha256
    read = read_corpus(corpus, text=text, documents=documents)
    # The corpus's own hash does not say which sentence follows which.
    return f"{read.sha256} documents {read.following_sha256}" if documents else read.sha256


def _identity(config: Config, data: list[str]) -> str:
    # The path of the dev file is left out: `data` has the hash of its content.
    settings = identity(to_dict(config), Config, without=["training.dev"])
    parts = {"source": source_hash(), "data": data, "config": settings}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


# ---- outcomes --------------------------------------------------------------------------------------------------------


class _Score(TypedDict):
    value: float | None
    data: str


class _Outcome(TypedDict):
    identity: str
    status: str
    scores: NotRequired[dict[str, _Score] | None]
    message: NotRequired[str | None]
    seconds: NotRequired[float | None]


def outcome_of(cell: Cell) -> dict[str, Any] | None:
    """The outcome on disk of exactly this cell: identity, status, scores, message, seconds. None without one."""
    try:
        outcome: dict[str, Any] = read_json(cell.record, _Outcome)
    except InputError:  # missing or damaged
        return None
    return outcome if outcome["identity"] == cell.identity else None


def score_of(outcome: Mapping[str, Any] | None, column: str, jobs: Sequence[Job]) -> dict[str, Any] | None:
    """The outcome's score in `column` as {"value", "data"}, if it was measured on these jobs."""
    score: dict[str, Any] | None = ((outcome or {}).get("scores") or {}).get(column)
    return score if score and score["data"] == jobs_hash(jobs) else None


def is_finished(cell: Cell, shared: Shared) -> bool:
    """Whether the cell has every score that can be asked of it."""
    outcome = outcome_of(cell)
    complete = outcome is not None and outcome.get("status") == "complete"
    return complete and all(score_of(outcome, name, jobs) for name, jobs in shared.jobs.items() if jobs)


def is_begun(cell: Cell) -> bool:
    """Whether the cell is unfinished and has a checkpoint from which it goes on."""
    from diffcse.training.checkpoints import newest_whole

    status = (outcome_of(cell) or {}).get("status")
    return status in ("running", "stopped", "failed") and newest_whole(Path(cell.folder) / "checkpoints")[0] is not None
