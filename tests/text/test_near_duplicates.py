"""Near-duplicates against a loop over all pairs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffcse.text.near_duplicates import find_near_duplicates
from tests.text.samples import plain


def near_pairs(sentences: list[str]) -> int:
    sets = [set(sentence.lower().split()) for sentence in sentences]
    return sum(len(a & b) / len(a | b) >= 0.8 for a, b in itertools.combinations(sets, 2))


@settings(max_examples=60)
@given(st.lists(st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=9), min_size=2, max_size=60))
def test_near_duplicates_are_those_of_a_loop(lists) -> None:
    sentences = list(dict.fromkeys(" ".join(words) for words in lists))
    if len(sentences) < 2:
        return
    near = find_near_duplicates(sentences)
    # 0.2 % of pairs exactly at the threshold are missed; large groups are estimated from 200 pairs.
    assert near.pairs == pytest.approx(near_pairs(sentences), rel=0.15, abs=2)
    assert near.is_paired.any() == (near.pairs > 0) == bool(near.examples)
    for a, b in near.examples:
        assert near_pairs([a, b]) == 1


def test_pairs_in_a_large_group_are_estimated() -> None:
    numbered = [f"The page was last edited on day number {i} and is kept for reference only." for i in range(600)]
    sentences = [*plain(1400), *numbered]
    near = find_near_duplicates(sentences)
    in_group = math.comb(600, 2) / math.comb(2000, 2) * math.comb(64, 2)
    assert near.pairs_in_batch(64) == pytest.approx(in_group, rel=0.02)
    assert near.is_paired.mean() == pytest.approx(0.3, abs=0.005)
    rng = np.random.default_rng(1)
    drawn = [sum(s.startswith("The page") for s in rng.choice(sentences, 64, replace=False)) for _ in range(300)]
    assert np.mean([math.comb(k, 2) for k in drawn]) == pytest.approx(in_group, rel=0.15)
