"""What an output folder holds, and which run may continue in it.

While a run lasts: `run.json`, `recipe.toml`, `log.jsonl`, `checkpoints/`, and what is costly to make again
(`tokenizer/`, `word-vectors/`). A complete run holds `model/` in place of the last three.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from diffcse.config import changed_fields, previous_values, to_dict
from diffcse.errors import InputError
from diffcse.files import clear_partials, model_sha256, write_errors, write_text
from diffcse.method.loading import named
from diffcse.pretraining.config import Pretraining, to_toml
from diffcse.record import Record, read_record
from diffcse.training.folder import check_same_text, check_same_weights

RECORD, RECIPE, LOG = "run.json", "recipe.toml", "log.jsonl"
MODEL, CHECKPOINTS, TOKENIZER, VECTORS = "model", "checkpoints", "tokenizer", "word-vectors"


def open_record(config: Pretraining, output: Path, data: dict[str, Any], *, resume: bool) -> Record:
    """The record of the run in `output`: as it is if the run is complete, otherwise a new one, written.

    Args:
        data: facts about the text; the hash of the model to continue from is added.

    Raises:
        InputError: a run with other settings, text or start model is in `output`.
    """
    file = output / RECORD
    previous = _previous(file, config, data) if resume and file.is_file() else None
    start_sha256 = _start_sha256(config, previous, file)
    if start_sha256 is not None:
        data["start_model_sha256"] = start_sha256
    if previous is not None and previous.status == "complete":
        clean_up(output)
        return previous
    record = Record(kind="pretrain", config=to_dict(config), seed=config.seed, data=data)
    if previous is not None:
        record.created = previous.created
    unused = config.unused()
    if unused:
        record.warnings.append(f"{', '.join(unused)}: set, but without effect beside the other settings")
    record.write(file)
    write_text(output / RECIPE, to_toml(config))
    clear_partials(output)
    return record


def _previous(file: Path, config: Pretraining, data: dict[str, Any]) -> Record:
    """The record of the run to resume.

    Raises:
        InputError: that run has other settings or another text.
    """
    previous = read_record(file)
    if previous.kind != "pretrain":
        raise InputError(f"{file}: holds a run of kind {previous.kind!r}, not a pretraining. Give a new --output")
    then, now = previous.config, to_dict(config)
    if "text" in previous.data and "text" in data:  # a corpus in memory does not say how it was read
        then, now = {**then, "text": previous.data["text"]}, {**now, "text": data["text"]}
    changed = changed_fields(then, now, Pretraining)
    if changed:
        raise InputError(
            f"{file}: was begun with other settings ({previous_values(changed, then)}). Resume with those, or give a "
            "new --output"
        )
    if previous.data["sha256"] != data["sha256"]:
        raise InputError(f"{file}: was begun on other text. Give the same files, or a new --output")
    check_same_text(file.parent, previous, data)
    return previous


def _start_sha256(config: Pretraining, previous: Record | None, file: Path) -> str | None:
    """Hash of the model folder to continue from; None from scratch, or from the hub.

    Raises:
        InputError: the folder is not the one that the previous run started from. A complete run does not need it.
    """
    if config.model is None:
        return None
    try:
        folder = named(config.model)
        current = model_sha256(folder) if folder.is_dir() else None
    except InputError:
        if previous is None or previous.status != "complete":
            raise
        current = None
    if previous is not None:
        check_same_weights(file, previous, config.model, previous.data.get("start_model_sha256"), current)
    return current


def clear_refused(output: Path) -> None:
    """Remove the traces of a run that was refused before it made anything, so that the folder is free again."""
    try:
        record = read_record(output / RECORD)
    except InputError:
        return
    if record.kind != "pretrain" or record.status != "running":
        return
    with write_errors(output):
        names = {path.name for path in output.iterdir() if not path.name.startswith(".")}
        checkpoints = output / CHECKPOINTS
        if names <= {RECORD, RECIPE, CHECKPOINTS} and not (checkpoints.is_dir() and any(checkpoints.iterdir())):
            if checkpoints.is_dir():
                checkpoints.rmdir()
            for name in (RECORD, RECIPE):
                (output / name).unlink(missing_ok=True)


def clean_up(output: Path) -> None:
    """Remove what only an unfinished run needs. Call it only after `run.json` says "complete"."""
    for name in (CHECKPOINTS, TOKENIZER, VECTORS):
        shutil.rmtree(output / name, ignore_errors=True)
