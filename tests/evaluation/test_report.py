"""The report: as its schema says, and the same bytes again."""

import json

import jsonschema
import numpy as np
import pytest

from diffcse.encoder.load import load
from diffcse.errors import InputError
from diffcse.evaluation.candidates import callable_candidate, encoder_candidate, floor_candidates
from diffcse.evaluation.data import find_data
from diffcse.evaluation.probes import Logistic
from diffcse.evaluation.report import build_report, evaluate, read_schema
from diffcse.evaluation.sts import SEVEN, read_pairs, score_sts
from tests.evaluation import folders
from tests.models import save_tiny

PROBE = Logistic(folds=3)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def check(found):
    jsonschema.Draft202012Validator.check_schema(read_schema())
    jsonschema.validate(json.loads(json.dumps(found, allow_nan=False)), read_schema())
    return found


def test_everything_is_as_the_schema_says(data, tmp_path):
    model = load(save_tiny(tmp_path / "m", "bert"), pooling="mean")
    run = {"recipe": "mini_cpu", "method_sha256": "0" * 64, "seed": 3, "train_sha256": "0"}
    rows = [encoder_candidate("tiny", model, run=run), callable_candidate("words", folders.bag_of_words)]
    rows += floor_candidates(rows)
    found = check(build_report(rows, data, probe=PROBE))
    names = [
        "tiny (mean)",
        "words",
        "TF-IDF, fitted on each set",
        "SIF, input embeddings of tiny (mean), fitted on each set",
    ]
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


def test_the_average_needs_all_seven_whole_and_in_one_text(monkeypatch, tmp_path):
    names = dict.fromkeys(SEVEN, 24)
    for module in ("jobs", "sts"):
        monkeypatch.setattr(f"diffcse.evaluation.{module}.PAIRS_IN", names)
    for seed, name in enumerate(SEVEN):
        folders.tsv(tmp_path, name, n=24, seed=seed)

    def measured():
        sets = find_data([tmp_path], groups=("sts",))
        found = build_report([callable_candidate("c", folders.bag_of_words)], sets, groups=("sts",))
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
    assert "STS13 is tokenised" in found["notes"][0]
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
