"""Stored numbers stand for the embeddings they were made from, and the recall says how well."""

import numpy as np
import pytest

from diffcse.encoder.outputs import Form
from diffcse.errors import InputError


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(200, 20)).astype(np.float32)


def test_int8_is_within_half_a_step_and_clips_what_lies_outside(rows):
    form = Form(20, store="int8").calibrated(rows[:50])
    low, high = rows[:50].min(0), rows[:50].max(0)
    np.testing.assert_allclose(form.ranges, [low, high])
    error = form.restored(form.stored(rows)) - np.clip(rows, low, high)
    assert (np.abs(error) <= (high - low) / 255 * 0.501).all()


def test_binary_is_one_bit_for_each_sign(rows):
    form = Form(20, store="binary")
    assert (form.columns, form.stored(rows).shape) == (3, (200, 3))
    np.testing.assert_array_equal(form.restored(form.stored(rows)), np.where(rows > 0, 1, -1))


@pytest.mark.parametrize("store", ["float32", "int8", "binary"])
def test_recall_is_counted_as_a_loop_counts_it(rows, store):
    form = Form(20, normalise=True, store=store).calibrated(rows)
    kept = form.restored(form.stored(rows))
    cosine = lambda u, v: float(u @ v / np.linalg.norm(u) / np.linalg.norm(v))  # noqa: E731

    def nearest(query, own, others):
        order = sorted((j for j in range(200) if j != own), key=lambda j: -cosine(query, others[j]))
        return set(order[:10])

    shares = []
    for i in range(200):
        exact = nearest(rows[i], i, rows)
        query = kept[i] if store == "binary" else rows[i]
        shares.append(len(exact & nearest(query, i, kept)) / 10)
    assert form.recall(rows) == pytest.approx(np.mean(shares), abs=0.02)  # ties of bits are broken otherwise
    assert form.recall(rows[:20]) is None


def test_another_type():
    with pytest.raises(InputError, match="store 'int4'"):
        Form(20, store="int4")
