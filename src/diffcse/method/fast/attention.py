"""Attention over packed sentences, and a model that runs with it.

Linear layers, activations and norms treat each token alone, so they run on the real tokens as one row (1, N). Only the
products of attention put each sentence into a row of its own. transformers accepts another attention function
(`AttentionInterface`), so no model is changed.

The last layer runs only for the tokens that are read: their queries, the feed-forward part, and a language model's
head. It still computes keys and values of all tokens.

Shape suffixes: see `layout`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import RLock
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from diffcse.method.fast import dropout as cheap
from diffcse.method.fast.layout import Layout, Spread
from diffcse.method.fast.memory import kept, recomputed_within

NAME = "diffcse_packed"
"""Name of the attention function in transformers' registry."""
PLAIN_WIDTH = 128
"""Up to this T, plain products beat the fused kernel on a CPU; beyond it, scores take too much memory."""
_VECTOR = 32
"""bf16 numbers in a vector register. torch's bf16 softmax gradient takes six times as long on shorter rows."""

LOCK = RLock()
"""Held while a model runs packed, because its configuration and hooks are visible to every thread."""


# ---- the attention function ------------------------------------------------------------------------------------------


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packing: Layout | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of one layer: query (1, A, N or M, D), key and value (1, A, N, D) -> (1, N or M, A, D).

    Args:
        sliding_window: a token attends to tokens fewer than this many positions away.

    Raises:
        NotImplementedError: the layer uses soft caps, sinks or a position bias.
    """
    assert packing is not None, "a model in packed attention was called with padded input"
    if any(kwargs.get(name) is not None for name in ("softcap", "s_aux", "position_bias")):
        raise NotImplementedError("attention with soft caps, sinks or a position bias")
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if query.shape[2] < len(packing.token_N):
        key, value = (x.view(1, -1, *key.shape[1::2]).transpose(1, 2) for x in packing.whole)
    # Rotary embeddings and norms can leave queries and keys in float32; stock attention would autocast all three.
    kind = autocast_dtype(query)
    query, key, value = (x if kind is None or x.dtype == torch.float64 else x.to(kind) for x in (query, key, value))
    width = packing.real_RT.shape[1]
    banned_RTT = _banned(packing, getattr(module, "is_causal", False), sliding_window)
    with torch.autocast(query.device.type, enabled=False):
        kernel = None if banned_RTT is not None else variable_length_kernel(query, dropout)
        if kernel is not None:
            q_MAD, k_NAD, v_NAD = (x[0].transpose(0, 1) for x in (query, key, value))
            edges = packing.edges(len(q_MAD)), packing.edges(len(k_NAD))
            return kernel(q_MAD, k_NAD, v_NAD, *edges, width, dropout, scaling)[None], None
        plain = query.device.type == "cpu" and width <= PLAIN_WIDTH
        run = _plain_products if plain else _fused
        return run(query, key, value, packing, banned_RTT, scaling, dropout), None


def _banned(packing: Layout, causal: bool, window: int | None) -> Tensor | None:
    """Pairs of positions that must not attend to each other, beyond padding; None: no such pairs."""
    width, device = packing.real_RT.shape[1], packing.real_RT.device
    if not causal and (window is None or window >= width):
        return None
    position_T = torch.arange(width, device=device)
    ahead_TT = position_T - position_T[:, None]
    banned_TT = torch.zeros_like(ahead_TT, dtype=torch.bool)
    if causal:
        banned_TT |= ahead_TT > 0
    if window is not None:
        banned_TT |= ahead_TT.abs() >= window
    # Padding attends to everything: a row that attends to nothing can come out as NaN.
    return (banned_TT | ~packing.real_RT[:, None, :]) & packing.real_RT[:, :, None]


def variable_length_kernel(query: Tensor, dropout: float) -> Callable[..., Tensor] | None:
    """A GPU kernel for sentences laid end to end, (N, A, D); None where the device or dtype has none.

    Arguments of the kernel: query, key, value, edges of the rows among queries and among keys, longest row, dropout,
    scaling. torch's own kernel has no dropout, so training uses flash-attn if it is installed.
    """
    if query.device.type != "cuda" or query.element_size() != 2 or query.shape[-1] % 8 or query.shape[-1] > 256:
        return None
    if torch.cuda.get_device_capability(query.device) < (8, 0):
        return None
    try:
        if dropout == 0:
            from torch.nn.attention.varlen import varlen_attn

            return lambda q, k, v, q_edges, k_edges, longest, _, scaling: cast(
                Tensor, varlen_attn(q * (scaling * q.shape[-1] ** 0.5), k, v, q_edges, k_edges, longest, longest)
            )
        from flash_attn import flash_attn_varlen_func

        return lambda q, k, v, q_edges, k_edges, longest, p, scaling: flash_attn_varlen_func(
            q, k, v, q_edges, k_edges, longest, longest, dropout_p=p, softmax_scale=scaling
        )
    except ImportError:
        return None


def _plain_products(
    query: Tensor, key: Tensor, value: Tensor, packing: Layout, banned_RTT: Tensor | None, scaling: float, p: float
) -> Tensor:
    if banned_RTT is None:
        banned_RTT = ~packing.real_RT[:, None, :]
    bias_RTT = torch.zeros_like(banned_RTT, dtype=query.dtype).masked_fill_(banned_RTT, torch.finfo(query.dtype).min)
    return _Products.apply(query, key, value, packing, bias_RTT, scaling, p)


class _Products(torch.autograd.Function):
    """softmax(q kᵀ · scaling + bias) v for every sentence and head, with the gathering around it.

    Written by hand, because autograd would keep and convert more tensors. This is the only padded copy of the batch.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, packing: Layout, bias: Tensor, scaling: float, p: float
    ) -> Tensor:
        rows, width = packing.real_RT.shape
        heads, size = query.shape[1], query.shape[3]
        from_q, to_q = packing.places(heads, query.shape[2])
        from_k, to_k = packing.places(heads, key.shape[2])
        q_BTD = _by_head(query).index_select(0, from_q).view(-1, width, size)
        k_BTD, v_BTD = (_by_head(x).index_select(0, from_k).view(-1, width, size) for x in (key, value))
        scores = torch.bmm(q_BTD, k_BTD.transpose(1, 2)).mul_(scaling)
        scores.view(rows, heads, width, width).add_(bias[:, None])
        weights = _softmax(scores)
        mask = cheap.keep(weights.shape, p) if p else None
        out = torch.bmm(weights if mask is None else cheap.apply(weights, mask, p), v_BTD).view(-1, size)
        ctx.save_for_backward(q_BTD, k_BTD, v_BTD, weights, mask)
        ctx.to, ctx.scaling, ctx.p, ctx.heads = (to_q, to_k), scaling, p, heads
        return out.index_select(0, to_q).view(1, -1, heads, size)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        q_BTD, k_BTD, v_BTD, weights, mask = ctx.saved_tensors
        heads, size, p = ctx.heads, q_BTD.shape[2], ctx.p
        to_q, to_k = ctx.to
        out = torch.zeros_like(q_BTD)
        out.view(-1, size).index_copy_(0, to_q, gradient.reshape(-1, size).to(out.dtype))
        dropped = weights if mask is None else cheap.apply(weights, mask, p)
        v_gradient = torch.bmm(dropped.transpose(1, 2), out)
        w_gradient = torch.bmm(out, v_BTD.transpose(1, 2))
        if mask is not None:
            w_gradient = cheap.apply(w_gradient, mask, p)
        s_gradient = _softmax_backward(w_gradient, weights).mul_(ctx.scaling)
        q_gradient = torch.bmm(s_gradient, k_BTD)
        k_gradient = torch.bmm(s_gradient.transpose(1, 2), q_BTD)
        back = [
            x.view(-1, size).index_select(0, to).view(1, -1, heads, size).transpose(1, 2)
            for x, to in ((q_gradient, to_q), (k_gradient, to_k), (v_gradient, to_k))
        ]
        return (*back, None, None, None, None)


