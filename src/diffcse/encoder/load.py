"""A folder or hub id -> an encoder with the right pooling.

The wrong pooling costs tens of points and looks like a bad model. So it is read from the folder if the folder says it,
must be given if not, and is always part of the result.

The checkpoints published by SimCSE's and DiffCSE's authors do not say it. Trained without labels, both use [CLS]
without the head of training (`cls_before_pooler` in their evaluation.py). SimCSE trained with labels keeps its head
(`cls` there, "pooler" here). They are recognised by their weights or their names.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diffcse.config import EncoderPooling
from diffcse.encoder.encode import Encoder, position_limit
from diffcse.encoder.layout import Layout, read_layout, read_table
from diffcse.encoder.save import LIMITS, MODULES, WEIGHTS
from diffcse.errors import InputError
from diffcse.method.loading import load_encoder, load_tokenizer, may_have_pooler, named, read_vocabulary
from diffcse.method.tail import Dense
from diffcse.network import hub_or_cache, why_not_loaded


def load(source: str | Path, *, pooling: EncoderPooling | None = None) -> Encoder:
    """An encoder from one of our folders, a sentence-transformers folder, or a plain Hugging Face checkpoint.

    It runs on the GPU if there is one. The result's `note` says why it pools as it does.

    Args:
        source: a folder, "mini", or a hub id.
        pooling: overrides the folder's; required for a checkpoint that names none.

    Raises:
        InputError: nothing to load, weights that are not finite, a tokenizer that does not fit, a layout that is not an
            encoder with one pooling, or an unknown pooling.
    """
    layout = _find_layout(source, asked=pooling is not None)
    tokenizer = load_tokenizer(layout.transformer)
    read_vocabulary(tokenizer, masks=False)
    chosen = pooling or layout.pooling
    if chosen is None:
        raise InputError(
            f"{source}: a plain checkpoint does not say how token vectors become a sentence vector: "
            "choose with --pooling cls or --pooling mean"
        )
    if layout.lowercases and tokenizer.tokenize("A") != tokenizer.tokenize("a"):
        raise InputError(
            f"{layout.transformer / LIMITS}: do_lower_case is on, but the tokenizer keeps capitals; this is not "
            "supported. Load such a folder with SentenceTransformer"
        )
    model: Any = load_encoder(layout.transformer, pooler=chosen == "pooler" and (layout.pooler or True))
    check_model(source, model, tokenizer, layout)
    model.config.output_hidden_states = False  # each call that needs them asks for them
    if torch.cuda.is_available():
        model.cuda()
    most = position_limit(model, tokenizer)
    note = layout.note if pooling is None else "as asked for"
    return Encoder(
        model,
        tokenizer,
        chosen,
        min(layout.limit or most, most),
        layout.normalised,
        note,
        layout.tail.to(model.device),
        layout.settings,
    )


def _find_layout(source: str | Path, *, asked: bool) -> Layout:
    """Where the transformer of `source` is, and how it pools as far as that is known."""
    folder = named(source)
    is_local = folder.exists()
    if not is_local:
        folder = _fetch(str(source))
    is_run = (folder / "run.json").is_file()
    run = folder / "model" if is_run and (folder / "model").is_dir() else folder
    if not any((run / name).is_file() for name in ("config.json", MODULES, "adapter_config.json")):
        hint = ". The run in it has no model yet: finish it with diffcse train --resume" if is_run else ""
        raise InputError(f"{source}: no model folder: it has neither config.json nor {MODULES}{hint}")
    layout = read_layout(run) if (run / MODULES).is_file() else Layout(run)
    if layout.dense is not None and not may_have_pooler(layout.transformer):
        # By its shape alone the Dense layer could be the checkpoint's own head; this architecture has none.
        layout = replace(layout, pooling="cls", pooler=None, tail=nn.Sequential(layout.dense))
    if (layout.transformer / "adapter_config.json").is_file():
        raise InputError(
            f"{source}: holds a LoRA adapter without its encoder. Save the merged model "
            "(PeftModel.merge_and_unload, or diffcse.save)"
        )
    if not list(layout.transformer.glob("*.safetensors")):
        raise InputError(_no_safetensors(source, layout.transformer, is_local))
    return _recognise(layout, source, asked=asked) if layout.pooling is None else layout


def check_model(source: str | Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, layout: Layout) -> None:
    """Check that weights, tokenizer and pooling fit together.

    Raises:
        InputError: they do not.
    """
    if layout.depth not in (None, model.config.num_hidden_layers):
        raise InputError(
            f"{layout.transformer}: has {model.config.num_hidden_layers} layers, but its pooling is for {layout.depth}"
        )
    width = model.config.hidden_size
    for layer in layout.tail:
        if isinstance(layer, Dense):
            if layer.linear.in_features != width:
                raise InputError(
                    f"{source}: a Dense layer reads {layer.linear.in_features} numbers, but an embedding before it has "
                    f"{width}. Its folder belongs to another encoder"
                )
            width = layer.linear.out_features
    embedding: Any = model.get_input_embeddings()
    rows = len(embedding.weight)
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= rows:
        raise InputError(
            f"{source}: the tokenizer has the token id {largest}, but the embedding has only {rows} rows. Tokens were "
            "added to the tokenizer alone: call model.resize_token_embeddings(len(tokenizer)), train, and save both"
        )
    for name, weight in model.named_parameters():
        # The sum holds NaN or infinity if an element does. It is fast, but may overflow.
        if weight.is_floating_point() and not weight.sum().isfinite() and not weight.isfinite().all():
            raise InputError(
                f"{source}: the weight {name} holds NaN or infinity. Its training has most likely diverged: use an "
                "earlier checkpoint"
            )


def start_layout(source: str | Path) -> Layout:
    """What training must keep of the encoder it starts from: pooling, tail, limit and settings.

    A plain checkpoint states nothing: its layout has no pooling.

    Raises:
        InputError: as `load` raises it.
    """
    return _find_layout(source, asked=True)


def _fetch(hub_id: str) -> Path:
    """The folder of a hub id in the hub's cache, with settings, safetensors and card but no code and no pickles."""
    try:
        kinds = ["*.json", "*.txt", "*.model", "*.safetensors", "README.md"]
        with hub_or_cache():
            return Path(snapshot_download(hub_id, allow_patterns=kinds))
    except Exception as error:
        raise InputError(f"{hub_id}: there is no such folder here, and as a hub id: {why_not_loaded(error)}") from error


