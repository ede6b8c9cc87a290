"""The three protocols against plain loops on toy sets, and that every encoder meets the same folds."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold

from diffcse.errors import InputError
from diffcse.evaluation.downstream import Examples, TransferTask
from diffcse.evaluation.floors import TfIdf
from diffcse.evaluation.probes import Logistic, Trained
from diffcse.evaluation.transfer import folds_of, score_transfer
from tests.evaluation import folders

PROBE = Logistic(folds=3)


def examples(n, seed, *, pairs=False):
    if pairs:
        rows = [(a, b, int(score > 2)) for score, a, b in folders.pairs(n, seed)]
        first, second, labels = zip(*rows, strict=True)
        return Examples(first, second, np.array(labels))
    sentences, labels = zip(*folders.labelled(n, seed), strict=True)
    return Examples(sentences, None, np.array(labels))


def fit(x, y, c):
    return LogisticRegression(C=c, tol=1e-10, max_iter=10_000).fit(x, y)


def folds(y, seed=1111):
    return list(StratifiedKFold(n_splits=3, shuffle=True, random_state=seed).split(np.zeros(len(y)), y))


def choose(x, y, grid):
    """The strength by folds, in loops, and its mean accuracy."""
    means = []
    for c in grid:
        scores = []
        for train, held in folds(y):
            scores.append(np.mean(fit(x[train], y[train], c).predict(x[held]) == y[held]))
        means.append(round(100 * np.mean(scores), 2))
    return grid[int(np.argmax(means))], max(means)


def test_nested_folds_by_loop():
    part = examples(60, 0)
    x, y = folders.bag_of_words(part.first), part.labels
    tests, devs, chosen = [], [], []
    for train, test in folds(y):
        c, dev = choose(x[train], y[train], [0.25, 0.5, 1.0, 2.0, 4.0, 8.0])
        chosen.append(c)
        devs.append(dev)
        tests.append(100 * np.mean(fit(x[train], y[train], c).predict(x[test]) == y[test]))
    score = score_transfer(folders.bag_of_words, TransferTask("CR", part, None, None, ""), PROBE)
    assert score.strengths == tuple(chosen)
    assert score.accuracy == pytest.approx(np.mean(tests))
    assert score.dev_accuracy == pytest.approx(np.mean(devs), abs=0.01)
    assert (score.protocol, score.n_test, score.f1, score.majority) == ("nested", 60, None, 50.0)


def test_folds_of_the_training_split_and_pairs_by_loop():
    train, test = examples(60, 0, pairs=True), examples(40, 1, pairs=True)

    def features(part):
        u, v = (folders.bag_of_words(s) for s in (part.first, part.second))
        return np.concatenate([abs(u - v), u * v], axis=1)

    c, dev = choose(features(train), train.labels, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    guesses = fit(features(train), train.labels, c).predict(features(test))
    score = score_transfer(folders.bag_of_words, TransferTask("MRPC", train, None, test, ""), PROBE)
    assert (score.protocol, score.strengths) == ("folds", (c,))
    assert score.dev_accuracy == pytest.approx(dev, abs=0.01)
    assert score.accuracy == pytest.approx(100 * np.mean(guesses == test.labels))
    assert score.f1 == pytest.approx(100 * f1_score(test.labels, guesses))


def test_given_dev_split_by_loop():
    train, dev, test = (examples(50, seed) for seed in range(3))
    x, dev_x, test_x = (folders.bag_of_words(part.first) for part in (train, dev, test))
    grid = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0]
    scores = [fit(x, train.labels, c).score(dev_x, dev.labels) for c in grid]
    c = grid[int(np.argmax(scores))]
    score = score_transfer(folders.bag_of_words, TransferTask("SST2", train, dev, test, ""), PROBE)
    assert (score.protocol, score.strengths, score.n_dev) == ("split", (c,), 50)
    assert score.dev_accuracy == pytest.approx(100 * max(scores))
    assert score.accuracy == pytest.approx(100 * fit(x, train.labels, c).score(test_x, test.labels))


def test_the_trained_probe_goes_through_the_same_protocols():
    probe = Trained("p", "adam", folds=2, batch_size=16, tenacity=1, epoch_size=2, max_epoch=10)
    for task in (
        TransferTask("CR", examples(40, 0), None, None, ""),
        TransferTask("MRPC", examples(40, 0, pairs=True), None, examples(20, 1, pairs=True), ""),
        TransferTask("SST2", examples(40, 0), examples(20, 1), examples(20, 2), ""),
    ):
        first, again = (score_transfer(folders.bag_of_words, task, probe) for _ in range(2))
        assert first == again
        assert 0 <= first.accuracy <= 100


def test_bags_of_words_stay_sparse_and_score_as_dense_ones_do():
    for task in (
        TransferTask("CR", examples(60, 0), None, None, ""),
        TransferTask("MRPC", examples(60, 0, pairs=True), None, examples(40, 1, pairs=True), ""),
    ):
        encode = TfIdf(task.sentences())
        dense = score_transfer(lambda s, encode=encode: encode(s).toarray(), task, PROBE)
        assert score_transfer(encode, task, PROBE).accuracy == pytest.approx(dense.accuracy, abs=2)


def test_folds_are_a_matter_of_labels_alone():
    y = np.array([0, 1] * 20)
    for (train, held), (again, _), (other, _) in zip(folds_of(y, 3, "t"), folds_of(y, 3, "t"), folds(y), strict=True):
        assert train.tolist() == again.tolist() == other.tolist()
        assert abs(y[held].mean() - 0.5) < 0.1
    with pytest.raises(InputError, match="one class has only 2 examples, too few for 3 folds"):
        folds_of(np.array([0] * 9 + [1] * 2), 3, "t")
