"""What a sentence's embedding knows of its edits: the figures only this method has.

RTD accuracy alone says little, because always answering "original" is right most of the time, and because D can
judge many tokens from their neighbours. **Conditional gain** isolates the embedding's part: D's log-loss on held-out
text when each sentence comes with another sentence's embedding, minus its log-loss with its own. Above zero, and
growing, the embedding tells D something about its sentence. No labels are needed.

Shape suffixes: R rows (one view), T token positions, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from diffcse.errors import InputError
from diffcse.method.edits import Edited
from diffcse.method.paper import DiffCSE


@dataclass(frozen=True)
class ConditionalGain:
    """D on held-out text, over all positions that could have been replaced."""

    own: float
    """Log-loss given each sentence's own embedding, nats a token."""
    shuffled: float
    """Log-loss given another sentence's embedding."""
    gain: float
    """`shuffled - own`."""
    standard_error: float
    """Of the gain, over sentences (tokens of one sentence are not independent)."""
    accuracy: float
    """Share of tokens judged rightly, given the own embedding."""
    majority: float
    """What always answering the commoner label would score."""
    tokens: int
    """Positions judged."""


@torch.no_grad()
def conditional_gain(model: DiffCSE, batches: Iterable[Mapping[str, Tensor]]) -> ConditionalGain:
    """Measure D with own and with shuffled embeddings on `batches` (input_ids, attention_mask), without dropout.

    Shuffled: every sentence gets its neighbour's embedding within the batch, so none keeps its own. Batches should
    hold sentences in random order: a neighbour from the same text would know something too.

    Raises:
        InputError: the model has no discriminator, is not conditioned, or a batch holds a single sentence.
    """
    if model.choices.pairing == "next":
        raise InputError(
            'conditional gain is of the sentence that is embedded, and with method.pairing = "next" D was trained to '
            "judge another one"
        )
    if model.choices.difference != "rtd" or model.choices.condition == "none":
        raise InputError(
            "conditional gain needs a discriminator that is conditioned on the sentence embedding: train with "
            'method.difference = "rtd", and method.condition = "projected" or "pooled"'
        )
    # Of each sentence: log-loss with its own embedding, with another's, right answers, replaced tokens, tokens.
    rows: list[Tensor] = []
    was_training = model.training
    model.eval()
    try:
        for step, batch in enumerate(batches):
            if len(batch["input_ids"]) < 2:
                raise InputError("conditional gain needs batches of at least two sentences to shuffle among")
            batch = _on_device(model, batch)
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
            rows.append(torch.stack([(column * edited.editable).double().sum(1) for column in columns], 1).cpu())
    finally:
        model.train(was_training)
    table_S5 = torch.cat(rows) if rows else torch.zeros(0, 5)
    tokens = table_S5[:, 4].sum()
    if tokens == 0:
        raise InputError("conditional gain: no token to judge")
    own, shuffled, right, replaced, _ = (table_S5.sum(0) / tokens).tolist()
    gain = shuffled - own
    # The gain is a ratio of sums over sentences; this is its linearised standard error.
    residual_S = table_S5[:, 1] - table_S5[:, 0] - gain * table_S5[:, 4]
    error = (residual_S.square().sum().sqrt() / tokens).item()
    return ConditionalGain(own, shuffled, gain, error, right, max(replaced, 1 - replaced), int(tokens))


@dataclass(frozen=True)
class JudgedToken:
    """One token of an edited sentence."""

    id: int
    """Token id in x″."""
    original: int
    """Token id in x; -1 for an inserted one."""
    replaced: bool
    """Whether the editor's trace stands here: replaced, inserted, or what followed x's token before is gone."""
    probability: float
    """D's probability that it was replaced."""


@torch.no_grad()
def judge(model: DiffCSE, batch: Mapping[str, Tensor], *, step: int = 0) -> list[list[JudgedToken]]:
    """For each sentence of `batch`, its edited copy's real tokens with D's opinion of each (no dropout).

    Raises:
        InputError: the model has no discriminator of edits.
    """
    if model.choices.difference != "rtd":
        raise InputError('judging tokens needs a discriminator of edits: train with method.difference = "rtd"')
    batch = _on_device(model, batch)
    was_training = model.training
    model.eval()
    try:
        edited, condition_RH = _edit_and_condition(model, batch, step)
        logits_RT2 = model.discriminate(edited.ids, edited.attention, condition_RH)
    finally:
        model.train(was_training)
    probability_RT = logits_RT2.float().softmax(-1)[..., 1]
    columns = (edited.ids, edited.original, edited.labels, probability_RT, edited.attention)
    return [
        [JudgedToken(i, o, bool(r), p) for i, o, r, p, real in zip(*row, strict=True) if real]
        for row in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _on_device(model: DiffCSE, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    device = next(model.parameters()).device
    return {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}


def _edit_and_condition(model: DiffCSE, batch: Mapping[str, Tensor], step: int) -> tuple[Edited, Tensor | None]:
    x_RT, attention_RT = batch["input_ids"], batch["attention_mask"]
    h_RH = model.embed(x_RT, attention_RT)
    condition_RH = model.condition(h_RH, model.projector(h_RH))
    edited = model.edit(x_RT, attention_RT, step=step, rows_R=torch.arange(len(x_RT), device=x_RT.device))
    return edited, condition_RH
