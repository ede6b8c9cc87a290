"""BEIR's layout, and the DiffCSE paper's search on graded pairs."""

import re
from pathlib import Path

import numpy as np
import pytest

from diffcse.errors import InputError
from diffcse.evaluation.beir import pairs_as_collection, read_collection
from diffcse.evaluation.data import find_data
from diffcse.evaluation.sts import PairSet
from tests.evaluation import folders

CORPUS = {"d1": "the sea", "d2": "a king", "d3": "bread"}
QUERIES = {"q1": "water", "q2": "crown", "q3": "nobody asks"}


def test_reads_what_is_there(tmp_path):
    folder = folders.collection(tmp_path / "c", CORPUS, QUERIES, [("q2", "d2", 2), ("q1", "d1", 1), ("q1", "d3", 0)])
    text = (folder / "corpus.jsonl").read_text().replace('"title": ""', '"title": "On"', 1)
    folders.write(folder / "corpus.jsonl", text)
    found = read_collection(folder)
    assert (found.name, found.queries, found.documents) == ("c", ("water", "crown"), ("On the sea", "a king", "bread"))
    assert found.relevant == ({0: 1.0}, {1: 2.0})
    assert found.excluded == (frozenset(), frozenset())
    assert found.unjudged == 1
    assert found.sentences() == ["water", "crown", "On the sea", "a king", "bread"]


def test_a_text_is_one_line_and_a_collection_has_a_name(tmp_path, monkeypatch):
    folder = folders.collection(tmp_path / "c", {"d1": "the\nsea \t is wide"}, {"q1": "water\r\n"}, [("q1", "d1", 1)])
    assert read_collection(folder).sentences() == ["water", "the sea is wide"]
    (tmp_path / "link").symlink_to(folder)
    assert read_collection(tmp_path / "link").name == "link"
    monkeypatch.chdir(folder)
    assert read_collection(Path()).name == "c"
    assert [*find_data([Path()], groups=("retrieval",)).collections] == ["c"]


def test_a_query_that_is_a_document_does_not_find_itself(tmp_path):
    folder = folders.collection(tmp_path / "c", CORPUS, {"d1": "the sea"}, [("d1", "d2", 1)])
    assert read_collection(folder).excluded == (frozenset({0}),)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("corpus.jsonl", '{"_id": "a", "text": "b"}\nnothing\n', "corpus.jsonl, line 2: each line is a JSON object"),
        ("corpus.jsonl", '{"_id": "a"}\n', "corpus.jsonl, line 1: each line is a JSON object"),
        ("corpus.jsonl", "[1]\n", "corpus.jsonl, line 1: each line is a JSON object"),
        ("corpus.jsonl", '{"_id": 1, "text": "b"}\n', 'line 1: "_id", "text" and "title" must be strings'),
        ("queries.jsonl", '{"_id": "q", "text": "b"}\n' * 2, "queries.jsonl, line 2: the id 'q'"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\td9\t1\n", "test.tsv, line 2: document 'd9' is in neither"),
        ("qrels/test.tsv", "h\nq9\td1\t1\n", "test.tsv, line 2: query 'q9' is in neither"),
        ("qrels/test.tsv", "h\nq1\td1\n", "test.tsv, line 2: each line is query-id, corpus-id and a number"),
        ("qrels/test.tsv", "h\nq1\td1\t0\n", "test.tsv: no judgement above 0"),
        ("qrels/test.tsv", "", "test.tsv: is empty"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path, file, text, message):
    folder = folders.collection(tmp_path / "c", CORPUS, QUERIES, [("q1", "d1", 1)])
    folders.write(folder / file, text)
    with pytest.raises(InputError, match=re.escape(message)):
        read_collection(folder)


def test_missing_files_are_named(tmp_path):
    folder = folders.collection(tmp_path / "c", CORPUS, QUERIES, [("q1", "d1", 1)])
    (folder / "qrels/test.tsv").unlink()
    with pytest.raises(InputError, match=r"lacks qrels/test\.tsv"):
        read_collection(folder)


def test_sentences_of_pairs_graded_five_search_each_other():
    rows = [(5, "a", "b"), (4.9, "c", "d"), (5, "b", "e"), (5, "f", "f")]
    scores, first, second = zip(*rows, strict=True)
    pairs = PairSet("STSB-test", np.array(scores), first, second, ("x",) * 4, "sha")
    found = pairs_as_collection(pairs)
    assert found.documents == ("a", "c", "b", "f", "d", "e")
    assert found.queries == ("a", "b", "e")
    assert found.relevant == ({2: 1.0}, {0: 1.0, 5: 1.0}, {2: 1.0})
    assert found.excluded == (frozenset({0}), frozenset({2}), frozenset({5}))
    none = PairSet("p", np.array([1.0, 2, 3]), ("a",) * 3, ("b",) * 3, ("x",) * 3, "")
    assert pairs_as_collection(none) is None
