"""One training loop for both kinds of run: sentence encoders (`train`) and language models (`pretrain`).

A `Task` knows its batches, its losses and what it measures. `Loop` does the rest: learning rates, clipping, updates,
the log, checkpoints and a clean end on Ctrl-C. After a kill at any moment, a resumed run ends with the same weights,
bit for bit. That holds because a task draws every random number from (seed, update) and never from the past.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from diffcse.errors import InputError
from diffcse.files import write_errors, write_text
from diffcse.machine import release_memory
from diffcse.method.gather import ALONE, Ranks
from diffcse.record import finite
from diffcse.stops import stop_between_steps
from diffcse.training.callbacks import Callbacks
from diffcse.training.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from diffcse.training.folder import CHECKPOINTS, LOG
from diffcse.training.meter import Sums
from diffcse.training.ranks import anywhere, average_gradients, from_first, merged, take_from_first


class Task(Protocol):
    """What a loop trains. An update has a number: the first is update 0, and after it the run is at step 1."""

    bf16: bool
    """Whether it computes in bf16."""

    of_the_batch: frozenset[str]
    """Names in the result of `backward` whose mean over the processes counts; of all others it is the sum."""

    @property
    def model(self) -> nn.Module:
        """The module to train."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Its learning rates before the first update are the peaks of the schedule."""

    def backward(self, update: int) -> Mapping[str, Tensor | float | int]:
        """Add the gradients of one update to the weights, of several processes N times the own share.

        Returns:
            Values to sum up until the next log entry, without gradient. "loss" is one of them.
        """

    def entry(self, sums: Mapping[str, float], seconds: float) -> dict[str, float]:
        """A log entry ("loss" and more) from the sums since the last entry and the seconds that training them took."""

    def measure(self, step: int) -> dict[str, float]:
        """Scores of the model at `step`; empty to log none."""

    def trained_state(self) -> dict[str, Tensor]:
        """All weights and buffers that training changes, by name. They share memory with the model."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint must keep of the task itself, as JSON."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""


@dataclass(frozen=True)
class Pace:
    """How long to train, and how often to do what. All counts are in updates."""

    steps: int
    log_every: int
    evaluate_every: int
    checkpoint_every: int
    max_grad_norm: float
    rate: Callable[[int], float]
    """Learning rate of an update, as a share of its peak."""
    per_epoch: float
    """Updates in one pass over the text."""


class Loop:
    """Trains a task from the start or from a checkpoint to the last step.

    Args:
        task: what is trained.
        pace: how long, and how often to log, evaluate and save.
        folder: gets `log.jsonl`, and `checkpoints/` with the newest two checkpoints.
        report: called with every log entry.
        callbacks: `TrainerCallback`s of transformers. Of several processes the first alone has some.
        on_step: called with the number of updates after each.
        gives_up: asked with the log after each evaluation whether to end here.
        ranks: processes that train together. The first measures, logs and saves; all have the same weights.

    Attributes:
        step: updates so far.
        log: all log entries so far, those of the processes before a resume included.
        training_seconds: time spent on the updates in `log`, evaluation and checkpoints excluded.
    """

    def __init__(
        self,
        task: Task,
        pace: Pace,
        folder: Path,
        *,
        report: Callable[[dict[str, Any]], None] = lambda entry: None,
        callbacks: Callbacks | None = None,
        on_step: Callable[[int], None] = lambda step: None,
        gives_up: Callable[[Sequence[Mapping[str, Any]]], bool] = lambda log: False,
        ranks: Ranks = ALONE,
    ) -> None:
        self.ranks = ranks
        self.task, self.pace, self.folder, self._report = task, pace, folder, report
        self._callbacks = callbacks or Callbacks()
        self._on_step, self._gives_up = on_step, gives_up
        self.step = 0
        self.log: list[dict[str, Any]] = []
        self.training_seconds = 0.0
        self._peaks = [group["lr"] for group in task.optimizer.param_groups]
        self._sums = Sums()
        self._norm = torch.zeros(())
        self._began = self._since = time.perf_counter()
        self._seconds_before = 0.0
        self._stopped = False

    def run(self, checkpoint: Path | None = None) -> None:
        """Train to the last step. Ctrl-C ends training after the step at hand, with a checkpoint of that step.

        Raises:
            InputError: the loss or a weight is no longer finite, or the disk is full.
        """
        self._began = self._since = time.perf_counter()
        self._watched = from_first(self.ranks, lambda: bool(self._callbacks))
        resumed = from_first(self.ranks, lambda: checkpoint is not None)
        if resumed:
            self._restore(checkpoint)
        else:
            take_from_first(self.ranks, self.task.trained_state().values())
        if self.ranks.first:
            write_text(self.folder / LOG, "".join(json.dumps(entry) + "\n" for entry in self.log))
        with stop_between_steps(quiet=not self.ranks.first) as self._stop:
            self._begin_callbacks()
            if not resumed:
                self._evaluate()
            done = self.step >= self.pace.steps or from_first(self.ranks, lambda: self._gives_up(self.log))
            while not done:
                self._update()
                if not self._stop.asked:
                    self._on_step(self.step)
                done = self._follow()
            self._callbacks.tell("on_train_end")
            self._stopped = anywhere(self.ranks, self._stop.asked)

    @property
    def stopped(self) -> bool:
        """Whether Ctrl-C ended `run` before the last step."""
        return self._stopped

    def seconds(self) -> float:
        """Time since the run began, that of the processes before a resume included."""
        return self._seconds_before + time.perf_counter() - self._began

    def _begin_callbacks(self) -> None:
        self._callbacks.begin(
            self.task.model,
            self.task.optimizer,
            self.log,
            self.step,
            max_steps=self.pace.steps,
            max_grad_norm=self.pace.max_grad_norm,
            logging_steps=self.pace.log_every,
            eval_steps=self.pace.evaluate_every,
            save_steps=self.pace.checkpoint_every,
        )

    # ---- one update ----

    def _update(self) -> None:
        """Gradients, clipping over all trained weights together, and one step of the optimiser."""
        for group, peak in zip(self.task.optimizer.param_groups, self._peaks, strict=True):
            group["lr"] = peak * self.pace.rate(self.step)
        self._callbacks.tell("on_step_begin")
        self.task.model.train()
        values = self.task.backward(self.step)
        average_gradients(self.ranks, self.task.model)
        self._sums.add(merged(self.ranks, values, self.task.of_the_batch))
        self._norm = nn.utils.clip_grad_norm_(self.task.model.parameters(), self.pace.max_grad_norm)
        self.task.optimizer.step()
        self.task.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._callbacks.tell("on_step_end", step=self.step, epoch=self.step / self.pace.per_epoch)

    def _follow(self) -> bool:
        """Log, evaluate and save, each if it is due after this step. Returns whether to end here."""
        last = self.step >= self.pace.steps or self._asked(lambda: self._callbacks.stopping)
        logs = last or self.step % self.pace.log_every == 0 or self._asked(lambda: self._callbacks.ask("log"))
        if logs:
            self._log_training()
        if last or self.step % self.pace.evaluate_every == 0 or self._asked(lambda: self._callbacks.ask("evaluate")):
            self._evaluate()
            if from_first(self.ranks, lambda: self._gives_up(self.log)):
                last = True
                if not logs:
                    self._log_training()
        stop = anywhere(self.ranks, self._stop.asked)
        due = last or stop or self.step % self.pace.checkpoint_every == 0
        if due or self._asked(lambda: self._callbacks.ask("save")):
            self._save()
        return stop or last

    def _asked(self, by_callback: Callable[[], bool]) -> bool:
        return self._watched and from_first(self.ranks, by_callback)

    # ---- log and evaluation ----

    def _log_training(self) -> None:
        self._require_finite()
        sums = self._sums.take()
        seconds, self._since = time.perf_counter() - self._since, time.perf_counter()
        self.training_seconds += seconds
        rates = {"grad_norm": float(self._norm), "learning_rate": self.task.optimizer.param_groups[0]["lr"]}
        self._add({**rates, **self.task.entry(sums, seconds)})
        release_memory()  # batches of many shapes fragment the heap a little more with every step

    def _evaluate(self) -> None:
        paused = time.perf_counter()
        scores = from_first(self.ranks, lambda: self.task.measure(self.step))
        if scores:
            self._add(scores, prefix="eval_")
            self._callbacks.tell("on_evaluate", metrics={f"eval_{name}": score for name, score in scores.items()})
        self._since += time.perf_counter() - paused

    def _add(self, values: Mapping[str, float], prefix: str = "") -> None:
        """Keep a log entry, write it, and report it; to callbacks with `prefix` before every name."""
        entry = finite({"step": self.step, **values})
        self.log.append(entry)
        if not self.ranks.first:
            return
        path = self.folder / LOG
        with write_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        self._callbacks.tell("on_log", logs={prefix + name: entry[name] for name in values if entry[name] is not None})
        if not self._stop.asked:
            # The process that reads our output may have died of the same Ctrl-C, and the checkpoint comes later.
            self._report(entry)

    def _require_finite(self) -> None:
        loss = float(self._sums["loss"])
        if not math.isfinite(loss):
            raise InputError(f"the loss is {loss} at step {self.step}: training diverged. {self._remedy}")

    @property
    def _remedy(self) -> str:
        rates = "--learning-rate" if len(set(self._peaks)) < 2 else "--learning-rate or --discriminator-learning-rate"
        return f"Lower {rates}{', or use --precision fp32' if self.task.bf16 else ''}. Earlier checkpoints are intact."

    # ---- checkpoints ----

    def _save(self) -> None:
        """Write a checkpoint, unless training diverged: it would displace one that is worth more."""
        paused = time.perf_counter()
        self._require_finite()
        weights = self.task.trained_state()
        if not all(value.isfinite().all() for value in weights.values()):
            raise InputError(f"a weight is not finite at step {self.step}: training diverged. {self._remedy}")
        state = {
            "log": self.log,
            "sums": self._sums.state(),
            "since": paused - self._since,
            "seconds": self.seconds(),
            "training_seconds": self.training_seconds,
            "task": self.task.state(),
        }
        if self.ranks.first:
            write_checkpoint(self.folder / CHECKPOINTS, Checkpoint(self.step, weights, self._moments(), finite(state)))
        self._callbacks.tell("on_save")
        self._since += time.perf_counter() - paused

    def _moments(self) -> dict[str, Tensor]:
        """State of the optimiser: "NAME/KEY" for each weight NAME that had a gradient."""
        states = self.task.optimizer.state
        return {
            f"{name}/{key}": value
            for name, weight in self.task.model.named_parameters()
            if weight in states
            for key, value in states[weight].items()
        }

    def _restore(self, folder: Path | None) -> None:
        """Continue from the checkpoint at `folder`, which process 0 reads and sends to the others."""
        weights = dict(self.task.model.named_parameters())
        state: dict[str, Any] = {}
        if folder is not None:
            checkpoint = read_checkpoint(folder, self.task.trained_state())
            state = {"step": checkpoint.step, **checkpoint.state}
            for path, value in checkpoint.moments.items():
                name, _, key = path.rpartition("/")
                # The fused optimiser reads all of its state on the device.
                self.task.optimizer.state.setdefault(weights[name], {})[key] = value.to(weights[name].device)
        self._take_state(weights)
        state = from_first(self.ranks, lambda: state)
        self.step, self.log, self._sums = state["step"], state["log"], Sums(state["sums"])
        self._seconds_before, self.training_seconds = state["seconds"], state["training_seconds"]
        self._since -= state["since"]
        self.task.restore(state["task"])

    def _take_state(self, weights: Mapping[str, nn.Parameter]) -> None:
        """Weights and moments of process 0."""
        take_from_first(self.ranks, self.task.trained_state().values())
        kinds = {path: (str(value.dtype), list(value.shape)) for path, value in self._moments().items()}
        for path, (dtype, shape) in from_first(self.ranks, lambda: kinds).items():
            name, _, key = path.rpartition("/")
            moments = self.task.optimizer.state.setdefault(weights[name], {})
            if key not in moments:
                kind = getattr(torch, dtype.removeprefix("torch."))
                moments[key] = torch.zeros(shape, dtype=kind, device=weights[name].device)
        take_from_first(self.ranks, self._moments().values())


def linear_rate(steps: int, warmup: int) -> Callable[[int], float]:
    """Learning rate by update, as a share of the peak: from 0 up in `warmup` updates, then down to 0 at `steps`.

    >>> rate = linear_rate(steps=6, warmup=2)
    >>> [rate(update) for update in range(6)]
    [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]
    """

    def rate(update: int) -> float:
        return update / warmup if update < warmup else (steps - update) / (steps - warmup)

    return rate
