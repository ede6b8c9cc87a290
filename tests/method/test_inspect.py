import pytest
import torch

from diffcse.config import Method
from diffcse.errors import InputError
from diffcse.method.build import build
from diffcse.method.inspect import conditional_gain, judge
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


GROWN = ("insert", "insert_random")


@pytest.mark.parametrize("name", ["insert", "delete", "insert_random"])
def test_judged_tokens_of_copies_that_are_longer_or_shorter(parts, name):
    """The copy's own tokens in its own order; what was the sentence's can be told from what is new."""
    model, tokenizer = build(Method(model=str(parts), edits=(name,), mask_ratio=0.5))
    data = tokenizer(SENTENCES[:6], padding=True, return_tensors="pt")
    sentences = [tokenizer(sentence)["input_ids"] for sentence in SENTENCES[:6]]
    edited = model.edit(data["input_ids"], data["attention_mask"], step=0, rows_R=torch.arange(6))
    judged = judge(model, data)
    for row, (sentence, tokens) in enumerate(zip(sentences, judged, strict=True)):
        kept = [token.original for token in tokens if token.original >= 0]
        assert len(tokens) == edited.attention[row].sum()
        assert [token.id for token in tokens] == edited.ids[row, : len(tokens)].tolist()
        words = len(sentence) - 2
        share = max(1, int(words / 2 + 0.5))
        if name in GROWN:
            assert kept == sentence
            assert len(tokens) == len(sentence) + share
            assert all(token.replaced == (token.original < 0) for token in tokens)
        else:
            assert len(tokens) == len(sentence) - min(share, words - 1)
            rest = iter(sentence)
            assert all(token.id in rest for token in tokens), "the sentence with gaps"
            assert all(token.id == token.original for token in tokens)
        assert any(token.replaced for token in tokens) == (name in GROWN or words > 1)


@pytest.mark.parametrize("name", ["insert", "delete", "insert_random"])
def test_gain_of_copies_that_are_longer_or_shorter(parts, name):
    """Against loops over the tokens that `judge` returns, with own and with shuffled embeddings."""
    model, tokenizer = build(Method(model=str(parts), edits=(name,), mask_ratio=0.4))
    data = batches(tokenizer)[:3]
    found = conditional_gain(model, data)

    def log_loss(shift):
        condition = model.condition
        model.condition = lambda h, z: condition(h, z).roll(shift, 0)
        try:
            judged = [judge(model, batch, step=step) for step, batch in enumerate(data)]
        finally:
            model.condition = condition
        losses, right, replaced = [], 0, 0
        for rows, (step, batch) in zip(judged, enumerate(data), strict=True):
            where = model.edit(
                batch["input_ids"], batch["attention_mask"], step=step, rows_R=torch.arange(len(rows))
            ).editable
            for row, tokens in enumerate(rows):
                for t, token in enumerate(tokens):
                    if where[row, t]:
                        p = token.probability if token.replaced else 1 - token.probability
                        losses.append(-torch.tensor(p).log().item())
                        right += p > 0.5
                        replaced += token.replaced
        return sum(losses) / len(losses), right / len(losses), replaced / len(losses), len(losses)

    model.eval()
    own, accuracy, share, tokens = log_loss(0)
    shuffled, *_ = log_loss(1)
    assert found.tokens == tokens
    assert found.own == pytest.approx(own, rel=1e-4)
    assert found.shuffled == pytest.approx(shuffled, rel=1e-4)
    assert found.gain == pytest.approx(found.shuffled - found.own)
    assert found.accuracy == pytest.approx(accuracy)
    assert found.majority == pytest.approx(max(share, 1 - share))


def test_a_plain_electra_has_an_opinion_too(parts):
    model, tokenizer = build(Method(model=str(parts), condition="none"))
    assert judge(model, batches(tokenizer)[0])
    with pytest.raises(InputError, match="conditioned"):
        conditional_gain(model, batches(tokenizer))


@pytest.mark.parametrize("difference", ["mlm", "corrective_lm", "none"])
def test_only_a_discriminator_of_edits_can_judge(parts, difference):
    model, tokenizer = build(Method(model=str(parts), difference=difference))
    for measure in (lambda: judge(model, batches(tokenizer)[0]), lambda: conditional_gain(model, batches(tokenizer))):
        with pytest.raises(InputError, match='difference = "rtd"'):
            measure()


def test_refusals(parts):
    model, tokenizer = build(Method(model=str(parts), difference="none"))
    with pytest.raises(InputError, match="needs a discriminator"):
        conditional_gain(model, batches(tokenizer))
    model, tokenizer = build(Method(model=str(parts)))
    with pytest.raises(InputError, match="at least two"):
        conditional_gain(model, batches(tokenizer, 1))
    with pytest.raises(InputError, match="no token"):
        conditional_gain(model, [])
