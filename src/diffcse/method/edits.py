"""x -> x′ -> x″ -> r: masking a sentence, letting the generator fill it, and noting what changed.

All randomness comes from `draws`, addressed by (seed, step, row, position): no collator draws anything, so a
resumed or re-sharded run edits the same tokens in the same way.

Shape suffixes: R rows (both views of B sentences), T token positions, M chosen positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffcse.config import EditScope, Sampling
from diffcse.method import draws

# Streams keep the draws for different purposes apart.
_CHOOSE, _KIND, _RANDOM_TOKEN, _SAMPLE = range(4)


@dataclass(frozen=True)
class Vocabulary:
    """The token ids that editing needs to know; read from a tokenizer, never written as numbers."""

    size: int
    mask: int
    special: tuple[int, ...]

    def is_special(self, ids_RT: Tensor) -> Tensor:
        """Where a special token stands: (R, T) bool."""
        return torch.isin(ids_RT, torch.tensor(self.special, device=ids_RT.device))


@dataclass(frozen=True)
class Edited:
    """A batch and its edited copy, all (R, T)."""

    masked: Tensor
    """x′: token ids with the chosen positions masked."""
    chosen: Tensor
    """Which positions were chosen for masking."""
    ids: Tensor
    """x″: token ids after the generator."""
    labels: Tensor
    """r: 1 where x″ differs from x, int64."""
    editable: Tensor
    """Positions whose label could have come out as 1."""


def mask_tokens(
    ids_RT: Tensor,
    attention_RT: Tensor,
    vocabulary: Vocabulary,
    ratio: float,
    *,
    address: tuple[int, ...],
    rows_R: Tensor,
) -> tuple[Tensor, Tensor]:
    """x′ = m · x: each real, non-special token is chosen with probability `ratio`.

    Of the chosen, 80 % become [MASK], 10 % a uniformly random token, 10 % stay (Devlin et al., 2019, section 3.1).

    Returns:
        (masked ids, chosen), both (R, T).
    """
    width = ids_RT.shape[1]
    maskable_RT = attention_RT.bool() & ~vocabulary.is_special(ids_RT)
    chosen_RT = maskable_RT & (draws.uniforms((*address, _CHOOSE), rows_R, width) < ratio)
    kind_RT = draws.uniforms((*address, _KIND), rows_R, width)
    random_RT = draws.integers((*address, _RANDOM_TOKEN), rows_R, width, vocabulary.size)
    masked_RT = torch.where(chosen_RT & (kind_RT < 0.8), vocabulary.mask, ids_RT)
    masked_RT = torch.where(chosen_RT & (kind_RT >= 0.8) & (kind_RT < 0.9), random_RT, masked_RT)
    return masked_RT, chosen_RT


@torch.no_grad()
def edit(
    generator: nn.Module,
    ids_RT: Tensor,
    attention_RT: Tensor,
    vocabulary: Vocabulary,
    *,
    mask_ratio: float,
    sampling: Sampling,
    scope: EditScope,
    temperature: float = 1.0,
    address: tuple[int, ...],
    rows_R: Tensor,
) -> Edited:
    """x″ = G(x′) and r = 1[x″ ≠ x] (DiffCSE, section 3, equation 2).

    Args:
        scope: `masked` leaves every position that was not chosen as it was; `all` takes G's token at every real
            position but the first, which keeps the start token (as the 2022 reference code does).
        temperature: divides the logits before a draw.
        address: (seed, step), the batch's place in the run.
        rows_R: (R,) the rows' numbers in the global batch, both views told apart.
    """
    real_RT = attention_RT.bool()
    masked_RT, chosen_RT = mask_tokens(ids_RT, attention_RT, vocabulary, mask_ratio, address=address, rows_R=rows_R)
    start_RT = torch.zeros_like(real_RT)
    start_RT[:, 0] = True
    if scope == "all":
        filled_RT = editable_RT = real_RT & ~start_RT
    else:
        filled_RT, editable_RT = chosen_RT, real_RT & ~vocabulary.is_special(ids_RT)

    # A generator may have more output rows than there are tokens (padded to a round number); nobody embeds those.
    logits_MV = _logits_at(generator, masked_RT, attention_RT, filled_RT)[:, : vocabulary.size]
    if sampling == "argmax":
        tokens_M = logits_MV.argmax(-1)
    else:
        points_RT = draws.uniforms((*address, _SAMPLE), rows_R, ids_RT.shape[1])
        tokens_M = _at_quantile(logits_MV.float() / temperature, points_RT[filled_RT])
    edited_RT = ids_RT.clone()
    edited_RT[filled_RT] = tokens_M
    return Edited(
        masked=masked_RT,
        chosen=chosen_RT,
        ids=edited_RT,
        labels=(edited_RT != ids_RT).long(),
        editable=editable_RT,
    )


def _at_quantile(logits_MV: Tensor, points_M: Tensor) -> Tensor:
    """Tokens drawn from softmax(logits) by inverting its distribution function at `points_M` in [0, 1): (M,)."""
    mass_MV = logits_MV.softmax(-1).cumsum(-1)
    # Rounding leaves the last sum a little off 1; scaling by it keeps every point inside.
    target_M1 = points_M[:, None] * mass_MV[:, -1:]
    return torch.searchsorted(mass_MV, target_M1, right=True).squeeze(1).clamp_(max=logits_MV.shape[1] - 1)


def _logits_at(generator: nn.Module, ids_RT: Tensor, attention_RT: Tensor, where_RT: Tensor) -> Tensor:
    """G's logits at the given positions only: (M, V).

    The vocabulary head is most of a small model's work, so it must not run where nobody reads it.
    """
    base = getattr(generator, "base_model", generator)
    if base is generator:
        return generator(input_ids=ids_RT, attention_mask=attention_RT).logits[where_RT]
    with _only_positions(base, where_RT):
        return generator(input_ids=ids_RT, attention_mask=attention_RT).logits[0]


@contextmanager
def _only_positions(base: nn.Module, where_RT: Tensor) -> Iterator[None]:
    """Within the block `base` hands on its last hidden states at the given positions as one row, (1, M, H)."""

    def gather(_: nn.Module, __: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state[where_RT][None]
        return output

    handle = base.register_forward_hook(gather)
    try:
        yield
    finally:
        handle.remove()
