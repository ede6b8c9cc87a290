"""Runs and recipe files: the bundled recipes, plain text against pairs, and which runs are of one method."""

import pytest

from diffcse.config import (
    PRESETS,
    Config,
    Method,
    Text,
    Training,
    load_recipe,
    method_config,
    method_identity,
    parse_recipe,
    recipe_names,
    to_dict,
    to_toml,
)
from diffcse.errors import InputError
from tests.config.strategies import refusal

PAIRS = '\n[text]\nanchor = "a"\npositive = "b"\n'


@pytest.mark.parametrize(
    ("line", "start"),
    [
        ('pairing = "next"', 'method.pairing = "next"'),
        ('positives = "next"', 'method.positives = "next"'),
        ('difference = "none"\nedit_role = "negative"', 'method.edit_role = "negative"'),
    ],
)
def test_pairs_are_not_trained_like_plain_text(line, start):
    assert refusal(f"[method]\n{line}{PAIRS}").startswith(f"my.toml: {start}")
    parse_recipe(f"[method]\n{line}".encode(), "my.toml")


@pytest.mark.parametrize(
    ("method", "text", "training", "unused"),
    [
        ({}, {}, {}, []),
        ({"edit_columns": "anchor"}, {}, {}, ["method.edit_columns"]),
        ({"edit_columns": "anchor"}, {"anchor": "a", "positive": "b"}, {}, []),
        ({"false_negatives": "keep"}, {}, {}, ["method.false_negatives"]),
        ({"false_negatives": "keep", "positives": "next"}, {}, {}, []),
        ({"false_negatives": "keep"}, {"anchor": "a", "positive": "b"}, {}, []),
        ({"hard_negative_weight": 2.0}, {"anchor": "a", "positive": "b"}, {}, ["method.hard_negative_weight"]),
        ({"hard_negative_weight": 2.0}, {"anchor": "a", "positive": "b", "hard_negative": "c"}, {}, []),
        ({"hard_negative_weight": 2.0, "difference": "none", "edit_role": "negative"}, {}, {}, []),
        ({"difference": "none"}, {}, {"discriminator_learning_rate": 1.0}, ["training.discriminator_learning_rate"]),
        ({}, {"document": "d"}, {}, ["text.document"]),
        ({"pairing": "next"}, {"document": "d"}, {}, []),
        (
            {},
            {"anchor": "a", "positive": "b", "column": "c", "document": "d", "split_sentences": True, "language": "de"},
            {},
            ["text.column", "text.document", "text.split_sentences", "text.language"],
        ),
        ({"contrast": False, "temperature": 1.0}, {}, {}, ["method.temperature"]),
    ],
)
def test_fields_without_effect_are_named(method, text, training, unused):
    assert Config(method=Method(**method), text=Text(**text), training=Training(**training)).unused() == unused


def test_runs_of_one_method_have_one_identity():
    def of(method=None, name="a", **training):
        return to_dict(Config(name=name, method=Method(**method or {}), training=Training(**training)))

    plain = method_identity(of())
    assert method_identity(of(name="b", seed=1, dev="x.tsv", log_every=1, keep_training_parts=True)) == plain
    assert method_config(of(seed=1, dev="x.tsv")) == method_config(of())
    others = [of({"temperature": 0.1}), of({"lora_rank": 2}), of(select="last"), of(eval_every=1), of(packing=False)]
    assert len({plain, *map(method_identity, others)}) == 6


# Bundled recipes and files


def test_bundled_recipes_parse():
    names = recipe_names()
    assert {"mini_cpu", "diffcse_bert_base_sts", "simcse_bert_base"} <= set(names)
    for name in names:
        config = load_recipe(name)
        assert config.name == name
        assert config.reproduces
        assert config.hardware
        assert parse_recipe(to_toml(config).encode(), name) == config


def test_the_papers_recipe_is_the_papers():
    config = load_recipe("diffcse_bert_base_sts")
    assert all(getattr(config.method, key) == value for key, value in PRESETS["reference"].items())
    assert (config.method.mask_ratio, config.method.rtd_weight, config.method.temperature) == (0.30, 0.005, 0.05)
    assert (config.training.learning_rate, config.training.batch_size, config.training.epochs) == (7e-6, 64, 2)
    simcse = load_recipe("simcse_bert_base")
    assert (simcse.method.difference, simcse.method.projector) == ("none", "tanh")
    assert (simcse.training.learning_rate, simcse.training.epochs) == (3e-5, 1)


def test_a_recipe_file(tmp_path):
    file = tmp_path / "my.toml"
    file.write_text("[training]\nseed = 7\n")
    assert load_recipe(str(file)).training.seed == 7
    other = tmp_path / "recipe"
    other.write_text("[training]\nsed = 7\n")
    with pytest.raises(InputError) as caught:
        load_recipe(str(other))
    assert str(caught.value).startswith(f"{other}: unknown key training.sed: did you mean training.seed?")


def test_no_such_recipe(tmp_path):
    with pytest.raises(InputError, match=r"^--recipe mini_cp: .* Did you mean 'mini_cpu'"):
        load_recipe("mini_cp")
    with pytest.raises(InputError, match=r"^--recipe zzz: .*mini_cpu.*\.toml"):
        load_recipe("zzz")
    missing = tmp_path / "missing.toml"
    with pytest.raises(InputError) as caught:
        load_recipe(str(missing))
    assert str(caught.value).startswith(f"{missing}: ")


def test_a_recipe_that_cannot_be_read(tmp_path):
    folder = tmp_path / "folder.toml"
    folder.mkdir()
    with pytest.raises(InputError, match=r"folder\.toml: "):
        load_recipe(str(folder))
    with pytest.raises(InputError, match="File name too long"):
        load_recipe("a" * 5000)
