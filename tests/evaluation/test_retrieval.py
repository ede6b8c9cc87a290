"""Ranks, MRR, recall and nDCG by loops; ties against the encoder; blocks make no difference."""

import json
import math

import numpy as np
import pytest
from scipy import sparse

from diffcse.errors import InputError
from diffcse.evaluation.retrieval import relevant_ranks, score_rankings, score_retrieval


def rank_by_loop(query, documents, relevant):
    """Sort by cosine, the relevant document behind its equals; its place, from 1."""
    unit = [d / np.linalg.norm(d) for d in documents]
    order = sorted(range(len(documents)), key=lambda j: (-round(float(query @ unit[j]), 9), j == relevant))
    return order.index(relevant) + 1


@pytest.fixture
def task():
    rng = np.random.default_rng(3)
    documents = rng.normal(size=(40, 6))
    relevant = rng.integers(40, size=30)
    queries = documents[relevant] + rng.normal(scale=1.2, size=(30, 6))
    return queries, documents, relevant


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, lambda x: x.astype(np.float32)])
@pytest.mark.parametrize("block", [1, 100, 10**6])
def test_every_figure_is_that_of_a_loop(task, form, block, monkeypatch):
    monkeypatch.setattr("diffcse.evaluation.embeddings._BLOCK", block)
    queries, documents, relevant = task
    score = score_rankings(form(queries), form(documents), relevant, ks=(1, 5, 20))
    ranks = [rank_by_loop(q, documents, r) for q, r in zip(queries, relevant, strict=True)]
    assert min(ranks) == 1
    assert max(ranks) > 10
    assert score.ranks.tolist() == ranks
    reciprocal = [1 / r if r <= 10 else 0.0 for r in ranks]
    gains = [1 / math.log2(r + 1) if r <= 10 else 0.0 for r in ranks]
    assert score.reciprocal_ranks.tolist() == pytest.approx(reciprocal)
    assert score.mrr == pytest.approx(sum(reciprocal) / 30)
    assert score.ndcg == pytest.approx(sum(gains) / 30)
    assert score.gains.mean() == pytest.approx(score.ndcg)
    for k in (1, 5, 20):
        assert score.hits[k].tolist() == [float(r <= k) for r in ranks]
        assert score.recall[k] == pytest.approx(sum(r <= k for r in ranks) / 30)
    assert (score.queries, score.documents) == (30, 40)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_constant_encoder_finds_nothing(dtype):
    row = np.random.default_rng(0).normal(size=384).astype(dtype)
    score = score_rankings(np.tile(row, (7, 1)), np.tile(row, (53, 1)), range(7))
    assert score.ranks.tolist() == [53] * 7
    assert score.mrr == score.ndcg == score.recall[10] == 0


def test_a_zero_row_ties_with_everything():
    documents = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    assert relevant_ranks(np.zeros((1, 2)), documents, [0]).tolist() == [3]


def test_from_sentences_each_embedded_once():
    asked = []

    def encode(sentences):
        asked.extend(sentences)
        return np.array([[s.count("a"), s.count("b"), 0.1] for s in sentences])

    score = score_retrieval(encode, ["aa", "ab"], ["bb", "a", "ab"], [1, 2], ks=[1])
    assert score.mrr == 1
    assert sorted(asked) == ["a", "aa", "ab", "bb"]
    assert json.loads(json.dumps(score.to_dict())) == {
        "queries": 2,
        "documents": 3,
        "mrr@10": 1.0,
        "ndcg@10": 1.0,
        "recall@1": 1.0,
    }


@pytest.mark.parametrize(
    ("relevant", "ks", "message"),
    [
        ([0], (1,), "for each of the 2 queries"),
        ([0, 3], (1,), "Query 1: its relevant document is number 3, but the 3 documents"),
        ([-1, 0], (1,), "Query 0"),
        ([0.0, 1.0], (1,), "type float64"),
        ([0, 1], (0, 1), "k of at least 1, not 0"),
    ],
)
def test_mistakes_are_named(relevant, ks, message):
    with pytest.raises(InputError, match=message):
        score_rankings(np.ones((2, 2)), np.ones((3, 2)), relevant, ks)
