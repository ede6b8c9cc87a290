"""With LoRA only the adapter and the training-only parts learn; what ships is a plain model with the same output."""

import sys

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

from diffcse.config import Method
from diffcse.encoder.encode import Encoder
from diffcse.encoder.load import load
from diffcse.encoder.save import save
from diffcse.errors import InputError
from diffcse.method.adapters import merged, unwrap
from diffcse.method.build import build
from tests.models import SENTENCES, save_tiny, tiny_model

peft = pytest.importorskip("peft")
LORA = {"r": 4, "lora_alpha": 16, "target_modules": "all-linear", "lora_dropout": 0.1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"), "bert")


def by_rank(folder):
    return build(Method(model=str(folder), rtd_weight=0.5, lora_rank=4))


def wrapped(folder):
    model, tokenizer = tiny_model("bert", masked_lm=False)
    encoder = peft.get_peft_model(model, peft.LoraConfig(**LORA))
    return build(Method(rtd_weight=0.5), encoder=encoder, tokenizer=tokenizer, generator=folder)


def injected(folder):
    model, tokenizer = tiny_model("bert", masked_lm=False)
    model.add_adapter(peft.LoraConfig(**LORA))
    return build(Method(rtd_weight=0.5), encoder=model, tokenizer=tokenizer, generator=folder)


def train(module, tokenizer, steps=3):
    batch = tokenizer(SENTENCES[:8], padding=True, return_tensors="pt")
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-2)
    for step in range(steps):
        module.train()(batch, step=step).total.backward()
        optimizer.step()
        optimizer.zero_grad()
    module.eval()


WAYS = [by_rank, wrapped, injected]


@pytest.mark.parametrize("way", WAYS)
def test_only_the_adapter_and_the_training_only_parts_change(folder, way):
    module, tokenizer = way(folder)
    before = {name: value.clone() for name, value in module.named_parameters()}
    train(module, tokenizer)
    changed = {name for name, value in module.named_parameters() if not torch.equal(value, before[name])}
    assert {name for name in changed if name.startswith("encoder.")} == {
        name for name in before if name.startswith("encoder.") and "lora_" in name
    }
    assert len([name for name in before if "lora_A" in name]) == 12  # six linear layers in each of two
    assert not [name for name in before if "lora_" in name and not name.startswith("encoder.")]
    assert {name.split(".")[0] for name in changed} == {"encoder", "projector", "discriminator", "head"}
    names = {name.removeprefix("discriminator.") for name in changed if name.startswith("discriminator.")}
    assert any("word_embeddings" in name for name in names)
    assert any("query" in name for name in names)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pooling", ["cls", "first_last"])
def test_the_saved_folder_is_plain_and_gives_the_adapted_embeddings(folder, tmp_path, way, pooling):
    module, tokenizer = way(folder)
    train(module, tokenizer)
    encoder = Encoder(module.encoder, tokenizer, pooling, 64)
    adapted = encoder(SENTENCES[:9])
    save(encoder, tmp_path / "out", "")
    assert not list(tmp_path.rglob("adapter*"))
    np.testing.assert_allclose(load(tmp_path / "out")(SENTENCES[:9]), adapted, atol=1e-5)
    stock = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    np.testing.assert_allclose(stock.encode(SENTENCES[:9]), adapted, atol=1e-5)
    assert set(load(tmp_path / "out").model.state_dict()) == set(
        tiny_model("bert", masked_lm=False)[0].state_dict()
    ) - {
        "pooler.dense.weight",
        "pooler.dense.bias",
    }
    assert np.abs(adapted - load(folder, pooling=pooling)(SENTENCES[:9])).max() > 0.05
    np.testing.assert_array_equal(encoder(SENTENCES[:9]), adapted)  # saving left the adapter where it was
    train(module, tokenizer, 1)


def test_the_start_is_the_checkpoints_own_embedding_and_the_seed_decides_the_adapter(folder):
    module, tokenizer = by_rank(folder)
    encoder = Encoder(module.encoder, tokenizer, "cls", 64)
    np.testing.assert_allclose(encoder(SENTENCES[:5]), load(folder, pooling="cls")(SENTENCES[:5]), atol=1e-6)
    torch.manual_seed(3)
    again, _ = by_rank(folder)
    for (name, one), (_, other) in zip(module.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    other, _ = build(Method(model=str(folder), lora_rank=4), seed=1)
    assert not torch.equal(
        next(v for n, v in module.named_parameters() if "lora_A" in n),
        next(v for n, v in other.named_parameters() if "lora_A" in n),
    )


@pytest.mark.parametrize("family", ["roberta", "distilbert", "mpnet", "electra", "deberta-v2", "modernbert"])
def test_other_architectures(tmp_path, family):
    module, tokenizer = by_rank(save_tiny(tmp_path / "plain", family))
    train(module, tokenizer, 2)
    encoder = Encoder(module.encoder, tokenizer, "cls", 64)
    save(encoder, tmp_path / "out", "")
    np.testing.assert_allclose(load(tmp_path / "out")(SENTENCES[:9]), encoder(SENTENCES[:9]), atol=1e-4)
    assert all("lora_" in name for name, p in module.encoder.named_parameters() if p.requires_grad)


def test_a_model_without_adapters_is_left_as_it_is():
    model, _ = tiny_model("bert", masked_lm=False)
    assert merged(model) is model
    assert unwrap(model) is model


def test_an_adapter_that_is_not_to_be_trained():
    model, tokenizer = tiny_model("bert", masked_lm=False)
    encoder = peft.get_peft_model(model, peft.LoraConfig(**LORA, inference_mode=True))
    with pytest.raises(InputError, match="is_trainable=True"):
        build(Method(difference="none"), encoder=encoder, tokenizer=tokenizer)


def test_without_peft(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r'method.lora_rank = 4 needs the package peft: pip install "diffcse\[peft\]"'):
        by_rank(folder)
    module, tokenizer = build(Method(model=str(folder)))
    assert Encoder(module.encoder, tokenizer, "cls", 64)(["a"]).shape == (1, 32)
    assert merged(module.encoder) is module.encoder


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_that_is_none(rank):
    with pytest.raises(InputError, match=r"method\.lora_rank"):
        Method(lora_rank=rank)
