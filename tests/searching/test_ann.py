"""The recall of an approximate index, against a loop."""

import numpy as np
import pytest

from diffcse.searching.ann import recall


@pytest.mark.parametrize("is_product", [True, False])
def test_recall_equals_the_loop(is_product):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 8)).astype(np.float32)
    numbers = rng.permutation(1000)[:60]

    def blocks():
        yield numbers[:25], vectors[:25]
        yield numbers[25:], vectors[25:]

    def nearest(query, k):  # knows only every second row
        near = vectors @ query if is_product else -((vectors - query) ** 2).sum(1)
        return [int(numbers[i]) for i in np.argsort(-near) if i % 2 == 0 or near[i] == near.max()][:k]

    expected = []
    for i, query in enumerate(vectors):
        near = vectors @ query if is_product else -((vectors - query) ** 2).sum(1)
        true = [int(numbers[j]) for j in np.argsort(-near) if j != i][:10]
        answer = [row for row in nearest(query, 11) if row != numbers[i]][:10]
        expected.append(len(set(true) & set(answer)) / 10)
    assert 0.3 < np.mean(expected) < 0.9
    assert recall(blocks, 60, nearest, is_product=is_product) == pytest.approx(np.mean(expected))
