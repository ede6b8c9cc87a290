"""The small parts between encoder and losses: pooling (ships with the encoder), projector and token head (do not).

A pooling is one line of `POOLINGS`, under its name in `config.Pooling`.

Shape suffixes: R rows, T token positions, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
    layers_RTH = hidden_states(encoder, ids_RT, attention_RT, POOLINGS[how][0], packed=packed)
    return pool(tuple(at_least_float(layer) for layer in layers_RTH), attention_RT, how)


def at_least_float(x: Tensor) -> Tensor:
    """`x` in float32, or in float64 if it is: sums and losses need it, also under bf16 autocast."""
    return x if x.dtype == torch.float64 else x.float()


def pool(layers_RTH: tuple[Tensor, ...], mask_RT: Tensor, how: Pooling) -> Tensor:
    """h from the token vectors of the layers that `how` averages: (R, H).

    >>> first, last = torch.tensor([[[1.0], [3.0]]]), torch.tensor([[[5.0], [7.0]]])
    >>> pool((first, last), torch.tensor([[1, 1]]), "first_last").tolist()
    [[4.0]]
    """
    _, reduce = POOLINGS[how]
    vectors_RH = [reduce(layer_RTH, mask_RT) for layer_RTH in layers_RTH]
    return sum(vectors_RH[1:], vectors_RH[0]) / len(vectors_RH)


def _first(layer_RTH: Tensor, mask_RT: Tensor) -> Tensor:
    return layer_RTH[:, 0]


def _mean(layer_RTH: Tensor, mask_RT: Tensor) -> Tensor:
    """The mean over real tokens, special ones included, as in sentence-transformers."""
    weight_RT1 = mask_RT[:, :, None].to(layer_RTH.dtype)
    return (layer_RTH * weight_RT1).sum(1) / weight_RT1.sum(1)


def _max(layer_RTH: Tensor, mask_RT: Tensor) -> Tensor:
    """The largest number at each place of the real tokens' vectors."""
    return layer_RTH.masked_fill(mask_RT[:, :, None] == 0, -torch.inf).max(1).values


def _mean_sqrt_len(layer_RTH: Tensor, mask_RT: Tensor) -> Tensor:
    """The sum over real tokens, divided by the square root of their number."""
    return _mean(layer_RTH, mask_RT) * mask_RT.sum(1, keepdim=True).to(layer_RTH.dtype).sqrt()


def _weighted_mean(layer_RTH: Tensor, mask_RT: Tensor) -> Tensor:
    """The mean in which the first token counts once, the second twice, and so on."""
    return _mean(layer_RTH, mask_RT * torch.arange(1, mask_RT.shape[1] + 1, device=mask_RT.device))


def _last_token(layer_RTH: Tensor, mask_RT: Tensor) -> Tensor:
    return layer_RTH[torch.arange(layer_RTH.shape[0], device=mask_RT.device), mask_RT.sum(1) - 1]


POOLINGS: dict[str, tuple[tuple[int, ...], Callable[[Tensor, Tensor], Tensor]]] = {
    "cls": ((-1,), _first),
    "mean": ((-1,), _mean),
    "first_last": ((1, -1), _mean),
    "top2": ((-2, -1), _mean),
    "max": ((-1,), _max),
    "mean_sqrt_len": ((-1,), _mean_sqrt_len),
    "weighted_mean": ((-1,), _weighted_mean),
    "last_token": ((-1,), _last_token),
}
"""name -> (hidden states that are averaged, how each becomes one vector).

Hidden state 0 is the embeddings, 1 the first layer's output. SimCSE's evaluation.py and models.py mean 1 by "first";
older copies, DiffCSE's among them, mean 0."""


def projector(kind: Projector, width: int) -> nn.Module:
    """g: h -> z, both (R, width), for training only.

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
    """D's last layer: two logits per token, index 0 "original", index 1 "replaced"."""
    return nn.Linear(width, 2)


def fresh(build: Callable[[], Any], seed: int) -> Any:
    """`build()` with a random start decided by `seed` alone. torch's global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()
