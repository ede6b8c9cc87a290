"""`diffcse evaluate` as a user meets it: tables that say what they show, JSON as promised, mistakes in one line."""

import json
import random

import jsonschema
import numpy as np
import pytest

from diffcse.config import load_recipe
from diffcse.encoder.load import load
from diffcse.encoder.save import save
from diffcse.evaluation.data import find_data
from diffcse.evaluation.report import read_schema
from diffcse.evaluation.sts import score_sts
from diffcse.method.build import build
from diffcse.method.inspect import conditional_gain
from diffcse.training.checkpoints import save_weights
from diffcse.training.collate import Collate
from diffcse.training.folder import PARTS
from tests.cli.runs import command, make_run
from tests.evaluation import folders
from tests.models import SENTENCES, save_tiny, save_with_pooler


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def model(tmp_path):
    save(load(save_tiny(tmp_path / "tiny", "bert"), pooling="mean"), tmp_path / "model", "# A model\n")
    return tmp_path / "model"


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "downstream"
    folders.sts_year(root, "STS12", n=6)
    folders.stsb(root, "dev", n=24)
    folders.trec(root, n=40)
    folders.mrpc(root, n=40)
    return root


def test_all_tasks_one_table_each(capsys, tmp_path, model, root):
    file = tmp_path / "scores.json"
    options = ("--tasks", "all", "--allow-partial", "--floors", "--details", "--json", file)
    code, out, err = command(capsys, "evaluate", model, "--data", root, *options)
    assert code == 0, err
    for part in (
        'aggregation "all"',
        "wmean: mean weighted by pairs",
        "STSB-dev",
        "surprise.OnWN",
        "test accuracy (%) of a linear probe (logistic)",
        "dev accuracy",
        "/ F1 ",
        "each sentence of a pair graded 5 must find the other",
        "alignment over",
        "TF-IDF, fitted on each set",
        "SIF, input embeddings of",
        "STS13",
    ):
        assert part in " ".join(out.split()), part
    found = json.loads(file.read_text())
    jsonschema.validate(found, read_schema())
    value = found["results"][0]["tasks"]["sts/STS12"]["value"]
    assert f"{value:.2f}" in out
    before = file.read_bytes()
    code, out, err = command(capsys, "evaluate", model, "--data", root, *options)
    assert file.read_bytes() == before
    assert "--no-cache" in out
    again = ("--sets", "STSB-dev", "--allow-partial", "--no-cache")
    code, out, err = command(capsys, "evaluate", model, "--data", root, *again)
    assert (code, "--no-cache" in out) == (0, False)


def test_embeddings_made_elsewhere(capsys, tmp_path, root):
    needed = tmp_path / "v.txt"
    base = ("--data", root, "--allow-partial", "--tasks", "transfer")
    code, out, err = command(capsys, "evaluate", "--list-sentences", needed, *base)
    assert code == 0, err
    sentences = needed.read_text().split("\n")[:-1]
    assert f"({len(sentences)} sentences)" in out
    np.save(tmp_path / "v.npy", folders.bag_of_words(sentences))
    code, out, err = command(capsys, "evaluate", tmp_path / "v.npy", *base)
    assert code == 0, err
    assert "TREC" in out
    code, _, err = command(capsys, "evaluate", tmp_path / "v.npy", *base[:3], "--tasks", "sts")
    assert (code, "has no embedding for" in err, "--list-sentences" in err) == (2, True, True)


def test_one_set_and_other_floors(capsys, tmp_path, model, root):
    vectors = folders.write(tmp_path / "v.txt", "the 1 2\ncat 3 1\na 0 1\nsea 2 2\n")
    text = folders.write(tmp_path / "text.txt", "\n".join(SENTENCES))
    options = ("--floors", "--floor-vectors", vectors, "--floor-text", text, "--sets", "STSB-dev", "--allow-partial")
    code, out, err = command(capsys, "evaluate", model, "--data", root, *options)
    assert code == 0, err
    assert "SIF, v.txt, fitted on text.txt" in out
    assert "STS12" not in out


@pytest.mark.parametrize("pooling", ["cls", "mean", "first_last", "top2", "pooler"])
def test_every_pooling_can_be_asked_for_and_is_told(capsys, tmp_path, root, pooling):
    plain, file = save_with_pooler(tmp_path / "plain", "bert"), tmp_path / "scores.json"
    options = ("--data", root, "--sets", "STSB-dev", "--allow-partial", "--pooling", pooling, "--json", file)
    code, out, err = command(capsys, "evaluate", plain, *options)
    assert code == 0, err
    assert f"encoder {plain}: pooling {pooling} (as asked for), up to 256 tokens" in " ".join(out.split())
    found = json.loads(file.read_text())
    jsonschema.validate(found, read_schema())
    encoder = found["results"][0]["encoder"]
    assert (encoder["name"], encoder["pooling"]) == (f"{plain} ({pooling})", pooling)
    assert encoder["pooling_note"] == "as asked for"
    pairs = find_data([root], only=["STSB-dev"], allow_partial=True).sts["STSB-dev"]
    expected = score_sts(load(plain, pooling=pooling), pairs).all.spearman
    assert found["results"][0]["tasks"]["sts/STSB-dev"]["value"] == pytest.approx(expected, abs=1e-3)


