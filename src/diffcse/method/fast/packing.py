"""Encoders without padding: the real tokens of a batch in one row, sentences apart in attention only.

A batch of sentences padded to its longest is a third padding. Linear layers, activations and norms treat every token
alone, so they are given the real tokens only, as one row (1, N); the products of attention, a small part of the work
for short sentences, put each sentence into its own row for as long as they last. transformers lets a model run with
another attention function (`AttentionInterface`), so no model is changed.

The last layer runs only where its output is read: its queries, its feed-forward part and whatever a language model's
head does with it. Keys and values it needs of every token.

Which models can do this is found out by trying, once for each model: both ways must give the same numbers. Where they
do not, or where an architecture has no such interface (MPNet, DeBERTa), the batch runs padded.

Shape suffixes: R rows (sentences), T token positions, N real tokens of all rows, M positions that are read, H width,
A attention heads, D width of a head.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import RLock
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from diffcse.method.fast import dropout as cheap
from diffcse.method.fast.memory import kept, recomputed_within

_NAME = "diffcse_packed"
_PLAIN_WIDTH = 128
"""Up to this many tokens plain products beat the fused attention kernel on a CPU; beyond, scores fill the memory."""
_VECTOR = 32
"""Rows shorter than this many bf16 numbers, one vector register, are no rows for torch's kernels: six times slower."""


# ---- where the tokens stand ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Layout:
    """Where the real tokens of a padded batch stand, and which of them are read."""

    real_RT: Tensor
    """Which positions hold real tokens, bool; the first of every row does."""
    token_N: Tensor
    """Their places in the flattened batch, row after row: r * T + t."""
    read_M: Tensor | None = None
    """Of the N tokens, the numbers of those whose last hidden state is read; None: all."""
    narrowed: bool = False
    """Whether the last layer gives the M tokens' hidden states only."""
    whole: list[Tensor] = field(default_factory=list)
    """All tokens' keys and values of a last layer that runs for M of them, each (1, N, A * D)."""
    rows_of: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)
    """`places`, computed once for all layers."""
    edges_of: dict[int, Tensor] = field(default_factory=dict)
    """`edges`, likewise."""

    @classmethod
    def of(cls, attention_RT: Tensor, where_RT: Tensor | None = None, *, narrowed: bool = False) -> Layout:
        """The layout of a batch padded on the right; `where_RT` (bool) are the positions that are read."""
        real_RT = attention_RT.bool()
        real_RT = torch.cat([torch.ones_like(real_RT[:, :1]), real_RT[:, 1:]], 1)
        token_N = real_RT.flatten().nonzero().squeeze(1)
        read_M = None if where_RT is None else where_RT[real_RT].nonzero().squeeze(1)
        # Some layers cannot run for no token at all.
        return cls(real_RT, token_N, read_M, narrowed and read_M is not None and 0 < len(read_M) < len(token_N))

    @cached_property
    def position_N(self) -> Tensor:
        """Each token's place in its sentence, from 0."""
        return self.token_N % self.real_RT.shape[1]

    @cached_property
    def start_R(self) -> Tensor:
        """The number of each row's first token among all N."""
        return (self.position_N == 0).nonzero().squeeze(1)

    @cached_property
    def row_N(self) -> Tensor:
        """The row each token stands in."""
        return self.token_N // self.real_RT.shape[1]

    def pad(self, x_NH: Tensor) -> Tensor:
        """Back to (R, T, H), zero where padding was."""
        return _Spread.apply(x_NH, self.token_N, self.real_RT.numel()).view(*self.real_RT.shape, -1)

    def tokens(self, count: int) -> Tensor:
        """The places of a layer's queries, of which there are N, or M in the last layer: (count,)."""
        whole = self.read_M is None or count == len(self.token_N)
        return self.token_N if whole else self.token_N[self.read_M]

    def edges(self, count: int) -> Tensor:
        """Where each row's queries begin among all `count`, and where the last ends: (R + 1,) int32."""
        if count not in self.edges_of:
            rows, width = self.real_RT.shape
            row_M = self.tokens(count) // width
            # Searched for, not counted: a GPU would be waited for to count.
            self.edges_of[count] = torch.searchsorted(row_M, torch.arange(rows + 1, device=row_M.device)).int()
        return self.edges_of[count]

    def places(self, heads: int, count: int) -> tuple[Tensor, Tensor]:
        """How attention's rows (R, A, T) are made of tokens' heads (N, A), and the other way: two index vectors.

        The first, of R * A * T, says which head of which token stands at each place; padding repeats its row's first
        token, which nobody reads. The second, of N * A (or M * A), says at which place each head of each token stands.
        """
        if (heads, count) not in self.rows_of:
            rows, width = self.real_RT.shape
            device = self.real_RT.device
            token_N = self.tokens(count)
            head_A = torch.arange(heads, device=device)
            row_N, position_N = token_N // width, token_N % width
            place_NA = (row_N[:, None] * heads + head_A) * width + position_N[:, None]
            numbers_RT = torch.zeros(rows * width, dtype=torch.long, device=device)
            numbers_RT[token_N] = torch.arange(len(token_N), device=device)
            if count == len(self.token_N):
                numbers_RT = torch.where(self.real_RT, numbers_RT.view(rows, width), self.start_R[:, None])
            source_RAT = numbers_RT.view(rows, 1, width) * heads + head_A[:, None]
            self.rows_of[heads, count] = source_RAT.flatten(), place_NA.flatten()
        return self.rows_of[heads, count]


