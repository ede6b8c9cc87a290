"""Sentences, pairs, triplets and neighbours -> padded token batches, nothing random."""

import numpy as np
import pytest
import torch

from diffcse.training.collate import Batches, Collate, Neighbours, epoch_order
from tests.models import SENTENCES, tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def rows(batch, column=""):
    """The sentences of a column, decoded; checks that padding is on the right, and only there."""
    ids, real = batch[f"{column}input_ids"], batch[f"{column}attention_mask"]
    assert ids.shape == real.shape
    assert ids.dtype == real.dtype == torch.long
    assert (real.diff(dim=1) <= 0).all()
    assert (ids[real == 0] == TOKENIZER.pad_token_id).all()
    assert real.any(0).all(), "no wider than its longest"
    return [TOKENIZER.decode(row[mask.bool()]) for row, mask in zip(ids, real, strict=True)]


def framed(sentence):
    return f"[CLS] {sentence} [SEP]" if sentence else "[CLS] [SEP]"


def test_sentences():
    batch = Collate(TOKENIZER, 32)(SENTENCES[:5])
    assert set(batch) == {"input_ids", "attention_mask", "truncated"}
    assert rows(batch) == [framed(sentence) for sentence in SENTENCES[:5]]
    assert batch["truncated"] == 0


def test_each_column_is_as_wide_as_its_own_longest():
    batch = Collate(TOKENIZER, 32)([("birds sing", SENTENCES[3]), ("night came", "stars")])
    assert batch["input_ids"].shape == (2, 4)
    assert batch["positive_input_ids"].shape == (2, 10)
    assert rows(batch, "positive_") == [framed(SENTENCES[3]), framed("stars")]


def test_pairs():
    batch = Collate(TOKENIZER, 32)([("the cat", "a dog"), ("stars", "night came"), ("the cat", "stars")])
    assert set(batch) == {
        *("input_ids", "attention_mask", "anchor_key"),
        *("positive_input_ids", "positive_attention_mask", "positive_key"),
        "truncated",
    }
    assert rows(batch) == [framed(s) for s in ("the cat", "stars", "the cat")]
    assert rows(batch, "positive_") == [framed(s) for s in ("a dog", "night came", "stars")]


def test_triplets():
    batch = Collate(TOKENIZER, 32)([("the cat", "a dog", "fish swim"), ("stars", "the cat", "the cat")])
    assert len(batch) == 10
    assert rows(batch, "hard_negative_") == [framed("fish swim"), framed("the cat")]
    assert batch["hard_negative_key"].shape == (2,)


def test_keys_are_equal_where_sentences_are_in_whatever_column_or_batch():
    batch = Collate(TOKENIZER, 32)([("the cat", "a dog", "stars"), ("stars", "the cat", "The cat")])
    anchor, positive, negative = (batch[f"{name}_key"] for name in ("anchor", "positive", "hard_negative"))
    assert anchor.dtype == torch.int64
    assert anchor[0] == positive[1]
    assert anchor[1] == negative[0]
    assert len({*anchor.tolist(), *positive.tolist(), *negative.tolist()}) == 4, "also where only tokens are equal"
    other = Collate(TOKENIZER, 8)([("a dog", "the cat")])
    assert other["positive_key"] == anchor[0]
    many = Collate(TOKENIZER, 32)([(sentence, f"{sentence}!") for sentence in SENTENCES])
    assert len({*many["anchor_key"].tolist(), *many["positive_key"].tolist()}) == 2 * len(SENTENCES)
    assert (many["anchor_key"] >= 0).all()


def test_sentences_that_begin_alike_have_keys_of_their_own_when_cut():
    batch = Collate(TOKENIZER, 4)([("the cat sat on", "a"), ("the cat sat under", "b")])
    assert rows(batch)[0] == rows(batch)[1]
    assert batch["anchor_key"][0] != batch["anchor_key"][1]


