"""Metrics of one batch, beside its losses: detached scalars, never part of a gradient.

A share over no positions is NaN, never a made-up number.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from diffcse.method.edits import Edited


@torch.no_grad()
def cosine_metrics(cosines_BB: Tensor) -> dict[str, Tensor]:
    """Means of the cosines of positives (the diagonal) and of all other pairs."""
    size = len(cosines_BB)
    positive = cosines_BB.diagonal().mean()
    negative = (cosines_BB.sum() - cosines_BB.trace()) / max(size * (size - 1), 1)
    return {"positive_cosine": positive, "negative_cosine": negative}


@torch.no_grad()
def rtd_metrics(logits_NW2: Tensor, edited: Edited) -> dict[str, Tensor]:
    """D's accuracy and log-loss (nats) over the positions that could have been edited.

    `rtd_majority` is the accuracy of always answering the commoner label. Weight batches by `rtd_tokens`, and
    accuracies on edited tokens by `rtd_replaced`.
    """
    logits_M2, labels_M = logits_NW2[edited.editable].float(), edited.labels[edited.editable]
    right_M = (logits_M2.argmax(-1) == labels_M).float()
    replaced_M = labels_M.bool()
    share = replaced_M.float().mean()
    return {
        "rtd_tokens": replaced_M.new_tensor(len(labels_M), dtype=torch.long),
        "rtd_replaced": replaced_M.sum(),
        "rtd_accuracy": right_M.mean(),
        "rtd_accuracy_replaced": right_M[replaced_M].mean(),
        "rtd_accuracy_kept": right_M[~replaced_M].mean(),
        "rtd_majority": torch.maximum(share, 1 - share),
        "rtd_log_loss": F.cross_entropy(logits_M2, labels_M),
    }


def lm_metrics(loss: Tensor, right: Tensor, count: Tensor) -> dict[str, Tensor]:
    """Accuracy, log-loss (nats) and number of tokens of a conditional language model."""
    return {"lm_accuracy": right.detach() / count, "lm_log_loss": loss.detach(), "lm_tokens": count}
