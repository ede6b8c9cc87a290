"""The output folder of a run: when it may be written to, which run may continue in it, and what is removed at the end.

Training and pretraining share these rules. A run in progress has `run.json`, `recipe.toml`, `log.jsonl` and
`checkpoints/`. A complete run has `model/` in place of the last.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from diffcse.config import changed_fields, previous_values
from diffcse.errors import InputError
from diffcse.files import write_errors
from diffcse.record import Record
from diffcse.training.checkpoints import newest_whole

RECORD, RECIPE, LOG = "run.json", "recipe.toml", "log.jsonl"
CHECKPOINTS, MODEL, LAST, BEST = "checkpoints", "model", "last", "best"
PARTS = "training_parts.safetensors"
"""With training.keep_training_parts: all trained weights of the last step."""

Report = Callable[[str, dict[str, Any]], None]
"""Receives events with their facts: "corpus", "start", "log" and "done". A run that was already complete sends "corpus"
and "finished"."""

_DATA = {
    "sha256": "other text. Give the same files",
    "following_sha256": "the same sentences in other documents (blank lines, or text.document). Give the same files",
    "dev_sha256": "another dev file. Give the same file",
}
"""Hashes in `Record.data` that must be equal to resume a run."""


def check_output(output: Path, *, resume: bool, begun: str = RECORD) -> None:
    """Check that a run can write to `output` without touching files of others.

    Args:
        begun: name of the file that marks a folder with a run to resume.

    Raises:
        InputError: it is a file, is not empty, cannot be read, or has a name that the libraries cannot write to.
    """
    try:
        str(output.absolute()).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{output}: the name is not valid UTF-8, which tokenizers need. Give another --output."
        ) from error
    with write_errors(output):
        if not output.exists():
            return
        if not output.is_dir():
            raise InputError(f"{output}: is a file. Give a folder as --output.")
        present = [path.name for path in output.iterdir() if not path.name.startswith(".")]
        if present and not resume:
            raise InputError(f"{output}: is not empty. Give a new --output, or --resume to continue the run in it.")
        if present and not (output / begun).exists():
            raise InputError(f"{output}: has no run to resume, but other files. Give a new --output.")


def check_same_run(
    output: Path, begun: Record, kind: str, config: Mapping[str, Any], config_class: type, data: Mapping[str, Any]
) -> None:
    """Check that the run in `output` is the one that is asked for.

    Args:
        begun: its record.
        kind: of record, "train" or "pretrain".
        config: the configuration that is asked for, as a dictionary, of `config_class`.
        data: hashes of the text, as in `Record.data`.

    Raises:
        InputError: another kind of run, or other settings or text. Settings that affect nothing may differ.
    """
    if begun.kind != kind:
        raise InputError(f"{output / RECORD}: is the record of another command ({begun.kind}). Give a new --output.")
    changed = changed_fields(begun.config, config, config_class)
    if changed:
        settings = f"other settings ({previous_values(changed, begun.config)})"
        if begun.status == "complete":
            raise InputError(f"{output}: has a complete run with {settings}. Give a new --output.")
        raise InputError(
            f"{output}: was begun with {settings}. Resume with --recipe {output / RECIPE} --resume, or give a new "
            "--output."
        )
    for name, other in _DATA.items():
        if begun.data.get(name) != data.get(name):
            raise InputError(f"{output}: was begun with {other}, or a new --output.")


def check_same_weights(record_file: Path, begun: Record, source: str, before: str | None, now: str | None) -> None:
    """Check that the model `source` is the one that the run of `begun` began with. A complete run needs none.

    Args:
        record_file: where `begun` is from.
        before: its hash in the record; None if it was not a local folder.
        now: its hash; None if there is no such folder.

    Raises:
        InputError: the folder has changed, or is gone.
    """
    if begun.status == "complete" or before in (None, now):
        return
    if source == "mini":
        version = begun.versions.get("diffcse", "another version")
        raise InputError(
            f"{record_file}: was begun with the bundled model of diffcse {version}. Install that version to resume, or "
            "give a new --output."
        )
    problem = "no longer exists" if now is None else "has changed since"
    raise InputError(
        f"{record_file}: was begun with the model {source}, which {problem}. Restore the model, or give a new --output."
    )


def open_checkpoints(output: Path, record: Record) -> Path | None:
    """Make the folder of checkpoints; the checkpoint to continue from, if any. Damaged ones become warnings."""
    folder = output / CHECKPOINTS
    with write_errors(folder):
        folder.mkdir(exist_ok=True)
    checkpoint, torn = newest_whole(folder)
    record.warnings += [f"{path.name}: incomplete or damaged, skipped" for path in torn]
    return checkpoint


def stop(record: Record, output: Path, step: int, steps: int) -> KeyboardInterrupt:
    """Record that Ctrl-C ended the run after `step` of `steps` updates; the exception to raise.

    Python ends with the exit code of Ctrl-C only for `KeyboardInterrupt` itself, not for a subclass.
    """
    record.status = "stopped"
    record.write(output / RECORD)
    return KeyboardInterrupt(f"after step {step:,} of {steps:,}, with a checkpoint of it")


def finish(record: Record, output: Path, *unneeded: str) -> None:
    """Record that the run is complete, then remove its checkpoints and the folders named `unneeded`."""
    record.status = "complete"
    record.write(output / RECORD)
    clean_up(output, *unneeded)


def clean_up(output: Path, *unneeded: str) -> None:
    """Remove folders that only an unfinished run needs. Call this only when `run.json` says "complete"."""
    for name in (CHECKPOINTS, *unneeded):
        shutil.rmtree(output / name, ignore_errors=True)
