"""A user's own labelled texts -> how well an encoder groups them: neighbours, clusters, a classifier of few examples.

- search: precision@10, the share of a text's ten nearest texts that have its label;
- discovery: k-means with as many clusters as labels. Accuracy is that of the best pairing of clusters with labels
  (Hungarian method; Xu et al., 2015, on short texts). NMI is normalised mutual information;
- few labels: accuracy of logistic regression that saw ten texts of each label (as SetFit measures; Tunstall, 2022).

Ties count against the encoder, as in `retrieval`: an encoder that maps everything to one point finds nothing.
Shape suffixes: N texts, H numbers of an embedding, Q queries, L labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from diffcse.errors import InputError
from diffcse.evaluation.embeddings import EmbeddingMatrix, Encode, cosine_blocks, embed_once, normalise
from diffcse.evaluation.floors import Bm25, similarity_blocks
from diffcse.text.formats import Wanted, parse, read
from diffcse.text.lines import STRICT, Note, Reading, gather_notes
from diffcse.text.sources import find_sources
from diffcse.text.strings import iter_strings
from diffcse.text.tables import LONGEST_RECORD

NEIGHBOURS, QUERIES, SHOTS, DRAWS = 10, 2000, 10, 3
_TIE, _RESAMPLES = 1e-6, 1000
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class LabelledTexts:
    """Texts, each with the number of its label."""

    name: str
    texts: list[str]
    labels_N: Labels
    names: tuple[str, ...]
    """(L,) the labels in the order of their numbers."""
    empty: int
    """Rows left out because the text or the label is blank."""
    sha256: str
    notes: tuple[str, ...] = ()
    """What was replaced, removed or guessed while reading."""

    score: ClassVar[str] = f"precision@{NEIGHBOURS}"

    @property
    def sentences(self) -> list[str]:
        """What an encoder embeds."""
        return self.texts

    @property
    def items(self) -> str:
        """Number of texts, labels and queries."""
        return f"{len(self.texts):,} texts, {len(self.names):,} labels, {min(QUERIES, len(self.texts)):,} queries"

    def values(self, encode: Encode | Bm25) -> dict[str, npt.NDArray[np.float64]]:
        """precision@10 of each query, in points: (Q,)."""
        queries_Q = draw_queries(len(self.texts))
        blocks = similarity_blocks(encode, [self.texts[query] for query in queries_Q], self.texts)
        return {self.score: 100 * _precision(blocks, self.labels_N, queries_Q, NEIGHBOURS)}

    def draws(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """See `mean_draws`."""
        return mean_draws(values)

    def more(self, encode: Encode) -> dict[str, dict[str, float]]:
        """Clusters and few-shot accuracy in points: mean, lowest and highest of three seeds."""
        rows_NH = np.asarray(normalise(embed_once(encode, self.texts)[0]))
        accuracy, nmi = zip(*(cluster_agreement(rows_NH, self.labels_N, seed) for seed in range(DRAWS)), strict=True)
        few = [few_shot_accuracy(rows_NH, self.labels_N, seed) for seed in range(DRAWS)]
        return {
            name: {"value": 100 * float(np.mean(values)), "low": 100 * min(values), "high": 100 * max(values)}
            for name, values in (("kmeans_accuracy", accuracy), ("nmi", nmi), ("few_shot", few))
        }

    def facts(self) -> dict[str, Any]:
        """What the report says about the data."""
        return {"texts": len(self.texts), "queries": min(QUERIES, len(self.texts)), "labels": len(self.names)}


@dataclass(frozen=True)
class _Columns(Wanted):
    """Columns, each named by an option of the same place in `roles`."""

    roles: tuple[str, ...] = ()

    @property
    def options(self) -> dict[str, str]:
        return dict(zip(self.names, self.roles, strict=True))


def read_columns(
    source: Any,
    columns: tuple[str, str],
    roles: tuple[str, str],
    reading: Reading = STRICT,
    notes: dict[str, Note] | None = None,
) -> Iterator[tuple[str, str]]:
    """The rows of two columns, stripped. A missing value is an empty text.

    Args:
        source: a table (DataFrame, dict, data set), or the name of a file, a glob or a hub data set.
        roles: the options (and arguments) that name the columns.
        reading: how bytes of files become lines and cells.
        notes: receives what was replaced, removed or guessed.

    Raises:
        InputError: a file cannot be read, or a column is missing.
    """
    if not isinstance(source, str | Path):
        first, second = (_cells(source, name, role) for name, role in zip(columns, roles, strict=True))
        if len(first) != len(second):
            raise InputError(f"{roles[1]} = {columns[1]!r}: {len(second)} values beside {len(first)} of {columns[0]!r}")
        yield from zip(first, second, strict=True)
        return
    # A document's name may be a number in JSON and Parquet, and labels often are.
    wanted = _Columns(columns[:1], columns[1], reading.max_line_bytes or LONGEST_RECORD, roles=roles, reading=reading)
    for place in find_sources([source]):
        if not place.has_columns:
            raise InputError(
                f"{place.name}: plain text has no column {columns[1]!r}. Give .csv, .tsv, .jsonl or .parquet"
            )
        for block in read(place, wanted):
            rows = parse(block, wanted)
            gather_notes({} if notes is None else notes, rows.notes, f"{place.name}, {place.unit}")
            yield from ((a.strip(), b.strip()) for a, b in zip(rows.cells[0], rows.documents or [], strict=True))


def _cells(table: Any, column: str, role: str) -> list[str]:
    try:
        values: Iterable[Any] = table[column]
    except (KeyError, TypeError, IndexError):
        raise InputError(f"{role} = {column!r}: the {type(table).__name__} has no such column") from None
    texts = (
        "" if value is None or value != value else value if isinstance(value, str) else str(value) for value in values
    )
    return [text.strip() for text in iter_strings(texts, role)]


def source_name(source: Any) -> str:
    """The name of a table in messages and reports."""
    return str(source) if isinstance(source, str | Path) else f"a {type(source).__name__}"


def sha256_of(rows: Iterable[tuple[str, str]]) -> str:
    """Hash (hex) of rows of two cells."""
    return hashlib.sha256("\n".join(f"{a}\t{b}" for a, b in rows).encode()).hexdigest()


def read_labelled(
    source: Any,
    column: str = "text",
    label: str = "label",
    *,
    reading: Reading = STRICT,
    roles: tuple[str, str] = ("column", "label"),
) -> LabelledTexts:
    """The texts of one table (or of files that `read_columns` takes), with their labels; equal texts are kept.

    Args:
        reading, roles: as in `read_columns`.

    Raises:
        InputError: a file cannot be read, a column is missing, fewer than 11 texts, or fewer than two labels that occur
            twice.
    """
    notes: dict[str, Note] = {}
    rows = list(read_columns(source, (column, label), roles, reading, notes))
    whole = [(text, name) for text, name in rows if text and name]
    file = source_name(source)
    if len(whole) <= NEIGHBOURS:
        where = f"{file}, columns {column!r} and {label!r}"
        raise InputError(f"{where}: {len(whole)} labelled texts. Give {NEIGHBOURS + 1} or more")
    texts, labels = map(list, zip(*whole, strict=True))
    names, labels_N, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if (repeated := (counts > 1).sum()) < 2:
        raise InputError(
            f"{file}, column {label!r}: at least two labels must occur on two texts or more; {repeated} of "
            f"{len(names)} does. Choose another column with --{roles[1].replace('_', '-')}"
        )
    empty = len(rows) - len(whole)
    labels_N, lines = labels_N.astype(np.int64), tuple(map(str, notes.values()))
    return LabelledTexts(file, texts, labels_N, tuple(map(str, names)), empty, sha256_of(whole), lines)


def draw_queries(texts: int) -> Labels:
    """Numbers of the texts whose neighbours are measured: (Q,), at most 2,000, always the same for `texts`."""
    return np.random.default_rng(0).choice(texts, min(QUERIES, texts), replace=False)


def neighbour_precision(
    rows_NH: EmbeddingMatrix, labels_N: Labels, queries_Q: Labels, k: int = NEIGHBOURS
) -> npt.NDArray[np.float64]:
    """Share of the `k` texts nearest by cosine that have the query's label: (Q,), in [0, 1].

    All texts but the query itself are searched. Of equal cosines, those of other labels rank first.

    >>> rows = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    >>> neighbour_precision(rows, np.array([0, 0, 1, 0]), np.arange(4), k=1).tolist()
    [1.0, 1.0, 0.0, 0.0]
    """
    return _precision(cosine_blocks(rows_NH[queries_Q], rows_NH), labels_N, queries_Q, k)


def _precision(
    blocks: Iterable[tuple[slice, np.ndarray]], labels_N: Labels, queries_Q: Labels, k: int
) -> npt.NDArray[np.float64]:
    precision_Q = np.empty(len(queries_Q))
    for rows, cosine in blocks:
        own = queries_Q[rows]
        same = labels_N[own][:, None] == labels_N
        distance = np.where(same, cosine.dtype.type(_TIE), cosine.dtype.type(0)) - cosine
        distance[np.arange(len(own)), own] = np.inf
        nearest = np.argpartition(distance, k - 1, axis=1)[:, :k]
        precision_Q[rows] = np.take_along_axis(same, nearest, axis=1).mean(axis=1)
    return precision_Q


def cluster_agreement(rows_NH: np.ndarray, labels_N: Labels, seed: int) -> tuple[float, float]:
    """(accuracy, NMI), both in [0, 1], of one k-means start with as many clusters as labels."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.cluster import KMeans
    from sklearn.metrics import normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    count = len(np.unique(labels_N))
    clusters_N = KMeans(count, n_init=1, random_state=seed).fit_predict(rows_NH)
    table = contingency_matrix(labels_N, clusters_N)
    right = table[linear_sum_assignment(table, maximize=True)].sum()
    return float(right / len(labels_N)), float(normalized_mutual_info_score(labels_N, clusters_N))


