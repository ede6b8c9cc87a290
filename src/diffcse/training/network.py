"""The networks of a run, checked against its recipe: what is trained, and the encoder in it that ships."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from diffcse.config import EDITS, Config, EncoderPooling, Method, Pooling
from diffcse.encoder.encode import Encoder, position_limit, use_bf16
from diffcse.encoder.layout import Layout
from diffcse.encoder.load import check_model, start_layout
from diffcse.errors import InputError
from diffcse.files import model_sha256
from diffcse.method.build import build
from diffcse.method.edits import longest_copy
from diffcse.method.loading import default_generator, model_folders
from diffcse.method.paper import DiffCSE
from diffcse.record import Record
from diffcse.training.checkpoints import load_weights

_SAME = 0.999
"""Least cosine between two embeddings of one sentence, alone and in a batch."""


@dataclasses.dataclass(frozen=True)
class Network:
    """The module to train and what belongs to it."""

    model: DiffCSE
    tokenizer: PreTrainedTokenizerBase
    encoder: Encoder
    """Shares its weights with `model`."""
    bf16: bool
    warnings: list[str]


def with_generator(config: Config, begun: Record | None) -> Config:
    """`config` with the generator that it leaves to us: that of the run to resume, or the default one."""
    if config.method.generator is not None:
        return config
    if begun is not None:
        generator = begun.config["method"]["generator"]
    elif config.method.needs("masked"):
        generator = default_generator(config.method.model)
    else:
        generator = None
    return dataclasses.replace(config, method=dataclasses.replace(config.method, generator=generator))


def with_pooling(config: Config, begun: Record | None = None) -> Config:
    """`config` with the pooling that it leaves to us: that of the run to resume, else the start's, else [CLS].

    A start with a trained head keeps it if only a map is learned; its pooling then stays with its folder.
    """
    if config.method.pooling is not None:
        return config
    if begun is not None and begun.config.get("method", {}).get("pooling"):
        pooling = begun.config["method"]["pooling"]
    else:
        stated = start_layout(config.method.model).pooling
        with_head: Pooling | None = "cls" if config.method.learn == "weights" else None
        pooling = with_head if stated == "pooler" else stated or "cls"
    return dataclasses.replace(config, method=dataclasses.replace(config.method, pooling=pooling))


def models_sha256(config: Config) -> dict[str, str]:
    """Hash of each local folder that a network is read from, by field of the method."""
    folders = model_folders(config.method)
    hashes = {folder: model_sha256(folder) for folder in set(folders.values())}
    return {name: hashes[folder] for name, folder in folders.items()}


def build_network(config: Config) -> Network:
    """The networks of `config` with their start weights.

    Raises:
        InputError: a model cannot be read, or takes fewer tokens than training.max_tokens.
    """
    training = config.training
    start = start_layout(config.method.model)
    model, tokenizer = _build(config, start)
    model.mini_batch_size = training.mini_batch_size
    if training.gradient_checkpointing:
        model.checkpoint_layers()
    check_model(config.method.model, model.encoder, tokenizer, start)
    limit = position_limit(model.encoder, tokenizer)
    _check_lengths(config, model, tokenizer, limit)
    encoder = Encoder(
        model.encoder,
        tokenizer,
        config.method.pooling or "cls",
        min(start.limit or limit, limit),
        start.normalised,
        tail=start.tail,
        settings=start.settings,
    )
    _check_alone(config.method.model, encoder)
    return Network(model, tokenizer, encoder, use_bf16(training.precision), _warnings(config, model, start))


def _build(config: Config, start: Layout) -> tuple[DiffCSE, PreTrainedTokenizerBase]:
    training = config.training
    return build(
        config.method,
        seed=training.seed,
        pairs=config.text.supervised or config.method.positives == "crop",
        packed=training.packing,
        tail=start.tail,
    )


def _check_alone(source: str, encoder: Encoder) -> None:
    """Check that an embedding does not depend on the other sentences of its batch.

    Raises:
        InputError: it does, so that no score of this encoder can be trusted.
    """
    short, long = "A sentence.", "A longer sentence, so that the first one is padded beside it in a batch."
    alone, beside = encoder([short])[0], encoder([short, long])[0]
    cosine = float(alone @ beside / max(float(np.linalg.norm(alone) * np.linalg.norm(beside)), 1e-12))
    if cosine < _SAME:
        raise InputError(
            f"{source}: the embedding of a sentence depends on its neighbours in the batch: its cosine alone and "
            f"beside a longer one is {cosine:.3f}. The model ignores its attention mask and cannot be trained"
        )


def reload_network(config: Config, parts: Path) -> DiffCSE | None:
    """The module of a complete run in eval mode; None if the run kept no training parts."""
    if not parts.is_file():
        return None
    model, _ = _build(config, start_layout(config.method.model))
    load_weights(model.trained_state(), parts)
    return model.eval()


def _warnings(config: Config, model: DiffCSE, start: Layout) -> list[str]:
    """Settings that have no effect or a surprising one."""
    method, lines = config.method, []
    unused = config.unused()
    if unused:
        lines.append(f"{', '.join(unused)}: set, but without effect beside the other settings")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the record says the same
        lines += [f"{part} runs padded, which is slower: {why}" for part, why in model.padded().items()]
    if method.difference != "none" and method.condition == "none":
        lines.append(
            'method.condition = "none": D does not see the embedding (plain ELECTRA, for comparison), so the encoder '
            "learns from the contrastive loss alone"
        )
    return [*lines, *pooling_warnings(method, start.pooling)]


def pooling_warnings(method: Method, stated: EncoderPooling | None) -> list[str]:
    """A pooling of `method` that differs from the one that its model's folder states."""
    if method.pooling is None or stated in (None, method.pooling):
        return []
    remedy = f". --pooling {stated} keeps what it has learned" if stated != "pooler" else ""
    return [f"method.pooling = {method.pooling}: {method.model} was made for {stated} pooling{remedy}"]


def _check_lengths(config: Config, model: DiffCSE, tokenizer: PreTrainedTokenizerBase, limit: int) -> None:
    """Check that training sentences, and what edits add to them, fit the positions of every network."""
    method, tokens = config.method, config.training.max_tokens
    if tokens > limit:
        raise InputError(f"training.max_tokens = {tokens}: {method.model} takes at most {limit} tokens.")
    inserts = [name for name in method.edits if method.edits_sentences and EDITS[name].lengthens]
    inserted = longest_copy(tokens, method.mask_ratio) - tokens if inserts else 0
    prepended = int(method.difference != "none" and method.condition != "none" and method.inject == "prepend")
    why = " and ".join([*inserts[:1], *(["the prepended sentence embedding"] if prepended else [])])
    for part, added in (
        (model.encoder, inserted if method.edit_role != "difference" else 0),
        (model.discriminator, inserted + prepended),
        (model.generator, inserted),
        (model.causal_generator, 0),
    ):
        if part is not None and tokens + added > (most := position_limit(part, tokenizer)):
            raise InputError(
                f"training.max_tokens = {tokens}: {type(part).__name__} takes at most {most} tokens, but sentences can "
                f"have {tokens + added}{f' with {why}' if why else ''}. Lower max_tokens by {tokens + added - most}."
            )
