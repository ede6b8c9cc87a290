"""TF-IDF by the formulas of its docstring, in loops."""

import math
import re

import numpy as np
import pytest
from scipy import sparse

from diffcse.errors import InputError
from diffcse.evaluation.embeddings import cosines
from diffcse.evaluation.floors import TfIdf

CORPUS = ["The cat sat on the mat.", "A cat ran", "the dog ran and ran", "A cat ran"]


def words(sentence):
    return re.findall(r"\w\w+", sentence.lower())


def weights(sentence, corpus):
    known = {w for s in corpus for w in words(s)}
    frequency = {w: sum(w in words(s) for s in corpus) for w in known}
    return {
        w: (1 + math.log(words(sentence).count(w))) * (1 + math.log((1 + len(corpus)) / (1 + frequency[w])))
        for w in set(words(sentence)) & known
    }


def cosine_by_loop(a, b, corpus):
    u, v = weights(a, corpus), weights(b, corpus)
    lengths = math.sqrt(sum(x * x for x in u.values()) * sum(x * x for x in v.values()))
    return sum(u[w] * v[w] for w in u.keys() & v.keys()) / lengths if lengths else 0.0


def test_cosines_are_those_of_a_loop_over_distinct_sentences():
    first = [CORPUS[0], CORPUS[0], "the the cat", "zebra"]
    second = [CORPUS[1], CORPUS[2], "ran ran ran dog", CORPUS[0]]
    encode = TfIdf(CORPUS)
    rows = encode(first)
    assert sparse.issparse(rows)
    expected = [cosine_by_loop(a, b, CORPUS[:3]) for a, b in zip(first, second, strict=True)]
    assert cosines(rows, encode(second)) == pytest.approx(expected, abs=1e-12)
    assert np.allclose(sparse.linalg.norm(rows, axis=1), [1, 1, 1, 0])


@pytest.mark.parametrize("corpus", [[], ["a b", "?"]])
def test_a_corpus_without_words_is_refused(corpus):
    with pytest.raises(InputError, match="no word"):
        TfIdf(corpus)
