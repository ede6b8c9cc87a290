"""One scoped hook: exact, differentiable, gone afterwards, and refused where it cannot work."""

import pytest
import torch
from torch import nn
from transformers import AlbertConfig, AlbertModel, BertConfig, BertModel, ElectraConfig, ElectraModel

from diffcse.errors import InputError
from diffcse.method.conditioning import first_layer, sentence_at_position_0
from diffcse.method.fast import checkpoint_layers

SIZES = {
    "vocab_size": 30,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": 12,
}
X = torch.tensor([[2, 7, 8, 3], [2, 9, 3, 0]])
REAL = (X != 0).long()


def bert():
    torch.manual_seed(0)
    return BertModel(BertConfig(**SIZES), add_pooling_layer=False).eval()


def test_equals_replacing_the_embedding_output():
    model, z = bert(), torch.randn(2, 8)
    with sentence_at_position_0(model, z):
        ours = model(input_ids=X, attention_mask=REAL).last_hidden_state

    class Replace(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, *args, **kwargs):
            out = self.inner(*args, **kwargs).clone()
            out[:, 0] = z
            return out

    model.embeddings = Replace(model.embeddings)
    assert torch.equal(ours, model(input_ids=X, attention_mask=REAL).last_hidden_state)


def test_replaces_after_the_embedding_projection():
    """ELECTRA embeds in another width than its layers work in: z has the layers' width."""
    torch.manual_seed(0)
    model = ElectraModel(ElectraConfig(**SIZES, embedding_size=4)).eval()
    a, b = torch.randn(2, 2, 8)
    with sentence_at_position_0(model, a):
        first = model(input_ids=X, attention_mask=REAL).last_hidden_state
    with sentence_at_position_0(model, b):
        second = model(input_ids=X, attention_mask=REAL).last_hidden_state
    assert not torch.allclose(first[:, 1], second[:, 1]), "every token sees it"


def test_what_stood_at_position_0_no_longer_matters_and_the_hook_is_gone():
    model, z = bert(), torch.randn(2, 8)
    other = X.clone()
    other[:, 0] = 5
    before = model(input_ids=X, attention_mask=REAL).last_hidden_state
    with sentence_at_position_0(model, z):
        a = model(input_ids=X, attention_mask=REAL).last_hidden_state
    with sentence_at_position_0(model, z):
        b = model(input_ids=other, attention_mask=REAL).last_hidden_state
    assert torch.equal(a, b)
    assert not torch.equal(a, before)
    assert torch.equal(before, model(input_ids=X, attention_mask=REAL).last_hidden_state)
    with pytest.raises(RuntimeError, match="inside"), sentence_at_position_0(model, z):
        raise RuntimeError("inside")
    assert torch.equal(before, model(input_ids=X, attention_mask=REAL).last_hidden_state)


def test_gradient_reaches_the_sentence():
    model, z = bert(), torch.randn(2, 8, requires_grad=True)
    with sentence_at_position_0(model, z):
        model(input_ids=X, attention_mask=REAL).last_hidden_state[:, 1:, 0].sum().backward()
    assert z.grad.abs().sum() > 0


def test_refusals():
    albert = AlbertModel(AlbertConfig(**SIZES, embedding_size=4))
    with pytest.raises(InputError, match="no list of its 2 layers"):
        first_layer(albert)
    model = bert()
    with pytest.raises(InputError, match="do not fit"), sentence_at_position_0(model, torch.randn(2, 6)):
        model(input_ids=X, attention_mask=REAL)
    with pytest.raises(InputError, match="do not fit"), sentence_at_position_0(model, torch.randn(3, 8)):
        model(input_ids=X, attention_mask=REAL)
    with pytest.raises(InputError, match="ran 0 times"), sentence_at_position_0(model, torch.randn(2, 8)):
        pass
    with pytest.raises(InputError, match="ran 2 times"), sentence_at_position_0(model, torch.randn(2, 8)):  # noqa: PT012
        model(input_ids=X, attention_mask=REAL)
        model(input_ids=X, attention_mask=REAL)


def test_a_layer_that_is_recomputed_saw_the_sentence():
    """The first layer's recomputation would run after the hook is gone; it is kept instead, and only meanwhile."""
    gradients = []
    for recomputing in (False, True):
        model, z = bert().train(), torch.randn(2, 8, requires_grad=True, generator=torch.Generator().manual_seed(1))
        if recomputing:
            checkpoint_layers(model)
        torch.manual_seed(3)
        with sentence_at_position_0(model, z):
            # Which hooks a recomputation runs through, transformers has changed its mind about.
            assert [layer.gradient_checkpointing for layer in model.encoder.layer] == [False, recomputing]
            hidden = model(input_ids=X, attention_mask=REAL).last_hidden_state
        (hidden * torch.arange(8)).sum().backward()
        gradients.append([z.grad, *(p.grad for p in model.parameters() if p.grad is not None)])
        assert all(layer.gradient_checkpointing is recomputing for layer in model.encoder.layer)
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
