"""`transformers.Trainer` with as little of our own as possible.

The loop, the optimiser, clipping, mixed precision and resuming are the library's. Ours are the five places where
the method or a promise needs more: dropout seeded by step, named loss terms, dev evaluation with the best encoder
kept, checkpoints written whole, and a log that a person can read.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, TrainerState

from diffcse.config import Training
from diffcse.errors import InputError
from diffcse.files import staged_folder, write_errors, write_json, write_manifest, write_text
from diffcse.machine import release_memory
from diffcse.method import draws
from diffcse.method.paper import DiffCSE, Terms
from diffcse.record import finite
from diffcse.training.checkpoints import Stop, checkpoint_path, load_weights, prune, save_weights
from diffcse.training.collate import Collate

_WEIGHTS, _STATE, _METER = "trained.safetensors", "trainer_state.json", "meter.json"

Evaluate = Callable[[], float]
"""A score of the encoder as it now is, in points; higher is better."""


class Shuffled(Sampler[int]):
    """Every index once an epoch, in an order that (seed, epoch) alone decides."""

    def __init__(self, size: int, seed: int) -> None:
        self.size, self.seed, self.epoch = size, seed, 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(np.arange(self.size, dtype=np.uint32))
        return map(int, order)


class DiffCSETrainer(Trainer):
    """Trains one `DiffCSE` module.

    Args:
        model: what is trained.
        training: how.
        examples: what the collator takes: sentences, or tuples of them.
        collate: makes batches of them.
        folder: where checkpoints and `log.jsonl` go.
        steps: weight updates in all.
        resuming: whether `train` will be given a checkpoint.
        judges: what scores the encoder now and then, by the name under which it is logged.
        select: the one of them whose best step is kept; None: none is.
        on_best: called when that one's score is a new best.
        report: called with every logged entry.
        stop: ends training, with a checkpoint, after the step at hand once it is asked to.
    """

    def __init__(
        self,
        model: DiffCSE,
        training: Training,
        examples: Sequence[Any],
        collate: Collate,
        folder: Path,
        *,
        steps: int,
        bf16: bool,
        resuming: bool,
        judges: Mapping[str, Evaluate] = MappingProxyType({}),
        select: str | None = None,
        on_best: Callable[[], None] = lambda: None,
        report: Callable[[dict[str, Any]], None] = lambda entry: None,
        stop: Stop | None = None,
    ) -> None:
        self.diffcse, self.stop = model, stop or Stop()
        self._order = Shuffled(len(examples), training.seed)
        self._judges, self._select, self._on_best, self._report = judges, select, on_best, report
        self._discriminator_rate = training.discriminator_learning_rate
        self._log_file = folder / "log.jsonl"
        self._meter = _Meter()
        self._restored = 0.0
        self._began = time.perf_counter()
        self._micro = (-1, 0)
        arguments = TrainingArguments(
            output_dir=str(folder / "checkpoints"),
            per_device_train_batch_size=training.batch_size,
            gradient_accumulation_steps=training.accumulation,
            max_steps=steps,
            learning_rate=training.learning_rate,
            lr_scheduler_type="linear",
            warmup_steps=round(training.warmup_ratio * steps),
            weight_decay=training.weight_decay,
            max_grad_norm=training.max_grad_norm,
            optim="adamw_torch_fused",
            bf16=bf16,
            use_cpu=not torch.cuda.is_available(),
            seed=training.seed % 2**32,
            logging_steps=training.log_every,
            logging_nan_inf_filter=False,
            eval_strategy="steps" if judges else "no",
            eval_steps=training.eval_every,
            # The start's score was logged when the run began; another here would be one more chance to be the best.
            eval_on_start=bool(judges) and not resuming,
            save_strategy="steps",
            save_steps=training.checkpoint_every,
            dataloader_drop_last=True,
            dataloader_pin_memory=torch.cuda.is_available(),
            remove_unused_columns=False,
            report_to="none",
            disable_tqdm=True,
        )
        # Several visible GPUs would be wrapped in DataParallel, which splits the batch and so its negatives.
        arguments._n_gpu = min(arguments.n_gpu, 1)
        # Without bf16 the library takes it from ACCELERATE_MIXED_PRECISION, which `accelerate launch` sets.
        arguments.mixed_precision = "bf16" if bf16 else "no"
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=examples,
            eval_dataset=[] if judges else None,
            data_collator=collate,
            callbacks=[_Schedule(self)],
        )
        self.model_accepts_loss_kwargs = False  # our loss is a mean over the batch: accumulation divides it
        self.remove_callback(PrinterCallback)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW; discriminator and token head in groups of their own, where they have a learning rate of their own."""
        if self.optimizer is not None:
            return self.optimizer
        optimizer = super().create_optimizer(model)
        if self._discriminator_rate is not None:
            theirs = {id(p) for p in self.diffcse.discriminator_parameters()}
            # What AdamW was given is replaced before its first step, so it has no state yet that could go astray.
            for group in list(optimizer.param_groups):
                moved = [p for p in group["params"] if id(p) in theirs]
                if moved:
                    group["params"] = [p for p in group["params"] if id(p) not in theirs]
                    optimizer.add_param_group({**group, "params": moved, "lr": self._discriminator_rate})
        return optimizer

    # ---- one step --------------------------------------------------------------------------------------------------

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One forward and backward pass, with dropout decided by (seed, number of the pass)."""
        update, pass_ = self.state.global_step, 0
        if self._micro[0] == update:
            pass_ = self._micro[1] + 1
        self._micro = (update, pass_)
        self._number = update * self.args.gradient_accumulation_steps + pass_
        torch.manual_seed(draws.key(self._order.seed, self._number) >> 1)
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """L, with its terms added to the sums of the next log entry."""
        progress = self.state.global_step / max(self.args.max_steps - 1, 1)
        terms: Terms = model(inputs, step=self._number, progress=progress)
        self._meter.add(terms, sentences=len(inputs["input_ids"]), truncated=inputs["truncated"])
        return (terms.total, terms) if return_outputs else terms.total

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return self._order

    # ---- log and evaluation ------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Complete a log entry with the means of the loss terms, keep it, and show it.

        Raises:
            InputError: the loss is no longer finite.
        """
        if "train_runtime" in logs:  # the library's closing summary, timed over this process only
            return
        entry: dict[str, Any] = {"step": self.state.global_step, **logs}
        if "loss" in logs:
            self._require_finite()
            entry |= self._meter.read()
            self._meter = _Meter()
            release_memory()  # batches of many shapes leave holes of many sizes, more with every step
        entry = finite(entry)
        self.state.log_history.append(entry)
        with write_errors(self._log_file), self._log_file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        self._report(entry)

    def _require_finite(self) -> None:
        if not math.isfinite(self._meter.loss):
            raise InputError(
                f"the loss is {self._meter.loss} before step {self.state.global_step}: training diverged. Lower "
                f"{self._rates} (or use --precision fp32); checkpoints written before are untouched"
            )

    @property
    def _rates(self) -> str:
        return "--learning-rate" + (" or --discriminator-learning-rate" if self._discriminator_rate else "")

    def seconds(self) -> float:
        """Time spent so far, that of the processes before a resume included."""
        return self._restored + time.perf_counter() - self._began

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Every judge's score in points; the best encoder so far is kept (the untrained start does not count)."""
        step = self.state.global_step
        if any(e["step"] == step and name in e for e in self.state.log_history for name in self._judges):
            return {}
        paused = time.perf_counter()
        scores = {name: judge() for name, judge in self._judges.items()}
        self.log(scores)
        best = self.state.best_metric
        if self._select and step > 0 and (best is None or scores[self._select] > best):
            self.state.best_metric, self.state.best_global_step = scores[self._select], step
            self._on_best()
        self._meter.pause(time.perf_counter() - paused)
        return scores

    # ---- checkpoints -----------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        # Without these checks the last good checkpoints would be pruned for a worthless one.
        self._require_finite()
        if not all(value.isfinite().all() for value in self.diffcse.trained_state().values()):
            raise InputError(
                f"a weight is no longer finite after step {self.state.global_step}: training diverged. Lower "
                f"{self._rates}; checkpoints written before are untouched"
            )
        folder = Path(str(self.args.output_dir))
        with staged_folder(checkpoint_path(folder, self.state.global_step)) as staging:
            save_weights(self.diffcse.trained_state(), staging / _WEIGHTS)
            self._save_optimizer_and_scheduler(str(staging))
            self._save_scaler(str(staging))
            self.state.save_to_json(str(staging / _STATE))
            write_json(staging / _METER, {"seconds": self.seconds(), **self._meter.state()})
            write_manifest(staging)
        prune(folder, self.state.global_step)

    def resume(self, checkpoint: Path) -> None:
        """Go on from `checkpoint`; from that of the last step there is nothing left to train."""
        meter = json.loads((checkpoint / _METER).read_text(encoding="utf-8"))
        self._restored = meter.pop("seconds")
        self._meter = _Meter(**meter)
        state = TrainerState.load_from_json(str(checkpoint / _STATE))
        if state.global_step < self.args.max_steps:
            self.train(resume_from_checkpoint=str(checkpoint))
        else:
            # Given such a checkpoint, the library would train one step more.
            load_weights(self.diffcse, checkpoint / _WEIGHTS)
            self.state = state
            self.start_log()

    def start_log(self) -> None:
        """Begin `log.jsonl` with what the checkpoint remembers: a resumed run repeats no entry."""
        write_text(self._log_file, "".join(json.dumps(entry) + "\n" for entry in self.state.log_history))
        self._began = time.perf_counter()
        self._meter.start()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_weights(self.diffcse, Path(resume_from_checkpoint) / _WEIGHTS)


