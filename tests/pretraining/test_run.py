"""Pretraining from corpus to folder: that it learns, from what it may, and ends the same after a kill."""

import contextlib
import dataclasses
import itertools
import json
import math
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer

from diffcse.config import Method, Text
from diffcse.encoder.encode import Encoder
from diffcse.encoder.load import load
from diffcse.errors import InputError
from diffcse.method.build import build, check_same_vocabulary, load_encoder, load_generator, load_tokenizer
from diffcse.pretraining import run as module
from diffcse.pretraining.config import Pretraining, load_pretraining
from diffcse.pretraining.run import Batches, Pairs, following_pairs, pretrain, rate, split
from diffcse.record import Record, read_record
from diffcse.text.corpus import Corpus
from tests.models import SENTENCES, save_tiny, tiny_tokenizer

# Eight hundred sentences of two families whose words never mix: half a sentence tells of the other half.
TEXT = [
    f"the {a} {b} {c} the {d}"
    for family in (
        ("red blue old small big", "car train boat ship bus", "passes leaves reaches meets", "town road bridge river"),
        (
            "young tall kind happy wise",
            "man girl boy king queen",
            "greets helps likes sees",
            "mother friend guest child",
        ),
    )
    for a, b, c, d in itertools.product(*map(str.split, family))
]
CORPUS = Corpus.from_sentences(TEXT)


