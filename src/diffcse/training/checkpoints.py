"""Checkpoints that survive a kill at any moment.

A checkpoint is completed under a temporary name, listed in a manifest with sizes and hashes, and then renamed. A
checkpoint that does not match its manifest is skipped. No random state is stored, because dropout, masks and samples
are functions of (seed, step).
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffcse.errors import InputError
from diffcse.files import clear_partials, is_whole, staged_file, staged_folder, write_json, write_manifest

_WEIGHTS, _MOMENTS, _STATE = "trained.safetensors", "optimizer.safetensors", "state.json"
_NAME = re.compile(r"step-(\d+)")


def checkpoint_path(folder: Path, step: int) -> Path:
    """Folder of the checkpoint after `step` updates."""
    return folder / f"step-{step:08d}"


def _all(folder: Path) -> list[Path]:
    """Checkpoints in `folder`, newest first, whole or not."""
    return sorted((path for path in folder.glob("step-*") if _NAME.fullmatch(path.name)), key=_step, reverse=True)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def newest_whole(folder: Path) -> tuple[Path | None, list[Path]]:
    """The newest checkpoint that matches its manifest, and the newer ones that do not."""
    torn: list[Path] = []
    for path in _all(folder):
        if is_whole(path):
            return path, torn
        torn.append(path)
    return None, torn


def prune(folder: Path, step: int | None = None, keep: int = 2) -> None:
    """Remove all but the `keep` newest checkpoints, and what a killed process left unfinished.

    Args:
        step: update of the checkpoint just saved. Checkpoints of later updates were damaged and skipped when the run
            was resumed. They are removed too, because they would displace whole ones as the newest.
    """
    checkpoints = _all(folder)
    later = [path for path in checkpoints if step is not None and _step(path) > step]
    for path in [*later, *checkpoints[len(later) :][keep:]]:
        shutil.rmtree(path, ignore_errors=True)
    clear_partials(folder)


def save_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Write `weights` as safetensors in one indivisible step."""
    with staged_file(path) as staging:
        save_file({name: value.contiguous() for name, value in weights.items()}, staging)


def load_weights(weights: Mapping[str, Tensor], path: Path) -> None:
    """Copy into `weights`, in place, what `save_weights` wrote of tensors of the same names and shapes.

    Raises:
        InputError: the file cannot be read, or holds other weights.
    """
    try:
        saved = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read as weights: {error}") from error
    wrong = sorted(
        saved.keys() ^ weights.keys()
        | {name for name in saved.keys() & weights.keys() if saved[name].shape != weights[name].shape}
    )
    if wrong:
        raise InputError(
            f"{path}: holds other weights than this run trains (first: {wrong[0]}). Resume with the recipe that "
            "started the run."
        )
    with torch.no_grad():
        for name, value in weights.items():
            value.copy_(saved[name])


@dataclass(frozen=True)
class Checkpoint:
    """A training run between two updates."""

    step: int
    """Updates so far."""
    weights: Mapping[str, Tensor]
    """Everything that training changes, by name."""
    moments: Mapping[str, Tensor]
    """State of the optimiser."""
    state: dict[str, Any]
    """Everything else, as JSON."""


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Add a checkpoint to `folder`, whole or not at all, and keep only the newest two."""
    with staged_folder(checkpoint_path(folder, checkpoint.step)) as staging:
        save_weights(checkpoint.weights, staging / _WEIGHTS)
        save_weights(checkpoint.moments, staging / _MOMENTS)
        write_json(staging / _STATE, {"step": checkpoint.step, **checkpoint.state})
        write_manifest(staging)
    prune(folder, checkpoint.step)


def read_checkpoint(folder: Path, weights: Mapping[str, Tensor]) -> Checkpoint:
    """The checkpoint at `folder`; its weights are copied into `weights`.

    Raises:
        InputError: it holds other weights.
    """
    load_weights(weights, folder / _WEIGHTS)
    state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    return Checkpoint(state.pop("step"), weights, load_file(folder / _MOMENTS), state)
