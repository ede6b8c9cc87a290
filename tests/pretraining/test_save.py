"""The saved folder: its pooling and its card."""

import pytest
import torch
from sentence_transformers import SentenceTransformer

from diffcse.config import Method
from diffcse.encoder.encode import Encoder
from diffcse.encoder.load import load
from diffcse.method.build import build
from diffcse.pretraining.run import pretrain
from tests.models import SENTENCES
from tests.pretraining.texts import DOCUMENTS, tiny


@pytest.mark.parametrize(
    ("fields", "pooling"),
    [({"next_weight": 1.0}, "mean"), ({"next_weight": 1.0, "next_reads": "cls"}, "cls"), ({}, "mean")],
)
def test_folder_says_which_embedding_was_trained(tmp_path, fields, pooling):
    made = pretrain(tiny(max_steps=1, **fields), DOCUMENTS, tmp_path / "out")
    folder = tmp_path / "out" / "model"
    encoder = load(folder)
    assert (encoder.pooling, encoder.max_tokens) == (pooling, 32)
    ours = Encoder(made.model.bert, made.tokenizer, pooling, 32)
    assert ours(SENTENCES[:3]) == pytest.approx(encoder(SENTENCES[:3]), abs=1e-6)
    theirs = SentenceTransformer(str(folder), device="cpu", model_kwargs={"dtype": torch.float32})
    assert theirs.encode(SENTENCES[:3]) == pytest.approx(encoder(SENTENCES[:3]), abs=1e-5)
    build(Method(model=str(folder), pooling=pooling))


def test_masked_tokens_alone_say_nothing_of_next_sentences(tmp_path):
    made = pretrain(tiny(), DOCUMENTS, tmp_path / "out")
    assert all("next_loss" not in entry for entry in made.record.log)
    assert "Next sentences" not in (tmp_path / "out" / "model" / "README.md").read_text()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"next_weight": 0.25, "start_embeddings": "next_sentences"},
            "by its token vectors before the first step, and beside the masked tokens (weight 0.25)",
        ),
        ({"next_weight": 0.25}, "too: beside the masked tokens (weight 0.25)"),
        ({"start_embeddings": "next_sentences"}, "too: by its token vectors before the first step"),
    ],
)
def test_card_says_what_learned_from_next_sentences(tmp_path, fields, says):
    pretrain(tiny(max_steps=1, **fields), DOCUMENTS, tmp_path / "out")
    card = (tmp_path / "out" / "model" / "README.md").read_text()
    assert f"{says}\n" in card
    assert "\n- Next sentences were learned from too: " in card
