"""x -> x′ -> x″ -> r: editing a sentence, and noting what changed.

An editor is one class and one line of `config.EDITS`; nothing else knows their number. All randomness comes from
`draws`, addressed by (seed, step, row, position): no collator draws anything, so a resumed or re-sharded run edits
the same tokens in the same way.

Shape suffixes: R rows (both views of B sentences), T token positions of x, W token positions of x″, M chosen
positions, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from diffcse.config import EDITS, EditScope, Sampling
from diffcse.errors import InputError
from diffcse.method import draws
from diffcse.method.fast import before_vocabulary

# Streams keep the draws for different purposes apart.
_CHOOSE, _KIND, _RANDOM_TOKEN, _SAMPLE, _EDITOR = range(5)


@dataclass(frozen=True)
class Vocabulary:
    """The token ids that editing needs to know; read from a tokenizer, never written as numbers."""

    size: int
    mask: int
    special: tuple[int, ...]
    pad: int = 0

    def is_special(self, ids_RT: Tensor) -> Tensor:
        """Where a special token stands: (R, T) bool."""
        return torch.isin(ids_RT, torch.tensor(self.special, device=ids_RT.device))

    def words(self, device: torch.device) -> Tensor:
        """Ids of all tokens that are not special: (words,) int64."""
        ids = torch.arange(self.size, device=device)
        return ids[~self.is_special(ids)]


@dataclass(frozen=True)
class Edited:
    """The edited copies of a batch, all (R, W); W = T unless an editor inserts."""

    ids: Tensor
    """x″: token ids."""
    attention: Tensor
    """1 at the real tokens of x″."""
    labels: Tensor
    """r, int64: 1 where the editor's trace stands (replaced, inserted, or the token before is gone)."""
    editable: Tensor
    """Positions whose label could have come out as 1."""
    original: Tensor
    """The token of x that stands here, -1 for an inserted one."""
    masked: Tensor
    """x′: what a masked language model read; where none took part, x″."""
    chosen: Tensor
    """Positions that the editor drew: masked, replaced or inserted tokens, those after a deleted one."""


@dataclass(frozen=True)
class Draw:
    """Where a batch's random numbers come from."""

    address: tuple[int, ...]
    """(seed, step): the batch's place in the run."""
    rows_R: Tensor
    """The rows' numbers in the global batch, both views told apart: (R,) int64."""

    def uniforms(self, stream: int, width: int) -> Tensor:
        """(R, width) in [0, 1)."""
        return draws.uniforms((*self.address, stream), self.rows_R, width)

    def integers(self, stream: int, width: int, below: int) -> Tensor:
        """(R, width) in [0, below)."""
        return draws.integers((*self.address, stream), self.rows_R, width, below)


@dataclass(frozen=True)
class Tools:
    """What editors work with."""

    vocabulary: Vocabulary
    mask_ratio: float
    """Share of a sentence's tokens that are edited."""
    sampling: Sampling = "sample"
    """How a generator's distribution becomes a token."""
    temperature: float = 1.0
    """Divides the logits before a draw."""
    scope: EditScope = "masked"
    """`masked` leaves every position that was not chosen as it was; `all` takes the generator's token at every real
    position but the first, which keeps the start token (as the 2022 reference code does)."""
    generator: PreTrainedModel | None = None
    """A masked language model."""
    causal_generator: PreTrainedModel | None = None
    """A causal language model."""
    packed: bool = True
    """Run them without padding, where their architecture can."""
    rows: int | None = None
    """How many rows they read at once; None: all."""


class Editor(ABC):
    """A way to edit sentences. Subclasses give the name under which `config.EDITS` lists them.

    Adding one:

        class Swap(Editor, name="swap"):
            def __call__(self, ids_RT, attention_RT, tools, draw):
                ...
                return Edited(...)
    """

    registry: ClassVar[dict[str, Editor]] = {}

    def __init_subclass__(cls, *, name: str) -> None:
        if name not in EDITS:
            raise TypeError(f"editor {name!r} is not in config.EDITS: add its line there")
        Editor.registry[name] = cls()

    @abstractmethod
    def __call__(self, ids_RT: Tensor, attention_RT: Tensor, tools: Tools, draw: Draw) -> Edited:
        """x″ and r of every row. Rows are independent: a row's edits depend on its tokens and number alone."""


