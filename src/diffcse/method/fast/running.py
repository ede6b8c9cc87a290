"""Hidden states and logits of a padded batch, computed without padding where the model can (`ability`).

A batch padded to its longest sentence is about one third padding. Every function here takes the padded batch and gives
the numbers of the padded path. `packed=False` forces that path.

Shape suffixes: see `layout`; V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, cast

from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from diffcse.method.fast.attention import autocast_dtype
from diffcse.method.fast.attention import packed as running_packed
from diffcse.method.fast.layout import Layout
from diffcse.method.fast.probing import ability, ends_in_vocabulary, input_of_vocabulary, packed_vectors, run_packed


def vectors_at(
    model: PreTrainedModel, ids_RT: Tensor, attention_RT: Tensor, where_RT: Tensor, *, packed: bool = True
) -> Tensor:
    """The last hidden states at the given real positions, row by row: (M, H).

    Args:
        model: an encoder.
        attention_RT: 1 at real tokens; padding is on the right.
        where_RT: bool.
        packed: run without padding, if the model can.
    """
    if not (packed and ability(model).packs):
        return model(input_ids=ids_RT, attention_mask=attention_RT).last_hidden_state[where_RT]
    return packed_vectors(model, ids_RT, _layout(model, attention_RT, where_RT), ability(model))


def hidden_states(
    model: PreTrainedModel,
    ids_RT: Tensor,
    attention_RT: Tensor,
    layers: tuple[int, ...] = (-1,),
    *,
    packed: bool = True,
) -> tuple[Tensor, ...]:
    """All tokens' hidden states after some layers (0 the embeddings, -1 the last), each (R, T, H).

    Values at padding are undefined.
    """
    options: dict[str, Any] = {} if layers == (-1,) else {"output_hidden_states": True}

    def pick(output: Any) -> tuple[Tensor, ...]:
        return (output.last_hidden_state,) if not options else tuple(output.hidden_states[i] for i in layers)

    if not (packed and ability(model).packs):
        return pick(model(input_ids=ids_RT, attention_mask=attention_RT, **options))
    layout = Layout.of(attention_RT)
    with running_packed(model, layout, ()):
        return tuple(layout.pad(x[0]) for x in pick(run_packed(model, ids_RT, layout, ability(model), **options)))


def logits_at(
    model: PreTrainedModel, ids_RT: Tensor, attention_RT: Tensor, where_RT: Tensor, *, packed: bool = True
) -> Tensor:
    """A language model's logits at the given real positions: (M, V).

    The vocabulary head, most of a small model's work, runs at those positions only.
    """
    base = getattr(model, "base_model", model)
    if base is model:
        return model(input_ids=ids_RT, attention_mask=attention_RT).logits[where_RT]
    if not (packed and ability(base).packs):
        with _selecting(base, lambda hidden_RTH: hidden_RTH[where_RT]):
            return model(input_ids=ids_RT, attention_mask=attention_RT).logits[0]
    layout, can = _layout(base, attention_RT, where_RT), ability(base)
    read_M = cast(Tensor, layout.read_M)
    select = nullcontext() if layout.narrowed else _selecting(base, lambda hidden: hidden[0].index_select(0, read_M))
    with running_packed(base, layout, can.projections), select:
        return run_packed(model, ids_RT, layout, can).logits[0]


def before_vocabulary(
    model: PreTrainedModel, ids_RT: Tensor, attention_RT: Tensor, where_RT: Tensor, *, packed: bool = True
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """`logits_at` in two steps, so that a caller may make the logits of a few positions at a time.

    All logits together are the largest tensor of a small model by far.

    Returns:
        (x with M rows, a function from x or some of its rows to their logits).
    """
    if not ends_in_vocabulary(model):
        return logits_at(model, ids_RT, attention_RT, where_RT, packed=packed), lambda logits_MV: logits_MV
    last = cast(nn.Linear, model.get_output_embeddings())
    x = input_of_vocabulary(model, lambda: logits_at(model, ids_RT, attention_RT, where_RT, packed=packed))
    # Cast once: autocast would cast this largest of all weights again for every few rows.
    kind = autocast_dtype(x) or last.weight.dtype
    weight_VH, bias_V = last.weight.to(kind), None if last.bias is None else last.bias.to(kind)
    return x.view(-1, x.shape[-1]).to(kind), lambda x_MH: F.linear(x_MH, weight_VH, bias_V)


@contextmanager
def _selecting(base: nn.Module, select: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within the block `base` outputs some of its last hidden states, as one row (1, M, H)."""

    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        output.last_hidden_state = select(output.last_hidden_state)[None]
        return output

    handle = base.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _layout(model: PreTrainedModel, attention_RT: Tensor, where_RT: Tensor) -> Layout:
    return Layout.of(attention_RT, where_RT, narrowed=bool(ability(model).projections))
