"""Who is pulled towards whom: the views of a batch, and the targets of its first view.

A view is one function here, listed in `make_views`. It returns blocks of B rows each: the first view, the second, and
perhaps a third. It also names the targets that the contrastive loss compares the first view with.

Shape suffixes: B sentences, R rows (blocks of B), T token positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from diffcse.method.draws import row_numbers
from diffcse.method.gather import Ranks
from diffcse.method.networks import Networks

Batch = Mapping[str, Tensor]
Block = tuple[Tensor, Tensor]
"""Token ids and attention of some rows, both (rows, T)."""


@dataclass(frozen=True)
class Target:
    """What each first view is pulled towards, by the number of the block."""

    positive: int = 1
    negative: int | None = None
    """A block of hard negatives: every first view is pushed away from all of them."""
    left_out: Tensor | None = None
    """Columns that are no negatives of a row: bool, (B, B), or (B, 2B) with hard negatives; B of the whole batch."""


@dataclass(frozen=True)
class Views:
    """The rows to embed, in blocks of `size`, and what the loss does with them."""

    ids_RT: Tensor
    attention_RT: Tensor
    size: int
    """B of this process."""
    targets: tuple[Target, ...] = (Target(),)
    """L_contrast is the mean of one loss per target."""
    metrics: dict[str, Tensor] = field(default_factory=dict)


def make_views(model: Networks, batch: Batch, *, step: int, first_row: int) -> Views:
    """The views of a batch; the keys of `batch` are listed in `DiffCSE.forward`."""
    if "positive_input_ids" in batch:
        return _pairs(model, batch)
    if model.choices.positives in ("next", "both"):
        return _next_sentences(model, batch)
    if model.choices.edit_role != "difference":
        return _edited_copies(model, batch, step, first_row)
    return _views(model, [tokens(batch)] * 2)


def _pairs(model: Networks, batch: Batch) -> Views:
    """Anchors, their positives, and perhaps hard negatives (Gao et al., SimCSE, EMNLP 2021, equation 5).

    Two spans of one text (positives = "crop") are such a pair.
    """
    blocks = [tokens(batch), tokens(batch, "positive_")]
    negative = None
    if "hard_negative_input_ids" in batch:
        blocks.append(tokens(batch, "hard_negative_"))
        negative = 2
    same = same_meaning(*_keys(model, batch, "anchor_key", "positive_key", "hard_negative_key"))
    target = Target(negative=negative, left_out=_unless_kept(model, same))
    return _views(model, blocks, target, false_negatives=same.sum())


def _next_sentences(model: Networks, batch: Batch) -> Views:
    """The next sentence of the document as the positive, alone or beside the second dropout view."""
    own, after = tokens(batch), _next_or_own(model, batch)
    same = same_meaning(*_keys(model, batch, "anchor_key", "next_key"))
    left_out = _unless_kept(model, same)
    if model.choices.positives == "next":
        return _views(model, [own, after], Target(left_out=left_out), false_negatives=same.sum())
    targets = Target(), Target(positive=2, left_out=left_out)
    return _views(model, [own, own, after], *targets, false_negatives=same.sum())


def _edited_copies(model: Networks, batch: Batch, step: int, first_row: int) -> Views:
    """An edited copy as a further positive, or as a hard negative of every sentence.

    A copy that the editor left unchanged is not used as a negative for its own sentence.
    """
    ids_BT, attention_BT = tokens(batch)
    rows_B = row_numbers(first_row, len(ids_BT), 2, ids_BT.device)
    copy = model.edit(ids_BT, attention_BT, step=step, rows_R=rows_B)
    blocks = [(ids_BT, attention_BT), (ids_BT, attention_BT), (copy.ids, copy.attention)]
    if model.choices.edit_role == "positive":
        return _views(model, blocks, Target(), Target(positive=2))
    unchanged_BB = torch.diag(model.ranks.gather((copy.labels == 0).all(1), len(ids_BT)))
    left_out = torch.cat([torch.zeros_like(unchanged_BB), unchanged_BB], 1)
    return _views(model, blocks, Target(negative=2, left_out=left_out), false_negatives=left_out.sum())


def _views(model: Networks, blocks: Sequence[Block], *targets: Target, **metrics: Tensor) -> Views:
    ids_RT, attention_RT = stack(blocks, model.vocabulary.pad)
    return Views(ids_RT, attention_RT, len(blocks[0][0]), targets or (Target(),), metrics)


def same_meaning(anchor_B: Tensor, positive_B: Tensor, negative_B: Tensor | None = None) -> Tensor:
    """Columns that are no negatives of a row, because their text means the same: (B, B), or (B, 2B) with negatives.

    For anchor i, the positive of row j is left out if row j has the same anchor, or if its positive equals the anchor
    or the positive of i. A hard negative is left out if it equals the anchor or the positive of i.

    Args:
        anchor_B: int64 keys, equal where the sentences are; likewise the others.

    >>> same_meaning(torch.tensor([1, 2, 1]), torch.tensor([5, 6, 7])).int().tolist()
    [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    """

    def equals(these_B: Tensor, those_B: Tensor) -> Tensor:
        return these_B[:, None] == those_B[None, :]

    others_BB = equals(anchor_B, anchor_B) | equals(positive_B, positive_B) | equals(anchor_B, positive_B)
    others_BB &= ~torch.eye(len(anchor_B), dtype=torch.bool, device=anchor_B.device)
    if negative_B is None:
        return others_BB
    return torch.cat([others_BB, equals(positive_B, negative_B) | equals(anchor_B, negative_B)], 1)


def _keys(model: Networks, batch: Batch, *names: str) -> list[Tensor]:
    """Keys of the whole batch, those of the other processes included."""
    return [model.ranks.gather(batch[name], len(batch[name])) for name in names if name in batch]


def _unless_kept(model: Networks, same: Tensor) -> Tensor | None:
    return None if model.choices.false_negatives == "keep" else same


def _next_or_own(model: Networks, batch: Batch) -> Block:
    """The next sentence of each document; at its end, the sentence itself."""
    ids, attention = stack([tokens(batch), tokens(batch, "next_")], model.vocabulary.pad)
    known_B1 = batch["has_next"].bool()[:, None]
    own_ids, next_ids = ids.chunk(2)
    own_attention, next_attention = attention.chunk(2)
    return torch.where(known_B1, next_ids, own_ids), torch.where(known_B1, next_attention, own_attention)


def tokens(batch: Batch, column: str = "") -> Block:
    """(token ids, attention) of one column of a batch, such as "next_"."""
    return batch[f"{column}input_ids"], batch[f"{column}attention_mask"]


def same_width(batch: Batch, pad: int, ranks: Ranks) -> dict[str, Tensor]:
    """`batch` with every column padded to its greatest width on any process, for losses that count padding."""
    wide = dict(batch)
    for name in [name for name in batch if name.endswith("input_ids")]:
        attention = name.replace("input_ids", "attention_mask")
        added = ranks.largest(batch[name].shape[1]) - batch[name].shape[1]
        wide[name], wide[attention] = F.pad(batch[name], (0, added), value=pad), F.pad(batch[attention], (0, added))
    return wide


def stack(blocks: Sequence[Block], pad: int) -> Block:
    """Blocks of rows under one another, padded to the widest."""
    width = max(ids.shape[1] for ids, _ in blocks)
    ids, attention = (
        torch.cat([F.pad(block[part], (0, width - block[part].shape[1]), value=value) for block in blocks])
        for part, value in ((0, pad), (1, 0))
    )
    return ids, attention
