"""The search among halves: small cases by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffcse.evaluation.label_free import halves, pieces, reciprocal_ranks


@given(st.text(min_size=1))
def test_pieces_lose_nothing_but_white_space(sentence):
    words, joint = pieces(sentence)
    assert joint.join(words).split() == sentence.split()


def test_a_text_without_spaces_is_cut_into_characters():
    assert halves("犬が大きな声で吠えている。") == ("犬が大きな声", "で吠えている。")
    assert halves("Too short a one.") is None


def test_ranks_by_hand():
    x = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    y = np.array([[1.0, 0.1], [1.0, 0.0], [1.0, 1.0]])
    # Row 0: y1 is nearer than y0; row 1: y2 and y0 are nearer than y1; row 2: its own is nearest.
    assert reciprocal_ranks(x, y).tolist() == [0.5, pytest.approx(1 / 3), 1.0]
    assert reciprocal_ranks(np.ones((4, 2)), np.ones((4, 2))).tolist() == [0.25] * 4, "ties count against"
