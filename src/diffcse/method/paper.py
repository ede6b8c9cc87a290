"""THE PAPER: DiffCSE's two losses, and the one module that is trained.

    L_contrast = mean_i −log( exp(cos(z_i, z_i⁺)/τ) / Σ_j exp(cos(z_i, z_j⁺)/τ) )         (equation 1, SimCSE's)
    x″ = G(m · x),  r = 1[x″ ≠ x]                                                          (equation 2)
    L_rtd      = cross-entropy of D's two logits for each token of x″, given z, against r  (equation 3)
    L          = L_contrast + λ · L_rtd                                                    (equation 4)

Chuang et al., DiffCSE: Difference-based Contrastive Learning for Sentence Embeddings, NAACL 2022, section 3.

Shape suffixes: B sentences, R rows (views in blocks of B), N rows that D judges, W tokens of a copy, H hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from diffcse.method.gather import ALONE, Ranks
from diffcse.method.heads import at_least_float
from diffcse.method.metrics import cosine_metrics, rtd_metrics
from diffcse.method.networks import Networks
from diffcse.method.tasks import LANGUAGE_MODEL_TASKS, judged_rows, rtd_weight
from diffcse.method.views import make_views


@dataclass(frozen=True)
class Terms:
    """One batch's losses and metrics."""

    total: Tensor
    """L, a scalar with gradient."""
    contrastive: Tensor | None
    """L_contrast in nats; None when `contrast` is off."""
    difference: Tensor | None
    """L_rtd without λ, or a language model's cross-entropy, in nats per token; None when `difference` is "none"."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Detached scalars, see `metrics.py`."""


def contrastive_loss(
    first_BH: Tensor,
    second_BH: Tensor,
    temperature: float,
    *,
    negative_BH: Tensor | None = None,
    negative_weight: float = 0.0,
    left_out: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """L_contrast, equation 1, in one direction: z_i (or anchors) against every z_j⁺ (or positives) of the batch.

    Args:
        negative_BH: hard negatives; they join the sum over j of every row.
        negative_weight: added to the logit of a row's own hard negative.
        left_out: (B, B), or (B, 2B) with hard negatives: columns that do not count in a row's sum.

    Returns:
        (loss in nats, cosines (B, B) or (B, 2B)); the diagonal holds the positives.

    >>> z = torch.eye(2)
    >>> loss, cosines = contrastive_loss(z, z, temperature=1.0)
    >>> round(loss.item(), 4)  # -log(e / (e + 1))
    0.3133
    """
    others_CH = second_BH if negative_BH is None else torch.cat([second_BH, negative_BH])
    first_BH, others_CH = at_least_float(first_BH), at_least_float(others_CH)
    cosines_BC = F.normalize(first_BH, dim=-1) @ F.normalize(others_CH, dim=-1).T
    logits_BC = cosines_BC / temperature
    own_B = torch.arange(len(first_BH), device=first_BH.device)
    if negative_BH is not None and negative_weight:
        own_negative = own_B, len(own_B) + own_B
        logits_BC = logits_BC.index_put(own_negative, logits_BC.new_tensor(negative_weight), accumulate=True)
    if left_out is not None:
        logits_BC = logits_BC.masked_fill(left_out, -torch.inf)
    return F.cross_entropy(logits_BC, own_B), cosines_BC


def symmetric_contrastive_loss(
    first_BH: Tensor, second_BH: Tensor, temperature: float, left_out_BB: Tensor | None = None
) -> Tensor:
    """The mean of L_contrast in both directions, for pairs of which neither side is the anchor; nats."""
    swapped_BB = None if left_out_BB is None else left_out_BB.T
    one_way, _ = contrastive_loss(first_BH, second_BH, temperature, left_out=left_out_BB)
    other_way, _ = contrastive_loss(second_BH, first_BH, temperature, left_out=swapped_BB)
    return (one_way + other_way) / 2


def rtd_loss(logits_NW2: Tensor, labels_NW: Tensor, counted_NW: Tensor, ranks: Ranks = ALONE) -> Tensor:
    """L_rtd, equation 3: mean cross-entropy over all counted positions in nats, 0 over none; for `ranks` see `gather`.

    >>> logits = torch.zeros(1, 3, 2)
    >>> round(rtd_loss(logits, torch.tensor([[0, 1, 0]]), torch.tensor([[True, True, False]])).item(), 4)  # log 2
    0.6931
    """
    logits_M2, labels_M = at_least_float(logits_NW2[counted_NW]), labels_NW[counted_NW]
    return F.cross_entropy(logits_M2, labels_M, reduction="sum") / ranks.per_process(len(labels_M))


class DiffCSE(Networks):
    """The module that is trained. `method.build.build` makes it from checkpoints."""

    def forward(self, batch: Mapping[str, Tensor], *, step: int, first_row: int = 0, progress: float = 1.0) -> Terms:
        """Both losses of one batch.

        Args:
            batch: `input_ids` and `attention_mask`, (B, T), padded on the right. Pairs add `positive_...` and perhaps
                `hard_negative_...` of both. `pairing` and `positives` need `next_...` of both, and `has_next` (B,).
                All these need `anchor_key` and the others' `..._key`: (B,) int64, equal where two sentences are.
            step: the batch's number in the run; with seed and row it decides masks and samples.
            first_row: number of this batch's first sentence in the global batch.
            progress: share of the run that is done, 0 to 1, for `rtd_schedule`.
        """
        config = self.choices
        contrastive = difference = None
        metrics: dict[str, Tensor] = {}
        views = make_views(self, batch, step=step, first_row=first_row)  # x; dropout makes two views differ
        h_RH = self.embed(views.ids_RT, views.attention_RT)  # h = f(x)
        z_RH = self.projector(self.ranks.gather(h_RH, views.size))  # z = g(h), of the whole batch
        total = z_RH.new_zeros(())
        if config.contrast:
            z_BH = z_RH.split(views.size * self.ranks.count)
            losses = [  # equation 1
                contrastive_loss(
                    z_BH[0],
                    z_BH[target.positive],
                    config.temperature,
                    negative_BH=None if target.negative is None else z_BH[target.negative],
                    negative_weight=config.hard_negative_weight,
                    left_out=target.left_out,
                )
                for target in views.targets
            ]
            contrastive = torch.stack([loss for loss, _ in losses]).mean()
            total = total + contrastive
            metrics |= cosine_metrics(losses[0][1][:, : len(z_BH[0])]) | views.metrics
        if config.difference != "none":
            x = judged_rows(self, batch, views, self.condition(h_RH, self.ranks.own(z_RH, views.size)), first_row)
            if config.difference == "rtd":
                edited = self.edit(x.ids_NT, x.attention_NT, step=step, rows_R=x.rows_N)  # equation 2
                logits_NW2 = self.discriminate(edited.ids, edited.attention, x.condition_NH)  # D(x″, z)
                difference = rtd_loss(logits_NW2, edited.labels, self.counted(edited.attention), self.ranks)  # (3)
                task_metrics = rtd_metrics(logits_NW2, edited)
            else:
                difference, task_metrics = LANGUAGE_MODEL_TASKS[config.difference](self, x, step)
            metrics |= task_metrics
            total = total + rtd_weight(config, progress) * difference  # equation 4
        return Terms(total, contrastive, difference, metrics)
