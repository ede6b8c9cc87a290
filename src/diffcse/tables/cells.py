"""Every row of a grid with every seed: trained, measured, kept, and set beside what was published.

A table of a paper is worth as much as the runs behind it, so every cell is an ordinary training run with its own
run.json, and the table is made from what lies on disk: a cell is known by everything that it follows from, is never
run twice, and goes on from its checkpoint after a kill. The dev set chooses each run's best step, as in the paper, and
test sets are looked at only by columns whose name says so.

A difference between two rows is one between runs of the same seed (`evaluation.seeds`), with its interval; from one
seed nothing is concluded.

    OUTPUT/cells/ROW/seed-42/        the run: run.json, log.jsonl, recipe.toml (and model/, if models are kept)
    OUTPUT/cells/ROW/seed-42.json    what the cell is, and its scores

Tables share rows (DiffCSE as it is stands in most): `reusable` finds a cell's run in another table's folder, and
`take_over` copies it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffcse.config import Config, Text, changed_fields, identity, parse_recipe, previous_values, to_dict, to_toml
from diffcse.errors import InputError
from diffcse.files import model_sha256, staged_folder, write_json, write_text
from diffcse.machine import UNBOUND, all_cores, cores
from diffcse.record import finite, read_record, versions
from diffcse.tables.grids import COLUMNS, Column, Grid, Row
from diffcse.tables.source import source_hash
from diffcse.training.checkpoints import newest_whole, say_at_once

if TYPE_CHECKING:
    from diffcse.evaluation.data import Data
    from diffcse.evaluation.jobs import Job
    from diffcse.evaluation.seeds import Scatter
    from diffcse.evaluation.sts import PairSet
    from diffcse.method.paper import DiffCSE

SCHEMA = "diffcse-ablation/1"

Report = Callable[["Cell", str, dict[str, Any]], None]
"""Told (cell, event, facts): the events of `training.run.run`, and "end" with the cell's outcome."""


@dataclass(frozen=True)
class Shared:
    """What all cells of one command have in common."""

    corpus: tuple[str, ...]
    dev: str
    data: tuple[str, ...] = ()
    columns: tuple[str, ...] = ("dev",)
    keep_models: bool = False


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
    data: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False)
    """Hashes of what it follows from beside the recipe, by what that is called: the text, the dev file, ..."""

    @property
    def record(self) -> Path:
        """Where its outcome is kept."""
        return Path(f"{self.folder}.json")

    @property
    def steps(self) -> int | None:
        """Weight updates, where they do not depend on the text."""
        return parse_recipe(self.recipe.encode(), self.row).training.max_steps if self.trained else 0


# ---- what is to be done ----------------------------------------------------------------------------------------------


def cells_of(
    grid: Grid, configs: Mapping[str, Config], shared: Shared, seeds: Sequence[int], output: Path
) -> list[Cell]:
    """The cells of the rows in `configs`, row by row. Reads the text, whose hash is part of what a cell is.

    Raises:
        InputError: the text cannot be read.
    """
    from diffcse.evaluation.sts import read_pairs
    from diffcse.method.build import model_folders

    dev = read_pairs(shared.dev)
    texts: dict[tuple[Text, bool], str] = {}
    folders: dict[Path, str] = {}
    cells = []
    for row in grid.rows:
        if row.name not in configs:
            continue
        for seed in seeds if row.trained else seeds[:1]:
            config = configs[row.name]
            training = dataclasses.replace(
                config.training,
                seed=seed,
                dev=str(Path(shared.dev).absolute()),
                select="auto",
                keep_training_parts=any(name.startswith("rtd") for name in shared.columns),
            )
            config = dataclasses.replace(config, training=training)
            data = {"the dev file": dev.sha256}
            if row.trained:
                kind = (config.text, config.method.reads_next)
                if kind not in texts:
                    texts[kind] = _text_sha256(shared.corpus, *kind)
                data["the text"] = texts[kind]
            for field, folder in model_folders(config.method).items():
                if getattr(config.method, field) != "mini":  # source_hash covers the bundled model
                    folders[folder] = folders.get(folder) or model_sha256(folder)
                    data[f"the weights in method.{field}"] = folders[folder]
            name = f"seed-{seed}" if row.trained else "start"
            cells.append(
                Cell(
                    row=row.name,
                    seed=seed,
                    recipe=to_toml(config),
                    folder=str(output / "cells" / row.name / name),
                    identity=_identity(config, [*data.values()]),
                    trained=row.trained,
                    data=data,
                )
            )
    return cells


