"""Dropout with cheap masks on a CPU.

On a CPU, torch draws one Bernoulli number per element in one thread. In a small encoder that takes longer than the
matrix products between two dropouts. Here each element gets one byte and is dropped where the byte is below a
threshold. The threshold is drawn for each call, so that the probability is exact: for p = 0.1 it is 26 of 256 in six
calls of ten, else 25. The bytes come from NumPy's SFC64 (Doty-Humphrey), seeded from torch's generator. So whatever
seeds or restores that generator also decides the masks.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


class Dropout(nn.Dropout):
    """`nn.Dropout` with the same distribution and cheap masks on a CPU.

    >>> _ = torch.manual_seed(0)
    >>> half = Dropout(0.5)(torch.ones(10_000))
    >>> sorted(set(half.tolist())), round(half.mean().item(), 1)
    ([0.0, 2.0], 1.0)
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0 or input.device.type != "cpu":
            return super().forward(input)
        return _Dropped.apply(input, self.p)


def make_cheap(model: nn.Module) -> None:
    """Replace every `nn.Dropout` of `model` by `Dropout`, with the same probability and mode."""
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is nn.Dropout:
                cheap = Dropout(child.p)
                cheap.training = child.training
                setattr(module, name, cheap)


def keep(shape: torch.Size, p: float) -> Tensor:
    """A dropout mask, int16 on the CPU: all bits set where an element stays, no bit set where it is dropped."""
    seed, fraction = torch.empty(2, dtype=torch.int64).random_().tolist()
    below = math.floor(256 * p)
    below += fraction < (256 * p - below) * 2**63
    count = math.prod(shape)
    words = np.random.Generator(np.random.SFC64(seed)).integers(0, 2**64, -(-count // 8), dtype=np.uint64)
    mask = torch.from_numpy(words.view(np.uint8)[:count]).to(torch.int16)
    # Negative where the byte reaches the threshold; the shift copies the sign bit to all bits.
    return mask.neg_().add_(below - 1).bitwise_right_shift_(15).view(shape)


def apply(x: Tensor, mask: Tensor, p: float) -> Tensor:
    """`x` where `mask` keeps it, scaled by 1 / (1 - p); 0 elsewhere."""
    bits = _INTEGERS[x.element_size()]
    # A bitwise "and", because torch multiplies tensors of two dtypes many times slower.
    kept = x.contiguous().view(bits).bitwise_and(mask.to(bits)).view(x.dtype)
    return kept.mul_(1 / (1 - p)) if p < 1 else kept


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        mask = keep(x.shape, p)
        ctx.save_for_backward(mask)
        ctx.p = p
        return apply(x, mask, p)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return apply(gradient, ctx.saved_tensors[0], ctx.p), None