@torch.no_grad()
def edit(ids_RT: Tensor, attention_RT: Tensor, editors: Sequence[str], tools: Tools, draw: Draw) -> Edited:
    """x″ and r (DiffCSE, section 3, equation 2; other editors than "mlm": section 5).

    Of several editors each row draws one, all being equally likely.
    """
    if not len(ids_RT):  # no model runs on no rows
        nowhere_RT = torch.zeros_like(ids_RT, dtype=torch.bool)
        return Edited(ids_RT, attention_RT, torch.zeros_like(ids_RT), nowhere_RT, ids_RT, ids_RT, nowhere_RT)
    size = tools.rows or len(ids_RT)
    if len(editors) == 1 and size >= len(ids_RT):
        return Editor.registry[editors[0]](ids_RT, attention_RT, tools, draw)
    which_R = draw.integers(_EDITOR, 1, len(editors)).squeeze(1)
    parts, order = [], []
    for index, name in enumerate(editors):
        for rows_N in (which_R == index).nonzero().squeeze(1).split(size):
            if not len(rows_N):
                continue
            own = Draw(draw.address, draw.rows_R[rows_N])
            parts.append(Editor.registry[name](ids_RT[rows_N], attention_RT[rows_N], tools, own))
            order.append(rows_N)
    back_R = torch.cat(order).argsort()
    width = max(part.ids.shape[1] for part in parts)
    empty = {"ids": tools.vocabulary.pad, "masked": tools.vocabulary.pad, "original": -1}

    def together(name: str) -> Tensor:
        columns = [getattr(part, name) for part in parts]
        wide = [F.pad(c, (0, width - c.shape[1]), value=empty.get(name, 0)) for c in columns]
        return torch.cat(wide)[back_R]

    return Edited(**{field.name: together(field.name) for field in fields(Edited)})


# ---- the editors -----------------------------------------------------------------------------------------------------


class Mlm(Editor, name="mlm"):
    """Masked positions are filled by a masked language model: the paper's choice."""

    def __call__(self, ids_RT: Tensor, attention_RT: Tensor, tools: Tools, draw: Draw) -> Edited:
        masked_RT, chosen_RT = mask_tokens(ids_RT, attention_RT, tools.vocabulary, tools.mask_ratio, draw)
        filled_RT = _filled(ids_RT, attention_RT, chosen_RT, tools)
        edited_RT = ids_RT.clone()
        points_RT = draw.uniforms(_SAMPLE, ids_RT.shape[1])
        edited_RT[filled_RT] = _fill(tools.generator, masked_RT, attention_RT, filled_RT, tools, points_RT)
        return _replaced(ids_RT, attention_RT, edited_RT, chosen_RT, tools, masked_RT)


class CausalLm(Editor, name="causal_lm"):
    """Each chosen token t is drawn from a causal model's p(· | x_<t), in one pass: it reads x, not its own edits."""

    def __call__(self, ids_RT: Tensor, attention_RT: Tensor, tools: Tools, draw: Draw) -> Edited:
        chosen_RT = _choose(ids_RT, attention_RT, tools, draw)
        chosen_RT[:, 0] = False  # nothing stands before it to predict it from
        filled_RT = _filled(ids_RT, attention_RT, chosen_RT, tools)
        # What stands at t is predicted from t - 1.
        before_RT = torch.cat([filled_RT[:, 1:], torch.zeros_like(filled_RT[:, :1])], 1)
        edited_RT = ids_RT.clone()
        points_RT = draw.uniforms(_SAMPLE, ids_RT.shape[1]).roll(-1, 1)
        edited_RT[filled_RT] = _fill(tools.causal_generator, ids_RT, attention_RT, before_RT, tools, points_RT)
        return _replaced(ids_RT, attention_RT, edited_RT, chosen_RT, tools)


