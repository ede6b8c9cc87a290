"""What is read, held out, tokenised and warned about before the first step."""

import numpy as np
import pytest

from diffcse.config import Text
from diffcse.errors import InputError
from diffcse.pretraining import prepare
from diffcse.pretraining.batches import Batches, split
from diffcse.pretraining.run import pretrain
from diffcse.text.corpus import Corpus
from tests.models import save_tiny, tiny_tokenizer
from tests.pretraining.texts import CORPUS, TEXT, tiny


def test_held_out_sentences_are_never_trained_on(tmp_path, monkeypatch):
    held_out, trained_on = split(len(CORPUS), 40, 42)
    assert len(held_out) == 40
    assert sorted([*held_out, *trained_on]) == list(range(len(CORPUS)))
    assert not np.array_equal(held_out, split(len(CORPUS), 40, 43)[0])
    seen = []
    original = Batches.__getitem__

    def spy(self, step):
        groups = original(self, step)
        if len(self.sentences) > 40:
            seen.extend(np.concatenate(groups))
        return groups

    monkeypatch.setattr(Batches, "__getitem__", spy)
    read, wordpiece = [], prepare.train_wordpiece
    monkeypatch.setattr(
        prepare,
        "train_wordpiece",
        lambda text, *a, **b: (read.extend(text := list(text)), wordpiece(text, *a, **b))[1],
    )
    pretrain(tiny(max_steps=None, epochs=1.0), CORPUS, tmp_path / "out")
    assert sorted(seen) == list(trained_on)
    assert not {CORPUS[int(i)] for i in held_out} & set(read)


def test_tokenizer_without_mask_or_start_token(tmp_path):
    tokenizer = tiny_tokenizer("bert")
    tokenizer.mask_token = None
    tokenizer.backend_tokenizer.post_processor = _no_specials()
    save_tiny(tmp_path / "encoder", "bert")
    tokenizer.save_pretrained(tmp_path / "encoder")
    with pytest.raises(InputError, match="mask_token"):
        pretrain(tiny(tokenizer=str(tmp_path / "encoder")), CORPUS, tmp_path / "mlm")
    with pytest.raises(InputError, match="start token"):
        pretrain(tiny(tokenizer=str(tmp_path / "encoder"), objective="causal"), CORPUS, tmp_path / "causal")


def _no_specials():
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])


def test_a_column_of_a_table_is_pretrained_on(tmp_path):
    file = tmp_path / "text.csv"
    file.write_text("body,other\n" + "".join(f"{sentence},x\n" for sentence in TEXT))
    made = pretrain(tiny(max_steps=1), [file], tmp_path / "out", text=Text(column="body"))
    assert made.record.data["sentences"] == len(TEXT)


def test_many_passes_over_little_text_are_told(tmp_path):
    few = Corpus.from_sentences(TEXT[:40])
    made = pretrain(tiny(max_steps=45, batch_tokens=256, held_out=4, vocabulary=80), few, tmp_path / "out")
    assert any("--max-steps" in warning and "passes" in warning for warning in made.record.warnings)
    made = pretrain(tiny(max_steps=2), CORPUS, tmp_path / "once")
    assert not any("passes" in warning for warning in made.record.warnings)