_DEV_FILE = "training.dev"
"""Path of the dev file, which is no part of a cell's identity: the hash of its content is."""


def _identity(config: Config, data: list[str]) -> str:
    parts = {"source": source_hash(), "data": data, "config": identity(to_dict(config), Config, without=[_DEV_FILE])}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _text_sha256(corpus: tuple[str, ...], text: Text, documents: bool) -> str:
    from diffcse.text.corpus import read_corpus
    from diffcse.text.examples import read_examples

    if text.supervised:
        return read_examples(corpus, text=text).sha256
    read = read_corpus(corpus, text=text, documents=documents)
    # Which sentence follows which is no part of the corpus's own hash.
    return f"{read.sha256} documents {read.following_sha256}" if documents else read.sha256


@functools.lru_cache(maxsize=1)
def column_jobs(shared: Shared) -> dict[str, list[Job]]:
    """What each column is measured on; nothing where the data given do not hold it. Read once in a process."""
    from diffcse.evaluation.sts import read_pairs

    dev, data = read_pairs(shared.dev), read_data(shared.data, shared.columns)
    return {name: _jobs(name, dev, data) for name in shared.columns}


def measured_on(column: str, shared: Shared) -> list[str]:
    """The names of what a column is measured on; of the pairs that come along not the file's: a user's may be called
    pairs.tsv too."""
    from diffcse.evaluation.sts import OWN_PAIRS

    own = OWN_PAIRS.stem if Path(shared.dev) == OWN_PAIRS else None
    return ["bundled pairs" if job.name == own else job.name for job in column_jobs(shared)[column]]


def read_data(folders: Sequence[str], columns: Sequence[str]) -> Data:
    """The sets of `folders` that `columns` ask for.

    Raises:
        InputError: as `find_data` does.
    """
    from diffcse.evaluation.data import Data, HoldsNothing, find_data

    transfer = any(name.startswith("transfer") for name in columns)
    try:
        return find_data(folders, groups=("sts", "transfer") if transfer else ("sts",)) if folders else Data()
    except HoldsNothing as error:
        wanted = list(dict.fromkeys(COLUMNS[name].needs for name in columns))
        others = [need for need in wanted if "--dev FILE" not in need]
        hint = f"give one with {' or '.join(others)}" if others else "leave that --data out"
        raise InputError(f"{error}. This grid is measured on {' and '.join(wanted)}: {hint}") from error


def _jobs(column: str, dev: PairSet, data: Data) -> list[Job]:
    from diffcse.evaluation.data import Data
    from diffcse.evaluation.jobs import jobs_of
    from diffcse.evaluation.probes import PROBES
    from diffcse.evaluation.sts import SEVEN

    family, _, split = column.partition("@")[0].partition("_")
    pairs = data.sts.get("STSB-test") if split == "test" else dev
    one = Data(sts={} if pairs is None else {pairs.name: pairs})
    if family == "transfer":
        # SentEval's fast mode is for choosing between models, and what the paper's dev figures are from.
        return jobs_of(data, ("transfer",), PROBES["adam-fast" if split == "dev" else "logistic"])
    if column == "sts_last":
        return jobs_of(Data(sts=data.sts), ("sts",))
    if family == "sts":
        return jobs_of(Data(sts={name: data.sts[name] for name in SEVEN if name in data.sts}), ("sts",))
    if family == "recall":
        return jobs_of(one, ("retrieval",))
    return jobs_of(one, ("geometry",) if family in ("alignment", "uniformity") else ("sts",))


