"""Class-based TF-IDF against loops."""

import doctest
import math
from collections import Counter

import numpy as np

from diffcse.grouping import words
from diffcse.grouping.words import cluster_words
from tests.models import SENTENCES


def test_doctest():
    assert doctest.testmod(words).failed == 0


def test_weights_are_those_of_a_loop():
    labels = np.arange(len(SENTENCES)) % 3
    every = Counter(word for text in SENTENCES for word in text.split())
    for number, ours in enumerate(cluster_words(SENTENCES, labels)):
        own = Counter(
            word for text, label in zip(SENTENCES, labels, strict=True) if label == number for word in text.split()
        )
        total, others = own.total(), every.total() - own.total()
        weights = {
            word: count / total * math.log((every.total() / 3 + 1) / (every[word] + 0.5))
            for word, count in own.items()
            if count / total >= 2 * (every[word] - count) / others
        }
        assert ours == sorted(weights, key=lambda word: (-weights[word], word))[:8]


def test_texts_without_words_have_no_words():
    assert cluster_words(["", "?!", " "], np.array([0, 1, 0])) == [[], []]
