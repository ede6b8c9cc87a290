"""What an embedding tells D about the edits of its sentence.

RTD accuracy alone says little: always answering "original" is right most of the time, and D can judge many tokens from
their neighbours. **Conditional gain** isolates the embedding's part. It is D's log-loss on held-out text with another
sentence's embedding, minus its log-loss with the own one. Above zero, the embedding tells D something about its
sentence. No labels are needed.

Shape suffixes: R rows (one view), T token positions, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from diffcse.errors import InputError
from diffcse.method.edits import Edited
from diffcse.method.paper import DiffCSE


@dataclass(frozen=True)
class ConditionalGain:
    """D's figures on held-out text, over all positions that could have been replaced."""

    own: float
    """Log-loss given each sentence's own embedding, in nats per token."""
    shuffled: float
    """Log-loss given another sentence's embedding."""
    gain: float
    """`shuffled - own`."""
    standard_error: float
    """Of the gain, over sentences (tokens of one sentence are not independent)."""
    accuracy: float
    """Share of tokens judged correctly, given the own embedding."""
    majority: float
    """Accuracy of always answering the commoner label."""
    tokens: int
    """Positions judged."""


@torch.no_grad()
def conditional_gain(model: DiffCSE, batches: Iterable[Mapping[str, Tensor]]) -> ConditionalGain:
    """Measure D with own and with shuffled embeddings on `batches` (input_ids, attention_mask), without dropout.

    Shuffled: every sentence gets the embedding of its neighbour in the batch. Batches should hold sentences in random
    order, because a neighbour from the same text would tell D something too.

    Raises:
        InputError: the model has no discriminator, is not conditioned, or a batch holds a single sentence.
    """
    if model.choices.pairing == "next":
        raise InputError(
            'conditional gain needs a D that judges the embedded sentence. With method.pairing = "next" it judges the '
            "next one"
        )
    if model.choices.difference != "rtd" or model.choices.condition == "none":
        raise InputError(
            "conditional gain needs a discriminator that is conditioned on the sentence embedding. Train with "
            'method.difference = "rtd", and method.condition = "projected" or "pooled"'
        )
    with _evaluating(model):
        rows = [_sums(model, batch, step) for step, batch in enumerate(batches)]
    table_S5 = torch.cat(rows) if rows else torch.zeros(0, 5)
    tokens = table_S5[:, 4].sum()
    if tokens == 0:
        raise InputError("conditional gain: no token to judge")
    own, shuffled, right, replaced, _ = (table_S5.sum(0) / tokens).tolist()
    gain = shuffled - own
    # Linearised standard error of a ratio of sums over sentences.
    residual_S = table_S5[:, 1] - table_S5[:, 0] - gain * table_S5[:, 4]
    error = (residual_S.square().sum().sqrt() / tokens).item()
    return ConditionalGain(own, shuffled, gain, error, right, max(replaced, 1 - replaced), int(tokens))


def _sums(model: DiffCSE, batch: Mapping[str, Tensor], step: int) -> Tensor:
    """Sums over each sentence's tokens: log-loss with own and other embedding, right answers, replaced, all: (R, 5)."""
    if len(batch["input_ids"]) < 2:
        raise InputError("conditional gain needs batches of at least two sentences to shuffle among")
    edited, condition_RH = _edit_and_condition(model, batch, step)
    assert condition_RH is not None
    logits_RT2, others_RT2 = (
        model.discriminate(edited.ids, edited.attention, sentence_RH).float()
        for sentence_RH in (condition_RH, condition_RH.roll(1, 0))
    )
    columns = (
        F.cross_entropy(logits_RT2.mT, edited.labels, reduction="none"),
        F.cross_entropy(others_RT2.mT, edited.labels, reduction="none"),
        logits_RT2.argmax(-1) == edited.labels,
        edited.labels,
        torch.ones_like(edited.labels),
    )
    return torch.stack([(column * edited.editable).double().sum(1) for column in columns], 1).cpu()


@dataclass(frozen=True)
class JudgedToken:
    """One token of an edited sentence."""

    id: int
    """Token id in x″."""
    original: int
    """Token id in x; -1 for an inserted one."""
    replaced: bool
    """r: replaced, inserted, or its predecessor was deleted."""
    probability: float
    """D's probability that it was replaced."""


@torch.no_grad()
def judge(model: DiffCSE, batch: Mapping[str, Tensor], *, step: int = 0) -> list[list[JudgedToken]]:
    """For each sentence of `batch`, the real tokens of its edited copy with D's probabilities (no dropout).

    Raises:
        InputError: the model has no discriminator of edits.
    """
    if model.choices.difference != "rtd":
        raise InputError('judging tokens needs a discriminator of edits. Train with method.difference = "rtd"')
    with _evaluating(model):
        edited, condition_RH = _edit_and_condition(model, batch, step)
        logits_RT2 = model.discriminate(edited.ids, edited.attention, condition_RH)
    probability_RT = logits_RT2.float().softmax(-1)[..., 1]
    columns = (edited.ids, edited.original, edited.labels, probability_RT, edited.attention)
    return [
        [JudgedToken(i, o, bool(r), p) for i, o, r, p, real in zip(*row, strict=True) if real]
        for row in zip(*(column.tolist() for column in columns), strict=True)
    ]


@contextmanager
def _evaluating(model: DiffCSE) -> Iterator[None]:
    """Within the block `model` is in eval mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _edit_and_condition(model: DiffCSE, batch: Mapping[str, Tensor], step: int) -> tuple[Edited, Tensor | None]:
    device = next(model.parameters()).device
    x_RT, attention_RT = batch["input_ids"].to(device), batch["attention_mask"].to(device)
    h_RH = model.embed(x_RT, attention_RT)
    condition_RH = model.condition(h_RH, model.projector(h_RH))
    edited = model.edit(x_RT, attention_RT, step=step, rows_R=torch.arange(len(x_RT), device=device))
    return edited, condition_RH