def _jobs_hash(jobs: Sequence[Job]) -> str:
    return hashlib.sha256(json.dumps([[job.key, job.sha256, job.settings] for job in jobs]).encode()).hexdigest()


def outcome_of(cell: Cell) -> dict[str, Any] | None:
    """What is on disk of exactly this cell."""
    try:
        found: dict[str, Any] = json.loads(cell.record.read_text(encoding="utf-8"))
        return found if found["identity"] == cell.identity else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def changes_of(cell: Cell) -> list[str] | None:
    """In what the cell on disk is another than this one; None if it is this one, or nothing is there.

    Fields of the recipe, with their values there, and names of `Cell.data`; nothing where the file on disk does not
    say, because it is damaged or of an older version.
    """
    if not cell.record.is_file() or outcome_of(cell) is not None:
        return None
    try:
        there = json.loads(cell.record.read_text(encoding="utf-8"))
        begun = parse_recipe(there["recipe"].encode(), cell.row)
        data, source = dict(there.get("data", cell.data)), there.get("source")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, InputError):
        return []
    found = changed_fields(to_dict(begun), to_dict(parse_recipe(cell.recipe.encode(), cell.row)), Config)
    found = [previous_values([name], to_dict(begun)) for name in found if name != _DEV_FILE]
    found += [name for name, sha256 in cell.data.items() if name in data and data[name] != sha256]
    return found + ([] if source == source_hash() else ["the code that trains"])


def is_finished(cell: Cell, shared: Shared) -> bool:
    """Whether the cell has every score that can be asked of it."""
    outcome = outcome_of(cell)
    return outcome is not None and outcome.get("status") == "complete" and _has_scores(outcome, shared)


def is_begun(cell: Cell) -> bool:
    """Whether the cell is unfinished and has a checkpoint that it goes on from."""
    status = (outcome_of(cell) or {}).get("status")
    return status in ("running", "stopped", "failed") and newest_whole(Path(cell.folder) / "checkpoints")[0] is not None


def _has_scores(outcome: Mapping[str, Any], shared: Shared) -> bool:
    scores = outcome["scores"]
    return all(
        name in scores and scores[name]["data"] == _jobs_hash(jobs)
        for name, jobs in column_jobs(shared).items()
        if jobs
    )


# ---- runs of other tables --------------------------------------------------------------------------------------------


def reusable(cells: Sequence[Cell], shared: Shared, folders: Sequence[str]) -> dict[Cell, Path]:
    """The unfinished ones of `cells` that other tables have: the same settings, seed and data, all scores asked for.

    Args:
        folders: of tables (their --output); the cells' own among them is passed over.

    Returns:
        Cell -> the record of the same run there.
    """
    wanted = [cell for cell in cells if not is_finished(cell, shared) and not _soon_scored(cell)]
    own = {cell.record.parents[2].resolve() for cell in wanted}
    there: dict[str, list[Path]] = {}
    for folder in map(Path, folders if wanted else ()):
        if folder.resolve() not in own:
            for file in sorted(folder.glob("cells/*/*.json")):
                record = _finished_elsewhere(file, shared)
                if record is not None:
                    there.setdefault(record["identity"], []).append(file)
    same = {cell: [file for file in there.get(cell.identity, ()) if _run_is_there(cell, file)] for cell in wanted}
    return {cell: files[0] for cell, files in same.items() if files}


def _run_is_there(cell: Cell, file: Path) -> bool:
    """Whether the run that the record in `file` speaks of can be copied; the checkpoint as it is has none."""
    if not cell.trained:
        return True
    try:
        read_record(file.with_suffix("") / "run.json")
    except InputError:
        return False
    return (file.with_suffix("") / "log.jsonl").is_file()


def _soon_scored(cell: Cell) -> bool:
    """Whether its trained models are there, and only a score is missing."""
    outcome = outcome_of(cell)
    return outcome is not None and outcome.get("status") == "complete" and (Path(cell.folder) / "model").is_dir()


