"""The task of `diffcse pretrain`: an update's sentences -> losses -> gradients, and what the log says of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from diffcse.method import draws
from diffcse.method.gather import ALONE, Ranks
from diffcse.method.views import same_meaning
from diffcse.pretraining.batches import Batches, Group, Grouping, Numbers, Pairs
from diffcse.pretraining.config import Pretraining
from diffcse.pretraining.losses import Placed, SentenceLoss, backward, backward_with_next
from diffcse.pretraining.measure import HeldOut
from diffcse.pretraining.token_vectors import Rows, sums_of

_TRAIN = 0  # stream of masks and dropout; `measure` has another

Values = dict[str, Tensor | float | int]
"""Values of an update, to be summed up for the log."""


class LanguageTask:
    """Trains one language model (a `training.loop.Task`).

    Args:
        updates: what an update learns from.
        held_out: measures the model between updates.
        steps: updates of the whole run.
    """

    of_the_batch = frozenset({"updates", "next", "apart"})

    def __init__(self, updates: TokenUpdates | NextUpdates, held_out: HeldOut, config: Pretraining, steps: int) -> None:
        self.updates, self.held_out, self.config, self.steps = updates, held_out, config, steps
        self.model, self.bf16 = updates.model, held_out.bf16
        self.optimizer = _adamw(self.model, config)
        self.tokens_seen = 0

    def backward(self, update: int) -> Values:
        """Add the gradients of one update. (seed, update, rank) decides masks and dropout."""
        ranks = self.updates.ranks
        rank = [ranks.rank] * (not ranks.first)  # process 0 draws as a single one does
        torch.manual_seed(draws.key(self.config.seed, _TRAIN, update, *rank) >> 1)
        # Autocast keeps the weights that it casts to bf16 inside this block: once an update, not once a group.
        with torch.autocast(self.model.device.type, torch.bfloat16, enabled=self.bf16):
            return self.updates.backward(update)

    def entry(self, sums: Mapping[str, float], seconds: float) -> dict[str, float]:
        """Means over tokens and updates, tokens so far, and speed."""
        self.tokens_seen += int(sums["tokens"])
        entry = {"loss": sums["loss"] / max(sums["predicted"], 1)}
        if self.config.next_weight:
            entry["next_loss"] = sums["next"] / sums["updates"]
        if self.config.sums_weight:
            entry["sums_loss"] = sums["apart"] / sums["updates"]
        speed = sums["tokens"] / max(seconds, 1e-9)
        return {**entry, "tokens": self.tokens_seen, "tokens_per_second": speed, "sentences": sums["sentences"]}

    def measure(self, step: int) -> dict[str, float]:
        """Scores on the held-out sentences. The run itself measures the start and the end."""
        return {} if step in (0, self.steps) else self.held_out.measure(self.model)

    def trained_state(self) -> dict[str, Tensor]:
        """All weights; tied weights come once."""
        return {name: weight.detach() for name, weight in self.model.named_parameters()}

    def state(self) -> dict[str, Any]:
        """The tokens of all logged updates."""
        return {"tokens_seen": self.tokens_seen}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        self.tokens_seen = state["tokens_seen"]


def _adamw(model: PreTrainedModel, config: Pretraining) -> torch.optim.AdamW:
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


def rate(steps: int, warmup: int) -> Callable[[int], float]:
    """Learning rate by update (counted from 0), as a share of its peak: a linear rise, then a fall to 0 at `steps`.

    The first update has a rate above 0, other than in `training.loop.linear_rate`.

    >>> [rate(steps=4, warmup=1)(update) for update in range(4)]
    [0.5, 1.0, 0.6666666666666666, 0.3333333333333333]
    """
    return lambda update: (update + 1) / (warmup + 1) if update < warmup else (steps - update) / max(steps - warmup, 1)


class TokenUpdates:
    """Updates whose loss is the mean cross-entropy of the predicted tokens.

    Args:
        seed: part of the address of the masks.
        ranks: processes that share the groups of each update.
    """

    def __init__(
        self, model: PreTrainedModel, batches: Batches, grouping: Grouping, seed: int, ranks: Ranks = ALONE
    ) -> None:
        self.model, self.batches, self.grouping, self.seed, self.ranks = model, batches, grouping, seed, ranks

    def backward(self, update: int) -> Values:
        """Add the gradients of `update`, counted from 0."""
        own = self.batches[update][self.ranks.rank :: self.ranks.count]
        groups = [self.grouping.of_one_length(numbers, (self.seed, _TRAIN, update)) for numbers in own]
        predicted = self.ranks.per_process(sum(len(group.targets) for group in groups))
        losses = [backward(self.model, group, 1 / predicted) for group in groups if len(group.targets)]
        return {"loss": sum(losses), **_counts(groups)}


class NextUpdates:
    """Updates whose loss is that of the masked tokens plus `SentenceLoss`.

    Args:
        sums_VH: token vectors whose sums the embeddings point to; None: they do not.
        ranks: processes that share the groups of each update.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        batches: Pairs,
        grouping: Grouping,
        config: Pretraining,
        sums_VH: Tensor | None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.ranks = ranks
        self.model, self.batches, self.grouping, self.seed = model, batches, grouping, config.seed
        self.sentence_loss = SentenceLoss(config.pooling, config.next_weight, config.sums_weight)
        self._sums_VH = sums_VH

    def backward(self, update: int) -> Values:
        """Add the gradients of `update`, counted from 0."""
        numbers_R = self.batches[update].T.reshape(-1)  # row i + B follows row i
        device, address = self.grouping.device, (self.seed, _TRAIN, update)
        placed = [
            (torch.from_numpy(rows).to(device), self.grouping.padded(numbers_R[rows], address))
            for rows in self.batches.groups(numbers_R)
        ]
        loss, contrast, apart = backward_with_next(
            self.model,
            placed,
            self.sentence_loss,
            left_out_BB=same_meaning(*torch.from_numpy(numbers_R).to(device).chunk(2)),
            target_RH=None if self._sums_VH is None else sums_of(_visible(placed), self._sums_VH).to(device),
            ranks=self.ranks,
        )
        own = placed[self.ranks.rank :: self.ranks.count]
        return {"loss": loss, "next": contrast, "apart": apart, **_counts([group for _, group in own])}


def _counts(groups: Sequence[Group]) -> Values:
    return {
        "updates": 1,
        "predicted": sum(len(group.targets) for group in groups),
        "tokens": sum(group.tokens for group in groups),
        "sentences": sum(len(group.inputs) for group in groups),
    }


def _visible(groups: Placed) -> Rows:
    """The token ids of each row as the model reads them. [MASK] stays: its vector is 0."""
    rows: dict[int, Numbers] = {}
    for numbers_R, group in groups:
        assert group.attention is not None
        lengths = group.attention.sum(1).tolist()
        for number, ids_T, length in zip(numbers_R.tolist(), group.inputs.cpu().numpy(), lengths, strict=True):
            rows[number] = ids_T[:length]
    return [rows[number] for number in range(len(rows))]
