"""Every editor once more: its worked example, and loops over one sentence, a token at a time.

A new editor needs a line of `EXAMPLE` and a method of `Loops`.
"""

import math
from typing import NamedTuple

EXAMPLE = {
    # the language model's tokens, or random ones; x″; r
    "mlm": ("dog down", "[CLS] the dog sat down [SEP]", "0 0 1 0 0 0"),
    "causal_lm": ("man there", "[CLS] the man sat there [SEP]", "0 0 1 0 1 0"),
    "replace": ("seven blue", "[CLS] the seven sat blue [SEP]", "0 0 1 0 1 0"),
    "insert": ("big right", "[CLS] the big cat sat right down [SEP]", "0 0 1 0 0 1 0 0"),
    "insert_random": ("seven blue", "[CLS] the seven cat sat blue down [SEP]", "0 0 1 0 0 1 0 0"),
    "delete": ("", "[CLS] the sat [SEP]", "0 0 1 1"),
}

# ---- random numbers of a place, one at a time ---------------------------------------------------------------------

CHOOSE, KIND, RANDOM_TOKEN, SAMPLE, EDITOR = range(5)
_WORD = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def _mix(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & _WORD
    return x ^ (x >> 31)


def _bits(address, row: int, position: int) -> int:
    state = 0
    for part in (*address, row):
        state = _mix((state ^ part) + _GOLDEN & _WORD)
    return _mix((state ^ position) + _GOLDEN & _WORD)


def uniform(address, row: int, position: int) -> float:
    return (_bits(address, row, position) >> 40) / 2**24


def integer(address, row: int, position: int, below: int) -> int:
    return (_bits(address, row, position) >> 1) % below


# ---- edits: one sentence, one token after the other ----------------------------------------------------------------


class Copy(NamedTuple):
    """One edited sentence without padding; every list has one entry for each token of the copy."""

    ids: list[int]
    labels: list[int]
    editable: list[bool]
    original: list[int]
    masked: list[int]
    chosen: list[bool]


class Loops(NamedTuple):
    """The editors, written out for one sentence."""

    size: int
    mask: int
    special: tuple[int, ...]
    ratio: float
    address: tuple[int, ...]
    sampling: str = "sample"
    temperature: float = 1.0
    scope: str = "masked"
    masked_lm: object = None
    """tokens -> logits (T, V) of a masked language model."""
    causal_lm: object = None
    """tokens so far -> logits (V,) of the next one."""

    def edit(self, names, x: list[int], row: int) -> Copy:
        """The editor that this row draws, applied."""
        which = integer((*self.address, EDITOR), row, 0, len(names)) if len(names) > 1 else 0
        name = names[which]
        return getattr(self, "causal" if name == "causal_lm" else name)(x, row)

    def mlm(self, x, row) -> Copy:
        masked, chosen = self.mask_tokens(x, row)
        logits = self.masked_lm(masked)
        y = list(x)
        for t in self.filled(x, chosen):
            y[t] = self.token(logits[t], row, t)
        return self.in_place(x, y, chosen, masked)

    def causal(self, x, row) -> Copy:
        chosen = [t > 0 and picked for t, picked in enumerate(self.choose(x, row))]
        y = list(x)
        for t in self.filled(x, chosen):
            y[t] = self.token(self.causal_lm(x[:t]), row, t)  # the sentence's own tokens before t, never the edited
        return self.in_place(x, y, chosen)

    def replace(self, x, row) -> Copy:
        chosen = self.choose(x, row)
        y = [self.random_word(row, t) if chosen[t] else x[t] for t in range(len(x))]
        return self.in_place(x, y, chosen)

    def insert(self, x, row) -> Copy:
        masked, original = self.with_gaps(x, row)
        logits = self.masked_lm(masked)
        y = [self.token(logits[w], row, w) if o < 0 else o for w, o in enumerate(original)]
        return self.grown(y, masked, original)

    def insert_random(self, x, row) -> Copy:
        _, original = self.with_gaps(x, row)
        y = [self.random_word(row, w) if o < 0 else o for w, o in enumerate(original)]
        return self.grown(y, y, original)

    def delete(self, x, row) -> Copy:
        words = self.words(x)
        gone = self.some(words, min(self.share(x), max(len(words) - 1, 0)), row)
        kept = [t for t in range(len(x)) if t not in gone]
        y = [x[t] for t in kept]
        labels = [int(t - 1 in gone) for t in kept]
        editable = [len(words) > 1 and t - 1 in words for t in kept]
        return Copy(y, labels, editable, y, y, [bool(label) for label in labels])

    # what they share

    def words(self, x) -> list[int]:
        return [t for t in range(len(x)) if x[t] not in self.special]

    def share(self, x) -> int:
        """Of n words n · ratio, rounded half up; at least 1 and at most n."""
        n = len(self.words(x))
        return min(n, max(1, math.floor(n * self.ratio + 0.5)))

    def choose(self, x, row) -> list[bool]:
        """Each word with probability `ratio`."""
        return [t in self.words(x) and uniform((*self.address, CHOOSE), row, t) < self.ratio for t in range(len(x))]

    def mask_tokens(self, x, row) -> tuple[list[int], list[bool]]:
        chosen, masked = self.choose(x, row), list(x)
        for t in range(len(x)):
            kind = uniform((*self.address, KIND), row, t)
            if chosen[t] and kind < 0.8:
                masked[t] = self.mask
            elif chosen[t] and kind < 0.9:
                masked[t] = integer((*self.address, RANDOM_TOKEN), row, t, self.size)
        return masked, chosen

    def some(self, candidates, number: int, row) -> list[int]:
        """The `number` candidates with the lowest numbers."""
        return sorted(candidates, key=lambda t: uniform((*self.address, CHOOSE), row, t))[:number]

    def with_gaps(self, x, row) -> tuple[list[int], list[int]]:
        """[MASK] in front of some tokens, the first one excepted; and what stands where, -1 for a new one."""
        opened = self.some(range(1, len(x)), self.share(x), row)
        masked, original = [], []
        for t in range(len(x)):
            if t in opened:
                masked.append(self.mask)
                original.append(-1)
            masked.append(x[t])
            original.append(x[t])
        return masked, original

    def filled(self, x, chosen) -> list[int]:
        return list(range(1, len(x))) if self.scope == "all" else [t for t in range(len(x)) if chosen[t]]

    def token(self, logits, row, t) -> int:
        """The likeliest; or the one in whose stretch of [0, 1) the row's number falls, tokens laid end to end."""
        logits = [float(value) for value in logits[: self.size]]
        if self.sampling == "argmax":
            return logits.index(max(logits))
        weights = [math.exp((value - max(logits)) / self.temperature) for value in logits]
        point, passed = uniform((*self.address, SAMPLE), row, t) * sum(weights), 0.0
        for token, weight in enumerate(weights):
            passed += weight
            if point < passed:
                return token
        raise AssertionError("beyond the last token")

    def random_word(self, row, t) -> int:
        ordinary = [token for token in range(self.size) if token not in self.special]
        return ordinary[integer((*self.address, RANDOM_TOKEN), row, t, len(ordinary))]

    def in_place(self, x, y, chosen, masked=None) -> Copy:
        labels = [int(a != b) for a, b in zip(x, y, strict=True)]
        editable = [t > 0 if self.scope == "all" else t in self.words(x) for t in range(len(x))]
        return Copy(y, labels, editable, x, masked or y, chosen)

    def grown(self, y, masked, original) -> Copy:
        inserted = [o < 0 for o in original]
        editable = [new or o not in self.special for new, o in zip(inserted, original, strict=True)]
        return Copy(y, [int(new) for new in inserted], editable, original, masked, inserted)