class _Meter:
    """Means of what is logged, over the batches since the last entry; goes into checkpoints, so none is lost.

    Shares of tokens are weighted by the tokens they are shares of: a mean of batch means would be another number.
    """

    _MEANS = ("positive_cosine", "negative_cosine")
    _COUNTS = ("false_negatives",)

    def __init__(
        self, sums: dict[str, float] | None = None, batches: int = 0, sentences: int = 0, seconds_before: float = 0.0
    ) -> None:
        self._sums: dict[str, Any] = dict(sums or {})
        self._batches, self._sentences, self._before = batches, sentences, seconds_before
        self.start()

    def start(self) -> None:
        """Begin to count time."""
        self._since = time.perf_counter()

    def pause(self, seconds: float) -> None:
        """Leave out `seconds` that were not spent on training."""
        self._since += seconds

    def add(self, terms: Terms, *, sentences: int, truncated: Tensor) -> None:
        """Count one batch. Nothing is read from the device here: that would make it wait."""
        metrics = terms.metrics
        values = {
            "loss": terms.total,
            "contrastive": terms.contrastive,
            "difference": terms.difference,
            "truncated": truncated,
        }
        values |= {name: metrics[name] for name in self._MEANS if name in metrics}
        if "rtd_tokens" in metrics:
            tokens, replaced = metrics["rtd_tokens"], metrics["rtd_replaced"]
            values |= {"rtd_tokens": tokens, "rtd_replaced": replaced}
            for name, weight in (
                ("rtd_accuracy", tokens),
                ("rtd_log_loss", tokens),
                ("rtd_accuracy_replaced", replaced),
                ("rtd_accuracy_kept", tokens - replaced),
            ):
                # A share of no tokens is NaN, and counts for nothing.
                values[name] = torch.where(weight > 0, metrics[name] * weight, 0)
        if "lm_tokens" in metrics:
            tokens = metrics["lm_tokens"]
            values |= {"lm_tokens": tokens}
            for name in ("lm_accuracy", "lm_log_loss"):
                values[name] = torch.where(tokens > 0, metrics[name] * tokens, 0)
        values |= {name: metrics[name] for name in self._COUNTS if name in metrics}
        for name, value in values.items():
            if value is not None:
                self._sums[name] = self._sums.get(name, 0.0) + value.detach().double()
        self._batches += 1
        self._sentences += sentences

    @property
    def loss(self) -> float:
        """Mean total loss so far."""
        return float(self._sums.get("loss", 0.0)) / max(self._batches, 1)

    def read(self) -> dict[str, float]:
        """Means, shares, and counts."""
        sums = {name: float(value) for name, value in self._sums.items()}
        read = {
            name: sums[name] / self._batches
            for name in ("loss", "contrastive", "difference", *self._MEANS)
            if name in sums
        }
        if "rtd_tokens" in sums:
            tokens, replaced = sums["rtd_tokens"], sums["rtd_replaced"]
            read |= {
                "rtd_accuracy": _share(sums["rtd_accuracy"], tokens),
                "rtd_accuracy_replaced": _share(sums["rtd_accuracy_replaced"], replaced),
                "rtd_accuracy_kept": _share(sums["rtd_accuracy_kept"], tokens - replaced),
                "rtd_majority": _share(max(replaced, tokens - replaced), tokens),
                "rtd_log_loss": _share(sums["rtd_log_loss"], tokens),
            }
        if "lm_tokens" in sums:
            read |= {name: _share(sums[name], sums["lm_tokens"]) for name in ("lm_accuracy", "lm_log_loss")}
        read |= {name: sums[name] for name in self._COUNTS if name in sums}
        seconds = self._before + time.perf_counter() - self._since
        return {
            **read,
            "truncated": sums.get("truncated", 0.0),
            "sentences": self._sentences,
            "sentences_per_second": self._sentences / max(seconds, 1e-9),
        }

    def state(self) -> dict[str, Any]:
        """What `_Meter(**state)` goes on from."""
        return {
            "sums": {name: float(value) for name, value in self._sums.items()},
            "batches": self._batches,
            "sentences": self._sentences,
            "seconds_before": self._before + time.perf_counter() - self._since,
        }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