def documents():
    """TEXT in documents of one to six sentences of one family, an empty line after each."""
    random, lines = np.random.default_rng(0), []
    for family in random.integers(0, 2, 300):
        chosen = random.integers(0, len(TEXT) // 2, random.integers(1, 7)) + family * len(TEXT) // 2
        lines += [*(TEXT[i] for i in chosen), ""]
    return lines


LINES = documents()
DOCUMENTS = Corpus.from_sentences(LINES, documents=True)
TINY = Pretraining(
    vocabulary=120,
    layers=1,
    width=16,
    heads=2,
    intermediate=32,
    positions=32,
    max_tokens=16,
    batch_tokens=256,
    max_steps=6,
    learning_rate=1e-2,
    held_out=40,
    precision="fp32",
    log_every=2,
    eval_every=3,
    checkpoint_every=2,
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def tiny(**fields):
    return dataclasses.replace(TINY, **fields)


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
    from diffcse.config import Method

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
    assert torch.allclose(model(**ids).logits[1, :length], model(**alone).logits[0], atol=1e-5)
    later = alone["input_ids"].clone()
    later[0, -1] = 7
    assert torch.allclose(model(input_ids=later).logits[0, :-1], model(**alone).logits[0, :-1], atol=1e-5)


@pytest.mark.parametrize("objective", ["mlm", "causal"])
def test_head_at_predicted_positions_gives_the_loss_and_gradient_of_the_full_head(tmp_path, monkeypatch, objective):
    made = pretrain(tiny(objective=objective, max_steps=1), CORPUS, tmp_path / "out")
    model = made.model.train()
    ids = made.tokenizer(TEXT[:6], return_tensors="pt")["input_ids"]
    vocabulary = module.read_vocabulary(made.tokenizer)
    group = (
        module.causal_group(ids)
        if objective == "causal"
        else module.mlm_group(ids, vocabulary, 0.3, (1, 2), torch.arange(6))
    )

    logits = model(input_ids=group.inputs).logits
    if objective == "causal":
        full = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    else:
        labels = torch.where(group.where, ids, -100)
        full = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    model.zero_grad()
    (full / 3).backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    monkeypatch.setattr(module, "_HEAD_ROWS", 5)
    assert module.backward(model, group, 1 / 3).item() == pytest.approx(full.item(), rel=1e-5)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert torch.allclose(found[name], gradient, atol=1e-5), name
    assert module.cross_entropy(model, group)[0].item() == pytest.approx(full.item(), rel=1e-5)


def test_held_out_sentences_are_never_trained_on(tmp_path, monkeypatch):
    held_out, trained_on = split(len(CORPUS), 40, 42)
    assert len(held_out) == 40
    assert sorted([*held_out, *trained_on]) == list(range(len(CORPUS)))
    assert not np.array_equal(held_out, split(len(CORPUS), 40, 43)[0])
    seen = []
    original = Batches.__getitem__

    def spy(self, step):
        groups = original(self, step)
        if len(self.sentences) > 40:
            seen.extend(np.concatenate(groups))
        return groups

    monkeypatch.setattr(Batches, "__getitem__", spy)
    read = []
    monkeypatch.setattr(
        module, "train_wordpiece", lambda text, *a, **b: (read.extend(text := list(text)), _wordpiece(text, *a, **b))[1]
    )
    pretrain(tiny(max_steps=None, epochs=1.0), CORPUS, tmp_path / "out")
    assert sorted(seen) == list(trained_on)
    assert not {CORPUS[int(i)] for i in held_out} & set(read)


_wordpiece = module.train_wordpiece


def test_batches_hold_every_sentence_once_an_epoch_in_groups_of_one_length(monkeypatch):
    monkeypatch.setattr(module, "_GROUP_TOKENS", 40)
    lengths = np.random.default_rng(0).integers(3, 12, 500)
    sentences = np.arange(0, 500, 2)
    batches = Batches(lengths, sentences, 120, seed=1)
    epochs = [[batches[e * batches.per_epoch + i] for i in range(batches.per_epoch)] for e in range(2)]
    for epoch in epochs:
        groups = [group for step in epoch for group in step]
        assert sorted(np.concatenate(groups)) == list(sentences)
        assert all(len(set(lengths[group])) == 1 for group in groups)
        assert all(len(group) * lengths[group[0]] <= 40 for group in groups)
        assert max(map(len, epoch)) == 3
    assert [list(g) for s in epochs[0] for g in s] != [list(g) for s in epochs[1] for g in s]
    # Any step can be asked for first.
    again = Batches(lengths, sentences, 120, seed=1)[batches.per_epoch + 1]
    assert [list(g) for g in again] == [list(g) for g in epochs[1][1]]


def weights_of(folder):
    return load_file(folder / "model" / "model.safetensors")


RESUMED = {
    "counted": (tiny(dropout=0.1, store="fp32", start_embeddings="ppmi_svd", log_every=1), CORPUS),
    "next": (
        tiny(dropout=0.1, store="fp32", start_embeddings="next_sentences", next_weight=0.5, log_every=1),
        DOCUMENTS,
    ),
    "sums": (
        tiny(
            store="fp32",
            start_embeddings="next_sentences",
            next_weight=0.1,
            next_reads="cls",
            sums_weight=5.0,
            log_every=1,
        ),
        DOCUMENTS,
    ),
}
PROGRAM = """
import os, signal, sys
from tests.pretraining.test_run import RESUMED
from diffcse.pretraining.run import pretrain
def die(event, facts):
    if event == "log" and facts["step"] == 5:
        os.kill(os.getpid(), getattr(signal, sys.argv[3]))
signal.signal(signal.SIGINT, signal.default_int_handler)
pretrain(*RESUMED[sys.argv[2]], sys.argv[1], report=die)
"""


def stop_at_the_start(event, facts):
    if event == "start":
        raise KeyboardInterrupt


@pytest.mark.parametrize("kind", list(RESUMED))
@pytest.mark.parametrize("moment", ["early", "late", "ctrl-c"])
def test_killed_and_resumed_ends_with_the_same_weights(tmp_path, moment, kind):
    config, corpus = RESUMED[kind]
    whole = pretrain(config, corpus, tmp_path / "whole")
    if moment != "early":
        name = "SIGKILL" if moment == "late" else "SIGINT"
        killed = subprocess.run([sys.executable, "-c", PROGRAM, tmp_path / "killed", kind, name], capture_output=True)
        assert killed.returncode == -getattr(signal, name), killed.stderr.decode()
    else:
        with pytest.raises(KeyboardInterrupt):
            pretrain(config, corpus, tmp_path / "killed", report=stop_at_the_start)
    assert not (tmp_path / "killed" / "model").exists()
    said = "stopped" if moment == "ctrl-c" else "running"
    assert read_record(tmp_path / "killed" / "run.json").status == said
    events = []
    resumed = pretrain(
        config, corpus, tmp_path / "killed", resume=True, report=lambda event, facts: events.append((event, facts))
    )
    # Ctrl-C comes while the fifth step is logged; every fourth leaves a checkpoint anyway.
    left = {"early": None, "late": "step-00000004", "ctrl-c": "step-00000005"}
    assert dict(events)["start"]["resumed"] == left[moment]
    one, other = weights_of(tmp_path / "whole"), weights_of(tmp_path / "killed")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    timeless = [
        [{k: v for k, v in entry.items() if k != "tokens_per_second"} for entry in made.record.log]
        for made in (whole, resumed)
    ]
    assert timeless[0] == timeless[1]
    assert whole.record.scores == resumed.record.scores
    # Complete: asked again, it opens what is there.
    events.clear()
    again = pretrain(
        config, corpus, tmp_path / "killed", resume=True, report=lambda event, facts: events.append((event, facts))
    )
    assert again.record.log == resumed.record.log
    assert [event for event, _ in events] == ["corpus", "finished"]
    with pytest.raises(InputError, match="seed"):
        pretrain(dataclasses.replace(config, seed=1), corpus, tmp_path / "killed", resume=True)
    with pytest.raises(InputError, match="other text"):
        pretrain(config, Corpus.from_sentences(LINES[3:], documents=True), tmp_path / "killed", resume=True)


def test_seed_decides_everything(tmp_path):
    runs = [pretrain(tiny(seed=seed), CORPUS, tmp_path / str(i)) for i, seed in enumerate((1, 1, 2))]
    one, same, other = (weights_of(tmp_path / str(i))["bert.embeddings.word_embeddings.weight"] for i in range(3))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert runs[0].record.scores == runs[1].record.scores


def test_start_embeddings_are_the_counted_vectors(tmp_path, monkeypatch):
    started, counted = {}, {}
    monkeypatch.setattr(module._Run, "train", lambda self, _: started.update(weight=_rows(self.model)))
    for start in ("none", "ppmi_svd"):
        monkeypatch.setattr(module, "_round_to_half", lambda *_: None)
        pretrain(tiny(start_embeddings=start, vocabulary=150), CORPUS, tmp_path / start)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / start / "model")
        assert tokenizer.unk_token_id not in tokenizer.convert_tokens_to_ids(["car", "train", "king"])
        car, train, king = (started["weight"][tokenizer.convert_tokens_to_ids(w)] for w in ("car", "train", "king"))
        alike = F.cosine_similarity(car, train, dim=0) - F.cosine_similarity(car, king, dim=0)
        counted[start] = alike.item(), car.norm().item()
    assert counted["ppmi_svd"][0] > max(0.8, counted["none"][0])
    assert counted["ppmi_svd"][1] == pytest.approx(0.02 * 4, rel=1e-3)
    assert counted["none"][1] != pytest.approx(0.02 * 4, rel=1e-3)


def _rows(model):
    return model.get_input_embeddings().weight.detach().clone()


# ---- next sentences --------------------------------------------------------------------------------------------------


def test_pairs_follow_each_other_in_one_document_and_leave_out_what_is_held_out():
    corpus = Corpus.from_sentences(["a", "b", "c", "", "d", "e", "b", "f", "", "g"], documents=True)
    a, b, c, d, e, f, g = range(7)
    found = following_pairs(corpus, np.arange(7))
    # b was read first before c: that is what follows it. f stands behind b's second coming, g alone.
    assert found.tolist() == [[a, b], [b, c], [d, e], [e, b]]
    assert following_pairs(corpus, np.array([a, b, d, e, f, g])).tolist() == [[a, b], [d, e], [e, b]]
    assert following_pairs(corpus, np.array([a, b, c, d, f, g])).tolist() == [[a, b], [b, c]]
    for trained_on in ([a, b, d, f, g], [c, f, g]):
        with pytest.raises(InputError, match="fewer than two"):
            following_pairs(corpus, np.array(trained_on))


def test_pairs_come_once_an_epoch_in_an_order_that_any_step_can_be_asked_for():
    random = np.random.default_rng(0)
    lengths = random.integers(3, 12, 600)
    pairs_P2 = np.stack([np.arange(0, 400), np.arange(1, 401)], axis=1)
    pairs = Pairs(lengths, pairs_P2, 120, seed=1)
    epochs = [[pairs[e * pairs.per_epoch + i] for i in range(pairs.per_epoch)] for e in range(2)]
    sizes = {len(step) for epoch in epochs for step in epoch}
    assert len(sizes) == 1
    (size,) = sizes
    assert size == round(120 / lengths[pairs_P2].sum(axis=1).mean())
    for epoch in epochs:
        seen = [tuple(pair) for step in epoch for pair in step]
        assert len(seen) == len(set(seen)) > 400 - size
        assert set(seen) <= {tuple(pair) for pair in pairs_P2}
    assert not np.array_equal(epochs[0], epochs[1])
    again = Pairs(lengths, pairs_P2, 120, seed=1)
    assert np.array_equal(again[pairs.per_epoch + 2], epochs[1][2])
    assert np.array_equal(again[3], epochs[0][3])
    assert not np.array_equal(Pairs(lengths, pairs_P2, 120, seed=2)[0], epochs[0][0])


@pytest.mark.parametrize(("batch_tokens", "a_step", "steps"), [(4, 2, 1), (10_000, 3, 1)])
def test_a_text_of_three_pairs(batch_tokens, a_step, steps):
    pairs = Pairs(np.array([5, 5, 5, 5]), np.array([[0, 1], [1, 2], [2, 3]]), batch_tokens, seed=0)
    assert pairs.per_epoch == steps
    assert len(pairs[0]) == len({tuple(pair) for pair in pairs[0]}) == a_step


def test_groups_of_pairs_hold_every_row_beside_others_of_its_length(monkeypatch):
    monkeypatch.setattr(module, "_GROUP_TOKENS", 60)
    lengths = np.random.default_rng(0).integers(3, 17, 300)
    numbers_R = np.random.default_rng(1).integers(0, 300, 90)  # a sentence can come twice
    groups = Pairs(lengths, np.array([[0, 1], [1, 2]]), 100, seed=0).groups(numbers_R)
    assert sorted(np.concatenate(groups)) == list(range(90))
    tokens = [lengths[numbers_R[group]].sum() for group in groups]
    # One that begins in a group's last tokens makes it longer, or the one before: by no more than itself.
    assert all(60 - 16 < total < 60 + 16 for total in tokens[:-1])
    assert tokens[-1] < 60 + 16
    spans = [(min(lengths[numbers_R[group]]), max(lengths[numbers_R[group]])) for group in groups]
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))


