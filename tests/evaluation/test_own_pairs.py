"""Questions with answers and graded pairs: values by hand, floors by loops, the start beside a run."""

import json
import math

import numpy as np
import pytest

import diffcse
from diffcse.config import load_recipe, to_dict
from diffcse.errors import InputError
from diffcse.evaluation.floors import Bm25, Pca
from diffcse.evaluation.own_pairs import Grades, read_answers, read_graded, value_of
from diffcse.evaluation.own_report import evaluate_own, with_starts
from diffcse.evaluation.sts import PairSet
from diffcse.record import Record
from tests.models import save_tiny

TABLE = {
    "question": [*(f"q{i}" for i in range(12)), "q0", "a5", ""],
    "answer": [*(f"a{i}" for i in range(12)), "a1", "a6", "a1"],
}


def test_equal_questions_share_their_answers_and_do_not_find_themselves():
    answers = read_answers(TABLE)
    found = answers.collection
    assert (len(found.queries), len(found.documents), answers.empty) == (13, 12, 1)
    assert found.relevant[0] == {0: 1.0, 1: 1.0}
    assert found.excluded[found.queries.index("a5")] == {5}


def test_ranks_and_recall_by_hand():
    answers = read_answers({"question": [f"q{i}" for i in range(12)], "answer": [f"a{i}" for i in range(12)]})
    # q_i is nearest to a_(i+1), then to a_i; the last finds its own answer first.
    places = {f"q{i}": 10 * min(i + 0.6, 11) for i in range(12)} | {f"a{i}": 10 * i for i in range(12)}
    angle = {name: np.radians(place) for name, place in places.items()}
    encode = lambda names: np.array([[np.cos(angle[n]), np.sin(angle[n])] for n in names])  # noqa: E731
    values = answers.values(encode)
    assert values["MRR@10"].tolist() == [50.0] * 11 + [100.0]
    assert values["recall@1"].sum() == 100
    assert values["recall@5"].tolist() == [100.0] * 12


def test_bm25_is_its_formula():
    documents = ["the cat sat down", "the the dog ran far away", "a cat and a cat", "birds sing"]
    queries = ["the cat cat", "dog", "nothing"]
    ((_, scores),) = Bm25().blocks(queries, documents)
    split = [[word for word in text.split() if len(word) > 1] for text in documents]
    mean = sum(map(len, split)) / len(split)
    for row, query in zip(scores, queries, strict=True):
        for value, words in zip(row, split, strict=True):
            expected = 0.0
            for word in set(query.split()):
                held, times = sum(word in each for each in split), words.count(word)
                idf = math.log(1 + (len(split) - held + 0.5) / (held + 0.5))
                expected += idf * times * 2.2 / (times + 1.2 * (0.25 + 0.75 * len(words) / mean))
            assert value == pytest.approx(expected)


def test_pca_keeps_the_directions_that_vary_most():
    random = np.random.default_rng(0)
    rows = random.normal(size=(60, 5)) * [9, 5, 1e-3, 1e-3, 1e-3]
    texts = [str(i) for i in range(60)]
    reduced = Pca(lambda names: rows[[int(name) for name in names]], texts, 2)(texts)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    kept = unit - unit.mean(0)
    np.testing.assert_allclose(reduced @ reduced.T, kept @ kept.T, atol=1e-4)


def test_grades_against_the_plain_correlation():
    pairs = PairSet("p", np.array([1.0, 2.0, 3.0, 5.0]), tuple("abcd"), tuple("efgh"), ("p",) * 4, "")
    data = Grades(pairs)
    assert value_of(data, np.array([0.1, 0.2, 0.3, 0.4])) == pytest.approx(100)
    draws = data.draws(np.array([0.4, 0.3, 0.2, 0.1]))
    assert len(draws) == 1000
    assert set(np.round(draws)) <= {-100.0, 0.0}, "a draw of one pair alone has no correlation"
    with pytest.raises(InputError, match=r"none\.tsv"):
        read_graded("none.tsv")


@pytest.mark.parametrize(
    ("table", "column", "parts"),
    [
        ({"question": ["a"] * 9, "answer": list("abcdefghi")}, "question", ["9", "answer"]),
        ({"ask": ["a"], "answer": ["b"]}, "question", ["column", "question"]),
        ({"question": ["a", "b"], "answer": ["b"]}, "question", ["answer", "1", "2"]),
    ],
)
def test_a_bad_table_is_named(table, column, parts):
    with pytest.raises(InputError) as error:
        read_answers(table, column)
    assert all(part in str(error.value) for part in parts)


def test_python_measures_own_data_and_prints_a_table():
    encode = lambda texts: np.eye(13)[[int(t[1:]) for t in texts]]  # noqa: E731
    table = {"question": [f"q{i}" for i in range(12)], "answer": [f"a{i}" for i in range(12)]}
    report = diffcse.evaluate({"knows": encode}, pairs=table)
    assert report["results"][0]["MRR@10"] == {"value": 100.0, "low": 100.0, "high": 100.0}
    assert json.loads(json.dumps(report))["schema"] == "diffcse-own-texts/1"
    assert "knows" in repr(report)
    with pytest.raises(InputError, match="texts and pairs"):
        diffcse.evaluate({"knows": encode}, texts=table, pairs=table)
    with pytest.raises(InputError, match="no encoder"):
        evaluate_own([], read_answers(table))


def test_the_start_of_a_run_stands_first(tmp_path):
    save_tiny(tmp_path / "start", "bert")
    config = to_dict(load_recipe("adapt"))
    config["method"] |= {"model": str(tmp_path / "start"), "pooling": "mean"}
    save_tiny(tmp_path / "run", "bert")
    Record(kind="train", config=config, seed=0, status="complete").write(tmp_path / "run" / "run.json")
    candidates, notes = with_starts([tmp_path / "run"], "mean")
    assert [each.name for each in candidates] == [f"start: {tmp_path / 'start'} (mean)", f"{tmp_path / 'run'} (mean)"]
    assert not notes
    candidates, _ = with_starts([tmp_path / "start", tmp_path / "run"], "mean")
    assert len(candidates) == 2
    (tmp_path / "start" / "config.json").unlink()
    candidates, notes = with_starts([tmp_path / "run"], "mean")
    assert len(candidates) == len(notes) == 1
