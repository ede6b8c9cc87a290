"""What a model predicts of the held-out sentences, and what token frequencies alone predict."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from transformers import PreTrainedModel

from diffcse.pretraining.batches import GROUP_TOKENS, Batches, Group, Grouping, Numbers
from diffcse.pretraining.losses import cross_entropy
from diffcse.pretraining.tokens import occurrences

_HELD_OUT = 1  # stream of masks; training has another


class HeldOut:
    """The held-out sentences with masks that never change.

    Args:
        sentences: numbers of the held-out sentences.
        seed: decides the masks.
        bf16: whether to compute in bf16 autocast.
    """

    def __init__(self, grouping: Grouping, sentences: Numbers, seed: int, *, bf16: bool) -> None:
        self.grouping, self.sentences, self.seed, self.bf16 = grouping, sentences, seed, bf16

    def _groups(self) -> Iterator[Group]:
        batches = Batches(self.grouping.lengths, self.sentences, GROUP_TOKENS, 0)
        for index in range(batches.per_epoch):
            for numbers in batches[index]:
                yield self.grouping.of_one_length(numbers, (self.seed, _HELD_OUT))

    @torch.no_grad()
    def measure(self, model: PreTrainedModel) -> dict[str, float]:
        """`held_out_loss` (nats a predicted token) and `held_out_accuracy` of `model`, which stays in its mode."""
        was_training = model.training
        model.eval()
        loss = right = count = 0.0
        for group in self._groups():
            with torch.autocast(model.device.type, torch.bfloat16, enabled=self.bf16):
                summed, hits = cross_entropy(model, group)
            loss, right, count = loss + float(summed), right + float(hits), count + len(group.targets)
        model.train(was_training)
        return {"held_out_loss": loss / max(count, 1), "held_out_accuracy": right / max(count, 1)}

    def unigram_loss(self) -> float:
        """The loss of a model that predicts each token by its frequency in the text, in nats a predicted token."""
        tokens = self.grouping.tokens
        counts_V = occurrences(tokens.ids, self.grouping.vocabulary.size) + 1.0
        if self.grouping.causal:
            counts_V[list(tokens.suffix)] += len(tokens)
        logs_V = torch.from_numpy(np.log(counts_V / counts_V.sum()))
        targets = torch.cat([group.targets.cpu() for group in self._groups()])
        return -float(logs_V[targets].mean())