def _finished_elsewhere(file: Path, shared: Shared) -> dict[str, Any] | None:
    """The record in `file`, if its run has all that `shared` asks for."""
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        # Of a trained cell, that is: the checkpoint as it is has no run.
        trained = file.with_suffix("").is_dir()
        kept = not (shared.keep_models and trained) or all(
            (file.with_suffix("") / name).is_dir() for name in ("model", "last")
        )
        whole = record["status"] == "complete" and isinstance(record["identity"], str) and kept
        return record if whole and _has_scores(record, shared) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # damaged or of another version: it is nothing to build on


def take_over(found: Mapping[Cell, Path], shared: Shared) -> list[Cell]:
    """Copy those runs' records and scores (and models, if they are kept) to where the cells' own would be.

    Returns:
        The cells whose runs were still there.

    Raises:
        InputError: a copy cannot be written.
    """
    taken = []
    for cell, file in found.items():
        record, source = _finished_elsewhere(file, shared), file.with_suffix("")
        if record is None or record["identity"] != cell.identity:
            continue  # made anew since it was found, by another process
        if not _run_is_there(cell, file):
            continue
        if cell.trained:
            _copy_run(cell, source, shared.keep_models)
        origin = record.get("taken_from") or "/".join(source.resolve().parts[-4:])
        write_json(cell.record, {**record, **_head(cell), "taken_from": origin})
        taken.append(cell)
    return taken


def _copy_run(cell: Cell, source: Path, keep_models: bool) -> None:
    from diffcse.training.run import PARTS

    heavy = [name for name in ("model", "last", PARTS) if keep_models and (source / name).exists()]
    with staged_folder(Path(cell.folder)) as staging:
        for name in ("run.json", "log.jsonl", *heavy):
            if (source / name).is_dir():
                shutil.copytree(source / name, staging / name)
            else:
                shutil.copyfile(source / name, staging / name)
        write_text(staging / "recipe.toml", cell.recipe)
        # Its own words for what is the same there: a later --resume compares them.
        record = read_record(staging / "run.json")
        training = to_dict(parse_recipe(cell.recipe.encode(), cell.row))["training"]
        record.config["training"] |= {name: training[name] for name in ("dev", "keep_training_parts")}
        record.write(staging / "run.json")


# ---- one cell --------------------------------------------------------------------------------------------------------


def run_cell(
    cell: Cell, shared: Shared, report: Callable[[str, dict[str, Any]], None] = lambda event, facts: None
) -> dict[str, Any]:
    """Train and measure one cell and write its outcome; one that fails says why in it.

    Returns:
        status ("complete" or "failed"), message, scores (column -> value, data), seconds.

    Raises:
        InputError: the outcome cannot be written.
        KeyboardInterrupt: Ctrl-C; the outcome on disk says "stopped".
    """
    config = parse_recipe(cell.recipe.encode(), cell.row)
    folder, began = Path(cell.folder), time.perf_counter()
    outcome = _head(cell)
    if outcome_of(cell) is None or _cannot_go_on(folder, config):
        shutil.rmtree(folder, ignore_errors=True)
    write_json(cell.record, {**outcome, "status": "running"})
    try:
        scores = _trained(cell, config, shared, report) if cell.trained else _untrained(config, shared)
        outcome |= {"status": "complete", "message": None, "scores": scores}
    except InputError as error:
        outcome |= {"status": "failed", "message": str(error), "scores": {}}
    except Exception as error:  # a table of a hundred runs does not end at one
        message = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        outcome |= {"status": "failed", "message": message, "scores": {}, "traceback": traceback.format_exc()}
    except KeyboardInterrupt:
        write_json(cell.record, {**outcome, "status": "stopped"})
        raise
    outcome["seconds"] = round(time.perf_counter() - began, 1)
    write_json(cell.record, finite(outcome))
    if outcome["status"] == "complete" and not shared.keep_models:
        from diffcse.training.run import PARTS

        for path in (folder / name for name in ("model", "last", PARTS)):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    return outcome


