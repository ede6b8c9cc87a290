"""Grades that plain text gives itself: pairs and searches that might order checkpoints without labels.

A sentence is nearer to the sentence that follows it than to a random one, and nearer to a copy with few foreign words
than to a copy with many. Each rule makes a `PairSet` whose grades come from the text, and `benchmarks/label_free.py`
measures how well each of them orders checkpoints (docs/log/). The best one, the search among halves, is
`diffcse.evaluation.label_free`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from diffcse.evaluation.embeddings import EmbeddingMatrix, cosine_blocks, cosines, embed_once
from diffcse.evaluation.floors import TfIdf
from diffcse.evaluation.label_free import halves, pieces
from diffcse.evaluation.sts import PairSet

LEVELS = (0.2, 0.4, 0.6, 0.8)
"""Shares of a sentence's words that its mixed copies keep."""


def dropped(sentence: str, share: float, random: np.random.Generator) -> str:
    """`sentence` without a random `share` of its words; one stays in any case."""
    words, joint = pieces(sentence)
    kept = np.sort(random.permutation(len(words))[: max(1, round((1 - share) * len(words)))])
    return joint.join(words[i] for i in kept)


def mixed(sentence: str, donor: str, share: float, random: np.random.Generator) -> tuple[str, np.ndarray]:
    """`sentence` with all but `share` of its words replaced by words of `donor`, and which words it kept, (words,)."""
    words, joint = pieces(sentence)
    others, _ = pieces(donor)
    kept = np.zeros(len(words), dtype=bool)
    kept[random.permutation(len(words))[: round(share * len(words))]] = True
    foreign = iter(random.choice(len(others), size=len(words), replace=len(others) < len(words)))
    return joint.join(word if keep else others[next(foreign)] for word, keep in zip(words, kept, strict=True)), kept


def apart(first: Sequence[str], second: Sequence[str], name: str) -> PairSet:
    """Row i of `first` with row i of `second`, graded 1, and with a row further on, graded 0; at least two rows.

    Spearman of such grades rises and falls with the share of (own, other) pairs that the encoder orders rightly.
    """
    n = len(first)
    return _pairs(name, [1.0] * n + [0.0] * n, [*first, *first], [*second, *(second[i - n // 2] for i in range(n))])


def half_pairs(sentences: Sequence[str]) -> PairSet:
    """The halves of a sentence belong together, those of two sentences do not."""
    cut = [both for both in map(halves, sentences) if both is not None]
    return apart([a for a, _ in cut], [b for _, b in cut], "halves")


def neighbour_pairs(sentences: Sequence[str], following: Sequence[str]) -> PairSet:
    """A sentence belongs to the one that follows it, not to one that follows another."""
    return apart(sentences, following, "neighbours")


def mixed_pairs(
    sentences: Sequence[str],
    donors: Sequence[str],
    seed: int,
    weight: Callable[[str], float] = lambda word: 1.0,
    name: str = "mixed",
) -> PairSet:
    """Each sentence with copies that keep `LEVELS` of its words, graded by the share of `weight` that was kept."""
    random = np.random.default_rng(seed)
    scores: list[float] = []
    first: list[str] = []
    second: list[str] = []
    for sentence, donor in zip(sentences, donors, strict=True):
        weights = np.array([weight(word) for word in pieces(sentence)[0]])
        for level in LEVELS:
            copy, kept = mixed(sentence, donor, level, random)
            scores.append(float(weights[kept].sum() / weights.sum()))
            first.append(sentence)
            second.append(copy)
    return _pairs(name, scores, first, second)


def lexical_pairs(sentences: Sequence[str], following: Sequence[str] | None = None) -> PairSet:
    """Sentences with random, with following and with likely ones, graded by their TF-IDF cosine."""
    encode = TfIdf([*sentences, *(following or ())])
    rows = encode(list(sentences))
    nearest = np.concatenate(
        [(block - 2 * np.eye(len(sentences))[rows_]).argmax(1) for rows_, block in cosine_blocks(rows, rows)]
    )
    n = len(sentences)
    second = [*(sentences[i - n // 2] for i in range(n)), *(sentences[i] for i in nearest), *(following or ())]
    first = list(sentences) * (len(second) // n)
    return _pairs("lexical", cosines(*embed_once(encode, first, second)), first, second)


def ladder_pairs(sentences: Sequence[str], following: Sequence[str] | None, seed: int) -> PairSet:
    """Rungs of likeness: random, following (where known), the halves of one, a copy with half its words, with most."""
    random = np.random.default_rng(seed)
    n = len(sentences)
    cut = [both for both in map(halves, sentences) if both is not None]
    rungs: list[tuple[list[str], list[str]]] = [(list(sentences), [sentences[i - n // 2] for i in range(n)])]
    if following is not None:
        rungs.append((list(sentences), list(following)))
    rungs.append(([a for a, _ in cut], [b for _, b in cut]))
    rungs += [(list(sentences), [dropped(sentence, share, random) for sentence in sentences]) for share in (0.5, 0.2)]
    scores = [float(i) for i, (first, _) in enumerate(rungs) for _ in first]
    return _pairs(
        "ladder", scores, [s for first, _ in rungs for s in first], [s for _, second in rungs for s in second]
    )


def _pairs(name: str, scores: Sequence[float] | np.ndarray, first: Sequence[str], second: Sequence[str]) -> PairSet:
    digest = hashlib.sha256("\n".join([*first, *second]).encode()).hexdigest()
    return PairSet(name, np.array(scores, dtype=np.float64), tuple(first), tuple(second), (name,) * len(first), digest)


def contrastive_losses(x: EmbeddingMatrix, y: EmbeddingMatrix, temperature: float = 0.05) -> np.ndarray:
    """-log softmax of cos(x_i, y_i) / temperature among all of `y`, in nats, (N,)."""
    logits = np.concatenate([block for _, block in cosine_blocks(x, y)]) / temperature
    logits -= logits.max(1, keepdims=True)
    return np.log(np.exp(logits).sum(1)) - np.diagonal(logits)
