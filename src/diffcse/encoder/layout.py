"""The layout of a sentence-transformers folder: which modules it has, and what their settings say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

from safetensors.torch import load_file
from torch import Tensor, nn

from diffcse.config import EncoderPooling
from diffcse.encoder.save import LIMITS, MODULES, POOLING_FLAGS, POOLING_MODES, SETTINGS, TANH, WEIGHTS, layer_weights
from diffcse.encoder.settings import Settings
from diffcse.errors import InputError
from diffcse.method.tail import ACTIVATIONS, Dense, Normalize
from diffcse.values import read_json, shown


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
    dense: Dense | None = None
    """The layer that `pooler` was read from."""
    note: str = "as its folder says"
    """Why this pooling."""
    tail: nn.Sequential = field(default_factory=nn.Sequential)
    """Dense and Normalize layers after the pooling, without the last Normalize."""
    settings: Settings = field(default_factory=Settings)


_PLAIN = ["Transformer", "Pooling"]
_LONGEST_PATH, _MOST_LAYERS = 200, 1000
_AFTER = {"Dense", "Normalize"}
"""The modules that may follow the pooling, in any order."""


class _Module(TypedDict):
    type: str
    path: str


class _Limits(TypedDict, total=False):
    max_seq_length: int | None
    do_lower_case: bool | None


class _Stated(TypedDict, total=False):
    prompts: dict[str, str] | None
    default_prompt_name: str | None
    truncate_dim: int | None
    similarity_fn_name: Literal["cosine", "dot", "euclidean", "manhattan"] | None


class _Layers(TypedDict):
    layer_start: int


class _Dense(TypedDict, total=False):
    in_features: int
    out_features: int
    bias: bool
    activation_function: str
    module_input_name: str | None
    module_output_name: str | None
    use_residual: bool | None


def read_layout(folder: Path) -> Layout:
    """The layout of a sentence-transformers folder.

    Raises:
        InputError: a layout that `save` cannot write, or settings that are malformed or not supported.
    """
    kinds, paths = _read_modules(folder)
    pooled = kinds.index("Pooling") + 1
    normalised = kinds[-1] == "Normalize"
    limits = read_table(paths[0] / LIMITS, _Limits)
    limit = _above_0(limits, "max_seq_length", paths[0] / LIMITS)
    pooling: EncoderPooling = _read_pooling(paths[pooled - 1] / "config.json")
    depth = pooler = head = None
    if pooled == 3:
        if pooling != "mean":
            raise InputError(f"{paths[2] / 'config.json'}: pooling {pooling} of two layers; supported is mean")
        pooling, depth = _read_layers(paths[1])
    after = list(zip(kinds, paths, strict=True))[pooled : len(kinds) - normalised]
    if pooling == "cls" and [kind for kind, _ in after] == ["Dense"] and _is_pooler(after[0][1]):
        head = _read_dense(after[0][1])
        dense = head.linear
        pooling, pooler, after = "pooler", {"dense.weight": dense.weight.data, "dense.bias": dense.bias.data}, []
    layers = [_read_dense(path) if kind == "Dense" else Normalize() for kind, path in after]
    return Layout(
        paths[0],
        pooling,
        normalised,
        limit,
        bool(limits.get("do_lower_case")),
        depth,
        pooler,
        tail=nn.Sequential(*layers),
        dense=head,
        settings=_read_settings(folder / SETTINGS, limit),
    )


def _read_modules(folder: Path) -> tuple[list[str], list[Path]]:
    """Kinds and folders of the modules: Transformer, perhaps WeightedLayerPooling, Pooling, and any of `_AFTER`."""
    file = folder / MODULES
    modules = read_json(file, list[_Module])
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    ours = all(module["type"].startswith("sentence_transformers.") for module in modules)
    for module in modules:
        path = module["path"]
        if "\0" in path or len(path) > _LONGEST_PATH:
            raise InputError(f"{file}: path = {shown(path)}: cannot be a folder. Copy the model's folder again")
    paths = [folder / module["path"] for module in modules]
    before = ["Transformer", "WeightedLayerPooling", "Pooling"] if "WeightedLayerPooling" in kinds else _PLAIN
    if not ours or kinds[: len(before)] != before or not set(kinds[len(before) :]) <= _AFTER:
        raise InputError(
            f"{file}: modules {', '.join(module['type'] for module in modules) or 'none'}; supported is a "
            "Transformer with one Pooling, with two layers averaged before it, and Dense and Normalize layers after. "
            "Load other layouts with SentenceTransformer"
        )
    return kinds, paths


def _read_settings(file: Path, limit: int | None) -> Settings:
    """Prompts, truncation and similarity of a folder; a missing file has the library's defaults."""
    table = read_table(file, _Stated)
    prompts, default = table.get("prompts") or {}, table.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise InputError(f"{file}: default_prompt_name = {default!r}: prompts has no such name")
    similarity = table.get("similarity_fn_name") or "cosine"
    return Settings(prompts, default, _above_0(table, "truncate_dim", file), similarity, limit)


