"""Vectors from counting, against loops over the definitions."""

import math

import numpy as np
import pytest

from diffcse.errors import InputError
from diffcse.training import token_vectors
from diffcse.training.token_vectors import cooccurrences, ppmi, ppmi_svd

TEXT = [[1, 2, 3, 1, 4], [2, 2], [5], [], [4, 3, 2, 1], [6, 0, 6, 3]]
IDS = np.array([token for sentence in TEXT for token in sentence], dtype=np.uint16)
OFFSETS = np.cumsum([0, *map(len, TEXT)])
V = 8


def counted_by_loops(window, skip=()):
    counts = np.zeros((V, V))
    for sentence in TEXT:
        for i, one in enumerate(sentence):
            for j, other in enumerate(sentence):
                if i != j and abs(i - j) <= window and one not in skip and other not in skip:
                    counts[one, other] += 1
    return counts


@pytest.mark.parametrize("window", [1, 2, 5])
@pytest.mark.parametrize("chunk", [1, 4, 1000])
def test_counts_are_those_of_a_loop(monkeypatch, window, chunk):
    monkeypatch.setattr(token_vectors, "_CHUNK", chunk)
    found = cooccurrences(IDS, OFFSETS, V, window=window, skip=(0,)).toarray()
    assert np.array_equal(found, counted_by_loops(window, skip=(0,)))


def test_ppmi_is_the_definition():
    counts = counted_by_loops(2)
    found = ppmi(cooccurrences(IDS, OFFSETS, V, window=2), 0.75).toarray()
    contexts = [sum(counts[w, c] for w in range(V)) ** 0.75 for c in range(V)]
    for w in range(V):
        for c in range(V):
            wanted = 0.0
            if counts[w, c]:
                joint = counts[w, c] / counts.sum()
                pmi = math.log(joint / (counts[w].sum() / counts.sum() * contexts[c] / sum(contexts)))
                wanted = max(0.0, pmi)
            assert found[w, c] == pytest.approx(wanted, abs=1e-5)


def test_vectors_are_the_svd_scaled_and_the_seed_decides_the_rest():
    found = ppmi_svd(IDS, OFFSETS, V, 3, window=2, length=0.5, skip=(0,))
    assert found.shape == (V, 3)
    assert found.dtype == np.float32
    met = [1, 2, 3, 4, 6]
    assert np.linalg.norm(found[met], axis=1) == pytest.approx([0.5] * 5, abs=1e-5)
    u, s, _ = np.linalg.svd(ppmi(cooccurrences(IDS, OFFSETS, V, window=2, skip=(0,)), 0.75).toarray())
    exact = (u[:, :3] * np.sqrt(s[:3]))[met]
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    # Signs of singular vectors are free: products between tokens are not.
    assert found[met] @ found[met].T / 0.25 == pytest.approx(exact @ exact.T, abs=1e-4)

    assert np.array_equal(found, ppmi_svd(IDS, OFFSETS, V, 3, window=2, length=0.5, skip=(0,)))
    other = ppmi_svd(IDS, OFFSETS, V, 3, window=2, length=0.5, skip=(0,), seed=1)
    assert not np.array_equal(found[[0, 5, 7]], other[[0, 5, 7]])  # never met near another: random


def test_tokens_with_the_same_neighbours_get_similar_vectors():
    random = np.random.default_rng(0)
    # Tokens 0 and 1 are drawn alike, in the frames of one topic; 2 and 3 in another's.
    rows = []
    for _ in range(400):
        topic = random.integers(2)
        frame = random.integers(4 + 8 * topic, 12 + 8 * topic, size=4)
        rows.append([*frame[:2], 2 * topic + random.integers(2), *frame[2:]])
    ids = np.array(rows).ravel()
    vectors = ppmi_svd(ids, np.arange(0, len(ids) + 1, 5), 20, 4, length=1.0)
    assert vectors[0] @ vectors[1] > 0.9
    assert vectors[2] @ vectors[3] > 0.9
    assert vectors[0] @ vectors[2] < 0.5


def test_more_dimensions_than_tokens():
    with pytest.raises(InputError, match="more tokens than dimensions"):
        ppmi_svd(IDS, OFFSETS, V, 8)
