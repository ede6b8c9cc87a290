"""Two spans of one text: where they lie, what they are, and that they are keyed by (seed, step, row)."""

import dataclasses

import pytest

from diffcse.config import Config, Method, Training
from diffcse.errors import InputError
from diffcse.text.corpus import Corpus
from diffcse.training.crops import cropper, two_spans
from diffcse.training.run import run
from tests.models import SENTENCES, save_tiny

WORDS = "one two three four five six seven eight nine ten"
PROSE = "The boat left. It was late. Rain fell. Nobody spoke. The crew slept. Morning came."


def config_of(**method):
    return Config(method=Method(positives="crop", difference="none", **method), training=Training(seed=3))


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_spans_lie_inside_apart_and_everywhere(overlap):
    seen = set()
    for first in range(10):
        for second in range(10):
            (a, b), (c, d) = two_spans(10, 0.3, overlap, 2, first / 10, second / 10)
            assert 0 <= a < b <= 10
            assert d - c == b - a == 3
            assert b - c <= int(overlap * 3)
            assert d <= 10
            seen |= {a, c}
    assert seen == set(range(8))


def test_spans_shrink_to_fit_or_are_refused():
    assert two_spans(7, 0.9, 0.0, 3, 0.0, 0.0) == ((0, 3), (3, 6))
    assert two_spans(5, 0.5, 0.0, 3, 0.0, 0.0) is None


def test_sentences_of_a_document_and_words_of_a_sentence():
    crop = cropper(config_of())
    for step in range(20):
        first, second = crop(PROSE, step, 0)
        assert first in PROSE
        assert second in PROSE
        assert first.endswith(".")
        assert first.split(". ")[0] not in second
        first, second = crop(WORDS, step, 0)
        assert not set(first.split()) & set(second.split())
        assert 3 <= len(first.split()) <= 5
    assert crop("too short here", 0, 0) == ("too short here", "too short here")
    assert cropper(Config()) is None


def test_draws_are_keyed():
    crop, other = cropper(config_of()), cropper(dataclasses.replace(config_of(), training=Training(seed=4)))
    spans = [[make(WORDS, step, row) for step in range(4) for row in range(4)] for make in (crop, crop, other)]
    assert spans[0] == spans[1] != spans[2]
    assert len(set(spans[0])) > 4


def test_a_run_on_crops_trains_and_resumes_to_the_same_weights(tmp_path):
    config = dataclasses.replace(
        config_of(model=str(save_tiny(tmp_path / "tiny", "bert"))),
        training=Training(batch_size=8, max_steps=4, precision="fp32", checkpoint_every=2, select="last"),
    )
    corpus = Corpus.from_sentences(SENTENCES)
    trained = run(config, corpus, tmp_path / "out")
    again = run(config, corpus, tmp_path / "again")
    assert [entry.get("loss") for entry in trained.record.log] == [entry.get("loss") for entry in again.record.log]
    plain = dataclasses.replace(config, method=dataclasses.replace(config.method, positives="dropout"))
    assert run(plain, corpus, tmp_path / "plain").record.log[0]["loss"] != trained.record.log[0]["loss"]
    assert not trained.record.warnings


def test_shares_in_the_wrong_order_are_refused():
    with pytest.raises(InputError, match="crop_share_min"):
        config_of(crop_share_min=0.6)
