"""Duplicates against loops over all pairs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import diffcse
from diffcse.errors import InputError
from diffcse.grouping import duplicates
from diffcse.grouping.duplicates import dedup, equal_texts, near_rows, near_words
from tests.models import SENTENCES, save_tiny


def test_equal_texts_differ_in_case_space_and_marks_at_word_edges_alone():
    texts = ["Is it  C++?", "is it C++", "Is it C#?", "“Is it” (C++)!", ".NET", "", " ", "?!", "a.b", "ab"]
    assert [(each.row, each.kept) for each in equal_texts(texts)] == [(1, 0), (3, 0), (6, 5)]


@settings(max_examples=40)
@given(st.lists(st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=9), min_size=2, max_size=40))
def test_near_words_are_those_of_a_loop(lists):
    texts = list(dict.fromkeys(" ".join(dict.fromkeys(words)) for words in lists))
    kept, expected = [], {}
    for row, text in enumerate(texts):
        own = set(text.split())
        scores = [len(own & set(texts[k].split())) / len(own | set(texts[k].split())) for k in kept]
        if scores and max(scores) >= 0.8:
            expected[row] = max(scores)
        else:
            kept.append(row)
    near = list(near_words(texts))
    assert {each.row: pytest.approx(each.score) for each in near} == expected
    assert all(each.kept in kept for each in near)


def test_near_rows_are_those_of_a_loop_whatever_the_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(12, 4))[rng.integers(0, 12, 60)] + 0.2 * rng.normal(size=(60, 4))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    kept, expected = [], {}
    for row in range(60):
        scores = {k: float(rows[row] @ rows[k]) for k in kept}
        best = max(scores, key=scores.get, default=None)
        if best is not None and scores[best] >= 0.95:
            expected[row] = best
        else:
            kept.append(row)
    assert 10 < len(expected) < 50
    monkeypatch.setattr(duplicates, "_COLUMNS", 5)
    for block in (1, 7, 100):
        monkeypatch.setattr(duplicates, "_BLOCK", block)
        done = []
        assert {each.row: each.kept for each in near_rows(rows, 0.95, report=done.append)} == expected
        assert done[-1] == 60


def test_the_end_of_a_chain_is_kept():
    angles = np.array([0.0, 0.3, 0.6])
    rows = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    assert [(each.row, each.kept) for each in near_rows(rows, 0.95)] == [(1, 0)]


def test_dedup_finds_each_kind_and_keeps_the_first(tmp_path):
    model = save_tiny(tmp_path / "tiny", "bert")
    same = "the old man and the young woman walk home by the river at night"
    texts = [same, *SENTENCES, same.upper() + "!", same + " now", SENTENCES[3]]
    result = dedup(texts, model, threshold=1.0, pooling="mean")
    n = len(SENTENCES)
    by_words = [each for each in result.dropped if each.kind != "embedding"]
    assert [(each.row, each.kept, each.kind) for each in by_words] == [
        (n + 1, 0, "exact"),
        (n + 2, 0, "MinHash"),
        (n + 3, 4, "exact"),
    ]
    assert set(result.kept) | {each.row for each in result.dropped} == set(range(len(texts)))
    assert result.kept == sorted(result.kept)
    loose = diffcse.dedup(texts, model, threshold=0.01, pooling="mean")
    assert loose.kept == [0], "random tiny encoders put all sentences close together"
    assert loose.dropped[0].kind == "embedding"


def test_texts_that_are_all_the_same(tmp_path):
    model = save_tiny(tmp_path / "tiny", "bert")
    assert dedup(["the same"] * 5, model, pooling="mean").kept == [0]


@pytest.mark.parametrize("threshold", ["high", 0, 1.5, -1, "nan"])
def test_a_threshold_that_is_no_cosine_is_refused(threshold):
    with pytest.raises(InputError, match="--threshold"):
        dedup(["a", "b"], threshold=threshold)


def test_fewer_than_two_texts_are_refused():
    with pytest.raises(InputError, match="1 text:"):
        dedup(["a"])
    with pytest.raises(InputError, match=r"texts\[1\]"):
        dedup(["a", None])


def test_without_rensa_the_message_names_the_extra(monkeypatch):
    monkeypatch.setattr("diffcse.grouping.settings.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "diffcse\[doctor\]"'):
        dedup(["a", "b"])
