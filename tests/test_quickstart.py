"""The quickstart, shortened: fewer steps and less of the library, but every part of it for real."""

import dataclasses
import itertools

import numpy as np
import pytest
from rich.console import Console

import diffcse.quickstart as quickstart
from diffcse.errors import InputError
from diffcse.evaluation.floors import TfIdf
from diffcse.evaluation.sts import OWN_PAIRS, read_pairs
from diffcse.record import read_record
from diffcse.text.corpus import Corpus
from diffcse.text.stdlib import read_stdlib


@pytest.fixture(scope="module")
def library():
    whole = read_stdlib()
    return dataclasses.replace(whole, docstrings=whole.docstrings[::6])


@pytest.fixture(scope="module")
def result(library, tmp_path_factory):
    output = tmp_path_factory.mktemp("quickstart") / "out"
    console = Console(record=True, width=160)
    original = quickstart.read_stdlib
    quickstart.read_stdlib = lambda: library
    try:
        record = quickstart.quickstart(output, steps=6, seed=1, resume=False, console=console)
        again = Console(record=True, width=160)
        repeated = quickstart.quickstart(output, steps=6, seed=1, resume=True, console=again)
        with pytest.raises(InputError, match="not empty"):
            quickstart.quickstart(output, steps=6, seed=1, resume=False, console=console)
    finally:
        quickstart.read_stdlib = original
    return output, record, console.export_text(), repeated


def test_table_rows_and_columns(result):
    _, record, shown, _ = result
    names = ["TF-IDF", "start", "SimCSE", "contrast alone", "DiffCSE"]
    assert [row[0] for row in record.scores["rows"]] == names
    for row in record.scores["rows"]:
        assert all(cell in shown for cell in row)
        assert len(row) == len(record.scores["columns"])
    exact = {row["encoder"]: row for row in record.scores["exact"]}
    assert exact["TF-IDF"]["retrieval"]["mrr@10"] > 0.1
    assert exact["start"]["pairs"] != exact["SimCSE"]["pairs"]
    for row in exact.values():
        assert 0 <= row["retrieval"]["recall@10"] <= 1
        assert -100 <= row["pairs"]["all"]["spearman"] <= 100
        assert row["uniformity"] < 0 < row["alignment"]


def _without(data, keys):
    return {key: value for key, value in data.items() if key not in keys}


def test_methods_had_the_same_start_steps_and_seed(result):
    output, record, _, _ = result
    diffcse = read_record(output / "diffcse" / "run.json")
    for name, differs in (("simcse", {"positives"}), ("contrast-alone", set())):
        other = read_record(output / name / "run.json")
        assert other.config["training"] == {**diffcse.config["training"], "discriminator_learning_rate": None}
        needed = ("models_sha256", "following_sha256")  # not all have a generator or read neighbours
        assert _without(other.data, needed) == _without(diffcse.data, needed)
        assert other.data["models_sha256"]["model"] == diffcse.data["models_sha256"]["model"]
        changed = {k for k in other.config["method"] if other.config["method"][k] != diffcse.config["method"][k]}
        assert {k for k in other.config if other.config[k] != diffcse.config[k]} == {"method", "training"}
        term = {"difference", "condition", "rtd_weight", "generator"}  # the generator in use is written down
        assert changed == term | differs
        assert not any("without effect" in warning for warning in other.warnings)
    assert record.data["train_sha256"] == diffcse.data["sha256"]


def test_neighbours_are_of_one_docstring(library):
    documents = {doc.sentences for doc in library.docstrings}
    corpus = Corpus.from_sentences(library.documents(), documents=True)
    pairs = {pair for sentences in documents for pair in itertools.pairwise(sentences)}
    followed = [(corpus[i], corpus[j]) for i, j in enumerate(corpus.following.tolist()) if j >= 0]
    assert len(followed) > 500
    assert set(followed) <= pairs
    assert sorted(corpus) == sorted(library.split()[0])


