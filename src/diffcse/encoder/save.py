"""What ships: the encoder alone, as a plain sentence-transformers folder that also loads in transformers.

No projector, discriminator or pooler head is written, and the sequence limit is the checkpoint's own, not that of
training. The folder has sentence-transformers' classic layout, which every release since 2.0 reads (modules with
weights: every release that reads safetensors). Every pooling consists of that library's modules, so loading needs no
code of ours:

- cls, mean: Transformer, Pooling
- first_last, top2: Transformer (set to return all layers), WeightedLayerPooling with weight 1 on two layers and 0 on
  the others, Pooling by mean
- pooler: Transformer, Pooling by cls, Dense with tanh: the checkpoint's own trained head
- Dense and Normalize layers of the encoder's tail follow, as they were read or made
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedTokenizerBase

from diffcse.config import EncoderPooling
from diffcse.encoder.encode import Encoder
from diffcse.encoder.settings import Settings
from diffcse.files import staged_folder, write_json, write_text
from diffcse.method.adapters import merged
from diffcse.method.loading import quiet
from diffcse.method.tail import Dense

MODULES = "modules.json"
LIMITS = "sentence_bert_config.json"
SETTINGS = "config_sentence_transformers.json"
WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer_config.json"
_LOADING_OPTIONS = ("backend", "is_local", "local_files_only")
TANH = "torch.nn.modules.activation.Tanh"

POOLING_MODES: dict[EncoderPooling, str] = {
    "cls": "cls",
    "mean": "mean",
    "max": "max",
    "mean_sqrt_len": "mean_sqrt_len_tokens",
    "weighted_mean": "weightedmean",
    "last_token": "lasttoken",
}
"""Our names for the poolings of one layer, and the library's."""
POOLING_FLAGS: dict[EncoderPooling, str] = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len": "pooling_mode_mean_sqrt_len_tokens",
    "weighted_mean": "pooling_mode_weightedmean_tokens",
    "last_token": "pooling_mode_lasttoken",
}
"""The flags of the classic layout for them."""
_OLDEST_FLAGS = ("cls", "mean", "max", "mean_sqrt_len")
"""Poolings that every release knows; flags of the others are written only if they are on."""