class _Spread(torch.autograd.Function):
    """x (N, H) -> (places, H): row n at index_N[n], zeros elsewhere. No two rows share a place."""

    @staticmethod
    def forward(ctx: Any, x_NH: Tensor, index_N: Tensor, places: int) -> Tensor:
        ctx.save_for_backward(index_N)
        return x_NH.new_zeros(places, x_NH.shape[1]).index_copy_(0, index_N, x_NH)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient.index_select(0, ctx.saved_tensors[0]), None, None


# ---- attention -------------------------------------------------------------------------------------------------------


def _attention(
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
    """What transformers calls in each layer: query (1, A, N or M, D), key and value (1, A, N, D) -> (1, N or M, A, D).

    Args:
        sliding_window: a token sees others that are fewer than this many positions away.
    """
    assert packing is not None, "a model in packed attention was called with padded input"
    if any(kwargs.get(name) is not None for name in ("softcap", "s_aux", "position_bias")):
        raise NotImplementedError("an attention of another kind")  # seen when the model is tried out: it runs padded
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if query.shape[2] < len(packing.token_N):
        key, value = (x.view(1, -1, *key.shape[1::2]).transpose(1, 2) for x in packing.whole)
    # Rotations and norms leave queries and keys in float32, values not; autocast gives stock attention one type.
    kind = _autocast_dtype(query)
    query, key, value = (x if kind is None or x.dtype == torch.float64 else x.to(kind) for x in (query, key, value))
    width = packing.real_RT.shape[1]
    banned_RTT = None
    if getattr(module, "is_causal", False) or (sliding_window is not None and sliding_window < width):
        ahead_TT = torch.arange(width, device=query.device) - torch.arange(width, device=query.device)[:, None]
        banned_TT = torch.zeros_like(ahead_TT, dtype=torch.bool)
        if getattr(module, "is_causal", False):
            banned_TT |= ahead_TT > 0
        if sliding_window is not None:
            banned_TT |= ahead_TT.abs() >= sliding_window
        # Padding sees everything: a row that saw nothing could come out as NaN.
        banned_RTT = (banned_TT | ~packing.real_RT[:, None, :]) & packing.real_RT[:, :, None]
    with torch.autocast(query.device.type, enabled=False):
        kernel = None if banned_RTT is not None else _variable_length_kernel(query, dropout)
        if kernel is not None:
            q_MAD, k_NAD, v_NAD = (x[0].transpose(0, 1) for x in (query, key, value))
            edges = packing.edges(len(q_MAD)), packing.edges(len(k_NAD))
            return kernel(q_MAD, k_NAD, v_NAD, *edges, width, dropout, scaling)[None], None
        plain = query.device.type == "cpu" and width <= _PLAIN_WIDTH
        run = _plain_products if plain else _fused
        return run(query, key, value, packing, banned_RTT, scaling, dropout), None


def _variable_length_kernel(query: Tensor, dropout: float) -> Callable[..., Tensor] | None:
    """Attention that takes sentences end to end, (N, A, D), as GPUs have it; None where there is none.

    It is called with query, key, value, the rows' edges among queries and among keys, the longest row, dropout and
    scaling. Torch's own has no dropout, so in training flash-attn's is used, if that is installed.
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
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packing: Layout,
    banned_RTT: Tensor | None,
    scaling: float,
    dropout: float,
) -> Tensor:
    if banned_RTT is None:
        banned_RTT = ~packing.real_RT[:, None, :]
    bias_RTT = torch.zeros_like(banned_RTT, dtype=query.dtype).masked_fill_(banned_RTT, torch.finfo(query.dtype).min)
    return _Products.apply(query, key, value, packing, bias_RTT, scaling, dropout)


class _Products(torch.autograd.Function):
    """softmax(q kᵀ · scaling + bias) v for every sentence and head, with the gathering around it.

    Written out because autograd would keep and convert more than is needed: this is the one place where a padded copy
    of the batch exists.
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
    """By way of float32 where scores are narrower: on a CPU torch's kernel for bf16 takes two to five times as long."""
    if scores.element_size() >= 4:
        return torch.softmax(scores, -1)
    return torch.softmax(scores, -1, dtype=torch.float32).to(scores.dtype)


def _softmax_backward(gradient: Tensor, weights: Tensor) -> Tensor:
    if weights.element_size() >= 4 or weights.shape[-1] >= _VECTOR:
        return torch._softmax_backward_data(gradient, weights, -1, weights.dtype)
    wide = torch._softmax_backward_data(gradient.float(), weights.float(), -1, torch.float32)
    return wide.to(weights.dtype)


def _by_head(x: Tensor) -> Tensor:
    """(1, A, N, D) as rows of one head each: (N * A, D)."""
    return x.transpose(1, 2).reshape(-1, x.shape[3])


def _fused(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    packing: Layout,
    banned_RTT: Tensor | None,
    scaling: float,
    dropout: float,
) -> Tensor:
    """The same through torch's fused kernels: in memory that grows with T, not with its square."""
    rows, width = packing.real_RT.shape
    heads, size = query.shape[1], query.shape[3]
    token_M = packing.tokens(query.shape[2])
    q_RATD, k_RATD, v_RATD = (
        _Spread.apply(x.transpose(1, 2).reshape(-1, heads * size), index, rows * width)
        .view(rows, width, heads, size)
        .transpose(1, 2)
        for x, index in ((query, token_M), (key, packing.token_N), (value, packing.token_N))
    )
    seen = (packing.real_RT[:, None, :] if banned_RTT is None else ~banned_RTT)[:, None]
    out = F.scaled_dot_product_attention(q_RATD, k_RATD, v_RATD, attn_mask=seen, dropout_p=dropout, scale=scaling)
    out_MH = out.transpose(1, 2).reshape(rows * width, heads * size).index_select(0, token_M)
    return out_MH.view(1, -1, heads, size)


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, lambda *_, **__: None)


