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
from diffcse.method.objective import DiffCSE


@dataclass(frozen=True)
class ConditionalGain:
    """D on held-out text, over all positions that could have been replaced."""

    own: float
    """Log-loss given each sentence's own embedding, nats a token."""
    shuffled: float
    """Log-loss given another sentence's embedding."""
    gain: float
    """`shuffled - own`."""
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
    if model.discriminator is None or model.choices.condition == "none":
        raise InputError("conditional gain needs a discriminator that is conditioned on the sentence embedding")
    sums = torch.zeros(4, dtype=torch.float64)  # own loss, shuffled loss, right answers, replaced tokens
    tokens = 0
    was_training = model.training
    model.eval()
    try:
        for step, batch in enumerate(batches):
            if len(batch["input_ids"]) < 2:
                raise InputError("conditional gain needs batches of at least two sentences to shuffle among")
            batch = _on_device(model, batch)
            edited, condition_RH = _edit_and_condition(model, batch, step)
            labels_N = edited.labels[edited.editable]
            losses = []
            for sentence_RH in (condition_RH, condition_RH.roll(1, 0)):
                logits_RT2 = model.discriminate(edited.ids, batch["attention_mask"], sentence_RH)
                logits_N2 = logits_RT2[edited.editable].float()
                losses.append(F.cross_entropy(logits_N2, labels_N, reduction="sum").item())
                if len(losses) == 1:
                    right = (logits_N2.argmax(-1) == labels_N).sum().item()
            sums += torch.tensor([*losses, right, labels_N.sum().item()], dtype=torch.float64)
            tokens += len(labels_N)
    finally:
        model.train(was_training)
    if tokens == 0:
        raise InputError("conditional gain: no token to judge")
    own, shuffled, right, replaced = (sums / tokens).tolist()
    return ConditionalGain(own, shuffled, shuffled - own, right, max(replaced, 1 - replaced), tokens)


@dataclass(frozen=True)
class JudgedToken:
    """One token of an edited sentence."""

    id: int
    """Token id in x″."""
    original: int
    """Token id in x."""
    replaced: bool
    """Whether G changed it."""
    probability: float
    """D's probability that it was replaced."""


@torch.no_grad()
def judge(model: DiffCSE, batch: Mapping[str, Tensor], *, step: int = 0) -> list[list[JudgedToken]]:
    """For each sentence of `batch`, its edited copy's real tokens with D's opinion of each (no dropout)."""
    batch = _on_device(model, batch)
    was_training = model.training
    model.eval()
    try:
        edited, condition_RH = _edit_and_condition(model, batch, step)
        logits_RT2 = model.discriminate(edited.ids, batch["attention_mask"], condition_RH)
    finally:
        model.train(was_training)
    probability_RT = logits_RT2.float().softmax(-1)[..., 1]
    columns = (edited.ids, batch["input_ids"], edited.labels, probability_RT, batch["attention_mask"])
    return [
        [JudgedToken(i, o, bool(r), p) for i, o, r, p, real in zip(*row, strict=True) if real]
        for row in zip(*(column.tolist() for column in columns), strict=True)
    ]


def _on_device(model: DiffCSE, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    device = next(model.parameters()).device
    return {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}


def _edit_and_condition(model: DiffCSE, batch: Mapping[str, Tensor], step: int) -> tuple[Edited, Tensor]:
    x_RT, attention_RT = batch["input_ids"], batch["attention_mask"]
    h_RH = model.embed(x_RT, attention_RT)
    condition_RH = model.condition(h_RH, model.projector(h_RH))
    assert condition_RH is not None
    edited = model.edit(x_RT, attention_RT, step=step, rows_R=torch.arange(len(x_RT), device=x_RT.device))
    return edited, condition_RH
