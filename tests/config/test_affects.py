"""Fields that say they affect nothing affect no weight: one training run and one pretraining run with all of them."""

import dataclasses

import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from diffcse.config import Config, Method, Training, affects
from diffcse.pretraining.config import Pretraining
from diffcse.pretraining.run import pretrain
from diffcse.text.corpus import Corpus
from diffcse.training import run as train
from diffcse.training.run import run
from tests.models import SENTENCES, save_tiny


def with_other_values(config, names):
    """`config` with another value in each of the fields `names` (dotted)."""
    changes = {}
    for name in names:
        section, _, key = name.rpartition(".")
        owner = getattr(config, section) if section else config
        changes.setdefault(section, {})[key] = another(getattr(owner, key))
    head = changes.pop("", {})
    sections = {name: dataclasses.replace(getattr(config, name), **fields) for name, fields in changes.items()}
    return dataclasses.replace(config, **head, **sections)


def another(value):
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else "wandb" if value == "none" else "other"


def same_weights(one, other):
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in (one, other))
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def free(config):
    return [name for name, effect in affects(type(config)).items() if effect == "nothing"]


def test_a_training_run_has_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "trackers", lambda name: [TrainerCallback()] if name == "wandb" else [])
    settings = {"batch_size": 8, "max_steps": 4, "learning_rate": 1e-3, "precision": "fp32", "select": "last"}
    plain = Config(
        method=Method(model=str(save_tiny(tmp_path / "tiny", "bert"))),
        training=Training(**settings, log_every=2, checkpoint_every=2),
    )
    changed = with_other_values(plain, free(plain))
    assert changed.training.gradient_checkpointing
    for name, config in (("plain", plain), ("changed", changed)):
        run(config, Corpus.from_sentences(SENTENCES), tmp_path / name)
    assert same_weights(tmp_path / "plain", tmp_path / "changed")


def test_a_pretraining_run_has_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shape = {"vocabulary": 80, "layers": 1, "width": 16, "heads": 2, "intermediate": 32, "positions": 32}
    size = {"max_tokens": 16, "batch_tokens": 128, "max_steps": 4, "held_out": 8, "precision": "fp32"}
    plain = Pretraining(**shape, **size, log_every=2, eval_every=2, checkpoint_every=2)
    for name, config in (("plain", plain), ("changed", with_other_values(plain, free(plain)))):
        pretrain(config, Corpus.from_sentences(SENTENCES), tmp_path / name)
    assert same_weights(tmp_path / "plain", tmp_path / "changed")
