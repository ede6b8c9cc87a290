"""Long texts: what is counted stays bounded, and short texts are counted as ever."""

import numpy as np

from diffcse.training import own_text
from diffcse.training.own_text import own_text_vectors
from tests.training.test_adapt import texts


def test_long_texts_count_with_their_beginning_only(monkeypatch):
    made, _ = texts()
    wanted = own_text_vectors(made, 8, seed=0)
    monkeypatch.setattr(own_text, "_CHARACTERS", 100 * len(made))
    longer = [text + " " + " ".join("zz" for _ in range(200)) for text in made]
    cut = own_text._bounded(longer)
    assert all(len(text) <= 100 and text.startswith(short) for text, short in zip(cut, made, strict=True))
    assert own_text._bounded(made) == made
    assert (own_text_vectors(made, 8, seed=0) == wanted).all()


def test_words_that_all_meet_are_limited_to_the_most_frequent(monkeypatch):
    made, _ = texts()
    monkeypatch.setattr(own_text, "_TOGETHER", 10)
    monkeypatch.setattr(own_text, "_WORDS_OF_LONG", 12)
    vectors = own_text._by_company(made, 8, seed=0)
    assert vectors.shape == (len(made), 8)
    assert np.isfinite(vectors).all()