class Replace(Editor, name="replace"):
    """Chosen tokens become uniformly random ones, special tokens excepted. Needs no generator."""

    def __call__(self, ids_RT: Tensor, attention_RT: Tensor, tools: Tools, draw: Draw) -> Edited:
        chosen_RT = _choose(ids_RT, attention_RT, tools, draw)
        edited_RT = torch.where(chosen_RT, _random_words(tools, draw, ids_RT.shape[1]), ids_RT)
        return _replaced(ids_RT, attention_RT, edited_RT, chosen_RT, tools)


class Insert(Editor, name="insert"):
    """[MASK]s are inserted at random gaps, as many as `mask_ratio` of the length, and filled (section 5.2)."""

    def __call__(self, ids_RT: Tensor, attention_RT: Tensor, tools: Tools, draw: Draw) -> Edited:
        masked_RW, attention_RW, inserted_RW, original_RW = _open_gaps(ids_RT, attention_RT, tools, draw)
        edited_RW = masked_RW.clone()
        points_RW = draw.uniforms(_SAMPLE, masked_RW.shape[1])
        edited_RW[inserted_RW] = _fill(tools.generator, masked_RW, attention_RW, inserted_RW, tools, points_RW)
        return _inserted(edited_RW, attention_RW, inserted_RW, original_RW, masked_RW, tools)


class InsertRandom(Editor, name="insert_random"):
    """As `Insert`, with uniformly random tokens, special ones excepted. Needs no generator."""

    def __call__(self, ids_RT: Tensor, attention_RT: Tensor, tools: Tools, draw: Draw) -> Edited:
        masked_RW, attention_RW, inserted_RW, original_RW = _open_gaps(ids_RT, attention_RT, tools, draw)
        edited_RW = torch.where(inserted_RW, _random_words(tools, draw, masked_RW.shape[1]), masked_RW)
        return _inserted(edited_RW, attention_RW, inserted_RW, original_RW, edited_RW, tools)


class Delete(Editor, name="delete"):
    """`mask_ratio` of the tokens are removed; label 1 = the token just before this one is gone (section 5.2)."""

    def __call__(self, ids_RT: Tensor, attention_RT: Tensor, tools: Tools, draw: Draw) -> Edited:
        real_RT = attention_RT.bool()
        word_RT = real_RT & ~tools.vocabulary.is_special(ids_RT)
        words_R = word_RT.sum(1)
        # Something is left of every sentence.
        share_R = _share(words_R, tools.mask_ratio, ids_RT.shape[1])
        gone_RT = _exactly(share_R.minimum((words_R - 1).clamp(min=0)), word_RT, draw)
        could_RT = word_RT & (words_R > 1)[:, None]
        after_RT, editable_RT = (
            torch.cat([torch.zeros_like(where_RT[:, :1]), where_RT[:, :-1]], 1) for where_RT in (gone_RT, could_RT)
        )
        kept_RT = real_RT & ~gone_RT
        # Kept tokens move together; what is left over at the end is padding.
        order_RT = (~kept_RT).long().argsort(dim=1, stable=True)
        real_RW = kept_RT.gather(1, order_RT)
        edited_RW = torch.where(real_RW, ids_RT.gather(1, order_RT), tools.vocabulary.pad)
        labels_RW = after_RT.gather(1, order_RT) & real_RW
        return Edited(
            ids=edited_RW,
            attention=real_RW.to(attention_RT.dtype),
            labels=labels_RW.long(),
            editable=editable_RT.gather(1, order_RT) & real_RW,
            original=torch.where(real_RW, edited_RW, -1),
            masked=edited_RW,
            chosen=labels_RW,
        )


# ---- what they share ---------------------------------------------------------------------------------------------


def mask_tokens(
    ids_RT: Tensor, attention_RT: Tensor, vocabulary: Vocabulary, ratio: float, draw: Draw
) -> tuple[Tensor, Tensor]:
    """x′ = m · x: each real, non-special token is chosen with probability `ratio`.

    Of the chosen, 80 % become [MASK], 10 % a uniformly random token, 10 % stay (Devlin et al., 2019, section 3.1).

    Returns:
        (masked ids, chosen), both (R, T).
    """
    width = ids_RT.shape[1]
    maskable_RT = attention_RT.bool() & ~vocabulary.is_special(ids_RT)
    chosen_RT = maskable_RT & (draw.uniforms(_CHOOSE, width) < ratio)
    kind_RT = draw.uniforms(_KIND, width)
    random_RT = draw.integers(_RANDOM_TOKEN, width, vocabulary.size)
    masked_RT = torch.where(chosen_RT & (kind_RT < 0.8), vocabulary.mask, ids_RT)
    masked_RT = torch.where(chosen_RT & (kind_RT >= 0.8) & (kind_RT < 0.9), random_RT, masked_RT)
    return masked_RT, chosen_RT


