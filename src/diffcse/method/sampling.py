"""A language model's distributions -> tokens, at chosen positions.

Shape suffixes: R rows, T token positions, M chosen positions, C a part of them, V vocabulary, K blocks of it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from diffcse.config import Sampling
from diffcse.method.fast import before_vocabulary

_BLOCK = 128


def tokens_at(
    generator: PreTrainedModel,
    ids_RT: Tensor,
    attention_RT: Tensor,
    where_RT: Tensor,
    points_RT: Tensor,
    *,
    vocabulary: int,
    sampling: Sampling,
    temperature: float,
    packed: bool,
) -> Tensor:
    """The generator's tokens at `where_RT` (bool), row by row: (M,).

    Args:
        points_RT: a number in [0, 1) for each position, which decides its token.
        vocabulary: number of tokens; further output rows of the generator (padding of its matrix) are ignored.
        sampling: draw from the distribution, or take its most likely token.
        temperature: divides the logits before a draw.
    """
    x_MH, to_logits = before_vocabulary(generator, ids_RT, attention_RT, where_RT, packed=packed)
    count = rows_at_once(x_MH.device, vocabulary)
    parts = []
    for x_CH, points_C in zip(x_MH.split(count), points_RT[where_RT].split(count), strict=True):
        logits_CV = to_logits(x_CH)[:, :vocabulary]
        draw = sampling == "sample"
        parts.append(_at_quantile(logits_CV.float() / temperature, points_C) if draw else logits_CV.argmax(-1))
    return torch.cat(parts)


def rows_at_once(device: torch.device, vocabulary: int) -> int:
    """How many positions' logits are computed together.

    On a CPU they fit a core's cache. On a GPU each part costs the start of a dozen kernels, so parts take 128 MB.
    """
    return max(1, (1 << (19 if device.type == "cpu" else 25)) // vocabulary)


def _at_quantile(logits_MV: Tensor, points_M: Tensor) -> Tensor:
    """Tokens drawn from softmax(logits) by inverting its distribution function at `points_M`: (M,).

    First a block of the vocabulary is found, then the token in it, because cumulative sums are slow.
    """
    mass_MV = (logits_MV - logits_MV.amax(-1, keepdim=True)).exp_()
    blocks_MKB = F.pad(mass_MV, (0, -mass_MV.shape[1] % _BLOCK)).view(
        len(mass_MV), -(-mass_MV.shape[1] // _BLOCK), _BLOCK
    )
    ends_MK = blocks_MKB.sum(-1).cumsum(-1)
    all_M1 = ends_MK[:, -1:]
    target_M1 = (points_M[:, None] * all_M1).minimum(all_M1.nextafter(torch.zeros_like(all_M1)))
    block_M1 = torch.searchsorted(ends_MK, target_M1, right=True)
    within_M1 = target_M1 - F.pad(ends_MK, (1, 0)).gather(1, block_M1)
    mass_MB = blocks_MKB.gather(1, block_M1[:, :, None].expand(-1, -1, _BLOCK)).squeeze(1)
    # Rounding can put a point beyond its block; then the last token with any mass is taken.
    last_M1 = (mass_MB > 0).long().cumsum(1).argmax(1, keepdim=True)
    token_M1 = torch.searchsorted(mass_MB.cumsum(-1), within_M1, right=True).minimum(last_M1)
    return (block_M1 * _BLOCK + token_M1).squeeze(1)
