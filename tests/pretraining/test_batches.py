"""Batches: every sentence or pair once an epoch, in an order that any step can be asked for."""

import itertools

import numpy as np
import pytest

from diffcse.errors import InputError
from diffcse.pretraining import batches
from diffcse.pretraining.batches import Batches, Pairs, following_pairs
from diffcse.text.corpus import Corpus


def test_batches_hold_every_sentence_once_an_epoch_in_groups_of_one_length(monkeypatch):
    monkeypatch.setattr(batches, "GROUP_TOKENS", 40)
    lengths = np.random.default_rng(0).integers(3, 12, 500)
    sentences = np.arange(0, 500, 2)
    drawn = Batches(lengths, sentences, 120, seed=1)
    epochs = [[drawn[e * drawn.per_epoch + i] for i in range(drawn.per_epoch)] for e in range(2)]
    for epoch in epochs:
        groups = [group for step in epoch for group in step]
        assert sorted(np.concatenate(groups)) == list(sentences)
        assert all(len(set(lengths[group])) == 1 for group in groups)
        assert all(len(group) * lengths[group[0]] <= 40 for group in groups)
        assert max(map(len, epoch)) == 3
    assert [list(g) for s in epochs[0] for g in s] != [list(g) for s in epochs[1] for g in s]
    # Any step can be asked for first.
    again = Batches(lengths, sentences, 120, seed=1)[drawn.per_epoch + 1]
    assert [list(g) for g in again] == [list(g) for g in epochs[1][1]]


def test_pairs_follow_each_other_in_one_document_and_leave_out_what_is_held_out():
    corpus = Corpus.from_sentences(["a", "b", "c", "", "d", "e", "b", "f", "", "g"], documents=True)
    a, b, c, d, e, f, g = range(7)
    found = following_pairs(corpus, np.arange(7))
    # b was read first before c: that is what follows it. f stands behind b's second coming, g alone.
    assert found.tolist() == [[a, b], [b, c], [d, e], [e, b]]
    assert following_pairs(corpus, np.array([a, b, d, e, f, g])).tolist() == [[a, b], [d, e], [e, b]]
    assert following_pairs(corpus, np.array([a, b, c, d, f, g])).tolist() == [[a, b], [b, c]]
    for trained_on in ([a, b, d, f, g], [c, f, g]):
        with pytest.raises(InputError, match="fewer than two"):
            following_pairs(corpus, np.array(trained_on))


def test_pairs_come_once_an_epoch_in_an_order_that_any_step_can_be_asked_for():
    random = np.random.default_rng(0)
    lengths = random.integers(3, 12, 600)
    pairs_P2 = np.stack([np.arange(0, 400), np.arange(1, 401)], axis=1)
    pairs = Pairs(lengths, pairs_P2, 120, seed=1)
    epochs = [[pairs[e * pairs.per_epoch + i] for i in range(pairs.per_epoch)] for e in range(2)]
    sizes = {len(step) for epoch in epochs for step in epoch}
    assert len(sizes) == 1
    (size,) = sizes
    assert size == round(120 / lengths[pairs_P2].sum(axis=1).mean())
    for epoch in epochs:
        seen = [tuple(pair) for step in epoch for pair in step]
        assert len(seen) == len(set(seen)) > 400 - size
        assert set(seen) <= {tuple(pair) for pair in pairs_P2}
    assert not np.array_equal(epochs[0], epochs[1])
    again = Pairs(lengths, pairs_P2, 120, seed=1)
    assert np.array_equal(again[pairs.per_epoch + 2], epochs[1][2])
    assert np.array_equal(again[3], epochs[0][3])
    assert not np.array_equal(Pairs(lengths, pairs_P2, 120, seed=2)[0], epochs[0][0])


@pytest.mark.parametrize(("batch_tokens", "a_step", "steps"), [(4, 2, 1), (10_000, 3, 1)])
def test_a_text_of_three_pairs(batch_tokens, a_step, steps):
    pairs = Pairs(np.array([5, 5, 5, 5]), np.array([[0, 1], [1, 2], [2, 3]]), batch_tokens, seed=0)
    assert pairs.per_epoch == steps
    assert len(pairs[0]) == len({tuple(pair) for pair in pairs[0]}) == a_step


def test_groups_of_pairs_hold_every_row_beside_others_of_its_length(monkeypatch):
    monkeypatch.setattr(batches, "GROUP_TOKENS", 60)
    lengths = np.random.default_rng(0).integers(3, 17, 300)
    numbers_R = np.random.default_rng(1).integers(0, 300, 90)  # a sentence can come twice
    groups = Pairs(lengths, np.array([[0, 1], [1, 2]]), 100, seed=0).groups(numbers_R)
    assert sorted(np.concatenate(groups)) == list(range(90))
    tokens = [lengths[numbers_R[group]].sum() for group in groups]
    # One that begins in a group's last tokens makes it longer, or the one before: by no more than itself.
    assert all(60 - 16 < total < 60 + 16 for total in tokens[:-1])
    assert tokens[-1] < 60 + 16
    spans = [(min(lengths[numbers_R[group]]), max(lengths[numbers_R[group]])) for group in groups]
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))
