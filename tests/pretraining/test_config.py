"""Recipes for pretraining: no sections, the same checks."""

import dataclasses
import tomllib

import pytest

from diffcse.config import recipe_names
from diffcse.errors import InputError
from diffcse.pretraining.config import Pretraining, load_pretraining, parse_pretraining, to_toml


def test_pretraining_recipes_are_read_back_equal():
    for name in recipe_names("recipes/pretrain"):
        recipe = load_pretraining(name)
        assert recipe.name == name
        assert recipe.purpose
        assert parse_pretraining(to_toml(recipe).encode(), "again.toml") == recipe
    assert "mini" not in recipe_names()
    changed = Pretraining(tokenizer='a "folder"', epochs=0.5, store="fp32", max_steps=3)
    assert parse_pretraining(to_toml(changed).encode(), "x.toml") == changed
    # The shape is that of the model to go on from: what is said of it must not be another one's.
    further = load_pretraining("further")
    assert not {"layers", "width", "vocabulary"} & tomllib.loads(to_toml(further)).keys()
    wider = dataclasses.replace(further, width=64)
    assert tomllib.loads(to_toml(wider))["width"] == 64
    assert parse_pretraining(to_toml(wider).encode(), "x.toml") == wider
    assert further.checkpoint_every < further.max_steps


@pytest.mark.parametrize(
    ("line", "start"),
    [
        ("layer = 3", "unknown key layer: did you mean layers?"),
        ("heads = 3", "width = 256: must be a multiple of heads = 3"),
        ("width = 4\nstart_embeddings = 'next_sentences'", "width = 4: "),
        ("layers = 0", "layers = 0: must be at least 1"),
        ("max_tokens = 129", "max_tokens = 129: "),
        ("batch_tokens = 63", "batch_tokens = 63: "),
        ('objective = "clm"', "objective = 'clm': must be one of 'mlm', 'causal'"),
        ("mask_ratio = 1.0", "mask_ratio = 1.0: "),
        ("learning_rate = nan", "learning_rate = nan: "),
        ("start_share = 0.5", "start_share = 0.5: "),
        ('model = "mini"\ntokenizer = "x"', "tokenizer = x: "),
        ('objective = "causal"\nmodel = "mini"', "model = mini: "),
        ('objective = "causal"\nnext_weight = 1', "next_weight = 1.0: "),
        ('objective = "causal"\nstart_embeddings = "next_sentences"', "start_embeddings = next_sentences: "),
        ("sums_weight = 1", "sums_weight = 1.0: "),
        ("sums_weight = 1\nnext_weight = 1", "sums_weight = 1.0: "),
        (
            'sums_weight = 1\nnext_weight = 1\nmodel = "mini"\nstart_embeddings = "next_sentences"',
            "sums_weight = 1.0: ",
        ),
        ("[method]", "unknown key method"),
    ],
)
def test_a_recipe_that_cannot_be_used_names_file_and_key(line, start):
    with pytest.raises(InputError) as caught:
        parse_pretraining(f'name = "mine"\n{line}\n'.encode(), "my.toml")
    assert str(caught.value).startswith(f"my.toml: {start}")


def test_the_recipe_further_continues_from_the_bundled_model_and_keeps_half_of_it():
    config = load_pretraining("further")
    assert (config.model, config.start_share, config.next_reads) == ("mini", 0.5, "cls")


@pytest.mark.parametrize("share", [1.0, -0.1])
def test_a_share_out_of_range(share):
    with pytest.raises(InputError, match=f"start_share = {share}: "):
        Pretraining(model="mini", start_share=share)


def test_fields_without_effect_are_named():
    assert Pretraining(next_reads="cls").unused() == ["next_reads"]
    assert Pretraining(next_reads="cls", next_weight=0.1).unused() == []
    assert Pretraining(objective="causal", mask_ratio=0.9).unused() == ["mask_ratio"]
    assert Pretraining(model="mini", layers=7).unused() == ["layers"]