def test_a_folder_that_names_its_pooling_is_believed_and_an_untrained_pooler_refused(capsys, tmp_path, model, root):
    options = ("--data", root, "--sets", "STSB-dev", "--allow-partial")
    code, out, err = command(capsys, "evaluate", model, *options)
    assert code == 0, err
    assert "pooling mean (as its folder says)" in " ".join(out.split())
    code, out, err = command(capsys, "evaluate", tmp_path / "tiny", *options, "--pooling", "pooler")
    assert (code, "its pooler head was not trained" in err) == (2, True)


def run_with_parts(folder, **method):
    """A run of a random tiny model that kept its parts."""
    run = make_run(folder / "run", 3, model=str(save_tiny(folder / "tiny", "bert")), **method)
    config = load_recipe(str(run / "recipe.toml"))
    save_weights(build(config.method, seed=3)[0].trained_state(), run / PARTS)
    return run, config


def measure(capsys, run, tmp_path):
    """What is printed, and the report."""
    text, file = folders.write(tmp_path / "text.txt", "\n".join(SENTENCES)), tmp_path / "scores.json"
    code, out, err = command(capsys, "evaluate", run, "--tasks", "geometry", "--text", text, "--json", file)
    assert code == 0, err
    found = json.loads(file.read_text())
    jsonschema.validate(found, read_schema())
    return " ".join(out.split()), found


def test_conditional_gain_of_a_run_that_kept_its_parts(capsys, tmp_path):
    run, _ = run_with_parts(tmp_path)
    out, found = measure(capsys, run, tmp_path)
    assert "Conditional gain on text.txt, 80 sentences" in out
    assert "Geometry on text.txt: 80 distinct sentences" in out
    gain = found["results"][0]["conditional_gain"]
    assert gain["gain"] == pytest.approx(gain["shuffled"] - gain["own"], abs=1e-5)
    assert gain["tokens"] > 100
    assert (gain["generator"], list(gain["by_edit"])) == ("tiny", ["mlm"])
    assert gain["by_edit"]["mlm"]["gain"] == gain["gain"]
    assert "alone" not in out
    assert found["results"][0]["encoder"]["run"]["seed"] == 3


def test_conditional_gain_of_each_edit_alone_is_that_of_a_model_with_this_edit(capsys, tmp_path):
    import dataclasses

    edits = ("mlm", "causal_lm", "replace", "delete")
    causal = save_tiny(tmp_path / "causal", "gpt2", tokens="bert")
    run, config = run_with_parts(tmp_path, edits=edits, causal_generator=str(causal))
    out, found = measure(capsys, run, tmp_path)
    gain = found["results"][0]["conditional_gain"]
    assert (gain["edits"], gain["generator"]) == (list(edits), "tiny, causal")
    names = {edit: part["generator"] for edit, part in gain["by_edit"].items()}
    assert names == {"mlm": "tiny", "causal_lm": "causal", "replace": None, "delete": None}
    assert "all 4 together" in out
    assert all(f"{edit} alone" in out for edit in edits)
    distinct = list(SENTENCES)
    random.Random(0).shuffle(distinct)
    for edit in ("causal_lm", "delete"):
        model, tokenizer = build(dataclasses.replace(config.method, edits=(edit,)), seed=3)
        collate = Collate(tokenizer, config.training.max_tokens)
        expected = conditional_gain(model, [collate(distinct[:64]), collate(distinct[64:])])
        assert gain["by_edit"][edit]["gain"] == pytest.approx(expected.gain, rel=1e-4)
        assert gain["by_edit"][edit]["tokens"] == expected.tokens
    figures = [part["own"] for part in gain["by_edit"].values()]
    assert len({*figures, gain["own"]}) == 5


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        ({"pairing": "next"}, 'method.pairing = "next"'),
        ({"condition": "none"}, 'method.condition = "none"'),
        ({"difference": "corrective_lm"}, 'method.difference = "corrective_lm"'),
    ],
)
def test_where_there_is_no_conditional_gain_a_note_says_why(capsys, tmp_path, method, reason):
    run, _ = run_with_parts(tmp_path, **method)
    out, found = measure(capsys, run, tmp_path)
    assert "Geometry on text.txt" in out
    assert f"conditional gain is not defined: {reason}" in out
    assert "conditional_gain" not in found["results"][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "MODEL"], "no data: give --texts"),
        (["evaluate", "--data", "ROOT"], "no model"),
        (["evaluate", "MODEL", "--data", "ROOT"], "STS12-en-test: 3108 pairs expected, 30 found"),
        (["evaluate", "MODEL", "--data", "ROOT", "--allow-partial", "--sets", "STS14"], "no set STS14"),
        (["evaluate", "MODEL", "MODEL", "--data", "ROOT", "--allow-partial"], "given twice"),
        (["evaluate", "none.npy", "--data", "ROOT", "--allow-partial"], "needs its sentences beside it"),
    ],
)
def test_mistakes_are_one_line(capsys, model, root, arguments, message):
    names = {"MODEL": model, "ROOT": root}
    code, _, err = command(capsys, *(names.get(a, a) for a in arguments))
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_idle_options_are_one_note(capsys, model, root, tmp_path):
    options = ("--probe", "adam", "--floor-text", tmp_path / "none.txt", "--pooling", "mean")
    base = ("--data", root, "--sets", "STSB-dev", "--allow-partial")
    code, out, err = command(capsys, "evaluate", model, *base, *options)
    assert (code, err) == (0, "")
    (note,) = [line for line in out.splitlines() if line.startswith("note")]
    assert note.endswith("--probe, --floor-text")
    code, out, _ = command(capsys, "evaluate", model, *base, "--label", "topic", "--column", "body")
    assert (code, "here: --column, --label\n" in out) == (0, True)