# ---- running a model -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ability:
    """What one model can do, found out by trying."""

    packs: bool
    why: str = ""
    """Why it does not."""
    offset: int = 0
    """Its number for position 0."""
    takes_types: bool = False
    narrows: tuple[nn.Module, ...] = ()
    """The modules that make keys and values in its last layer, where that can run for some tokens only."""
    last: tuple[nn.Module, ...] = ()
    """All modules of that layer, if so: once they are others (adapters came or went), this has to be found out anew."""


_known: WeakKeyDictionary[nn.Module, Ability] = WeakKeyDictionary()
_alone = RLock()
"""Held while a model runs packed: its configuration and hooks say so to every thread that would use it."""


def ability(model: PreTrainedModel) -> Ability:
    """Whether `model` runs without padding."""
    with _alone:
        if model not in _known or (_known[model].narrows and _known[model].last != _last(model)):
            _known[model] = _try_out(model)
            if not _known[model].packs:
                warnings.warn(f"{type(model).__name__} runs padded: {_known[model].why}", stacklevel=3)
        return _known[model]


def like(twin: PreTrainedModel, model: PreTrainedModel) -> None:
    """Let `twin`, a copy of `model` that rounds more, run as `model` does: trying would find its numbers other."""
    can = ability(model)
    path = {module: name for name, module in model.named_modules()}
    narrows = tuple(twin.get_submodule(path[module]) for module in can.narrows)
    _known[twin] = replace(can, narrows=narrows, last=_last(twin) if can.narrows else ())


def vectors_at(
    model: PreTrainedModel, ids_RT: Tensor, attention_RT: Tensor, where_RT: Tensor, *, packed: bool = True
) -> Tensor:
    """The last hidden states at the given real positions, row after row: (M, H).

    Args:
        model: an encoder. Its batch is padded on the right.
        where_RT: bool.
        packed: run without padding, if the model can.
    """
    if not (packed and ability(model).packs):
        return model(input_ids=ids_RT, attention_mask=attention_RT).last_hidden_state[where_RT]
    layout = _layout(model, attention_RT, where_RT)
    with _packed(model, layout):
        hidden_NH = model(**_inputs(model, ids_RT, layout)).last_hidden_state[0]
    return hidden_NH if layout.narrowed else hidden_NH.index_select(0, cast(Tensor, layout.read_M))