def save(encoder: Encoder, folder: Path, card: str) -> None:
    """Write `encoder` to `folder` in one indivisible step, `card` (Markdown) as its README.md.

    Adapters (LoRA) are merged into the written weights; `encoder` itself keeps them.

    The folder loads with `SentenceTransformer(folder)`, `AutoModel.from_pretrained(folder)` and `load(folder)`.

    Raises:
        InputError: the folder cannot be written (disk full, no permission).
    """
    encoder = replace(encoder, model=merged(encoder.model))
    with staged_folder(folder) as staging:
        with quiet():
            # A fast tokenizer would save the options of its last call, such as training's 32 tokens.
            backend = getattr(encoder.tokenizer, "backend_tokenizer", None)
            if backend is not None:
                backend.no_truncation()
                backend.no_padding()
            encoder.model.save_pretrained(staging)
            save_tokenizer(encoder.tokenizer, staging)
        write_layout(encoder, staging)
        write_text(staging / "README.md", card)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write `tokenizer` to `folder`, so that transformers 4 loads it too.

    Release 5 writes a tokenizer class that 4 does not have, and writes additional special tokens under a name that has
    another meaning in 4. Release 5 reads 4's names for both. The options of loading are left out.
    """
    tokenizer.save_pretrained(folder)
    file = folder / TOKENIZER
    values = json.loads(file.read_text(encoding="utf-8"))
    if values.get("tokenizer_class") == "TokenizersBackend":
        values["tokenizer_class"] = "PreTrainedTokenizerFast"
    if isinstance(values.get("extra_special_tokens"), list):
        values["additional_special_tokens"] = values.pop("extra_special_tokens")
    write_json(file, {name: value for name, value in values.items() if name not in _LOADING_OPTIONS})


def write_layout(encoder: Encoder, folder: Path) -> None:
    """Write to `folder`, which holds the transformer, how `encoder` makes embeddings with it."""
    kinds = _kinds(encoder)
    paths = ["", *(f"{index}_{kind}" for index, kind in enumerate(kinds) if index)]
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(zip(paths, kinds, strict=True))
    ]
    write_json(folder / MODULES, modules)
    first = kinds.index("Pooling") + 1 + (encoder.pooling == "pooler")
    for index, (path, kind) in enumerate(zip(paths, kinds, strict=True)):
        (folder / path).mkdir(exist_ok=True)
        if first <= index < first + len(encoder.tail):
            _write_tail(folder / path, encoder.tail[index - first])
        else:
            _write_module(folder / path, kind, encoder)
    write_json(folder / LIMITS, {"max_seq_length": encoder.max_tokens, "do_lower_case": False})
    write_json(folder / SETTINGS, _settings(encoder.settings))


def _settings(settings: Settings) -> dict[str, Any]:
    """The table of `SETTINGS`; what is not set is left out."""
    table: dict[str, Any] = {"similarity_fn_name": settings.similarity}
    if settings.prompts:
        table |= {"prompts": dict(settings.prompts), "default_prompt_name": settings.default_prompt}
    if settings.truncate_dim is not None:
        table["truncate_dim"] = settings.truncate_dim
    return table


def _kinds(encoder: Encoder) -> list[str]:
    """The modules of sentence-transformers that make up `encoder`, in order."""
    between = {"first_last": ["WeightedLayerPooling"], "top2": ["WeightedLayerPooling"]}.get(encoder.pooling, [])
    head = ["Dense"] if encoder.pooling == "pooler" else []
    after = [type(layer).__name__ for layer in encoder.tail]
    return ["Transformer", *between, "Pooling", *head, *after, *(["Normalize"] if encoder.normalised else [])]


def _write_module(folder: Path, kind: str, encoder: Encoder) -> None:
    width, config = int(encoder.model.config.hidden_size), folder / "config.json"
    if kind == "Pooling":
        special: dict[str, EncoderPooling] = {"pooler": "cls", "first_last": "mean", "top2": "mean"}
        how = special.get(encoder.pooling, encoder.pooling)
        flags = {flag: name == how for name, flag in POOLING_FLAGS.items() if name in (*_OLDEST_FLAGS, how)}
        write_json(config, {"word_embedding_dimension": width, **flags})
    elif kind == "WeightedLayerPooling":
        depth = encoder.model.config.num_hidden_layers
        weights = layer_weights(encoder.pooling, depth)
        start = {"first_last": 0, "top2": depth - 1}[encoder.pooling]
        write_json(config, {"word_embedding_dimension": width, "layer_start": start, "num_hidden_layers": depth})
        save_file({"layer_weights": torch.tensor(weights[start:])}, folder / WEIGHTS, metadata={"format": "pt"})
        # The Transformer module returns all layers only with this setting.
        transformer = json.loads((folder.parent / "config.json").read_text(encoding="utf-8"))
        write_json(folder.parent / "config.json", transformer | {"output_hidden_states": True})
    elif kind == "Dense":
        head: Any = encoder.model.pooler
        _write_dense(folder, head.dense, TANH)


def _write_tail(folder: Path, layer: nn.Module) -> None:
    if isinstance(layer, Dense):
        _write_dense(folder, layer.linear, layer.activation)


def _write_dense(folder: Path, linear: nn.Linear, activation: str) -> None:
    shape = {"in_features": linear.in_features, "out_features": linear.out_features, "bias": linear.bias is not None}
    write_json(folder / "config.json", shape | {"activation_function": activation})
    weights = {f"linear.{name}": value.detach().cpu().contiguous() for name, value in linear.state_dict().items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def layer_weights(pooling: str, depth: int) -> list[float]:
    """Weights of the embeddings and of `depth` layers in the average of "first_last" or "top2".

    >>> layer_weights("first_last", 4)
    [0.0, 1.0, 0.0, 0.0, 1.0]
    >>> layer_weights("top2", 4)
    [0.0, 0.0, 0.0, 1.0, 1.0]
    """
    averaged = {1, depth} if pooling == "first_last" else {depth - 1, depth}
    return [float(layer in averaged) for layer in range(depth + 1)]
