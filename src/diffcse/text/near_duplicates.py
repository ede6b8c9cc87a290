"""Pairs of sentences that say almost the same, estimated for a training batch.

Two sentences are near-duplicates if the Jaccard similarity of their sets of words is at least `SIMILAR`. Candidates
share a band of their MinHash signatures (locality-sensitive hashing; Broder 1997; Leskovec et al., Mining of Massive
Datasets, chapter 3). Each candidate pair is then compared exactly; a large group is estimated from a sample of pairs.
The chance that two random sentences are such a pair does not depend on the sample's size. So the estimate also holds
for batches of the whole corpus.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

SIMILAR = 0.8
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Character ranges of scripts that put no space between words."""
WORD = re.compile(rf"[{UNSPACED}]|[^\s{UNSPACED}]+")
"""A word; in scripts without spaces, a character."""
BANDS, _ROWS = 21, 6  # two sets of similarity 0.8 share a band with probability 0.998, of 0.5 with 0.28
_MOST_PAIRS = 200  # compared in a group of sentences that share a band
_MOST_EXAMPLES = 5


@dataclass
class NearDuplicates:
    """Near-duplicate pairs of n sentences."""

    is_paired: npt.NDArray[np.bool_]
    """(n,) whether a sentence has a near-duplicate."""
    pairs: float = 0.0
    """Estimated number of pairs."""
    examples: dict[tuple[str, str], None] = field(default_factory=dict)

    def pairs_in_batch(self, batch_size: int) -> float:
        """Expected number of pairs in a random batch."""
        n = len(self.is_paired)
        return self.pairs / (n * (n - 1) / 2) * batch_size * (batch_size - 1) / 2


def find_near_duplicates(sentences: Sequence[str]) -> NearDuplicates:
    """Find the near-duplicates among at least two sentences; the sampling of pairs is seeded."""
    bands_NB = band_keys(sentences)
    rng = np.random.default_rng(0)
    result = NearDuplicates(np.zeros(len(sentences), np.bool_))
    for band in range(BANDS):
        order = np.argsort(bands_NB[:, band], kind="stable")
        edges = np.flatnonzero(np.diff(bands_NB[order, band])) + 1
        for members in np.split(order, edges):
            if len(members) > 1:
                _compare_group(sentences, members, bands_NB[:, :band], rng, result)
    return result


def _compare_group(
    sentences: Sequence[str],
    members: npt.NDArray[np.int64],
    earlier_bands: npt.NDArray[np.int64],
    rng: np.random.Generator,
    result: NearDuplicates,
) -> None:
    """Compare the sentences `members`, which share a band, and add the near-duplicates to `result`."""
    i, j, weight = _pairs_of(members, rng)
    is_new = ~(earlier_bands[i] == earlier_bands[j]).any(axis=1)  # other pairs were compared in an earlier band
    for a, b in zip(i[is_new].tolist(), j[is_new].tolist(), strict=True):
        if _likeness(sentences[a], sentences[b]) >= SIMILAR:
            result.pairs += weight
            result.is_paired[[a, b]] = True
            if len(result.examples) < _MOST_EXAMPLES:
                result.examples[(sentences[min(a, b)], sentences[max(a, b)])] = None
    if weight > 1:  # the sample of pairs leaves members out; comparing neighbours reaches each member
        for a, b in zip(members[:-1].tolist(), members[1:].tolist(), strict=True):
            if not result.is_paired[[a, b]].all() and _likeness(sentences[a], sentences[b]) >= SIMILAR:
                result.is_paired[[a, b]] = True


def band_keys(sentences: Sequence[str]) -> npt.NDArray[np.int64]:
    """(N, bands): equal numbers in a column mean equal signatures in that band."""
    from rensa import RMinHash

    signatures = np.empty((len(sentences), BANDS * _ROWS), np.uint32)
    for first in range(0, len(sentences), 2048):
        words = [sorted(word_set(sentence)) for sentence in sentences[first : first + 2048]]
        rows = RMinHash.digest_matrix_from_token_sets(words, BANDS * _ROWS, 0).to_rows()
        signatures[first : first + len(rows)] = rows
    return np.stack([_row_keys(signatures[:, b * _ROWS : (b + 1) * _ROWS]) for b in range(BANDS)], axis=1)


def _row_keys(rows: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """(N,) a number for each row; equal rows have equal numbers."""
    key = np.ascontiguousarray(rows).view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    return np.unique(key, return_inverse=True)[1]


def _pairs_of(
    members: npt.NDArray[np.int64], rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], float]:
    """All pairs of a small group or a sample from a large one, and the number of pairs that each stands for."""
    size = len(members)
    every = size * (size - 1) // 2
    if every <= _MOST_PAIRS:
        i, j = np.triu_indices(size, 1)
        return members[i], members[j], 1.0
    i = rng.integers(0, size, _MOST_PAIRS)
    j = (i + rng.integers(1, size, _MOST_PAIRS)) % size
    return members[i], members[j], every / _MOST_PAIRS


def word_set(sentence: str) -> set[str]:
    """The distinct words of a sentence, in lower case."""
    return set(WORD.findall(sentence.lower()))


def jaccard(a: set[str], b: set[str]) -> float:
    """Shared elements over all elements; two empty sets are equal."""
    return len(a & b) / len(a | b) if a or b else 1.0


def _likeness(first: str, second: str) -> float:
    return jaccard(word_set(first), word_set(second))
