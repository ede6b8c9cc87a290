"""Both probes against plain loops: one strength, one example, one step at a time."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from diffcse.evaluation import probes
from diffcse.evaluation.probes import ADAM, ADAM_FAST, LOGISTIC, PROBES, Trained


def toy(n=60, d=5, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(classes, size=n)
    x = (rng.normal(size=(classes, d))[y] + rng.normal(size=(n, d))).astype(np.float32)
    return x, y


def train_by_loop(probe, x, y, dev_x, dev_y, strength, classes, skip=0):
    """SentEval's loop with torch's own optimizers, a step at a time; best dev accuracy and its weights."""
    n, d = x.shape
    start = np.random.default_rng(probe.seed).uniform(-1 / np.sqrt(d), 1 / np.sqrt(d), size=(d + 1, classes))
    layer = torch.nn.Linear(d, classes)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(start[:-1].T))
        layer.bias.copy_(torch.tensor(start[-1]))
    kinds = {"adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}
    optimizer = kinds[probe.optimizer](layer.parameters(), weight_decay=strength)
    order = np.random.RandomState(probe.seed)
    if skip:
        order.permutation(skip)
    best, best_state, count, passes, stop = -1, None, 0, 0, False
    while not stop and passes <= probe.max_epoch:
        for _ in range(probe.epoch_size):
            permutation = order.permutation(n)
            for i in range(0, n, probe.batch_size):
                rows = permutation[i : i + probe.batch_size]
                loss = torch.nn.functional.cross_entropy(layer(torch.tensor(x[rows])), torch.tensor(y[rows]))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        passes += probe.epoch_size
        with torch.no_grad():
            accuracy = float((layer(torch.tensor(dev_x)).argmax(1).numpy() == dev_y).mean())
        if accuracy > best:
            best, best_state = accuracy, {k: v.clone() for k, v in layer.state_dict().items()}
        else:
            if count >= probe.tenacity:
                stop = True
            count += 1
    return best, best_state


SMALL = {"folds": 3, "batch_size": 16, "tenacity": 2, "epoch_size": 2, "max_epoch": 30}


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_strengths_side_by_side_are_those_of_a_loop(optimizer):
    probe = Trained("p", optimizer, **SMALL)
    (x, y), (dev_x, dev_y) = toy(), toy(30, seed=1)
    strengths = [1e-5, 1e-2, 1.0]
    best, weights, biases = probe._fit(x, y, dev_x, dev_y, strengths, 3)
    for r, strength in enumerate(strengths):
        expected, state = train_by_loop(probe, x, y, dev_x, dev_y, strength, 3)
        assert best[r] == pytest.approx(expected)
        np.testing.assert_allclose(weights[r].T, state["weight"].numpy(), atol=2e-4)
        np.testing.assert_allclose(biases[r], state["bias"].numpy(), atol=2e-4)
    assert probe.dev_scores(x, y, dev_x, dev_y, strengths, 3).tolist() == best.tolist()


def test_without_dev_examples_a_twentieth_is_held_out():
    probe = Trained("p", "adam", **SMALL)
    (x, y), (test_x, _) = toy(), toy(40, seed=2)
    order = np.random.RandomState(probe.seed).permutation(60)
    held, rest = order[:3], order[3:]
    _, state = train_by_loop(probe, x[rest], y[rest], x[held], y[held], 1e-3, 3, skip=60)
    expected = (test_x @ state["weight"].numpy().T + state["bias"].numpy()).argmax(1)
    assert probe.predict(x, y, None, test_x, 1e-3, 3).tolist() == expected.tolist()


def test_training_ends_after_the_misses_in_all():
    calls = []

    class Counting(probes._Adam):
        def __call__(self, gradient):
            calls.append(1)
            super().__call__(gradient)

    # One class in the dev examples that is always right: the first evaluation is the best, all others are misses.
    x = np.eye(2, dtype=np.float32)[[0, 1] * 8] * 50
    y = np.array([0, 1] * 8)
    probe = Trained("p", "adam", folds=2, batch_size=16, tenacity=3, epoch_size=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes, "_Adam", Counting)
        assert probe.dev_scores(x, y, x, y, [1e-5], 2).tolist() == [1.0]
    # Misses 0, 1, 2 go on, the one that finds 3 before it stops: 1 best + 4, if the start was not right already.
    assert len(calls) >= 5
    assert len(calls) <= 8


def test_logistic_is_scikit_learns():
    (x, y), (dev_x, dev_y) = toy(200, classes=2), toy(200, classes=2, seed=1)
    strengths = LOGISTIC.grid("nested")
    found = LOGISTIC.dev_scores(x, y, dev_x, dev_y, strengths, 2)
    for strength, score in zip(strengths, found, strict=True):
        exact = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000, solver="newton-cholesky")
        assert score == exact.fit(x.astype(np.float64), y).score(dev_x, dev_y)
    guesses = LOGISTIC.predict(x, y, None, dev_x, 1.0, 2)
    assert (guesses == LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(x, y).predict(dev_x)).all()


def test_grids_are_sentevals():
    assert LOGISTIC.grid("nested") == LOGISTIC.grid("split") == [0.25, 0.5, 1, 2, 4, 8]
    assert LOGISTIC.grid("folds") == [0.5, 1, 2, 4, 8, 16, 32]
    assert ADAM.grid("nested") == ADAM_FAST.grid("folds") == [1e-5, 1e-4, 1e-3, 1e-2]
    assert (ADAM.folds, ADAM.batch_size, ADAM.tenacity, ADAM.epoch_size, ADAM.optimizer) == (10, 64, 5, 4, "adam")
    assert (ADAM_FAST.folds, ADAM_FAST.batch_size, ADAM_FAST.tenacity, ADAM_FAST.epoch_size) == (5, 128, 3, 2)
    assert ADAM_FAST.optimizer == "rmsprop"
    assert list(PROBES) == ["logistic", "adam", "adam-fast"]
