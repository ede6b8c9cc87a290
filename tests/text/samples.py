"""Invented English sentences for the tests of the survey."""

from __future__ import annotations

import numpy as np

NOUNS = [
    *("river", "house", "train", "garden", "letter", "window", "engine", "village", "bottle"),
    *("teacher", "winter", "museum", "planet", "forest", "harbour", "ladder", "market", "orange"),
    *("pencil", "rocket", "school", "silver", "tailor", "uncle", "valley", "wagon", "yellow"),
    *("zebra", "bridge", "candle"),
]
VERBS = [
    *("crossed", "painted", "followed", "opened", "watched", "repaired", "carried", "described", "measured"),
    *("visited", "sheltered", "counted", "ordered", "praised", "reached", "stored", "touched", "warned"),
]
JOINTS = [
    *("near", "behind", "without", "before", "after", "against", "under", "across", "beside"),
    *("along"),
]


def plain(number: int, seed: int = 0) -> list[str]:
    """Different English sentences that share few words with each other."""
    rng = np.random.default_rng(seed)
    sentences: dict[str, None] = {}
    while len(sentences) < number:
        a, b, c, d, e, f = rng.choice(NOUNS, 6, replace=False)
        v, w = rng.choice(VERBS, 2, replace=False)
        sentences[f"{a.title()} and {b} {v} a {c} that {w} {d} {rng.choice(JOINTS)} {e} {rng.choice(JOINTS)} {f}."] = (
            None
        )
    return list(sentences)


def spell(sentences: list[str]) -> list[list[int]]:
    """A tokenizer: a token for each word, 0 for those with a capital, and two special ones."""
    return [[1, *(0 if word[0].isupper() else 2 for word in s.split()), 1] for s in sentences]