def in_float64(tmp_path):
    """(model, groups with their rows, sentences with their masks one by one): three pairs in two groups and a half."""
    made = pretrain(tiny(layers=2, max_steps=1), CORPUS, tmp_path / "out")
    model = made.model.double().train()
    model.set_attn_implementation("eager")
    vocabulary, groups, singles = module.read_vocabulary(made.tokenizer), [], {}
    sentences = [TEXT[0], TEXT[500], "the red car", TEXT[7], "town road", "the king likes the old queen"]
    for rows in ([4, 2], [0, 5, 1], [3]):
        inputs = made.tokenizer([sentences[row] for row in rows], return_tensors="pt", padding=True)
        ids, attention = inputs["input_ids"], inputs["attention_mask"]
        ratio = 1e-9 if rows == [3] else 0.4  # a group without a masked token
        group = module.mlm_group(ids, vocabulary, ratio, (1, 2), torch.tensor(rows), attention)
        groups.append((torch.tensor(rows), group))
        for i, row in enumerate(rows):
            real = attention[i].bool()
            singles[row] = group.inputs[i][real], ids[i][real], group.where[i][real]
    return model, groups, singles


@pytest.mark.parametrize(
    ("weight", "reads", "near", "left_out"),
    [
        (0.3, "all", 0.0, ()),
        (2.0, "all", 0.0, [(0, 2), (1, 0)]),
        (1.0, "unmasked", 0.0, ()),
        (1.0, "unmasked", 3.0, ()),
        (0.5, "cls", 3.0, ()),
    ],
)
def test_gradient_with_next_sentences_is_that_of_the_losses_written_out(
    tmp_path, monkeypatch, weight, reads, near, left_out
):
    model, groups, singles = in_float64(tmp_path)
    terms, means, wrong = [], [], 0.0
    for row in range(6):
        masked, ids, where = singles[row]
        out = model(input_ids=masked[None], output_hidden_states=True)
        read = {"all": slice(None), "unmasked": ~where, "cls": slice(1)}[reads]
        means.append(out.hidden_states[-1][0][read].mean(0))
        terms += [-torch.log_softmax(out.logits[0, t], 0)[ids[t]] for t in range(len(ids)) if where[t]]
    assert len(terms) > 5
    for i in range(3):
        own = F.cosine_similarity(means[i], means[i + 3], dim=0) / 0.07
        forth = [F.cosine_similarity(means[i], means[j + 3], dim=0) / 0.07 for j in range(3) if (i, j) not in left_out]
        back = [F.cosine_similarity(means[j], means[i + 3], dim=0) / 0.07 for j in range(3) if (j, i) not in left_out]
        wrong += (torch.logsumexp(torch.stack(forth), 0) + torch.logsumexp(torch.stack(back), 0) - 2 * own) / 3
    target = torch.randn(6, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    apart = sum(1 - F.cosine_similarity(means[i], target[i], dim=0) for i in range(6)) / 6
    model.zero_grad()
    (sum(terms) / len(terms) + weight * wrong / 2 + near * apart).backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    model.zero_grad()
    monkeypatch.setattr(module, "_HEAD_ROWS", 2)
    given = {"target_RH": target, "target_weight": near} if near else {}
    if left_out:
        given["left_out_BB"] = torch.tensor([[(i, j) in left_out for j in range(3)] for i in range(3)])
    total, contrast, found_apart = module.backward_with_next(model, groups, 0.07, weight, reads, **given)
    assert found_apart.item() == pytest.approx(apart.item() if near else 0, rel=1e-9)
    assert total.item() == pytest.approx(sum(terms).item(), rel=1e-6)
    assert contrast.item() == pytest.approx(wrong.item() / 2, rel=1e-9)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert torch.allclose(found[name], gradient, rtol=1e-7, atol=1e-10), name


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


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"next_weight": 0.0}, "sums_weight = 1.0: needs next_weight above 0"),
        ({"start_embeddings": "ppmi_svd"}, "sums_weight = 1.0: is of the vectors that start_embeddings = next_sent"),
        ({"model": "mini"}, "sums_weight = 1.0: a given model does not begin with the vectors"),
    ],
)
def test_sums_need_vectors_to_be_of(fields, says):
    with pytest.raises(InputError, match=re.escape(says)):
        tiny(**{"sums_weight": 1.0, "next_weight": 1.0, "start_embeddings": "next_sentences"} | fields)


