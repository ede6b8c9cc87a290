"""Texts -> clusters by k-means, each with the words that tell it from the others.

k-means works on the first 50 principal components of the embeddings, scaled to length 1. With `k="auto"`, k is the one
of a fixed list with the highest mean silhouette (Rousseeuw 1987) on a sample, over three starts of k-means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diffcse.config import EncoderPooling, Precision
from diffcse.encoder.encode import Encoder, use_bf16
from diffcse.encoder.similarity import as_encoder, to_unit
from diffcse.errors import InputError
from diffcse.grouping.settings import check_k
from diffcse.grouping.vectors import Rows, check_rows, components, sample_of, unit_rows
from diffcse.grouping.words import cluster_words
from diffcse.text.strings import iter_strings

GRID = (2, 3, 4, 5, 6, 8, 10, 12, 15, 18, 22, 27, 33, 40, 50, 60, 75, 90, 110, 135, 160, 200)
"""The values of k that "auto" tries, as far as each cluster has five texts of the sample on average."""
_SAMPLE, _SILHOUETTES, _STARTS = 4000, 2000, 3
_DIMENSIONS, _FIT, _FEWEST = 50, 50_000, 5


@dataclass(frozen=True)
class Cluster:
    """One group of texts."""

    number: int
    """From 0, the largest first."""
    size: int
    words: list[str]
    """By falling weight, at most eight."""
    typical: int
    """Number of the text that is nearest to the centre."""


@dataclass(frozen=True)
class Choice:
    """How well one k divides the sample."""

    k: int
    silhouette: float
    """Mean over the starts of k-means, -1 to 1."""
    sd: float


@dataclass(frozen=True)
class Clusters:
    """The cluster of each text."""

    clusters: list[Cluster]
    labels: npt.NDArray[np.int64] = field(repr=False)
    """(N,) number of the text's cluster."""
    distances: npt.NDArray[np.float32] = field(repr=False)
    """(N,) 1 - cosine of the text with its cluster's centre, in the space of the components: 0 is at the centre."""
    choices: list[Choice] = field(default_factory=list, repr=False)
    """What "auto" compared; empty if k was given."""


def cluster(
    texts: Iterable[str],
    model: Encoder | str | Path = "mini",
    *,
    k: int | str = "auto",
    rows: Any = None,
    seed: int = 0,
    pooling: EncoderPooling | None = None,
    precision: Precision = "fp32",
    report: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Clusters:
    """Divide texts into k clusters, and name each by its words.

    Args:
        model: an encoder, or what `load` takes. Not used with `rows`.
        k: number of clusters, or "auto".
        rows: (N, H) embeddings of the texts, if there are some already.
        report: called with ("embedding" or "choosing k", done, total).

    Raises:
        InputError: a bad k, more clusters than distinct texts, too few texts for "auto" (fewer than 10), or what
            `encode` raises.
    """
    given = check_k(k)
    strings = list(iter_strings(texts, "texts"))
    if len(strings) < (2 * _FEWEST if given is None else given):
        least = f"{2 * _FEWEST} texts for k = auto" if given is None else f"one text for each of {given} clusters"
        raise InputError(f"{len(strings)} text{'s' * (len(strings) != 1)}: clusters need at least {least}")
    if rows is None:
        encoder = as_encoder(model, pooling)
        bf16 = use_bf16(precision)
        units = unit_rows(encoder, strings, bf16=bf16, report=lambda done: report("embedding", done, len(strings)))
    else:
        units = check_rows(rows, "rows")
        if len(units) != len(strings):
            raise InputError(f"rows: {len(units)} rows for {len(strings)} texts. Give a row for each text")
    points = to_unit(components(units, _DIMENSIONS, seed))
    choices = [] if given else choose_k(points, seed, lambda done, total: report("choosing k", done, total))
    labels, distances = _divide(points, given or best_k(choices), seed)
    return Clusters(_described(strings, labels, distances), labels, distances, choices)


def best_k(choices: Sequence[Choice]) -> int:
    """The k with the highest silhouette."""
    return max(choices, key=lambda choice: choice.silhouette).k


def choose_k(points: Rows, seed: int, report: Callable[[int, int], None] = lambda done, total: None) -> list[Choice]:
    """The silhouette for each k of `GRID`, on at most 4,000 points; of these, 2,000 are scored.

    Raises:
        InputError: the points are all the same.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import silhouette_score

    sample = points[sample_of(len(points), _SAMPLE, seed)]
    distinct = len(np.unique(sample, axis=0))
    grid = [k for k in GRID if k * _FEWEST <= len(sample) and k < distinct]
    if not grid:
        raise InputError(f"{distinct} distinct embeddings: clusters need at least 3. Look at the texts and the model")
    choices = []
    for k in grid:
        scores = []
        for start in range(_STARTS):
            labels = KMeans(k, n_init=1, random_state=seed + start).fit_predict(sample)
            scored = sample_of(len(sample), _SILHOUETTES, seed + start)
            several = len(np.unique(labels[scored])) > 1
            scores.append(float(silhouette_score(sample[scored], labels[scored])) if several else -1.0)
        choices.append(Choice(k, float(np.mean(scores)), float(np.std(scores))))
        report(len(choices), len(grid))
    return choices


def _divide(points: Rows, k: int, seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """(labels, distances); clusters are numbered from the largest to the smallest."""
    from sklearn.cluster import KMeans

    sample = points[sample_of(len(points), _FIT, seed)]
    if len(np.unique(sample, axis=0)) < k:
        raise InputError(f"--k {k}: the texts have fewer distinct embeddings. Give a smaller k")
    means = KMeans(k, n_init=4, random_state=seed).fit(sample)
    labels = means.predict(points)
    order = np.argsort(-np.bincount(labels, minlength=k), kind="stable")
    labels = np.argsort(order)[labels]
    centres = to_unit(means.cluster_centers_[order])
    distances = 1 - np.clip((points * centres[labels]).sum(1), -1, 1)
    return labels, distances.astype(np.float32)


def _described(
    texts: Sequence[str], labels: npt.NDArray[np.int64], distances: npt.NDArray[np.float32]
) -> list[Cluster]:
    count = int(labels.max()) + 1
    words = cluster_words(texts, labels)
    described = []
    for number in range(count):
        members = np.flatnonzero(labels == number)
        if len(members):
            typical = int(members[distances[members].argmin()])
            described.append(Cluster(number, len(members), words[number], typical))
    return described
