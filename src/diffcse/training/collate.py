"""Sentences -> token batches. Nothing random happens here: edits and dropout are drawn inside the method."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase


class Collate:
    """Tokenise, cut to `max_tokens`, pad on the right to the batch's longest.

    Gives `input_ids` and `attention_mask` (B, T) and `truncated`, the number of sentences cut.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens

    def __call__(self, sentences: Sequence[str]) -> dict[str, Tensor]:
        batch = self.tokenizer(
            list(sentences), truncation=True, max_length=self.max_tokens, padding=True, return_tensors="pt"
        )
        truncated = sum(bool(encoding.overflowing) for encoding in batch.encodings or [])
        return {
            "input_ids": batch["input_ids"],
            "attention_mask": batch["attention_mask"],
            "truncated": torch.tensor(truncated),
        }
