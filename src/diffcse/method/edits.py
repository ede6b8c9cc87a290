"""x -> x′ -> x″ -> r: editing a sentence, and marking what changed.

An editor is one class here and one line in `config.EDITS`. All randomness comes from `draws`, addressed by (seed, step,
row, position), so a resumed or re-sharded run edits the same tokens in the same way.

Shape suffixes: R rows, T token positions of x, W token positions of x″, M chosen positions, V vocabulary.
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
from diffcse.method.sampling import tokens_at

# Streams of random numbers, one per purpose.
_CHOOSE, _KIND, _RANDOM_TOKEN, _SAMPLE, _EDITOR = range(5)


@dataclass(frozen=True)
class Vocabulary:
    """The token ids that editing needs, read from a tokenizer."""

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
    """r, int64: 1 at a replaced token, an inserted one, or one whose predecessor was deleted."""
    editable: Tensor
    """Positions whose label could have been 1."""
    original: Tensor
    """The token of x that stands here, -1 for an inserted one."""
    masked: Tensor
    """x′: the input of the masked language model; without one, x″."""
    chosen: Tensor
    """Positions that the editor drew: masked, replaced or inserted tokens, or those after a deleted one."""


@dataclass(frozen=True)
class Draw:
    """The address of a batch's random numbers."""

    address: tuple[int, ...]
    """(seed, step): the batch's place in the run."""
    rows_R: Tensor
    """The rows' numbers in the global batch, distinct for each view: (R,) int64."""

    def uniforms(self, stream: int, width: int) -> Tensor:
        """(R, width) in [0, 1)."""
        return draws.uniforms((*self.address, stream), self.rows_R, width)

    def integers(self, stream: int, width: int, below: int) -> Tensor:
        """(R, width) in [0, below)."""
        return draws.integers((*self.address, stream), self.rows_R, width, below)


@dataclass(frozen=True)
class Tools:
    """The settings and models of the editors."""

    vocabulary: Vocabulary
    mask_ratio: float
    """Share of a sentence's tokens to edit."""
    sampling: Sampling = "sample"
    """How a generator's distribution becomes a token."""
    temperature: float = 1.0
    """Divides the logits before a draw."""
    scope: EditScope = "masked"
    """`masked` edits the chosen positions only. `all` takes the generator's token at every real position but the first
    (as the 2022 reference code does)."""
    generator: PreTrainedModel | None = None
    """A masked language model."""
    causal_generator: PreTrainedModel | None = None
    """A causal language model."""
    packed: bool = True
    """Run the models without padding, where their architecture can."""
    rows: int | None = None
    """Rows that the models read at once; None: all."""


class Editor(ABC):
    """A way to edit sentences. Each subclass names its line in `config.EDITS`.

    A new editor:

        class Swap(Editor, name="swap"):
            def __call__(self, ids_RT, attention_RT, tools, draw):
                ...
                return Edited(...)
    """

    registry: ClassVar[dict[str, Editor]] = {}

    def __init_subclass__(cls, *, name: str) -> None:
        if name not in EDITS:
            raise TypeError(f"editor {name!r} is not in config.EDITS. Add its line there")
        Editor.registry[name] = cls()

    @abstractmethod
    def __call__(self, ids_RT: Tensor, attention_RT: Tensor, tools: Tools, draw: Draw) -> Edited:
        """x″ and r of every row. The edits of a row depend only on its tokens and its number."""


@torch.no_grad()
def edit(ids_RT: Tensor, attention_RT: Tensor, editors: Sequence[str], tools: Tools, draw: Draw) -> Edited:
    """x″ and r (DiffCSE, section 3, equation 2; editors other than "mlm": section 5).

    With several editors, each row draws one of them with equal probability.
    """
    if not len(ids_RT):  # models fail on zero rows
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
    wide = [widened(part, width, tools.vocabulary) for part in parts]
    names = [field.name for field in fields(Edited)]
    return Edited(**{name: torch.cat([getattr(part, name) for part in wide])[back_R] for name in names})


def widened(copy: Edited, width: int, vocabulary: Vocabulary) -> Edited:
    """`copy` with padding on the right up to `width` tokens."""
    added = width - copy.ids.shape[1]
    empty = {"ids": vocabulary.pad, "masked": vocabulary.pad, "original": -1}
    return Edited(
        **{
            field.name: F.pad(getattr(copy, field.name), (0, added), value=empty.get(field.name, 0))
            for field in fields(Edited)
        }
    )


