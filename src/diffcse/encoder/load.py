"""A folder or hub id -> an encoder with the right pooling.

Choosing the wrong pooling costs tens of points and looks like a bad model, so it is read from the folder where the
folder says it, must be asked for where it does not, and is always part of what is returned.

The checkpoints published by SimCSE's and DiffCSE's authors do not say it, and their poolings differ: without labels
both are meant to be used by [CLS] as it is, the head that stood over it in training thrown away (`cls_before_pooler`
in their evaluation.py); SimCSE trained with labels keeps its head (`cls` there, "pooler" here). They are recognised by
their weights where these tell, else by their names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from diffcse.config import EncoderPooling
from diffcse.encoder.encode import Encoder, position_limit
from diffcse.encoder.save import LIMITS, MODULES, POOLING_FLAGS, SETTINGS, TANH, WEIGHTS, layer_weights
from diffcse.errors import InputError
from diffcse.method.loading import load_encoder, load_tokenizer, named, read_vocabulary


@dataclass(frozen=True)
class _Layout:
    """What a folder says of itself; a plain checkpoint says only where it is."""

    transformer: Path
    pooling: EncoderPooling | None = None
    normalised: bool = False
    limit: int | None = None
    lowercases: bool = False
    depth: int | None = None
    """Number of layers that its pooling was made for."""
    pooler: Mapping[str, Tensor] | None = None
    """The pooler head's weights, where they stand beside the transformer's."""
    note: str = "as its folder says"
    """Why this pooling."""


def load(source: str | Path, *, pooling: EncoderPooling | None = None) -> Encoder:
    """An encoder from one of our folders, a sentence-transformers folder, or a plain Hugging Face checkpoint.

    It runs on the GPU where there is one. The result's `note` says why it pools as it does.

    Args:
        source: a folder, "mini", or a hub id.
        pooling: overrides what the folder says; needed for a checkpoint that says nothing.

    Raises:
        InputError: nothing there, not loadable, a layout that is not an encoder with one pooling, or the pooling is
            unknown.
    """
    folder = named(source)
    local = folder.exists()
    if not local:
        folder = _fetch(str(source))
    is_run = (folder / "run.json").is_file()
    run = folder / "model" if is_run and (folder / "model").is_dir() else folder
    if not any((run / name).is_file() for name in ("config.json", MODULES, "adapter_config.json")):
        hint = "; the run in it has not left a model yet: finish it with diffcse train --resume" if is_run else ""
        raise InputError(f"{source}: no model folder: it has neither config.json nor {MODULES}{hint}")
    layout = _read_layout(run) if (run / MODULES).is_file() else _Layout(run)
    transformer = layout.transformer
    if (transformer / "adapter_config.json").is_file():
        raise InputError(
            f"{source}: holds a LoRA adapter, not the encoder it belongs to: save the model that it makes of one "
            "(PeftModel.merge_and_unload), or with diffcse.save, which multiplies it out"
        )
    if not list(transformer.glob("*.safetensors")):
        raise InputError(_no_safetensors(source, transformer, local))
    if layout.pooling is None:
        layout = _recognise(layout, source, asked=pooling is not None)
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
    model: Any = load_encoder(transformer, pooler=chosen == "pooler" and (layout.pooler or True))
    if layout.depth not in (None, model.config.num_hidden_layers):
        raise InputError(
            f"{transformer}: has {model.config.num_hidden_layers} layers, but its pooling is for {layout.depth}"
        )
    model.config.output_hidden_states = False  # asked for in each call that needs them, and in no other
    if torch.cuda.is_available():
        model.cuda()
    most = position_limit(model, tokenizer)
    return Encoder(
        model,
        tokenizer,
        chosen,
        min(layout.limit or most, most),
        layout.normalised,
        layout.note if pooling is None else "as asked for",
    )


def stated_pooling(source: str | Path) -> EncoderPooling | None:
    """What a folder of this machine says of its pooling; None if it says nothing, or something `load` refuses."""
    folder = named(source)
    if not (folder / MODULES).is_file():
        return None
    try:
        return _read_layout(folder).pooling
    except InputError:
        return None


def _fetch(hub_id: str) -> Path:
    """The folder of a hub id, downloaded or from the hub's cache: settings and safetensors, no code, no pickles."""
    try:
        return Path(snapshot_download(hub_id, allow_patterns=["*.json", "*.txt", "*.model", "*.safetensors"]))
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{hub_id}: there is no such folder here, and as a hub id: {reason}") from error


def _no_safetensors(source: str | Path, folder: Path, local: bool) -> str:
    """Why a folder whose weights are a pickle, or that has none, is not read; with the command that mends it."""
    pickles = sorted(file.name for file in folder.glob("*.bin"))
    # Of a repository on a hub only what may be read was downloaded: what else it holds is not known.
    if local and not pickles:
        return f"{source}: cannot be loaded as encoder: it has no weights ({WEIGHTS})"
    name = pickles[0] if pickles else "pytorch_model.bin"
    what = f"{name} is a pickle" if pickles else f"perhaps it has a pickle ({name})"
    first = "" if pickles else f"download it (hf download {source} --local-dir {Path(source).name}), then "
    return (
        f"{source}: has no weights in safetensors; {what}: convert it, for none is read here. {first}in its folder: "
        'python -c "import torch, safetensors.torch as s; '
        f"s.save_file({{k: v.contiguous().clone() for k, v in torch.load('{name}', weights_only=True).items()}}, "
        f"'{WEIGHTS}', {{'format': 'pt'}})\""
    )


