"""Checkpoints -> the parts of the method.

Three networks must fit together before the first step: they share one vocabulary, G really has a trained
masked-language-model head, and no weight of theirs was left at a random start unnoticed. Each of these failures
would otherwise train without complaint and score badly, so they are checked here, once, for every source.

Weights are read from safetensors only and no code of a checkpoint is run.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import (
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
from diffcse.method import draws
from diffcse.method.adapters import add_lora, merged, unwrap
from diffcse.method.edits import Vocabulary
from diffcse.method.paper import DiffCSE

MINI = Path(__file__).parent.parent / "assets" / "mini"
"""The small masked language model that comes with the package."""

# The generators the paper pairs with its encoders (section 4.1); used when the hub or its cache has them.
_PAPER_GENERATORS = {
    "bert-base-uncased": "distilbert/distilbert-base-uncased",
    "google-bert/bert-base-uncased": "distilbert/distilbert-base-uncased",
    "roberta-base": "distilbert/distilroberta-base",
    "FacebookAI/roberta-base": "distilbert/distilroberta-base",
}

Source = str | Path | PreTrainedModel


def build(
    config: Method,
    *,
    seed: int = 42,
    encoder: Source | None = None,
    generator: Source | None = None,
    causal_generator: Source | None = None,
    discriminator: Source | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    pairs: bool = False,
    packed: bool = True,
) -> tuple[DiffCSE, PreTrainedTokenizerBase]:
    """The trainable module and its tokenizer.

    Each part may be given as a module, a folder or a hub id; what is not given comes from `config`. An encoder that
    PEFT has wrapped, or put an adapter into, trains that adapter alone.

    Args:
        pairs: it will be trained on pairs, so that views need no dropout to differ.
        packed: run without padding, where the architectures can (see `packing`).

    Raises:
        InputError: a part cannot be loaded, does not fit the others, or is of an architecture that cannot be used.
    """
    encoder = unwrap(config.model if encoder is None else encoder)
    if tokenizer is None:
        if isinstance(encoder, PreTrainedModel):
            raise InputError("an encoder given as a module needs its tokenizer: pass tokenizer=")
        tokenizer = load_tokenizer(encoder)
    vocabulary = read_vocabulary(tokenizer, masks=config.difference == "mlm" or config.needs("masked"))
    f = load_encoder(encoder)
    if config.lora_rank is not None:
        f = add_lora(f, config.lora_rank, draws.key(seed, 3))
    check_vocabulary_size(f, vocabulary, "encoder")
    _set_dropout(f, config.dropout)
    if config.contrast and config.positives != "next" and not pairs and not _views_differ(f):
        whose = "its configuration" if config.dropout is None else "method.dropout"
        raise InputError(
            f"{_name(encoder)}: runs without dropout, or next to none ({whose} says so), so the two views of a "
            "sentence would be equal and the contrastive loss would teach nothing: set method.dropout = 0.1"
        )
    trained = [f]
    d = None
    if config.difference != "none":
        start = discriminator or config.discriminator or encoder
        d = _discriminator(start, config)
        _set_dropout(d, config.dropout)
        check_vocabulary_size(d, vocabulary, "discriminator")
        trained.append(d)
    g = causal = None
    if config.needs("masked"):
        g = _apart(_generator(generator or config.generator, encoder), trained)
        check_vocabulary_size(g, vocabulary, "generator")
    if config.needs("causal"):
        causal = _apart(load_causal_generator(causal_generator or config.causal_generator or ""), trained)
        check_vocabulary_size(causal, vocabulary, "causal_generator")
    for part, model, source in (
        ("discriminator", d, discriminator or config.discriminator),
        ("generator", g, generator or config.generator),
        ("causal_generator", causal, causal_generator or config.causal_generator),
    ):
        if model is not None and isinstance(source, str | Path) and source != encoder:
            check_same_vocabulary(tokenizer, load_tokenizer(source), _name(encoder), f"{part} {source}")
    module = DiffCSE(
        f, vocabulary, config, generator=g, causal_generator=causal, discriminator=d, seed=seed, packed=packed
    )
    return module, tokenizer


def _discriminator(start: Source, config: Method) -> PreTrainedModel:
    """D: an encoder, or a masked language model where it has to say tokens."""
    if config.difference == "rtd":
        # A module given once cannot be both f and D: D starts as a copy of its weights.
        return _copy(start) if isinstance(start, PreTrainedModel) else load_encoder(start)
    if not isinstance(start, PreTrainedModel):
        return load_masked_lm(start, "discriminator")
    if start.get_output_embeddings() is None:
        raise InputError(
            f'method.difference = "{config.difference}" needs a discriminator with a vocabulary head, and '
            f"{type(start).__name__} has none: pass discriminator= a masked language model"
        )
    return _copy(start)


def _apart(generator: PreTrainedModel, trained: Sequence[PreTrainedModel]) -> PreTrainedModel:
    """G, or a copy of it if it was given as a module that holds what is trained: it must not be frozen with it."""
    theirs = {id(p) for part in trained for p in part.parameters()}
    return copy.deepcopy(generator) if any(id(p) in theirs for p in generator.parameters()) else generator


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub id, which must pad on the right."""
    tokenizer = _load(AutoTokenizer, source, "tokenizer")
    if tokenizer.padding_side != "right":
        raise InputError(
            f"{source}: its tokenizer pads on the {tokenizer.padding_side}; position 0 must hold the first token: "
            'set "padding_side": "right" in its tokenizer_config.json'
        )
    return tokenizer


