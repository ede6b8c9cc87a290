"""The network: fresh or given, and what happens to its weights after training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from diffcse.encoder.encode import position_limit
from diffcse.errors import InputError
from diffcse.method import draws
from diffcse.method.loading import load_masked_lm, named
from diffcse.pretraining.config import Pretraining
from diffcse.pretraining.tokens import Tokens

INIT_RANGE = 0.02  # standard deviation of fresh weights, in BERT and in GPT-2


def new_model(config: Pretraining, tokenizer: Tokenizer, tokens: Tokens) -> PreTrainedModel:
    """A model of the recipe's shape with fresh weights, which the seed decides. Input and output vectors are tied."""
    ids = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokens.prefix[0] if tokens.prefix else None,
        "eos_token_id": tokens.suffix[-1] if tokens.suffix else None,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draws.key(config.seed) >> 1)
        make = _gpt2 if config.objective == "causal" else _bert
        return make(config, ids | {"attn_implementation": _attention(), "initializer_range": INIT_RANGE})


def _attention() -> str:
    """On a CPU, the backward pass of the fused kernel takes a quarter of the step; plain products take little."""
    return "sdpa" if torch.cuda.is_available() else "eager"


def _bert(config: Pretraining, options: dict[str, Any]) -> PreTrainedModel:
    return BertForMaskedLM(
        BertConfig(
            hidden_size=config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=config.intermediate,
            hidden_act="gelu",
            hidden_dropout_prob=config.dropout,
            attention_probs_dropout_prob=config.dropout,
            max_position_embeddings=config.positions,
            **options,
        )
    )


def _gpt2(config: Pretraining, options: dict[str, Any]) -> PreTrainedModel:
    return GPT2LMHeadModel(
        GPT2Config(
            n_positions=config.positions,
            n_embd=config.width,
            n_layer=config.layers,
            n_head=config.heads,
            n_inner=config.intermediate,
            activation_function="gelu",
            resid_pdrop=config.dropout,
            embd_pdrop=config.dropout,
            attn_pdrop=config.dropout,
            **options,
        )
    )


def given_model(config: Pretraining, tokenizer: Tokenizer) -> PreTrainedModel:
    """The masked language model to continue from, with the recipe's dropout.

    Raises:
        InputError: it has no trained head, a head of an unknown kind, or too few positions.
    """
    assert config.model is not None
    model = load_masked_lm(named(config.model), "model to go on from")
    if not (hasattr(model, "cls") or hasattr(model, "lm_head")):
        raise InputError(
            f"model = {config.model}: {type(model).__name__} has a vocabulary head of an unknown kind. Give a model "
            "of BERT's or RoBERTa's kind"
        )
    limit = position_limit(model, tokenizer)
    if config.max_tokens > limit:
        raise InputError(f"max_tokens = {config.max_tokens}: {config.model} takes at most {limit} tokens")
    if not torch.cuda.is_available():
        model.set_attn_implementation(_attention())
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = config.dropout
    return model


def head_of(model: PreTrainedModel) -> nn.Module:
    """The module that makes logits of hidden states."""
    return cast(nn.Module, model.cls if hasattr(model, "cls") else model.lm_head)


@torch.no_grad()
def average_with(model: PreTrainedModel, start: Sequence[Tensor], share: float) -> None:
    """Replace each weight by (1 - share) times itself plus `share` times its value in `start`."""
    for weight, before in zip(model.parameters(), start, strict=True):
        weight.lerp_(before.to(weight), share)


@torch.no_grad()
def round_to_half(model: PreTrainedModel) -> None:
    """Round the weights to fp16, so that what is measured is what is stored.

    Raises:
        InputError: a weight is too large for fp16.
    """
    rounded = [p.half() for p in model.parameters()]
    if not all(value.isfinite().all() for value in rounded):
        raise InputError("a weight is too large for fp16: use --store fp32 with --resume")
    for parameter, value in zip(model.parameters(), rounded, strict=True):
        parameter.copy_(value)
