"""Which sentences make a weight update, and which of their tokens are predicted.

A step runs several groups of about `GROUP_TOKENS` tokens. Without next sentences, a group holds sentences of one
length, so it needs no padding and no attention mask. With them, a step holds pairs, whose sentences are sorted by
length into groups that run packed.

The order is a function of (seed, epoch), a mask one of (seed, step, sentence).

Shape suffixes: R sentences of a group, T tokens, M predicted positions, P pairs of sentences, B pairs of a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffcse.errors import InputError
from diffcse.method.edits import Draw, Vocabulary, mask_tokens
from diffcse.pretraining.tokens import Tokens
from diffcse.text.corpus import Corpus

Numbers = npt.NDArray[np.int64]
"""Sentences, by their numbers in the corpus."""

GROUP_TOKENS = 2048
"""Tokens of one pass through the model. More would not fit a core's cache, and a step needs several lengths."""


def split(sentences: int, held_out: int, seed: int) -> tuple[Numbers, Numbers]:
    """(held-out sentences, training sentences), both sorted. Only the seed and the two counts decide."""
    chosen = np.zeros(sentences, dtype=bool)
    chosen[np.random.default_rng([seed, 0]).choice(sentences, held_out, replace=False)] = True
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


def spread(items: Numbers, count: int) -> Numbers:
    """At most `count` of `items`, evenly spread."""
    return items if len(items) <= count else items[np.linspace(0, len(items) - 1, count).astype(np.int64)]


def following_pairs(corpus: Corpus, training: Numbers) -> Numbers:
    """Each training sentence that another training sentence follows, with that follower: (P, 2).

    Raises:
        InputError: the text has fewer than two such pairs.
    """
    assert corpus.following is not None
    follower = np.asarray(corpus.following)[training]
    is_training = np.zeros(len(corpus) + 1, dtype=bool)  # the last entry is that of -1: no follower
    is_training[training] = True
    kept = is_training[follower]
    if np.count_nonzero(kept) < 2:
        raise InputError(
            "fewer than two sentences of this text have a next sentence to learn from. Give running text (an empty "
            "line ends a document), or use --recipe masked"
        )
    return np.stack([training[kept], follower[kept]], axis=1)


