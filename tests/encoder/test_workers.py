"""Several processes give the rows of one, in its order; one that dies leaves nothing half written."""

import io
import os
import pickle
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from diffcse.encoder import stream, workers
from diffcse.encoder.encode import Encoder
from diffcse.encoder.stream import embed
from diffcse.errors import InputError
from tests.models import SENTENCES, tiny_model

TEXTS = [*SENTENCES, "", SENTENCES[0], "the cat " * 100, "é\U0001f600"]


def tiny():
    model, tokenizer = tiny_model("roberta", masked_lm=False)
    return Encoder(model, tokenizer, "mean", 64, normalised=True)


def test_rows_of_two_processes_are_those_of_one(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "BLOCK", 5)
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
    monkeypatch.setattr(stream, "BLOCK", 5)
    encoder, here = tiny(), os.getpid()
    encoder.model.register_forward_pre_hook(
        lambda *_: os.kill(os.getpid(), signal.SIGKILL) if os.getpid() != here else None
    )
    path = tmp_path / "out.npy"
    path.write_bytes(b"old")
    monkeypatch.setattr(stream, "rows_by_workers", lambda e, b, _, **rest: workers.rows_by_workers(e, b, 1, **rest))
    with pytest.raises(InputError, match="one of 1 worker processes was ended from outside"):
        embed(encoder, TEXTS, path, workers=2)  # one is enough, and is there sooner
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["out.npy"]


def test_what_is_sent_holds_no_weights_and_comes_back_the_same(tmp_path):
    encoder = tiny()
    encoder.model.embeddings.word_embeddings.weight.data = torch.randn(len(encoder.tokenizer) + 9000, 32)
    shape = workers._pack(encoder, tmp_path / "weights")
    assert len(shape) < 100_000 < (tmp_path / "weights").stat().st_size
    with pytest.raises(pickle.UnpicklingError):
        pickle.load(io.BytesIO(shape))  # nothing in it would make a tensor
    back = workers._unpack(shape, tmp_path / "weights")
    np.testing.assert_array_equal(back(TEXTS), encoder(TEXTS))
    assert replace(back, model=None, tokenizer=None) == replace(encoder, model=None, tokenizer=None)


def test_tied_weights_stay_tied(tmp_path):
    model, tokenizer = tiny_model("bert")
    back = workers._unpack(workers._pack(Encoder(model, tokenizer, "cls", 64), tmp_path / "w"), tmp_path / "w").model
    assert back.cls.predictions.decoder.weight is back.bert.embeddings.word_embeddings.weight


def test_each_worker_has_its_number(tmp_path):
    assert [workers._claim(tmp_path, 3) for _ in range(4)] == [0, 1, 2, 0]
