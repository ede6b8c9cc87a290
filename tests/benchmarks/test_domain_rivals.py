"""The benchmark of rivals: the rate is chosen with the first seed, and a finished run is not repeated."""

import json

import numpy as np
import pytest

from benchmarks import domain_rivals
from tests.benchmarks.test_domains import data as data  # a fixture


class Fake:
    """An "encoder" whose vectors show the text's label the more, the higher `share` is."""

    def __init__(self, share, seed):
        self.share, self.seed = share, seed

    def __call__(self, texts, bf16=False):
        noise = np.random.default_rng(self.seed).normal(size=(len(texts), 3))
        labels = np.array([["cat", "sea", "code"].index(text.split()[0]) for text in texts])
        return self.share * np.eye(3)[labels] + (1 - self.share) * noise


def test_rate_and_seeds(data, tmp_path, monkeypatch):
    calls = []

    def train(job, texts):
        calls.append((job.method, job.rate, job.seed))
        return Fake({"CT": 1 - job.rate, "TSDAE": job.rate, "SimCSE": 0.2}[job.method], job.seed)

    monkeypatch.setattr(domain_rivals, "train_ours", train)
    monkeypatch.setattr(domain_rivals, "train_theirs", train)
    monkeypatch.setattr(domain_rivals, "train_start", lambda job, texts: Fake(0.3, 9))
    arguments = [str(data), "--output", str(tmp_path / "out"), "--starts", "minilm", "--domains", "stackoverflow"]
    arguments += ["--seeds", "4", "5", "--rates", "0.1", "0.9"]
    domain_rivals.main(arguments)
    assert {call for call in calls if call[0] == "CT"} == {("CT", 0.1, 4), ("CT", 0.9, 4), ("CT", 0.1, 5)}
    assert {call for call in calls if call[0] == "TSDAE"} == {("TSDAE", 0.1, 4), ("TSDAE", 0.9, 4), ("TSDAE", 0.9, 5)}
    rows = {row["row"]: row for row in json.loads((tmp_path / "out" / "domains.json").read_text())["results"]}
    assert rows["CT, rate 0.1"]["score"]["value"] > rows["start"]["score"]["value"]
    assert rows["CT, rate 0.1"]["score"]["value"] == pytest.approx(np.mean(rows["CT, rate 0.1"]["by_seed"]), abs=0.1)
    before = len(calls)
    domain_rivals.main(arguments)
    assert len(calls) == before


def test_noise_deletes_words_and_keeps_one():
    generator = np.random.default_rng(0)
    text = " ".join(f"w{i}" for i in range(1000))
    kept = domain_rivals.noisy(text, generator).split()
    assert 330 < len(kept) < 470
    assert kept == sorted(kept, key=lambda word: int(word[1:]))
    assert all(domain_rivals.noisy("only", generator) == "only" for _ in range(20))