def test_sums_are_of_the_tokens_that_the_model_reads(tmp_path, monkeypatch):
    vectors, checked = [], []
    mix, original = module.with_own_directions, module.backward_with_next

    def remember(*args, **kwargs):
        vectors.append(torch.from_numpy(mix(*args, **kwargs)).double())
        return mix(*args, **kwargs)

    def spy(model, groups, *args, target_RH, **options):
        for rows, group in groups:
            for row, ids, real in zip(rows.tolist(), group.inputs, group.attention.bool(), strict=True):
                total = vectors[0][ids[real]].sum(0)
                wanted = torch.cat([total / total.norm().clamp(min=1e-12), torch.zeros(2)])
                assert target_RH[row].double().numpy() == pytest.approx(wanted.numpy(), abs=1e-5)
                checked.append((ids == model_mask).any().item())
        return original(model, groups, *args, target_RH=target_RH, **options)

    monkeypatch.setattr(module, "with_own_directions", remember)
    monkeypatch.setattr(module, "backward_with_next", spy)
    model_mask = 4  # [MASK], the last of BERT's five special tokens
    config = tiny(next_weight=0.1, sums_weight=1.0, start_embeddings="next_sentences", mask_ratio=0.4, max_steps=2)
    made = pretrain(config, DOCUMENTS, tmp_path / "out")
    assert made.tokenizer.mask_token_id == model_mask
    assert not vectors[0][list(range(5))].any()
    assert 0 < sum(checked) < len(checked)


@pytest.mark.parametrize(
    ("fields", "pooling"),
    [({"next_weight": 1.0}, "mean"), ({"next_weight": 1.0, "next_reads": "cls"}, "cls"), ({}, "mean")],
)
def test_folder_says_which_embedding_was_trained(tmp_path, fields, pooling):
    made = pretrain(tiny(max_steps=1, **fields), DOCUMENTS, tmp_path / "out")
    folder = tmp_path / "out" / "model"
    encoder = load(folder)
    assert (encoder.pooling, encoder.max_tokens) == (pooling, 32)
    ours = Encoder(made.model.bert, made.tokenizer, pooling, 32)
    assert ours(SENTENCES[:3]) == pytest.approx(encoder(SENTENCES[:3]), abs=1e-6)
    theirs = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    assert theirs.encode(SENTENCES[:3]) == pytest.approx(encoder(SENTENCES[:3]), abs=1e-5)
    build(Method(model=str(folder), pooling=pooling))


