"""Sentences -> embeddings, with what ships: encoder, tokenizer, pooling.

Sentences are encoded longest first in batches bounded by tokens, not by count, so that rows of a batch are of nearly
one length and memory is flat; results come back in the order given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diffcse.config import EncoderPooling, Precision
from diffcse.encoder.lowered import lowered
from diffcse.errors import InputError
from diffcse.method.fast import ability
from diffcse.method.heads import pooled
from diffcse.method.loading import has_pooler

BATCH_TOKENS = 4096
"""On a CPU every number from 1024 to 4096 is as fast; above, a layer's output no longer stays in the cache."""
_EVEN = 8
"""A batch's width is a multiple of this, and its tokens too, or of eight times as many where they are many. oneDNN
keeps kernels for every shape that a product had: `mini` would grow by 800 MB, not 130, before it had seen them all."""
_ATTENTION_PADDING = 1.25
"""Padded tokens of a batch that runs packed, at most, in units of its budget of real ones."""


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

    def __call__(self, sentences: Sequence[str], *, batch_tokens: int = BATCH_TOKENS, bf16: bool = False) -> np.ndarray:
        """Embeddings, (len(sentences), H) float32, without dropout.

        Args:
            sentences: any Unicode strings, the empty one included.
            batch_tokens: tokens in one forward pass, at most (one sentence always fits): real ones, or where the
                model cannot run without padding (`method.fast.packing`), padded ones.
            bf16: multiply in bf16: faster where the hardware has it, cosines to the exact embeddings above 0.9999.

        Raises:
            InputError: an item is not a Unicode string, or one string was given where a list is asked.
        """
        check_sentences(sentences)
        with self.ready(bf16) as run:
            return run(self.tokens(sentences), batch_tokens)

    def tokens(self, sentences: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each sentence, cut to `max_tokens`, special ones included: int32."""
        if not len(sentences):
            return []
        encoded = self.tokenizer(
            list(sentences), truncation=True, max_length=self.max_tokens, return_attention_mask=False
        )["input_ids"]
        return [np.array(ids, dtype=np.int32) for ids in encoded]

    @contextmanager
    def ready(self, bf16: bool = False) -> Iterator[Callable[[Sequence[np.ndarray], int], np.ndarray]]:
        """Within the block: what makes embeddings of `tokens`, with the weights as they are at its beginning."""
        was_training = self.model.training
        device = self.model.device
        autocast = torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()
        encoder = replace(self, model=lowered(self.model, torch.bfloat16)) if bf16 else self
        encoder.model.eval()

        def run(tokens: Sequence[np.ndarray], batch_tokens: int = BATCH_TOKENS) -> np.ndarray:
            result = np.zeros((len(tokens), self.width), dtype=np.float32)
            packs = self.pooling != "pooler" and ability(encoder.model).packs
            with torch.inference_mode(), autocast:
                for rows in _batches([len(ids) for ids in tokens], batch_tokens, packed=packs):
                    result[rows] = encoder._embed([tokens[row] for row in rows]).cpu().numpy()
            return result

        try:
            yield run
        finally:
            self.model.train(was_training)

    def _embed(self, tokens: list[np.ndarray]) -> Tensor:
        """h of one batch, to which rows without meaning are added so that shapes are few."""
        rows, longest = len(tokens), max(map(len, tokens))
        most = max(longest, self.max_tokens)
        total = sum(map(len, tokens))
        missing = -total % (_EVEN if total < 64 * _EVEN else 8 * _EVEN)
        tokens = [*tokens, *(tokens[0][: missing - i] for i in range(0, missing, longest))]
        length_R1 = torch.tensor([[len(ids)] for ids in tokens])
        attention_RT = (torch.arange(min(longest + -longest % _EVEN, most)) < length_R1).long()
        ids_RT = torch.full_like(attention_RT, self.tokenizer.pad_token_id or 0)
        ids_RT[attention_RT.bool()] = torch.from_numpy(np.concatenate(tokens)).long()
        h = self._pooled(ids_RT.to(self.model.device), attention_RT.to(self.model.device))[:rows]
        return F.normalize(h, dim=-1) if self.normalised else h

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


def check_sentences(sentences: Sequence[str], first: int = 0) -> None:
    """Refuse what is no list of Unicode strings; `first` is the number of the first one.

    Raises:
        InputError: says which one.
    """
    if isinstance(sentences, str):
        raise InputError("one string was given, not a list of sentences: put it in [ ]")
    for index, sentence in enumerate(sentences, first):
        if not isinstance(sentence, str):
            raise InputError(f"sentence {index} is a {type(sentence).__name__}, not a string")
        if not sentence.isascii() and sentence.encode(errors="ignore").decode() != sentence:
            raise InputError(f"sentence {index} holds a lone surrogate, which is no Unicode text: {sentence[:60]!r}")


def _batches(lengths: list[int], batch_tokens: int, *, packed: bool) -> list[list[int]]:
    """Row numbers in batches, longest first, of at most `batch_tokens` tokens unless it is a single row.

    Where a batch runs packed its real tokens count; attention's products are padded all the same, so that rows much
    shorter than the longest begin another batch.
    """
    batches: list[list[int]] = []
    padded_limit = batch_tokens * _ATTENTION_PADDING if packed else batch_tokens
    real = longest = 0
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        real += lengths[row]
        if not batches or real > batch_tokens or (len(batches[-1]) + 1) * longest > padded_limit:
            batches.append([])
            real = longest = lengths[row]
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