def load_encoder(source: Source, *, pooler: bool | Mapping[str, Tensor] = False) -> PreTrainedModel:
    """An encoder in float32, eval mode, without a pooler head (a freshly initialised pooler must never ship).

    Args:
        pooler: keep the pooler head: the checkpoint's own, or one of these weights ("dense.weight", "dense.bias").

    Raises:
        InputError: it cannot be loaded, is not a bidirectional encoder, or has no trained pooler though one is wanted.
    """
    if isinstance(source, PreTrainedModel):
        model = source
    else:
        model, info = _load(AutoModel, source, "encoder", dtype=torch.float32, output_loading_info=True)
        missing = sorted(name for name in info["missing_keys"] if not name.startswith("pooler."))
        if missing:
            raise InputError(
                f"{source}: {len(missing)} of the encoder's weights are not in the checkpoint (first: {missing[0]}); "
                "it is not a complete encoder of this architecture"
            )
        if pooler is True and info["missing_keys"]:
            raise InputError(
                f"{source}: its pooler head was not trained ({sorted(info['missing_keys'])[0]} is not in the "
                'checkpoint), so pooling "pooler" would mean random numbers: choose cls or mean'
            )
    if getattr(model.config, "is_encoder_decoder", False) or getattr(model.config, "is_decoder", False):
        raise InputError(f"{source}: a decoder; DiffCSE trains bidirectional encoders (BERT, RoBERTa, ...)")
    if pooler is False:
        _drop_pooler(model)
    elif not has_pooler(model):
        raise InputError(
            f"{_name(source)}: {type(model).__name__} has no pooler head of BERT's kind (a dense layer and tanh over "
            "position 0): choose another pooling"
        )
    if isinstance(pooler, Mapping):
        _fill_pooler(model, pooler, _name(source))
    model.eval()
    if not _reads_both_ways(model):
        raise InputError(
            f"{source}: a causal model, whose first token sees none of the others; DiffCSE trains bidirectional "
            "encoders (BERT, RoBERTa, ...)"
        )
    return model


@torch.no_grad()
def _reads_both_ways(model: PreTrainedModel) -> bool:
    """Whether the last token changes what stands at the first: tells a causal model without knowing its family."""
    ids = _some_ids(model)
    ids[1, -1] += 1
    first, second = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, 0]
    return not torch.equal(first, second)


