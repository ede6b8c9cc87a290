"""Means for the log, over the batches since the last entry.

A share of tokens is weighted by the tokens that it is a share of. A mean of the batches' shares would be a different
number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffcse.method.paper import Terms

_MEANS = ("loss", "contrastive", "difference", "positive_cosine", "negative_cosine")
_COUNTS = ("false_negatives",)
_SHARES = {
    "rtd_accuracy": "rtd_tokens",
    "rtd_accuracy_replaced": "rtd_replaced",
    "rtd_accuracy_kept": "rtd_kept",
    "rtd_log_loss": "rtd_tokens",
    "lm_accuracy": "lm_tokens",
    "lm_log_loss": "lm_tokens",
}
"""Metrics that are means over tokens, each with the count of those tokens."""


OF_THE_BATCH = frozenset({*_MEANS, *_COUNTS, "batches"})
"""Values that every process knows of the whole batch (or has its share of, times N); the others count its own rows."""


class Sums:
    """Sums of named values. Values may be on any device; nothing is read from the device before `take`.

    >>> sums = Sums()
    >>> sums.add({"loss": 1.5, "batches": 1})
    >>> sums.add({"loss": torch.tensor(0.5), "batches": 1})
    >>> sums.take()
    {'loss': 2.0, 'batches': 2.0}
    >>> sums["loss"]
    0.0
    """

    def __init__(self, sums: Mapping[str, float] | None = None) -> None:
        self._sums: dict[str, Any] = dict(sums or {})

    def __getitem__(self, name: str) -> Any:
        return self._sums.get(name, 0.0)

    def add(self, values: Mapping[str, Tensor | float | int]) -> None:
        """Add each value to the sum of its name, in float64."""
        for name, value in values.items():
            self._sums[name] = self[name] + (value.detach().double() if isinstance(value, Tensor) else value)

    def values(self) -> dict[str, Any]:
        """The sums as they are, still on their devices."""
        return dict(self._sums)

    def state(self) -> dict[str, float]:
        """The sums as plain numbers."""
        return {name: float(value) for name, value in self._sums.items()}

    def take(self) -> dict[str, float]:
        """The sums as plain numbers; then all begin at 0 again."""
        state, self._sums = self.state(), {}
        return state


def summands(terms: Terms, *, sentences: int, truncated: Tensor) -> dict[str, Tensor | float | int]:
    """What one batch adds to the sums of a log entry, for `means`."""
    values: dict[str, Any] = {
        "loss": terms.total,
        "contrastive": terms.contrastive,
        "difference": terms.difference,
        **terms.metrics,
        "truncated": truncated,
        "sentences": sentences,
        "batches": 1,
    }
    if "rtd_tokens" in values:
        values["rtd_kept"] = values["rtd_tokens"] - values["rtd_replaced"]
    for name, tokens in _SHARES.items():
        if name in values:
            # A share of no tokens is NaN; it must not count.
            values[name] = torch.where(values[tokens] > 0, values[name] * values[tokens], 0)
    known = {*_MEANS, *_COUNTS, *_SHARES, *_SHARES.values(), "truncated", "sentences", "batches"}
    return {name: value for name, value in values.items() if name in known and value is not None}


def means(sums: Mapping[str, float], seconds: float) -> dict[str, float]:
    """A log entry from the sums of `summands`: means, shares (NaN of no tokens) and counts."""
    entry = {name: sums[name] / sums["batches"] for name in _MEANS if name in sums}
    for name, tokens in _SHARES.items():
        if name in sums:
            entry[name] = sums[name] / sums[tokens] if sums[tokens] else math.nan
    if "rtd_tokens" in sums:
        commoner = max(sums["rtd_replaced"], sums["rtd_kept"])
        entry["rtd_majority"] = commoner / sums["rtd_tokens"] if sums["rtd_tokens"] else math.nan
    entry |= {name: sums[name] for name in _COUNTS if name in sums}
    return {
        **entry,
        "truncated": sums["truncated"],
        "sentences": sums["sentences"],
        "sentences_per_second": sums["sentences"] / max(seconds, 1e-9),
    }
