"""Two spans of one text, for positives = "crop": what is drawn depends on (seed, step, row) alone.

In a text of at least four sentences a span is a run of neighbouring sentences; in a shorter text a run of words. Spans
lie apart, because the words that they share would teach to match words (docs/log/2026-11-30-adapt.md). Cropping beats
dropout on documents (arXiv 2508.03453); on short titles it does harm.
"""

from __future__ import annotations

from collections.abc import Callable

from diffcse.config import Config
from diffcse.evaluation.label_free import pieces
from diffcse.method import draws
from diffcse.text.prose import split_sentences

Crop = Callable[[str, int, int], tuple[str, str]]
"""(text, number of the forward pass, row in its batch) -> two spans."""

_STREAM = 0x63726F70
_SENTENCES = 4
"""Fewest sentences of a text whose spans are sentences."""


def cropper(config: Config) -> Crop | None:
    """The function that crops as `config` says; None where it does not crop."""
    method, seed, language = config.method, config.training.seed, config.text.language
    if method.positives != "crop":
        return None

    def crop(text: str, step: int, row: int) -> tuple[str, str]:
        units, joint, least = _units(text, language, method.crop_least)
        numbers = [draws.key(seed, step, _STREAM, row, i) / 2**64 for i in range(4)]
        share = method.crop_share_min + numbers[0] * (method.crop_share_max - method.crop_share_min)
        spans = two_spans(len(units), share, method.crop_overlap, least, numbers[1], numbers[2])
        if spans is None:
            return text, text
        first, second = (joint.join(units[start:end]) for start, end in spans)
        return (first, second) if numbers[3] < 0.5 else (second, first)

    return crop


def _units(text: str, language: str, least_words: int) -> tuple[list[str], str, int]:
    """(sentences or words of `text`, what joins them, fewest of them in a span)."""
    sentences = [part.strip() for part in split_sentences(text, language) if part.strip()]
    if len(sentences) >= _SENTENCES:
        return sentences, " ", 1
    words, joint = pieces(text)
    return words, joint, least_words


def two_spans(
    count: int, share: float, overlap: float, least: int, first: float, second: float
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Two runs of `count` units as (start, end), the first one first; None where they do not fit.

    Args:
        share: of the units in each run; lowered where two runs do not fit.
        overlap: share of a run that may lie in the other one too.
        least: fewest units of a run.
        first: where the first run begins, in [0, 1), among the places that leave room; `second` likewise.

    >>> two_spans(10, 0.3, 0.0, 2, first=0.5, second=0.0), two_spans(3, 0.5, 0.0, 2, 0.0, 0.0)
    (((2, 5), (5, 8)), None)
    """
    length = max(least, int(share * count))
    length = min(length, int(count / (2 - overlap)))
    shared = int(overlap * length)
    if length < least:
        return None
    start = int(first * (count - 2 * length + shared + 1))
    earliest = start + length - shared
    after = earliest + int(second * (count - length - earliest + 1))
    return (start, start + length), (after, after + length)
