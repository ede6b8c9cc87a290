"""The task: a resumed run ends like one that was not killed; what an update learns from; the learning rate."""

import dataclasses
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from diffcse.errors import InputError
from diffcse.pretraining import batches, start, task
from diffcse.pretraining.batches import split
from diffcse.pretraining.run import pretrain
from diffcse.pretraining.task import rate
from diffcse.record import read_record
from diffcse.text.corpus import Corpus
from tests.pretraining.texts import CORPUS, DOCUMENTS, LINES, TINY, tiny, weights_of

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
from tests.pretraining.test_task import RESUMED
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
    status = "stopped" if moment == "ctrl-c" else "running"
    assert read_record(tmp_path / "killed" / "run.json").status == status
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


def test_learning_rate_rises_and_falls():
    rates = [rate(100, 10)(update) for update in range(100)]
    assert np.argmax(rates) == 10
    assert rates[10] == 1
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.02
    assert rate(4, 0)(0) == 1


def test_sums_are_of_the_tokens_that_the_model_reads(tmp_path, monkeypatch):
    vectors, checked = [], []
    mix, original = start.with_own_directions, task.backward_with_next

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

    monkeypatch.setattr(start, "with_own_directions", remember)
    monkeypatch.setattr(task, "backward_with_next", spy)
    model_mask = 4  # [MASK], the last of BERT's five special tokens
    config = tiny(next_weight=0.1, sums_weight=1.0, start_embeddings="next_sentences", mask_ratio=0.4, max_steps=2)
    made = pretrain(config, DOCUMENTS, tmp_path / "out")
    assert made.tokenizer.mask_token_id == model_mask
    assert not vectors[0][list(range(5))].any()
    assert 0 < sum(checked) < len(checked)


def test_steps_of_pairs_are_trained_on_without_a_masked_token_and_only_on_what_may_be(tmp_path, monkeypatch):
    seen, before = [], []
    original = task.backward_with_next

    def spy(model, groups, *args, **options):
        before.append([p.grad for p in model.parameters()])
        return original(model, groups, *args, **options)

    monkeypatch.setattr(task, "backward_with_next", spy)
    padded = batches.Grouping.padded
    monkeypatch.setattr(
        batches.Grouping, "padded", lambda self, numbers, a: (seen.extend(numbers), padded(self, numbers, a))[1]
    )
    pretrain(tiny(next_weight=1.0, mask_ratio=1e-9, max_steps=40), DOCUMENTS, tmp_path / "out")
    held_out, _ = split(len(DOCUMENTS), TINY.held_out, TINY.seed)
    assert len(seen) > 100
    assert not set(seen) & set(held_out)
    assert all(gradient is None for gradients in before for gradient in gradients)


def test_a_sentence_is_not_its_own_negative(tmp_path, monkeypatch):
    found = []
    original = task.backward_with_next

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

    monkeypatch.setattr(task, "backward_with_next", spy)
    pretrain(tiny(next_weight=1.0, mask_ratio=1e-9, batch_tokens=512, max_steps=3), DOCUMENTS, tmp_path / "out")
    assert min(found) > 0  # among some twenty pairs of a small text