def _choose(ids_RT: Tensor, attention_RT: Tensor, tools: Tools, draw: Draw) -> Tensor:
    """The positions that `mask_tokens` would choose, the same for every editor that keeps the length: (R, T)."""
    word_RT = attention_RT.bool() & ~tools.vocabulary.is_special(ids_RT)
    return word_RT & (draw.uniforms(_CHOOSE, ids_RT.shape[1]) < tools.mask_ratio)


def _share(words_R: Tensor, ratio: float, most: int) -> Tensor:
    """`ratio` of each sentence's words as a whole number, rounded half up, at least one of a sentence that has any."""
    # Looked up, not computed: in float32 a product can round to another number than `longest_copy` reckons with.
    shares = [min(words, _part(words, ratio)) for words in range(most + 1)]
    return torch.tensor(shares, device=words_R.device)[words_R]


def _part(tokens: int, ratio: float) -> int:
    return max(1, int(tokens * ratio + 0.5))


def _exactly(number_R: Tensor, candidates_RT: Tensor, draw: Draw) -> Tensor:
    """That many of each row's candidates, drawn without replacement: (R, T) bool."""
    points_RT = torch.where(candidates_RT, draw.uniforms(_CHOOSE, candidates_RT.shape[1]), 2.0)
    rank_RT = points_RT.argsort(dim=1, stable=True).argsort(dim=1)
    return candidates_RT & (rank_RT < number_R[:, None])


