"""The cosine from which two texts count as near-duplicates, read from the texts themselves.

A text without one of its words is nearly the same text. How near the encoder puts the two tells what "nearly the same"
is for this encoder on these texts. The rule takes the cosine that three of four such copies reach. It is never below
the cosine that one of a thousand random pairs reaches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from diffcse.grouping.vectors import Rows, sample_of
from diffcse.text.near_duplicates import WORD

Cosines = npt.NDArray[np.float32]
_SAMPLE, _PAIRS, _COLUMNS = 1000, 20_000, 8192
_MISSED = 0.25
"""Share of the copies that the threshold may miss."""
_CHANCE = 0.999
_FEWEST_WORDS = 4
"""A copy of a shorter text lacks too much of it. Where no text is this long, all with two words count."""


@dataclass(frozen=True)
class Threshold:
    """A cosine, why it was chosen, and the samples (seed 0) that show what it divides."""

    value: float
    rule: str
    copies: Cosines = field(repr=False)
    """(S,) of texts with their copy without one word."""
    nearest: Cosines = field(repr=False)
    """(S,) of texts with the nearest other text."""
    random: Cosines = field(repr=False)
    """(P,) of random pairs of texts."""


def choose_threshold(
    texts: Sequence[str], rows: Rows, embed: Callable[[list[str]], Rows], given: float | None = None
) -> Threshold:
    """The threshold for `texts`, all of them distinct, with their embeddings.

    Args:
        rows: (N, H) of length 1.
        embed: texts -> rows of length 1, by the same encoder.
        given: a threshold that replaces the rule's; the samples are drawn all the same.
    """
    rng = np.random.default_rng(0)
    chosen, copies = _copies(texts, rng)
    cosines = (embed(copies) * rows[chosen]).sum(1) if copies else np.zeros(0, np.float32)
    i = rng.integers(0, len(rows), _PAIRS)
    j = (i + rng.integers(1, max(len(rows), 2), _PAIRS)) % len(rows)
    random = (rows[i] * rows[j]).sum(1)
    value, rule = _rule(cosines, random) if given is None else (given, "as given")
    return Threshold(value, rule, cosines, _nearest(rows), random)


def _rule(copies: Cosines, random: Cosines) -> tuple[float, str]:
    chance = float(np.quantile(random, _CHANCE))
    if not len(copies):
        return max(chance, 0.95), "no text has two words, so 0.95 or what one of 1,000 random pairs reaches"
    own = float(np.quantile(copies, _MISSED))
    if own >= chance:
        return own, "the cosine that three of four texts reach with their copy without one word"
    return chance, "the cosine that one of 1,000 random pairs reaches, because copies without one word are no nearer"


def _copies(texts: Sequence[str], rng: np.random.Generator) -> tuple[list[int], list[str]]:
    """(numbers of texts, each text without one of its words)."""
    spans = {int(i): [m.span() for m in WORD.finditer(texts[i])] for i in sample_of(len(texts), 2 * _SAMPLE, 0)}
    long = [i for i, words in spans.items() if len(words) >= _FEWEST_WORDS]
    chosen = (long or [i for i, words in spans.items() if len(words) > 1])[:_SAMPLE]
    copies = []
    for i in chosen:
        first, last = spans[i][rng.integers(len(spans[i]))]
        copies.append(" ".join(f"{texts[i][:first]}{texts[i][last:]}".split()))
    return chosen, copies


def _nearest(rows: Rows) -> Cosines:
    """(S,) cosine of each of a sample of rows with the nearest other row."""
    sample = sample_of(len(rows), _SAMPLE, 0)
    best = np.full(len(sample), -1, np.float32)
    for first in range(0, len(rows), _COLUMNS):
        cosines = rows[sample] @ rows[first : first + _COLUMNS].T
        own = (sample >= first) & (sample < first + _COLUMNS)
        cosines[own, sample[own] - first] = -1
        best = np.maximum(best, cosines.max(1))
    return best
