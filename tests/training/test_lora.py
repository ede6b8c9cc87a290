"""A run with LoRA, interrupted and resumed, ends with the model of one that was not."""

import pytest
import torch
from safetensors.torch import load_file

from diffcse.config import Config, Method, Training
from diffcse.encoder.load import load
from diffcse.text.corpus import Corpus
from diffcse.training.run import run
from tests.models import SENTENCES, save_tiny

pytest.importorskip("peft")


def test_a_run_with_lora_resumes_and_ships_a_plain_encoder(tmp_path, recwarn):
    config = Config(
        method=Method(model=str(save_tiny(tmp_path / "tiny", "bert")), lora_rank=4, rtd_weight=0.5),
        training=Training(
            batch_size=8, max_steps=6, learning_rate=1e-2, checkpoint_every=2, log_every=1, precision="fp32"
        ),
    )
    corpus = Corpus.from_sentences(SENTENCES)

    def stop(event, facts):
        if event == "log" and facts["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, corpus, tmp_path / "stopped", report=stop)
    resumed = run(config, corpus, tmp_path / "stopped", resume=True)
    whole = run(config, corpus, tmp_path / "whole")
    one, other = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("stopped", "whole"))
    assert not [name for name in one if "lora" in name]
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert one.keys() == other.keys()
    start = load(tmp_path / "tiny", pooling="cls").model.state_dict()
    assert any(not torch.equal(value, start[name]) for name, value in one.items())
    assert torch.equal(one["embeddings.word_embeddings.weight"], start["embeddings.word_embeddings.weight"])
    for trained in (resumed, whole):
        assert abs(trained.encoder(SENTENCES[:5]) - load(tmp_path / "whole")(SENTENCES[:5])).max() < 1e-5
    assert "gradient_checkpointing" not in " ".join(str(warning.message) for warning in recwarn)
