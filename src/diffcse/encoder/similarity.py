"""Embeddings and cosines in one call, for whoever needs no more than these."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from diffcse.config import EncoderPooling, Precision
from diffcse.encoder.encode import BATCH_TOKENS, Encoder, use_bf16
from diffcse.encoder.load import load
from diffcse.errors import InputError


def encode(
    model: Encoder | str | Path,
    sentences: Sequence[str],
    *,
    pooling: EncoderPooling | None = None,
    normalise: bool = False,
    precision: Precision = "fp32",
    batch_tokens: int = BATCH_TOKENS,
) -> np.ndarray:
    """Embeddings of `sentences`, (N, H) float32, in their order.

    Args:
        model: an encoder, or what `load` takes: a folder, "mini", or a hub id. Load it once for several calls.
        pooling: as in `load`, where `model` is to be loaded.
        normalise: scale each embedding to length 1, so that a dot product is a cosine.
        precision: "bf16" is faster where the hardware has it, cosines to the exact embeddings above 0.9999; "auto"
            takes it there.
        batch_tokens: tokens in one forward pass, at most; as `Encoder.__call__` counts them.

    Raises:
        InputError: the model cannot be loaded, or a sentence is no Unicode string.
    """
    rows = as_encoder(model, pooling)(sentences, batch_tokens=batch_tokens, bf16=use_bf16(precision))
    return to_unit(rows) if normalise else rows


def similarity(
    model: Encoder | str | Path,
    first: Sequence[str],
    second: Sequence[str],
    *,
    pooling: EncoderPooling | None = None,
    precision: Precision = "fp32",
) -> np.ndarray:
    """Cosine of every sentence of `first` (N) with every one of `second` (M): (N, M) float32.

    Raises:
        InputError: as `encode`.
    """
    encoder = as_encoder(model, pooling)
    u, v = (encode(encoder, sentences, normalise=True, precision=precision) for sentences in (first, second))
    return u @ v.T


def pair_cosines(
    encoder: Encoder, lines: Iterable[str], name: str, *, precision: Precision = "fp32"
) -> Iterator[float]:
    """The cosine of the two sentences on each line, in order; a block of lines is read and embedded at a time.

    Args:
        lines: sentence, tab, sentence.
        name: where the lines come from, for messages.

    Raises:
        InputError: a line that is not two sentences.
    """
    rest, number = iter(lines), 0
    while block := list(islice(rest, _BLOCK)):
        pairs = []
        for line in block:
            number += 1
            pairs.append(line.split("\t"))
            if len(pairs[-1]) != 2:
                raise InputError(
                    f"{name}, line {number}: {len(pairs[-1]) - 1} tabs: must be sentence, tab, sentence. (Graded "
                    "pairs, with a score in front, are for diffcse evaluate)"
                )
        rows = encode(encoder, [text for pair in pairs for text in pair], normalise=True, precision=precision)
        yield from (rows[::2] * rows[1::2]).sum(1).tolist()


_BLOCK = 2048


def as_encoder(model: Encoder | str | Path, pooling: EncoderPooling | None = None) -> Encoder:
    """`model` itself, or loaded with `pooling`.

    Raises:
        InputError: as `load`; or an encoder that is loaded already pools otherwise.
    """
    if not isinstance(model, Encoder):
        return load(model, pooling=pooling)
    if pooling in (None, model.pooling):
        return model
    raise InputError(
        f"pooling {pooling!r}: this encoder pools by {model.pooling!r}: load it again with the other pooling"
    )


def to_unit(rows: np.ndarray) -> np.ndarray:
    """Each row scaled to length 1; a row of zeros stays one."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)
