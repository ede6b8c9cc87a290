"""The report: as its schema says, the same bytes again, each sentence once, and never from a stale cache."""

import json

import jsonschema
import numpy as np
import pytest

from diffcse.encoder.load import load
from diffcse.errors import InputError
from diffcse.evaluation import suite
from diffcse.evaluation.cache import ResultCache
from diffcse.evaluation.data import find_data
from diffcse.evaluation.probes import ADAM_FAST, Logistic
from diffcse.evaluation.sts import SEVEN, read_pairs, score_sts
from diffcse.evaluation.suite import (
    EmbedOnce,
    callable_candidate,
    encoder_candidate,
    evaluate,
    floor_candidates,
    jobs_of,
    measure,
    read_schema,
    report,
)
from tests.evaluation import folders
from tests.models import SENTENCES, save_tiny

PROBE = Logistic(folds=3)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    """A bit of everything."""
    root = tmp_path / "downstream"
    folders.stsb(root, "dev", n=24)
    folders.sick(root, "trial", n=24)
    folders.binary(root, "CR", ("CR/custrev.pos", "CR/custrev.neg"), n=40)
    folders.mrpc(root, n=40)
    folders.collection(root / "tiny", {"d1": "the sea", "d2": "a king"}, {"q": "sea"}, [("q", "d1", 1)])
    return root


@pytest.fixture
def data(root):
    return find_data([root], allow_partial=True)


def check(found):
    jsonschema.Draft202012Validator.check_schema(read_schema())
    jsonschema.validate(json.loads(json.dumps(found, allow_nan=False)), read_schema())
    return found


def test_everything_is_as_the_schema_says(data, tmp_path):
    model = load(save_tiny(tmp_path / "m", "bert"), pooling="mean")
    rows = [
        encoder_candidate(
            "tiny", model, run={"recipe": "mini_cpu", "method_sha256": "0" * 64, "seed": 3, "train_sha256": "0"}
        ),
        callable_candidate("words", folders.bag_of_words),
        *floor_candidates(("tiny", model)),
    ]
    found = check(report(rows, data, probe=PROBE))
    names = ["tiny (mean)", "words", "TF-IDF, fitted on each set", "SIF, input embeddings of tiny, fitted on each set"]
    assert [r["encoder"]["name"] for r in found["results"]] == names
    keys = ["sts/STSB-dev", "sts/SICKR-trial", "transfer/CR", "transfer/MRPC", "retrieval/tiny", "retrieval/STSB-dev"]
    for result in found["results"]:
        assert list(result["tasks"]) == [*keys, "geometry/STSB-dev"]
        assert result["averages"]["sts"]["value"] is None
    task = found["results"][0]["tasks"]["sts/STSB-dev"]
    assert (task["split"], task["n"], task["complete"], task["aggregation"]) == ("dev", 24, False, "all")
    assert task["data"] == {"sha256": data.sts["STSB-dev"].sha256, "text_variant": "lower-cased"}
    assert task["value"] == pytest.approx(score_sts(model, data.sts["STSB-dev"]).all.spearman, rel=1e-5)
    assert found["results"][0]["tasks"]["transfer/MRPC"]["f1"] is not None
    with pytest.raises(jsonschema.ValidationError):
        check({**found, "unknown": 1})
    with pytest.raises(jsonschema.ValidationError):
        check({**found, "results": [{**found["results"][0], "tasks": {"sts/x": {**task, "n": "many"}}}]})