# ---- the editors -----------------------------------------------------------------------------------------------------


class Mlm(Editor, name="mlm"):
    """A masked language model fills masked positions: the paper's choice."""

    def __call__(self, ids_RT: Tensor, attention_RT: Tensor, tools: Tools, draw: Draw) -> Edited:
        masked_RT, chosen_RT = mask_tokens(ids_RT, attention_RT, tools.vocabulary, tools.mask_ratio, draw)
        filled_RT = _filled(ids_RT, attention_RT, chosen_RT, tools)
        edited_RT = ids_RT.clone()
        points_RT = draw.uniforms(_SAMPLE, ids_RT.shape[1])
        edited_RT[filled_RT] = _fill(tools.generator, masked_RT, attention_RT, filled_RT, tools, points_RT)
        return _replaced(ids_RT, attention_RT, edited_RT, chosen_RT, tools, masked_RT)


class CausalLm(Editor, name="causal_lm"):
    """Each chosen token t is drawn from a causal model's p(· | x_<t), in one pass over x (not over its own edits)."""

    def __call__(self, ids_RT: Tensor, attention_RT: Tensor, tools: Tools, draw: Draw) -> Edited:
        chosen_RT = _choose(ids_RT, attention_RT, tools, draw)
        chosen_RT[:, 0] = False  # no token before it predicts it
        filled_RT = _filled(ids_RT, attention_RT, chosen_RT, tools)
        # The token at t is predicted at t - 1.
        before_RT = torch.cat([filled_RT[:, 1:], torch.zeros_like(filled_RT[:, :1])], 1)
        edited_RT = ids_RT.clone()
        points_RT = draw.uniforms(_SAMPLE, ids_RT.shape[1]).roll(-1, 1)
        edited_RT[filled_RT] = _fill(tools.causal_generator, ids_RT, attention_RT, before_RT, tools, points_RT)
        return _replaced(ids_RT, attention_RT, edited_RT, chosen_RT, tools)


class Replace(Editor, name="replace"):
    """Chosen tokens become uniformly random ones, never special ones. Needs no generator."""

    def __call__(self, ids_RT: Tensor, attention_RT: Tensor, tools: Tools, draw: Draw) -> Edited:
        chosen_RT = _choose(ids_RT, attention_RT, tools, draw)
        edited_RT = torch.where(chosen_RT, _random_words(tools, draw, ids_RT.shape[1]), ids_RT)
        return _replaced(ids_RT, attention_RT, edited_RT, chosen_RT, tools)


class Insert(Editor, name="insert"):
    """[MASK]s are inserted at random gaps, `mask_ratio` of the words, and filled (section 5.2)."""

    def __call__(self, ids_RT: Tensor, attention_RT: Tensor, tools: Tools, draw: Draw) -> Edited:
        masked_RW, attention_RW, inserted_RW, original_RW = _open_gaps(ids_RT, attention_RT, tools, draw)
        edited_RW = masked_RW.clone()
        points_RW = draw.uniforms(_SAMPLE, masked_RW.shape[1])
        edited_RW[inserted_RW] = _fill(tools.generator, masked_RW, attention_RW, inserted_RW, tools, points_RW)
        return _inserted(edited_RW, attention_RW, inserted_RW, original_RW, masked_RW, tools)


class InsertRandom(Editor, name="insert_random"):
    """As `Insert`, with uniformly random tokens, never special ones. Needs no generator."""

    def __call__(self, ids_RT: Tensor, attention_RT: Tensor, tools: Tools, draw: Draw) -> Edited:
        masked_RW, attention_RW, inserted_RW, original_RW = _open_gaps(ids_RT, attention_RT, tools, draw)
        edited_RW = torch.where(inserted_RW, _random_words(tools, draw, masked_RW.shape[1]), masked_RW)
        return _inserted(edited_RW, attention_RW, inserted_RW, original_RW, edited_RW, tools)


