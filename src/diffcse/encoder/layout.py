"""The layout of a sentence-transformers folder: which modules it has, and what their settings say."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from safetensors.torch import load_file
from torch import Tensor

from diffcse.config import EncoderPooling
from diffcse.encoder.save import LIMITS, MODULES, POOLING_FLAGS, SETTINGS, TANH, WEIGHTS, layer_weights
from diffcse.errors import InputError


@dataclass(frozen=True)
class Layout:
    """What a folder says about its encoder; of a plain checkpoint only the place is known."""

    transformer: Path
    pooling: EncoderPooling | None = None
    normalised: bool = False
    limit: int | None = None
    lowercases: bool = False
    depth: int | None = None
    """Number of layers that its pooling was made for."""
    pooler: Mapping[str, Tensor] | None = None
    """The pooler head's weights, if they are not among the transformer's."""
    note: str = "as its folder says"
    """Why this pooling."""


_LAYOUTS = {
    ("Transformer", "Pooling"),
    ("Transformer", "WeightedLayerPooling", "Pooling"),
    ("Transformer", "Pooling", "Dense"),
}


def read_layout(folder: Path) -> Layout:
    """The layout of a sentence-transformers folder.

    Raises:
        InputError: a layout that `save` cannot write, or settings that are malformed or not supported.
    """
    modules = _read_json(folder / MODULES)
    try:
        kinds = [module["type"].rpartition(".")[2] for module in modules]
        paths = [folder / module["path"] for module in modules]
        ours = all(module["type"].startswith("sentence_transformers.") for module in modules)
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{folder / MODULES}: not a sentence-transformers list of modules") from error
    normalised = kinds[-1:] == ["Normalize"]
    if not ours or tuple(kinds[:-1] if normalised else kinds) not in _LAYOUTS:
        raise InputError(
            f"{folder / MODULES}: modules {', '.join(module['type'] for module in modules) or 'none'}; only a "
            "Transformer with one Pooling (and Normalize) is supported, with two layers averaged before it or a tanh "
            "layer after it. Load other layouts with SentenceTransformer"
        )
    prompt = read_table(folder / SETTINGS).get("default_prompt_name")
    if prompt is not None:
        raise InputError(
            f"{folder / SETTINGS}: puts the prompt {prompt!r} before every sentence, which is not supported. Load such "
            "a folder with SentenceTransformer"
        )
    limits = read_table(paths[0] / LIMITS)
    limit = limits.get("max_seq_length")
    if limit is not None and not (type(limit) is int and limit > 0):
        raise InputError(f"{paths[0] / LIMITS}: max_seq_length = {limit!r}: must be a whole number above 0")
    at = dict(zip(kinds, paths, strict=True))
    pooling: EncoderPooling = _read_pooling(at["Pooling"] / "config.json")
    depth = pooler = None
    if "WeightedLayerPooling" in at:
        _require_pooling(at, pooling, "mean", "of two layers")
        pooling, depth = _read_layers(at["WeightedLayerPooling"])
    elif "Dense" in at:
        _require_pooling(at, pooling, "cls", "before Dense")
        pooling, pooler = "pooler", _read_dense(at["Dense"])
    return Layout(paths[0], pooling, normalised, limit, bool(limits.get("do_lower_case")), depth, pooler)


def _require_pooling(at: Mapping[str, Path], pooling: str, supported: str, place: str) -> None:
    if pooling != supported:
        raise InputError(f"{at['Pooling'] / 'config.json'}: pooling {pooling} {place}; supported is {supported}")


def _read_layers(folder: Path) -> tuple[EncoderPooling, int]:
    """(first_last or top2, number of layers) from a WeightedLayerPooling."""
    start = read_table(folder / "config.json").get("layer_start")
    given = _read_weights(folder, "layer_weights")["layer_weights"].flatten().tolist()
    if type(start) is not int or start < 0:
        raise InputError(f"{folder / 'config.json'}: layer_start = {start!r}: must be a whole number, 0 or above")
    weights, depth = [0.0] * start + given, start + len(given) - 1
    # With two layers both poolings are the same; `save` starts them at different layers.
    names: list[EncoderPooling] = ["top2", "first_last"] if start else ["first_last", "top2"]
    for name in names:
        wanted = layer_weights(name, depth) if depth > 0 else []
        if sum(weights) > 0 and [w / sum(weights) for w in weights] == [w / sum(wanted) for w in wanted]:
            return name, depth
    raise InputError(
        f"{folder / WEIGHTS}: layer weights {weights}; supported are the average of the first and last layer and that "
        "of the last two. Load such a folder with SentenceTransformer"
    )


def _read_dense(folder: Path) -> dict[str, Tensor]:
    """The pooler head's weights from a Dense module of its shape: with a bias and tanh, as wide as the encoder."""
    config = read_table(folder / "config.json")
    width = config.get("in_features")
    plain = {"bias": True, "activation_function": TANH, "out_features": width, "use_residual": False}
    plain |= {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
    odd = [key for key, value in plain.items() if config.get(key) not in (value, None)]
    if odd:
        raise InputError(
            f"{folder / 'config.json'}: Dense with {odd[0]} = {config[odd[0]]!r}; supported is one like a pooler head: "
            f"as wide as the encoder, with {TANH}. Load such a folder with SentenceTransformer"
        )
    weights = _read_weights(folder, "linear.weight", "linear.bias")
    return {f"dense.{name}": weights[f"linear.{name}"] for name in ("weight", "bias")}


def _read_weights(folder: Path, *names: str) -> dict[str, Tensor]:
    """The named tensors of a module's safetensors file."""
    file = folder / WEIGHTS
    if not file.is_file():
        hint = "; a pickle (.bin) beside it is not read" if list(folder.glob("*.bin")) else ""
        raise InputError(f"{file}: is missing{hint}")
    try:
        weights = load_file(file)
    except Exception as error:
        raise InputError(f"{file}: not a safetensors file: {error}") from error
    missing = [name for name in names if name not in weights]
    if missing:
        raise InputError(f"{file}: holds no {missing[0]}")
    return weights


def _read_pooling(file: Path) -> Literal["cls", "mean"]:
    """The pooling that a configuration switches on, in the classic flags or in the newer single field."""
    if not file.is_file():
        raise InputError(f"{file}: is missing; it should say how token vectors become a sentence vector")
    config = read_table(file)
    flags = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
    on = config.get("pooling_mode", flags)
    on = [on] if isinstance(on, str) else on
    names = {flag: name for name, flag in POOLING_FLAGS.items()} | {name: name for name in POOLING_FLAGS}
    if not isinstance(on, list) or len(on) != 1 or on[0] not in [*names]:
        raise InputError(f"{file}: pooling {on}; supported is one of: {', '.join(POOLING_FLAGS)}")
    return cast(Literal["cls", "mean"], names[on[0]])


def read_table(file: Path) -> dict[str, Any]:
    """A JSON object; empty if the file is missing."""
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