def test_neighbours():
    batch = Collate(TOKENIZER, 32, neighbours=True)([("the cat", "a dog"), ("stars", None), ("fish swim", "stars")])
    assert set(batch) == {
        *("input_ids", "attention_mask", "next_input_ids", "next_attention_mask", "has_next"),
        *("anchor_key", "next_key", "truncated"),
    }
    anchor, after = batch["anchor_key"].tolist(), batch["next_key"].tolist()
    assert len({*anchor, *after}) == 4, "who has no next one is its own"
    assert after[1:] == [anchor[1], anchor[1]]
    assert batch["has_next"].tolist() == [True, False, True]
    assert batch["has_next"].dtype == torch.bool
    assert rows(batch, "next_") == [framed("a dog"), framed(""), framed("stars")]


def test_neighbours_of_which_none_has_one():
    batch = Collate(TOKENIZER, 32, neighbours=True)([("the cat", None), ("stars", None)])
    assert not batch["has_next"].any()
    assert batch["next_input_ids"].shape == (2, 2)


@pytest.mark.parametrize(
    ("examples", "neighbours", "cut"),
    [
        (["the cat sat", "birds sing", "the cat sat on the mat", "stars"], False, 2),
        ([("stars", "the cat sat"), ("the cat sat on", "the cat sat on"), ("stars", "night came")], False, 2),
        ([("stars", "stars", "the cat sat"), ("stars", "stars", "stars")], False, 1),
        ([("stars", "the cat sat"), ("stars", None), ("the cat sat", None)], True, 2),
    ],
)
def test_truncated_counts_examples_and_not_sentences(examples, neighbours, cut):
    batch = Collate(TOKENIZER, 4, neighbours=neighbours)(examples)
    assert batch["truncated"] == cut
    for name, value in batch.items():
        if name.endswith("input_ids"):
            assert value.shape[1] <= 4
            assert (value == TOKENIZER.sep_token_id).sum(1).tolist() == [1] * len(examples), "cut, and still closed"


def test_the_same_examples_give_the_same_batch():
    examples = [(SENTENCES[i], SENTENCES[i + 1], SENTENCES[i + 2]) for i in range(6)]
    one, other = (Collate(TOKENIZER, 16)(examples) for _ in range(2))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


class Corpus(list):
    following = np.array([1, 2, -1, -1])


def test_a_corpus_of_documents_gives_each_sentence_with_its_next():
    pairs = Neighbours(Corpus(["a", "b", "c", "d"]))
    assert len(pairs) == 4
    assert [pairs[i] for i in range(4)] == [("a", "b"), ("b", "c"), ("c", None), ("d", None)]


def test_a_tokenizer_without_a_rust_backend_serves_as_well(monkeypatch):
    """It hands back no encodings; what was cut is then counted by its lengths."""
    from transformers import BatchEncoding

    whole = Collate(TOKENIZER, 4)(["the cat sat", "stars", "the cat sat on the mat"])
    monkeypatch.setattr(BatchEncoding, "encodings", property(lambda self: None))
    batch = Collate(TOKENIZER, 4)(["the cat sat", "stars", "the cat sat on the mat"])
    assert batch["truncated"] == whole["truncated"] == 2
    assert torch.equal(batch["input_ids"], whole["input_ids"])


def test_an_epochs_order_has_every_sentence_once_an_epoch_in_a_new_order():
    first, again, second, other = (
        epoch_order(100, seed, epoch).tolist() for seed, epoch in ((1, 0), (1, 0), (1, 1), (2, 0))
    )
    assert sorted(first) == sorted(second) == list(range(100))
    assert first == again
    assert second != first != other


def test_batches_of_an_update():
    """23 sentences make five batches of 4, in three updates of two, two and one batch; 3 sentences are left out."""
    batches = Batches([f"{i}" for i in range(23)], lambda rows: {"rows": rows}, batch_size=4, accumulation=2, seed=7)
    assert batches.per_epoch == 3
    updates = [[(number, batch["rows"]) for number, batch in batches[update]] for update in range(6)]
    assert [[number for number, _ in update] for update in updates] == [[0, 1], [2, 3], [4], [6, 7], [8, 9], [10]]
    for epoch in (0, 1):
        seen = [row for update in updates[3 * epoch : 3 * epoch + 3] for _, rows in update for row in rows]
        assert seen == [str(i) for i in epoch_order(23, 7, epoch)[:20]]
    assert batches[1] == [(2, {"rows": updates[1][0][1]}), (3, {"rows": updates[1][1][1]})], "in any order of updates"
