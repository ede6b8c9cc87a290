"""Large batches in little memory: what the backward pass needs is computed again instead of being kept.

The contrastive loss needs every sentence of a batch, but of each it needs no more than one vector. So a network may
take a batch in parts, keep nothing of each but its output, and run every part once more, dropout and all, when the
gradient has come back to it: the gradient is that of the whole batch, the memory that of one part. (Gao et al.,
Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, RepL4NLP 2021; recomputation is Chen et al.,
Training Deep Nets with Sublinear Memory Cost, 2016.) It costs one more forward pass.

`torch.utils.checkpoint` does this for any function: it keeps the state of torch's random generator, of which all
dropout masks come, and of autocast. Here is what it is applied to.
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
    """`run(*columns)` for `size` rows at a time, the outputs one after another; with gradient, recomputed.

    Args:
        run: treats every row by itself (dropout aside), and gives rows: as many, or one with their sums.
        size: None: all rows at once, nothing recomputed; so are `size` rows or fewer.
        columns: tensors of equally many rows; what is None stays None.

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
    """In training, `model` keeps only what enters each of its layers, and runs a layer again for its gradient.

    Raises:
        InputError: transformers cannot do this with its architecture.
    """
    if not model.supports_gradient_checkpointing:
        raise InputError(
            f"training.gradient_checkpointing = true: {type(model).__name__} cannot recompute its layers: leave it "
            "off, and set training.mini_batch_size instead"
        )
    # Not its public method: that also makes embeddings require gradients, which only the older kind of recomputation
    # needs, and has another name in every other release.
    model._set_gradient_checkpointing(True, partial(checkpoint, use_reentrant=False))


@contextmanager
def recomputed_within(model: nn.Module, again: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """Layers that `model` runs within the block will, if they are recomputed, be so within `again()`."""
    func = partial(checkpoint, use_reentrant=False, context_fn=lambda: (nullcontext(), again()))
    with ExitStack() as stack:
        for module in model.modules():
            if getattr(module, "gradient_checkpointing", False):
                stack.enter_context(_with(module, "_gradient_checkpointing_func", func))
        yield


def kept(layer: nn.Module) -> AbstractContextManager[None]:
    """Within the block `layer` is not recomputed: hooks on it are gone when it would be."""
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
