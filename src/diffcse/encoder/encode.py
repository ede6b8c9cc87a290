"""Sentences -> embeddings, with what ships: encoder, tokenizer, pooling.

Sentences are encoded longest first, in batches bounded by tokens. So the rows of a batch have nearly one length, and
memory is flat. The results come back in the order of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diffcse.config import EncoderPooling, Precision
from diffcse.encoder.lowered import lowered
from diffcse.encoder.settings import Settings
from diffcse.errors import InputError
from diffcse.method.fast import ability
from diffcse.method.heads import pooled
from diffcse.method.loading import has_pooler
from diffcse.method.tail import out_width
from diffcse.text.strings import iter_strings

BATCH_TOKENS = 4096
"""On a CPU, 1024 to 4096 are equally fast; with more, the output of a layer no longer fits in the cache."""
_EVEN = 8
"""Widths and token counts of batches are multiples of this (large counts: of eight times this). oneDNN keeps kernels
for every shape: with all shapes, `mini` would grow by 800 MB instead of 130."""
_ATTENTION_PADDING = 1.25
"""Most padded tokens of a packed batch, in units of its budget of real tokens."""


@dataclass(frozen=True)
class Encoder:
    """f: a Hugging Face encoder with its tokenizer and pooling. Calling it embeds sentences."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    pooling: EncoderPooling
    """How token vectors become a sentence vector, see `method.heads.pool`. "pooler" is the checkpoint's own trained
    head, tanh(dense([CLS])), which is then part of `model`."""
    max_tokens: int
    """Longer sentences are cut to this many tokens."""
    normalised: bool = False
    """Whether embeddings are scaled to length 1 at the end."""
    note: str = ""
    """Who chose the pooling: the folder, the caller, or a rule for known checkpoints."""
    tail: nn.Sequential = field(default_factory=nn.Sequential)
    """Dense and Normalize layers between the pooling and the end, see `method.tail`."""
    settings: Settings = field(default_factory=Settings)
    """Prompts, truncation and the like, as the folder states them."""

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
        """The embedding's dimension."""
        width = out_width(self.tail, int(self.model.config.hidden_size))
        return min(width, self.settings.truncate_dim or width)

    def __call__(
        self, sentences: Iterable[str] | str, *, batch_tokens: int = BATCH_TOKENS, bf16: bool = False
    ) -> np.ndarray:
        """Embeddings, (N, H) float32, without dropout.

        Args:
            sentences: any iterable of Unicode strings, as `text.strings.iter_strings` takes it; the empty string is a
                sentence. One string gives one row.
            batch_tokens: most tokens in one forward pass (one sentence always fits). Padding counts only for models
                that cannot run without it (see `method.fast`).
            bf16: multiply in bf16: faster on hardware with bf16, cosines to the exact embeddings above 0.9999.

        Raises:
            InputError: an item is not a Unicode string, or an embedding is not finite.
        """
        strings = list(iter_strings([sentences] if isinstance(sentences, str) else sentences))
        with self.ready(bf16) as run:
            rows = run(self.tokens(strings), batch_tokens)
        check_finite(rows, strings, bf16=bf16)
        return rows

    encode = __call__

    def tokens(self, sentences: Sequence[str]) -> list[np.ndarray]:
        """Token ids of each sentence, cut to `max_tokens`, special tokens and the default prompt included: int32."""
        if not len(sentences):
            return []
        prompt = self.settings.prompt
        encoded = self.tokenizer(
            [prompt + sentence for sentence in sentences],
            truncation=True,
            max_length=self.max_tokens,
            return_attention_mask=False,
        )["input_ids"]
        return [np.array(ids, dtype=np.int32) for ids in encoded]

    @contextmanager
    def ready(self, bf16: bool = False) -> Iterator[Callable[[Sequence[np.ndarray], int], np.ndarray]]:
        """Within the block: a function from `tokens` to embeddings, with the weights of the block's beginning."""
        was_training = self.model.training
        device = self.model.device
        autocast = torch.autocast(device.type, torch.bfloat16) if bf16 else nullcontext()
        encoder = replace(self, model=lowered(self.model, torch.bfloat16)) if bf16 else self
        encoder.model.eval()

        def run(tokens: Sequence[np.ndarray], batch_tokens: int = BATCH_TOKENS) -> np.ndarray:
            result = np.zeros((len(tokens), self.width), dtype=np.float32)
            packs = self.pooling != "pooler" and ability(encoder.model).packs
            with torch.inference_mode(), autocast:
                for rows in token_batches([len(ids) for ids in tokens], batch_tokens, packed=packs):
                    result[rows] = encoder._embed([tokens[row] for row in rows]).cpu().numpy()
            return result

        try:
            yield run
        finally:
            self.model.train(was_training)

    def _embed(self, tokens: list[np.ndarray]) -> Tensor:
        """h of a batch. Rows without meaning are added, so that there are few different shapes."""
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
        with torch.autocast(h.device.type, enabled=False):
            h = self.tail(h)
        h = F.normalize(h, dim=-1) if self.normalised else h
        return h[:, : self.settings.truncate_dim]

    def _pooled(self, x_RT: Tensor, mask_RT: Tensor) -> Tensor:
        """h, (R, H) float32; sums are taken in float32 also under autocast."""
        if self.pooling == "pooler":
            return self.model(input_ids=x_RT, attention_mask=mask_RT).pooler_output.float()
        return pooled(self.model, x_RT, mask_RT, self.pooling)


def sentence_number(index: int) -> str:
    """The place of sentence `index` in a message."""
    return f"sentence {index + 1}"


def check_finite(
    rows: np.ndarray, sentences: Sequence[str], place: Callable[[int], str] = sentence_number, *, bf16: bool = False
) -> None:
    """Check that embeddings, (N, H), hold neither NaN nor infinity; `place` names sentence i in the message.

    Raises:
        InputError: names the first sentence whose embedding does, and the likely cause.
    """
    is_finite = np.isfinite(rows.sum(axis=1, dtype=np.float64))
    if not is_finite.all():
        index = int(is_finite.argmin())
        cause = "The weights have most likely diverged in training: use an earlier checkpoint."
        if bf16:
            cause = 'The model may overflow in bf16: compute with --precision fp32 (precision="fp32").'
        raise InputError(f"{place(index)} ({sentences[index][:60]!r}): its embedding holds NaN or infinity. {cause}")


def use_bf16(precision: Precision) -> bool:
    """Whether to compute in bf16 autocast: as asked, or with "auto" if the hardware multiplies in bf16."""
    if precision != "auto":
        return precision == "bf16"
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check is not None and check() for check in checks)


def token_batches(lengths: list[int], batch_tokens: int, *, packed: bool) -> list[list[int]]:
    """Row numbers in batches, longest first, of at most `batch_tokens` tokens (a single row can have more).

    For packed batches, real tokens count. Attention still computes padding, so much shorter rows begin another batch.
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
    """The longest input of a checkpoint in tokens: the smaller of its positions and its tokenizer's limit.

    RoBERTa's family counts positions from the padding index on, and has that many fewer.

    Raises:
        InputError: the tokenizer's limit leaves no room for a token.
    """
    positions = getattr(model.config, "max_position_embeddings", None) or 512
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            positions -= module.padding_idx + 1
    limit, least = tokenizer.model_max_length, tokenizer.num_special_tokens_to_add() + 1
    if not isinstance(limit, int | float) or limit < least:
        raise InputError(
            f"{tokenizer.name_or_path}: the tokenizer's model_max_length = {limit!r}: must be at least {least}, for "
            "the special tokens and one more. Correct it in tokenizer_config.json"
        )
    return int(min(positions, limit))
