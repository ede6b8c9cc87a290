"""What D is asked: which rows it sees with whose embedding, and the tasks other than replaced-token detection.

Replaced-token detection is the paper's own task and stands in `paper`. Here D is a language model conditioned on the
sentence embedding: it fills masks ("mlm"), or restores the original tokens of an edited copy ("corrective_lm").

Shape suffixes: N rows that D judges, W token positions, H hidden size, V vocabulary, M chosen positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from diffcse.config import Method
from diffcse.method.draws import row_numbers
from diffcse.method.edits import Draw, mask_tokens
from diffcse.method.fast import in_chunks, logits_at
from diffcse.method.heads import at_least_float
from diffcse.method.metrics import lm_metrics
from diffcse.method.networks import Networks
from diffcse.method.views import Views, stack, tokens


def rtd_weight(config: Method, progress: float) -> float:
    """λ when `progress` (0 to 1) of the run is done: constant, or rising from 0 as a line or half a cosine.

    >>> config = Method(rtd_weight=0.4, rtd_schedule="linear")
    >>> rtd_weight(config, 0.0), rtd_weight(config, 0.5), rtd_weight(config, 1.0)
    (0.0, 0.2, 0.4)
    """
    ramp = {"constant": 1.0, "linear": progress, "cosine": (1 - math.cos(math.pi * progress)) / 2}
    return config.rtd_weight * ramp[config.rtd_schedule]


class Judged(NamedTuple):
    """The rows that D judges, before they are edited."""

    ids_NT: Tensor
    attention_NT: Tensor
    condition_NH: Tensor | None
    """The embedding that D is conditioned on; None: plain ELECTRA."""
    rows_N: Tensor
    """Row numbers of their random draws."""


def judged_rows(
    model: Networks, batch: Mapping[str, Tensor], views: Views, condition_RH: Tensor | None, first_row: int
) -> Judged:
    """The rows that D judges, as `pairing` and (for pairs) `edit_columns` say.

    "same": the views of each sentence with their own embeddings. "next": the next sentence twice, with the embeddings
    of both views of this one; sentences without a next one are left out. "both": all of these.
    """
    size, device = views.size, views.ids_RT.device
    columns = model.choices.edit_columns if "positive_input_ids" in batch else "both"
    first, end = {"anchor": (0, 1), "positive": (1, 2), "both": (0, 2)}[columns]
    part = slice(size * first, size * end)
    rows_N = torch.cat([row_numbers(first_row, size, view, device) for view in range(first, end)])
    condition_NH = None if condition_RH is None else condition_RH[part]
    own = Judged(views.ids_RT[part], views.attention_RT[part], condition_NH, rows_N)
    if model.choices.pairing == "same":
        return own
    known_N = batch["has_next"].bool().repeat(2)
    next_NT, next_attention = (torch.cat([column] * 2)[known_N] for column in tokens(batch, "next_"))
    next_condition = None if condition_NH is None else condition_NH[known_N]
    # Views 3 and 4, so that a sentence is edited differently as itself and as a next sentence.
    next_rows = torch.cat([row_numbers(first_row, size, view, device) for view in (3, 4)])[known_N]
    after = Judged(next_NT, next_attention, next_condition, next_rows)
    if model.choices.pairing == "next":
        return after
    ids_NT, attention_NT = stack([own[:2], after[:2]], model.vocabulary.pad)
    both = None if condition_NH is None else torch.cat([condition_NH, condition_NH[known_N]])
    return Judged(ids_NT, attention_NT, both, torch.cat([rows_N, next_rows]))


def conditional_mlm(model: Networks, judged: Judged, step: int) -> tuple[Tensor, dict[str, Tensor]]:
    """D fills the masks of x′: (mean cross-entropy in nats, metrics)."""
    draw = Draw((model.seed, step), judged.rows_N)
    ratio = model.choices.mask_ratio
    masked_NT, chosen_NT = mask_tokens(judged.ids_NT, judged.attention_NT, model.vocabulary, ratio, draw)
    return restore(model, masked_NT, judged.attention_NT, judged.condition_NH, chosen_NT, judged.ids_NT)


def corrective_lm(model: Networks, judged: Judged, step: int) -> tuple[Tensor, dict[str, Tensor]]:
    """D names the original token at each editable position of x″: (mean cross-entropy in nats, metrics)."""
    edited = model.edit(judged.ids_NT, judged.attention_NT, step=step, rows_R=judged.rows_N)
    return restore(model, edited.ids, edited.attention, judged.condition_NH, edited.editable, edited.original)


LANGUAGE_MODEL_TASKS: dict[str, Callable[[Networks, Judged, int], tuple[Tensor, dict[str, Tensor]]]] = {
    "mlm": conditional_mlm,
    "corrective_lm": corrective_lm,
}


def restore(
    model: Networks,
    ids_NW: Tensor,
    attention_NW: Tensor,
    condition_NH: Tensor | None,
    where_NW: Tensor,
    tokens_NW: Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """D's mean cross-entropy on the tokens at `where_NW` (bool), in nats, with metrics.

    Over no positions it is 0, with a gradient of 0. With several processes, see `gather`: the own share times N.
    """

    def run(
        ids_NW: Tensor, attention_NW: Tensor, condition_NH: Tensor | None, where_NW: Tensor, tokens_NW: Tensor
    ) -> Tensor:
        """(summed cross-entropy, right answers) of a part: (1, 2). Its logits, a large tensor, are dropped here."""
        with model.conditioned(ids_NW, attention_NW, condition_NH) as (input_NW, mask_NW):
            input_where_NW = F.pad(where_NW, (input_NW.shape[1] - ids_NW.shape[1], 0))
            logits_MV = logits_at(model.discriminator, input_NW, mask_NW, input_where_NW, packed=model.packed)
        logits_MV, tokens_M = at_least_float(logits_MV), tokens_NW[where_NW]
        right = (logits_MV.argmax(-1) == tokens_M).sum()
        return torch.stack([F.cross_entropy(logits_MV, tokens_M, reduction="sum"), right.to(logits_MV.dtype)])[None]

    if len(ids_NW):
        columns = ids_NW, attention_NW, condition_NH, where_NW, tokens_NW
        sums_2 = in_chunks(run, model.mini_batch_size, *columns).sum(0)
    else:  # encoders fail on zero rows
        weight = model.discriminator.get_output_embeddings().weight
        unused = weight.sum() if condition_NH is None else weight.sum() + condition_NH.sum()
        sums_2 = unused * weight.new_zeros(2)
    count = where_NW.sum()
    loss = sums_2[0] / model.ranks.per_process(count)
    return loss, lm_metrics(sums_2[0] / count.clamp(min=1), sums_2[1], count)
