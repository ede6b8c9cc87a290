"""Pretraining from corpus to folder."""

import itertools
import json
import math
import re

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from diffcse.config import Method
from diffcse.errors import InputError
from diffcse.method.build import build
from diffcse.method.loading import check_same_vocabulary, load_encoder, load_generator, load_tokenizer
from diffcse.pretraining.run import pretrain
from diffcse.record import read_record
from diffcse.text.corpus import Corpus
from tests.models import SENTENCES, assert_close, save_tiny, tiny_tokenizer
from tests.pretraining.texts import CORPUS, DOCUMENTS, TEXT, TINY, tiny, weights_of


@pytest.mark.parametrize("objective", ["mlm", "causal"])
def test_learns_more_than_how_frequent_words_are(tmp_path, objective):
    config = tiny(objective=objective, max_steps=150, width=32, eval_every=75, checkpoint_every=1000)
    made = pretrain(config, CORPUS, tmp_path / "out", license_note="our own")
    out = tmp_path / "out"
    assert sorted(p.name for p in out.iterdir()) == ["log.jsonl", "model", "recipe.toml", "run.json"]
    record = read_record(out / "run.json")
    assert (record.kind, record.status) == ("pretrain", "complete")
    scores = record.scores
    assert scores["unigram_loss"] < math.log(config.vocabulary)
    assert scores["held_out_loss"] < scores["unigram_loss"] - 0.5
    assert scores["held_out_accuracy"] > 0.2
    assert [entry["step"] for entry in record.log if "held_out_loss" in entry] == [75]
    assert [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()] == record.log
    assert record.log[-1]["tokens"] == scores["tokens_seen"]
    card = (out / "model" / "README.md").read_text()
    assert CORPUS.sha256 in card
    assert "our own" in card
    # What was measured is what was stored, in half the bytes.
    weights = load_file(out / "model" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    stored = dict(made.model.named_parameters())
    assert all(torch.equal(weights[name].float(), stored[name]) for name in stored)


def test_masked_model_is_encoder_start_and_generator(tmp_path):
    made = pretrain(tiny(), CORPUS, tmp_path / "out")
    folder = tmp_path / "out" / "model"
    generator = load_generator(folder)
    ids = made.tokenizer([TEXT[0], TEXT[-1]], return_tensors="pt", padding=True)
    assert torch.allclose(generator(**ids).logits, made.model(**ids).logits, atol=1e-5)
    assert load_encoder(folder).config.hidden_dropout_prob == 0.1  # contrastive views must differ
    assert load_tokenizer(folder).model_max_length == TINY.positions

    model, _ = build(Method(model=str(folder)))
    assert model.generator is not None


def test_causal_model_predicts_each_token_from_those_before(tmp_path):
    pretrain(tiny(objective="causal"), CORPUS, tmp_path / "out")
    folder = tmp_path / "out" / "model"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer([TEXT[0], "the car"], return_tensors="pt", padding=True)
    assert ids["input_ids"][0, 0] == model.config.bos_token_id == tokenizer.cls_token_id
    alone = tokenizer("the car", return_tensors="pt")
    length = alone["input_ids"].shape[1]
    # Padding on the right changes nothing, and neither does a token that comes later.
    assert_close(model(**ids).logits[1, :length], model(**alone).logits[0])
    later = alone["input_ids"].clone()
    later[0, -1] = 7
    assert_close(model(input_ids=later).logits[0, :-1], model(**alone).logits[0, :-1])


def test_seed_decides_everything(tmp_path):
    runs = [pretrain(tiny(seed=seed), CORPUS, tmp_path / str(i)) for i, seed in enumerate((1, 1, 2))]
    one, same, other = (weights_of(tmp_path / str(i))["bert.embeddings.word_embeddings.weight"] for i in range(3))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert runs[0].record.scores == runs[1].record.scores


def test_next_sentences_are_learned_as_far_as_they_are_weighed(tmp_path):
    pace = {"max_steps": 60, "log_every": 20, "eval_every": 1000, "checkpoint_every": 1000, "batch_tokens": 512}
    logs = {}
    for weight in (1e-6, 1.0):
        made = pretrain(tiny(next_weight=weight, **pace), DOCUMENTS, tmp_path / str(weight))
        logs[weight] = [entry["next_loss"] for entry in made.record.log]
        assert made.record.scores["held_out_loss"] < made.record.scores["unigram_loss"]
        lines = (tmp_path / str(weight) / "log.jsonl").read_text().splitlines()
        assert [json.loads(line)["next_loss"] for line in lines] == logs[weight]
    # Two families: who knows them has half the others to choose among.
    assert logs[1.0][-1] < logs[1.0][0] - 0.1
    assert logs[1.0][-1] < logs[1e-6][-1] - 0.3


def test_sums_of_token_vectors_are_come_near_as_far_as_they_are_weighed(tmp_path):
    last = {}
    for weight in (1e-6, 30.0):
        config = tiny(next_weight=1e-6, sums_weight=weight, start_embeddings="next_sentences", max_steps=40)
        made = pretrain(config, DOCUMENTS, tmp_path / str(weight))
        last[weight] = [entry["sums_loss"] for entry in made.record.log if "sums_loss" in entry][-1]
    assert last[30.0] < 0.5 * last[1e-6]


@pytest.mark.parametrize("style", ["bert", "roberta"])
def test_given_tokenizer_keeps_its_ids(tmp_path, style):
    encoder = save_tiny(tmp_path / "encoder", style, masked_lm=False)
    corpus = Corpus.from_sentences(SENTENCES)
    pretrain(tiny(tokenizer=str(encoder), held_out=8), corpus, tmp_path / "out")
    folder = tmp_path / "out" / "model"
    given = tiny_tokenizer("bert" if style == "bert" else "roberta")
    check_same_vocabulary(given, load_tokenizer(folder), "encoder", "generator")
    assert load_tokenizer(folder)(SENTENCES[3])["input_ids"] == given(SENTENCES[3])["input_ids"]
    generator = load_generator(folder)
    assert generator.config.pad_token_id == given.pad_token_id

    model, _ = build(Method(model=str(encoder), generator=str(folder)))
    assert model.generator is not None
    assert str(tmp_path) not in (folder / "README.md").read_text()


CHINESE = [
    f"{who}{when}{where}{what}。"
    for who, when, where, what in itertools.product(
        ("我", "他们", "老师", "妈妈"),
        ("今天", "昨天晚上", "明天早上"),
        ("在家里", "在学校", "在公园里", "在图书馆"),
        ("看书", "吃饭", "跟朋友说话", "等小狗", "听音乐"),
    )
]


def test_chinese_text(tmp_path):
    corpus = Corpus.from_sentences(CHINESE)
    made = pretrain(tiny(vocabulary=43, held_out=20, max_steps=60, checkpoint_every=1000), corpus, tmp_path / "out")
    assert made.tokenizer.tokenize("老师今天看书。") == list("老师今天看书。")
    assert made.tokenizer.unk_token_id not in made.tokenizer(CHINESE)["input_ids"][0]
    assert made.record.scores["held_out_loss"] < made.record.scores["unigram_loss"] - 0.3


BAD = {
    "--vocabulary": {"vocabulary": 5000},
    "held_out = 500": {"held_out": 500},
    "the loss is (nan|inf)": {"learning_rate": 1e18, "max_grad_norm": 1e18, "max_steps": 30},
    r"read_corpus\(\.\.\., documents=True\)": {"next_weight": 0.1},
    "start_embeddings = next_sentences": {"start_embeddings": "next_sentences"},
}


@pytest.mark.parametrize("says", list(BAD))
def test_what_cannot_be_done_is_said(tmp_path, says):
    with pytest.raises(InputError, match=says):
        pretrain(tiny(**BAD[says]), CORPUS, tmp_path / "out")
    assert not (tmp_path / "out" / "model").exists()


def test_a_folder_takes_one_run_at_a_time(tmp_path):
    def second(event, facts):
        if event == "log":
            with pytest.raises(InputError, match="another process is writing there"):
                pretrain(TINY, CORPUS, tmp_path / "out", resume=True)

    pretrain(TINY, CORPUS, tmp_path / "out", report=second)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "log.jsonl",
        "model",
        "recipe.toml",
        "run.json",
    ]


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_model_that_learned_nothing_says_so(tmp_path, share):
    save_tiny(tmp_path / "first", "bert", hidden=16)
    config = tiny(model=str(tmp_path / "first"), max_steps=1, learning_rate=1e-9, start_share=share)
    *_, last = pretrain(config, CORPUS, tmp_path / "out").record.warnings
    assert re.match(r"held_out_loss .* unigram_loss", last)
    assert ("--start-share" in last) == (share > 0)
    assert read_record(tmp_path / "out" / "run.json").warnings[-1] == last
    learned = pretrain(tiny(max_steps=150, width=32), CORPUS, tmp_path / "learned").record.warnings
    assert not any(warning.startswith("held_out_loss") for warning in learned)


def test_fields_without_effect_are_warned_about(tmp_path):
    made = pretrain(tiny(objective="causal", mask_ratio=0.9, max_steps=1), CORPUS, tmp_path / "out")
    assert "mask_ratio" in made.record.warnings[0]
