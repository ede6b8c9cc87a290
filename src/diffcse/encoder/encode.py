"""Sentences -> embeddings, with what ships: encoder, tokenizer, pooling.

Sentences are encoded longest first in batches bounded by tokens, not by count, so that padding stays small and
memory flat; results come back in the order given.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import get_args

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diffcse.config import EncoderPooling, Precision
from diffcse.errors import InputError
from diffcse.method.heads import pooled
from diffcse.method.parts import has_pooler


@dataclass(frozen=True)
class Encoder:
    """f: a Hugging Face encoder with its tokenizer and pooling. Calling it embeds sentences."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    pooling: EncoderPooling
    """How token vectors become one sentence vector: see `method.heads.pool`. "pooler": the checkpoint's own trained
    head, tanh(dense([CLS])), which is then part of `model`."""
    max_tokens: int
    """Longer sentences are cut to this many tokens."""
    normalised: bool = False
    """Whether embeddings are scaled to length 1."""
    note: str = ""
    """Who chose the pooling, in words: the folder, the caller, or what the checkpoint was recognised as."""

    def __post_init__(self) -> None:
        if self.pooling not in get_args(EncoderPooling):
            raise InputError(f"pooling {self.pooling!r}: must be one of {', '.join(get_args(EncoderPooling))}")
        if self.pooling == "pooler" and not has_pooler(self.model):
            raise InputError(
                f'pooling "pooler": this {type(self.model).__name__} has no pooler head: load it with '
                'load(..., pooling="pooler"), or choose another pooling'
            )

    @property
    def width(self) -> int:
        """H, the embedding's dimension."""
        return int(self.model.config.hidden_size)

    def __call__(self, sentences: Sequence[str], *, batch_tokens: int = 4096, bf16: bool = False) -> np.ndarray:
        """Embeddings, (len(sentences), H) float32, without dropout.

        Args:
            sentences: any Unicode strings, the empty one included.
            batch_tokens: padded tokens in one forward pass, at most (one sentence always fits).
            bf16: compute in bf16 autocast: faster where the hardware has it, cosines exact to about 1e-3.

        Raises:
            InputError: an item is not a Unicode string, or one string was given where a list is asked.
        """
        if isinstance(sentences, str):
            raise InputError("one string was given, not a list of sentences: put it in [ ]")
        for index, sentence in enumerate(sentences):
            if not isinstance(sentence, str):
                raise InputError(f"sentence {index} is a {type(sentence).__name__}, not a string")
            if sentence.encode(errors="ignore").decode() != sentence:
                raise InputError(
                    f"sentence {index} holds a lone surrogate, which is no Unicode text: {sentence[:60]!r}"
                )
        result = np.zeros((len(sentences), self.width), dtype=np.float32)
        if not len(sentences):
            return result
        encoded = self.tokenizer(
            list(sentences), truncation=True, max_length=self.max_tokens, return_attention_mask=False
        )["input_ids"]
        device = self.model.device
        was_training = self.model.training
        self.model.eval()
        autocast = torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()
        try:
            with torch.inference_mode(), autocast:
                for rows in _batches([len(ids) for ids in encoded], batch_tokens):
                    batch = self.tokenizer.pad(
                        {"input_ids": [encoded[row] for row in rows]},
                        padding_side="right",
                        return_attention_mask=True,
                        return_tensors="pt",
                    ).to(device)
                    h = self._pooled(batch["input_ids"], batch["attention_mask"])
                    if self.normalised:
                        h = torch.nn.functional.normalize(h, dim=-1)
                    result[rows] = h.cpu().numpy()
        finally:
            self.model.train(was_training)
        return result

    def _pooled(self, x_RT: Tensor, mask_RT: Tensor) -> Tensor:
        """h, (R, H) float32; sums are taken in float32 also under autocast."""
        if self.pooling == "pooler":
            return self.model(input_ids=x_RT, attention_mask=mask_RT).pooler_output.float()
        return pooled(self.model, x_RT, mask_RT, self.pooling)


def use_bf16(precision: Precision) -> bool:
    """Whether to compute in bf16 autocast: as asked, or ("auto") where the hardware multiplies in it."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check is not None and check() for check in checks)


def _batches(lengths: list[int], batch_tokens: int) -> list[list[int]]:
    """Row numbers in batches, longest first; rows x longest <= batch_tokens unless it is a single row."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        if not batches or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > batch_tokens:
            batches.append([])
        batches[-1].append(row)
    return batches


def position_limit(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """The longest input in tokens that the checkpoint itself takes: its positions and its tokenizer's limit.

    Families that count positions from beyond the padding index (RoBERTa's) have that many fewer.
    """
    positions = getattr(model.config, "max_position_embeddings", None) or 512
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            positions -= module.padding_idx + 1
    return int(min(positions, tokenizer.model_max_length))