def few_shot_accuracy(rows_NH: np.ndarray, labels_N: Labels, seed: int, shots: int = SHOTS) -> float:
    """Accuracy in [0, 1], on all other texts, of logistic regression on `shots` texts of each label.

    A label with fewer than 2 x `shots` texts gives half of them; a label with one text gives none.
    """
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(seed)
    members = [rng.permutation(np.flatnonzero(labels_N == label)) for label in np.unique(labels_N)]
    seen = np.concatenate([numbers[: min(shots, len(numbers) // 2)] for numbers in members])
    rest = np.setdiff1d(np.arange(len(labels_N)), seen)
    # Rows have length 1 and examples are few: with C = 1 the penalty dominates (63 in place of 70 points, Banking77).
    classifier = LogisticRegression(C=10.0, max_iter=1000).fit(rows_NH[seen], labels_N[seen])
    return float((classifier.predict(rows_NH[rest]) == labels_N[rest]).mean())


def bootstrap(values_Q: npt.NDArray[np.float64]) -> dict[str, float]:
    """Mean of `values_Q` in points, with its 95 % interval over resampled queries (seed 0)."""
    low, high = np.quantile(mean_draws(100 * values_Q), (0.025, 0.975))
    return {"value": 100 * float(values_Q.mean()), "low": float(low), "high": float(high)}


def mean_draws(values_Q: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The mean of 1,000 draws of queries with replacement (seed 0): (1000,), the same draws for every encoder."""
    picks = np.random.default_rng(0).integers(0, len(values_Q), (_RESAMPLES, len(values_Q)), dtype=np.int32)
    return np.asarray(values_Q[picks].mean(axis=1))