def _recognise(layout: _Layout, source: str | Path, *, asked: bool) -> _Layout:
    """`layout` with what can be told of a checkpoint published by SimCSE's or DiffCSE's authors, or trained by them.

    Their training folders hold a model with heads ("BertForCL"): SimCSE's head is `mlp.dense`, DiffCSE's projector
    `mlp.net`. Their script for the hub renames `mlp` to `pooler`. SimCSE trained with and without labels looks alike:
    only the name tells. Other checkpoints are left as they are.

    Raises:
        InputError: a SimCSE folder whose name does not tell, and no pooling was `asked` for.
    """
    folder = layout.transformer
    keys = _weight_names(folder)
    head = {f"dense.{name}": f"mlp.dense.{name}" for name in ("weight", "bias")}
    if set(head.values()) <= keys:
        found = _all_weights(folder, set(head.values()))
        layout = replace(layout, pooler={ours: found[theirs] for ours, theirs in head.items()})
    # In the hub's cache a folder's name is a hash, and the checkpoint's stands two folders above.
    cached = folder.parent.parent.name if folder.parent.name == "snapshots" else ""
    name = f"{Path(source).name} {cached}".lower()
    if "mlp.net.0.weight" in keys or "pooler.net.0.weight" in keys:
        return replace(layout, pooling="cls", note="DiffCSE, by its weights: [CLS] before the projector")
    if re.search(r"unsup[-_]simcse", name):
        return replace(layout, pooling="cls", note="SimCSE trained without labels, by its name: [CLS] before the head")
    if re.search(r"(?<![a-z])sup[-_]simcse", name):
        return replace(layout, pooling="pooler", note="SimCSE trained with labels, by its name: [CLS] with its head")
    if re.search(r"diffcse[-_](bert|roberta)\b.*[-_](sts|trans)\b", name):
        return replace(layout, pooling="cls", note="DiffCSE, by its name: [CLS] before the projector")
    architectures = _read_table(folder / "config.json").get("architectures")
    if not asked and (layout.pooler or "ForCL" in str(architectures)):
        raise InputError(
            f"{source}: a SimCSE training folder, whose name does not tell how it was trained: without labels, choose "
            "--pooling cls ([CLS] before the head); with labels, --pooling pooler ([CLS] with its head)"
        )
    return layout


def _weight_names(folder: Path) -> set[str]:
    """Names of a checkpoint's weights, read from the files' heads alone; a damaged file is left to be named later."""
    names: set[str] = set()
    for file in folder.glob("*.safetensors"):
        try:
            with safe_open(file, "pt") as weights:
                names |= set(weights.keys())
        except Exception:
            continue
    return names


def _all_weights(folder: Path, names: set[str]) -> dict[str, Tensor]:
    """The named weights, in whichever of a checkpoint's files they are."""
    found: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            found |= {name: weights.get_tensor(name) for name in names & set(weights.keys())}
    return found


_LAYOUTS = {
    ("Transformer", "Pooling"),
    ("Transformer", "WeightedLayerPooling", "Pooling"),
    ("Transformer", "Pooling", "Dense"),
}


def _read_layout(folder: Path) -> _Layout:
    """The layout of a sentence-transformers folder: one that `save` can have written, by whomever it was."""
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
            "layer after it. Load other layouts with SentenceTransformer itself"
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
    at = dict(zip(kinds, paths, strict=True))
    said: EncoderPooling = _read_pooling(at["Pooling"] / "config.json")
    depth = pooler = None
    if "WeightedLayerPooling" in at:
        if said != "mean":
            raise InputError(f"{at['Pooling'] / 'config.json'}: pooling {said} of two layers; supported is mean")
        said, depth = _read_layers(at["WeightedLayerPooling"])
    elif "Dense" in at:
        if said != "cls":
            raise InputError(f"{at['Pooling'] / 'config.json'}: pooling {said} before Dense; supported is cls")
        said, pooler = "pooler", _read_dense(at["Dense"])
    return _Layout(paths[0], said, normalised, limit, bool(limits.get("do_lower_case")), depth, pooler)


def _read_layers(folder: Path) -> tuple[EncoderPooling, int]:
    """(first_last or top2, number of layers) from a WeightedLayerPooling."""
    start = _read_table(folder / "config.json").get("layer_start")
    given = _read_weights(folder, "layer_weights")["layer_weights"].flatten().tolist()
    if type(start) is not int or start < 0:
        raise InputError(f"{folder / 'config.json'}: layer_start = {start!r}: must be a whole number, 0 or above")
    weights, depth = [0.0] * start + given, start + len(given) - 1
    # In an encoder of two layers both are the same; `save` starts them at different layers.
    names: list[EncoderPooling] = ["top2", "first_last"] if start else ["first_last", "top2"]
    for name in names:
        wanted = layer_weights(name, depth) if depth > 0 else []
        if sum(weights) > 0 and [w / sum(weights) for w in weights] == [w / sum(wanted) for w in wanted]:
            return name, depth
    raise InputError(
        f"{folder / WEIGHTS}: layer weights {weights}; supported are the average of the first and last layer and that "
        "of the last two. Load such a folder with SentenceTransformer itself"
    )


def _read_dense(folder: Path) -> dict[str, Tensor]:
    """The pooler head's weights from a Dense module that is one: with a bias, by tanh, as wide as the encoder."""
    config = _read_table(folder / "config.json")
    width = config.get("in_features")
    plain = {"bias": True, "activation_function": TANH, "out_features": width, "use_residual": False}
    plain |= {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
    odd = [key for key, value in plain.items() if config.get(key) not in (value, None)]
    if odd:
        raise InputError(
            f"{folder / 'config.json'}: Dense with {odd[0]} = {config[odd[0]]!r}; supported is one like a pooler head: "
            f"as wide as the encoder, with {TANH}. Load such a folder with SentenceTransformer itself"
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
    return cast(Literal["cls", "mean"], names[on[0]])


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
