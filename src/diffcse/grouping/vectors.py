"""What duplicates, clusters and maps share: texts as rows of length 1, and few dimensions for many rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from diffcse.encoder.encode import Encoder
from diffcse.encoder.similarity import to_unit
from diffcse.errors import InputError

Rows = npt.NDArray[np.float32]
"""(N, H), each row of length 1."""
_BLOCK = 4096
_FIT = 50_000
"""Rows that principal components and centres are fitted to; more rows change them little."""


def unit_rows(
    encoder: Encoder, texts: Sequence[str], *, bf16: bool = False, report: Callable[[int], None] = lambda done: None
) -> Rows:
    """The embeddings of `texts`, (N, H), scaled to length 1; `report` gets the number of finished texts.

    Raises:
        InputError: an embedding is not finite.
    """
    rows = np.empty((len(texts), encoder.width), np.float32)
    for first in range(0, len(texts), _BLOCK):
        rows[first : first + _BLOCK] = encoder(texts[first : first + _BLOCK], bf16=bf16)
        report(min(first + _BLOCK, len(texts)))
    return to_unit(rows)


def check_rows(rows: Any, name: str) -> Rows:
    """`rows` as (N, H) float32 of length 1.

    Raises:
        InputError: not a table of finite numbers.
    """
    array = np.asarray(rows, dtype=np.float32)
    if array.ndim != 2 or 0 in array.shape or not np.isfinite(array).all():
        raise InputError(f"{name}: must be a table of finite numbers, a row for each text. It has shape {array.shape}")
    return to_unit(array)


def components(rows: Rows, most: int, seed: int = 0) -> Rows:
    """The first principal components, (N, at most `most`), fitted to at most 50,000 rows."""
    from sklearn.decomposition import PCA

    sample = sample_of(len(rows), _FIT, seed)
    number = min(most, len(sample), rows.shape[1])
    with np.errstate(invalid="ignore"):  # rows that are all the same have no variance to explain
        return PCA(number, random_state=seed).fit(rows[sample]).transform(rows).astype(np.float32)


def sample_of(count: int, most: int, seed: int) -> npt.NDArray[np.int64]:
    """At most `most` of the numbers below `count`, in order, without repetition."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))