def _no_safetensors(source: str | Path, folder: Path, is_local: bool) -> str:
    """Why a folder without safetensors is not read, and what to do."""
    pickles = sorted(file.name for file in folder.glob("*.bin"))
    if is_local and not pickles:
        return f"{source}: cannot be loaded as encoder: it has no weights ({WEIGHTS})"
    # Other files of a hub repository were not downloaded, so it is not known what it has.
    name = pickles[0] if pickles else "pytorch_model.bin"
    what = (
        f"{name} is a pickle, which is not read" if pickles else f"perhaps it has a pickle ({name}), which is not read"
    )
    first = "" if pickles else f"Download it (hf download {source} --local-dir {Path(source).name}). "
    return (
        f"{source}: has no weights in safetensors; {what}. {first}Convert it in its folder: "
        'python -c "import torch, safetensors.torch as s; '
        f"s.save_file({{k: v.contiguous().clone() for k, v in torch.load('{name}', weights_only=True).items()}}, "
        f"'{WEIGHTS}', {{'format': 'pt'}})\""
    )


def _recognise(layout: Layout, source: str | Path, *, asked: bool) -> Layout:
    """`layout` with the pooling of a checkpoint by SimCSE's or DiffCSE's code; of other checkpoints, `layout` itself.

    Training folders of that code hold a model with heads ("BertForCL"): `mlp.dense` is SimCSE's head, `mlp.net`
    DiffCSE's projector. Its script for the hub renames `mlp` to `pooler`. Only the name of a SimCSE checkpoint says
    whether it was trained with labels.

    Raises:
        InputError: a SimCSE folder with another name, and no pooling was `asked` for.
    """
    folder = layout.transformer
    keys = _weight_names(folder)
    head = {f"dense.{name}": f"mlp.dense.{name}" for name in ("weight", "bias")}
    if set(head.values()) <= keys:
        weights = _all_weights(folder, set(head.values()))
        layout = replace(layout, pooler={ours: weights[theirs] for ours, theirs in head.items()})
    # In the hub's cache a folder is named by a hash; the checkpoint's name is two folders above.
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
    architectures = read_table(folder / "config.json").get("architectures")
    if not asked and (layout.pooler or "ForCL" in str(architectures)):
        raise InputError(
            f"{source}: a SimCSE training folder whose name does not say how it was trained. Trained without labels: "
            "choose --pooling cls ([CLS] before the head). With labels: --pooling pooler ([CLS] with its head)"
        )
    return layout


def _weight_names(folder: Path) -> set[str]:
    """Names of a checkpoint's weights, from the headers of its files; a damaged file is refused later, by name."""
    names: set[str] = set()
    for file in folder.glob("*.safetensors"):
        try:
            with safe_open(file, "pt") as weights:
                names |= set(weights.keys())
        except Exception:
            continue
    return names


def _all_weights(folder: Path, names: set[str]) -> dict[str, Tensor]:
    """The named weights, from any of a checkpoint's files."""
    weights: dict[str, Tensor] = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as stored:
            weights |= {name: stored.get_tensor(name) for name in names & set(stored.keys())}
    return weights