class Delete(Editor, name="delete"):
    """`mask_ratio` of the tokens are removed; label 1 = the token before this one was removed (section 5.2)."""

    def __call__(self, ids_RT: Tensor, attention_RT: Tensor, tools: Tools, draw: Draw) -> Edited:
        real_RT = attention_RT.bool()
        word_RT = real_RT & ~tools.vocabulary.is_special(ids_RT)
        words_R = word_RT.sum(1)
        # At least one word of a sentence stays.
        share_R = _share(words_R, tools.mask_ratio, ids_RT.shape[1])
        gone_RT = _exactly(share_R.minimum((words_R - 1).clamp(min=0)), word_RT, draw)
        could_RT = word_RT & (words_R > 1)[:, None]
        after_RT, editable_RT = (
            torch.cat([torch.zeros_like(where_RT[:, :1]), where_RT[:, :-1]], 1) for where_RT in (gone_RT, could_RT)
        )
        kept_RT = real_RT & ~gone_RT
        # Kept tokens move together; the rest of the row is padding.
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
    """The positions that `mask_tokens` would choose, for editors that keep the length: (R, T) bool."""
    word_RT = attention_RT.bool() & ~tools.vocabulary.is_special(ids_RT)
    return word_RT & (draw.uniforms(_CHOOSE, ids_RT.shape[1]) < tools.mask_ratio)


def _share(words_R: Tensor, ratio: float, most: int) -> Tensor:
    """`ratio` of each sentence's words, rounded half up, at least 1 if it has any: (R,) int64."""
    # From a table: a float32 product can round differently from `longest_copy`.
    shares = [min(words, _part(words, ratio)) for words in range(most + 1)]
    return torch.tensor(shares, device=words_R.device)[words_R]


def _part(tokens: int, ratio: float) -> int:
    return max(1, int(tokens * ratio + 0.5))


def _exactly(number_R: Tensor, candidates_RT: Tensor, draw: Draw) -> Tensor:
    """`number_R` of each row's candidates, drawn without replacement: (R, T) bool."""
    points_RT = torch.where(candidates_RT, draw.uniforms(_CHOOSE, candidates_RT.shape[1]), 2.0)
    rank_RT = points_RT.argsort(dim=1, stable=True).argsort(dim=1)
    return candidates_RT & (rank_RT < number_R[:, None])


def _open_gaps(ids_RT: Tensor, attention_RT: Tensor, tools: Tools, draw: Draw) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sentences with [MASK]s inserted: (ids, attention, where inserted, the tokens of x), all (R, W).

    There is a gap before every real token but the first. W is the largest possible for this T, so that no size has to
    be read back from the device.
    """
    rows, width = ids_RT.shape
    real_RT = attention_RT.bool()
    gap_RT = real_RT.clone()
    gap_RT[:, 0] = False
    words_R = (real_RT & ~tools.vocabulary.is_special(ids_RT)).sum(1)
    opened_RT = _exactly(_share(words_R, tools.mask_ratio, width), gap_RT, draw)
    # The token at t moves up by the number of gaps opened at or before it.
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
    """The most tokens that a sentence of `tokens` can have after insertions."""
    return tokens + _part(tokens, ratio)


def _inserted(
    edited_RW: Tensor, attention_RW: Tensor, inserted_RW: Tensor, original_RW: Tensor, masked_RW: Tensor, tools: Tools
) -> Edited:
    return Edited(
        ids=edited_RW,
        attention=attention_RW,
        labels=inserted_RW.long(),
        # A special token of the sentence cannot be an inserted one.
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
    """The result of an editor that keeps the length: r = 1[x″ ≠ x], so a restored token counts as original."""
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
    """Positions that take a generator's token: (R, T) bool."""
    real_RT = attention_RT.bool()
    return real_RT & ~_starts(real_RT) if tools.scope == "all" else chosen_RT


def _starts(real_RT: Tensor) -> Tensor:
    start_RT = torch.zeros_like(real_RT)
    start_RT[:, 0] = True
    return start_RT


def _random_words(tools: Tools, draw: Draw, width: int) -> Tensor:
    words = tools.vocabulary.words(draw.rows_R.device)
    return words[draw.integers(_RANDOM_TOKEN, width, len(words))]


def _fill(
    generator: PreTrainedModel | None,
    ids_RT: Tensor,
    attention_RT: Tensor,
    where_RT: Tensor,
    tools: Tools,
    points_RT: Tensor,
) -> Tensor:
    """The generator's tokens at the given positions, drawn at `points_RT`: (M,)."""
    if generator is None:
        raise InputError("these edits need a language model. Set method.generator")
    return tokens_at(
        generator,
        ids_RT,
        attention_RT,
        where_RT,
        points_RT,
        vocabulary=tools.vocabulary.size,
        sampling=tools.sampling,
        temperature=tools.temperature,
        packed=tools.packed,
    )
