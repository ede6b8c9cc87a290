"""The networks as one module: what fits, what is frozen, what is saved, how D is run."""

import dataclasses

import pytest
import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertModel,
)

from diffcse.config import Method
from diffcse.errors import InputError
from diffcse.method.draws import row_numbers
from diffcse.method.paper import DiffCSE
from diffcse.training.checkpoints import load_weights, save_weights

from .tiny import (
    BASE,
    FAMILIES,
    PLAIN,
    SIZES,
    TASKS,
    batch,
    both_views,
    make,
)


def test_prepended_sentence_is_one_more_token_in_front():
    """Every token of x″, the start token too, stands one position later, behind z."""
    model = make(dropout=0.0, **BASE, inject="prepend").eval()
    x, real = batch()["input_ids"], batch()["attention_mask"]
    z = torch.randn(len(x), 16)
    logits = model.discriminate(x, real, z)
    assert logits.shape == (*x.shape, 2)

    d = model.discriminator
    words = d.embeddings.word_embeddings(x) + d.embeddings.token_type_embeddings.weight[0]
    words = d.embeddings.LayerNorm(words + d.embeddings.position_embeddings.weight[1 : x.shape[1] + 1])
    hidden = torch.cat([z[:, None], words], 1)
    mask = torch.cat([torch.ones(len(x), 1), real], 1)
    additive = (1 - mask)[:, None, None] * torch.finfo(torch.float32).min
    for layer in d.encoder.layer:
        out = layer(hidden, attention_mask=additive)
        hidden = out[0] if isinstance(out, tuple) else out
    torch.testing.assert_close(logits[real.bool()], model.head(hidden[:, 1:])[real.bool()], rtol=1e-4, atol=1e-5)


def test_generator_dropout_changes_the_edits():
    def edits(**choices):
        model = make(dropout=0.5, sampling="argmax", edit_scope="all", **BASE, **choices)
        x = torch.cat([batch()["input_ids"]] * 2)
        real = torch.cat([batch()["attention_mask"]] * 2)
        draws = [model.edit(x, real, step=0, rows_R=both_views(4)).ids for _ in range(2)]
        return torch.equal(*draws), model.generator.training

    assert edits(generator_dropout=False) == (True, False)
    assert edits(generator_dropout=True) == (False, True)


def test_generator_never_changes_in_training():
    model = make(**BASE)
    before = {name: value.clone() for name, value in model.generator.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for step in range(3):
        optimizer.zero_grad()
        model(batch(), step=step).total.backward()
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in model.generator.state_dict().items())


def test_generator_stays_in_eval_under_train():
    model = make(**BASE)
    assert model.training
    assert model.discriminator.training
    assert not any(module.training for module in model.generator.modules())
    assert not model.eval().encoder.training


def test_rows_keep_their_edits_wherever_they_are_processed():
    """A shard of the batch that knows its first row edits its sentences as the whole batch would."""
    model = make(**BASE)
    whole = batch()
    x, real = whole["input_ids"], whole["attention_mask"]
    edits = model.edit(x, real, step=2, rows_R=row_numbers(0, 4, 0, x.device))
    shard = model.edit(x[2:], real[2:], step=2, rows_R=row_numbers(2, 2, 0, x.device))
    assert torch.equal(edits.ids[2:], shard.ids)
    assert torch.equal(edits.chosen[2:], shard.chosen)


def test_parts_must_fit():
    config = BertConfig(**SIZES)
    f, wide = BertModel(config), BertModel(BertConfig(**{**SIZES, "hidden_size": 8, "num_attention_heads": 2}))
    with pytest.raises(InputError, match="hidden size 8"):
        DiffCSE(f, FAMILIES["bert"][4], Method(), generator=BertForMaskedLM(config), discriminator=wide)
    with pytest.raises(InputError, match="needs a discriminator"):
        DiffCSE(f, FAMILIES["bert"][4], Method(), generator=BertForMaskedLM(config))
    with pytest.raises(InputError, match="need a frozen masked language model"):
        DiffCSE(f, FAMILIES["bert"][4], Method(), discriminator=BertModel(config))


def test_trained_state_holds_everything_but_the_generator():
    model = make(**BASE)
    names = set(model.trained_state())
    assert not any(name.startswith("generator.") for name in names)
    assert {name for name, p in model.named_parameters() if p.requires_grad} <= names
    assert "projector.1.running_mean" in names


def test_random_start_is_decided_by_the_seed_alone():
    torch.manual_seed(1)
    a = make(seed=3)
    torch.manual_seed(2)
    b = make(seed=3)
    assert torch.equal(a.head.weight, b.head.weight)
    assert torch.equal(a.projector[0].weight, b.projector[0].weight)
    assert not torch.equal(a.head.weight, make(seed=4).head.weight)


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().choices.temperature = 1.0


@pytest.mark.parametrize("task", TASKS)
def test_weights_are_saved_once_and_come_back(task, tmp_path):
    """Also where D's vocabulary head is tied to its embeddings; generators are left out."""
    model, other = (make(dropout=0.0, seed=seed, **BASE, **TASKS[task]) for seed in (0, 7))
    with torch.no_grad():
        model.encoder.get_input_embeddings().weight.add_(0.1)
    state = model.trained_state()
    places = [value.data_ptr() for value in state.values() if value.numel() > 1]
    assert len(places) == len(set(places)), "tied weights once"
    assert not any("generator" in name for name in state)
    assert {id(p) for p in model.parameters() if p.requires_grad} <= {
        id(p) for name, p in model.named_parameters() if name in state
    }
    save_weights(state, tmp_path / "weights.safetensors")
    load_weights(other.trained_state(), tmp_path / "weights.safetensors")
    if model.discriminator.get_output_embeddings() is not None:
        assert other.discriminator.get_output_embeddings().weight is other.discriminator.get_input_embeddings().weight
    assert all(torch.equal(value, other.trained_state()[name]) for name, value in state.items())
    other.seed = model.seed
    for mine, theirs in ((model.generator, other.generator), (model.causal_generator, other.causal_generator)):
        if mine is not None:
            assert not torch.equal(mine.get_input_embeddings().weight, theirs.get_input_embeddings().weight)
            theirs.load_state_dict(mine.state_dict())
    assert torch.equal(model(PLAIN, step=0).total, other(PLAIN, step=0).total)
