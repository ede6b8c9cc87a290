"""Vectors from counting and from next sentences, against loops over the definitions."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from diffcse.errors import InputError
from diffcse.pretraining import token_vectors
from diffcse.pretraining.token_vectors import as_embeddings, cooccurrences, learn_from_next, ppmi, ppmi_svd, sif_weights

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
    with pytest.raises(InputError, match="width = "):
        ppmi_svd(IDS, OFFSETS, V, 8)


# ---- next sentences --------------------------------------------------------------------------------------------------

FIRST, SECOND = np.array([0, 1, 4, 5]), np.array([1, 4, 5, 0])


def loss_by_loops(vectors_VH, logs_V):
    """L_contrast both ways over the four pairs, a number at a time, at tau = 0.1.

    The pairs are a ring: each sentence is the first of one and the second of another, and not its own negative.
    """

    def embedding(sentence):
        vector = sum(logs_V[token].exp() * vectors_VH[token] for token in TEXT[sentence])
        return vector / vector.square().sum().sqrt()

    one = [embedding(i) for i in FIRST]
    other = [embedding(i) for i in SECOND]
    loss = 0.0
    for i in range(4):
        own = one[i] @ other[i] / 0.1
        forth = [one[i] @ other[j] / 0.1 for j in range(4) if FIRST[i] != SECOND[j]]
        back = [one[j] @ other[i] / 0.1 for j in range(4) if FIRST[j] != SECOND[i]]
        assert len(forth) == len(back) == 3
        loss -= (own - torch.logsumexp(torch.stack(forth), 0)) / 8
        loss -= (own - torch.logsumexp(torch.stack(back), 0)) / 8
    return loss


def test_four_steps_from_next_sentences_are_those_of_a_loop():
    start_VH = np.random.default_rng(3).normal(0, 0.5, (V, 3)).astype(np.float32)
    # As few pairs as fit into one batch: all of them in each step, in an order that changes nothing.
    found_VH, weights_V = learn_from_next(start_VH, sif_weights(IDS, V), IDS, OFFSETS, FIRST, SECOND)

    counts = [sum(sentence.count(token) for sentence in TEXT) for token in range(V)]
    sif = [1e-3 / (1e-3 + count / sum(counts)) for count in counts]
    assert sif_weights(IDS, V) == pytest.approx(sif)
    values = [torch.from_numpy(start_VH).double(), torch.tensor(sif, dtype=torch.float64).log()]
    means, squares = [0.0, 0.0], [0.0, 0.0]
    for step in range(4):  # Adam's definition
        for value in values:
            value.requires_grad_()
        gradients = torch.autograd.grad(loss_by_loops(*values), values)
        for i, gradient in enumerate(gradients):
            means[i] = 0.9 * means[i] + 0.1 * gradient
            squares[i] = 0.999 * squares[i] + 0.001 * gradient**2
            mean, square = means[i] / (1 - 0.9 ** (step + 1)), squares[i] / (1 - 0.999 ** (step + 1))
            values[i] = (values[i] - 3e-3 * (1 - step / 4) * mean / (square.sqrt() + 1e-8)).detach()
    assert found_VH == pytest.approx(values[0].numpy(), abs=1e-5)
    assert weights_V == pytest.approx(values[1].exp().numpy(), rel=1e-4)
    assert np.array_equal(found_VH[5], start_VH[5])  # in none of these sentences
    assert np.abs(found_VH[1] - start_VH[1]).min() > 1e-4


def topics(documents):
    """Documents of two sentences: (token ids, offsets, first, second).

    The first has four of the tokens 10 t + 0 ... 4, the second four of 10 t + 5 ... 9, for one topic t of five; both
    have four of the tokens 50 ... 59 besides, which tell nothing.
    """
    random = np.random.default_rng(0)
    rows = [
        [*random.integers(50, 60, size=4), *(10 * topic + random.integers(part, part + 5, size=4))]
        for topic in random.integers(0, 5, documents)
        for part in (0, 5)
    ]
    first = np.arange(0, 2 * documents, 2)
    return np.concatenate(rows).astype(np.uint16), np.cumsum([0, *map(len, rows)]), first, first + 1


def test_words_that_only_meet_over_sentence_borders_become_alike(monkeypatch):
    monkeypatch.setattr(token_vectors, "_BATCH", 32)
    start_VH = np.random.default_rng(0).normal(0, 0.25, (60, 16)).astype(np.float32)
    ids, offsets, first, second = topics(1500)
    found_VH, _ = learn_from_next(start_VH, sif_weights(ids, 60), ids, offsets, first, second)

    def alike(vectors_VH):
        sums = np.stack([[vectors_VH[10 * t + part : 10 * t + part + 5].sum(0) for part in (0, 5)] for t in range(5)])
        sums /= np.linalg.norm(sums, axis=2, keepdims=True)
        cosines = sums[:, 0] @ sums[:, 1].T
        return cosines.diagonal().mean() - cosines[~np.eye(5, dtype=bool)].mean()

    assert abs(alike(start_VH)) < 0.3
    assert alike(found_VH) > 0.8


def test_seed_alone_decides_which_pairs_meet(monkeypatch):
    monkeypatch.setattr(token_vectors, "_BATCH", 16)
    start_VH = np.random.default_rng(0).normal(0, 0.25, (60, 8)).astype(np.float32)
    before = start_VH.copy()
    text = topics(100)
    one, same, other = (learn_from_next(start_VH, sif_weights(text[0], 60), *text, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0], other[0])
    assert np.array_equal(start_VH, before)


def test_a_batch_holds_no_pair_twice():
    first = np.arange(0, 60, 2)
    offsets = np.arange(61)
    for batch in (7, 30):
        for seed in range(5):
            draw = token_vectors.next_views(np.arange(60), offsets, first, first + 1, batch)
            rows, following, _ = draw(np.random.default_rng(seed))
            drawn = [int(row[0]) for row in rows]
            assert len(set(drawn)) == batch
            assert [int(row[0]) - 1 for row in following] == drawn


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 60), st.integers(2, 20), st.floats(0.05, 5))
def test_layer_norm_leaves_the_weighted_vectors_of_embeddings(seed, size, width, length):
    random = np.random.default_rng(seed)
    vectors_VH = random.normal(0, random.uniform(0.01, 3), (size, width)).astype(np.float32)
    weights_V = random.lognormal(0, 2, size).astype(np.float32)
    weights_V[0] = 0  # as special tokens have it
    found_VH = as_embeddings(vectors_VH * weights_V[:, None], length=length)
    assert found_VH.shape == (size, width + 2)
    assert found_VH.dtype == np.float32
    assert np.linalg.norm(found_VH, axis=1) == pytest.approx(np.full(size, length), rel=1e-4)
    assert found_VH.mean(axis=1) == pytest.approx(np.zeros(size), abs=1e-6 * length)

    seen_VH = F.layer_norm(torch.from_numpy(found_VH).double(), [width + 2], eps=0.0)[:, :-2].numpy()
    assert seen_VH[0] == pytest.approx(np.zeros(width), abs=1e-5)
    wanted_VH = weights_V[:, None] * vectors_VH.astype(np.float64)
    wanted_VH -= wanted_VH.mean(axis=1, keepdims=True)
    lengths_V = np.linalg.norm(wanted_VH, axis=1)
    most = np.quantile(lengths_V, 0.995)
    cut_V = lengths_V > most
    assert cut_V.sum() == 1  # of at most 60
    # One factor for all tokens but the cut one, which keeps its direction only.
    factor = (width + 2) ** 0.5 / most
    assert seen_VH[~cut_V] == pytest.approx(factor * wanted_VH[~cut_V], abs=1e-4 * width)
    assert seen_VH[cut_V] == pytest.approx(factor * most / lengths_V[cut_V] * wanted_VH[cut_V], abs=1e-4 * width)


def test_sums_of_rows_are_those_of_a_loop():
    random = np.random.default_rng(0)
    vectors = torch.from_numpy(random.normal(size=(30, 8)).astype(np.float32))
    vectors[0] = 0
    rows = [np.array([3, 3, 7]), np.array([], dtype=np.int64), np.zeros(4, dtype=np.int64), np.array([0, 29])]
    found = token_vectors.sums_of(rows, vectors)
    for i, row in enumerate(rows):
        total = sum((vectors[token].double() for token in row), torch.zeros(8, dtype=torch.float64))
        assert found[i].numpy() == pytest.approx((total / max(total.norm().item(), 1e-12)).numpy(), abs=1e-6)
    assert found.norm(dim=1).tolist() == pytest.approx([1, 0, 0, 1], abs=1e-6)


def test_tokens_get_directions_of_their_own_as_long_as_they_weigh():
    random = np.random.default_rng(0)
    weighted = random.normal(size=(400, 64)).astype(np.float32)
    weighted[:5] = 0
    shares = random.uniform(0.2, 1, 400)
    shares[:5] = 0
    own = token_vectors.with_own_directions(weighted, shares, seed=1) - weighted
    usual = np.median(np.linalg.norm(weighted[5:], axis=1))
    assert np.linalg.norm(own, axis=1) == pytest.approx(usual * shares, rel=1e-4, abs=1e-6)
    directions = own[5:] / np.linalg.norm(own[5:], axis=1, keepdims=True)
    cosines = (directions @ directions.T)[~np.eye(395, dtype=bool)]
    assert abs(cosines.mean()) < 0.01
    assert cosines.std() == pytest.approx(64**-0.5, rel=0.05)
    assert np.array_equal(own, token_vectors.with_own_directions(weighted, shares, seed=1) - weighted)
    assert not np.allclose(own, token_vectors.with_own_directions(weighted, shares, seed=2) - weighted)
