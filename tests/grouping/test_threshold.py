"""The rule of the threshold, on embeddings made by hand."""

import numpy as np
import pytest

from diffcse.grouping.threshold import choose_threshold

TEXTS = [f"text number {i} has seven words now" for i in range(40)]


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_three_of_four_copies_reach_it():
    rng = np.random.default_rng(0)
    rows = unit(rng.normal(size=(40, 64)))
    seen = []

    def embed(copies):
        seen.extend(copies)
        return unit(rows + 0.1 * rng.normal(size=rows.shape).astype(np.float32) * np.linspace(0, 1, 40)[:, None])

    chosen = choose_threshold(TEXTS, rows, embed)
    assert [len(copy.split()) for copy in seen] == [6] * 40
    assert all(set(copy.split()) <= set(text.split()) for copy, text in zip(seen, TEXTS, strict=True))
    assert np.mean(chosen.copies >= chosen.value) == pytest.approx(0.75, abs=0.02)
    loop = [max(float(rows[i] @ rows[j]) for j in range(40) if j != i) for i in range(40)]
    np.testing.assert_allclose(chosen.nearest, loop, atol=1e-6)
    assert chosen.random.max() < 0.999, "a pair is two different texts"


def test_it_is_never_below_what_random_pairs_reach():
    rows = unit(np.ones((40, 8)) + 1e-3 * np.random.default_rng(0).normal(size=(40, 8)))
    chosen = choose_threshold(TEXTS, rows, lambda copies: unit(-rows))
    assert chosen.value == pytest.approx(np.quantile(chosen.random, 0.999))
    assert "random" in chosen.rule


def test_a_given_threshold_stays():
    rows = unit(np.random.default_rng(0).normal(size=(40, 8)))
    assert choose_threshold(TEXTS, rows, lambda copies: rows, 0.5).value == 0.5


def test_texts_of_one_word():
    rows = unit(np.random.default_rng(0).normal(size=(3, 8)))
    chosen = choose_threshold(["a", "b", ""], rows, lambda copies: rows[: len(copies)])
    assert chosen.value >= 0.95
    assert len(chosen.copies) == 0