def test_masked_tokens_alone_say_nothing_of_next_sentences(tmp_path):
    made = pretrain(tiny(), DOCUMENTS, tmp_path / "out")
    assert all("next_loss" not in entry for entry in made.record.log)
    assert "follows" not in (tmp_path / "out" / "model" / "README.md").read_text()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"next_weight": 0.25, "start_embeddings": "next_sentences"},
            "by its token vectors before the first step, and beside the masked tokens (weight 0.25)",
        ),
        ({"next_weight": 0.25}, "too: beside the masked tokens (weight 0.25)"),
        ({"start_embeddings": "next_sentences"}, "too: by its token vectors before the first step"),
    ],
)
def test_card_says_what_learned_from_next_sentences(tmp_path, fields, says):
    pretrain(tiny(max_steps=1, **fields), DOCUMENTS, tmp_path / "out")
    card = (tmp_path / "out" / "model" / "README.md").read_text()
    assert f"{says}\n" in card
    assert "\n- Which sentence follows which was learned from too: " in card


def test_steps_of_pairs_are_trained_on_without_a_masked_token_and_only_on_what_may_be(tmp_path, monkeypatch):
    seen, before = [], []
    original = module.backward_with_next

    def spy(model, groups, *args, **options):
        before.append([p.grad for p in model.parameters()])
        return original(model, groups, *args, **options)

    monkeypatch.setattr(module, "backward_with_next", spy)
    monkeypatch.setattr(
        module._Run, "_padded_group", lambda self, numbers, a: (seen.extend(numbers), _padded(self, numbers, a))[1]
    )
    pretrain(tiny(next_weight=1.0, mask_ratio=1e-9, max_steps=40), DOCUMENTS, tmp_path / "out")
    held_out, _ = split(len(DOCUMENTS), TINY.held_out, TINY.seed)
    assert len(seen) > 100
    assert not set(seen) & set(held_out)
    assert all(gradient is None for gradients in before for gradient in gradients)


def test_a_sentence_is_not_its_own_negative(tmp_path, monkeypatch):
    found = []
    original = module.backward_with_next

    def spy(model, groups, *args, left_out_BB, **options):
        sentence = {}
        for rows, group in groups:
            for row, ids, real in zip(rows.tolist(), group.inputs, group.attention.bool(), strict=True):
                sentence[row] = ids[real].tolist()
        count = len(sentence) // 2
        # Neither is what follows it, where that follows another sentence as well.
        own = [
            [i != j and sentence[j + count] in (sentence[i], sentence[i + count]) for j in range(count)]
            for i in range(count)
        ]
        assert left_out_BB.tolist() == own
        found.append(left_out_BB.sum().item())
        return original(model, groups, *args, left_out_BB=left_out_BB, **options)

    monkeypatch.setattr(module, "backward_with_next", spy)
    pretrain(tiny(next_weight=1.0, mask_ratio=1e-9, batch_tokens=512, max_steps=3), DOCUMENTS, tmp_path / "out")
    assert min(found) > 0  # among some twenty pairs of a small text


_padded = module._Run._padded_group


@pytest.mark.parametrize(("reads", "without"), [("all", "_soften"), ("cls", "_gather")])
def test_fresh_model_embeds_sentences_as_weighted_sums(tmp_path, monkeypatch, reads, without):
    sums, embeddings = {}, {}
    position = slice(1) if reads == "cls" else slice(None)

    def remember(*args, **kwargs):
        sums["weighted"] = mix(*args, **kwargs)
        return sums["weighted"].copy()

    def embed(self, _):
        vectors = []
        with torch.no_grad():
            for i in range(0, len(DOCUMENTS), 9):
                ids = torch.from_numpy(self.tokens.rows(np.array([i]), int(self.batches.lengths[i])))
                vectors.append(self.model.eval().bert(input_ids=ids).last_hidden_state[0, position].mean(0))
        embeddings["fresh"] = torch.stack(vectors)
        weighted_VH = torch.from_numpy(sums["weighted"])
        assert not weighted_VH[list(self.vocabulary.special)].any()
        rows = [self.tokens.ids[slice(*self.tokens.offsets[i : i + 2])] for i in range(0, len(DOCUMENTS), 9)]
        embeddings["sums"] = torch.stack([weighted_VH[row.astype(np.int64)].sum(0) for row in rows])

    mix = module.with_own_directions
    monkeypatch.setattr(module, "with_own_directions", remember)
    monkeypatch.setattr(module._Run, "train", embed)
    shape = {"layers": 2, "width": 64, "heads": 4, "intermediate": 256, "vocabulary": 150}

    def likeness(name):
        """(correlation of cosines, mean cosine with the sum itself, both without what all sentences share)."""
        config = tiny(start_embeddings="next_sentences", next_weight=1.0, next_reads=reads, **shape)
        pretrain(config, DOCUMENTS, tmp_path / name)
        one, other = (F.normalize(embeddings[key], dim=1) for key in ("fresh", "sums"))
        cosines = [(x @ x.T)[tuple(np.triu_indices(len(x), 1))].numpy() for x in (one, other)]
        one, other = one[:, :-2] - one[:, :-2].mean(0), other - other.mean(0)
        return np.corrcoef(*cosines)[0, 1], F.cosine_similarity(one, other).mean().item()

    shaped, near = likeness("with")
    monkeypatch.setattr(module, without, lambda model: None)
    loud, far = likeness("without")
    assert shaped > 0.8
    assert near > 0.8
    assert loud < 0.75
    assert far < 0.3


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
    from diffcse.config import Method

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