def test_held_out_text_is_not_trained_on(library):
    train, held_out = library.split()
    assert not set(train) & {sentence for doc in held_out for sentence in doc.sentences}


def test_verdicts_are_words_of_the_intervals(result):
    _, record, shown, _ = result
    assert len(record.scores["verdicts"]) == 8
    for verdict in record.scores["verdicts"]:
        low, high = verdict["low"], verdict["high"]
        assert verdict["verdict"] == ("better" if low > 0 else "worse" if high < 0 else "tie")
        assert low <= verdict["difference"] <= high
        assert verdict["words"] in shown


def test_what_rounds_to_nothing_is_said_so():
    pairs = read_pairs(OWN_PAIRS)
    encode = TfIdf([*pairs.first, *pairs.second])
    row = quickstart._row("x", encode, encode, pairs, list(pairs.first[:9]), list(pairs.second[:9]))
    for verdict in quickstart._verdicts(
        dict.fromkeys(["TF-IDF", "start", "SimCSE", "contrast alone", "DiffCSE"], row), pairs
    ):
        assert verdict["verdict"] == "tie"
        assert verdict["words"].endswith("(95 % interval less than 0.05 points to either side)")


def test_searches_are_picked_by_rank():
    ranks = {"TF-IDF": [9, 1, 4, 2, 40, 5], "start": [1] * 6, "SimCSE": [1] * 6, "DiffCSE": [1, 1, 1, 1, 1, 2]}
    queries, documents = [f"query {i}" for i in range(6)], [f"document {i}" for i in range(6)]
    searches = quickstart._searches({name: np.array(own) for name, own in ranks.items()}, queries, documents)
    assert [example["query"] for example in searches["examples"]] == ["query 4", "query 0", "query 2"]
    assert searches["examples"][0] == {
        "query": "query 4",
        "answer": "document 4",
        "ranks": {"TF-IDF": 40, "start": 1, "DiffCSE": 1},
    }
    assert searches["first"] == {"TF-IDF": 1, "start": 6, "DiffCSE": 5}
    assert searches["of"] == 6


def test_without_a_convincing_search_none_is_shown():
    searches = quickstart._searches(dict.fromkeys(quickstart.SHOWN, np.array([1, 2])), ["a", "b"], ["c", "d"])
    console = Console(record=True, width=160)
    quickstart._print_searches(searches, console)
    assert searches["examples"] == []
    assert "query" not in console.export_text(clear=False)
    assert "of 2 searches" in console.export_text()


def test_searches_are_printed_and_kept(result):
    _, record, shown, _ = result
    searches = record.scores["searches"]
    assert f"of {searches['of']} searches" in shown
    for example in searches["examples"]:
        assert example["query"] in shown
        assert example["ranks"]["DiffCSE"] == 1
        assert example["ranks"]["TF-IDF"] > 3


def test_only_diffcse_figures(result):
    _, record, shown, _ = result
    gain = record.scores["conditional_gain"]
    assert gain["gain"] == pytest.approx(gain["shuffled"] - gain["own"])
    assert gain["tokens"] > 500
    assert "conditional gain" in shown
    assert len(record.scores["edited"]) == 2
    assert any(token["replaced"] for tokens in record.scores["edited"] for token in tokens)


def test_what_it_leaves(result):
    output, record, shown, _ = result
    assert {p.name for p in output.iterdir()} == {"simcse", "contrast-alone", "diffcse", "run.json", "report.html"}
    assert read_record(output / "run.json").scores == record.scores
    assert shown.splitlines()[0].endswith("about 1 min. It needs no network.")
    assert "diffcse train your-text.txt" in shown.splitlines()[-1]


def test_repeated_it_shows_the_same(result):
    _, record, _, repeated = result
    for key in ("rows", "verdicts", "conditional_gain", "edited"):
        assert repeated.scores[key] == record.scores[key], key