def _head(cell: Cell) -> dict[str, Any]:
    """What an outcome says of its cell, however it ended."""
    return {
        "identity": cell.identity,
        "row": cell.row,
        "seed": cell.seed,
        "recipe": cell.recipe,
        "data": dict(cell.data),
        "source": source_hash(),
    }


def _cannot_go_on(folder: Path, config: Config) -> bool:
    """Whether what lies in `folder` is no beginning of this run, or one whose model is no longer there."""
    from diffcse.training.run import PARTS

    if not (folder / "run.json").is_file():
        return True
    try:
        record = read_record(folder / "run.json")
    except InputError:
        return True
    changed = changed_fields(record.config, to_dict(config), Config)
    if config.method.generator is None and "method.generator" in changed:
        changed.remove("method.generator")  # the run wrote down which one it found
    needed = ["model", *([PARTS] if config.training.keep_training_parts else [])]
    gone = record.status == "complete" and not all((folder / name).exists() for name in needed)
    return gone or bool(changed)


def _trained(
    cell: Cell, config: Config, shared: Shared, report: Callable[[str, dict[str, Any]], None]
) -> dict[str, dict[str, Any]]:
    from diffcse.encoder.load import load
    from diffcse.training.run import run

    trained = run(config, shared.corpus, cell.folder, resume=True, report=report)
    dev = trained.record.scores["dev"]
    values: dict[str, float] = {"dev": dev["best"], "dev_last": dev["last"]}
    jobs = column_jobs(shared)
    if any(name.startswith("rtd") for name in jobs) and trained.model is not None:
        sentences = next(each for name, each in jobs.items() if name.startswith("rtd"))[0].sentences
        values |= rtd_losses(trained.model, trained.encoder.tokenizer, sentences, config.training.max_tokens)
    others = {name: each for name, each in jobs.items() if each and not name.startswith(("dev", "rtd"))}
    for folder, last in (("model", False), ("last", True)):
        chosen = {name: each for name, each in others.items() if name.endswith("_last") == last}
        if chosen:
            values |= _measured(load(Path(cell.folder) / folder), chosen)
    return _located(values, jobs)


def _untrained(config: Config, shared: Shared) -> dict[str, dict[str, Any]]:
    from diffcse.encoder.load import load

    jobs = column_jobs(shared)
    encoder = load(config.method.model, pooling=config.method.pooling)
    measured = {name: each for name, each in jobs.items() if each and not name.startswith("rtd")}
    return _located(_measured(encoder, measured), jobs)


def _located(values: Mapping[str, float], jobs: Mapping[str, list[Job]]) -> dict[str, dict[str, Any]]:
    """Each column's value (None where this row has none), and what it was measured on."""
    return {name: {"value": values.get(name), "data": _jobs_hash(each)} for name, each in jobs.items() if each}


def _measured(encoder: Any, jobs: Mapping[str, list[Job]]) -> dict[str, float]:
    """Column -> score of a loaded encoder."""
    from diffcse.evaluation.cache import ResultCache, default_cache_dir
    from diffcse.evaluation.candidates import encoder_candidate
    from diffcse.evaluation.measuring import EmbedOnce, measure

    once = EmbedOnce(encoder)  # columns share sentences
    candidate = dataclasses.replace(encoder_candidate("cell", encoder), fit=lambda _: once)
    cache = ResultCache(default_cache_dir())
    found = {}
    for name, each in jobs.items():
        records = [record for record, _ in measure(candidate, each, cache=cache).values()]
        found[name] = _value(name, records)
    return found


def _value(column: str, records: Sequence[Mapping[str, Any]]) -> float:
    family, _, k = column.partition("@")
    family = family.partition("_")[0]
    if family == "recall":
        return float(records[0]["values"][f"recall@{k}"])
    if family in ("alignment", "uniformity"):
        value = records[0][family]
        return float("nan") if value is None else float(value)
    return sum(record["value"] for record in records) / len(records)


_AT_MOST, _BATCH = 2048, 64


