"""A folder or hub id -> an encoder with the right pooling.

Choosing the wrong pooling costs tens of points and looks like a bad model, so it is read from the folder where the
folder says it, must be asked for where it does not, and is always part of what is returned.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import snapshot_download

from diffcse.config import Pooling
from diffcse.encoder.encode import Encoder, position_limit
from diffcse.encoder.save import LIMITS, MODULES, POOLING_FLAGS, SETTINGS
from diffcse.errors import InputError
from diffcse.method.parts import load_encoder, load_tokenizer, named, read_vocabulary


@dataclass(frozen=True)
class _Layout:
    """What a folder says of itself; a plain checkpoint says only where it is."""

    transformer: Path
    pooling: Pooling | None = None
    normalised: bool = False
    limit: int | None = None
    lowercases: bool = False


def load(source: str | Path, *, pooling: Pooling | None = None) -> Encoder:
    """An encoder from one of our folders, a sentence-transformers folder, or a plain Hugging Face checkpoint.

    It runs on the GPU where there is one.

    Args:
        source: a folder, "mini", or a hub id.
        pooling: overrides what the folder says; needed for a checkpoint that says nothing.

    Raises:
        InputError: nothing there, not loadable, a layout that is not an encoder with one pooling, or the pooling is
            unknown.
    """
    folder = named(source)
    if not folder.exists():
        folder = _fetch(str(source))
    is_run = (folder / "run.json").is_file()
    run = folder / "model" if is_run and (folder / "model").is_dir() else folder
    if not (run / "config.json").is_file() and not (run / MODULES).is_file():
        hint = "; the run in it has not left a model yet: finish it with diffcse train --resume" if is_run else ""
        raise InputError(f"{source}: no model folder: it has neither config.json nor {MODULES}{hint}")
    layout = _read_layout(run) if (run / MODULES).is_file() else _Layout(run)
    transformer = layout.transformer
    tokenizer = load_tokenizer(transformer)
    read_vocabulary(tokenizer, masks=False)
    chosen = pooling or layout.pooling
    if chosen is None:
        raise InputError(
            f"{source}: a plain checkpoint does not say how token vectors become a sentence vector: "
            "choose with --pooling cls or --pooling mean"
        )
    if layout.lowercases and tokenizer.tokenize("A") != tokenizer.tokenize("a"):
        raise InputError(
            f"{layout.transformer / LIMITS}: do_lower_case is on, but the tokenizer itself keeps capitals; this is not "
            "supported. Load such a folder with SentenceTransformer itself"
        )
    model: Any = load_encoder(transformer)
    if torch.cuda.is_available():
        model.cuda()
    most = position_limit(model, tokenizer)
    return Encoder(model, tokenizer, chosen, min(layout.limit or most, most), layout.normalised)


def _fetch(hub_id: str) -> Path:
    """The folder of a hub id, downloaded or from the hub's cache: settings and safetensors, no code, no pickles."""
    try:
        return Path(snapshot_download(hub_id, allow_patterns=["*.json", "*.txt", "*.model", "*.safetensors"]))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{hub_id}: there is no such folder here, and as a hub id: {reason}") from error


def _read_layout(folder: Path) -> _Layout:
    """The layout of a sentence-transformers folder: a Transformer, then one Pooling, then perhaps Normalize."""
    modules = _read_json(folder / MODULES)
    try:
        kinds = [module["type"].rpartition(".")[2] for module in modules]
        paths = [folder / module["path"] for module in modules]
        ours = all(module["type"].startswith("sentence_transformers.") for module in modules)
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{folder / MODULES}: not a sentence-transformers list of modules") from error
    if not ours or kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise InputError(
            f"{folder / MODULES}: modules {', '.join(module['type'] for module in modules) or 'none'}; only a "
            "Transformer with one Pooling (and Normalize) is supported. Load other layouts with SentenceTransformer "
            "itself"
        )
    prompt = _read_table(folder / SETTINGS).get("default_prompt_name")
    if prompt is not None:
        raise InputError(
            f"{folder / SETTINGS}: puts the prompt {prompt!r} before every sentence, which is not supported. Load such "
            "a folder with SentenceTransformer itself"
        )
    limits = _read_table(paths[0] / LIMITS)
    limit = limits.get("max_seq_length")
    if limit is not None and not (type(limit) is int and limit > 0):
        raise InputError(f"{paths[0] / LIMITS}: max_seq_length = {limit!r}: must be a whole number above 0")
    said = _read_pooling(paths[1] / "config.json")
    return _Layout(paths[0], said, "Normalize" in kinds, limit, bool(limits.get("do_lower_case")))


def _read_pooling(file: Path) -> Pooling:
    """The one pooling a configuration switches on, in the classic flags or in the newer single field."""
    if not file.is_file():
        raise InputError(f"{file}: is missing, and it should say how token vectors become a sentence vector")
    config = _read_table(file)
    flags = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
    said = config.get("pooling_mode", flags)
    on = [said] if isinstance(said, str) else said
    names = {flag: name for name, flag in POOLING_FLAGS.items()} | {name: name for name in POOLING_FLAGS}
    if not isinstance(on, list) or len(on) != 1 or on[0] not in [*names]:
        raise InputError(f"{file}: pooling {on}; supported is one of: {', '.join(POOLING_FLAGS)}")
    return cast(Pooling, names[on[0]])


def _read_table(file: Path) -> dict[str, Any]:
    """A JSON object; a file that is not there has nothing to say."""
    table = _read_json(file) if file.is_file() else {}
    if not isinstance(table, dict):
        raise InputError(f"{file}: not a JSON object")
    return table


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: not JSON: {error}") from error