def test_learning_rate_rises_and_falls():
    config = tiny(warmup_ratio=0.1)
    rates = [rate(step, 100, config) for step in range(100)]
    assert np.argmax(rates) == 10
    assert rates[10] == 1
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.02
    cosine = [rate(step, 100, dataclasses.replace(config, schedule="cosine")) for step in range(100)]
    assert cosine[55] == pytest.approx(0.5)
    assert cosine[20] > rates[20]


BAD = {
    "words for a vocabulary": {"vocabulary": 5000},
    "held_out = 500": {"held_out": 500},
    "diverged": {"learning_rate": 1e18, "max_grad_norm": 1e18, "max_steps": 30},
    r"read_corpus\(\.\.\., documents=True\)": {"next_weight": 0.1},
    "does not say which sentence follows which": {"start_embeddings": "next_sentences"},
}


@pytest.mark.parametrize("says", list(BAD))
def test_what_cannot_be_done_is_said(tmp_path, says):
    with pytest.raises(InputError, match=says):
        pretrain(tiny(**BAD[says]), CORPUS, tmp_path / "out")
    assert not (tmp_path / "out" / "model").exists()


def test_tokenizer_without_mask_or_start_token(tmp_path):
    tokenizer = tiny_tokenizer("bert")
    tokenizer.mask_token = None
    tokenizer.backend_tokenizer.post_processor = _no_specials()
    save_tiny(tmp_path / "encoder", "bert")
    tokenizer.save_pretrained(tmp_path / "encoder")
    with pytest.raises(InputError, match="mask_token"):
        pretrain(tiny(tokenizer=str(tmp_path / "encoder")), CORPUS, tmp_path / "mlm")
    with pytest.raises(InputError, match="start token"):
        pretrain(tiny(tokenizer=str(tmp_path / "encoder"), objective="causal"), CORPUS, tmp_path / "causal")


def _no_specials():
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])


def test_folder_that_holds_something(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="not empty"):
        pretrain(TINY, CORPUS, tmp_path)
    with pytest.raises(InputError, match="nothing to resume"):
        pretrain(TINY, CORPUS, tmp_path, resume=True)


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


def test_several_processes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="torchrun"):
        pretrain(TINY, CORPUS, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("kind", "status"), [("train", "running"), ("pretrain", "complete"), (None, None)])