def _softmax(scores: Tensor) -> Tensor:
    """Softmax by way of float32: on a CPU torch's bf16 kernel takes two to five times as long."""
    if scores.element_size() >= 4:
        return torch.softmax(scores, -1)
    return torch.softmax(scores, -1, dtype=torch.float32).to(scores.dtype)


def _softmax_backward(gradient: Tensor, weights: Tensor) -> Tensor:
    if weights.element_size() >= 4 or weights.shape[-1] >= _VECTOR:
        return torch._softmax_backward_data(gradient, weights, -1, weights.dtype)
    wide = torch._softmax_backward_data(gradient.float(), weights.float(), -1, torch.float32)
    return wide.to(weights.dtype)


def _by_head(x: Tensor) -> Tensor:
    """(1, A, N, D) -> (N * A, D)."""
    return x.transpose(1, 2).reshape(-1, x.shape[3])


def _fused(
    query: Tensor, key: Tensor, value: Tensor, packing: Layout, banned_RTT: Tensor | None, scaling: float, p: float
) -> Tensor:
    """The same result from torch's fused kernels, in memory proportional to T instead of its square."""
    rows, width = packing.real_RT.shape
    heads, size = query.shape[1], query.shape[3]
    token_M = packing.tokens(query.shape[2])
    q_RATD, k_RATD, v_RATD = (
        Spread.apply(x.transpose(1, 2).reshape(-1, heads * size), index, rows * width)
        .view(rows, width, heads, size)
        .transpose(1, 2)
        for x, index in ((query, token_M), (key, packing.token_N), (value, packing.token_N))
    )
    seen = (packing.real_RT[:, None, :] if banned_RTT is None else ~banned_RTT)[:, None]
    out = F.scaled_dot_product_attention(q_RATD, k_RATD, v_RATD, attn_mask=seen, dropout_p=p, scale=scaling)
    out_MH = out.transpose(1, 2).reshape(rows * width, heads * size).index_select(0, token_M)
    return out_MH.view(1, -1, heads, size)


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, lambda *_, **__: None)


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype of autocast on the device of `x`; None where autocast is off."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