def _open_gaps(ids_RT: Tensor, attention_RT: Tensor, tools: Tools, draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sentences with [MASK]s inserted: (ids, attention, where inserted, the tokens of x), all (R, W).

    A gap lies before every real token but the first. W is the widest any batch of this T could become, so that its
    size need not be read back from the device.
    """
    rows, width = ids_RT.shape
    real_RT = attention_RT.bool()
    gap_RT = real_RT.clone()
    gap_RT[:, 0] = False
    words_R = (real_RT & ~tools.vocabulary.is_special(ids_RT)).sum(1)
    opened_RT = _exactly(_share(words_R, tools.mask_ratio, width), gap_RT, draw)
    # The token at t moves up by the number of gaps opened at or before it; positions beyond the last one are padding.
    target_RT = torch.arange(width, device=ids_RT.device) + opened_RT.cumsum(1)
    wide = longest_copy(width, tools.mask_ratio)
    original_RW = ids_RT.new_full((rows, wide), -1).scatter(1, target_RT, torch.where(real_RT, ids_RT, -1))
    length_R1 = (real_RT.sum(1) + opened_RT.sum(1))[:, None]
    real_RW = torch.arange(wide, device=ids_RT.device) < length_R1
    inserted_RW = real_RW & (original_RW < 0)
    masked_RW = torch.where(original_RW >= 0, original_RW, tools.vocabulary.pad)
    masked_RW = torch.where(inserted_RW, tools.vocabulary.mask, masked_RW)
    return masked_RW, real_RW.to(attention_RT.dtype), inserted_RW, original_RW


def longest_copy(tokens: int, ratio: float) -> int:
    """The most tokens that a sentence of so many can have after insertions."""
    return tokens + _part(tokens, ratio)


def _inserted(
    edited_RW: Tensor, attention_RW: Tensor, inserted_RW: Tensor, original_RW: Tensor, masked_RW: Tensor, tools: Tools
) -> Edited:
    return Edited(
        ids=edited_RW,
        attention=attention_RW,
        labels=inserted_RW.long(),
        # A special token of the sentence itself could not have been inserted.
        editable=attention_RW.bool() & (inserted_RW | ~tools.vocabulary.is_special(original_RW)),
        original=original_RW,
        masked=masked_RW,
        chosen=inserted_RW,
    )


def _replaced(
    ids_RT: Tensor,
    attention_RT: Tensor,
    edited_RT: Tensor,
    chosen_RT: Tensor,
    tools: Tools,
    masked_RT: Tensor | None = None,
) -> Edited:
    """What an editor that keeps the length has done: r = 1[x″ ≠ x], so an edit that restores the token is none."""
    real_RT = attention_RT.bool()
    every_RT = real_RT & ~_starts(real_RT)
    return Edited(
        ids=edited_RT,
        attention=attention_RT,
        labels=(edited_RT != ids_RT).long(),
        editable=every_RT if tools.scope == "all" else real_RT & ~tools.vocabulary.is_special(ids_RT),
        original=torch.where(real_RT, ids_RT, -1),
        masked=edited_RT if masked_RT is None else masked_RT,
        chosen=chosen_RT,
    )


def _filled(ids_RT: Tensor, attention_RT: Tensor, chosen_RT: Tensor, tools: Tools) -> Tensor:
    """Positions that take a generator's token: (R, T)."""
    real_RT = attention_RT.bool()
    return real_RT & ~_starts(real_RT) if tools.scope == "all" else chosen_RT


def _starts(real_RT: Tensor) -> Tensor:
    start_RT = torch.zeros_like(real_RT)
    start_RT[:, 0] = True
    return start_RT


def _random_words(tools: Tools, draw: Draw, width: int) -> Tensor:
    words = tools.vocabulary.words(draw.rows_R.device)
    return words[draw.integers(_RANDOM_TOKEN, width, len(words))]


def _given(generator: PreTrainedModel | None) -> PreTrainedModel:
    if generator is None:
        raise InputError("these edits need a language model, and none was given: see method.generator")
    return generator


def _fill(
    generator: PreTrainedModel | None,
    ids_RT: Tensor,
    attention_RT: Tensor,
    where_RT: Tensor,
    tools: Tools,
    points_RT: Tensor,
) -> Tensor:
    """The generator's tokens at the given positions, drawn at `points_RT`: (M,)."""
    x_MH, to_logits = before_vocabulary(_given(generator), ids_RT, attention_RT, where_RT, packed=tools.packed)
    rows = _rows_at_once(x_MH.device, tools.vocabulary.size)
    parts = zip(x_MH.split(rows), points_RT[where_RT].split(rows), strict=True)
    return torch.cat([_tokens(to_logits(x_CH), points_C, tools) for x_CH, points_C in parts])


def _rows_at_once(device: torch.device, vocabulary: int) -> int:
    """How many positions' logits are made together.

    On a CPU few enough to stay in a core's cache, many enough to multiply well. Elsewhere every part costs the start
    of a dozen kernels, so a batch's are one part unless they take more than 128 MB.
    """
    return max(1, (1 << (19 if device.type == "cpu" else 25)) // vocabulary)


def _tokens(logits_MV: Tensor, points_M: Tensor, tools: Tools) -> Tensor:
    """The likeliest token of each distribution, or the one drawn from it at its point: (M,)."""
    # A generator may have more output rows than there are tokens (padded to a round number); nobody embeds those.
    logits_MV = logits_MV[:, : tools.vocabulary.size]
    if tools.sampling == "argmax":
        return logits_MV.argmax(-1)
    return _at_quantile(logits_MV.float() / tools.temperature, points_M)


def _at_quantile(logits_MV: Tensor, points_M: Tensor) -> Tensor:
    """Tokens drawn from softmax(logits) by inverting its distribution function at `points_M` in [0, 1): (M,).

    In two steps, first to a block of the vocabulary and then within it: running sums are slow, plain ones are not.
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
    # Rounding can put a point beyond its block's last token; the last one that has any mass is meant.
    last_M1 = (mass_MB > 0).long().cumsum(1).argmax(1, keepdim=True)
    token_M1 = torch.searchsorted(mass_MB.cumsum(-1), within_M1, right=True).minimum(last_M1)
    return (block_M1 * _BLOCK + token_M1).squeeze(1)


_BLOCK = 128
