"""Checkpoints -> tokenizer, encoder, generators: loaded and checked.

A checkpoint that does not fit would train without complaint and score badly. So every source is checked here: one
vocabulary for all networks, trained heads, no weight left at a random start. Weights are read from safetensors only,
and no code of a checkpoint is run.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as hf_logging

from diffcse.config import Method
from diffcse.errors import InputError
from diffcse.method.edits import Vocabulary
from diffcse.network import check_spelling, hub_or_cache, why_not_loaded

MINI = Path(__file__).parent.parent / "assets" / "mini"
"""The bundled masked language model."""

# The generators of the paper, section 4.1; used if the hub or its cache has them.
_PAPER_GENERATORS = {
    "bert-base-uncased": "distilbert/distilbert-base-uncased",
    "google-bert/bert-base-uncased": "distilbert/distilbert-base-uncased",
    "roberta-base": "distilbert/distilroberta-base",
    "FacebookAI/roberta-base": "distilbert/distilroberta-base",
}

Source = str | Path | PreTrainedModel
"""A folder, a hub id, "mini", or a model in memory."""


# ---- tokenizers and vocabularies -------------------------------------------------------------------------------------


_UNUSUAL = "\ua66e \U00012000"
"""Letters of scripts that hardly any vocabulary has."""


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id.

    Raises:
        InputError: it cannot be loaded, pads on the left, or has no token for an unknown character.
    """
    tokenizer = _load(AutoTokenizer, source, "tokenizer")
    if tokenizer.padding_side != "right":
        raise InputError(
            f"{source}: the tokenizer pads on the {tokenizer.padding_side}, but position 0 must hold the first token. "
            'Set "padding_side": "right" in its tokenizer_config.json'
        )
    try:
        tokenizer(_UNUSUAL, truncation=True, max_length=8)  # without a length, the limit of its folder would count
    except Exception as error:  # the library raises plain exceptions
        raise InputError(
            f"{source}: the tokenizer fails at a character it does not know ({error}). Its unk_token, such as [UNK], "
            "must be in its vocabulary: restore tokenizer.json"
        ) from error
    return tokenizer


def read_vocabulary(tokenizer: PreTrainedTokenizerBase, *, masks: bool = True) -> Vocabulary:
    """The token ids that editing needs.

    Raises:
        InputError: the tokenizer has no padding token, or (if `masks`) no mask token.
    """
    for name in ["pad_token", *(["mask_token"] if masks else [])]:
        if getattr(tokenizer, name, None) is None:
            raise InputError(
                f"{tokenizer.name_or_path or 'tokenizer'}: has no {name}, which DiffCSE needs to mask and pad. "
                "Use the tokenizer of a masked language model"
            )
    return Vocabulary(
        size=len(tokenizer),
        mask=tokenizer.mask_token_id if masks else -1,
        special=tuple(tokenizer.all_special_ids),
        pad=tokenizer.pad_token_id,
    )


def check_vocabulary_size(model: PreTrainedModel, vocabulary: Vocabulary, part: str) -> None:
    """Check that every token id has an embedding in `model`.

    Raises:
        InputError: naming the `part`, if it has fewer.
    """
    rows = len(cast(Tensor, model.get_input_embeddings().weight))
    if rows < vocabulary.size:
        raise InputError(
            f"{part}: embeds {rows} tokens, but the encoder's tokenizer has {vocabulary.size}. "
            "Choose a model with the encoder's vocabulary"
        )


def check_same_vocabulary(
    one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase, one_name: str, other_name: str
) -> None:
    """Compare two vocabularies token by token.

    Raises:
        InputError: naming the first token id at which they differ.
    """
    first, second = ({index: token for token, index in t.get_vocab().items()} for t in (one, other))
    for index in sorted({*first, *second}):
        if first.get(index) != second.get(index):
            raise InputError(
                f"{other_name} and encoder {one_name} do not share a vocabulary: token id {index} is "
                f"{second.get(index)!r} there and {first.get(index)!r} here. Choose models made with one tokenizer"
            )


