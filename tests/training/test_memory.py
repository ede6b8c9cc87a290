"""Whole runs in little memory: the same training, and resumed bit for bit."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from diffcse.config import Config, Method, Text, Training
from diffcse.errors import InputError
from diffcse.method.loading import MINI
from diffcse.text.corpus import Corpus
from diffcse.text.examples import Examples
from diffcse.training.run import run
from tests.models import SENTENCES, save_tiny

CORPUS = Corpus.from_sentences(SENTENCES)


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


def test_three_steps_of_the_mini_model_in_parts(tmp_path):
    """Pairs and no dropout, so that a run in parts is the run of whole batches but for rounding."""
    pairs = Examples.from_rows([(SENTENCES[i], SENTENCES[i + 1], SENTENCES[i + 2]) for i in range(60)])
    config = Config(
        method=Method(model=str(MINI), dropout=0.0, rtd_weight=0.5),
        text=Text(**dict(zip(("anchor", "positive", "hard_negative"), pairs.columns, strict=True))),
        training=Training(batch_size=10, max_steps=3, learning_rate=1e-4, precision="fp32", log_every=1),
    )
    logs = {}
    for name, options in {"whole": {}, "parts": {"mini_batch_size": 7, "gradient_checkpointing": True}}.items():
        training = dataclasses.replace(config.training, **options)
        trained = run(dataclasses.replace(config, training=training), pairs, tmp_path / name)
        logs[name] = [entry for entry in trained.record.log if "loss" in entry]
    for one, other in zip(logs["whole"], logs["parts"], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3)
    assert logs["whole"][0]["loss"] == pytest.approx(logs["parts"][0]["loss"], rel=1e-6)
    start, whole, parts = (
        load_file(MINI / "model.safetensors"),
        weights(tmp_path / "whole"),
        weights(tmp_path / "parts"),
    )
    name = "encoder.layer.0.attention.self.query.weight"
    moved = (whole[name] - next(value for key, value in start.items() if key.endswith(name))).norm()
    assert (whole[name] - parts[name]).norm() < 0.05 * moved


@pytest.mark.parametrize("difference", ["rtd", "mlm"])
def test_a_run_in_parts_resumes(tmp_path, difference):
    """With dropout, two passes an update, and layers recomputed from the resumption on: that changes no weight."""
    config = Config(
        method=Method(model=str(save_tiny(tmp_path / "tiny", "bert")), difference=difference, rtd_weight=0.5),
        training=Training(
            batch_size=8,
            accumulation=2,
            mini_batch_size=5,
            max_steps=3,
            learning_rate=1e-2,
            checkpoint_every=2,
            log_every=1,
            precision="fp32",
        ),
    )

    def stop(event, facts):
        if event == "log" and facts["step"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config, CORPUS, tmp_path / "stopped", report=stop)
    recomputing = dataclasses.replace(
        config, training=dataclasses.replace(config.training, gradient_checkpointing=True)
    )
    run(recomputing, CORPUS, tmp_path / "stopped", resume=True)
    run(config, CORPUS, tmp_path / "whole")
    one, other = weights(tmp_path / "stopped"), weights(tmp_path / "whole")
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    changed = dataclasses.replace(config, training=dataclasses.replace(config.training, mini_batch_size=4))
    with pytest.raises(InputError, match="mini_batch_size"):
        run(changed, CORPUS, tmp_path / "stopped", resume=True)


def test_an_architecture_that_cannot_says_so_before_training(tmp_path):
    config = Config(
        method=Method(model=str(save_tiny(tmp_path / "tiny", "mpnet"))),
        training=Training(batch_size=8, max_steps=1, gradient_checkpointing=True, precision="fp32"),
    )
    with pytest.raises(InputError, match="MPNetModel"):
        run(config, CORPUS, tmp_path / "out")