def rtd_losses(model: DiffCSE, tokenizer: Any, sentences: Sequence[str], max_tokens: int) -> dict[str, float]:
    """D's held-out log-loss, nats a token: given a sentence's own embedding, another's, and none.

    None is its start token in the embedding's place, which D was not trained for; the edits are the same in all three.
    Nothing where D judges no edits of the embedded sentence.
    """
    import torch
    import torch.nn.functional as F

    from diffcse.method.inspect import conditional_gain
    from diffcse.training.collate import Collate

    choices = model.choices
    if choices.difference != "rtd" or choices.condition == "none" or choices.pairing == "next":
        return {}
    distinct = list(dict.fromkeys(sentence for sentence in sentences if sentence))
    random.Random(0).shuffle(distinct)  # neighbours in a file speak of the same thing
    distinct = distinct[: min(_AT_MOST, len(distinct) - (len(distinct) % _BATCH == 1))]  # none is a batch of its own
    collate = Collate(tokenizer, max_tokens)
    batches = [collate(distinct[i : i + _BATCH]) for i in range(0, len(distinct), _BATCH)]
    gain = conditional_gain(model, batches)
    device, loss, tokens = next(model.parameters()).device, 0.0, 0
    model.eval()
    with torch.no_grad():
        for step, batch in enumerate(batches):
            ids, attention = (batch[name].to(device) for name in ("input_ids", "attention_mask"))
            edited = model.edit(ids, attention, step=step, rows_R=torch.arange(len(ids), device=device))
            logits_RT2 = model.discriminate(edited.ids, edited.attention, None).float()
            each_RT = F.cross_entropy(logits_RT2.mT, edited.labels, reduction="none")
            loss += float((each_RT * edited.editable).double().sum())
            tokens += int(edited.editable.sum())
    return {"rtd_own": gain.own, "rtd_shuffled": gain.shuffled, "rtd_none": loss / tokens}


# ---- all cells -------------------------------------------------------------------------------------------------------


def run_cells(
    cells: Sequence[Cell], shared: Shared, *, parallel: int = 1, report: Report = lambda cell, event, facts: None
) -> None:
    """Run what is not finished of `cells`; `parallel` of them at once, each in a process with its share of the cores
    (or its own GPU).

    Raises:
        InputError: more at once than there are cores or GPUs.
    """
    if parallel < 1:
        raise InputError(f"--parallel {parallel}: must be at least 1")
    todo = [cell for cell in cells if not is_finished(cell, shared)]
    if parallel == 1:
        for cell in todo:
            outcome = run_cell(cell, shared, functools.partial(report, cell))
            report(cell, "end", outcome)
        return
    environments, one = _environments(parallel), threading.Lock()

    def told(cell: Cell, event: str, facts: dict[str, Any]) -> None:
        with one:  # several threads have news
            report(cell, event, facts)

    pending: queue.SimpleQueue[Cell] = queue.SimpleQueue()
    for cell in todo:
        pending.put(cell)
    with _workers(environments[: len(todo)]) as workers:
        threads = [threading.Thread(target=worker.serve, args=(pending, shared, told)) for worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)  # waiting in one go, Python would not see Ctrl-C before the end
    broken = next((worker.broken for worker in workers if worker.broken is not None), None)
    if broken is not None:
        raise broken