def _above_0(table: Mapping[str, Any], key: str, file: Path) -> int | None:
    value: int | None = table.get(key)
    if value is not None and value < 1:
        raise InputError(f"{file}: {key} = {value}: must be a whole number above 0")
    return value


def _read_layers(folder: Path) -> tuple[EncoderPooling, int]:
    """(first_last or top2, number of layers) from a WeightedLayerPooling."""
    start = read_json(folder / "config.json", _Layers)["layer_start"]
    given = _read_weights(folder, "layer_weights")["layer_weights"].flatten().tolist()
    if not 0 <= start <= _MOST_LAYERS:
        raise InputError(f"{folder / 'config.json'}: layer_start = {start}: must be from 0 to {_MOST_LAYERS}")
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


def _is_pooler(folder: Path) -> bool:
    """Whether a Dense module has the shape of a checkpoint's own head: with a bias and tanh, as wide as the encoder."""
    config = read_table(folder / "config.json", _Dense)
    square = config.get("in_features") == config.get("out_features")
    return square and config.get("bias", True) and config.get("activation_function", TANH) == TANH


def _read_dense(folder: Path) -> Dense:
    """A Dense module.

    Raises:
        InputError: it has an unknown activation, a residual connection, or other inputs than the embedding.
    """
    file = folder / "config.json"
    config = read_table(file, _Dense)
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in ("sentence_embedding", None):
            raise InputError(f"{file}: {key} = {config[key]!r}; supported is 'sentence_embedding'")
    if config.get("use_residual"):
        raise InputError(f"{file}: use_residual = true is not supported. Load such a folder with SentenceTransformer")
    activation = config.get("activation_function", TANH)
    if activation not in ACTIVATIONS:
        raise InputError(f"{file}: activation_function = {activation!r}: must be one of {', '.join(ACTIVATIONS)}")
    names = ["linear.weight", *(["linear.bias"] if config.get("bias", True) else [])]
    weights = _read_weights(folder, *names)
    try:
        return Dense(weights["linear.weight"], weights.get("linear.bias"), activation)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{folder / WEIGHTS}: weight and bias are not those of one linear layer: {error}") from error


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


def _read_pooling(file: Path) -> EncoderPooling:
    """The pooling that a configuration switches on, in the classic flags or in the newer single field."""
    if not file.is_file():
        raise InputError(f"{file}: is missing; it should say how token vectors become a sentence vector")
    config = read_table(file)
    flags = [key for key, value in config.items() if key.startswith("pooling_mode_") and value]
    on = config.get("pooling_mode", flags)
    on = [on] if isinstance(on, str) else on
    names = {flag: name for name, flag in POOLING_FLAGS.items()} | {mode: name for name, mode in POOLING_MODES.items()}
    if not isinstance(on, list) or len(on) != 1 or str(on[0]) not in names:
        raise InputError(f"{file}: pooling {on}; supported is one of: {', '.join(POOLING_FLAGS)}")
    if config.get("include_prompt") is False:
        raise InputError(
            f"{file}: include_prompt = false is not supported. Load such a folder with SentenceTransformer"
        )
    return names[on[0]]


def read_table(file: Path, kind: Any = dict[str, Any]) -> dict[str, Any]:
    """A JSON object, as `kind` (see `values`); empty if the file is missing."""
    return read_json(file, kind) if file.is_file() else {}
