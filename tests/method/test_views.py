"""Who is pulled towards whom, against loops."""

import doctest
import math

import pytest
import torch

import diffcse.method.views as views
from diffcse.config import Method
from diffcse.errors import InputError
from diffcse.method.views import same_meaning

from .oracles import cosine_loops, false_negatives_loops
from .tiny import (
    BASE,
    COLUMNS,
    batch,
    both_views,
    make,
    triplets,
)


def test_same_meaning_against_loops():
    generator = torch.Generator().manual_seed(0)
    for size in (1, 2, 5, 9):
        for _ in range(20):
            a, p, n = torch.randint(0, 6, (3, size), generator=generator)
            keys = [x.tolist() for x in (a, p, n)]
            for count in (2, 3):
                found = {tuple(place) for place in same_meaning(*(a, p, n)[:count]).nonzero().tolist()}
                assert found == false_negatives_loops(*keys[:count])


def test_false_negatives_are_counted_whether_masked_or_kept():
    wanted = len(false_negatives_loops(*(triplets()[f"{name}_key"].tolist() for name in COLUMNS)))
    for choice in ("mask", "keep"):
        metrics = make(**BASE, false_negatives=choice)(triplets(), step=0).metrics
        assert metrics["false_negatives"] == wanted > 0


def test_dropout_views_differ():
    model = make(**BASE)
    x, real = (torch.cat([batch()[name]] * 2) for name in ("input_ids", "attention_mask"))
    first, second = model.embed(x, real).chunk(2)
    assert not torch.allclose(first, second)
    first, second = model.eval().embed(x, real).chunk(2)
    torch.testing.assert_close(first, second)


def test_views_get_masks_of_their_own():
    model = make(**BASE)
    x, real = (torch.cat([batch()[name]] * 2) for name in ("input_ids", "attention_mask"))
    chosen = model.edit(x, real, step=0, rows_R=both_views(4)).chosen
    assert not torch.equal(*chosen.chunk(2))


@pytest.mark.parametrize("role", ["positive", "negative"])
def test_unchanged_copies(role):
    """A copy that is the sentence itself is no negative of it, and as a positive it is one more view."""
    model = make(dropout=0.0, **BASE, difference="none", edit_role=role)
    data = batch(lengths=(2, 2, 9, 2))
    terms = model(data, step=0)
    assert terms.total.isfinite()
    if role == "negative":
        assert terms.metrics["false_negatives"] == 3
    else:
        assert "false_negatives" not in terms.metrics


def test_a_sentence_that_is_somebodys_next_is_edited_otherwise_than_as_itself():
    model = make(dropout=0.0, **BASE, pairing="both", projector="none", condition="none", contrast=True)
    data = batch()
    data |= {f"next_{name}": value for name, value in data.items()} | {"has_next": torch.ones(4, dtype=torch.bool)}
    seen = []
    edit = model.edit
    model.edit = lambda *args, **kwargs: seen.append(edit(*args, **kwargs)) or seen[-1]
    model(data, step=0)
    views = seen[0].chosen.split(4)
    assert len(views) == 4
    assert len({tuple(view.flatten().tolist()) for view in views}) == 4


TAU = 0.5


def neighbours():
    """Four sentences, the last of which ends its document; the third is followed by the first."""
    own, after = batch(lengths=(9, 4, 12, 7)), batch(lengths=(5, 6, 9, 3), seed=2)
    after["input_ids"][2] = 0
    after["input_ids"][2, :9] = own["input_ids"][0, :9]
    after["attention_mask"] = (after["input_ids"] != 0).long()
    data = {**own, **{f"next_{name}": value for name, value in after.items()}}
    data["has_next"] = torch.tensor([True, True, True, False])
    data["anchor_key"] = torch.tensor([1, 2, 3, 4])
    data["next_key"] = torch.tensor([5, 6, 1, 4])
    return data


def embeddings(model, data):
    """z of the sentences and of what follows them, or of themselves: BatchNorm is off, so rows are independent."""
    rows = []
    for ids, real in (
        (data["input_ids"], data["attention_mask"]),
        (data["next_input_ids"], data["next_attention_mask"]),
    ):
        rows.append(model.projector(model.embed(ids, real)))
    own, after = rows
    return own, torch.where(data["has_next"][:, None], after, own)


def loss_loops(first, second, anchor_key, second_key):
    total = 0.0
    for i in range(len(first)):
        denominator = 0.0
        for j in range(len(first)):
            same = anchor_key[i] == anchor_key[j] or second_key[i] == second_key[j] or anchor_key[i] == second_key[j]
            if i == j or not same:
                denominator += math.exp(cosine_loops(first[i], second[j]) / TAU)
        total -= math.log(math.exp(cosine_loops(first[i], second[i]) / TAU) / denominator)
    return total / len(first)


@pytest.mark.parametrize("positives", ["next", "both"])
def test_against_loops(positives):
    model = make(dropout=0.0, projector="tanh", difference="none", temperature=TAU, positives=positives).double()
    data = neighbours()
    terms = model(data, step=0)
    own, after = embeddings(model, data)
    keys = data["anchor_key"].tolist(), data["next_key"].tolist()
    expected = loss_loops(own, after, *keys)
    if positives == "both":
        expected = (expected + loss_loops(own, own, [1, 2, 3, 4], [1, 2, 3, 4])) / 2
    assert float(terms.total) == pytest.approx(expected, abs=1e-9)
    assert int(terms.metrics["false_negatives"]) == 1, "the first sentence, as what follows the third"


def test_keep_counts_the_false_negative_and_leaves_it_in():
    choices = {"dropout": 0.0, "projector": "tanh", "difference": "none", "temperature": TAU, "positives": "next"}
    masked, kept = make(**choices)(neighbours(), step=0), make(**choices, false_negatives="keep")(neighbours(), step=0)
    assert int(kept.metrics["false_negatives"]) == 1
    assert kept.total > masked.total


def test_without_a_next_sentence_it_is_simcse():
    data = neighbours()
    data["has_next"][:] = False
    data["next_key"] = data["anchor_key"]
    one = make(dropout=0.0, difference="none", temperature=TAU, positives="next")(data, step=0)
    other = make(dropout=0.0, difference="none", temperature=TAU)(batch(), step=0)
    torch.testing.assert_close(one.total, other.total)


def test_the_difference_term_judges_both_sentences_each_told_of_itself():
    model = make(dropout=0.0, projector="none", mask_ratio=0.5, positives="next", rtd_weight=1.0)
    data = neighbours()
    seen = []
    original = model.discriminate
    model.discriminate = lambda ids, real, z: (seen.append((ids, z)), original(ids, real, z))[1]
    terms = model(data, step=0)
    ((ids, condition),) = seen
    own, after = embeddings(model, data)
    assert len(ids) == 8
    torch.testing.assert_close(condition, torch.cat([own, after]), rtol=1e-4, atol=1e-5)
    terms.difference.backward()
    assert model.encoder.embeddings.word_embeddings.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "choices", [{"pairing": "next"}, {"edit_role": "positive", "difference": "none"}, {"contrast": False}]
)
def test_what_does_not_go_together(choices):
    with pytest.raises(InputError, match=r"method\.positives"):
        Method(positives="next", **choices)


def test_doctests():
    assert doctest.testmod(views).failed == 0
