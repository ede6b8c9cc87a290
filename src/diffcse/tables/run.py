"""Train and measure one cell, and keep its outcome."""

from __future__ import annotations

import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffcse.config import Config, changed_fields, parse_recipe, to_dict
from diffcse.errors import InputError
from diffcse.files import write_json, write_text
from diffcse.record import finite, read_record
from diffcse.tables.cells import DEV_FILE, Cell, Shared, outcome_of
from diffcse.tables.columns import dev_pairs, jobs_hash, measure_columns, rtd_losses
from diffcse.training.folder import PARTS

RunReport = Callable[[str, dict[str, Any]], None]
"""Receives (event, facts): the events of `training.run.run`."""


def run_cell(cell: Cell, shared: Shared, report: RunReport = lambda event, facts: None) -> dict[str, Any]:
    """Train and measure one cell and write its outcome. The outcome of a cell that fails says why.

    Scores that other tables asked of the same cell stay in the outcome.

    Returns:
        status ("complete" or "failed"), message, scores (column -> value, data), seconds.

    Raises:
        InputError: the outcome cannot be written.
        KeyboardInterrupt: Ctrl-C. The outcome on disk then says "stopped".
    """
    began = time.perf_counter()
    config = parse_recipe(cell.recipe.encode(), cell.row)
    outcome = head(cell) | {"scores": (outcome_of(cell) or {}).get("scores") or {}}
    write_json(cell.record, {**outcome, "status": "running"})
    try:
        scores = _train(cell, config, shared, report) if cell.trained else _measure_start(config, shared)
        outcome |= {"status": "complete", "message": None, "scores": outcome["scores"] | scores}
    except InputError as error:
        outcome |= {"status": "failed", "message": str(error)}
    except Exception as error:  # a table of a hundred runs does not end because one of them fails
        message = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        outcome |= {"status": "failed", "message": message, "traceback": traceback.format_exc()}
    except KeyboardInterrupt:
        write_json(cell.record, {**outcome, "status": "stopped"})
        raise
    outcome["seconds"] = round(time.perf_counter() - began, 1)
    write_json(cell.record, finite(outcome))
    if outcome["status"] == "complete" and not shared.keep_models:
        for path in (Path(cell.folder) / name for name in ("model", "last", PARTS)):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    return outcome


def head(cell: Cell) -> dict[str, Any]:
    """What every outcome says of its cell."""
    return {"identity": cell.identity, "row": cell.row, "seed": cell.seed, "recipe": cell.recipe}


def _train(cell: Cell, config: Config, shared: Shared, report: RunReport) -> dict[str, dict[str, Any]]:
    from diffcse.encoder.load import load
    from diffcse.training.run import run

    folder = Path(cell.folder)
    if not _can_go_on(folder, config):
        shutil.rmtree(folder, ignore_errors=True)
    if shared.dev is None:
        _write_dev(shared, folder.parent / DEV_FILE)
    trained = run(config, shared.corpus, folder, resume=True, report=report)
    dev = trained.record.scores["dev"]
    values: dict[str, float] = {"dev": dev["best"], "dev_last": dev["last"]}
    jobs = shared.jobs
    judged = [name for name in jobs if name.startswith("rtd")]
    if judged and trained.model is not None:
        sentences = jobs[judged[0]][0].sentences
        encoder, most = trained.encoder, config.training.max_tokens
        values |= rtd_losses(trained.model, encoder.tokenizer, sentences, most, encoder.settings.prompt)
    others = {name: each for name, each in jobs.items() if each and not name.startswith(("dev", "rtd"))}
    for model, last in (("model", False), ("last", True)):
        chosen = {name: each for name, each in others.items() if name.endswith("_last") == last}
        if chosen:
            values |= measure_columns(load(folder / model), chosen)
    return _scores(values, shared)


def _can_go_on(folder: Path, config: Config) -> bool:
    """Whether `folder` holds a beginning of this run, or all that a complete one is measured from."""
    try:
        record = read_record(folder / "run.json")
    except InputError:
        return False
    changed = {*changed_fields(record.config, to_dict(config), Config)}
    # The record names the generator and the pooling that the run took.
    changed -= {f"method.{name}" for name in ("generator", "pooling") if getattr(config.method, name) is None}
    needed = ["model", *([PARTS] if config.training.keep_training_parts else [])]
    lost = record.status == "complete" and not all((folder / name).exists() for name in needed)
    return not lost and not changed


def _write_dev(shared: Shared, file: Path) -> None:
    """Write the dev set of the data as the file that training reads."""
    pairs = dev_pairs(shared.dev, shared.data, shared.columns)
    lines = zip(pairs.scores, pairs.first, pairs.second, strict=True)
    write_text(file, "".join(f"{float(score)!r}\t{first}\t{second}\n" for score, first, second in lines))


def _measure_start(config: Config, shared: Shared) -> dict[str, dict[str, Any]]:
    from diffcse.encoder.load import load
    from diffcse.training.network import with_pooling

    encoder = load(config.method.model, pooling=with_pooling(config).method.pooling)
    jobs = {name: each for name, each in shared.jobs.items() if each and not name.startswith("rtd")}
    return _scores(measure_columns(encoder, jobs), shared)


def _scores(values: Mapping[str, float], shared: Shared) -> dict[str, dict[str, Any]]:
    """Each column's value (None where this row has none), and the hash of what it was measured on."""
    return {name: {"value": values.get(name), "data": jobs_hash(jobs)} for name, jobs in shared.jobs.items() if jobs}
