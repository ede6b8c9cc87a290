"""The small parts between encoder and losses: pooling (ships with the encoder), projector and token head (do not).

Shape suffixes: R rows, T token positions, H hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from diffcse.config import Pooling, Projector
from diffcse.method.fast import hidden_states, vectors_at


def pooled(
    encoder: PreTrainedModel, ids_RT: Tensor, attention_RT: Tensor, how: Pooling, *, packed: bool = True
) -> Tensor:
    """h = f(x), pooled: (R, H) in float32 or better.

    Args:
        packed: run without padding, if the encoder can.
    """
    if how == "cls":
        start_RT = torch.zeros_like(attention_RT, dtype=torch.bool)
        start_RT[:, 0] = True
        return at_least_float(vectors_at(encoder, ids_RT, attention_RT, start_RT, packed=packed))
    layers_RTH = hidden_states(encoder, ids_RT, attention_RT, _LAYERS[how], packed=packed)
    return pool(tuple(at_least_float(layer) for layer in layers_RTH), attention_RT, how)


_LAYERS: dict[str, tuple[int, ...]] = {"mean": (-1,), "first_last": (1, -1), "top2": (-2, -1)}
"""The hidden states that a pooling reads; they begin with the embeddings, so the first transformer layer's output is
number 1. That is what SimCSE's released code means by "first" since its evaluation.py and models.py say
`hidden_states[1]`; older copies, DiffCSE's among them, still say 0 and mean the embeddings."""


def at_least_float(x: Tensor) -> Tensor:
    """Sums and losses are computed in float32 or better, also under bf16 autocast."""
    return x if x.dtype == torch.float64 else x.float()


def pool(layers_RTH: tuple[Tensor, ...], mask_RT: Tensor, how: Pooling) -> Tensor:
    """h from the token vectors of the layers that `how` reads: (R, H).

    `cls`: the vector at position 0. `mean`: the mean over the sentence's real tokens, special ones included, as
    sentence-transformers does it. `first_last`: the same mean over the average of the first transformer layer's
    output and the last's. `top2`: over the average of the last two (SimCSE's avg_first_last and avg_top2).

    >>> first, last = torch.tensor([[[1.0], [3.0]]]), torch.tensor([[[5.0], [7.0]]])
    >>> pool((first, last), torch.tensor([[1, 1]]), "first_last").tolist()
    [[4.0]]
    """
    if how == "cls":
        return layers_RTH[-1][:, 0]
    means_RH = [_mean(layer_RTH, mask_RT) for layer_RTH in layers_RTH]
    return sum(means_RH[1:], means_RH[0]) / len(means_RH)


def _mean(layer_RTH: Tensor, mask_RT: Tensor) -> Tensor:
    weight_RT1 = mask_RT[:, :, None].to(layer_RTH.dtype)
    return (layer_RTH * weight_RT1).sum(1) / weight_RT1.sum(1)


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
