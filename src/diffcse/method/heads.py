"""The small parts between encoder and losses: pooling (ships with the encoder), projector and token head (do not).

Shape suffixes: R rows, T token positions, H hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffcse.config import Pooling, Projector


def pool(hidden_RTH: Tensor, mask_RT: Tensor, how: Pooling) -> Tensor:
    """h from the last layer's token vectors, (R, H).

    `cls`: the vector at position 0. `mean`: the mean over the sentence's real tokens, special ones included, as
    sentence-transformers does it.
    """
    if how == "cls":
        return hidden_RTH[:, 0]
    weight_RT1 = mask_RT[:, :, None].to(hidden_RTH.dtype)
    return (hidden_RTH * weight_RT1).sum(1) / weight_RT1.sum(1)


def projector(kind: Projector, width: int) -> nn.Module:
    """g: h -> z, both (R, width). Needed in training only.

    `batchnorm`: Linear(H, 2H) - BatchNorm - ReLU - Linear(2H, H) - BatchNorm without affine weights (DiffCSE,
    section 3 and appendix; the design of SimSiam). `tanh`: Linear(H, H) - Tanh, SimCSE's. `none`: z = h.
    """
    if kind == "batchnorm":
        return nn.Sequential(
            nn.Linear(width, 2 * width, bias=False),
            nn.BatchNorm1d(2 * width),
            nn.ReLU(),
            nn.Linear(2 * width, width, bias=False),
            nn.BatchNorm1d(width, affine=False),
        )
    if kind == "tanh":
        return nn.Sequential(nn.Linear(width, width), nn.Tanh())
    return nn.Identity()


def token_head(width: int) -> nn.Linear:
    """D's last layer: two logits for each token, index 0 "original", index 1 "replaced"."""
    return nn.Linear(width, 2)


def fresh(build: object, seed: int) -> nn.Module:
    """`build()` with its random start decided by `seed` alone, leaving torch's global generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()  # type: ignore[operator]
