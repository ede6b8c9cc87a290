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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diffcse.errors import InputError
from diffcse.evaluation.candidates import Candidate
from diffcse.evaluation.embeddings import EmbeddingMatrix, cosine_blocks, embed_once, normalise
from diffcse.evaluation.floors import TfIdf
from diffcse.evaluation.measuring import EmbedOnce, Progress
from diffcse.record import versions
from diffcse.text.formats import Wanted, parse, read
from diffcse.text.sources import find_sources
from diffcse.text.tables import LONGEST_RECORD

SCHEMA = "diffcse-own-texts/1"
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


@dataclass(frozen=True)
class _Columns(Wanted):
    @property
    def options(self) -> dict[str, str]:
        return {self.columns[0]: "column", str(self.document): "label"}


def read_labelled(file: str | Path, column: str = "text", label: str = "label") -> LabelledTexts:
    """The texts of one table or JSON file (or a glob of them), with their labels; equal texts are kept.

    Raises:
        InputError: a file cannot be read, a column is missing, fewer than 11 texts, or fewer than two labels that occur
            twice.
    """
    wanted = _Columns((column,), label, LONGEST_RECORD)
    texts: list[str] = []
    labels: list[str] = []
    empty = 0
    for source in find_sources([file]):
        if not source.has_columns:
            raise InputError(
                f"{source.name}: plain text has no column {label!r}. Give a .csv, .tsv, .jsonl or .parquet"
            )
        for block in read(source, wanted):
            rows = parse(block, wanted)
            for text, name in zip(rows.cells[0], rows.documents or [], strict=True):
                if text.strip() and name.strip():
                    texts.append(text.strip())
                    labels.append(name.strip())
                else:
                    empty += 1
    if len(texts) <= NEIGHBOURS:
        where = f"{file}, columns {column!r} and {label!r}"
        raise InputError(f"{where}: {len(texts)} labelled texts. Give {NEIGHBOURS + 1} or more")
    names, labels_N, counts = np.unique(labels, return_inverse=True, return_counts=True)
    if (repeated := (counts > 1).sum()) < 2:
        raise InputError(
            f"{file}, column {label!r}: at least two labels must occur on two texts or more; {repeated} of "
            f"{len(names)} does. Choose another column with --label"
        )
    digest = hashlib.sha256("\n".join(f"{a}\t{b}" for a, b in zip(texts, labels, strict=True)).encode()).hexdigest()
    return LabelledTexts(str(file), texts, labels_N.astype(np.int64), tuple(map(str, names)), empty, digest)


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
    precision_Q = np.empty(len(queries_Q))
    for rows, cosine in cosine_blocks(rows_NH[queries_Q], rows_NH):
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
    picks = np.random.default_rng(0).integers(0, len(values_Q), (_RESAMPLES, len(values_Q)), dtype=np.int32)
    low, high = np.quantile(values_Q[picks].mean(axis=1), (0.025, 0.975))
    return {"value": 100 * float(values_Q.mean()), "low": 100 * float(low), "high": 100 * float(high)}


def evaluate_own_texts(
    candidates: Sequence[Candidate], data: LabelledTexts, *, floors: bool = False, progress: Progress = lambda *_: None
) -> dict[str, Any]:
    """Each encoder's measures on `data`, as plain JSON values in points.

    "low" and "high" of precision@10 and of its difference from the first encoder are a 95 % interval over queries; of
    the other measures they are the lowest and highest of three starts or draws. `floors` adds TF-IDF.

    Raises:
        InputError: an encoder fails, or gives NaN or infinity.
    """
    queries_Q = draw_queries(len(data.texts))
    results: list[dict[str, Any]] = []
    first_Q: Any = None
    for candidate in candidates:
        report = lambda done, total, name=candidate.name: progress(name, "embedding", done, total)  # noqa: E731
        (rows,) = embed_once(EmbedOnce(candidate.fit(data.texts), report), data.texts)
        progress(candidate.name, "neighbours, clusters, few examples", 0, 0)
        precision_Q = neighbour_precision(rows, data.labels_N, queries_Q)
        first_Q = precision_Q if first_Q is None else first_Q
        encoder = {"name": candidate.name, "fingerprint": candidate.fingerprint} | candidate.facts
        scores = {"precision@10": bootstrap(precision_Q), "difference": bootstrap(precision_Q - first_Q)}
        results.append({"encoder": encoder} | scores | _groups(np.asarray(normalise(rows)), data.labels_N))
    if floors:
        precision_Q = neighbour_precision(TfIdf(data.texts)(data.texts), data.labels_N, queries_Q)
        floor = {"precision@10": bootstrap(precision_Q), "difference": bootstrap(precision_Q - first_Q)}
        results.append({"encoder": {"name": "TF-IDF"}} | floor)
    facts = {"file": data.name, "sha256": data.sha256, "texts": len(data.texts), "queries": len(queries_Q)}
    facts |= {"labels": len(data.names), "empty": data.empty}
    return {"schema": SCHEMA, "data": facts, "results": results, "versions": versions()}


def _groups(rows_NH: np.ndarray, labels_N: Labels) -> dict[str, dict[str, float]]:
    """Clusters and few-shot accuracy in points: mean, lowest and highest of three seeds."""
    accuracy, nmi = zip(*(cluster_agreement(rows_NH, labels_N, seed) for seed in range(DRAWS)), strict=True)
    few = [few_shot_accuracy(rows_NH, labels_N, seed) for seed in range(DRAWS)]
    return {
        name: {"value": 100 * float(np.mean(values)), "low": 100 * min(values), "high": 100 * max(values)}
        for name, values in (("kmeans_accuracy", accuracy), ("nmi", nmi), ("few_shot", few))
    }
