"""The networks of a run, checked against its recipe: what is trained, and the encoder in it that ships."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from diffcse.config import EDITS, Config
from diffcse.encoder.encode import Encoder, position_limit, use_bf16
from diffcse.encoder.load import stated_pooling
from diffcse.errors import InputError
from diffcse.files import model_sha256
from diffcse.method.build import build
from diffcse.method.edits import longest_copy
from diffcse.method.loading import default_generator, model_folders
from diffcse.method.paper import DiffCSE
from diffcse.record import Record
from diffcse.training.checkpoints import load_weights


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
    model, tokenizer = build(config.method, seed=training.seed, pairs=config.text.supervised, packed=training.packing)
    model.mini_batch_size = training.mini_batch_size
    if training.gradient_checkpointing:
        model.checkpoint_layers()
    limit = position_limit(model.encoder, tokenizer)
    _check_lengths(config, model, tokenizer, limit)
    encoder = Encoder(model.encoder, tokenizer, config.method.pooling, limit)
    return Network(model, tokenizer, encoder, use_bf16(training.precision), _warnings(config, model))


def reload_network(config: Config, parts: Path) -> DiffCSE | None:
    """The module of a complete run in eval mode; None if the run kept no training parts."""
    if not parts.is_file():
        return None
    training = config.training
    model, _ = build(config.method, seed=training.seed, pairs=config.text.supervised, packed=training.packing)
    load_weights(model.trained_state(), parts)
    return model.eval()


def _warnings(config: Config, model: DiffCSE) -> list[str]:
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
    stated = stated_pooling(method.model)
    if stated not in (None, method.pooling):
        remedy = f". --pooling {stated} keeps what it has learned" if stated != "pooler" else ""
        lines.append(f"method.pooling = {method.pooling}: {method.model} was made for {stated} pooling{remedy}")
    return lines


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