class Batches:
    """Groups of sentences of one length; several groups make a step. (seed, epoch) decides the order.

    Every sentence comes once an epoch. The last group of each length may be smaller than the others.

    Args:
        lengths: (N,) tokens of every sentence of the corpus.
        sentences: the sentences to draw from.
        batch_tokens: tokens of a step, at most.
        seed: decides the order.
    """

    def __init__(self, lengths: Numbers, sentences: Numbers, batch_tokens: int, seed: int) -> None:
        self.lengths, self.sentences, self.seed = lengths, sentences, seed
        group_tokens = min(GROUP_TOKENS, batch_tokens)
        self._groups_a_step = max(1, batch_tokens // group_tokens)
        ends = [0]
        for length, count in zip(*np.unique(lengths[sentences], return_counts=True), strict=True):
            rows = max(1, group_tokens // int(length))
            first, last = ends[-1], ends[-1] + int(count)
            ends += [*range(first + rows, last, rows), last]
        self._spans = list(pairwise(ends))
        self.per_epoch = math.ceil(len(self._spans) / self._groups_a_step)
        self._epoch = -1

    def __getitem__(self, step: int) -> list[Numbers]:
        """The groups of update `step`, which is counted from 0."""
        epoch, index = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            random = np.random.default_rng([self.seed, 2, epoch])
            shuffled = random.permutation(self.sentences)
            self._sorted = shuffled[np.argsort(self.lengths[shuffled], kind="stable")]
            self._order, self._epoch = random.permutation(len(self._spans)), epoch
        first = index * self._groups_a_step
        chosen = (self._spans[group] for group in self._order[first : first + self._groups_a_step])
        return [self._sorted[start:end] for start, end in chosen]


class Pairs:
    """Pairs of a sentence and its follower; several pairs make a step. (seed, epoch) decides the order.

    Every pair comes once an epoch, except the last pairs that do not fill a step. Most sentences are in two pairs.

    Args:
        lengths: (N,) tokens of every sentence of the corpus.
        pairs_P2: from `following_pairs`.
        batch_tokens: tokens of a step, on average.
        seed: decides the order.
    """

    def __init__(self, lengths: Numbers, pairs_P2: Numbers, batch_tokens: int, seed: int) -> None:
        self.lengths, self.seed = lengths, seed
        self._pairs_P2 = pairs_P2
        wanted = round(batch_tokens / float(lengths[pairs_P2].sum(axis=1).mean()))
        self._pairs_a_step = min(max(2, wanted), len(pairs_P2))
        self.per_epoch = len(pairs_P2) // self._pairs_a_step
        self._epoch = -1

    def __getitem__(self, step: int) -> Numbers:
        """The pairs of update `step`, which is counted from 0: (B, 2)."""
        epoch, index = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._order = np.random.default_rng([self.seed, 4, epoch]).permutation(len(self._pairs_P2))
            self._epoch = epoch
        return self._pairs_P2[self._order[index * self._pairs_a_step : (index + 1) * self._pairs_a_step]]

    def groups(self, numbers_R: Numbers) -> list[Numbers]:
        """Positions in `numbers_R` that run together: about `GROUP_TOKENS` tokens of similar length."""
        order = np.argsort(self.lengths[numbers_R], kind="stable")
        group = (np.cumsum(self.lengths[numbers_R[order]]) - 1) // GROUP_TOKENS
        return np.split(order, np.flatnonzero(np.diff(group)) + 1)


@dataclass(frozen=True)
class Group:
    """Sentences that run together, with the tokens to predict."""

    inputs: Tensor
    """(R, T) token ids that the model reads."""
    where: Tensor
    """(R, T) bool: positions whose hidden state predicts a token."""
    targets: Tensor
    """(M,) the predicted tokens, row by row."""
    attention: Tensor | None = None
    """(R, T): 1 at tokens, 0 at padding on the right. None if all sentences have one length."""

    @property
    def tokens(self) -> int:
        """Tokens without padding."""
        return self.inputs.numel() if self.attention is None else int(self.attention.sum())


def mlm_group(
    ids_RT: Tensor,
    vocabulary: Vocabulary,
    ratio: float,
    address: tuple[int, ...],
    rows_R: Tensor,
    attention_RT: Tensor | None = None,
) -> Group:
    """Masked copies of sentences; each chosen position predicts its original token.

    Args:
        ratio: share of the tokens to predict.
        address: seed, stream and step of the masks.
        rows_R: (R,) numbers of the sentences, which key the masks too.
    """
    real_RT = torch.ones_like(ids_RT) if attention_RT is None else attention_RT
    masked_RT, chosen_RT = mask_tokens(ids_RT, real_RT, vocabulary, ratio, Draw(address, rows_R))
    return Group(masked_RT, chosen_RT, ids_RT[chosen_RT], attention_RT)


def causal_group(ids_RT: Tensor) -> Group:
    """Sentences for a causal model: every position except the last predicts the token after it."""
    where_RT = torch.ones_like(ids_RT, dtype=torch.bool)
    where_RT[:, -1] = False
    return Group(ids_RT, where_RT, ids_RT[:, 1:].flatten())


@dataclass(frozen=True)
class Grouping:
    """Makes groups of sentences of one text, for one objective, on one device."""

    tokens: Tokens
    lengths: Numbers
    """(N,) tokens of each sentence, special tokens included, when cut to the recipe's max_tokens."""
    vocabulary: Vocabulary
    causal: bool
    mask_ratio: float
    padding: int
    """Id of the padding token."""
    device: torch.device

    def of_one_length(self, numbers_R: Numbers, address: tuple[int, ...]) -> Group:
        """A group without padding."""
        ids_RT = torch.from_numpy(self.tokens.rows(numbers_R, int(self.lengths[numbers_R[0]]))).to(self.device)
        if self.causal:
            return causal_group(ids_RT)
        return mlm_group(ids_RT, self.vocabulary, self.mask_ratio, address, self._on_device(numbers_R))

    def padded(self, numbers_R: Numbers, address: tuple[int, ...]) -> Group:
        """A group of masked sentences of several lengths, padded on the right."""
        lengths_R = self.lengths[numbers_R]
        width = int(lengths_R.max())
        ids_RT = np.full((len(numbers_R), width), self.padding, dtype=np.int64)
        for length in np.unique(lengths_R):
            chosen = lengths_R == length
            ids_RT[chosen, :length] = self.tokens.rows(numbers_R[chosen], int(length))
        attention_RT = (np.arange(width) < lengths_R[:, None]).astype(np.int64)
        ids, rows, attention = (self._on_device(values) for values in (ids_RT, numbers_R, attention_RT))
        return mlm_group(ids, self.vocabulary, self.mask_ratio, address, rows, attention)

    def _on_device(self, values: Numbers) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)
