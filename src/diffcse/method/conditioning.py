"""D(x″, z): a stock encoder conditioned on a sentence embedding, without a fork of the model.

The reference code modifies a copy of transformers to put z in the place of the discriminator's position-0 embedding.
That tensor is the input of the first layer: after the embedding LayerNorm, its dropout and any embedding projection.
So a hook on that layer, alive for one forward pass, does the same for any encoder whose layers can be found.

Shape suffixes: R rows, T token positions, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from diffcse.errors import InputError
from diffcse.method.fast import Layout, kept, layers


def first_layer(encoder: nn.Module) -> nn.Module:
    """The first of the encoder's transformer layers.

    Raises:
        InputError: there is no list of `num_hidden_layers` modules (ALBERT runs one shared layer several times).
    """
    stack, depth = layers(encoder), getattr(encoder.config, "num_hidden_layers", None)
    if stack is not None:
        return stack[0]
    raise InputError(
        f"{type(encoder).__name__}: cannot be conditioned on an embedding: it has no list of its {depth} layers "
        "(it may share one layer among all depths). "
        "Use BERT, RoBERTa, DistilBERT, MPNet, ELECTRA or XLM-R, or train without the difference term "
        '(difference = "none")'
    )


@contextmanager
def sentence_at_position_0(encoder: nn.Module, sentence_RH: Tensor) -> Iterator[None]:
    """Within the block, the one forward pass of `encoder` has `sentence_RH` in the place of position 0's embedding.

    Gradients flow into `sentence_RH`.

    Raises:
        InputError: the first layer did not run exactly once, or its input is no (R, T, H) tensor that fits.
    """
    calls = 0

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        nonlocal calls
        calls += 1
        hidden_RTH = args[0] if args else kwargs["hidden_states"]
        packing: Layout | None = kwargs.get("packing")
        if packing is not None:  # one row of all sentences
            start_R = packing.start_R
            fits = hidden_RTH[0, :1].shape == sentence_RH[:1].shape and len(start_R) == len(sentence_RH)
        else:
            fits = hidden_RTH.ndim == 3 and hidden_RTH[:, 0].shape == sentence_RH.shape
        if not fits:
            raise InputError(
                f"{type(encoder).__name__}: its first layer takes shape {tuple(hidden_RTH.shape)}, and embeddings of "
                f"shape {tuple(sentence_RH.shape)} do not fit. Start encoder and discriminator from one checkpoint"
            )
        sentence = sentence_RH.to(hidden_RTH.dtype)
        if packing is not None:
            swapped_RTH = hidden_RTH.index_copy(1, start_R, sentence[None])
        else:
            swapped_RTH = torch.cat([sentence[:, None], hidden_RTH[:, 1:]], dim=1)
        if args:
            return (swapped_RTH, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": swapped_RTH}

    first = first_layer(encoder)
    handle = first.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        with kept(first):
            yield
        if calls != 1:
            raise InputError(
                f"{type(encoder).__name__}: its first layer ran {calls} times in one forward pass, so it cannot be "
                "conditioned on a sentence embedding"
            )
    finally:
        handle.remove()
