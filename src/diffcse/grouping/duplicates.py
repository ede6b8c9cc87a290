"""Texts -> those to keep, and for each other one the kept text that it repeats.

Three stages, each on what the stage before kept: equal texts, texts of nearly the same words, and texts of nearly the
same embedding. The first of several stays. A text is dropped only for a kept text. So the last link of a chain, which
is like its neighbour and unlike the first text, is kept.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from diffcse.config import EncoderPooling, Precision
from diffcse.encoder.encode import Encoder, use_bf16
from diffcse.encoder.similarity import as_encoder
from diffcse.errors import InputError
from diffcse.grouping.settings import check_threshold, require_rensa
from diffcse.grouping.threshold import Threshold, choose_threshold
from diffcse.grouping.vectors import Rows, unit_rows
from diffcse.text.lines import normalise
from diffcse.text.near_duplicates import SIMILAR, band_keys, jaccard, word_set
from diffcse.text.strings import iter_strings

Kind = Literal["exact", "MinHash", "embedding"]
_EDGES = re.compile(r"(?<!\S)[\"'“”‘’«»(\[]+|[\"'“”‘’«»)\].,;:!?…。！？]+(?!\S)")
"""Punctuation at a word's edge. Marks that tell names apart, as in C++, C# and .NET, are not in it."""
_BLOCK, _COLUMNS = 1024, 8192
_BUCKET = 50
"""Kept texts that are compared in a group of equal MinHash bands; a larger group misses some of its pairs."""


@dataclass(frozen=True)
class Duplicate:
    """A dropped text and the kept text that decided. Both are numbers of texts, from 0."""

    row: int
    kept: int
    kind: Kind
    score: float
    """1 for equal texts, else the Jaccard similarity of the sets of words, or the cosine of the embeddings."""


@dataclass(frozen=True)
class Deduped:
    """Numbers of the kept texts, in order, and the dropped ones."""

    kept: list[int]
    dropped: list[Duplicate]
    threshold: Threshold

    def count(self, kind: Kind) -> int:
        """How many texts a stage dropped."""
        return sum(each.kind == kind for each in self.dropped)


def dedup(
    texts: Iterable[str],
    model: Encoder | str | Path = "mini",
    *,
    threshold: float | str = "auto",
    pooling: EncoderPooling | None = None,
    precision: Precision = "fp32",
    report: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Deduped:
    """Find the texts that repeat an earlier text: equal, of nearly the same words, or of nearly the same meaning.

    Equal means: without regard to case, white space and punctuation at the edges of words. Nearly the same words: a
    Jaccard similarity of at least 0.8. Nearly the same meaning: a cosine of at least the threshold. The embeddings are
    in memory (N x H float32); cosines are computed in blocks.

    Args:
        model: an encoder, or what `load` takes.
        threshold: a cosine, or "auto" for the rule of `grouping.threshold`.
        report: called with ("embedding" or "comparing", texts done, all texts).

    Raises:
        InputError: fewer than two texts, a bad threshold, no rensa, or what `encode` raises.
    """
    given = check_threshold(threshold)
    require_rensa()
    strings = list(iter_strings(texts, "texts"))
    if len(strings) < 2:
        raise InputError(f"{len(strings)} text{'s' * (len(strings) != 1)}: give two or more")
    encoder, bf16 = as_encoder(model, pooling), use_bf16(precision)
    dropped = list(equal_texts(strings))
    left = _left(range(len(strings)), dropped)
    dropped += _renumbered(near_words([strings[i] for i in left]), left)
    left = _left(left, dropped)
    distinct = [strings[i] for i in left]
    rows = unit_rows(encoder, distinct, bf16=bf16, report=lambda done: report("embedding", done, len(left)))
    chosen = choose_threshold(distinct, rows, lambda copies: unit_rows(encoder, copies, bf16=bf16), given)
    near = near_rows(rows, chosen.value, report=lambda done: report("comparing", done, len(left)))
    dropped += _renumbered(near, left)
    return Deduped(_left(left, dropped), sorted(dropped, key=lambda each: each.row), chosen)


def _left(rows: Iterable[int], dropped: Sequence[Duplicate]) -> list[int]:
    gone = {each.row for each in dropped}
    return [row for row in rows if row not in gone]


def _renumbered(duplicates: Iterable[Duplicate], numbers: Sequence[int]) -> list[Duplicate]:
    return [Duplicate(numbers[each.row], numbers[each.kept], each.kind, each.score) for each in duplicates]


def equal_texts(texts: Sequence[str]) -> Iterator[Duplicate]:
    """Texts that are equal but for case, white space and punctuation at the edges of words."""
    first: dict[str, int] = {}
    for row, text in enumerate(texts):
        plain = normalise(text).casefold()
        kept = first.setdefault(_EDGES.sub("", plain) or plain, row)
        if kept != row:
            yield Duplicate(row, kept, "exact", 1.0)


def near_words(texts: Sequence[str]) -> Iterator[Duplicate]:
    """Texts of which a kept earlier text shares nearly all words.

    Candidates are the kept texts that share a band of MinHash; the one with the highest Jaccard similarity decides.
    """
    bands_NB = band_keys(texts)
    buckets: list[dict[int, list[int]]] = [defaultdict(list) for _ in range(bands_NB.shape[1])]
    words: dict[int, set[str]] = {}
    for row, bands in enumerate(bands_NB.tolist()):
        own = word_set(texts[row])
        near = {kept for bucket, band in zip(buckets, bands, strict=True) for kept in bucket.get(band, ())}
        score, kept = max(((jaccard(own, words[kept]), -kept) for kept in near), default=(0.0, 0))
        if score >= SIMILAR:
            yield Duplicate(row, -kept, "MinHash", score)
            continue
        words[row] = own
        for bucket, band in zip(buckets, bands, strict=True):
            if len(members := bucket[band]) < _BUCKET:
                members.append(row)


def near_rows(
    rows: Rows, threshold: float, *, report: Callable[[int], None] = lambda done: None
) -> Iterator[Duplicate]:
    """Rows whose cosine with a kept earlier row is at least `threshold`; the nearest kept row decides.

    Time grows with the square of the number of rows, memory does not: cosines are made in blocks.
    """
    is_kept = np.ones(len(rows), bool)
    for first in range(0, len(rows), _BLOCK):
        block = rows[first : first + _BLOCK]
        best, partner = _nearest_kept(block, rows[:first], is_kept)
        inside = block @ block.T
        for i in range(len(block)):
            within = np.where(is_kept[first : first + i], inside[i, :i], -1)
            j = int(within.argmax()) if i else 0
            if i and within[j] > best[i]:
                best[i], partner[i] = within[j], first + j
            if best[i] >= threshold:
                is_kept[first + i] = False
                yield Duplicate(first + i, int(partner[i]), "embedding", min(float(best[i]), 1.0))
        report(min(first + _BLOCK, len(rows)))


def _nearest_kept(block: Rows, before: Rows, is_kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(cosine, row number) of the nearest kept row before the block; cosine -1 where there is none."""
    best, partner = np.full(len(block), -1, np.float32), np.zeros(len(block), np.int64)
    for first in range(0, len(before), _COLUMNS):
        columns = before[first : first + _COLUMNS]
        cosines = block @ columns.T
        cosines[:, ~is_kept[first : first + len(columns)]] = -1
        at = cosines.argmax(1)
        values = cosines[np.arange(len(block)), at]
        nearer = values > best
        best[nearer], partner[nearer] = values[nearer], first + at[nearer]
    return best, partner
