"""The hash changes with all that changes embeddings, and with nothing else."""

import dataclasses
import shutil

import torch

from diffcse.encoder.fingerprint import fingerprint
from diffcse.encoder.load import load
from tests.models import save_tiny


def test_it_follows_weights_pooling_limit_and_tokenizer(tmp_path):
    encoder = load(save_tiny(tmp_path / "a", "bert"), pooling="mean")
    before = fingerprint(encoder)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert fingerprint(load(tmp_path / "b", pooling="mean")) == before
    encoder(["a call leaves the tokenizer cutting and padding"])
    assert fingerprint(encoder) == before
    for change in ({"pooling": "cls"}, {"max_tokens": 16}, {"normalised": True}):
        assert fingerprint(dataclasses.replace(encoder, **change)) != before
    other = load(save_tiny(tmp_path / "c", "bert", seed=1), pooling="mean")
    assert fingerprint(other) != before
    assert fingerprint(dataclasses.replace(encoder, tokenizer=_with_a_word(tmp_path / "a"))) != before
    with torch.no_grad():
        next(encoder.model.parameters())[3, 3] += 1e-3
    assert fingerprint(encoder) != before


def _with_a_word(folder):
    tokenizer = load(folder, pooling="mean").tokenizer
    tokenizer.add_tokens(["diffcse"])
    return tokenizer
