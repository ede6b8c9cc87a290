"""Grades that text gives itself: small cases by hand, and what encoders that know nothing score on them."""

import math

import numpy as np
import pytest

from benchmarks.label_free_grades import (
    LEVELS,
    apart,
    contrastive_losses,
    dropped,
    half_pairs,
    ladder_pairs,
    lexical_pairs,
    mixed,
    mixed_pairs,
    neighbour_pairs,
)
from diffcse.evaluation.floors import TfIdf
from diffcse.evaluation.sts import score_sts
from tests.models import SENTENCES

LONG = [sentence for sentence in SENTENCES if len(sentence.split()) >= 6]


def collapsed(sentences):
    return np.ones((len(sentences), 3))


def arbitrary(sentences):
    """A direction for each sentence, which has nothing to do with what it says."""
    return np.stack([np.random.default_rng(list(sentence.encode())).normal(size=16) for sentence in sentences])


def test_dropping_keeps_the_order_and_the_share():
    random = np.random.default_rng(0)
    words = [f"w{i}" for i in range(20)]
    left = dropped(" ".join(words), 0.8, random).split()
    assert len(left) == 4
    assert left == sorted(left, key=words.index)
    assert dropped("alone", 0.9, random), "never nothing"


def test_mixing_keeps_what_it_says():
    random = np.random.default_rng(0)
    copy, kept = mixed("a b c d e", "1 2 3 4 5 6", 0.4, random)
    assert kept.sum() == 2
    for word, own, keep in zip(copy.split(), "abcde", kept, strict=True):
        assert (word == own) == keep
        assert keep or word in "123456"
    assert len(set(copy.split())) == 5, "a donor's word is used once while there are enough"


def test_partners_by_hand():
    pairs = apart(["a", "b", "c", "d"], ["A", "B", "C", "D"], "x")
    assert list(zip(pairs.first, pairs.second, pairs.scores.tolist(), strict=True)) == [
        *[("a", "A", 1.0), ("b", "B", 1.0), ("c", "C", 1.0), ("d", "D", 1.0)],
        *[("a", "C", 0.0), ("b", "D", 0.0), ("c", "A", 0.0), ("d", "B", 0.0)],
    ]
    # Own partners coincide and others are at right angles; then a's and A's directions are those of c's and C's.
    axes = {name: np.eye(4)[i] for names in ("abcd", "ABCD") for i, name in enumerate(names)}
    assert score_sts(lambda s: np.array([axes[x] for x in s]), pairs).all.spearman == pytest.approx(100)
    axes |= {"a": axes["c"], "A": axes["C"]}
    # Cosines 1, 1, 1, 1 and 1, 0, 1, 0: their ranks are 5.5 six times and 1.5 twice, the grades' 6.5 and 2.5.
    expected = 100 * 16 / math.sqrt(8 * 4 * (6 * 1 + 2 * 9))
    assert score_sts(lambda s: np.array([axes[x] for x in s]), pairs).all.spearman == pytest.approx(expected)


def test_mixed_copies_are_graded_by_what_they_keep():
    pairs = mixed_pairs(["one two three four five"], ["x y z u v w"], seed=0)
    assert pairs.scores.tolist() == [pytest.approx(level) for level in LEVELS]
    heavy = mixed_pairs(["one two three four five"], ["x y z u v w"], 0, lambda word: 10.0 if word == "one" else 1.0)
    for copy, score in zip(heavy.second, heavy.scores, strict=True):
        kept = [word for word in copy.split() if word in {"one", "two", "three", "four", "five"}]
        assert score == pytest.approx(sum(10 if word == "one" else 1 for word in kept) / 14)


def test_rungs_are_in_order():
    with_order, without = ladder_pairs(LONG, [*LONG[1:], LONG[0]], 0), ladder_pairs(LONG, None, 0)
    assert sorted(set(with_order.scores)) == [0, 1, 2, 3, 4]
    assert sorted(set(without.scores)) == [0, 1, 2, 3]
    top = with_order.scores == 4
    for first, second in zip(np.array(with_order.first)[top], np.array(with_order.second)[top], strict=True):
        assert set(second.split()) <= set(first.split())


def test_words_grade_lexical_pairs_perfectly():
    pairs = lexical_pairs(SENTENCES, [*SENTENCES[1:], SENTENCES[0]])
    assert len(pairs) == 3 * len(SENTENCES)
    fitted = TfIdf([*SENTENCES, *SENTENCES[1:]])
    assert score_sts(fitted, pairs).all.spearman == pytest.approx(100)


@pytest.mark.parametrize(
    "pairs",
    [
        half_pairs(LONG),
        neighbour_pairs(SENTENCES[:-1], SENTENCES[1:]),
        mixed_pairs(LONG[:-1], LONG[1:], 0),
        ladder_pairs(LONG, None, 0),
        lexical_pairs(SENTENCES),
    ],
    ids=lambda pairs: pairs.name,
)
def test_encoders_that_know_nothing_get_nothing(pairs):
    assert score_sts(collapsed, pairs).all.spearman == 0
    error = 100 / math.sqrt(len(pairs))
    assert abs(score_sts(arbitrary, pairs).all.spearman) < 3.5 * error


def test_losses_by_hand():
    x = np.eye(2)
    expected = -math.log(math.e / (math.e + 1))
    assert contrastive_losses(x, x, temperature=1.0).tolist() == [pytest.approx(expected)] * 2
    assert contrastive_losses(np.ones((4, 2)), np.ones((4, 2))).tolist() == [pytest.approx(math.log(4))] * 4