def test_the_same_again_is_the_same_bytes(data, tmp_path):
    model = save_tiny(tmp_path / "m", "bert")
    texts = []
    for use_cache in (False, True, True):  # measured, measured and kept, kept
        found = evaluate(model, data, tasks="all", pooling="mean", floors=True, use_cache=use_cache, probe="adam-fast")
        texts.append(json.dumps(check(found)))
    assert texts[0] == texts[1] == texts[2]
    assert {t["split"] for t in found["results"][0]["tasks"].values() if t["group"] == "transfer"} == {"dev"}
    # Bags of words have too many columns for the trained probe.
    assert not [key for key in found["results"][1]["tasks"] if key.startswith("transfer")]


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
    monkeypatch.setattr(suite, "GEOMETRY_AT_MOST", 5)
    for job in jobs_of(data, suite.GROUPS, PROBE):
        named = {*job.sentences}

        def encode(sentences, named=named, job=job):
            assert named.issuperset(sentences), job.key
            return folders.bag_of_words(sentences)

        record, _ = job.run(encode)
        if job.key == "geometry/STSB-dev":
            assert (record["n"], record["positive_pairs"] > 3) == (5, True)
    assert "geometry/STSB-dev" in {job.key for job in jobs_of(data, ("geometry",), PROBE)}


def test_each_sentence_is_embedded_once(data):
    seen = []

    def encode(sentences):
        seen.extend(sentences)
        return folders.bag_of_words(sentences)

    jobs = jobs_of(data, suite.GROUPS, PROBE)
    measure(callable_candidate("c", encode), jobs)
    assert len(seen) == len(set(seen))
    assert set(seen) == {sentence for job in jobs for sentence in job.sentences}


def test_embed_once_gives_rows_in_the_order_asked_for(monkeypatch):
    monkeypatch.setattr(suite, "_CHUNK", 7)
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


def test_the_average_needs_all_seven_whole_and_in_one_text(monkeypatch, tmp_path):
    names = dict.fromkeys(SEVEN, 24)
    for module in ("suite", "sts"):
        monkeypatch.setattr(f"diffcse.evaluation.{module}.PAIRS_IN", names)
    for seed, name in enumerate(SEVEN):
        folders.tsv(tmp_path, name, n=24, seed=seed)

    def measured():
        sets = find_data([tmp_path], groups=("sts",))
        found = report([callable_candidate("c", folders.bag_of_words)], sets, groups=("sts",))
        return found, found["results"][0]["averages"]["sts"]["value"]

    found, average = measured()
    values = [found["results"][0]["tasks"][f"sts/{name}"]["value"] for name in SEVEN]
    assert average == pytest.approx(np.mean(values), rel=1e-5)
    assert found["notes"] == []
    folders.write(tmp_path / "STS12.tsv", (tmp_path / "STS12.tsv").read_text().upper())
    assert measured()[1] is not None  # case alone is no matter: SentEval's SICK keeps its own
    text = (tmp_path / "STS13.tsv").read_text().replace("\n", " .\n").replace("\t", " .\t")
    folders.write(tmp_path / "STS13.tsv", text.replace(".0 .", ".0"))
    found, average = measured()
    assert average is None
    assert "STS13 tokenised" in found["notes"][0]
    (tmp_path / "STS13.tsv").unlink()
    assert measured()[1] is None


def test_stored_embeddings_are_an_encoder(tmp_path):
    path = folders.tsv(tmp_path / "data", "pets", n=20)
    pairs = read_pairs(path)
    sentences = list(dict.fromkeys([*pairs.first, *pairs.second]))
    np.save(tmp_path / "v.npy", folders.bag_of_words(sentences))
    folders.write(tmp_path / "v.txt", "".join(f"{s}\n" for s in sentences))
    found = check(evaluate({"mine": tmp_path / "v.npy", "words": folders.bag_of_words}, tmp_path / "data"))
    a, b = (result["tasks"]["sts/pets"] for result in found["results"])
    assert a == b
    assert [r["encoder"]["name"] for r in found["results"]] == ["mine", "words"]


def test_mistakes_from_python_are_named(tmp_path):
    folders.tsv(tmp_path, "pets")
    with pytest.raises(InputError, match="an encoder of type int"):
        evaluate([5], tmp_path)
    with pytest.raises(InputError, match="given twice"):
        evaluate([folders.bag_of_words] * 2, tmp_path)
    with pytest.raises(InputError, match="tasks 'stss'"):
        evaluate(folders.bag_of_words, tmp_path, tasks="stss")
    with pytest.raises(InputError, match="probe 'x'"):
        evaluate(folders.bag_of_words, tmp_path, probe="x")
