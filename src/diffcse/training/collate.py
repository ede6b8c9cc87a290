"""Examples -> token batches, in an order that the seed determines. Edits and dropout are drawn inside the method."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import xxhash
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from diffcse.method.gather import ALONE, Ranks
from diffcse.text.corpus import Corpus

PAIR = ("", "positive_", "hard_negative_")
"""Prefixes of a batch's names for the columns of a pair or triplet; the anchors have none: `input_ids`."""


class Neighbours(Sequence[tuple[str, str | None]]):
    """A corpus of documents as (sentence, its next sentence or None). Sentences in `left_out` are nobody's next one."""

    def __init__(self, corpus: Corpus, left_out: Collection[int] = ()) -> None:
        assert corpus.following is not None
        self.corpus, self.following, self.left_out = corpus, corpus.following, frozenset(left_out)

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, index: Any) -> Any:
        next_ = int(self.following[index])
        return self.corpus[index], None if next_ < 0 or next_ in self.left_out else self.corpus[next_]


def epoch_order(size: int, seed: int, epoch: int) -> npt.NDArray[np.uint32]:
    """The indices 0 ... size - 1 in an order that (seed, epoch) alone determines.

    >>> sorted(epoch_order(4, seed=0, epoch=0).tolist())
    [0, 1, 2, 3]
    """
    return np.random.default_rng([seed, epoch]).permutation(np.arange(size, dtype=np.uint32))


class Batches:
    """The batches of each update.

    An epoch's last examples are left out if they do not fill a batch. Its last update has fewer batches if
    `accumulation` does not divide their number. Each of several processes gets its rows of every batch.
    """

    def __init__(
        self,
        examples: Sequence[Any],
        collate: Collate,
        *,
        batch_size: int,
        accumulation: int,
        seed: int,
        ranks: Ranks = ALONE,
        crop: Callable[[str, int, int], Any] | None = None,
    ) -> None:
        """`crop`: makes a pair of a text, by the number of the forward pass and of the row in its batch."""
        self.examples, self.collate, self.batch_size, self.accumulation = examples, collate, batch_size, accumulation
        self.ranks = ranks
        self.per_epoch = updates_per_epoch(len(examples), batch_size, accumulation)
        self._seed, self._epoch, self._crop = seed, -1, crop

    def __getitem__(self, update: int) -> list[tuple[int, dict[str, Tensor]]]:
        """Each batch of `update` (from 0), with the number of its forward pass in the whole run."""
        epoch, index = divmod(update, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, epoch_order(len(self.examples), self._seed, epoch)
        batches = []
        for part in range(self.accumulation):
            start = (index * self.accumulation + part) * self.batch_size
            rows = self._order[start : start + self.batch_size].tolist()
            if len(rows) == self.batch_size:
                share = self.batch_size // self.ranks.count
                first, number = self.ranks.rank * share, update * self.accumulation + part
                examples = [self.examples[row] for row in rows[first : first + share]]
                if self._crop is not None:
                    examples = [self._crop(text, number, first + place) for place, text in enumerate(examples)]
                batches.append((number, self.collate(examples)))
        return batches


def updates_per_epoch(sentences: int, batch_size: int, accumulation: int) -> int:
    """Weight updates in one pass: incomplete batches are left out, an incomplete accumulation counts.

    >>> updates_per_epoch(80, batch_size=8, accumulation=4)
    3
    """
    return math.ceil((sentences // batch_size) / accumulation)


def sentences_seen(steps: int, sentences: int, batch_size: int, accumulation: int) -> int:
    """How many sentences `steps` updates read, repeated ones included.

    >>> sentences_seen(6, 80, batch_size=8, accumulation=4)
    160
    """
    batches = sentences // batch_size
    passes, rest = divmod(steps, updates_per_epoch(sentences, batch_size, accumulation))
    return (passes * batches + min(rest * accumulation, batches)) * batch_size


class Collate:
    """Tokenises examples, cuts them to `max_tokens`, and pads them on the right to the longest of the batch.

    Sentences become `input_ids` and `attention_mask` (B, T). Tuples of two or three are pairs or triplets: every column
    has these tensors (`positive_...`, `hard_negative_...`) and a `..._key` (B,), equal for equal sentences. With
    `neighbours`, tuples are a sentence and its next one or None: `next_...`, keys, and `has_next` (B,). `truncated` is
    the number of examples with a sentence that was cut.
    `prompt` is put before every sentence, as in the encoder that ships.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, max_tokens: int, *, neighbours: bool = False, prompt: str = ""
    ) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.neighbours = neighbours
        self.prompt = prompt

    def __call__(self, examples: Sequence[str] | Sequence[tuple[str | None, ...]]) -> dict[str, Tensor]:
        rows = [(example,) if isinstance(example, str) else example for example in examples]
        columns = list(zip(*rows, strict=True))
        names = ("", "next_") if self.neighbours else PAIR
        batch: dict[str, Tensor] = {}
        cut = torch.zeros(len(rows), dtype=torch.bool)
        for name, column in zip(names, columns, strict=False):
            tokens = self.tokenizer(
                [self.prompt + (sentence or "") for sentence in column],
                truncation=True,
                max_length=self.max_tokens,
                padding=True,
                return_tensors="pt",
            )
            batch[f"{name}input_ids"] = tokens["input_ids"]
            batch[f"{name}attention_mask"] = tokens["attention_mask"]
            if tokens.encodings:
                cut |= torch.tensor([bool(encoding.overflowing) for encoding in tokens.encodings])
            else:  # a tokenizer without a Rust backend does not report what it cut
                whole = self.tokenizer([self.prompt + (s or "") for s in column], verbose=False)["input_ids"]
                full = [len(ids) for ids in whole]
                cut |= torch.tensor(full) > self.max_tokens
            if len(columns) > 1:
                # A sentence without a next one takes its own place there; has_next excludes it.
                texts = [own if text is None else text for own, text in zip(columns[0], column, strict=True)]
                batch[f"{name or 'anchor_'}key"] = torch.tensor([_key(str(text)) for text in texts])
        if self.neighbours:
            batch["has_next"] = torch.tensor([sentence is not None for sentence in columns[1]])
        return {**batch, "truncated": cut.sum()}


def _key(sentence: str) -> int:
    """63 bits that differ between different sentences."""
    return xxhash.xxh3_64_intdigest(sentence.encode()) >> 1
