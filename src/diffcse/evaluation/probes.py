"""How much a linear classifier can read out of frozen embeddings: SentEval's two probes (arXiv 1803.05449).

Published transfer figures come from two different classifiers, with settings that papers leave out. Both are here with
SentEval's own settings (senteval/tools/validation.py, classifier.py), and the record says which one made a figure:

- `Logistic`, its scikit-learn path: L2-regularised logistic regression.
- `Trained`, its neural path without a hidden layer: a softmax layer trained by Adam or RMSprop with early stopping
  on held-out accuracy. `ADAM` is what SimCSE and DiffCSE call test mode, `ADAM_FAST` their fast dev mode.

A probe trains once for each strength of a grid. The strengths of `Trained` see the same batches in the same order and
do not affect each other. So they train side by side in one matrix, which costs little more than one strength alone.
The tests compare it with a loop over the strengths.

Shape suffixes: N examples, D features, C classes, R strengths of the grid.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

SEED = 1111
"""SentEval's, of folds, batches and initial weights."""

HELD_OUT = 0.05
"""Share of the training examples that stops `Trained` early where a task has no dev split."""


@dataclass(frozen=True)
class Logistic:
    """scikit-learn's logistic regression; strengths are C, the inverse of the L2 penalty.

    The objective is multinomial with a free intercept, solved by L-BFGS in float32 to a gradient of 1e-4.
    scikit-learn's default solver at SentEval's time (liblinear) penalised the intercept too and took classes one
    against the rest; later ones, and most published figures, are like this.
    """

    name: str = "logistic"
    folds: int = 10

    def grid(self, protocol: Literal["nested", "folds", "split"]) -> list[float]:
        """SentEval's C: 2^-1 to 2^5 where folds of the training examples choose, else 2^-2 to 2^3."""
        return [2.0**t for t in (range(-1, 6) if protocol == "folds" else range(-2, 4))]

    def dev_scores(
        self,
        x_ND: Any,
        y_N: np.ndarray,
        dev_x_MD: Any,
        dev_y_M: np.ndarray,
        strengths: list[float],
        classes: int,
    ) -> np.ndarray:
        """Accuracy on the dev examples after training with each strength, (R,)."""
        # From weak penalty's neighbour to neighbour the solution moves little: each fit starts at the one before.
        model = self._model(strengths[0], warm=True)
        scores = []
        for strength in strengths:
            model.C = strength
            scores.append((_fitted(model, x_ND, y_N).predict(dev_x_MD) == dev_y_M).mean())
        return np.array(scores)

    def predict(
        self,
        x_ND: Any,
        y_N: np.ndarray,
        dev: tuple[np.ndarray, np.ndarray] | None,
        test_x_MD: Any,
        strength: float,
        classes: int,
    ) -> np.ndarray:
        """Classes of the test examples, (M,), after training with `strength`; `dev` is not used."""
        return _fitted(self._model(strength), x_ND, y_N).predict(test_x_MD)

    def facts(self) -> dict[str, Any]:
        """Name and settings, for the record."""
        return {"name": self.name, "classifier": "L2-regularised logistic regression", "folds": self.folds}

    def _model(self, strength: float, *, warm: bool = False) -> LogisticRegression:
        return LogisticRegression(C=strength, max_iter=1000, tol=1e-4, warm_start=warm)


def _fitted(model: LogisticRegression, x_ND: Any, y_N: np.ndarray) -> LogisticRegression:
    with warnings.catch_warnings():
        # Rounding in float32 can end the line search a hair before the gradient is small enough.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x_ND, y_N)


