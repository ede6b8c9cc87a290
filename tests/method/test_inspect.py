import pytest
import torch

from diffcse.config import Method
from diffcse.errors import InputError
from diffcse.method.inspect import conditional_gain, judge
from diffcse.method.parts import build
from tests.models import SENTENCES, save_tiny


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny(folder, "bert")
    return folder


def batches(tokenizer, size=8):
    return [
        tokenizer(SENTENCES[i : i + size], padding=True, return_tensors="pt")
        for i in range(0, len(SENTENCES) - 1, size)
    ]


def test_a_discriminator_that_ignores_the_embedding_has_no_gain(parts):
    model, tokenizer = build(Method(model=str(parts)))
    with torch.no_grad():
        for weight in model.projector.parameters():
            weight.zero_()  # z is the same for every sentence: nothing to shuffle
    found = conditional_gain(model, batches(tokenizer))
    assert found.gain == pytest.approx(0, abs=1e-6)
    assert found.own == pytest.approx(found.shuffled)


def test_gain_is_positive_where_the_embedding_tells_the_labels(parts):
    """A discriminator that answers by the sentence's embedding alone: right with its own, wrong with another's."""
    model, tokenizer = build(Method(model=str(parts), mask_ratio=0.9, condition="pooled"))
    data = batches(tokenizer, 2)
    shares = {}
    original = model.edit

    def edit(x, attention, **kwargs):
        edited = original(x, attention, **kwargs)
        shares["labels"] = edited.labels
        return edited

    def discriminate(ids, attention, condition):
        # Row i's own embedding is recognised; with it, D knows the labels.
        own = (condition == shares["h"]).all(1)[:, None]
        truth = torch.where(own, shares["labels"], 1 - shares["labels"])
        return torch.stack([1.0 - truth, truth.float()], -1) * 4

    def condition(h, z):
        shares["h"] = h
        return h

    model.edit, model.discriminate, model.condition = edit, discriminate, condition
    found = conditional_gain(model, data)
    assert found.accuracy == 1
    assert found.gain == pytest.approx(4, abs=1e-4), "four nats for each token: the logits' distance"
    assert found.standard_error == pytest.approx(0, abs=1e-4), "the same in every sentence"


def test_standard_error_is_that_of_a_ratio_of_sums(parts):
    """Against the spread of the gain over batches."""
    model, tokenizer = build(Method(model=str(parts), mask_ratio=0.5))
    data = batches(tokenizer, 4)
    found = conditional_gain(model, data)
    singles = [conditional_gain(model, [b]) for b in data]
    spread = torch.tensor([s.gain for s in singles]).std().item() / len(singles) ** 0.5
    assert 0.4 < found.standard_error / spread < 2.5


def test_mode_and_result_do_not_depend_on_training_mode(parts):
    model, tokenizer = build(Method(model=str(parts)))
    model.train()
    a = conditional_gain(model, batches(tokenizer))
    assert model.training
    assert a == conditional_gain(model.eval(), batches(tokenizer))
    assert a.tokens > 300
    assert 0.5 <= a.majority <= 1


def test_judged_tokens_are_the_sentence(parts):
    model, tokenizer = build(Method(model=str(parts), mask_ratio=0.5))
    judged = judge(model, tokenizer(SENTENCES[:3], padding=True, return_tensors="pt"))
    for sentence, tokens in zip(SENTENCES, judged, strict=False):
        assert tokenizer.decode([token.original for token in tokens], skip_special_tokens=True) == sentence
        assert all(token.replaced == (token.id != token.original) for token in tokens)
        assert all(0 <= token.probability <= 1 for token in tokens)
    assert any(token.replaced for tokens in judged for token in tokens)


def test_refusals(parts):
    model, tokenizer = build(Method(model=str(parts), difference="none"))
    with pytest.raises(InputError, match="needs a discriminator"):
        conditional_gain(model, batches(tokenizer))
    model, tokenizer = build(Method(model=str(parts)))
    with pytest.raises(InputError, match="at least two"):
        conditional_gain(model, batches(tokenizer, 1))
    with pytest.raises(InputError, match="no token"):
        conditional_gain(model, [])
