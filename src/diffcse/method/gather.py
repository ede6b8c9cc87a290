"""A batch divided over several processes has the losses and gradients of the whole batch.

Process r of N holds rows r·B/N to (r+1)·B/N of every view. The contrastive loss and the projector's BatchNorm need the
rows of all, so h is gathered with its gradient, and every process computes z = g(h) and L_contrast of the whole batch.
The difference loss stays divided: N times the own sum, over all tokens. So the mean of the N gradients is the gradient
of the whole batch.

Shape suffixes: R rows of this process, N processes, K blocks, B sentences of this process, H hidden size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from diffcse.errors import InputError


class LostProcess(InputError):
    """Another process of the run no longer answers."""


@contextmanager
def exchange() -> Iterator[None]:
    """Wraps calls of `torch.distributed`.

    Raises:
        LostProcess: one fails. The backends raise RuntimeError for a dead process, a cut network and a timeout.
    """
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise LostProcess(
            "another process of this run ended or cannot be reached, so all end. Checkpoints are intact: the same "
            f"command with --resume continues ({reason})"
        ) from error


@dataclass(frozen=True)
class Ranks:
    """This process among those that share each batch. Alone, every method returns its argument."""

    rank: int = 0
    """Number of this process, from 0."""
    count: int = 1
    """N."""

    @property
    def first(self) -> bool:
        """Whether this is process 0, which reads first, judges, saves and prints."""
        return self.rank == 0

    def gather(self, x_RH: Tensor, size: int) -> Tensor:
        """The rows of all processes, with gradient: (N·R, H), in the order of the whole batch.

        Args:
            x_RH: blocks of `size` rows, as many on every process.
        """
        if self.count == 1:
            return x_RH
        x_NKBH = _Gather.apply(x_RH, self).view(self.count, -1, size, *x_RH.shape[1:])
        return x_NKBH.transpose(0, 1).reshape(-1, *x_RH.shape[1:])

    def own(self, x: Tensor, size: int) -> Tensor:
        """The rows of this process from what `gather` returned: (R, ...)."""
        return x if self.count == 1 else x.unflatten(0, (-1, self.count, size))[:, self.rank].flatten(0, 1)

    def per_process(self, count: Any) -> Any:
        """The mean over processes of a number of tokens, at least 1 in all. A local sum over it has the right share."""
        if self.count == 1:
            return count.clamp(min=1) if isinstance(count, Tensor) else max(count, 1)
        return max(self.total(int(count)), 1) / self.count

    def total(self, number: int) -> int:
        """The sum of `number` over all processes."""
        return self._reduced(number, dist.ReduceOp.SUM)

    def largest(self, number: int) -> int:
        """The largest `number` of all processes."""
        return self._reduced(number, dist.ReduceOp.MAX)

    def summed(self, x: Tensor) -> Tensor:
        """The sum of `x` over all processes, without gradient."""
        if self.count == 1:
            return x
        x = x.clone(memory_format=torch.contiguous_format)
        with exchange():
            dist.all_reduce(x)
        return x

    def _reduced(self, number: int, how: Any) -> int:
        if self.count == 1:
            return number
        value = torch.tensor(number)
        with exchange():
            dist.all_reduce(value, how)
        return int(value)


ALONE = Ranks()


class _Gather(torch.autograd.Function):
    """(R, ...) -> (N, R, ...). The gradient of a row is the sum of what all processes have for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(ranks.count)]
        with exchange():
            dist.all_gather(parts, x.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return ctx.ranks.summed(gradient)[ctx.ranks.rank], None
