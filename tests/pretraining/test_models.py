"""Continuing from a given model, and averaging with its weights."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from diffcse.errors import InputError
from diffcse.method.loading import load_generator
from diffcse.pretraining import batches, losses, models
from diffcse.pretraining.config import Pretraining
from diffcse.pretraining.run import pretrain
from diffcse.record import read_record
from diffcse.text.corpus import Corpus
from tests.models import SENTENCES, save_tiny
from tests.pretraining.texts import CORPUS, DOCUMENTS, begun, tiny, weights_of


@pytest.mark.parametrize("style", ["bert", "roberta"])
def test_going_on_from_a_model_begins_with_its_weights_head_and_vocabulary(tmp_path, style):
    start = save_tiny(tmp_path / "start", style, hidden=16)
    corpus = Corpus.from_sentences(SENTENCES, documents=True)
    config = Pretraining(
        model=str(start), max_steps=1, max_tokens=16, held_out=8, batch_tokens=64, learning_rate=1e-12,
        precision="fp32", store="fp32", next_weight=0.5,
    )  # fmt: skip
    made = pretrain(config, corpus, tmp_path / "out")
    before, after = load_generator(start), load_generator(tmp_path / "out" / "model")
    assert type(before) is type(after)
    same = dict(before.named_parameters())
    assert all(torch.allclose(value, same[name], atol=1e-6) for name, value in after.named_parameters())
    # What is measured is the loss of the model as others run it.
    ids = made.tokenizer(SENTENCES[:3], return_tensors="pt", padding=True)
    where = ids["attention_mask"].bool()
    group = batches.Group(ids["input_ids"], where, ids["input_ids"][where], ids["attention_mask"])
    logits = before(**ids).logits[where]
    assert torch.allclose(models.head_of(after)(after.base_model(**ids).last_hidden_state[where]), logits, atol=1e-5)
    assert losses.cross_entropy(after, group)[0].isfinite()
    assert str(tmp_path) not in (tmp_path / "out" / "model" / "README.md").read_text()
    assert "Pretrained from `start`" in (tmp_path / "out" / "model" / "README.md").read_text()
    assert all(warning.startswith("held_out_loss") for warning in made.record.warnings)  # weights of no training


def test_going_on_learns_and_resumes_as_from_scratch(tmp_path):
    pretrain(tiny(max_steps=20), CORPUS, tmp_path / "first")
    config = tiny(model=str(tmp_path / "first" / "model"), dropout=0.1, store="fp32", max_steps=20, layers=7)
    whole = pretrain(config, CORPUS, tmp_path / "whole")
    assert whole.model.config.num_hidden_layers == 1
    # At most what tiny() changes beside the defaults.
    assert "layers" in whole.record.warnings[0]
    first = read_record(tmp_path / "first" / "run.json").scores["held_out_loss"]
    assert whole.record.scores["held_out_loss"] < first - 0.1
    assert not any("start_held_out_loss" in warning for warning in whole.record.warnings)
    worse = pretrain(dataclasses.replace(config, learning_rate=0.5, max_steps=2), CORPUS, tmp_path / "worse").record
    assert worse.scores["held_out_loss"] > worse.scores["start_held_out_loss"]
    assert any("start_held_out_loss" in warning for warning in worse.warnings)
    # What going on brought can be told: the start was measured with the same masks on the same sentences.
    assert whole.record.scores["start_held_out_loss"] == pytest.approx(first, abs=0.01)
    assert "of `model` is in its own card" in (tmp_path / "whole" / "model" / "README.md").read_text()
    begun(config, tmp_path / "killed", complete=False, corpus=CORPUS)
    pretrain(config, CORPUS, tmp_path / "killed", resume=True)
    one, other = weights_of(tmp_path / "whole"), weights_of(tmp_path / "killed")
    assert all(torch.equal(one[name], other[name]) for name in one)


AVERAGED = {
    "masked": ("bert", tiny(max_steps=20, store="fp32"), CORPUS),
    "next, in fp16": ("bert", tiny(max_steps=20, store="fp16", next_weight=0.5, next_reads="cls"), DOCUMENTS),
    "roberta": ("roberta", tiny(max_steps=20, store="fp32"), CORPUS),
}


@pytest.mark.parametrize("kind", AVERAGED)
def test_averaged_with_its_start_it_keeps_that_share_of_every_weight(tmp_path, kind):
    style, config, corpus = AVERAGED[kind]
    config = dataclasses.replace(config, model=str(save_tiny(tmp_path / "first", style, hidden=16)))
    shared = dataclasses.replace(config, start_share=0.25)
    plain = pretrain(config, corpus, tmp_path / "plain")
    averaged = pretrain(shared, corpus, tmp_path / "averaged")
    trained, kept = weights_of(tmp_path / "plain"), weights_of(tmp_path / "averaged")
    start = load_file(tmp_path / "first" / "model.safetensors")
    tolerance = 1e-6 if config.store == "fp32" else 1e-3
    assert any(not torch.allclose(trained[name].float(), start[name], atol=1e-2) for name in kept)
    for name, weight in kept.items():
        expected = 0.75 * trained[name].float() + 0.25 * start[name]
        assert torch.allclose(weight.float(), expected, atol=tolerance), name
    # What is measured is what is saved, not what was trained.
    assert averaged.record.scores["held_out_loss"] != plain.record.scores["held_out_loss"]
    assert pretrain(shared, corpus, tmp_path / "averaged", resume=True).record.scores == averaged.record.scores
    assert "a share of 0.25" in (tmp_path / "averaged" / "model" / "README.md").read_text()
    begun(shared, tmp_path / "killed", complete=False, corpus=corpus)
    pretrain(shared, corpus, tmp_path / "killed", resume=True)
    assert all(torch.equal(weight, kept[name]) for name, weight in weights_of(tmp_path / "killed").items())


def test_models_to_go_on_from_that_cannot_be(tmp_path):
    headless = save_tiny(tmp_path / "headless", "bert", masked_lm=False)
    with pytest.raises(InputError, match="headless"):
        pretrain(tiny(model=str(headless)), CORPUS, tmp_path / "a")
    pretrain(tiny(max_steps=1), CORPUS, tmp_path / "a")  # and the folder is free for the mended command
    other = save_tiny(tmp_path / "distil", "distilbert")
    with pytest.raises(InputError, match=r"model = .*distil: DistilBertForMaskedLM"):
        pretrain(tiny(model=str(other), held_out=8), Corpus.from_sentences(SENTENCES), tmp_path / "b")
    short = save_tiny(tmp_path / "short", "bert", positions=32)
    with pytest.raises(InputError, match=r"max_tokens = 64: .*short"):
        pretrain(tiny(model=str(short), max_tokens=64), CORPUS, tmp_path / "c")
    with pytest.raises(InputError, match="model = "):
        tiny(model="mini", objective="causal")
    with pytest.raises(InputError, match="tokenizer = "):
        tiny(model="mini", tokenizer="mini")
