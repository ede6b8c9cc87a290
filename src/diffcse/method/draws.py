"""Random numbers by address, independent of when and where they are drawn.

Which tokens are masked, and what replaces them, must not depend on when a batch was made, on how rows are spread over
processes, or on padding. Otherwise a resumed or re-sharded run would drift. So each number is a hash of its address
(seed, step, stream, global row, position): the same address gives the same number on any device.

The hash is the finaliser of SplitMix64 (Steele, Lea and Flood, 2014), chained over the address.

Shape suffixes: R rows, T token positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

_VIEW = 1 << 40  # far above the number of rows in any batch
_WORD = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def key(*address: int) -> int:
    """A 64-bit number for an address of integers; their order matters. Also the seed of one step's dropout."""
    state = 0
    for part in address:
        state = _mix((state ^ (part & _WORD)) + _GOLDEN & _WORD)
    return state


def uniforms(address: tuple[int, ...], rows_R: Tensor, width: int) -> Tensor:
    """Numbers in [0, 1), one per row and position: (R, width) float32 on the rows' device.

    Args:
        address: distinguishes this draw from others, e.g. (seed, step, stream).
        rows_R: (R,) int64 global row numbers.
        width: T.
    """
    # A float32 holds 24 bits exactly, and every accelerator has float32.
    return _shift(_bits(address, rows_R, width), 40).float() * 2.0**-24


def integers(address: tuple[int, ...], rows_R: Tensor, width: int, below: int) -> Tensor:
    """Integers in [0, below), one per row and position: (R, width) int64."""
    return _shift(_bits(address, rows_R, width), 1) % below


def row_numbers(first_row: int, sentences: int, view: int, device: torch.device) -> Tensor:
    """Row numbers of one view of a batch, distinct from those of every other view: (sentences,) int64."""
    return torch.arange(first_row, first_row + sentences, device=device) + view * _VIEW


def _bits(address: tuple[int, ...], rows_R: Tensor, width: int) -> Tensor:
    rows = _mix_tensor((rows_R.long() ^ _signed(key(*address))) + _signed(_GOLDEN))
    positions = torch.arange(width, device=rows_R.device)
    return _mix_tensor((rows[:, None] ^ positions) + _signed(_GOLDEN))


def _mix(x: int) -> int:
    x = (x ^ (x >> 30)) * _MIX[0] & _WORD
    x = (x ^ (x >> 27)) * _MIX[1] & _WORD
    return x ^ (x >> 31)


def _mix_tensor(x: Tensor) -> Tensor:
    # int64 products wrap modulo 2^64, as the hash requires.
    x = (x ^ _shift(x, 30)) * _signed(_MIX[0])
    x = (x ^ _shift(x, 27)) * _signed(_MIX[1])
    return x ^ _shift(x, 31)


def _shift(x: Tensor, by: int) -> Tensor:
    """Logical right shift: torch's `>>` on int64 copies the sign bit."""
    return (x >> by) & ((1 << (64 - by)) - 1)


def _signed(x: int) -> int:
    return x - (1 << 64) if x >> 63 else x
