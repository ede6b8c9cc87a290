"""Examples -> token batches. Nothing random happens here: edits and dropout are drawn inside the method."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
import xxhash
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from diffcse.text.corpus import Corpus

PAIR = ("", "positive_", "hard_negative_")
"""How the batch names the columns of a pair or triplet; the anchors' are plain `input_ids`."""


class Neighbours(Sequence[tuple[str, str | None]]):
    """A corpus of documents as (sentence, the one that follows it or None); one of `left_out` follows none."""

    def __init__(self, corpus: Corpus, left_out: Collection[int] = ()) -> None:
        assert corpus.following is not None
        self.corpus, self.following, self.left_out = corpus, corpus.following, frozenset(left_out)

    def __len__(self) -> int:
        return len(self.corpus)

    def __getitem__(self, index: Any) -> Any:
        next_ = int(self.following[index])
        return self.corpus[index], None if next_ < 0 or next_ in self.left_out else self.corpus[next_]


class Collate:
    """Tokenise, cut to `max_tokens`, pad on the right to the batch's longest.

    Sentences give `input_ids` and `attention_mask` (B, T). Tuples of two or three are pairs or triplets, and give the
    same of every column (`positive_...`, `hard_negative_...`) and its `..._key` (B,), equal where sentences are;
    with `neighbours` they are a sentence and its next one or None, and give `next_...`, keys and `has_next` (B,).
    Beside them always `truncated`: in how many examples a sentence was cut.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_tokens: int, *, neighbours: bool = False) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.neighbours = neighbours

    def __call__(self, examples: Sequence[str] | Sequence[tuple[str | None, ...]]) -> dict[str, Tensor]:
        rows = [(example,) if isinstance(example, str) else example for example in examples]
        columns = list(zip(*rows, strict=True))
        names = ("", "next_") if self.neighbours else PAIR
        batch: dict[str, Tensor] = {}
        cut = torch.zeros(len(rows), dtype=torch.bool)
        for name, column in zip(names, columns, strict=False):
            tokens = self.tokenizer(
                [sentence or "" for sentence in column],
                truncation=True,
                max_length=self.max_tokens,
                padding=True,
                return_tensors="pt",
            )
            batch[f"{name}input_ids"] = tokens["input_ids"]
            batch[f"{name}attention_mask"] = tokens["attention_mask"]
            if tokens.encodings:
                cut |= torch.tensor([bool(encoding.overflowing) for encoding in tokens.encodings])
            else:  # a tokenizer without a Rust backend does not say what it cut
                full = [len(ids) for ids in self.tokenizer([s or "" for s in column], verbose=False)["input_ids"]]
                cut |= torch.tensor(full) > self.max_tokens
            if len(columns) > 1:
                # A sentence that no other follows stands for its own next one.
                texts = [own if text is None else text for own, text in zip(columns[0], column, strict=True)]
                batch[f"{name or 'anchor_'}key"] = torch.tensor([_key(str(text)) for text in texts])
        if self.neighbours:
            batch["has_next"] = torch.tensor([sentence is not None for sentence in columns[1]])
        return {**batch, "truncated": cut.sum()}


def _key(sentence: str) -> int:
    """63 bits that tell sentences apart."""
    return xxhash.xxh3_64_intdigest(sentence.encode()) >> 1
