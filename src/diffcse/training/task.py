"""The task of `diffcse train`: batches of sentences -> the terms of L -> gradients of one update."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from diffcse.config import Training
from diffcse.method import draws
from diffcse.method.gather import ALONE, Ranks
from diffcse.method.paper import DiffCSE, Terms
from diffcse.method.views import same_width
from diffcse.training.collate import Batches
from diffcse.training.meter import OF_THE_BATCH, Sums, means, summands

_NEVER_DECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")
"""Names of weights without weight decay, as in transformers' Trainer."""


class DiffCSETask:
    """Trains one `DiffCSE` module (a `loop.Task`).

    Args:
        model: moved to the GPU if the computer has one.
        steps: updates of the whole run; the ramp of lambda needs to know.
        judges: functions that score the encoder in points, by the names of their scores in the log.
        select: the judge whose best step is kept; None to keep none.
        on_best: called when its score is a new best. The untrained start does not count.
        ranks: processes that share each batch.
    """

    of_the_batch = OF_THE_BATCH

    def __init__(
        self,
        model: DiffCSE,
        training: Training,
        batches: Batches,
        *,
        steps: int,
        bf16: bool,
        judges: Mapping[str, Callable[[], float]] = MappingProxyType({}),
        select: str | None = None,
        on_best: Callable[[], None] = lambda: None,
        ranks: Ranks = ALONE,
    ) -> None:
        model.ranks = self.ranks = ranks
        self.model, self.batches, self.steps, self.bf16 = model, batches, steps, bf16
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model.to(self.device)
        self.optimizer = adamw(model, training)
        self._seed, self._judges, self._select, self._on_best = training.seed, judges, select, on_best
        self._best: float | None = None

    def backward(self, update: int) -> dict[str, Tensor | float | int]:
        """Add the gradients of the batches of `update`; their mean loss is minimised."""
        sums, batches = Sums(), self.batches[update]
        for number, batch in batches:
            sums.add(self.run_pass(batch, number, update, passes=len(batches)))
        return sums.values()

    def run_pass(
        self, batch: Mapping[str, Tensor], number: int, update: int, *, passes: int = 1
    ) -> dict[str, Tensor | float | int]:
        """One forward and backward pass. (seed, number of the pass, rank) alone decide dropout, masks and samples."""
        rank = [self.ranks.rank] * (not self.ranks.first)  # process 0 draws as a single one does
        torch.manual_seed(draws.key(self._seed, number, *rank) >> 1)
        batch = {name: value.to(self.device) for name, value in batch.items()}
        if self.model.choices.rtd_padding == "include":
            batch = same_width(batch, self.model.vocabulary.pad, self.ranks)
        first_row = self.ranks.rank * len(batch["input_ids"])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            terms: Terms = self.model(batch, step=number, first_row=first_row, progress=update / max(self.steps - 1, 1))
        (terms.total / passes).backward()
        return summands(terms, sentences=len(batch["input_ids"]), truncated=batch["truncated"])

    def entry(self, sums: Mapping[str, float], seconds: float) -> dict[str, float]:
        """See `meter.means`."""
        return means(sums, seconds)

    def measure(self, step: int) -> dict[str, float]:
        """The score of every judge; keeps the encoder if it is the best so far."""
        scores = {name: judge() for name, judge in self._judges.items()}
        if self._select and step > 0 and (self._best is None or scores[self._select] > self._best):
            self._best = scores[self._select]
            self._on_best()
        return scores

    def trained_state(self) -> dict[str, Tensor]:
        """See `DiffCSE.trained_state`."""
        return self.model.trained_state()

    def state(self) -> dict[str, Any]:
        """The best score so far."""
        return {"best": self._best}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        self._best = state["best"]


def adamw(model: DiffCSE, training: Training) -> torch.optim.AdamW:
    """AdamW with the settings of transformers' Trainer. Discriminator and head have groups of their own."""
    theirs = {id(weight) for weight in model.discriminator_parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for weight, decays in _trained(model):
        groups.setdefault((id(weight) in theirs, decays), []).append(weight)
    rates = training.learning_rate, training.discriminator_learning_rate or training.learning_rate
    return torch.optim.AdamW(
        [
            {"params": weights, "lr": rates[discriminates], "weight_decay": training.weight_decay * decays}
            for (discriminates, decays), weights in sorted(groups.items(), key=lambda group: group[0])
        ],
        betas=(0.9, 0.999),
        eps=1e-8,
        fused=True,
    )


def _trained(model: nn.Module) -> Iterator[tuple[nn.Parameter, bool]]:
    """Every trained weight with whether it decays: biases and the weights of normalisations do not."""
    norms = {id(p) for module in model.modules() if isinstance(module, nn.LayerNorm) for p in module.parameters()}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            yield weight, id(weight) not in norms and not _NEVER_DECAYED.search(name.lower())
