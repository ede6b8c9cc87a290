"""Measuring: each sentence is embedded once, and nothing is read from a stale cache."""

import json

import numpy as np
import pytest

from diffcse.encoder.load import load
from diffcse.errors import InputError
from diffcse.evaluation.cache import ResultCache
from diffcse.evaluation.candidates import callable_candidate, encoder_candidate
from diffcse.evaluation.data import find_data
from diffcse.evaluation.jobs import GROUPS, jobs_of
from diffcse.evaluation.measuring import EmbedOnce, measure
from diffcse.evaluation.probes import ADAM_FAST, Logistic
from tests.evaluation import folders
from tests.models import SENTENCES, save_tiny

PROBE = Logistic(folds=3)


def test_each_sentence_is_embedded_once(data):
    seen = []

    def encode(sentences):
        seen.extend(sentences)
        return folders.bag_of_words(sentences)

    jobs = jobs_of(data, GROUPS, PROBE)
    measure(callable_candidate("c", encode), jobs)
    assert len(seen) == len(set(seen))
    assert set(seen) == {sentence for job in jobs for sentence in job.sentences}


def test_embed_once_gives_rows_in_the_order_asked_for(monkeypatch):
    monkeypatch.setattr("diffcse.evaluation.measuring._CHUNK", 7)
    told = []
    encode = EmbedOnce(folders.bag_of_words, lambda done, total: told.append((done, total)))
    for asked in (SENTENCES[:10], SENTENCES[5:30] + SENTENCES[:3], SENTENCES[:2] * 2):
        assert encode(asked).tolist() == folders.bag_of_words(asked).tolist()
    assert told == [(0, 10), (7, 10), (0, 20), (7, 20), (14, 20)]
    with pytest.raises(InputError, match="gave 1 embeddings for 2 sentences"):
        EmbedOnce(lambda s: np.ones((1, 2)))(["a", "b"])
    sizes = iter((3, 2))
    broken = EmbedOnce(lambda s: np.ones((len(s), next(sizes))))
    broken(["a"])
    with pytest.raises(InputError, match=r"rows of 3, then of 2 numbers"):
        broken(["b"])


def test_the_cache_is_never_stale(data, tmp_path):
    folder = save_tiny(tmp_path / "m", "bert")
    cache = ResultCache(tmp_path / "kept")
    jobs = jobs_of(data, ("sts", "transfer"), PROBE)

    def run(folder=folder, pooling="mean", jobs=jobs):
        before = cache.hits
        done = measure(encoder_candidate("m", load(folder, pooling=pooling)), jobs, cache=cache)
        return cache.hits - before, json.dumps(done)

    first = run()
    assert first[0] == 0
    assert run() == (4, first[1])
    assert run(pooling="cls")[0] == 0
    assert run(jobs=jobs_of(data, ("transfer",), ADAM_FAST))[0] == 0
    save_tiny(folder, "bert", seed=5)  # other weights in the same place
    hits, text = run()
    assert hits == 0
    assert text != first[1]
    (tmp_path / "downstream/SICK/SICK_trial.txt").unlink()
    folders.sick(tmp_path / "downstream", "trial", n=30)
    changed = find_data([tmp_path / "downstream"], groups=("sts",), allow_partial=True)
    assert run(jobs=jobs_of(changed, ("sts",)))[0] == 1  # STSB-dev is as it was


def test_functions_are_not_kept(data, tmp_path):
    cache = ResultCache(tmp_path / "kept")
    measure(callable_candidate("c", folders.bag_of_words), jobs_of(data, ("sts",)), cache=cache)
    assert not (tmp_path / "kept").exists()
