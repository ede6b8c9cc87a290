"""What a model can do is tested without changing it, and tested again when its layers change."""

import warnings

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    MobileBertConfig,
    MobileBertForMaskedLM,
)

from diffcse.method.adapters import add_lora, merged
from diffcse.method.fast import ability, before_vocabulary, vectors_at
from tests.models import tiny_model

from .padded import LENGTHS, batch, compare, hooks


@pytest.fixture(scope="module")
def models():
    """One float64 model of each family, in eval mode, made when asked for."""
    made = {}

    def get(family, *, masked_lm=False):
        if (family, masked_lm) not in made:
            made[family, masked_lm] = tiny_model(family, masked_lm=masked_lm, hidden=16)[0].double()
        return made[family, masked_lm]

    return get


@pytest.mark.parametrize("family", ["mpnet", "deberta-v2"])
def test_who_cannot_runs_padded_and_says_so_once(family):
    model = tiny_model(family, masked_lm=False)[0]
    ids, attention = batch(LENGTHS)
    with pytest.warns(UserWarning, match=f"{type(model).__name__} runs padded"):
        found = vectors_at(model, ids, attention, attention.bool())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = vectors_at(model, ids, attention, attention.bool())
    expected = model(input_ids=ids, attention_mask=attention).last_hidden_state[attention.bool()]
    assert torch.equal(found, expected)
    assert torch.equal(again, expected)


def test_trying_out_changes_nothing():
    model = tiny_model("bert", masked_lm=False, hidden=16)[0].train()
    model.encoder.layer[1].eval()
    modes = [m.training for m in model.modules()]
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert ability(model).packs
    assert torch.equal(state, torch.get_rng_state())
    assert modes == [m.training for m in model.modules()]
    assert hooks(model) == 0
    assert all(p.grad is None for p in model.parameters())


def test_a_model_whose_layers_were_exchanged_after_it_first_ran():
    """What was found out of it names modules, and those may be others by now: adapters come and go."""
    pytest.importorskip("peft")
    model = tiny_model("bert", masked_lm=False, hidden=16)[0].double()
    ids, attention = batch(LENGTHS)
    start = torch.zeros_like(attention, dtype=torch.bool)
    start[:, 0] = True
    vectors_at(model, ids, attention, start)
    model = add_lora(model, 4, seed=1).double()
    compare(model, lambda packed: vectors_at(model, ids, attention, start, packed=packed))
    plain = merged(model)
    compare(plain, lambda packed: vectors_at(plain, ids, attention, start, packed=packed))


@pytest.mark.filterwarnings("ignore:.*runs padded")
def test_a_head_that_never_calls_its_output_embeddings():
    config = MobileBertConfig(
        vocab_size=150, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        embedding_size=8, intra_bottleneck_size=8, true_hidden_size=8,
    )  # fmt: skip
    torch.manual_seed(0)
    model = MobileBertForMaskedLM(config).eval()
    ids, attention = batch(LENGTHS)
    expected = model(input_ids=ids, attention_mask=attention).logits[attention.bool()]
    for _ in range(2):  # what was found out is kept
        x, to_logits = before_vocabulary(model, ids, attention, attention.bool())
        torch.testing.assert_close(to_logits(x), expected, atol=1e-5, rtol=1e-4)


def test_two_models_in_turn():
    """What is known of one says nothing of the other, and packed and padded runs may follow each other."""
    one, other = (tiny_model(family, masked_lm=False, hidden=16)[0].double() for family in ("bert", "roberta"))
    ids, attention = batch(LENGTHS)
    real = attention.bool()
    expected = [m(input_ids=ids, attention_mask=attention).last_hidden_state[real] for m in (one, other)]
    for _ in range(2):
        for model, wanted in zip((one, other), expected, strict=True):
            torch.testing.assert_close(vectors_at(model, ids, attention, real), wanted, rtol=0, atol=1e-10)
            assert torch.equal(model(input_ids=ids, attention_mask=attention).last_hidden_state[real], wanted)


def test_two_models_that_share_a_configuration():
    config = BertConfig(
        vocab_size=150, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24
    )
    one, other = (BertModel(config, add_pooling_layer=False).eval().double() for _ in range(2))
    ids, attention = batch(LENGTHS)
    for model in (one, other):
        compare(model, lambda packed, m=model: vectors_at(m, ids, attention, attention.bool(), packed=packed))
