import doctest

import pytest
import torch

from diffcse.config import Method
from diffcse.method import heads
from diffcse.method.build import build
from diffcse.method.heads import pool, pooled, projector, token_head
from tests.models import FAMILIES, SENTENCES, tiny_model

HIDDEN = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]], [[5.0, 6.0], [7.0, 8.0], [9.0, 10.0]]])
MASK = torch.tensor([[1, 1, 0], [1, 1, 1]])


def test_pooling_by_hand():
    assert pool((HIDDEN,), MASK, "cls").tolist() == [[1, 2], [5, 6]]
    assert pool((HIDDEN,), MASK, "mean").tolist() == [[2, 3], [7, 8]]
    for how in ("first_last", "top2"):
        assert pool((HIDDEN, HIDDEN + 10), MASK, how).tolist() == [[7, 8], [12, 13]]


@pytest.mark.parametrize(("how", "numbers"), [("cls", [4]), ("mean", [4]), ("first_last", [1, 4]), ("top2", [3, 4])])
def test_the_layers_that_are_read(how, numbers):
    """Hidden states begin with the embeddings, number 0, which no pooling reads (SimCSE's evaluation.py)."""
    model, _ = tiny_model("bert", masked_lm=False, layers=4)
    ids = torch.tensor([[5, 6, 7]])
    every = model(input_ids=ids, output_hidden_states=True).hidden_states
    assert len(every) == 5
    expected = pool(tuple(every[number] for number in numbers), torch.ones_like(ids), how)
    for packed in (True, False):
        found = pooled(model, ids, torch.ones_like(ids), how, packed=packed)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("how", "number"), [("first_last", 1), ("top2", -2)])
@pytest.mark.parametrize("family", [*FAMILIES, "deberta-v2", "modernbert"])
def test_two_layers_averaged_as_simcse_does_it(family, how, number):
    """avg_first_last and avg_top2 of SimCSE's evaluation.py, a sentence at a time."""
    model, tokenizer = tiny_model(family, masked_lm=False, layers=3)
    batch = tokenizer(SENTENCES[:4], padding=True, return_tensors="pt")
    batch = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        found = pooled(model, batch["input_ids"], batch["attention_mask"], how)
        for row, sentence in enumerate(SENTENCES[:4]):
            ids = tokenizer(sentence, return_tensors="pt")["input_ids"]
            states = model(input_ids=ids, output_hidden_states=True).hidden_states
            expected = ((states[number][0] + states[-1][0]) / 2).mean(0)
            torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("how", ["first_last", "top2"])
def test_both_losses_train_the_encoder_through_two_layers(how):
    model, tokenizer = build(Method(pooling=how, model="mini", dropout=0.1))
    terms = model.train()(tokenizer(SENTENCES[:4], padding=True, return_tensors="pt"), step=0)
    for loss in (terms.contrastive, terms.difference):
        model.zero_grad()
        loss.backward(retain_graph=True)
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.encoder.embeddings.parameters())


def test_doctest():
    assert doctest.testmod(heads).failed == 0


def test_batchnorm_projector_by_hand():
    """Linear - BatchNorm - ReLU - Linear - BatchNorm without weights, statistics over all rows of the batch."""
    torch.manual_seed(0)
    g = projector("batchnorm", 3).double().train()
    h = torch.randn(6, 3, dtype=torch.float64)

    def normalise(x):
        return (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()

    inner = torch.relu(normalise(h @ g[0].weight.T) * g[1].weight + g[1].bias)
    torch.testing.assert_close(g(h), normalise(inner @ g[3].weight.T))
    assert [tuple(p.shape) for p in g.parameters()] == [(6, 3), (6,), (6,), (3, 6)]


def test_other_projectors():
    torch.manual_seed(0)
    h = torch.randn(4, 3)
    g = projector("tanh", 3)
    torch.testing.assert_close(g(h), torch.tanh(h @ g[0].weight.T + g[0].bias))
    assert projector("none", 3)(h) is h


def test_token_head():
    assert token_head(5)(torch.zeros(2, 3, 5)).shape == (2, 3, 2)
