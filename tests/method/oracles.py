"""Loop transcriptions of the paper's equations: slow, obvious, written from the text and not from our code.

Scalars only, no vectorisation, so each line can be held against its equation. For small inputs:
`exp` is taken as written, without subtracting a maximum.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


def contrastive_loops(z: Tensor, temperature: float) -> Tensor:
    """mean_i −log( exp(cos(z_i, z_i⁺)/τ) / Σ_j exp(cos(z_i, z_j⁺)/τ) ); z_i⁺ is row B + i, i and j < B."""
    assert len(z) % 2 == 0
    batch = len(z) // 2
    total = z.new_zeros(())
    for i in range(batch):
        denominator = z.new_zeros(())
        for j in range(batch):
            denominator = denominator + torch.exp(cosine_loops(z[i], z[batch + j]) / temperature)
        numerator = torch.exp(cosine_loops(z[i], z[batch + i]) / temperature)
        total = total - torch.log(numerator / denominator)
    return total / batch


def cosine_loops(u: Tensor, v: Tensor) -> Tensor:
    uv, uu, vv = u.new_zeros(()), u.new_zeros(()), u.new_zeros(())
    for a, b in zip(u, v, strict=True):
        uv, uu, vv = uv + a * b, uu + a * a, vv + b * b
    return uv / (torch.sqrt(uu) * torch.sqrt(vv))


def rtd_loops(logits: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
    """Mean over every counted position of −log softmax(logits)[label]: one mean, not a mean of row means."""
    total, count = logits.new_zeros(()), 0
    for row in range(labels.shape[0]):
        for t in range(labels.shape[1]):
            if counted[row, t]:
                original, replaced = logits[row, t]
                chosen = replaced if labels[row, t] else original
                total = total - torch.log(torch.exp(chosen) / (torch.exp(original) + torch.exp(replaced)))
                count += 1
    return total / count


def mask_labels_loops(input_ids: Tensor, edited_ids: Tensor, counted: Tensor) -> Tensor:
    """r = 1[x″ ≠ x] at counted positions, 0 elsewhere."""
    r = torch.zeros_like(input_ids)
    for row in range(input_ids.shape[0]):
        for t in range(input_ids.shape[1]):
            if counted[row, t] and int(edited_ids[row, t]) != int(input_ids[row, t]):
                r[row, t] = 1
    return r


def spearman_loops(a, b) -> float:
    """Pearson's correlation of the ranks; tied values share the average of the ranks they occupy."""
    x, y = average_ranks_loops(a), average_ranks_loops(b)
    n = len(x)
    mean_x, mean_y = sum(x) / n, sum(y) / n
    xy = xx = yy = 0.0
    for p, q in zip(x, y, strict=True):
        xy += (p - mean_x) * (q - mean_y)
        xx += (p - mean_x) ** 2
        yy += (q - mean_y) ** 2
    return xy / math.sqrt(xx * yy)


def average_ranks_loops(values) -> list[float]:
    ranks = []
    for v in values:
        below = equal = 0
        for w in values:
            below += int(w < v)
            equal += int(w == v)
        ranks.append(below + (equal + 1) / 2)  # the mean of below+1, …, below+equal
    return ranks


# ---- contrast of pairs and triplets ------------------------------------------------------------------------------


def triplet_loops(first, second, negative, temperature: float, *, weight: float = 0.0, left_out=()) -> Tensor:
    """mean_i −log( e^{cos(a_i, p_i)/τ} / Σ_j ( e^{cos(a_i, p_j)/τ} + e^{w·1[i=j]} e^{cos(a_i, n_j)/τ} ) ).

    SimCSE's equation 5 with the weight of its appendix. `left_out` holds (i, j) of positives and (i, B + j) of hard
    negatives that anchor i is not pushed away from. `negative` may be None.
    """
    total = first.new_zeros(())
    for i in range(len(first)):
        numerator = torch.exp(cosine_loops(first[i], second[i]) / temperature)
        denominator = first.new_zeros(())
        for j in range(len(first)):
            if (i, j) not in left_out:
                denominator = denominator + torch.exp(cosine_loops(first[i], second[j]) / temperature)
            if negative is not None and (i, len(first) + j) not in left_out:
                e = torch.exp(cosine_loops(first[i], negative[j]) / temperature)
                denominator = denominator + e * (math.exp(weight) if i == j else 1)
        total = total - torch.log(numerator / denominator)
    return total / len(first)


def false_negatives_loops(anchors, positives, negatives=None) -> set[tuple[int, int]]:
    """Who is no negative of anchor i: a positive whose anchor is the same sentence, or a sentence that is i's own."""
    found = set()
    for i in range(len(anchors)):
        for j in range(len(anchors)):
            if i != j and (anchors[j] == anchors[i] or positives[j] in (anchors[i], positives[i])):
                found.add((i, j))
            if negatives is not None and negatives[j] in (anchors[i], positives[i]):
                found.add((i, len(anchors) + j))
    return found


def token_loss_loops(logits, tokens) -> Tensor:
    """Mean of −log softmax(logits)[token] over a list of (V,) logits."""
    total = logits[0].new_zeros(())
    for scores, token in zip(logits, tokens, strict=True):
        total = total - torch.log(torch.exp(scores[token]) / torch.exp(scores).sum())
    return total / len(tokens)


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