def hidden_states(
    model: PreTrainedModel,
    ids_RT: Tensor,
    attention_RT: Tensor,
    layers: tuple[int, ...] = (-1,),
    *,
    packed: bool = True,
) -> tuple[Tensor, ...]:
    """All tokens' hidden states after some layers (0 the embeddings, -1 the last), each (R, T, H).

    What stands at padding means nothing.
    """
    options: dict[str, Any] = {} if layers == (-1,) else {"output_hidden_states": True}

    def pick(output: Any) -> tuple[Tensor, ...]:
        return (output.last_hidden_state,) if not options else tuple(output.hidden_states[i] for i in layers)

    if not (packed and ability(model).packs):
        return pick(model(input_ids=ids_RT, attention_mask=attention_RT, **options))
    layout = _layout(model, attention_RT, None)
    with _packed(model, layout):
        return tuple(layout.pad(x[0]) for x in pick(model(**_inputs(model, ids_RT, layout), **options)))


def logits_at(
    model: PreTrainedModel, ids_RT: Tensor, attention_RT: Tensor, where_RT: Tensor, *, packed: bool = True
) -> Tensor:
    """A language model's logits at the given real positions only: (M, V).

    The vocabulary head is most of a small model's work, so it must not run where nobody reads it.
    """
    base = getattr(model, "base_model", model)
    if base is model:
        return model(input_ids=ids_RT, attention_mask=attention_RT).logits[where_RT]
    if not (packed and ability(base).packs):
        with _only(base, lambda hidden_RTH: hidden_RTH[where_RT]):
            return model(input_ids=ids_RT, attention_mask=attention_RT).logits[0]
    layout = _layout(base, attention_RT, where_RT)
    read_M = cast(Tensor, layout.read_M)
    gather = nullcontext() if layout.narrowed else _only(base, lambda hidden: hidden[0].index_select(0, read_M))
    with _packed(base, layout), gather:
        return model(**_inputs(base, ids_RT, layout)).logits[0]


