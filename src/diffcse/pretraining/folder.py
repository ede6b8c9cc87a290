"""Which run may begin or continue in an output folder, beside the rules in `training.folder`.

A run in progress also holds what is costly to make again: `tokenizer/` and `word-vectors/`.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from diffcse.config import to_dict
from diffcse.errors import InputError
from diffcse.files import clear_partials, model_sha256, write_errors, write_text
from diffcse.method.loading import named
from diffcse.pretraining.config import Pretraining, to_toml
from diffcse.record import Record, read_record
from diffcse.training.folder import CHECKPOINTS, RECIPE, RECORD, check_same_run, check_same_weights, clean_up

TOKENIZER, VECTORS = "tokenizer", "word-vectors"


def open_record(config: Pretraining, output: Path, data: dict[str, Any], *, resume: bool) -> Record:
    """The record of the run in `output`: as it is if the run is complete, otherwise a new one, written.

    Args:
        data: facts about the text; the hash of the model to continue from is added.

    Raises:
        InputError: a run with other settings, text or start model is in `output`.
    """
    file = output / RECORD
    previous = _previous(output, config, data) if resume and file.is_file() else None
    start_sha256 = _start_sha256(config, previous, file)
    if start_sha256 is not None:
        data["start_model_sha256"] = start_sha256
    if previous is not None and previous.status == "complete":
        clean_up(output, TOKENIZER, VECTORS)
        return previous
    record = Record(kind="pretrain", config=to_dict(config), seed=config.seed, data=data)
    if previous is not None:
        record.created, record.timing = previous.created, previous.timing
    unused = config.unused()
    if unused:
        record.warnings.append(f"{', '.join(unused)}: set, but without effect beside the other settings")
    record.write(file)
    write_text(output / RECIPE, to_toml(config))
    clear_partials(output)
    return record


def _previous(output: Path, config: Pretraining, data: dict[str, Any]) -> Record:
    """The record of the run to resume.

    Raises:
        InputError: that run has other settings or another text.
    """
    previous, wanted = read_record(output / RECORD), to_dict(config)
    begun = previous
    if previous.status != "complete":
        wanted["store"] = previous.config.get("store")  # weights are rounded after the last step
    if "text" in previous.data and "text" in data:  # a corpus in memory does not say how it was read
        begun = dataclasses.replace(previous, config={**previous.config, "text": previous.data["text"]})
        wanted["text"] = data["text"]
    check_same_run(output, begun, "pretrain", wanted, Pretraining, data)
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