def _environments(parallel: int) -> list[dict[str, str]]:
    """Environment variables of each worker."""
    import torch

    if gpus := torch.cuda.device_count():
        if parallel > gpus:
            raise InputError(f"--parallel {parallel}: there are {gpus} GPUs, one for each process")
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        of = named.split(",") if named else [str(i) for i in range(gpus)]
        return [{"CUDA_VISIBLE_DEVICES": of[i], **UNBOUND} for i in range(parallel)]
    if parallel > len(cores()):
        raise InputError(f"--parallel {parallel}: there are {len(cores())} cores")
    return [{"OMP_NUM_THREADS": str(len(cores()) // parallel), **UNBOUND} for _ in range(parallel)]


@contextmanager
def _workers(environments: Sequence[dict[str, str]]) -> Iterator[list[_Worker]]:
    workers = [_Worker(environment) for environment in environments]
    try:
        yield workers
    except KeyboardInterrupt:
        say_at_once("stopping after the step at hand of each run; Ctrl-C once more stops at once")
        for worker in workers:
            worker.interrupt()
        for worker in workers:
            worker.wait()
        raise
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process that runs one cell after another, as it is told them.

    It ends as soon as its standard input does, so none is left behind by a command that was killed; a run that ends in
    the middle goes on another time.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False
        self.broken: Exception | None = None
        """What ended `serve` before its time."""

    def serve(self, pending: queue.SimpleQueue[Cell], shared: Shared, report: Report) -> None:
        """Run cells from `pending` until there is none."""
        try:
            while not self._stopped:
                try:
                    cell = pending.get_nowait()
                except queue.Empty:
                    return
                outcome = self._run(cell, shared, report)
                if outcome is not None:
                    report(cell, "end", outcome)
        except Exception as error:
            self.broken = error

    def _run(self, cell: Cell, shared: Shared, report: Report) -> dict[str, Any] | None:
        if self._process is None:
            self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
            with all_cores():
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", "from diffcse.tables.cells import work; work()"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._errors,
                    env={**os.environ, **self._environment},
                    start_new_session=True,  # Ctrl-C is ours to hear
                    text=True,
                )
        process = self._process
        if self._stopped:  # while it was started: `stop` did not see it, and nobody else will end it
            process.kill()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps([dataclasses.asdict(cell), dataclasses.asdict(shared)]) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                event, facts = json.loads(line)
                if event == "end":
                    return dict(facts)
                report(cell, event, facts)
        except BrokenPipeError:
            pass
        if self._stopped:
            return None
        code, self._process = process.wait(), None
        self._errors.seek(0)
        last = self._errors.read()[-4000:].strip()
        message = f"the process that ran it ended ({code}{', perhaps for want of memory' if code == -9 else ''})"
        outcome = {**_head(cell), "status": "failed", "scores": {}}
        outcome |= {"message": message, "traceback": last, "seconds": None}
        write_json(cell.record, outcome)
        return outcome

    def interrupt(self) -> None:
        """Ask the process to end, with a checkpoint of the run at hand."""
        self._stopped = True
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)

    def wait(self) -> None:
        """Until the process has ended."""
        if self._process is not None:
            self._process.wait()

    def stop(self) -> None:
        """End the process, whatever it does."""
        self._stopped = True
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._errors.close()


def work() -> None:
    """The worker process: cells as JSON lines from standard input, events and outcomes to standard output."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    told: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            told.put(line)
        os._exit(1)  # whoever started us is gone

    def answer(event: str, facts: Any) -> None:
        answers.write(json.dumps([event, finite(facts)]) + "\n")
        answers.flush()

    threading.Thread(target=listen, daemon=True).start()
    while True:
        cell, shared = json.loads(told.get())
        shared = {key: tuple(value) if isinstance(value, list) else value for key, value in shared.items()}
        answer("end", run_cell(Cell(**cell), Shared(**shared), answer))


# ---- the table -------------------------------------------------------------------------------------------------------


def tabulate(
    grid: Grid, cells: Sequence[Cell], shared: Shared, *, skipped: Mapping[str, str], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """The table as plain JSON values, from what is on disk of `cells`.

    Args:
        skipped: row -> why it has no cells.
        facts: what else to say of the command: its words, seeds.
    """
    from diffcse.evaluation.seeds import scatter

    jobs = column_jobs(shared)
    outcomes = {(cell.row, cell.seed): outcome_of(cell) for cell in cells}
    values: dict[str, dict[str, dict[int | None, float]]] = {name: {} for name in grid.columns}
    for (row, seed), outcome in outcomes.items():
        for name in grid.columns:
            score = ((outcome or {}).get("scores") or {}).get(name)
            if score and score["value"] is not None and score["data"] == _jobs_hash(jobs[name]):
                values[name].setdefault(row, {})[seed] = score["value"]
    rows = [_row(grid, row, [cell for cell in cells if cell.row == row.name], skipped) for row in grid.rows]
    columns = {}
    for name in grid.columns:
        column = COLUMNS[name]
        among = scatter(values[name])
        scored = {row.name: _score(grid, row, name, values[name], among) for row in grid.rows}
        sets = measured_on(name, shared)
        columns[name] = {
            "label": column.label,
            "digits": column.digits,
            "lower_is_better": column.lower_is_better,
            "measured_on": sets,
            "lacks": None if sets else column.needs,
            "rows": scored,
            "agreement": _agreement(list(scored.values())),
        }
    return finite(
        {
            "schema": SCHEMA,
            "title": grid.title,
            "paper": grid.paper,
            "note": grid.note,
            **facts,
            "rows": rows,
            "columns": columns,
            "versions": versions(),
        }
    )


def _row(grid: Grid, row: Row, cells: Sequence[Cell], skipped: Mapping[str, str]) -> dict[str, Any]:
    """What is to be said of a row beside its scores."""
    runs = []
    for cell in cells:
        outcome = outcome_of(cell) or {"status": "not run"}
        run: dict[str, Any] = {"seed": cell.seed if cell.trained else None, "status": outcome["status"]}
        run |= {"message": outcome.get("message"), "seconds": outcome.get("seconds"), "curve": []}
        run |= {"taken_from": outcome["taken_from"]} if "taken_from" in outcome else {}
        if outcome["status"] == "complete" and (Path(cell.folder) / "run.json").is_file():
            record = read_record(Path(cell.folder) / "run.json")
            run["curve"] = [[entry["step"], entry["dev"]] for entry in record.log if "dev" in entry]
            run |= {"steps": record.scores.get("steps"), "hardware": record.hardware, "warnings": record.warnings}
            run |= {"versions": record.versions} if "taken_from" in outcome else {}
        runs.append(run)
    return {
        "name": row.name,
        "label": row.label,
        "group": row.group,
        "note": row.note,
        "against": grid.against(row),
        "skipped": skipped.get(row.name),
        "runs": runs,
    }


def _score(
    grid: Grid, row: Row, column: str, values: Mapping[str, dict[int | None, float]], among: Scatter | None
) -> dict[str, Any]:
    from diffcse.evaluation.seeds import spread, together

    ours, against = values.get(row.name, {}), grid.against(row)
    theirs = values.get(against, {}) if against else {}
    published = row.published.get(column)
    other = grid.row(against).published.get(column) if against else None
    found: dict[str, Any] = {"values": {str(seed): value for seed, value in ours.items()}, "n": len(ours)}
    found |= spread(list(ours.values())) if ours else {"mean": None, "sd": None}
    found |= {"published": published, "effect": None, "verdict": None}
    found["published_difference"] = None if published is None or other is None else published - other
    if ours and theirs:
        found |= judged(ours, theirs, COLUMNS[column], **together(among, row.name, against or ""))
    return found


def judged(
    ours: Mapping[int | None, float], theirs: Mapping[int | None, float], column: Column, **table: Any
) -> dict[str, Any]:
    """`effect` (`table`: what else that takes), and `verdict`: better, worse, tie, or None where nothing tells."""
    from diffcse.evaluation.seeds import effect

    one, verdict = effect(ours, theirs, **table).to_dict(), None
    if one["low"] is not None and column.lower_is_better is not None:
        # A difference that is shown as zero is none, however alike the seeds.
        seen = abs(one["difference"]) >= 0.5 * 10**-column.digits
        clear = seen and (one["low"] > 0 or one["high"] < 0)
        up = (one["difference"] > 0) != column.lower_is_better
        verdict = ("better" if up else "worse") if clear else "tie"
    return {"effect": one, "verdict": verdict}


def _agreement(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Whether ours and the published figures rank the rows alike; None of fewer than three rows.

    p is Kendall's, exact where no two rows tie: how often chance would order so few rows as much alike, or unlike.
    """
    import numpy as np
    from scipy import stats

    from diffcse.evaluation.seeds import EXACT

    both = [
        (one["mean"], one["published"]) for one in scores if one["mean"] is not None and one["published"] is not None
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
