"""What follows the pooling in an encoder: Dense and Normalize layers, in the order of a sentence-transformers folder.

Shape suffixes: R sentences, E numbers of an embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IDENTITY = "torch.nn.modules.linear.Identity"
ACTIVATIONS = {
    IDENTITY: nn.Identity,
    **{
        f"torch.nn.modules.activation.{kind.__name__}": kind
        for kind in (nn.Tanh, nn.ReLU, nn.GELU, nn.SiLU, nn.Sigmoid)
    },
}
"""The activations that a Dense layer may name. A name is looked up here and nothing is imported by it."""


class Dense(nn.Module):
    """A linear layer and an activation.

    Args:
        weight: (E out, E in).
        bias: (E out,), or None.
        activation: a name of `ACTIVATIONS`.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None, activation: str = IDENTITY) -> None:
        super().__init__()
        out, into = weight.shape
        self.linear = nn.Linear(into, out, bias=bias is not None)
        self.activation = activation
        self.apply_activation = ACTIVATIONS[activation]()
        with torch.no_grad():
            self.linear.weight.copy_(weight)
            if bias is not None:
                self.linear.bias.copy_(bias)
        self.requires_grad_(False)

    def forward(self, x_RE: Tensor) -> Tensor:
        return self.apply_activation(self.linear(x_RE))


class Normalize(nn.Module):
    """Scales each embedding to length 1."""

    def forward(self, x_RE: Tensor) -> Tensor:
        return F.normalize(x_RE, dim=-1)


def out_width(tail: nn.Module, width: int) -> int:
    """The dimension after `tail` of embeddings with dimension `width`."""
    for layer in tail.children():
        if isinstance(layer, Dense):
            width = layer.linear.out_features
    return width
