"""A copy of an encoder that multiplies in half precision.

Autocast alone casts the weights again for every batch. Here the weights of each linear layer are cast once and, on a
CPU, laid out as oneDNN reads them, which is another eighth faster. Residual stream, norms and pooling stay in float32:
this keeps cosines to the exact embeddings above 0.9999, at no measurable cost.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from diffcse.method.fast import copy_ability


def lowered(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A copy of `model`, without dropout, whose linear layers multiply in `dtype`; run it under autocast.

    It shares embeddings and norms with `model`, and has its own copy of the linear layers' present weights.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin: Any = copy.deepcopy(model, cast(dict[int, Any], shared)).eval()
    for parent in list(twin.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Linear:
                setattr(parent, name, _Linear(child, dtype))
    copy_ability(model, twin)
    return twin


class _Linear(nn.Linear):
    """A linear layer in half precision, with the attributes of the layer that it replaces."""

    def __init__(self, linear: nn.Linear, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.training, self.dtype = False, dtype
        low = linear.weight.detach().to(dtype)
        self.low_bias = None if linear.bias is None else linear.bias.detach().to(dtype)
        self.laid_out = _laid_out(low)
        self.low = low if self.laid_out is None else None

    def forward(self, input: Tensor) -> Tensor:
        x = input.to(self.dtype)
        if self.laid_out is not None:
            return torch.ops.mkldnn._linear_pointwise(x, self.laid_out, self.low_bias, "none", [], "")
        return F.linear(x, cast(Tensor, self.low), self.low_bias)


def _laid_out(weight: Tensor) -> Tensor | None:
    """`weight` in oneDNN's fastest layout, or None without oneDNN; torch's compiler uses the same two functions."""
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16 or not torch.backends.mkldnn.is_available():
        return None
    try:
        laid_out = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        torch.ops.mkldnn._linear_pointwise(weight.new_zeros(1, weight.shape[1]), laid_out, None, "none", [], "")
    except (AttributeError, RuntimeError):
        return None
    return laid_out
