"""The losses of a step, with their gradients: predicted tokens, next sentences, sums of token vectors.

The vocabulary's matrix is most of a small model, so it is multiplied at predicted positions only, and on a few of
them at a time.

A causal model predicts the token at position t from the hidden state at t - 1: `logits[:, :-1]` belongs to
`ids[:, 1:]`. Position 0 holds the tokenizer's start token, which is given.

Shape suffixes: R sentences of a group, T tokens, M predicted positions, B pairs of a step, H width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from diffcse.config import Pooling
from diffcse.method.fast import hidden_states
from diffcse.method.gather import ALONE, Ranks
from diffcse.method.heads import at_least_float, pool
from diffcse.method.paper import symmetric_contrastive_loss
from diffcse.pretraining.batches import Group
from diffcse.pretraining.models import head_of

_HEAD_ROWS = 448
"""Positions whose logits over the vocabulary are in memory at once."""

Placed = Sequence[tuple[Tensor, Group]]
"""Groups, each with the rows of the batch that it holds. Row i + B follows row i."""


def hidden_at(model: PreTrainedModel, group: Group) -> Tensor:
    """The last hidden states at the predicting positions: (M, H)."""
    return model.base_model(input_ids=group.inputs, use_cache=False).last_hidden_state[group.where]


def cross_entropy(model: PreTrainedModel, group: Group) -> tuple[Tensor, Tensor]:
    """(summed cross-entropy in nats, number of tokens that had the highest logit), without a gradient."""
    loss = right = torch.zeros((), device=group.targets.device)
    hidden_MH = hidden_at(model, group)
    for part_MH, targets_M in zip(hidden_MH.split(_HEAD_ROWS), group.targets.split(_HEAD_ROWS), strict=True):
        logits_MV = head_of(model)(part_MH).float()
        loss = loss + F.cross_entropy(logits_MV, targets_M, reduction="sum")
        right = right + (logits_MV.argmax(-1) == targets_M).sum()
    return loss, right


def backward(model: PreTrainedModel, group: Group, scale: float) -> Tensor:
    """Add the gradient of `scale` times the summed cross-entropy; return that sum, unscaled, in nats."""
    hidden_MH = hidden_at(model, group)
    gradient_MH, total = _through_head(model, hidden_MH, group.targets, scale)
    _backward([hidden_MH], [gradient_MH])
    return total


def _through_head(model: PreTrainedModel, hidden_MH: Tensor, targets_M: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """(gradient of `scale` times the summed cross-entropy by `hidden_MH`, that sum); the head gets its own gradient.

    Logits of all positions at once, with their gradient, would be far larger than all else and leave every cache.
    """
    cut_MH = hidden_MH.detach().requires_grad_()
    total = torch.zeros((), device=cut_MH.device)
    for part_MH, part_M in zip(cut_MH.split(_HEAD_ROWS), targets_M.split(_HEAD_ROWS), strict=True):
        loss = F.cross_entropy(at_least_float(head_of(model)(part_MH)), part_M, reduction="sum")
        _backward([loss * scale], [None])
        total += loss.detach()
    return torch.zeros_like(cut_MH) if cut_MH.grad is None else cut_MH.grad, total


def _backward(values: list[Tensor], gradients: list[Tensor | None]) -> None:
    with torch.autocast(values[0].device.type, enabled=False):  # autocast is for forward passes
        torch.autograd.backward(values, gradients)


@dataclass(frozen=True)
class SentenceLoss:
    """What is asked of a sentence embedding h, which is pooled from the last layer.

    The contrast is L_contrast both ways: its positive is the next sentence, its negatives are the batch's other next
    sentences. Beside it, 1 - cosine between h and the sum of the sentence's token vectors.
    """

    pooling: Pooling
    weight: float
    """Factor of the contrast."""
    sums_weight: float = 0.0
    """Factor of the mean of 1 - cosine."""
    temperature: float = 0.05
    """tau of the contrast."""

    def __call__(
        self, h_RH: Tensor, left_out_BB: Tensor | None, target_RH: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(weighted loss, contrast in nats, mean of 1 - cosine with `target_RH`).

        Args:
            h_RH: (2B, H); row i + B follows row i.
            left_out_BB: pairs (i, j) for which row j + B is not a negative of row i, nor row i one of row j + B.
            target_RH: the sums to point to; None: there are none.
        """
        first_BH, second_BH = h_RH.chunk(2)
        contrast = symmetric_contrastive_loss(first_BH, second_BH, self.temperature, left_out_BB)
        if target_RH is None:
            return contrast * self.weight, contrast, torch.zeros_like(contrast)
        apart = 1 - F.cosine_similarity(h_RH, target_RH, dim=-1).mean()
        return contrast * self.weight + apart * self.sums_weight, contrast, apart


def backward_with_next(
    model: PreTrainedModel,
    groups: Placed,
    sentence_loss: SentenceLoss,
    *,
    left_out_BB: Tensor | None = None,
    target_RH: Tensor | None = None,
    ranks: Ranks = ALONE,
) -> tuple[Tensor, Tensor, Tensor]:
    """Add the gradient of the masked tokens' mean cross-entropy plus `sentence_loss`.

    The sentence loss needs all sentences, so the activations of all groups are kept until it is computed. The
    vocabulary's logits are not kept.

    Args:
        left_out_BB: see `SentenceLoss`.
        target_RH: see `SentenceLoss`.
        ranks: processes, each of which runs its share of `groups`. Its gradient is that share times their number.

    Returns:
        (summed cross-entropy of the own groups in nats, contrast in nats, mean of 1 - cosine with `target_RH`).
    """
    predicted = sum(len(group.targets) for _, group in groups)
    total = torch.zeros((), device=groups[0][1].inputs.device)
    waiting, pooled = [], []
    own = groups[ranks.rank :: ranks.count]
    for rows_R, group in own:
        assert group.attention is not None
        (hidden_RTH,) = hidden_states(cast(PreTrainedModel, model.base_model), group.inputs, group.attention)
        pooled_RH = pool((at_least_float(hidden_RTH),), group.attention, sentence_loss.pooling)
        hidden_MH = hidden_RTH[group.where]
        gradient_MH, summed = _through_head(model, hidden_MH, group.targets, ranks.count / max(predicted, 1))
        total += summed
        waiting.append((rows_R, hidden_MH, gradient_MH, pooled_RH))
        pooled.append(pooled_RH.detach())
    h_RH = torch.zeros(sum(len(rows_R) for rows_R, _ in groups), model.config.hidden_size, device=total.device)
    for (rows_R, _), pooled_RH in zip(own, pooled, strict=True):
        h_RH = h_RH.to(pooled_RH.dtype).index_copy_(0, rows_R, pooled_RH)
    h_RH = ranks.summed(h_RH).requires_grad_()
    with torch.autocast(h_RH.device.type, enabled=False):
        loss, contrast, apart = sentence_loss(h_RH, left_out_BB, target_RH)
        loss.backward()
    for rows_R, hidden_MH, gradient_MH, pooled_RH in waiting:
        _backward([hidden_MH, pooled_RH], [gradient_MH, cast(Tensor, h_RH.grad)[rows_R] * ranks.count])
    return total, contrast.detach(), apart.detach()
