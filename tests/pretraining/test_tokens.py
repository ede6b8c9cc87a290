"""A tokenizer that is the same whenever it is made, and a corpus tokenised once."""

import subprocess
import sys

import numpy as np
import pytest

from diffcse.errors import InputError
from diffcse.pretraining import tokens as module
from diffcse.pretraining.tokens import tokenise, train_wordpiece
from diffcse.text.corpus import Corpus
from tests.models import SENTENCES, tiny_tokenizer

CORPUS = Corpus.from_sentences(SENTENCES)

PROGRAM = """
from diffcse.pretraining.tokens import train_wordpiece
from tests.models import SENTENCES
vocabulary = train_wordpiece(SENTENCES, 120, lowercase=True, positions=32).get_vocab()
print(sorted(vocabulary, key=vocabulary.get))
"""


def test_tokenizer_is_the_same_in_every_process():
    # Within one process too the library's hash maps are seeded anew; across processes nothing at all is shared.
    there = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True).stdout
    for _ in range(3):
        here = train_wordpiece(SENTENCES, 120, lowercase=True, positions=32).get_vocab()
        assert there == f"{sorted(here, key=here.get)}\n"


def test_tokenizer_has_what_bert_has():
    tokenizer = train_wordpiece(SENTENCES, 120, lowercase=True, positions=32)
    assert len(tokenizer) == 120
    assert tokenizer.convert_ids_to_tokens(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert tokenizer.all_special_ids == [tokenizer.convert_tokens_to_ids(t) for t in tokenizer.all_special_tokens]
    assert sorted(tokenizer.all_special_ids) == [0, 1, 2, 3, 4]
    assert tokenizer.padding_side == "right"
    assert tokenizer.model_max_length == 32
    ids = tokenizer(SENTENCES[0])["input_ids"]
    assert [ids[0], ids[-1]] == [2, 3]
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == SENTENCES[0].lower().replace(" ", "")


def test_case_is_kept_when_asked():
    text = ["Ein Haus und ein Haus", "Das Haus, das große Haus", "ein großes Haus"] * 5
    kept = train_wordpiece(text, 40, lowercase=False, positions=32)
    assert "H" in "".join(kept.get_vocab())
    lower = train_wordpiece(text, 32, lowercase=True, positions=32)
    assert lower.tokenize("HAUS") == lower.tokenize("haus")


def test_too_large_a_vocabulary_names_what_the_text_has():
    with pytest.raises(InputError, match=r"--vocabulary (\d+)") as caught:
        train_wordpiece(SENTENCES[:10], 5000, lowercase=True, positions=32)
    size = int(str(caught.value).rsplit(" ", 1)[1])
    assert len(train_wordpiece(SENTENCES[:10], size, lowercase=True, positions=32)) == size


@pytest.mark.parametrize("style", ["bert", "roberta"])
@pytest.mark.parametrize("limit", [6, 64])
def test_rows_are_what_the_tokenizer_makes_of_each_sentence(tmp_path, style, limit):
    tokenizer = tiny_tokenizer(style)
    tokens = tokenise(CORPUS, tokenizer, tmp_path)
    lengths = tokens.lengths(limit)
    assert len(tokens) == len(CORPUS)
    for index, sentence in enumerate(CORPUS):
        wanted = tokenizer(sentence, truncation=True, max_length=limit)["input_ids"]
        assert tokens.rows(np.array([index]), int(lengths[index])).tolist() == [wanted]


def test_second_time_nothing_is_tokenised(tmp_path, monkeypatch):
    tokenizer = tiny_tokenizer("bert")
    first = np.array(tokenise(CORPUS, tokenizer, tmp_path).ids)
    monkeypatch.setattr(module, "_blocks", lambda _: pytest.fail("tokenised again"))
    second = tokenise(CORPUS, tokenizer, tmp_path)
    assert np.array_equal(first, second.ids)
    # A damaged cache is made anew, and so is that of another tokenizer.
    monkeypatch.undo()
    (folder,) = tmp_path.iterdir()
    (folder / "ids.bin").write_bytes(b"\0" * 10)
    assert np.array_equal(tokenise(CORPUS, tokenizer, tmp_path).ids, first)
    tokenise(CORPUS, tiny_tokenizer("roberta"), tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
