"""Linear probes on frozen embeddings: seven classification tasks, as in SentEval.

Three protocols choose the probe's strength without the test examples:

- nested (MR, CR, SUBJ, MPQA, which have no splits): each of k outer folds is tested once. k inner folds of the other
  outer folds choose the strength. The dev accuracy is the mean of the best inner accuracies.
- folds (TREC, MRPC): k folds of the training split choose; the test split is scored once.
- split (SST2): the dev split chooses; the test split is scored once.

Folds are stratified and shuffled with SentEval's seed, over examples in SentEval's order: the same for every encoder.
As in SentEval, the choice compares accuracies rounded to 0.01 points and takes the first of equals. Reported figures
are not rounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy import sparse
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold

from diffcse.errors import InputError
from diffcse.evaluation.downstream import Examples, TransferTask
from diffcse.evaluation.embeddings import EmbeddingMatrix, Encode, embed_once
from diffcse.evaluation.probes import LOGISTIC, SEED, Probe

Protocol = Literal["nested", "folds", "split"]


@dataclass(frozen=True)
class TransferScore:
    """One encoder's score on one task, in points."""

    name: str
    protocol: Protocol
    n_train: int
    n_dev: int
    """Examples of the dev accuracy: the training examples where their folds choose."""
    n_test: int
    dev_accuracy: float
    """Of the chosen strength, on the examples that chose it: higher than on new examples."""
    accuracy: float
    """On the test examples."""
    f1: float | None
    """Of class 1 on the test examples; for pairs (MRPC), else None."""
    strengths: tuple[float, ...]
    """The chosen strength, or that of each outer fold."""
    majority: float
    """Accuracy of always answering the commonest class of the test examples."""
    dev_majority: float
    """The same on the examples of the dev accuracy."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"strengths": list(self.strengths)}


def score_transfer(encode: Encode, task: TransferTask, probe: Probe = LOGISTIC) -> TransferScore:
    """Train and test `probe` on the embeddings of `task`'s sentences.

    A pair's features are |u - v| and u * v, side by side (SentEval; InferSent, arXiv 1705.02364, section 3.1).

    Raises:
        InputError: embeddings that are not finite, or fewer examples of a class than there are folds.
    """
    parts = [part for part in (task.train, task.dev, task.test) if part is not None]
    lists = [sentences for part in parts for sentences in (part.first, part.second) if sentences is not None]
    rows = iter(_single(x) for x in embed_once(encode, *lists))
    features = {id(part): _features(part, rows) for part in parts}
    train_x, train_y = features[id(task.train)], task.train.labels
    classes = int(max(part.labels.max() for part in parts)) + 1
    if task.test is None:
        return _nested(task, train_x, train_y, probe, classes)
    test_x, test_y = features[id(task.test)], task.test.labels
    protocol: Protocol = "folds" if task.dev is None else "split"
    strengths = probe.grid(protocol)
    dev = None
    if task.dev is None:
        scores = _fold_scores(task.name, train_x, train_y, probe, strengths, classes)
    else:
        dev = (features[id(task.dev)], task.dev.labels)
        scores = 100 * probe.dev_scores(train_x, train_y, *dev, strengths, classes)
    chosen = int(np.round(scores, 2).argmax())
    guesses = probe.predict(train_x, train_y, dev, test_x, strengths[chosen], classes)
    return TransferScore(
        name=task.name,
        protocol=protocol,
        n_train=len(train_y),
        n_dev=len(train_y) if dev is None else len(dev[1]),
        n_test=len(test_y),
        dev_accuracy=float(scores[chosen]),
        accuracy=_accuracy(guesses, test_y),
        f1=100 * float(f1_score(test_y, guesses)) if task.test.second is not None else None,
        strengths=(strengths[chosen],),
        majority=_majority(test_y),
        dev_majority=_majority(train_y if dev is None else dev[1]),
    )


def folds_of(labels: np.ndarray, k: int, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """The k stratified folds as (training rows, held-out rows). They depend on the labels and SentEval's seed alone.

    Raises:
        InputError: a class has fewer than k examples.
    """
    fewest = int(np.unique(labels, return_counts=True)[1].min())
    if fewest < k:
        raise InputError(f"{name}: one class has only {fewest} examples, too few for {k} folds")
    shuffled = StratifiedKFold(n_splits=k, shuffle=True, random_state=SEED)
    return list(shuffled.split(np.zeros(len(labels)), labels))


def _nested(task: TransferTask, x: EmbeddingMatrix, y: np.ndarray, probe: Probe, classes: int) -> TransferScore:
    strengths = probe.grid("nested")
    devs, tests, chosen = [], [], []
    for train, test in folds_of(y, probe.folds, task.name):
        train_x, train_y = x[train], y[train]
        scores = _fold_scores(task.name, train_x, train_y, probe, strengths, classes)
        best = int(np.round(scores, 2).argmax())
        guesses = probe.predict(train_x, train_y, None, x[test], strengths[best], classes)
        devs.append(float(scores[best]))
        tests.append(_accuracy(guesses, y[test]))
        chosen.append(strengths[best])
    return TransferScore(
        name=task.name,
        protocol="nested",
        n_train=len(y),
        n_dev=len(y),
        n_test=len(y),
        dev_accuracy=float(np.mean(devs)),
        accuracy=float(np.mean(tests)),
        f1=None,
        strengths=tuple(chosen),
        majority=_majority(y),
        dev_majority=_majority(y),
    )


def _fold_scores(
    name: str, x: EmbeddingMatrix, y: np.ndarray, probe: Probe, strengths: list[float], classes: int
) -> np.ndarray:
    """Mean held-out accuracy of each strength over the folds of `x`, in points, (R,)."""
    folds = folds_of(y, probe.folds, name)
    return 100 * np.mean(
        [probe.dev_scores(x[train], y[train], x[held], y[held], strengths, classes) for train, held in folds], axis=0
    )


def _features(part: Examples, rows: Iterator[EmbeddingMatrix]) -> EmbeddingMatrix:
    u = next(rows)
    if part.second is None:
        return u
    v = next(rows)
    if sparse.issparse(u) or sparse.issparse(v):
        u, v = sparse.csr_array(u), sparse.csr_array(v)
        return sparse.hstack([abs(u - v), u.multiply(v)], "csr")
    return np.concatenate([np.abs(u - v), u * v], axis=1)


def _single(x: EmbeddingMatrix) -> EmbeddingMatrix:
    """As float32, which makes a fit three times as fast; a bag of words stays sparse."""
    return (sparse.csr_array(x) if sparse.issparse(x) else np.asarray(x)).astype(np.float32)


def _accuracy(guesses: np.ndarray, labels: np.ndarray) -> float:
    return 100 * float((guesses == labels).mean())


def _majority(labels: np.ndarray) -> float:
    return 100 * float(np.bincount(labels).max() / len(labels))
