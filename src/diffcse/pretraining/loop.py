"""The loop: weight updates, log, held-out measurements, checkpoints. A resumed run ends with the same weights."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from diffcse.errors import InputError
from diffcse.files import staged_folder, write_errors, write_json, write_manifest, write_text
from diffcse.machine import release_memory
from diffcse.method import draws
from diffcse.pretraining.config import Pretraining
from diffcse.pretraining.folder import CHECKPOINTS, LOG, RECORD
from diffcse.pretraining.losses import TRAIN, NextSteps, TokenSteps
from diffcse.record import Record, finite
from diffcse.training.checkpoints import Stop, checkpoint_path, prune, save_weights, stop_between_steps, stopped
from diffcse.training.folder import Report

_WEIGHTS, _OPTIMIZER, _STATE = "trained.safetensors", "optimizer.safetensors", "state.json"


def rate(step: int, steps: int, config: Pretraining) -> float:
    """The learning rate of update `step` (counted from 0) as a share of its peak: a linear rise, then a fall to 0."""
    warmup = round(config.warmup_ratio * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return (steps - step) / max(steps - warmup, 1)


class Loop:
    """One run's updates.

    Args:
        steps: what an update learns from.
        total: updates of the whole run.
        output: where log, record and checkpoints go.
        measure: scores of the model on the held-out sentences.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        config: Pretraining,
        steps: TokenSteps | NextSteps,
        total: int,
        output: Path,
        record: Record,
        *,
        bf16: bool,
        measure: Callable[[], dict[str, float]],
        report: Report,
    ) -> None:
        self.model, self.config, self.steps, self.total, self.output = model, config, steps, total, output
        self.record, self.bf16, self.measure, self.report = record, bf16, measure, report
        self.log: list[dict[str, Any]] = []
        self.tokens_seen = 0
        self.training_seconds = 0.0
        self._stop = Stop()
        self._began, self._before = time.perf_counter(), 0.0
        self._totals: dict[str, float] = {}
        self._optimizer = _optimizer(model, config)

    def train(self, checkpoint: Path | None) -> None:
        """Run from `checkpoint`, or from the start, to the last update.

        Raises:
            InputError: the loss or a weight is not finite.
            KeyboardInterrupt: Ctrl-C, after a checkpoint was written.
        """
        done = first = 0 if checkpoint is None else self._restore(checkpoint)
        write_text(self.output / LOG, "".join(json.dumps(entry) + "\n" for entry in self.log))
        self.model.train()
        config = self.config
        with stop_between_steps() as self._stop:
            for step in range(first, self.total):
                self.step(step)
                done = step + 1
                if done % config.log_every == 0 or done == self.total:
                    self._log_training(done)
                if done % config.eval_every == 0 and done < self.total:
                    self._add({"step": done, **self.measure()})
                if done % config.checkpoint_every == 0 or self._stop.asked:
                    self._checkpoint(done)
                if self._stop.asked:
                    break
        if self._stop.asked:
            self.record.status = "stopped"
            self.record.write(self.output / RECORD)
            raise stopped(done, self.total)

    def step(self, step: int) -> None:
        """Update the weights once. (seed, step) decides masks and dropout."""
        began = time.perf_counter()
        torch.manual_seed(draws.key(self.config.seed, TRAIN, step) >> 1)
        for part in self._optimizer.param_groups:
            part["lr"] = self.config.learning_rate * rate(step, self.total, self.config)
        # The weights that autocast casts to bf16 are kept inside this block: cast once a step, not once a group.
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.bf16):
            sums = self.steps.backward(step)
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.tokens_seen += int(sums["tokens"])
        elapsed = time.perf_counter() - began
        self.training_seconds += elapsed
        for name, value in {**sums, "seconds": elapsed, "steps": 1}.items():
            self._totals[name] = self._totals.get(name, 0.0) + value

    def timing(self) -> dict[str, float]:
        """Seconds since the run began, those of the processes before a resume included; speed of the updates."""
        speed = self.tokens_seen / max(self.training_seconds, 1e-9)
        return {"seconds": self._before + time.perf_counter() - self._began, "tokens_per_second": speed}

    def _log_training(self, step: int) -> None:
        totals, self._totals = self._totals, {}
        loss = totals["loss"] / max(totals["predicted"], 1)
        if not math.isfinite(loss):
            raise InputError(
                f"the loss is {loss} before step {step}: training diverged. Lower --learning-rate, or use --precision "
                "fp32. Earlier checkpoints are untouched"
            )
        self._add(
            {
                "step": step,
                "loss": loss,
                **({"next_loss": totals["next"] / totals["steps"]} if self.config.next_weight else {}),
                **({"sums_loss": totals["apart"] / totals["steps"]} if self.config.sums_weight else {}),
                "learning_rate": self._optimizer.param_groups[0]["lr"],
                "tokens": self.tokens_seen,
                "tokens_per_second": totals["tokens"] / max(totals["seconds"], 1e-9),
                "sentences": totals["sentences"],
            }
        )

    def _add(self, entry: dict[str, Any]) -> None:
        release_memory()  # groups of many shapes fragment the memory a little more with every step
        entry = finite(entry)
        self.log.append(entry)
        path = self.output / LOG
        with write_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        if not self._stop.asked:  # the same Ctrl-C may have ended the reader of these lines
            self.report("log", {**entry, "steps": self.total})

    def _checkpoint(self, step: int) -> None:
        if not all(p.isfinite().all() for p in self.model.parameters()):
            raise InputError(
                f"a weight is not finite after step {step}: training diverged. Lower --learning-rate. Earlier "
                "checkpoints are untouched"
            )
        folder = self.output / CHECKPOINTS
        with staged_folder(checkpoint_path(folder, step)) as staging:
            save_weights({name: value.detach() for name, value in self.model.named_parameters()}, staging / _WEIGHTS)
            save_weights(self._moments(), staging / _OPTIMIZER)
            state = {
                "step": step,
                "tokens_seen": self.tokens_seen,
                "training_seconds": self.training_seconds,
                "seconds": self.timing()["seconds"],
                "timing": self.record.timing,
                "totals": self._totals,
                "log": self.log,
            }
            write_json(staging / _STATE, finite(state))
            write_manifest(staging)
        prune(folder, step)

    def _moments(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}": value
            for name, parameter in self.model.named_parameters()
            for key, value in self._optimizer.state[parameter].items()
        }

    @torch.no_grad()
    def _restore(self, checkpoint: Path) -> int:
        """Load everything that `checkpoint` holds; the number of updates made before it."""
        weights, moments = load_file(checkpoint / _WEIGHTS), load_file(checkpoint / _OPTIMIZER)
        for name, parameter in self.model.named_parameters():
            parameter.copy_(weights[name])
            keys = ("step", "exp_avg", "exp_avg_sq")  # the fused optimizer reads all of them on the device
            self._optimizer.state[parameter] = {key: moments[f"{name}.{key}"].to(parameter.device) for key in keys}
        state = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
        self.tokens_seen, self.training_seconds = state["tokens_seen"], state["training_seconds"]
        self._before, self._totals, self.log = state["seconds"], state["totals"], state["log"]
        self.record.timing = {**self.record.timing, **state["timing"]}
        return int(state["step"])


def _optimizer(model: PreTrainedModel, config: Pretraining) -> torch.optim.Optimizer:
    """AdamW that decays matrices only."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=config.learning_rate,
        betas=(0.9, 0.98),
        eps=1e-6,
        fused=True,
    )
