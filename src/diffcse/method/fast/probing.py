"""What a model can do, tested once per model: whether it runs packed, and what follows its last hidden state.

Each ability is accepted only if a few short sentences get the same numbers as on the plain padded path. A model that
fails, or an architecture without an attention interface (MPNet, DeBERTa), runs padded.

Shape suffixes: see `layout`; V vocabulary.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from diffcse.method.fast.attention import LOCK, NAME, layers, packed, packed_attention
from diffcse.method.fast.layout import Layout


@dataclass(frozen=True)
class Ability:
    """How one model runs packed."""

    packs: bool
    reason: str = ""
    """Why it does not."""
    offset: int = 0
    """The model's index of position 0."""
    takes_types: bool = False
    """Whether it takes token type ids."""
    projections: tuple[nn.Module, ...] = ()
    """The modules that compute keys and values in the last layer, if that layer can run for some tokens only."""
    last_layer: tuple[nn.Module, ...] = ()
    """All modules of that layer. When they change (adapters are added or merged), the model is tested again."""


_abilities: WeakKeyDictionary[nn.Module, Ability] = WeakKeyDictionary()
_ends_in_vocabulary: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def ability(model: PreTrainedModel) -> Ability:
    """Whether and how `model` runs packed. Warns once for a model that does not."""
    with LOCK:
        known = _abilities.get(model)
        if known is None or (known.projections and known.last_layer != _last_layer(model)):
            known = _abilities[model] = _test(model)
            if not known.packs:
                warnings.warn(f"{type(model).__name__} runs padded: {known.reason}", stacklevel=3)
        return known


def copy_ability(model: PreTrainedModel, twin: PreTrainedModel) -> None:
    """Let `twin`, a lower-precision copy of `model`, run as `model` does: its own test could fail on rounding."""
    can = ability(model)
    names = {module: name for name, module in model.named_modules()}
    projections = tuple(twin.get_submodule(names[module]) for module in can.projections)
    _abilities[twin] = replace(can, projections=projections, last_layer=_last_layer(twin) if projections else ())


def run_packed(model: PreTrainedModel, ids_RT: Tensor, layout: Layout, can: Ability, **options: Any) -> Any:
    """The model's output for the packed row of `layout`."""
    ids_1N = ids_RT.flatten().index_select(0, layout.token_N)[None]
    inputs = {"input_ids": ids_1N, "position_ids": layout.position_N[None] + can.offset, "packing": layout}
    if can.takes_types:  # by default some models cut them from a buffer no longer than one sentence may be
        inputs["token_type_ids"] = torch.zeros_like(ids_1N)
    return model(**inputs, **options)


def packed_vectors(model: PreTrainedModel, ids_RT: Tensor, layout: Layout, can: Ability) -> Tensor:
    """The last hidden states of the tokens that `layout` reads: (M, H)."""
    with packed(model, layout, can.projections):
        hidden_NH = run_packed(model, ids_RT, layout, can).last_hidden_state[0]
    return hidden_NH if layout.narrowed else hidden_NH.index_select(0, cast(Tensor, layout.read_M))


def _last_layer(model: nn.Module) -> tuple[nn.Module, ...]:
    stack = layers(model)
    return () if stack is None else tuple(stack[-1].modules())


