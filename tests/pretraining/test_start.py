"""Fresh weights that already know the counted or learned token vectors."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoTokenizer

from diffcse.pretraining import run as module
from diffcse.pretraining import start
from diffcse.pretraining.run import pretrain
from diffcse.training.loop import Loop
from tests.pretraining.texts import CORPUS, DOCUMENTS, tiny


def test_start_embeddings_are_the_counted_vectors(tmp_path, monkeypatch):
    started, counted = {}, {}
    monkeypatch.setattr(Loop, "stopped", False)
    monkeypatch.setattr(Loop, "run", lambda self, _: started.update(weight=_rows(self.task.model)))
    for kind in ("none", "ppmi_svd"):
        monkeypatch.setattr(module, "round_to_half", lambda *_: None)
        pretrain(tiny(start_embeddings=kind, vocabulary=150), CORPUS, tmp_path / kind)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / kind / "model")
        assert tokenizer.unk_token_id not in tokenizer.convert_tokens_to_ids(["car", "train", "king"])
        car, train, king = (started["weight"][tokenizer.convert_tokens_to_ids(w)] for w in ("car", "train", "king"))
        alike = F.cosine_similarity(car, train, dim=0) - F.cosine_similarity(car, king, dim=0)
        counted[kind] = alike.item(), car.norm().item()
    assert counted["ppmi_svd"][0] > max(0.8, counted["none"][0])
    assert counted["ppmi_svd"][1] == pytest.approx(0.02 * 4, rel=1e-3)
    assert counted["none"][1] != pytest.approx(0.02 * 4, rel=1e-3)


def _rows(model):
    return model.get_input_embeddings().weight.detach().clone()


@pytest.mark.parametrize(("reads", "without"), [("all", "_quieten"), ("cls", "_gather")])
def test_fresh_model_embeds_sentences_as_weighted_sums(tmp_path, monkeypatch, reads, without):
    sums, embeddings = {}, {}
    position = slice(1) if reads == "cls" else slice(None)

    def remember(*args, **kwargs):
        sums["weighted"] = mix(*args, **kwargs)
        return sums["weighted"].copy()

    def embed(self, _):
        vectors, grouping = [], self.task.updates.grouping
        with torch.no_grad():
            for i in range(0, len(DOCUMENTS), 9):
                ids = torch.from_numpy(grouping.tokens.rows(np.array([i]), int(grouping.lengths[i])))
                vectors.append(self.task.model.eval().bert(input_ids=ids).last_hidden_state[0, position].mean(0))
        embeddings["fresh"] = torch.stack(vectors)
        weighted_VH = torch.from_numpy(sums["weighted"])
        assert not weighted_VH[list(grouping.vocabulary.special)].any()
        rows = [grouping.tokens.ids[slice(*grouping.tokens.offsets[i : i + 2])] for i in range(0, len(DOCUMENTS), 9)]
        embeddings["sums"] = torch.stack([weighted_VH[row.astype(np.int64)].sum(0) for row in rows])

    mix = start.with_own_directions
    monkeypatch.setattr(start, "with_own_directions", remember)
    monkeypatch.setattr(Loop, "run", embed)
    monkeypatch.setattr(Loop, "stopped", False)
    shape = {"layers": 2, "width": 64, "heads": 4, "intermediate": 256, "vocabulary": 150}

    def likeness(name):
        """(correlation of cosines, mean cosine with the sum itself, both without what all sentences share)."""
        config = tiny(start_embeddings="next_sentences", next_weight=1.0, next_reads=reads, **shape)
        pretrain(config, DOCUMENTS, tmp_path / name)
        one, other = (F.normalize(embeddings[key], dim=1) for key in ("fresh", "sums"))
        cosines = [(x @ x.T)[tuple(np.triu_indices(len(x), 1))].numpy() for x in (one, other)]
        one, other = one[:, :-2] - one[:, :-2].mean(0), other - other.mean(0)
        return np.corrcoef(*cosines)[0, 1], F.cosine_similarity(one, other).mean().item()

    shaped, near = likeness("with")
    monkeypatch.setattr(start, without, lambda model: None)
    loud, far = likeness("without")
    assert shaped > 0.8
    assert near > 0.8
    assert loud < 0.75
    assert far < 0.3
