"""Every bundled recipe, run for two steps on a tiny random model of its family: each field means something there."""

import csv
import dataclasses

import pytest

from diffcse.config import load_recipe, recipe_names
from diffcse.encoder.load import load
from diffcse.training.run import run
from tests.models import SENTENCES, save_tiny

PUBLISHED = {
    # name: (learning rate, mask ratio, lambda, batch, epochs) of the papers' appendices
    "diffcse_bert_base_sts": (7e-6, 0.30, 0.005, 64, 2),
    "diffcse_bert_base_transfer": (2e-6, 0.15, 0.05, 64, 2),
    "diffcse_roberta_base_sts": (1e-5, 0.20, 0.005, 64, 2),
    "diffcse_roberta_base_transfer": (3e-6, 0.15, 0.05, 64, 2),
    "simcse_bert_base": (3e-5, None, None, 64, 1),
    "simcse_roberta_base": (1e-5, None, None, 512, 1),
    "simcse_supervised": (5e-5, None, None, 512, 3),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_hyper_parameters_are_the_published_ones(name):
    config = load_recipe(name)
    learning_rate, mask_ratio, weight, batch, epochs = PUBLISHED[name]
    training, method = config.training, config.method
    assert (training.learning_rate, training.batch_size, training.epochs) == (learning_rate, batch, epochs)
    assert (training.max_tokens, training.warmup_ratio, training.max_grad_norm) == (32, 0, 1)
    assert method.pooling == "cls"
    assert method.temperature == 0.05
    if mask_ratio is None:
        assert (method.difference, method.projector) == ("none", "tanh")
    else:
        assert (method.mask_ratio, method.rtd_weight, method.projector) == (mask_ratio, weight, "batchnorm")


@pytest.mark.parametrize("name", recipe_names())
def test_dry_run_on_a_tiny_model_of_the_family(name, tmp_path):
    config = load_recipe(name)
    assert config.method.unused() == []
    family = "roberta" if "roberta" in config.method.model else "bert"
    model = save_tiny(tmp_path / "model", family)
    small = "roberta" if family == "roberta" else "distilbert"
    generator = config.method.generator and str(save_tiny(tmp_path / "generator", small))
    method = dataclasses.replace(config.method, model=str(model), generator=generator)
    training = dataclasses.replace(config.training, batch_size=8, max_steps=2, log_every=1, precision="fp32")
    corpus = tmp_path / "corpus.txt"
    texts = SENTENCES
    if method.learn == "map":  # it needs more texts than there are sentences
        texts = [f"{first} {second}" for first in SENTENCES for second in SENTENCES[:3]]
    corpus.write_text("\n".join(texts) + "\n")
    if config.text.supervised:
        corpus = tmp_path / "triplets.csv"
        with corpus.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow([config.text.anchor, config.text.positive, config.text.hard_negative])
            rows.writerows(zip(SENTENCES, SENTENCES[1:], SENTENCES[2:], strict=False))
    trained = run(dataclasses.replace(config, method=method, training=training), [corpus], tmp_path / "out")
    log = [entry for entry in trained.record.log if "loss" in entry]
    assert [entry["step"] for entry in log] == ([1, 2] if method.learn == "weights" else [])
    assert all(("difference" in entry) == (method.difference != "none") for entry in log)
    encoder = load(tmp_path / "out")
    assert encoder.pooling == (config.method.pooling or "cls")
    assert len(encoder.tail) == (0 if method.learn == "weights" else 2)
