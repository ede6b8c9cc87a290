"""Where tokens stand in the packed row, against loops."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffcse.method.fast import Layout

from .padded import batch


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 3))
def test_places(lengths, heads):
    """Against loops: which head of which token stands at each place of attention's rows, and back."""
    width = max(*lengths, 1)
    attention = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    layout = Layout.of(attention)
    tokens = [(r, t) for r, length in enumerate(lengths) for t in range(max(length, 1))]
    assert layout.token_N.tolist() == [r * width + t for r, t in tokens]
    assert layout.position_N.tolist() == [t for _, t in tokens]
    assert layout.row_N.tolist() == [r for r, _ in tokens]
    assert layout.start_R.tolist() == [n for n, (_, t) in enumerate(tokens) if t == 0]
    source, place = layout.places(heads, len(tokens))
    number = {token: n for n, token in enumerate(tokens)}
    expected = [
        number.get((r, t), number[r, 0]) * heads + a
        for r in range(len(lengths))
        for a in range(heads)
        for t in range(width)
    ]
    assert source.tolist() == expected
    assert place.tolist() == [(r * heads + a) * width + t for r, t in tokens for a in range(heads)]
    x = torch.randn(len(tokens), 3)
    padded = layout.pad(x)
    assert torch.equal(padded[layout.real_RT], x)
    assert not padded[~layout.real_RT].any()


@pytest.mark.parametrize("lengths", [(5, 1, 3), (4,)])
def test_edges_are_those_of_a_count(lengths):
    """Also where some rows have no query at all; found once for all layers."""
    attention = batch(lengths)[1]
    where = torch.zeros_like(attention, dtype=torch.bool)
    where[0, 1:3] = True
    layout = Layout.of(attention, where, narrowed=True)
    total = sum(lengths)
    assert layout.edges(total).tolist() == [sum(lengths[:row]) for row in range(len(lengths) + 1)]
    assert layout.edges(2).tolist() == [0] + [2] * len(lengths)
    assert layout.edges(2) is layout.edges(2)
