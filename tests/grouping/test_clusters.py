"""Clusters of points whose groups are known."""

import numpy as np
import pytest

import diffcse
from diffcse.errors import InputError
from diffcse.grouping.clusters import cluster
from tests.models import SENTENCES, save_tiny

SIZES = (60, 40, 30, 20)
GROUP = np.repeat([2, 0, 3, 1], SIZES)
TEXTS = [f"the {['cat', 'dog', 'sea', 'moon'][g]} is here in {i}" for i, g in enumerate(GROUP)]


def points(spread=0.1):
    rng = np.random.default_rng(0)
    return np.eye(16)[GROUP * 3] + spread * rng.normal(size=(len(GROUP), 16))


def test_auto_finds_the_groups_and_numbers_them_by_size():
    seen = []
    result = cluster(TEXTS, rows=points(), report=lambda *event: seen.append(event))
    assert [each.size for each in result.clusters] == list(SIZES)
    assert [each.words[0] for each in result.clusters] == ["sea", "cat", "moon", "dog"]
    assert not {"the", "is", "in"} & {word for each in result.clusters for word in each.words}
    assert result.labels.tolist() == np.repeat(range(4), SIZES).tolist()
    assert max(result.choices, key=lambda choice: choice.silhouette).k == 4
    assert seen[-1] == ("choosing k", len(result.choices), len(result.choices))
    for each in result.clusters:
        members = np.flatnonzero(result.labels == each.number)
        assert each.typical == members[result.distances[members].argmin()]
    assert 0 <= result.distances.min() <= result.distances.max() < 0.5


def test_k_that_is_given_and_the_seed():
    results = [cluster(TEXTS, rows=points(1.0), k=k, seed=seed) for k, seed in ((3, 0), ("3", 0), (3, 1))]
    assert [len(each.clusters) for each in results] == [3, 3, 3]
    assert results[0].choices == []
    np.testing.assert_array_equal(results[0].labels, results[1].labels)
    assert (results[0].labels != results[2].labels).any()


def test_texts_are_embedded_by_the_model(tmp_path):
    model = save_tiny(tmp_path / "tiny", "bert")
    result = diffcse.cluster(SENTENCES, model, k=3, pooling="mean")
    same = diffcse.cluster(SENTENCES, rows=diffcse.encode(model, SENTENCES, pooling="mean"), k=3)
    np.testing.assert_array_equal(result.labels, same.labels)


@pytest.mark.parametrize(
    ("match", "texts", "options"),
    [
        ("--k", TEXTS, {"k": 1}),
        ("--k", TEXTS, {"k": "many"}),
        ("9 texts", TEXTS[:9], {}),
        ("2 texts", TEXTS[:2], {"k": 3}),
        ("rows", TEXTS[:20], {"rows": points()}),
        ("finite", TEXTS[:2], {"k": 2, "rows": [[1.0, 2.0], [float("nan"), 1.0]]}),
        ("distinct", ["a"] * 20, {"rows": np.ones((20, 4))}),
        ("distinct", ["a"] * 20, {"rows": np.ones((20, 4)), "k": 2}),
    ],
)
def test_what_cannot_be_divided_is_refused(match, texts, options):
    with pytest.raises(InputError, match=match):
        cluster(texts, **options)