class _Schedule(TrainerCallback):
    """Tells the sampler its epoch, asks for scores after the last step, and ends when asked to."""

    def __init__(self, trainer: DiffCSETrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # A checkpoint's state brings the steps of the run that wrote it, and these may be others now.
        state.logging_steps, state.save_steps = args.logging_steps, args.save_steps
        self.trainer.start_log()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Counted from updates, not from `state.epoch`: a resumed epoch must be shuffled as it was begun.
        self.trainer._order.epoch = state.global_step // updates_per_epoch(
            len(self.trainer._order), args.per_device_train_batch_size, args.gradient_accumulation_steps
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_evaluate = bool(self.trainer._judges)
            control.should_log = True
        if self.trainer.stop.asked:
            control.should_save = control.should_training_stop = True


def updates_per_epoch(sentences: int, batch_size: int, accumulation: int) -> int:
    """Weight updates in one pass: incomplete batches are left out, an incomplete accumulation still counts."""
    return math.ceil((sentences // batch_size) / accumulation)


def seen_in(steps: int, sentences: int, batch_size: int, accumulation: int) -> int:
    """How many sentences `steps` weight updates read, repeated ones too."""
    batches = sentences // batch_size
    passes, rest = divmod(steps, updates_per_epoch(sentences, batch_size, accumulation))
    return (passes * batches + min(rest * accumulation, batches)) * batch_size
