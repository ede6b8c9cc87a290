"""Own labelled texts: values by hand, precision@10 against a plain loop, and what a bad table is told."""

import numpy as np
import pandas as pd
import pytest

from diffcse.errors import InputError
from diffcse.evaluation.candidates import callable_candidate
from diffcse.evaluation.own_report import evaluate_own
from diffcse.evaluation.own_texts import (
    bootstrap,
    cluster_agreement,
    draw_queries,
    few_shot_accuracy,
    neighbour_precision,
    read_labelled,
)


def circle(*degrees):
    """Points on a circle, so that a cosine is a difference of angles; lengths differ."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.arange(1, len(degrees) + 1)[:, None]


def precision_by_loop(rows, labels, queries, k):
    """The definition, one query at a time: other labels win ties."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found = []
    for query in queries:
        others = [i for i in range(len(rows)) if i != query]
        others.sort(key=lambda i: (-round(float(unit[i] @ unit[query]), 7), labels[i] == labels[query]))
        found.append(sum(labels[i] == labels[query] for i in others[:k]) / k)
    return found


def test_neighbours_by_hand():
    # 0° is nearest to 10° (same) and 25° (other); 10° to 0° (same) and 25° (other); 25° to 10° and 0°, both other.
    rows, labels = circle(0, 10, 25, 180), np.array([0, 0, 1, 1])
    assert neighbour_precision(rows, labels, np.arange(4), k=2).tolist() == [0.5, 0.5, 0.0, 0.5]
    assert neighbour_precision(rows, labels, np.array([3, 0]), k=1).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_neighbours_as_the_loop_finds_them(dtype):
    random = np.random.default_rng(3)
    labels = random.integers(0, 4, 120)
    rows = (random.normal(size=(4, 8))[labels] + 1.5 * random.normal(size=(120, 8))).astype(dtype)
    queries = draw_queries(120)
    precision = neighbour_precision(rows, labels, queries)
    assert precision.tolist() == pytest.approx(precision_by_loop(rows, labels, queries, 10))
    assert 0.3 < precision.mean() < 1


@pytest.mark.parametrize("order", [np.sort, np.asarray])
def test_a_collapsed_encoder_finds_nothing_in_any_order_of_the_file(order):
    labels = order(np.arange(40) % 2)
    assert neighbour_precision(np.ones((40, 3), np.float32), labels, np.arange(40)).tolist() == [0] * 40


def test_queries_are_distinct_and_at_most_2000():
    assert sorted(draw_queries(30)) == list(range(30))
    assert len(set(draw_queries(5000).tolist())) == 2000


def test_clusters_by_hand():
    # Two clear groups of 3 and 5; one of the five carries the other label, so 7 of 8 are right.
    rows = circle(0, 1, 2, 90, 91, 92, 93, 94) / np.arange(1, 9)[:, None]
    accuracy, nmi = cluster_agreement(rows, np.array([7, 7, 7, 2, 2, 2, 2, 7]), seed=0)
    assert accuracy == 7 / 8
    assert 0 < nmi < 1
    assert cluster_agreement(rows, np.array([1, 1, 1, 0, 0, 0, 0, 0]), seed=1) == (1.0, pytest.approx(1.0))


def test_few_examples():
    labels = np.repeat([3, 5], 30)
    apart = np.where(labels[:, None] == 3, [[1.0, 0.0]], [[0.0, 1.0]])
    assert few_shot_accuracy(apart, labels, seed=0) == 1.0
    flipped = apart.copy()
    flipped[0] = flipped[0, ::-1]
    # Text 0 lies among the other label. Where it is not among the ten that are seen, it is the one mistake in 40.
    assert {few_shot_accuracy(flipped, labels, seed) for seed in range(6)} == {1.0, 39 / 40}
    single = few_shot_accuracy(np.vstack([apart, [[0.0, 1.0]]]), np.append(labels, 9), seed=0)
    assert single == 40 / 41, "a label with one text cannot be learned"


