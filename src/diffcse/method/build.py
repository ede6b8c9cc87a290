"""Checkpoints or modules -> the one module that is trained, and its tokenizer."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diffcse.config import Method
from diffcse.errors import InputError
from diffcse.method import draws
from diffcse.method.adapters import add_lora, merged, unwrap
from diffcse.method.edits import Vocabulary
from diffcse.method.loading import (
    Source,
    check_same_vocabulary,
    check_vocabulary_size,
    load_causal_generator,
    load_encoder,
    load_generator,
    load_masked_lm,
    load_tokenizer,
    name_of,
    read_vocabulary,
    views_differ,
)
from diffcse.method.paper import DiffCSE


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
    tail: nn.Module | None = None,
) -> tuple[DiffCSE, PreTrainedTokenizerBase]:
    """The trainable module and its tokenizer.

    Each part is a module, a folder or a hub id; parts that are not given come from `config`. An encoder that PEFT has
    wrapped, or put an adapter into, trains that adapter alone.

    Args:
        pairs: training will use pairs, whose views need no dropout to differ.
        packed: run without padding, where the architectures can (see `method.fast`).
        tail: layers that follow the pooling, see `method.tail`.

    Raises:
        InputError: a part cannot be loaded, does not fit the others, or has an architecture that cannot be used.
    """
    encoder = unwrap(config.model if encoder is None else encoder)
    generator, discriminator = generator or config.generator, discriminator or config.discriminator
    causal_generator = causal_generator or config.causal_generator
    if tokenizer is None:
        if isinstance(encoder, PreTrainedModel):
            raise InputError("an encoder given as a module needs its tokenizer: pass tokenizer=")
        tokenizer = load_tokenizer(encoder)
    vocabulary = read_vocabulary(tokenizer, masks=config.difference == "mlm" or config.needs("masked"))
    f = _encoder(encoder, config, vocabulary, seed, need_dropout=config.positives != "next" and not pairs)
    d = g = causal = None
    if config.difference != "none":
        d = _discriminator(discriminator or encoder, config, vocabulary)
    trained = [part for part in (f, d) if part is not None]
    if config.needs("masked"):
        g = _generator(generator, encoder, vocabulary)
    if config.needs("causal"):
        causal = load_causal_generator(causal_generator or "")
        check_vocabulary_size(causal, vocabulary, "causal_generator")
    sources = {"discriminator": d and discriminator, "generator": g and generator}
    _check_vocabularies(tokenizer, encoder, {**sources, "causal_generator": causal and causal_generator})
    module = DiffCSE(
        f,
        vocabulary,
        config,
        generator=_apart(g, trained),
        causal_generator=_apart(causal, trained),
        discriminator=d,
        seed=seed,
        packed=packed,
        tail=tail,
    )
    return module, tokenizer


def _encoder(
    source: Source, config: Method, vocabulary: Vocabulary, seed: int, *, need_dropout: bool
) -> PreTrainedModel:
    """f, with its adapters and dropout."""
    f = load_encoder(source)
    if config.lora_rank is not None:
        f = add_lora(f, config.lora_rank, draws.key(seed, 3))
    check_vocabulary_size(f, vocabulary, "encoder")
    _set_dropout(f, config.dropout)
    if config.contrast and need_dropout and not views_differ(f):
        where = "its configuration" if config.dropout is None else "method.dropout"
        raise InputError(
            f"{name_of(source)}: {where} sets no dropout, or next to none, so the two views of a sentence would be "
            "equal and the contrastive loss would teach nothing. Set method.dropout = 0.1"
        )
    return f


def _discriminator(source: Source, config: Method, vocabulary: Vocabulary) -> PreTrainedModel:
    """D: an encoder, or a masked language model where it predicts tokens. A given module is copied."""
    if not isinstance(source, PreTrainedModel):
        d = load_encoder(source) if config.difference == "rtd" else load_masked_lm(source, "discriminator")
    elif config.difference != "rtd" and source.get_output_embeddings() is None:
        raise InputError(
            f'method.difference = "{config.difference}" needs a discriminator with a vocabulary head, and '
            f"{type(source).__name__} has none. Pass discriminator= a masked language model"
        )
    else:
        d = copy.deepcopy(merged(source)).requires_grad_(True)  # adapters are for f alone
    _set_dropout(d, config.dropout)
    check_vocabulary_size(d, vocabulary, "discriminator")
    return d


def _generator(source: Source | None, encoder: Source, vocabulary: Vocabulary) -> PreTrainedModel:
    """G, by default the encoder's checkpoint."""
    if source is None and isinstance(encoder, PreTrainedModel):
        raise InputError(
            "an encoder given as a module has no masked-language-model head to serve as generator. Pass generator= "
            "(a module, a folder or a hub id of a masked language model with the same vocabulary)"
        )
    g = load_generator(source or encoder)
    check_vocabulary_size(g, vocabulary, "generator")
    return g


def _check_vocabularies(
    tokenizer: PreTrainedTokenizerBase, encoder: Source, sources: Mapping[str, Source | None]
) -> None:
    """Compare the encoder's vocabulary with that of every other checkpoint."""
    for part, source in sources.items():
        if isinstance(source, str | Path) and source != encoder:
            check_same_vocabulary(tokenizer, load_tokenizer(source), name_of(encoder), f"{part} {source}")


def _apart(generator: Any, trained: Sequence[nn.Module]) -> Any:
    """The generator, or a copy if it shares weights with a trained network: freezing it would freeze that too."""
    weights = {id(p) for part in trained for p in part.parameters()}
    shares = generator is not None and any(id(p) in weights for p in generator.parameters())
    return copy.deepcopy(generator) if shares else generator


def _set_dropout(model: nn.Module, probability: float | None) -> None:
    if probability is not None:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = probability