def test_a_record_that_was_kept_stays(tmp_path, kind, status):
    if kind is None:
        (tmp_path / "recipe.toml").write_text("mine")
    else:
        Record(kind, {}, 1, status=status).write(tmp_path / "run.json")
    with pytest.raises(InputError, match="not empty"):
        pretrain(TINY, CORPUS, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1 + (tmp_path / "cache").exists()


def test_a_refused_run_does_not_block_the_mended_one(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="vocabulary"):
        pretrain(tiny(vocabulary=5000), CORPUS, out)
    alone = Corpus.from_sentences([line for sentence in TEXT for line in (sentence, "")], documents=True)
    with pytest.raises(InputError, match=r"fewer than two sentences .* --recipe masked"):
        pretrain(tiny(next_weight=0.1), alone, out)
    pretrain(tiny(max_steps=1), CORPUS, out)
    assert (out / "model").is_dir()
    with pytest.raises(InputError, match="not empty"):
        pretrain(tiny(max_steps=1), CORPUS, out)


@pytest.mark.parametrize("style", ["bert", "roberta"])
def test_going_on_from_a_model_begins_with_its_weights_head_and_vocabulary(tmp_path, style):
    start = save_tiny(tmp_path / "start", style, hidden=16)
    corpus = Corpus.from_sentences(SENTENCES, documents=True)
    config = Pretraining(
        model=str(start), max_steps=1, max_tokens=16, held_out=8, batch_tokens=64, learning_rate=1e-12,
        precision="fp32", store="fp32", next_weight=0.5, next_reads="unmasked",
    )  # fmt: skip
    made = pretrain(config, corpus, tmp_path / "out")
    before, after = load_generator(start), load_generator(tmp_path / "out" / "model")
    assert type(before) is type(after)
    same = dict(before.named_parameters())
    assert all(torch.allclose(value, same[name], atol=1e-6) for name, value in after.named_parameters())
    # What is measured is the loss of the model as others run it.
    ids = made.tokenizer(SENTENCES[:3], return_tensors="pt", padding=True)
    where = ids["attention_mask"].bool()
    group = module.Group(ids["input_ids"], where, ids["input_ids"][where], ids["attention_mask"])
    logits = before(**ids).logits[where]
    assert torch.allclose(module.head_of(after)(after.base_model(**ids).last_hidden_state[where]), logits, atol=1e-5)
    assert module.cross_entropy(after, group)[0].isfinite()
    assert str(tmp_path) not in (tmp_path / "out" / "model" / "README.md").read_text()
    assert "Pretrained from `start`" in (tmp_path / "out" / "model" / "README.md").read_text()
    assert all("no better than" in warning for warning in made.record.warnings)  # weights of no training


def begun(config, output, *, complete, corpus=CORPUS):
    """A run of `config`, or one that was stopped after eight steps."""

    def stop(event, facts):
        if event == "log" and facts["step"] == 8 and not complete:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        pretrain(config, corpus, output, report=stop)
    assert (read_record(output / "run.json").status == "complete") == complete


def test_going_on_learns_and_resumes_as_from_scratch(tmp_path):
    pretrain(tiny(max_steps=20), CORPUS, tmp_path / "first")
    config = tiny(model=str(tmp_path / "first" / "model"), dropout=0.1, store="fp32", max_steps=20, layers=7)
    whole = pretrain(config, CORPUS, tmp_path / "whole")
    assert whole.model.config.num_hidden_layers == 1
    # At most what tiny() changes beside the defaults.
    assert "layers" in whole.record.warnings[0]
    first = read_record(tmp_path / "first" / "run.json").scores["held_out_loss"]
    assert whole.record.scores["held_out_loss"] < first - 0.1
    assert not any("no better than the model" in warning for warning in whole.record.warnings)
    worse = pretrain(dataclasses.replace(config, learning_rate=0.5, max_steps=2), CORPUS, tmp_path / "worse").record
    assert worse.scores["held_out_loss"] > worse.scores["start_held_out_loss"]
    assert any("no better than the model it began from" in warning for warning in worse.warnings)
    # What going on brought can be told: the start was measured with the same masks on the same sentences.
    assert whole.record.scores["start_held_out_loss"] == pytest.approx(first, abs=0.01)
    assert "that of the text of `model` is in its own card" in (tmp_path / "whole" / "model" / "README.md").read_text()
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


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_run_goes_on_from_the_model_it_began_with(tmp_path, file, complete):
    save_tiny(tmp_path / "first", "bert", hidden=16)
    config = tiny(model=str(tmp_path / "first"), max_steps=20, start_share=0.5)
    begun(config, tmp_path / "out", complete=complete)
    before = (tmp_path / "first" / file).read_bytes()
    if file == "config.json":
        (tmp_path / "first" / file).write_bytes(before.replace(b'"gelu"', b'"relu"'))
    else:
        save_tiny(tmp_path / "first", "bert", hidden=16, seed=1)
    with pytest.raises(InputError, match=r"begun from another model: .*first has changed since; put it back"):
        pretrain(config, CORPUS, tmp_path / "out", resume=True)
    (tmp_path / "first" / file).write_bytes(before)
    assert pretrain(config, CORPUS, tmp_path / "out", resume=True).record.status == "complete"


@pytest.mark.parametrize("relative", [True, False])
def test_only_a_complete_run_outlives_its_start(tmp_path, monkeypatch, relative):
    monkeypatch.chdir(tmp_path)
    first = save_tiny(tmp_path / "first", "bert", hidden=16)
    config = tiny(model="first" if relative else str(first), max_steps=20)
    begun(config, tmp_path / "killed", complete=False)
    begun(config, tmp_path / "complete", complete=True)
    first.rename(tmp_path / "moved")
    assert pretrain(config, CORPUS, tmp_path / "complete", resume=True).record.status == "complete"
    with pytest.raises(InputError, match="is no longer there" if relative else "there is no such folder here"):
        pretrain(config, CORPUS, tmp_path / "killed", resume=True)
    record = tmp_path / "killed" / "run.json"
    older = json.loads(record.read_text())
    del older["data"]["start_model_sha256"]
    record.write_text(json.dumps(older))
    (tmp_path / "moved").rename(first)
    assert pretrain(config, CORPUS, tmp_path / "killed", resume=True).record.status == "complete"


@pytest.mark.parametrize("complete", [True, False])
def test_a_run_from_before_start_share_goes_on(tmp_path, complete):
    config = tiny(max_steps=20)
    begun(config, tmp_path / "out", complete=complete)
    record_file = tmp_path / "out" / "run.json"
    record = json.loads(record_file.read_text())
    del record["config"]["start_share"]
    record_file.write_text(json.dumps(record))
    assert pretrain(config, CORPUS, tmp_path / "out", resume=True).record.status == "complete"


def test_the_recipe_further_goes_on_from_the_bundled_model_and_keeps_half_of_it():
    config = load_pretraining("further")
    assert (config.model, config.start_share, config.next_reads) == ("mini", 0.5, "cls")


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_model_that_learned_nothing_says_so(tmp_path, share):
    save_tiny(tmp_path / "first", "bert", hidden=16)
    config = tiny(model=str(tmp_path / "first"), max_steps=1, learning_rate=1e-9, start_share=share)
    *_, last = pretrain(config, CORPUS, tmp_path / "out").record.warnings
    assert "predicts words no better than their frequencies do: as a generator it is of no use" in last
    assert last.endswith("or a smaller start_share" if share else "or more text")
    assert read_record(tmp_path / "out" / "run.json").warnings[-1] == last
    learned = pretrain(tiny(max_steps=150, width=32), CORPUS, tmp_path / "learned").record.warnings
    assert not any("no better" in warning for warning in learned)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"start_share": 0.5}, "there is none: give --model"),
        ({"start_share": 1.0, "model": "mini"}, r"must lie in \[0, 1\)"),
        ({"start_share": -0.1, "model": "mini"}, r"must lie in \[0, 1\)"),
    ],
)
def test_a_share_that_cannot_be(wrong, said):
    with pytest.raises(InputError, match=f"start_share = .*{said}"):
        tiny(**wrong)