def test_an_interval_contains_its_mean_and_narrows_with_more_queries():
    few, many = (bootstrap(np.random.default_rng(0).integers(0, 2, n).astype(float)) for n in (50, 5000))
    assert few["low"] < few["value"] < few["high"]
    assert many["high"] - many["low"] < (few["high"] - few["low"]) / 5
    assert bootstrap(np.full(20, 0.25)) == {"value": 25.0, "low": 25.0, "high": 25.0}


WORDS = {"cat": ["purrs", "meows", "hunts"], "sea": ["waves", "salt", "tide"]}


def rows_of_text(n=24):
    return [
        (f"the {label} {WORDS[label][i % 3]} number{i}", label) for i, label in enumerate(["cat", "sea"] * (n // 2))
    ]


def write_table(file, rows, header="text,topic"):
    file.write_text("\n".join([header, *(f"{a},{b}" for a, b in rows)]) + "\n")
    return file


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_a_report_compares_encoders_on_the_same_queries(tmp_path):
    data = read_labelled(
        write_table(tmp_path / "t.csv", [*rows_of_text(), ("no label", ""), ("", "cat")]), "text", "topic"
    )
    assert (len(data.texts), data.names, data.empty) == (24, ("cat", "sea"), 2)
    knows = callable_candidate("knows", lambda texts: np.array([[1.0, 0] if "cat" in t else [0, 1.0] for t in texts]))
    blind = callable_candidate("blind", lambda texts: np.ones((len(texts), 2)))
    steps = []
    report = evaluate_own([blind, knows], data, progress=lambda *step: steps.append(step))
    first, second, floor, ranked = report["results"]
    assert first["precision@10"]["value"] == first["difference"]["value"] == 0
    assert second["precision@10"] == second["difference"] == {"value": 100.0, "low": 100.0, "high": 100.0}
    assert second["kmeans_accuracy"]["value"] == second["few_shot"]["value"] == 100
    assert first["few_shot"]["high"] <= 50
    assert floor["encoder"]["name"] == "TF-IDF"
    assert floor["precision@10"]["value"] > 90
    assert ranked["encoder"]["name"] == "BM25"
    assert ranked["precision@10"]["value"] > 90
    assert "knows" in str(report)
    assert "<table>" in report._repr_html_()
    assert report["data"]["texts"] == 24
    assert {name for name, *_ in steps} == {"blind", "knows"}


def test_labels_may_be_numbers_in_json(tmp_path):
    lines = [f'{{"body": "text {i}", "topic": {i % 3}}}' for i in range(12)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    assert read_labelled(tmp_path / "t.jsonl", "body", "topic").names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("rows", "column", "label", "parts"),
    [
        (rows_of_text(), "text", "topics", ["line 1", "topics", "'topic'"]),
        (rows_of_text(), "body", "topic", ["line 1", "body"]),
        (rows_of_text(10), "text", "topic", ["10", "11", "text", "topic"]),
        ([(a, "cat") for a, _ in rows_of_text()], "text", "topic", ["topic", "two texts"]),
        ([(a, str(i)) for i, (a, _) in enumerate(rows_of_text())], "text", "topic", ["topic", "two texts"]),
    ],
)
def test_a_bad_table_is_one_error_with_file_and_column(tmp_path, rows, column, label, parts):
    file = write_table(tmp_path / "t.csv", rows)
    with pytest.raises(InputError) as error:
        read_labelled(file, column, label)
    for part in [str(file), *parts]:
        assert part in str(error.value), part


def test_plain_text_has_no_labels(tmp_path):
    (tmp_path / "t.txt").write_text("a text\n" * 12)
    with pytest.raises(InputError, match=r"t\.txt"):
        read_labelled(tmp_path / "t.txt")


def test_a_table_in_memory_is_read_as_its_file(tmp_path):
    file = write_table(tmp_path / "t.csv", [*rows_of_text(), ("no label", "")])
    wanted, found = read_labelled(file, label="topic"), read_labelled(pd.read_csv(file), label="topic")
    assert (found.texts, found.labels_N.tolist(), found.empty) == (wanted.texts, wanted.labels_N.tolist(), 1)
    assert found.sha256 == wanted.sha256
    with pytest.raises(InputError, match="label = 'topics'"):
        read_labelled(pd.read_csv(file), label="topics")
