"""Loop transcriptions of the paper's equations: slow, obvious, written from the text and not from our code.

Scalars only, no vectorisation, so each line can be held against its equation. For small inputs:
`exp` is taken as written, without subtracting a maximum.
"""

import math

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
