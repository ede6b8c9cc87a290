"""Where the real tokens of a padded batch stand, once they are packed into a single row.

Shape suffixes: R rows (sentences), T token positions, N real tokens of all rows, M tokens that are read, H width,
A attention heads, D width of a head.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Layout:
    """The packed order of a batch, and which of its tokens are read."""

    real_RT: Tensor
    """Real positions, bool. Position 0 of every row is real."""
    token_N: Tensor
    """Index of each real token in the flattened batch, row by row: r * T + t."""
    read_M: Tensor | None = None
    """Indices, among the N tokens, of those whose last hidden state is read; None: all."""
    narrowed: bool = False
    """Whether the last layer returns the hidden states of the M tokens only."""
    whole: list[Tensor] = field(default_factory=list)
    """Keys and values of all N tokens in a narrowed last layer, each (1, N, A * D)."""
    _places: dict[tuple[int, int], tuple[Tensor, Tensor]] = field(default_factory=dict)
    _edges: dict[int, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, attention_RT: Tensor, where_RT: Tensor | None = None, *, narrowed: bool = False) -> Layout:
        """The layout of a batch padded on the right.

        Args:
            where_RT: positions that are read, bool; None: all.
            narrowed: run the last layer for those positions only.
        """
        real_RT = attention_RT.bool()
        real_RT = torch.cat([torch.ones_like(real_RT[:, :1]), real_RT[:, 1:]], 1)
        token_N = real_RT.flatten().nonzero().squeeze(1)
        read_M = None if where_RT is None else where_RT[real_RT].nonzero().squeeze(1)
        # Some layers fail on zero tokens.
        return cls(real_RT, token_N, read_M, narrowed and read_M is not None and 0 < len(read_M) < len(token_N))

    @cached_property
    def position_N(self) -> Tensor:
        """Position of each token in its sentence, from 0."""
        return self.token_N % self.real_RT.shape[1]

    @cached_property
    def start_R(self) -> Tensor:
        """Index, among the N tokens, of the first token of each row."""
        return (self.position_N == 0).nonzero().squeeze(1)

    @cached_property
    def row_N(self) -> Tensor:
        """Row of each token."""
        return self.token_N // self.real_RT.shape[1]

    def pad(self, x_NH: Tensor) -> Tensor:
        """The padded form (R, T, H), with zeros at padding."""
        return Spread.apply(x_NH, self.token_N, self.real_RT.numel()).view(*self.real_RT.shape, -1)

    def tokens(self, count: int) -> Tensor:
        """Flattened-batch indices of a layer's `count` queries, N or (in a narrowed last layer) M: (count,)."""
        whole = self.read_M is None or count == len(self.token_N)
        return self.token_N if whole else self.token_N[self.read_M]

    def edges(self, count: int) -> Tensor:
        """Start of each row among `count` queries, and the end of the last row: (R + 1,) int32."""
        if count not in self._edges:
            rows, width = self.real_RT.shape
            row_M = self.tokens(count) // width
            # searchsorted, because bincount would synchronise with a GPU.
            self._edges[count] = torch.searchsorted(row_M, torch.arange(rows + 1, device=row_M.device)).int()
        return self._edges[count]

    def places(self, heads: int, count: int) -> tuple[Tensor, Tensor]:
        """Index vectors between attention's padded rows (R, A, T) and the heads of tokens (count, A).

        Returns:
            (source, place). `source`, R * A * T long, names the token head at each padded place; padding repeats its
            row's first token, and nothing reads it. `place`, count * A long, names the padded place of each token head.
        """
        if (heads, count) not in self._places:
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
            self._places[heads, count] = source_RAT.flatten(), place_NA.flatten()
        return self._places[heads, count]


class Spread(torch.autograd.Function):
    """x (N, H) -> (places, H): row n at index_N[n], zeros elsewhere. The indices are distinct."""

    @staticmethod
    def forward(ctx: Any, x_NH: Tensor, index_N: Tensor, places: int) -> Tensor:
        ctx.save_for_backward(index_N)
        return x_NH.new_zeros(places, x_NH.shape[1]).index_copy_(0, index_N, x_NH)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient.index_select(0, ctx.saved_tensors[0]), None, None