def test_own_labelled_texts(capsys, tmp_path, model):
    rows = [f"{sentence},{'ab'[number % 2]}" for number, sentence in enumerate(s.replace(",", "") for s in SENTENCES)]
    table, file = folders.write(tmp_path / "own.csv", "\n".join(["body,topic", *rows])), tmp_path / "own.json"
    options = ("--texts", table, "--column", "body", "--label", "topic")
    code, out, err = command(capsys, "evaluate", model, model, *options, "--json", file)
    assert code == 0, err
    report = json.loads(file.read_text())
    assert [list(result)[1:] for result in report["results"]] == [
        ["precision@10", "difference", "kmeans_accuracy", "nmi", "few_shot"],
        ["precision@10", "difference", "kmeans_accuracy", "nmi", "few_shot"],
        ["precision@10", "difference"],
        ["precision@10", "difference"],
    ]
    assert report["results"][1]["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    value = report["results"][0]["precision@10"]["value"]
    assert f"{value:.1f} (" in out
    assert "TF-IDF" in out
    assert "BM25" in out
    code, out, _ = command(capsys, "evaluate", model, *options, "--tasks", "transfer", "--sets", "MR", "--details")
    assert (code, "here: --tasks, --sets, --details\n" in out) == (0, True)
    code, _, err = command(capsys, "evaluate", model, "--texts", table)
    assert (code, "own.csv" in err, "'text'" in err) == (2, True, True)
    for other in (("--data", "pairs"), ("--pairs", table)):
        code, _, err = command(capsys, "evaluate", model, "--texts", table, *other)
        assert (code, "--texts" in err) == (2, True)


def test_own_questions_and_answers(capsys, tmp_path, model):
    texts = [sentence.replace(",", "") for sentence in SENTENCES]
    rows = [f"{question},{answer}" for question, answer in zip(texts[:20], texts[20:40], strict=True)]
    table = folders.write(tmp_path / "qa.csv", "\n".join(["asked,reply", *rows, "no\u200b answer,"]))
    options = ("--pairs", table, "--column", "asked", "--answer", "reply", "--json", tmp_path / "qa.json")
    code, out, err = command(capsys, "evaluate", model, *options)
    assert (code, err) == (0, "")
    report = json.loads((tmp_path / "qa.json").read_text())
    assert [result["encoder"]["name"] for result in report["results"][1:]] == ["TF-IDF", "BM25"]
    assert {"MRR@10", "recall@1", "recall@5", "recall@10", "difference"} <= report["results"][0].keys()
    assert "1 rows with an empty cell left out" in " ".join(out.split())
    assert "note     1 line with invisible characters" in out
    code, _, err = command(capsys, "evaluate", model, "--pairs", table, "--column", "asked")
    assert (code, "qa.csv" in err, "'answer'" in err, "--answer" in err) == (2, True, True, True)
    code, _, err = command(capsys, "evaluate", model, "--pairs", tmp_path / "none.csv")
    assert (code, "none.csv" in err) == (2, True)


def test_own_graded_pairs(capsys, tmp_path, model):
    rows = [f"{i % 5}\t{a}\t{b}" for i, (a, b) in enumerate(zip(SENTENCES[:20], SENTENCES[20:40], strict=True))]
    file = folders.write(tmp_path / "graded.tsv", "\n".join(rows).replace("1\t", "1\t\u200b"))
    options = ("--json", tmp_path / "graded.json", "--limits", "max_line_bytes=9")
    code, out, err = command(capsys, "evaluate", model, "--graded", file, *options)
    assert (code, err) == (0, "")
    assert "without effect here: --limits" in out
    assert "note     4 lines with invisible characters" in out
    assert [list(each)[1:] for each in json.loads((tmp_path / "graded.json").read_text())["results"]] == [
        ["Spearman", "difference"]
    ] * 2
