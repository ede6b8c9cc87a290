"""Ranks, MRR, recall and nDCG by loops; ties against the encoder; blocks make no difference."""

import json
import math

import numpy as np
import pytest
from scipy import sparse

from diffcse.errors import InputError
from diffcse.evaluation.beir import Collection
from diffcse.evaluation.retrieval import relevant_ranks, score_collection, score_rankings, score_retrieval


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
        ([0, 3], (1,), "query 1: its relevant document is number 3"),
        ([-1, 0], (1,), "query 0"),
        ([0.0, 1.0], (1,), "type float64"),
        ([0, 1], (0, 1), "recall at 0"),
    ],
)
def test_mistakes_are_named(relevant, ks, message):
    with pytest.raises(InputError, match=message):
        score_rankings(np.ones((2, 2)), np.ones((3, 2)), relevant, ks)


# Collections with several graded answers


def by_loop(queries, documents, relevant, excluded, ks):
    """nDCG@10, MRR@10 and recall@k of trec_eval, in loops; of equal cosines the wrong document comes first."""
    ndcgs, mrrs, recalls = [], [], {k: [] for k in ks}
    for q, answers, left_out in zip(queries, relevant, excluded, strict=True):
        ranked = []
        for i, d in enumerate(documents):
            cosine = q @ d / math.sqrt((q @ q) * (d @ d))
            if i not in left_out:
                ranked.append((-round(cosine, 9), i in answers, answers.get(i, 0), i))
        order = [i for *_, i in sorted(ranked)]
        gain = sum(answers.get(i, 0) / math.log2(r + 2) for r, i in enumerate(order[:10]))
        best = sum(g / math.log2(r + 2) for r, g in enumerate(sorted(answers.values(), reverse=True)[:10]))
        ndcgs.append(gain / best)
        ranks = [r + 1 for r, i in enumerate(order[:10]) if i in answers]
        mrrs.append(1 / ranks[0] if ranks else 0)
        for k in ks:
            recalls[k].append(sum(i in answers for i in order[:k]) / len(answers))
    mean = lambda values: 100 * sum(values) / len(values)  # noqa: E731
    return mean(ndcgs), mean(mrrs), {k: mean(values) for k, values in recalls.items()}


def a_collection(relevant, excluded, documents):
    return Collection(
        name="c",
        queries=tuple(f"q{i}" for i in range(len(relevant))),
        documents=tuple(f"d{i}" for i in range(documents)),
        relevant=tuple(relevant),
        excluded=tuple(excluded),
        unjudged=0,
        sha256="",
    )


@pytest.mark.parametrize("documents", [3, 12, 40])
def test_a_collection_scores_as_a_loop_over_sorted_documents(documents):
    rng = np.random.default_rng(documents)
    d = rng.integers(-1, 2, size=(documents, 4)) + 0.5  # many ties
    q = rng.integers(-1, 2, size=(20, 4)) + 0.5
    relevant = [
        {int(i): float(rng.integers(1, 4)) for i in rng.choice(documents, size=rng.integers(1, 4), replace=False)}
        for _ in q
    ]
    excluded = [frozenset({int(rng.integers(documents))} - answers.keys()) for answers in relevant]
    rows = {f"q{i}": v for i, v in enumerate(q)} | {f"d{i}": v for i, v in enumerate(d)}
    score = score_collection(lambda s: np.array([rows[t] for t in s]), a_collection(relevant, excluded, documents))
    ndcg, mrr, recall = by_loop(q, d, relevant, excluded, (1, 5, 10, 100))
    assert score.ndcg == pytest.approx(ndcg)
    assert score.mrr == pytest.approx(mrr)
    assert score.recall == pytest.approx(recall)
    assert score.gains.mean() == pytest.approx(score.ndcg)


def test_one_point_for_everything_finds_nothing():
    collection = a_collection([{0: 1.0}, {5: 1.0}], [frozenset(), frozenset()], 200)
    score = score_collection(lambda s: np.ones((len(s), 3)), collection)
    assert (score.ndcg, score.mrr, score.recall[100]) == (0, 0, 0)
