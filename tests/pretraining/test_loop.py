"""A killed and resumed run ends like one that was not; the learning rate."""

import dataclasses
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from diffcse.errors import InputError
from diffcse.pretraining.loop import rate
from diffcse.pretraining.run import pretrain
from diffcse.record import read_record
from diffcse.text.corpus import Corpus
from tests.pretraining.texts import CORPUS, DOCUMENTS, LINES, tiny, weights_of

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
from tests.pretraining.test_loop import RESUMED
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
    config = tiny(warmup_ratio=0.1)
    rates = [rate(step, 100, config) for step in range(100)]
    assert np.argmax(rates) == 10
    assert rates[10] == 1
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.02
