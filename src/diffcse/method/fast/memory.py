"""Large batches in little memory: the backward pass recomputes activations instead of keeping them.

The contrastive loss needs every sentence of a batch, but only one vector of each. So a network may take the batch in
parts and keep only the outputs. When the gradient arrives, it runs each part again with the same dropout. The gradient
is that of the whole batch, the memory that of one part; the cost is one more forward pass.

Sources: Gao et al., Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, RepL4NLP 2021; Chen et
al., Training Deep Nets with Sublinear Memory Cost, 2016. `torch.utils.checkpoint` restores the random state and
autocast for the second pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from itertools import repeat

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from diffcse.errors import InputError


def in_chunks(run: Callable[..., Tensor], size: int | None, *columns: Tensor | None) -> Tensor:
    """`run(*columns)` on `size` rows at a time, outputs concatenated; with gradient, each part is recomputed.

    Args:
        run: treats each row alone (dropout aside). It returns one row per input row, or one row of sums per part.
        size: rows per part; None: all. A batch of at most `size` rows is one part and is not recomputed.
        columns: tensors with the same number of rows, or None.

    >>> double = lambda x, y: 2 * x
    >>> in_chunks(double, 2, torch.arange(5), None).tolist()
    [0, 2, 4, 6, 8]
    """
    if size is None or len(next(c for c in columns if c is not None)) <= size:
        return run(*columns)
    chunks = zip(*(repeat(None) if column is None else column.split(size) for column in columns), strict=False)
    if torch.is_grad_enabled():
        run = partial(checkpoint, run, use_reentrant=False)
    return torch.cat([run(*chunk) for chunk in chunks])


def checkpoint_layers(model: PreTrainedModel) -> None:
    """Let `model` keep only the input of each layer in training, and run the layer again for its gradient.

    Raises:
        InputError: transformers cannot do this with the architecture.
    """
    if not model.supports_gradient_checkpointing:
        raise InputError(
            f"training.gradient_checkpointing = true: {type(model).__name__} cannot recompute its layers. Set it to "
            "false; training.mini_batch_size saves memory too"
        )
    # The public method also makes embeddings require gradients, which only reentrant recomputation needs. Its name
    # differs between releases.
    model._set_gradient_checkpointing(True, partial(checkpoint, use_reentrant=False))


@contextmanager
def recomputed_within(model: nn.Module, again: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Layers that `model` runs within the block are recomputed, if at all, within `again()`."""
    func = partial(checkpoint, use_reentrant=False, context_fn=lambda: (nullcontext(), again()))
    with ExitStack() as stack:
        for module in model.modules():
            if getattr(module, "gradient_checkpointing", False):
                stack.enter_context(_with(module, "_gradient_checkpointing_func", func))
        yield


def kept(layer: nn.Module) -> AbstractContextManager[None]:
    """Within the block `layer` is not recomputed, because its hooks would be gone by then."""
    recomputed = getattr(layer, "gradient_checkpointing", False)
    return _with(layer, "gradient_checkpointing", False) if recomputed else nullcontext()


@contextmanager
def _with(module: nn.Module, name: str, value: object) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