# ---- a model that uses it --------------------------------------------------------------------------------------------


@contextmanager
def packed(model: PreTrainedModel, layout: Layout, projections: tuple[nn.Module, ...]) -> Iterator[None]:
    """Within the block `model` takes one packed row, and its last layer runs only for the tokens that are read.

    A recomputed layer runs again in the backward pass, after the block. It needs only the attention function then; a
    narrowed last layer would need its hooks too, so it is not recomputed.

    Args:
        projections: the modules that compute keys and values in the last layer; used if `layout.narrowed`.
    """
    with ExitStack() as stack:
        stack.enter_context(_attention_of(model))
        stack.enter_context(recomputed_within(model, lambda: _attention_of(model)))
        if layout.narrowed:
            last = cast(nn.ModuleList, layers(model))[-1]
            stack.enter_context(kept(last))
            stack.enter_context(_narrow(last, projections, layout))
        yield


@contextmanager
def _attention_of(model: PreTrainedModel) -> Iterator[None]:
    """Within the block `model` calls `packed_attention`."""
    config = model.config
    with LOCK:
        before = config._attn_implementation
        config._attn_implementation = NAME
        try:
            yield
        finally:
            config._attn_implementation = before


@contextmanager
def _narrow(last: nn.Module, projections: tuple[nn.Module, ...], layout: Layout) -> Iterator[None]:
    """Within the block the layer `last` runs for the M tokens that are read, with keys and values of all N.

    Keys and values of all tokens go through `layout.whole`, because the layer expects tensors as long as its input.
    """
    read_M, seen = cast(Tensor, layout.read_M), cast(list[Tensor], [])

    def select_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden_1NH = args[0] if args else kwargs["hidden_states"]
        seen[:], layout.whole[:] = [hidden_1NH], []
        some = hidden_1NH.index_select(1, read_M)
        return ((some, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": some})

    def project_all(_: nn.Module, args: tuple[Any, ...]) -> Any:
        return (seen[0], *args[1:])

    def keep_all(_: nn.Module, __: Any, out_1NH: Tensor) -> Tensor:
        layout.whole.append(out_1NH)
        return out_1NH[:, : len(read_M)]

    with ExitStack() as stack:
        stack.callback(layout.whole.clear)
        stack.callback(seen.clear)
        stack.callback(last.register_forward_pre_hook(select_input, with_kwargs=True).remove)
        for module in projections:
            stack.callback(module.register_forward_pre_hook(project_all).remove)
            stack.callback(module.register_forward_hook(keep_all).remove)
        yield


def layers(encoder: nn.Module) -> nn.ModuleList | None:
    """The encoder's list of `num_hidden_layers` layers; None if it has none (ALBERT repeats one shared layer)."""
    depth = getattr(encoder.config, "num_hidden_layers", None)
    return next((m for m in encoder.modules() if isinstance(m, nn.ModuleList) and len(m) == depth), None)
