"""Several processes give the rows of one, in its order; one that dies leaves nothing half written."""

import signal
from unittest.mock import Mock

import numpy as np
import psutil
import pytest
import torch

from diffcse.encoder import inputs, stream, workers
from diffcse.encoder.encode import Encoder
from diffcse.encoder.stream import embed
from diffcse.errors import InputError
from diffcse.machine import cores
from tests.models import SENTENCES, tiny_model

TEXTS = [*SENTENCES, "", SENTENCES[0], "the cat " * 100, "é\U0001f600"]


def tiny():
    model, tokenizer = tiny_model("roberta", masked_lm=False)
    return Encoder(model, tokenizer, "mean", 64, normalised=True)


def test_rows_of_two_processes_are_those_of_one(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "BLOCK", 5)
    encoder, taken, ahead = tiny(), [0], []

    def sentences():
        for text in TEXTS:
            taken[0] += 1
            yield text

    done = embed(
        encoder,
        sentences(),
        tmp_path / "two.npy",
        workers=2,
        batch_tokens=100,
        report=lambda done: ahead.append(taken[0] - done),
    )
    assert done == len(TEXTS)
    embed(encoder, TEXTS, tmp_path / "one.npy", workers=1, batch_tokens=100)
    np.testing.assert_allclose(np.load(tmp_path / "two.npy"), np.load(tmp_path / "one.npy"), atol=1e-6)
    assert max(ahead) <= 5 * (2 * 2 + 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.npy", "two.npy"]


def test_a_worker_that_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "BLOCK", 5)
    encoder = tiny()

    def sentences():
        for number, text in enumerate(TEXTS):
            if number == 15:
                for process in psutil.Process().children(recursive=True):
                    if "popen_loky" in " ".join(process.cmdline()):
                        process.send_signal(signal.SIGKILL)
            yield text

    path = tmp_path / "out.npy"
    path.write_bytes(b"old")
    monkeypatch.setattr(stream, "rows_by_workers", lambda e, b, _, **rest: workers.rows_by_workers(e, b, 1, **rest))
    with pytest.raises(InputError, match="one of 1 worker processes"):
        embed(encoder, sentences(), path, overwrite=True, workers=2)  # one is enough, and is there sooner
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["out.npy"]


def test_each_worker_has_its_number(tmp_path):
    assert [workers._claim(tmp_path, 3) for _ in range(4)] == [0, 1, 2, 0]


def test_each_worker_takes_its_gpu_before_it_loads(tmp_path, monkeypatch):
    encoder, taken = tiny(), []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(workers, "load", lambda _: taken.append("loaded") or encoder)
    for name in ("Thread", "tune"):
        monkeypatch.setattr(workers, name, Mock())
    monkeypatch.setattr(signal, "signal", Mock())
    monkeypatch.setattr(torch, "set_num_threads", Mock())
    monkeypatch.setattr(workers, "_run", None)
    for _ in range(3):
        workers._begin(tmp_path, cores(), 3, 1, 100, False)
    assert taken == [0, "loaded", 1, "loaded", 0, "loaded"]
