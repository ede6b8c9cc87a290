"""Text becomes the examples that the recipe names."""

import pytest

from diffcse.errors import InputError
from diffcse.evaluation.sts import OWN_PAIRS, read_pairs
from diffcse.training.run import run
from tests.models import SENTENCES, tiny_tokenizer
from tests.training.runs import CORPUS, config


def test_truncated_sentences_are_counted(tiny, tmp_path):
    record = run(config(tiny, max_tokens=6, max_steps=10, epochs=1), CORPUS, tmp_path / "out").record
    tokenizer = tiny_tokenizer()
    longer = sum(len(tokenizer(s)["input_ids"]) > 6 for s in SENTENCES)
    assert record.scores["sentences_seen"] == 80
    assert record.scores["truncated"] == longer


def test_the_pairs_that_come_along_are_a_dev_set(tiny, tmp_path):
    record = run(config(tiny, dev="pairs", max_steps=1), CORPUS, tmp_path / "out").record
    assert record.data["dev_sha256"] == read_pairs(OWN_PAIRS).sha256
    # A path that ends in that name stays a path where folders are left out.
    (tmp_path / "pairs").write_text(OWN_PAIRS.read_text())
    run(config(tiny, dev=str(tmp_path / "pairs"), max_steps=1), CORPUS, tmp_path / "other")
    assert 'dev = "./pairs"' in (tmp_path / "other/model/README.md").read_text()


def test_a_text_without_neighbours_is_refused_where_they_are_needed(tiny, tmp_path):
    text = tmp_path / "lone.txt"
    text.write_text("\n\n".join(SENTENCES) + "\n")
    for method in ({"positives": "next"}, {"pairing": "next"}):
        with pytest.raises(InputError, match=rf"method\.{next(iter(method))}"):
            run(config(tiny, method=method), [text], tmp_path / "out")


def test_neighbours_are_read_from_files_and_train(tiny, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(SENTENCES) + "\n")
    for name, method in (("next", {"positives": "next"}), ("both", {"pairing": "both"})):
        log = run(config(tiny, method=method, max_steps=2), [text], tmp_path / name).record.log
        assert all(entry["difference"] > 0 for entry in log if "loss" in entry)