@torch.no_grad()
def _views_differ(model: PreTrainedModel) -> bool:
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


def _set_dropout(model: PreTrainedModel, probability: float | None) -> None:
    if probability is not None:
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = probability


def _name(source: Source) -> str:
    return type(source).__name__ if isinstance(source, PreTrainedModel) else str(source)


def load_generator(source: Source) -> PreTrainedModel:
    """A masked language model in float32 whose vocabulary head was really trained."""
    return source if isinstance(source, PreTrainedModel) else load_masked_lm(source, "generator").eval()


def load_masked_lm(source: str | Path, part: str) -> PreTrainedModel:
    """A masked language model in float32.

    Raises:
        InputError: its vocabulary head is not in the checkpoint; says what to do for this `part`.
    """
    model, info = _load(AutoModelForMaskedLM, source, part, dtype=torch.float32, output_loading_info=True)
    if info["missing_keys"]:
        fix = (
            "Name a masked language model with the same vocabulary as method.generator (diffcse pretrain --tokenizer "
            'makes one), edit without one (method.edits = ["replace"]), or train without the difference term '
            '(method.difference = "none")'
            if part == "generator"
            else "Name one that has it as method.discriminator"
            if part == "discriminator"
            else "Name one that has it, or none, to begin from scratch"
        )
        raise InputError(
            f"{source}: has no trained masked-language-model head ({sorted(info['missing_keys'])[0]} is not in the "
            f"checkpoint), so it cannot be the {part}. {fix}"
        )
    return model


def load_causal_generator(source: Source) -> PreTrainedModel:
    """A causal language model in float32, whose prediction at a position sees nothing beyond it."""
    if isinstance(source, PreTrainedModel):
        model = source
    else:
        model, info = _load(
            AutoModelForCausalLM, source, "causal_generator", dtype=torch.float32, output_loading_info=True
        )
        if info["missing_keys"]:
            raise InputError(
                f"{source}: has no trained language-model head ({sorted(info['missing_keys'])[0]} is not in the "
                "checkpoint), so it cannot be the causal_generator"
            )
    model.eval()
    ids = _some_ids(model)
    ids[1, -1] += 1
    with torch.no_grad():
        first, second = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, 0]
    if not torch.equal(first, second):
        raise InputError(
            f"{_name(source)}: not a causal language model: what it says of a token depends on the tokens after it. "
            "Name one as method.causal_generator (diffcse pretrain --objective causal "
            "--recipe masked makes one)"
        )
    return model


def _generator(wanted: Source | None, encoder: Source) -> PreTrainedModel:
    if wanted is None and isinstance(encoder, PreTrainedModel):
        raise InputError(
            "an encoder given as a module has no masked-language-model head to serve as generator: pass generator= "
            "(a module, a folder or a hub id of a masked language model with the same vocabulary)"
        )
    return load_generator(wanted or encoder)


