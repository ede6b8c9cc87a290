"""Jobs: what each embeds, and what its score may use."""

import numpy as np
import pytest

from diffcse.evaluation.jobs import GROUPS, jobs_of
from diffcse.evaluation.probes import ADAM_FAST, Logistic
from tests.evaluation import folders

PROBE = Logistic(folds=3)


def test_what_is_to_choose_by_holds_nothing_of_the_test_side(data):
    (job,) = (job for job in jobs_of(data, ("transfer",), ADAM_FAST) if job.name == "MRPC")
    record, _ = job.run(folders.bag_of_words)
    task = data.transfer["MRPC"]
    assert (record["split"], record["n"], record["f1"]) == ("dev", len(task.train), None)
    assert record["majority"] == pytest.approx(100 * max(np.bincount(task.train.labels)) / len(task.train))
    (job,) = (job for job in jobs_of(data, ("transfer",), PROBE) if job.name == "MRPC")
    record, _ = job.run(folders.bag_of_words)
    assert record["f1"] is not None
    assert record["majority"] == pytest.approx(100 * max(np.bincount(task.test.labels)) / len(task.test))


def test_a_job_names_every_sentence_it_needs(data, monkeypatch):
    monkeypatch.setattr("diffcse.evaluation.jobs.GEOMETRY_AT_MOST", 5)
    for job in jobs_of(data, GROUPS, PROBE):
        named = {*job.sentences}

        def encode(sentences, named=named, job=job):
            assert named.issuperset(sentences), job.key
            return folders.bag_of_words(sentences)

        record, _ = job.run(encode)
        if job.key == "geometry/STSB-dev":
            assert (record["n"], record["positive_pairs"] > 3) == (5, True)
    assert "geometry/STSB-dev" in {job.key for job in jobs_of(data, ("geometry",), PROBE)}
