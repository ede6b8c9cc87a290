"""The twin multiplies in bf16, shares what it does not change, and leaves the model alone."""

import numpy as np
import pytest
import torch
from torch import nn

from diffcse.encoder.encode import Encoder
from diffcse.encoder.load import load
from diffcse.encoder.lowered import lowered
from diffcse.method.fast import ability
from tests.models import FAMILIES, SENTENCES, save_with_pooler, tiny_model

TEXTS = [*SENTENCES, "", "the cat " * 100]


def cosines(u, v):
    return (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_cosines_of_the_bundled_model(pooling):
    mini = load("mini", pooling=pooling)
    exact, fast = mini(TEXTS), mini(TEXTS, bf16=True)
    assert cosines(exact, fast).min() > 0.9999
    assert not np.array_equal(exact, fast)


@pytest.mark.parametrize("family", [*FAMILIES, "albert", "deberta-v2", "modernbert"])
@pytest.mark.filterwarnings("ignore:.*runs padded")
def test_every_family_runs(family):
    model, tokenizer = tiny_model(family, masked_lm=False)
    encoder = Encoder(model, tokenizer, "mean", 64)
    assert cosines(encoder(TEXTS), encoder(TEXTS, bf16=True)).min() > 0.999


def test_the_pooler_head(tmp_path):
    encoder = load(save_with_pooler(tmp_path, "bert"), pooling="pooler")
    assert cosines(encoder(TEXTS), encoder(TEXTS, bf16=True)).min() > 0.999


def test_a_call_takes_the_weights_as_they_are_now():
    model, tokenizer = tiny_model("bert", masked_lm=False)
    encoder = Encoder(model, tokenizer, "mean", 64)
    before = encoder(TEXTS[:9], bf16=True)
    model.encoder.layer[0].intermediate.dense.weight.data.mul_(0.5)  # as an optimiser may; no counter sees it
    after, exact = encoder(TEXTS[:9], bf16=True), encoder(TEXTS[:9])
    assert cosines(after, exact).min() > 0.999
    assert cosines(after, before).max() < 0.9999


def test_the_model_stays_as_it_is():
    model, _ = tiny_model("bert", masked_lm=False, dropout=0.5)
    model.train()
    names, weights = [*model.state_dict()], [p.clone() for p in model.parameters()]
    twin = lowered(model, torch.bfloat16)
    assert model.training
    assert not any(module.training for module in twin.modules())
    assert [*model.state_dict()] == names
    assert all(p.dtype == torch.float32 and torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
    assert sum(isinstance(module, nn.Linear) for module in model.modules()) > 12
    assert not any(type(module) is nn.Linear for module in twin.modules())
    assert twin.embeddings.word_embeddings.weight is model.embeddings.word_embeddings.weight


def test_it_runs_packed_where_the_model_does():
    model, _ = tiny_model("bert", masked_lm=False)
    twin = lowered(model, torch.bfloat16)
    assert ability(twin).packs
    projections = ability(twin).projections
    assert [m for m in twin.modules() if m in projections] == list(projections) != []


def test_without_onednn(monkeypatch):
    mini = load("mini", pooling="mean")
    fast = mini(SENTENCES, bf16=True)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert cosines(fast, mini(SENTENCES, bf16=True)).min() > 0.9999