# ---- encoders --------------------------------------------------------------------------------------------------------


def load_encoder(source: Source, *, pooler: bool | Mapping[str, Tensor] = False) -> PreTrainedModel:
    """A bidirectional encoder in float32 and eval mode.

    By default it has no pooler head, because a freshly initialised pooler must never ship.

    Args:
        pooler: True keeps the checkpoint's own pooler head; weights ("dense.weight", "dense.bias") are put into it.

    Raises:
        InputError: it cannot be loaded, is not bidirectional, or lacks a trained pooler that was asked for.
    """
    model: Any = source if isinstance(source, PreTrainedModel) else _load_whole(source, pooler is True)
    if getattr(model.config, "is_encoder_decoder", False) or getattr(model.config, "is_decoder", False):
        raise InputError(f"{source}: a decoder. DiffCSE trains bidirectional encoders (BERT, RoBERTa, and others)")
    if pooler is False:
        if getattr(model, "pooler", None) is not None:
            model.pooler = None
    elif not has_pooler(model):
        raise InputError(
            f"{name_of(source)}: {type(model).__name__} has no pooler head of BERT's kind (a dense layer and tanh over "
            "position 0). Choose another pooling"
        )
    if isinstance(pooler, Mapping):
        try:
            model.pooler.load_state_dict({key: value.float() for key, value in pooler.items()})
        except RuntimeError as error:
            raise InputError(
                f"{name_of(source)}: the given weights do not fit its pooler head: {_first_line(error)}"
            ) from error
    model.eval()
    if not _reads_both_ways(model):
        raise InputError(
            f"{source}: a causal model: its first token does not see the others. DiffCSE trains bidirectional "
            "encoders (BERT, RoBERTa, and others)"
        )
    return model


def _load_whole(source: str | Path, pooler: bool) -> PreTrainedModel:
    """A checkpoint's encoder, all of whose weights (its pooler's, if `pooler`) are in the checkpoint."""
    model, info = _load(AutoModel, source, "encoder", dtype=torch.float32, output_loading_info=True)
    missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise InputError(
            f"{source}: not a complete encoder: {len(missing)} of its weights are not in the checkpoint "
            f"(first: {missing[0]})"
        )
    if pooler and info["missing_keys"]:
        raise InputError(
            f"{source}: its pooler head was not trained ({sorted(info['missing_keys'])[0]} is not in the "
            'checkpoint), so pooling "pooler" would use random numbers. Choose cls or mean'
        )
    return model


def may_have_pooler(folder: Path) -> bool:
    """Whether the architecture of a checkpoint can have a pooler head; True where the folder does not say."""
    try:
        kind: Any = AutoModel._model_mapping[type(AutoConfig.from_pretrained(folder))]
    except (OSError, ValueError, KeyError):
        return True
    return "add_pooling_layer" in inspect.signature(kind).parameters


def has_pooler(model: Any) -> bool:
    """Whether `model` has a pooler head of BERT's kind: tanh(dense(the vector at position 0))."""
    head = getattr(model, "pooler", None)
    dense, width = getattr(head, "dense", None), model.config.hidden_size
    return (
        isinstance(getattr(head, "activation", None), torch.nn.Tanh)
        and isinstance(dense, torch.nn.Linear)
        and dense.bias is not None
        and (dense.in_features, dense.out_features) == (width, width)
    )


@torch.no_grad()
def _reads_both_ways(model: PreTrainedModel) -> bool:
    """Whether the last token changes the vector at position 0, which no causal model allows."""
    ids = _some_ids(model)
    ids[1, -1] += 1
    first, second = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, 0]
    return not torch.equal(first, second)