@dataclass(frozen=True)
class Trained:
    """SentEval's softmax layer, trained in mini-batches; strengths are the weight decay added to the gradient.

    After every `epoch_size` passes the held-out accuracy is taken; the weights of the best one (the first, among
    equals) count. Training ends at the evaluation after `tenacity` that were no better than the best before, in all,
    not in a row, or once more than 200 passes are over.
    """

    name: str
    optimizer: Literal["adam", "rmsprop"]
    folds: int
    batch_size: int
    tenacity: int
    epoch_size: int
    max_epoch: int = 200
    seed: int = SEED

    def grid(self, protocol: Literal["nested", "folds", "split"]) -> list[float]:
        """SentEval's weight decays, for every protocol."""
        return [1e-5, 1e-4, 1e-3, 1e-2]

    def dev_scores(
        self,
        x_ND: Any,
        y_N: np.ndarray,
        dev_x_MD: Any,
        dev_y_M: np.ndarray,
        strengths: list[float],
        classes: int,
    ) -> np.ndarray:
        """Best accuracy on the dev examples, which also stop the training, for each strength, (R,)."""
        return self._fit(x_ND, y_N, dev_x_MD, dev_y_M, strengths, classes)[0]

    def predict(
        self,
        x_ND: Any,
        y_N: np.ndarray,
        dev: tuple[np.ndarray, np.ndarray] | None,
        test_x_MD: Any,
        strength: float,
        classes: int,
    ) -> np.ndarray:
        """Classes of the test examples, (M,); stopped on `dev`, or on a twentieth of the training examples."""
        drawn = 0
        if dev is None:
            drawn = len(x_ND)
            order_N = np.random.RandomState(self.seed).permutation(drawn)
            cut = int(HELD_OUT * drawn)
            x_ND, y_N, dev = x_ND[order_N[cut:]], y_N[order_N[cut:]], (x_ND[order_N[:cut]], y_N[order_N[:cut]])
        _, weight_RDC, bias_RC = self._fit(x_ND, y_N, *dev, [strength], classes, skip=drawn)
        return (test_x_MD @ weight_RDC[0] + bias_RC[0]).argmax(1)

    def facts(self) -> dict[str, Any]:
        """Name and settings, for the record."""
        return {
            "name": self.name,
            "classifier": f"softmax layer trained by {self.optimizer}",
            "folds": self.folds,
            "batch_size": self.batch_size,
            "tenacity": self.tenacity,
            "epoch_size": self.epoch_size,
            "seed": self.seed,
        }

    def _fit(
        self,
        x_ND: Any,
        y_N: np.ndarray,
        dev_x_MD: Any,
        dev_y_M: np.ndarray,
        strengths: list[float],
        classes: int,
        skip: int = 0,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Best dev accuracy (R,), and the weights (R, D, C) and biases (R, C) that had it.

        `skip`: length of a permutation drawn before the first batch (SentEval splits off dev examples with the same
        generator).
        """
        n, d = x_ND.shape
        r, c = len(strengths), classes
        batches = np.random.RandomState(self.seed)
        if skip:
            batches.permutation(skip)
        w = _start_weights(d, r, c, self.seed)
        decay = np.repeat(np.array(strengths, dtype=np.float32), c)
        x, dev_x = _with_ones(x_ND), _with_ones(dev_x_MD)
        target = np.eye(c, dtype=np.float32)[y_N]
        step = _Adam(w) if self.optimizer == "adam" else _RmsProp(w)

        best, best_w = np.full(r, -1.0), w.copy()
        misses, going = np.zeros(r, dtype=int), np.ones(r, dtype=bool)
        passes = 0
        while going.any() and passes <= self.max_epoch:
            for _ in range(self.epoch_size):
                order = batches.permutation(n)
                shuffled_x, shuffled_y = x[order], target[order]
                for begin in range(0, n, self.batch_size):
                    rows = slice(begin, begin + self.batch_size)
                    step(_gradient(w, shuffled_x[rows], shuffled_y[rows], r) + decay * w)
            passes += self.epoch_size
            guesses = (dev_x @ w).reshape(-1, r, c).argmax(2)
            accuracy = (guesses == dev_y_M[:, None]).mean(0)
            better = going & (accuracy > best)
            columns = np.repeat(better, c)
            best_w[:, columns] = w[:, columns]
            best[better] = accuracy[better]
            missed = going & ~better
            going &= ~(missed & (misses >= self.tenacity))
            misses[missed] += 1
        split = best_w.reshape(d + 1, r, c).transpose(1, 0, 2)
        return best, split[:, :-1], split[:, -1]


def _start_weights(d: int, r: int, c: int, seed: int) -> np.ndarray:
    """(D + 1, R * C): a column for each strength and class, the bias as the last row; all strengths start alike."""
    bound = 1 / np.sqrt(d)  # as torch's Linear
    start = np.random.default_rng(seed).uniform(-bound, bound, size=(d + 1, c)).astype(np.float32)
    return np.ascontiguousarray(np.tile(start, (1, r)))


def _with_ones(x_ND: Any) -> np.ndarray:
    return np.concatenate([x_ND.astype(np.float32, copy=False), np.ones((len(x_ND), 1), np.float32)], axis=1)


def _gradient(w: np.ndarray, batch: np.ndarray, target_BC: np.ndarray, r: int) -> np.ndarray:
    """Of the mean cross-entropy over the batch, for each strength, in the shape of `w`."""
    classes = target_BC.shape[1]
    logits = (batch @ w).reshape(-1, r, classes)
    logits -= logits.max(2, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(2, keepdims=True)
    logits -= target_BC[:, None, :]
    gradient: np.ndarray = batch.T @ logits.reshape(-1, r * classes)
    gradient /= len(batch)
    return gradient


class _Adam:
    """torch.optim.Adam at its defaults (learning rate 1e-3), in place on `w`."""

    def __init__(self, w: np.ndarray) -> None:
        self.w, self.m, self.v, self.t = w, np.zeros_like(w), np.zeros_like(w), 0
        self._room = np.empty_like(w)

    def __call__(self, gradient: np.ndarray) -> None:
        self.t += 1
        self.m += (gradient - self.m) * np.float32(0.1)
        np.multiply(gradient, gradient, out=self._room)
        self._room -= self.v
        self._room *= np.float32(0.001)
        self.v += self._room
        np.sqrt(self.v, out=self._room)
        self._room *= np.float32(1 / np.sqrt(1 - 0.999**self.t))
        self._room += np.float32(1e-8)
        np.divide(self.m, self._room, out=self._room)
        self._room *= np.float32(1e-3 / (1 - 0.9**self.t))
        self.w -= self._room


class _RmsProp:
    """torch.optim.RMSprop at its defaults (learning rate 1e-2, alpha 0.99), in place on `w`."""

    def __init__(self, w: np.ndarray) -> None:
        self.w, self.v = w, np.zeros_like(w)

    def __call__(self, gradient: np.ndarray) -> None:
        self.v += (gradient * gradient - self.v) * np.float32(0.01)
        self.w -= np.float32(1e-2) * gradient / (np.sqrt(self.v) + np.float32(1e-8))


LOGISTIC = Logistic()
ADAM = Trained("adam", "adam", folds=10, batch_size=64, tenacity=5, epoch_size=4)
ADAM_FAST = Trained("adam-fast", "rmsprop", folds=5, batch_size=128, tenacity=3, epoch_size=2)

Probe = Logistic | Trained

PROBES: dict[str, Probe] = {probe.name: probe for probe in (LOGISTIC, ADAM, ADAM_FAST)}