def before_vocabulary(
    model: PreTrainedModel, ids_RT: Tensor, attention_RT: Tensor, where_RT: Tensor, *, packed: bool = True
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """`logits_at` in two steps: (x, what makes logits (M, V) of x or of some of its rows).

    All logits at once are the largest tensor of a small model by far: who needs them a few rows at a time need not
    hold, or wait for, so much memory.
    """
    if model not in _ends_in_vocabulary:
        _ends_in_vocabulary[model] = False
        _ends_in_vocabulary[model] = _try_out_head(model)
    if not _ends_in_vocabulary[model]:
        return logits_at(model, ids_RT, attention_RT, where_RT, packed=packed), lambda logits_MV: logits_MV
    seen: list[Tensor] = []

    def stop(_: nn.Module, args: tuple[Any, ...]) -> Any:
        seen.append(args[0])
        return (args[0][..., :0, :], *args[1:])

    last = cast(nn.Linear, model.get_output_embeddings())
    handle = last.register_forward_pre_hook(stop)
    try:
        logits_at(model, ids_RT, attention_RT, where_RT, packed=packed)
    finally:
        handle.remove()
    # Cast here, once: autocast would cast this largest of all weights again for every few rows.
    kind = _autocast_dtype(seen[0]) or last.weight.dtype
    weight_VH, bias_V = last.weight.to(kind), None if last.bias is None else last.bias.to(kind)
    return seen[0].view(-1, seen[0].shape[-1]).to(kind), lambda x_MH: F.linear(x_MH, weight_VH, bias_V)


def _autocast_dtype(x: Tensor) -> torch.dtype | None:
    """What autocast multiplies in where `x` is, or None where it is off."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


@contextmanager
def _only(base: nn.Module, choose: Any) -> Iterator[None]:
    """Within the block `base` hands on some of its last hidden states, as one row (1, M, H)."""

    def gather(_: nn.Module, __: Any, output: Any) -> Any:
        output.last_hidden_state = choose(output.last_hidden_state)[None]
        return output

    handle = base.register_forward_hook(gather)
    try:
        yield
    finally:
        handle.remove()


def _layout(model: PreTrainedModel, attention_RT: Tensor, where_RT: Tensor | None) -> Layout:
    return Layout.of(attention_RT, where_RT, narrowed=where_RT is not None and bool(ability(model).narrows))


def _inputs(model: PreTrainedModel, ids_RT: Tensor, layout: Layout) -> dict[str, Any]:
    can = ability(model)
    ids_1N = ids_RT.flatten().index_select(0, layout.token_N)[None]
    inputs = {"input_ids": ids_1N, "position_ids": layout.position_N[None] + can.offset, "packing": layout}
    # Given, because some models cut theirs from a buffer no longer than one sentence may be.
    return {**inputs, "token_type_ids": torch.zeros_like(ids_1N)} if can.takes_types else inputs


@contextmanager
def _packed(model: PreTrainedModel, layout: Layout) -> Iterator[None]:
    """Within the block `model` takes one packed row, and its last layer runs only where it is read.

    Layers that are recomputed run once more in the backward pass, when the block has long ended. All they need of it
    is the attention function; the last layer, which would need its hooks, is kept.
    """
    with ExitStack() as stack:
        stack.enter_context(_attention_of(model))
        stack.enter_context(recomputed_within(model, lambda: _attention_of(model)))
        if layout.narrowed:
            last = cast(nn.ModuleList, layers(model))[-1]
            stack.enter_context(kept(last))
            stack.enter_context(_narrow(last, ability(model).narrows, layout))
        yield


@contextmanager
def _attention_of(model: PreTrainedModel) -> Iterator[None]:
    """Within the block `model` computes attention our way."""
    config = model.config
    with _alone:
        before = config._attn_implementation
        config._attn_implementation = _NAME
        try:
            yield
        finally:
            config._attn_implementation = before


@contextmanager
def _narrow(last: nn.Module, makers: tuple[nn.Module, ...], layout: Layout) -> Iterator[None]:
    """Within the block the layer `last` runs for the tokens that are read, but its keys and values come of all.

    Those go past the layer, by way of the layout: what it sees of them itself is as long as it expects.
    """
    read_M, seen = cast(Tensor, layout.read_M), cast(list[Tensor], [])

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden_1NH = args[0] if args else kwargs["hidden_states"]
        seen[:], layout.whole[:] = [hidden_1NH], []
        some = hidden_1NH.index_select(1, read_M)
        return ((some, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": some})

    def make_all(_: nn.Module, args: tuple[Any, ...]) -> Any:
        return (seen[0], *args[1:])

    def hold(_: nn.Module, __: Any, out_1NH: Tensor) -> Tensor:
        layout.whole.append(out_1NH)
        return out_1NH[:, : len(read_M)]

    with ExitStack() as stack:
        stack.callback(layout.whole.clear)
        stack.callback(seen.clear)
        stack.callback(last.register_forward_pre_hook(enter, with_kwargs=True).remove)
        for module in makers:
            stack.callback(module.register_forward_pre_hook(make_all).remove)
            stack.callback(module.register_forward_hook(hold).remove)
        yield


def layers(encoder: nn.Module) -> nn.ModuleList | None:
    """The list of as many modules as the configuration has layers, or None (ALBERT repeats one shared layer)."""
    depth = getattr(encoder.config, "num_hidden_layers", None)
    found = (m for m in encoder.modules() if isinstance(m, nn.ModuleList) and len(m) == depth)
    return next(found, None)


def _last(model: nn.Module) -> tuple[nn.Module, ...]:
    """The modules of the last layer."""
    stack = layers(model)
    return () if stack is None else tuple(stack[-1].modules())


_ends_in_vocabulary: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
"""Whether a language model's logits are what its output embeddings give, and nothing follows them."""


# ---- finding out -----------------------------------------------------------------------------------------------------


def _try_out(model: PreTrainedModel) -> Ability:
    """What `model` can do: everything here is compared with the padded way, on a few short sentences."""
    if not getattr(model, "_supports_attention_backend", False):
        return Ability(False, "transformers cannot give this architecture another attention function")
    offset = 0
    for name, module in model.named_modules():  # RoBERTa's family counts positions from beyond the padding's
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            offset = module.padding_idx + 1
    accepted = inspect.signature(model.forward).parameters
    # GPT-2 takes them too, and adds word embeddings for them.
    typed = any(name.endswith("token_type_embeddings") for name, _ in model.named_modules())
    can = Ability(True, offset=offset, takes_types=typed and "token_type_ids" in accepted)
    ids_RT, attention_RT = _some_rows(model, min(12, getattr(model.config, "max_position_embeddings", 12) - offset))
    real_RT, width = attention_RT.bool(), ids_RT.shape[1]
    try:
        with _calm(model):
            wanted_NH = model(input_ids=ids_RT, attention_mask=attention_RT).last_hidden_state[real_RT]

            def same(can: Ability, where_RT: Tensor) -> bool:
                _known[model] = can
                found_MH = vectors_at(model, ids_RT, attention_RT, where_RT)
                expected_MH = wanted_NH[where_RT[real_RT]]
                off = max(1e-3, 8 * torch.finfo(wanted_NH.dtype).eps) * wanted_NH.abs().max()
                return found_MH.shape == expected_MH.shape and bool((found_MH - expected_MH).abs().max() < off)

            try:
                if not same(can, real_RT):
                    return Ability(False, "without padding its numbers are others")
            except Exception as error:  # whatever an unknown architecture trips over
                return Ability(False, f"without padding it fails ({type(error).__name__})")
            makers = _makers(model, ids_RT, real_RT, can)
            narrow = replace(can, narrows=makers, last=_last(model))
            some_RT = torch.zeros_like(real_RT)
            some_RT[0, width // 2 :] = some_RT[1, 0] = some_RT[2, 0] = True
            try:
                return narrow if narrow.narrows and same(narrow, some_RT) else can
            except Exception:
                return can
    finally:
        _known.pop(model, None)


def _some_rows(model: PreTrainedModel, width: int) -> tuple[Tensor, Tensor]:
    """Three short rows of ordinary tokens: (ids, attention), (3, T)."""
    size = cast(Tensor, model.get_input_embeddings().weight).shape[0]
    length_R1 = torch.tensor([[width], [1], [width // 2]], device=model.device)
    ids_RT = (torch.arange(3 * width, device=model.device) * 7 % (size // 2) + size // 2).view(3, -1)
    return ids_RT, (torch.arange(width, device=model.device) < length_R1).long()


@contextmanager
def _calm(model: nn.Module) -> Iterator[None]:
    """Within the block `model` runs without dropout, gradient or autocast."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(next(model.parameters()).device.type, enabled=False):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _try_out_head(model: PreTrainedModel) -> bool:
    """Whether `before_vocabulary` gives what `logits_at` does."""
    if getattr(model, "base_model", model) is model or not isinstance(model.get_output_embeddings(), nn.Linear):
        return False
    ids_RT, attention_RT = _some_rows(model, 4)
    with _calm(model):
        wanted_NV = logits_at(model, ids_RT, attention_RT, attention_RT.bool(), packed=False)
        _ends_in_vocabulary[model] = True
        try:
            x_NH, last = before_vocabulary(model, ids_RT, attention_RT, attention_RT.bool(), packed=False)
            found_NV = last(x_NH)
        except Exception:  # MobileBERT, for one, multiplies by the weights of a layer that it never calls
            return False
    return found_NV.shape == wanted_NV.shape and torch.allclose(found_NV, wanted_NV, rtol=1e-3, atol=1e-3)


def _makers(model: PreTrainedModel, ids_RT: Tensor, real_RT: Tensor, can: Ability) -> tuple[nn.Module, ...]:
    """The modules of the last layer whose outputs are its keys and its values, known by their memory; () if none."""
    stack = layers(model)
    if stack is None:
        return ()
    _known[model] = can
    last, made = stack[-1], cast(dict[int, nn.Module], {})
    handles = [
        module.register_forward_hook(
            lambda module, _, out: made.update({out.data_ptr(): module}) if isinstance(out, Tensor) else None
        )
        for module in last.modules()
    ]
    found: list[nn.Module | None] = []

    def spy(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        if any(module is part for part in last.modules()):
            found[:] = [made.get(key.data_ptr()), made.get(value.data_ptr())]
            if key.data_ptr() == query.data_ptr() or key.data_ptr() == value.data_ptr():
                found[:] = [None]
        return _attention(module, query, key, value, *args, **kwargs)

    try:
        AttentionInterface.register(_NAME, spy)
        vectors_at(model, ids_RT, real_RT.long(), real_RT)
    finally:
        AttentionInterface.register(_NAME, _attention)
        for handle in handles:
            handle.remove()
    return tuple(cast(list[nn.Module], found)) if len(found) == 2 and None not in found else ()