def test_unmasked_means_have_masks_only_where_tokens_are_predicted(tmp_path, monkeypatch):
    seen = []

    def spy(model, groups, *rest, **options):
        seen.extend(group for _, group in groups)
        return backward(model, groups, *rest, **options)

    backward = module.backward_with_next
    monkeypatch.setattr(module, "backward_with_next", spy)
    made = pretrain(tiny(next_weight=1.0, next_reads="unmasked", mask_ratio=0.5), DOCUMENTS, tmp_path / "out")
    assert sum(int(group.where.sum()) for group in seen) > 50
    for group in seen:
        assert torch.equal(group.inputs == made.tokenizer.mask_token_id, group.where)


def test_models_to_go_on_from_that_cannot_be(tmp_path):
    headless = save_tiny(tmp_path / "headless", "bert", masked_lm=False)
    with pytest.raises(InputError, match=r"no trained masked-language-model head.*or none, to begin from scratch"):
        pretrain(tiny(model=str(headless)), CORPUS, tmp_path / "a")
    pretrain(tiny(max_steps=1), CORPUS, tmp_path / "a")  # and the folder is free for the mended command
    other = save_tiny(tmp_path / "distil", "distilbert")
    with pytest.raises(InputError, match="head of an unknown kind"):
        pretrain(tiny(model=str(other), held_out=8), Corpus.from_sentences(SENTENCES), tmp_path / "b")
    short = save_tiny(tmp_path / "short", "bert", positions=32)
    with pytest.raises(InputError, match="takes at most"):
        pretrain(tiny(model=str(short), max_tokens=64), CORPUS, tmp_path / "c")
    with pytest.raises(InputError, match="objective = mlm"):
        tiny(model="mini", objective="causal")
    with pytest.raises(InputError, match="model brings its own"):
        tiny(model="mini", tokenizer="mini")


def test_idle_settings_are_told(tmp_path):
    made = pretrain(tiny(objective="causal", mask_ratio=0.9, start_tokens=5, max_steps=1), CORPUS, tmp_path / "out")
    assert made.record.warnings[0] == "set, but without effect beside the other choices: start_tokens, mask_ratio"
    assert tiny(next_temperature=0.1).unused() == ["next_temperature"]
    assert tiny(next_temperature=0.1, next_weight=0.1).unused() == []
    assert tiny(start_embeddings="next_sentences", start_tokens=5).unused() == []


def test_a_column_of_a_table_is_pretrained_on(tmp_path):
    file = tmp_path / "text.csv"
    file.write_text("body,other\n" + "".join(f"{sentence},x\n" for sentence in TEXT))
    made = pretrain(tiny(max_steps=1), [file], tmp_path / "out", text=Text(column="body"))
    assert made.record.data["sentences"] == len(TEXT)


@pytest.mark.parametrize("complete", [True, False])
def test_other_documents_are_another_run(tmp_path, complete):
    config = tiny(next_weight=0.1, max_steps=10)
    begun(config, tmp_path / "out", complete=complete, corpus=DOCUMENTS)
    other = Corpus.from_sentences([line for line in LINES if line], documents=True)
    assert other.sha256 == DOCUMENTS.sha256
    with pytest.raises(InputError, match="the same sentences in other documents"):
        pretrain(config, other, tmp_path / "out", resume=True)
    assert pretrain(config, DOCUMENTS, tmp_path / "out", resume=True).record.status == "complete"


def test_what_of_the_files_was_read_is_recorded_and_the_same_on_resume(tmp_path):
    file = tmp_path / "text.csv"
    file.write_text("text,page\n" + "".join(f"{sentence},{i // 9}\n" for i, sentence in enumerate(TEXT)))
    config, out = tiny(next_weight=0.1, max_steps=1), tmp_path / "out"
    read = pretrain(config, [file], out, text=Text(document="page")).record.data["text"]
    assert read == {"column": "text", "document": "page", "split_sentences": False, "language": "en"}
    with pytest.raises(InputError, match=r"other settings \(text.document was \"page\"\)"):
        pretrain(config, [file], out, resume=True)
    record = json.loads((out / "run.json").read_text())
    del record["data"]["text"], record["data"]["following_sha256"]  # as a run from before they were recorded
    (out / "run.json").write_text(json.dumps(record))
    pretrain(config, [file], out, resume=True)


def test_many_passes_over_little_text_are_told(tmp_path):
    few = Corpus.from_sentences(TEXT[:40])
    made = pretrain(tiny(max_steps=45, batch_tokens=256, held_out=4, vocabulary=80), few, tmp_path / "out")
    assert any("passes over so little text learn it by heart" in warning for warning in made.record.warnings)
    made = pretrain(tiny(max_steps=2), CORPUS, tmp_path / "once")
    assert not any("passes" in warning for warning in made.record.warnings)