def _test(model: PreTrainedModel) -> Ability:
    """The ability of `model`, by comparison with the padded path on three short rows."""
    if not getattr(model, "_supports_attention_backend", False):
        return Ability(False, "transformers cannot give this architecture another attention function")
    can = _inputs_of(model)
    ids_RT, attention_RT = _some_rows(model, min(12, getattr(model.config, "max_position_embeddings", 12) - can.offset))
    real_RT, width = attention_RT.bool(), ids_RT.shape[1]
    with _calm(model):
        padded_RTH = model(input_ids=ids_RT, attention_mask=attention_RT).last_hidden_state
        try:
            if not _same(model, can, ids_RT, attention_RT, real_RT, padded_RTH):
                return Ability(False, "without padding its numbers differ")
        except Exception as error:  # an unknown architecture can fail anywhere
            return Ability(False, f"without padding it fails ({type(error).__name__})")
        narrow = replace(can, projections=_find_projections(model, ids_RT, real_RT, can), last_layer=_last_layer(model))
        some_RT = torch.zeros_like(real_RT)
        some_RT[0, width // 2 :] = some_RT[1, 0] = some_RT[2, 0] = True
        try:
            works = narrow.projections and _same(model, narrow, ids_RT, attention_RT, some_RT, padded_RTH)
            return narrow if works else can
        except Exception:
            return can


def _inputs_of(model: PreTrainedModel) -> Ability:
    """The ability that `model` has if packing works, with its position offset and input names."""
    offset = 0
    for name, module in model.named_modules():  # RoBERTa's family counts positions from beyond the padding index
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            offset = module.padding_idx + 1
    accepted = inspect.signature(model.forward).parameters
    # GPT-2 accepts token types too, but would add word embeddings for them.
    typed = any(name.endswith("token_type_embeddings") for name, _ in model.named_modules())
    return Ability(True, offset=offset, takes_types=typed and "token_type_ids" in accepted)


def _same(
    model: PreTrainedModel, can: Ability, ids_RT: Tensor, attention_RT: Tensor, where_RT: Tensor, padded_RTH: Tensor
) -> bool:
    """Whether running as `can` says gives the padded path's hidden states at `where_RT`."""
    layout = Layout.of(attention_RT, where_RT, narrowed=bool(can.projections))
    packed_MH, padded_MH = packed_vectors(model, ids_RT, layout, can), padded_RTH[where_RT]
    real_NH = padded_RTH[attention_RT.bool()]
    limit = max(1e-3, 8 * torch.finfo(real_NH.dtype).eps) * real_NH.abs().max()
    return packed_MH.shape == padded_MH.shape and bool((packed_MH - padded_MH).abs().max() < limit)


def _find_projections(model: PreTrainedModel, ids_RT: Tensor, real_RT: Tensor, can: Ability) -> tuple[nn.Module, ...]:
    """The modules of the last layer that output its keys and its values; () if there are no such modules.

    They are recognised by memory address: the attention function receives their outputs.
    """
    stack = layers(model)
    if stack is None:
        return ()
    parts, outputs = set(stack[-1].modules()), cast(dict[int, nn.Module], {})
    projections: list[nn.Module | None] = []

    def record(module: nn.Module, _: Any, out: Any) -> None:
        if isinstance(out, Tensor):
            outputs[out.data_ptr()] = module

    def spy(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        if module in parts:
            shared = key.data_ptr() in (query.data_ptr(), value.data_ptr())
            projections[:] = [None] if shared else [outputs.get(x.data_ptr()) for x in (key, value)]
        return packed_attention(module, query, key, value, *args, **kwargs)

    handles = [module.register_forward_hook(record) for module in parts]
    try:
        AttentionInterface.register(NAME, spy)
        packed_vectors(model, ids_RT, Layout.of(real_RT, real_RT), can)
    finally:
        AttentionInterface.register(NAME, packed_attention)
        for handle in handles:
            handle.remove()
    return tuple(cast(list[nn.Module], projections)) if len(projections) == 2 and None not in projections else ()


def ends_in_vocabulary(model: PreTrainedModel) -> bool:
    """Whether a language model's logits are exactly the output of its output embeddings."""
    if model not in _ends_in_vocabulary:
        _ends_in_vocabulary[model] = _test_head(model)
    return _ends_in_vocabulary[model]


def _test_head(model: PreTrainedModel) -> bool:
    if getattr(model, "base_model", model) is model or not isinstance(last := model.get_output_embeddings(), nn.Linear):
        return False
    ids_RT, attention_RT = _some_rows(model, 4)
    with _calm(model):
        logits_RTV = model(input_ids=ids_RT, attention_mask=attention_RT).logits
        try:
            x_RTH = input_of_vocabulary(model, lambda: model(input_ids=ids_RT, attention_mask=attention_RT))
            again_RTV = last(x_RTH)
        except Exception:  # MobileBERT uses the weights of its output embeddings without calling the layer
            return False
    return again_RTV.shape == logits_RTV.shape and torch.allclose(again_RTV, logits_RTV, rtol=1e-3, atol=1e-3)


def input_of_vocabulary(model: PreTrainedModel, run: Callable[[], object]) -> Tensor:
    """What the output embeddings of `model` receive while `run` runs it; they themselves run on no rows."""
    seen: list[Tensor] = []

    def stop(_: nn.Module, args: tuple[Any, ...]) -> Any:
        seen.append(args[0])
        return (args[0][..., :0, :], *args[1:])

    handle = cast(nn.Linear, model.get_output_embeddings()).register_forward_pre_hook(stop)
    try:
        run()
    finally:
        handle.remove()
    return seen[0]


def _some_rows(model: PreTrainedModel, width: int) -> tuple[Tensor, Tensor]:
    """Three short rows of ordinary tokens: (ids, attention), both (3, T)."""
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