@torch.no_grad()
def views_differ(model: PreTrainedModel) -> bool:
    """Whether the same sentence, twice in one batch, gets two embeddings in training mode."""
    ids = _some_ids(model)
    was_training = model.training
    with torch.random.fork_rng(devices=[]):
        first, second = model.train()(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    model.train(was_training)
    return not torch.equal(first, second)


def _some_ids(model: PreTrainedModel) -> torch.Tensor:
    """Two equal rows of ordinary token ids, from the middle of the vocabulary: (2, 4)."""
    rows = len(cast(Tensor, model.get_input_embeddings().weight))
    return torch.arange(rows // 2, rows // 2 + 4, device=model.device).expand(2, -1).clone()


# ---- language models -------------------------------------------------------------------------------------------------


def load_generator(source: Source) -> PreTrainedModel:
    """A masked language model for G, in float32 and eval mode (a model in memory stays as it is).

    Raises:
        InputError: it cannot be loaded, or its vocabulary head is not in the checkpoint.
    """
    return source if isinstance(source, PreTrainedModel) else load_masked_lm(source, "generator").eval()


_ADVICE = {
    "generator": (
        "Name a masked language model with the same vocabulary as method.generator (diffcse pretrain --tokenizer makes "
        'one), edit without one (method.edits = ["replace"]), or train without the difference term '
        '(method.difference = "none")'
    ),
    "discriminator": "Name one that has it as method.discriminator",
}


def load_masked_lm(source: str | Path, part: str) -> PreTrainedModel:
    """A masked language model in float32.

    Args:
        part: what it is for; decides the advice in the error.

    Raises:
        InputError: it cannot be loaded, or its vocabulary head is not in the checkpoint.
    """
    model, info = _load(AutoModelForMaskedLM, source, part, dtype=torch.float32, output_loading_info=True)
    if info["missing_keys"]:
        advice = _ADVICE.get(part, "Name one that has it, or name none to begin from scratch")
        raise InputError(
            f"{source}: has no trained masked-language-model head ({sorted(info['missing_keys'])[0]} is not in the "
            f"checkpoint), so it cannot be the {part}. {advice}"
        )
    return model


def load_causal_generator(source: Source) -> PreTrainedModel:
    """A causal language model in float32 and eval mode.

    Raises:
        InputError: it cannot be loaded, has no trained head, or its prediction depends on later tokens.
    """
    model: Any = source
    if not isinstance(source, PreTrainedModel):
        part = "causal_generator"
        model, info = _load(AutoModelForCausalLM, source, part, dtype=torch.float32, output_loading_info=True)
        if info["missing_keys"]:
            raise InputError(
                f"{source}: has no trained language-model head ({sorted(info['missing_keys'])[0]} is not in the "
                f"checkpoint), so it cannot be the {part}"
            )
    model.eval()
    ids = _some_ids(model)
    ids[1, -1] += 1
    with torch.no_grad():
        first, second = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, 0]
    if not torch.equal(first, second):
        raise InputError(
            f"{name_of(source)}: not a causal language model: its prediction depends on the tokens after it. Name one "
            "as method.causal_generator (diffcse pretrain --objective causal --recipe masked makes one)"
        )
    return model


def default_generator(model: str) -> str:
    """The generator for the checkpoint `model`: the paper's smaller one if it can be loaded, else `model` itself.

    A run records the answer and keeps it, because a hub can change.
    """
    small = _PAPER_GENERATORS.get(model)
    if small is None:
        return model
    try:
        _load(AutoTokenizer, small, "tokenizer")
        load_generator(small)
    except InputError:
        return model
    return small


# ---- names and files -------------------------------------------------------------------------------------------------


def name_of(source: Source) -> str:
    """The name of a source in messages."""
    return type(source).__name__ if isinstance(source, PreTrainedModel) else str(source)


def named(source: str | Path) -> Path:
    """`source` as a path, where the string "mini" is the bundled model.

    Raises:
        InputError: "mini" is also a folder here; or `source` is neither a folder here nor a possible hub id.
    """
    if source != "mini":  # the Path "mini" is a folder
        path = Path(source)
        if not _exists(path) and not _HUB_ID.fullmatch(str(source)):
            raise InputError(f"{source}: there is no such folder here, and as a hub id it would be NAME or OWNER/NAME")
        if not _exists(path):
            check_spelling(str(source))
        return path
    if Path("mini").exists():
        raise InputError('"mini" is the bundled model and also a folder here: write ./mini for the folder')
    return MINI


_HUB_ID = re.compile(r"([A-Za-z0-9_][\w.-]{,95}/)?[A-Za-z0-9_][\w.-]{,95}", re.ASCII)  # 96 is the hub's limit


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long for the file system, or with a NUL in it
        return False


def model_folders(config: Method) -> dict[str, Path]:
    """The local folders that a run reads networks from, by field; their content can change between runs."""
    sources = {name: getattr(config, name) for name in ("model", "generator", "discriminator", "causal_generator")}
    folders = {name: MINI if source == "mini" else Path(source) for name, source in sources.items() if source}
    return {name: folder for name, folder in folders.items() if _exists(folder) and folder.is_dir()}


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block, transformers prints no progress bars and no load reports."""
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()


def _load(kind: Any, source: str | Path, part: str, **options: Any) -> Any:
    """`kind.from_pretrained(source)` from a local folder, else from the hub; every failure is an `InputError`."""
    path = named(source)
    source = path.as_posix()
    local = path.exists()
    if local and not (path / "config.json").is_file():
        inside = f": give {source}/model" if (path / "model" / "config.json").is_file() else ""
        raise InputError(f"{source}: no model folder: it has no config.json{inside}")
    if kind is not AutoTokenizer:
        options = {"use_safetensors": True, "ignore_mismatched_sizes": True, **options}
    try:
        with quiet(), nullcontext() if local else hub_or_cache():
            loaded = kind.from_pretrained(source, trust_remote_code=False, **options)
    except Exception as error:
        if not local:
            raise InputError(
                f"{source}: cannot be loaded as {part}: there is no such folder here, and as a hub id: "
                f"{why_not_loaded(error)}"
            ) from error
        raise InputError(f"{source}: {_why_not_loaded(path, part, error)}") from error
    if options.get("output_loading_info"):
        _check_weights(path, loaded[1]["mismatched_keys"])
    return loaded


def _why_not_loaded(folder: Path, part: str, error: Exception) -> str:
    """What is wrong with a local folder that does not load."""
    try:
        AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as cause:  # the tokenizer is loaded first, and reads the configuration too
        return f"its config.json cannot be used: {_first_line(cause)}"
    pickles = [] if list(folder.glob("*.safetensors")) else [file.name for file in folder.glob("*.bin")]
    hint = (
        f"; weights are read from safetensors only, and {pickles[0]} is a pickle: convert it first" if pickles else ""
    )
    return f"cannot be loaded as {part}{hint}: {_first_line(error)}"


def _check_weights(folder: Path, mismatched: Iterable[tuple[str, Any, Any]]) -> None:
    """Refuse weights of another shape than config.json says, and integers, which from_pretrained rounds without a word.

    Raises:
        InputError: names the first such weight.
    """
    for name, stored, wanted in sorted(mismatched):
        raise InputError(
            f"{folder}: weights and config.json do not belong together: {name} has the shape {tuple(stored)}, and "
            f"config.json says {tuple(wanted)}. Restore the config.json that was saved with these weights"
        )
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - it is no dictionary
                kind = weights.get_slice(name).get_dtype()
                if name.endswith((".weight", ".bias")) and kind[0] in "IU":
                    raise InputError(
                        f"{file}: the weight {name} holds integers ({kind}), as in quantised models. Take the model "
                        "before it was quantised: only floating-point weights are read"
                    )


def _first_line(error: Exception) -> str:
    """The first line of an error, with the second if the first only announces it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(line.strip() for line in lines[: 2 if lines[0].endswith(":") else 1])
