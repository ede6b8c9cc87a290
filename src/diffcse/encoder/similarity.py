"""Embeddings and cosines in one call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from diffcse.config import EncoderPooling, Precision
from diffcse.encoder.encode import BATCH_TOKENS, Encoder, check_finite, use_bf16
from diffcse.encoder.load import load
from diffcse.encoder.outputs import to_unit
from diffcse.errors import InputError


def encode(
    model: Encoder | str | Path,
    sentences: Iterable[str] | str,
    *,
    pooling: EncoderPooling | None = None,
    normalise: bool = False,
    precision: Precision = "fp32",
    batch_tokens: int = BATCH_TOKENS,
) -> np.ndarray:
    """Embeddings of `sentences`, (N, H) float32, in their order.

    Args:
        model: an encoder, or what `load` takes: a folder, "mini", or a hub id. Load it once for several calls.
        sentences: a string, or an iterable of strings: a list, a generator, a pandas Series, an open text file.
        pooling: as in `load`, if `model` is not an encoder.
        normalise: scale each embedding to length 1, so that a dot product is a cosine.
        precision: "bf16" is faster on hardware with bf16, cosines to the exact embeddings above 0.9999. "auto" uses
            bf16 on such hardware.
        batch_tokens: most tokens in one forward pass, counted as in `Encoder.__call__`.

    Raises:
        InputError: the model cannot be loaded, a sentence is not a Unicode string, or an embedding is not finite.
    """
    rows = as_encoder(model, pooling)(sentences, batch_tokens=batch_tokens, bf16=use_bf16(precision))
    return to_unit(rows) if normalise else rows


def similarity(
    model: Encoder | str | Path,
    first: Iterable[str] | str,
    second: Iterable[str] | str,
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
    """The cosine of the two sentences on each line, in order, computed a block of lines at a time.

    Args:
        lines: sentence, tab, sentence.
        name: the source of the lines, for messages.

    Raises:
        InputError: a line does not hold two sentences, or an embedding is not finite.
    """
    rest, number = iter(lines), 0
    while block := list(islice(rest, _BLOCK)):
        pairs = [line.split("\t") for line in block]
        for pair in pairs:
            number += 1
            if len(pair) != 2:
                raise InputError(
                    f"{name}, line {number}: {len(pair) - 1} tabs. Write sentence, tab, sentence on each line. "
                    "(diffcse evaluate reads graded pairs, with a score first.)"
                )
        bf16 = use_bf16(precision)
        sentences = [text for pair in pairs for text in pair]
        with encoder.ready(bf16) as run:
            rows = run(encoder.tokens(sentences), BATCH_TOKENS)
        first = number - len(block) + 1
        check_finite(rows[::2] + rows[1::2], block, partial(_line, name, first), bf16=bf16)
        rows = to_unit(rows)
        yield from (rows[::2] * rows[1::2]).sum(1).tolist()


_BLOCK = 2048


def _line(name: str, first: int, index: int) -> str:
    """Where line `index` of a block stands whose first line is `first`."""
    return f"{name}, line {first + index}"


def as_encoder(model: Encoder | str | Path, pooling: EncoderPooling | None = None) -> Encoder:
    """`model` itself, or loaded with `pooling`.

    Raises:
        InputError: as `load`; or `model` is an encoder with another pooling.
    """
    if not isinstance(model, Encoder):
        return load(model, pooling=pooling)
    if pooling in (None, model.pooling):
        return model
    raise InputError(
        f"pooling {pooling!r}: this encoder pools by {model.pooling!r}. Load it again with the other pooling"
    )