def default_generator(model: str) -> str:
    """The generator that goes with the checkpoint `model`: the paper's small one if it can be had, else itself.

    What a hub has today it may not have tomorrow, so a run records the answer and keeps to it.
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


def read_vocabulary(tokenizer: PreTrainedTokenizerBase, *, masks: bool = True) -> Vocabulary:
    """The ids that editing needs.

    Raises:
        InputError: the tokenizer lacks a padding or (if `masks`) a mask token.
    """
    for name in ["pad_token", *(["mask_token"] if masks else [])]:
        if getattr(tokenizer, name, None) is None:
            raise InputError(
                f"{tokenizer.name_or_path or 'tokenizer'}: has no {name}, which DiffCSE needs to mask and pad: "
                "use a masked language model's tokenizer"
            )
    return Vocabulary(
        size=len(tokenizer),
        mask=tokenizer.mask_token_id if masks else -1,
        special=tuple(tokenizer.all_special_ids),
        pad=tokenizer.pad_token_id,
    )


def check_vocabulary_size(model: PreTrainedModel, vocabulary: Vocabulary, part: str) -> None:
    """Every token id must have an embedding."""
    rows = len(cast(Tensor, model.get_input_embeddings().weight))
    if rows < vocabulary.size:
        raise InputError(
            f"{part}: embeds {rows} tokens, but the encoder's tokenizer has {vocabulary.size}: "
            "generator and encoder must share one vocabulary"
        )


def check_same_vocabulary(
    one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase, one_name: str, other_name: str
) -> None:
    """Token by token.

    Raises:
        InputError: naming the first id at which the vocabularies differ.
    """
    first, second = ({index: token for token, index in t.get_vocab().items()} for t in (one, other))
    for index in sorted({*first, *second}):
        if first.get(index) != second.get(index):
            raise InputError(
                f"{other_name} and encoder {one_name} do not share a vocabulary: token id {index} is "
                f"{second.get(index)!r} there and {first.get(index)!r} here. Choose models made with one tokenizer"
            )


def _copy(model: PreTrainedModel) -> PreTrainedModel:
    twin = copy.deepcopy(merged(model))  # adapters are for f alone
    return twin.requires_grad_(True)


def _drop_pooler(model: Any) -> None:
    if getattr(model, "pooler", None) is not None:
        model.pooler = None


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


def _fill_pooler(model: Any, weights: Mapping[str, Tensor], name: str) -> None:
    try:
        model.pooler.load_state_dict({key: value.float() for key, value in weights.items()})
    except RuntimeError as error:
        raise InputError(f"{name}: the weights beside it do not fit its pooler head: {_first_line(error)}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block, transformers prints no bars and no load reports: what matters of them is checked here."""
    verbosity, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(verbosity)
        if bars:
            hf_logging.enable_progress_bar()


def named(source: str | Path) -> Path:
    """`source` as a path, with the name "mini" standing for the bundled model.

    Raises:
        InputError: a folder here has the name of the bundled model; or there is no such folder, and what is named
            cannot be of the hub either, which it takes long to hear from the hub.
    """
    if source != "mini":  # a Path of that name is a folder
        path = Path(source)
        if not _exists(path) and not _HUB_ID.fullmatch(str(source)):
            raise InputError(f"{source}: there is no such folder here, and as a hub id it would be NAME or OWNER/NAME")
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
    """The folders here that a run's networks are read from, by field; other weights may be in them tomorrow."""
    sources = {name: getattr(config, name) for name in ("model", "generator", "discriminator", "causal_generator")}
    folders = {name: MINI if source == "mini" else Path(source) for name, source in sources.items() if source}
    return {name: folder for name, folder in folders.items() if _exists(folder) and folder.is_dir()}


def _load(kind: Any, source: str | Path, part: str, **options: Any) -> Any:
    """`kind.from_pretrained(source)`: a local folder, else a hub id; every failure becomes an `InputError`."""
    path = named(source)
    source = path.as_posix()
    local = path.exists()
    if local and not (path / "config.json").is_file():
        inside = f": give {source}/model" if (path / "model" / "config.json").is_file() else ""
        raise InputError(f"{source}: no model folder: it has no config.json{inside}")
    if kind is not AutoTokenizer:
        options = {"use_safetensors": True, **options}
    try:
        with quiet():
            return kind.from_pretrained(source, trust_remote_code=False, **options)
    except Exception as error:
        reason = _first_line(error)
        if local:
            pickles = [file.name for file in path.glob("*.bin")]
            hint = (
                f"; weights are read from safetensors only, and {pickles[0]} is a pickle: convert it first"
                if pickles and not list(path.glob("*.safetensors"))
                else ""
            )
            raise InputError(f"{source}: cannot be loaded as {part}{hint}: {reason}") from error
        raise InputError(
            f"{source}: cannot be loaded as {part}: there is no such folder here, and as a hub id: {reason}"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
