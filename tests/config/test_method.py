"""The choices of the method: presets, contradictions, choices without effect, and what the documentation says."""

import dataclasses
import re
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from diffcse.config import EDITS, PRESETS, Config, Method, Training, apply_preset, parse_recipe, to_dict, to_toml
from diffcse.errors import InputError
from tests.config.strategies import refusal


def test_defaults_are_the_papers_with_our_named_changes():
    method, training = Config().method, Config().training
    assert (method.temperature, method.rtd_weight, method.mask_ratio) == (0.05, 0.005, 0.30)
    assert (method.pooling, method.projector, method.difference) == (None, "batchnorm", "rtd")
    assert (method.sampling, method.edit_scope, method.rtd_padding) == ("sample", "masked", "ignore")
    assert (method.generator_dropout, method.condition, method.contrast) == (False, "projected", True)
    assert (method.edits, method.edit_role, method.pairing) == (("mlm",), "difference", "same")
    assert (method.edit_columns, method.hard_negative_weight, method.false_negatives) == ("both", 0.0, "mask")
    assert (training.batch_size, training.max_tokens, training.epochs) == (64, 32, 2.0)
    assert (training.learning_rate, training.warmup_ratio, training.max_grad_norm) == (7e-6, 0.0, 1.0)
    assert training.eval_every == 125


# Presets


def test_reference_preset_sets_the_published_behaviour():
    method = parse_recipe(b'[method]\npreset = "reference"\n', "my.toml").method
    assert (method.sampling, method.edit_scope, method.rtd_padding) == ("argmax", "all", "include")
    assert method.generator_dropout
    assert method == dataclasses.replace(Method(), **PRESETS["reference"])


@pytest.mark.parametrize(
    "text", ['preset = "reference"\nsampling = "sample"', 'sampling = "sample"\npreset = "reference"']
)
def test_explicit_keys_win_over_a_preset(text):
    method = parse_recipe(f"[method]\n{text}\n".encode(), "my.toml").method
    assert method.sampling == "sample"
    assert method.edit_scope == "all"


def test_a_preset_leaves_other_fields_alone():
    text = b'[method]\npreset = "simcse"\nmodel = "x"\ntemperature = 0.1\n[training]\nseed = 3\n'
    config = parse_recipe(text, "my.toml")
    assert config == Config(
        method=Method(model="x", temperature=0.1, difference="none", projector="tanh"), training=Training(seed=3)
    )


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_names_existing_fields(name):
    config = Config(name="n", training=Training(seed=1))
    preset = apply_preset(config, name)
    assert all(getattr(preset.method, key) == value for key, value in PRESETS[name].items())
    assert dataclasses.replace(preset, method=config.method) == config


def test_unknown_presets():
    message = refusal('\n[method]\npreset = "refrence"')
    assert message.startswith("my.toml: method.preset = 'refrence': must be one of 'reference', 'simcse'")
    with pytest.raises(InputError, match=r"^--preset 'x': must be one of 'reference', 'simcse'"):
        apply_preset(Config(), "x")


@pytest.mark.parametrize("value", ["[]", "{a = 1}", "1", "true", "1979-05-27", "['reference']"])
def test_a_preset_of_another_type(value):
    assert refusal(f"[method]\npreset = {value}\n").startswith("my.toml: method.preset = ")


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ('difference = "none"\ncontrast = false', "method.contrast = false with method.difference"),
        ('preset = "simcse"\ncontrast = false', "method.contrast = false with method.difference"),
        ('condition = "none"\ncontrast = false', "method.contrast = false with method.condition"),
        ("rtd_weight = 0", "method.rtd_weight = 0.0"),
        ('positives = "next"\ncontrast = false', 'method.positives = "next" with method.contrast'),
        ('positives = "next"\npairing = "next"', 'method.pairing = "next" with method.positives'),
        ('positives = "both"\ndifference = "none"\nedit_role = "positive"', 'method.edit_role = "positive"'),
        ("edits = []", "method.edits = []"),
        ('edits = ["mlm", "mlm"]', "method.edits = ['mlm', 'mlm']"),
        ('edits = "mlm"', "method.edits = 'mlm': must be a list, such as ['mlm']"),
        ("edits = 3", "method.edits = 3: must be a list, such as [3]"),
        ('edits = ["mlm", "inserts"]', "method.edits = 'inserts': must be one of "),
        ('edits = ["mlm", "causal_lm"]', "method.edits"),
        *(
            (f'edit_scope = "all"\nedits = ["{name}"]', 'method.edit_scope = "all"')
            for name in ("replace", "insert", "delete", "insert_random")
        ),
        *(
            (f'difference = "corrective_lm"\nedits = ["mlm", "{name}"]', 'method.difference = "corrective_lm"')
            for name in ("insert", "delete", "insert_random")
        ),
        *(
            (f'difference = "{difference}"\nedit_role = "{role}"', f'method.edit_role = "{role}"')
            for role in ("positive", "negative")
            for difference in ("rtd", "mlm", "corrective_lm")
        ),
    ],
)
def test_contradictions_name_file_and_key(text, start):
    assert refusal(f"[method]\n{text}").startswith(f"my.toml: {start}")


def test_edits_are_read_and_written_as_a_list():
    config = parse_recipe(b'[method]\nedits = ["delete", "insert"]\n', "my.toml")
    assert config.method.edits == ("delete", "insert")
    assert 'edits = ["delete", "insert"]' in to_toml(config)
    assert parse_recipe(to_toml(config).encode(), "again") == config
    assert to_dict(config)["method"]["edits"] == ["delete", "insert"]
    assert Method(edits=["delete", "insert"]) == config.method
    assert hash(Method(edits=["delete"])) == hash(Method(edits=("delete",)))


@pytest.mark.parametrize(
    ("choices", "unused"),
    [
        ({}, []),
        (PRESETS["reference"], []),
        ({"contrast": False, "temperature": 1.0}, ["temperature"]),
        ({"contrast": False, "hard_negative_weight": 1.0}, ["hard_negative_weight"]),
        ({"contrast": False, "false_negatives": "keep"}, ["false_negatives"]),
        ({"contrast": False, "condition": "pooled", "projector": "tanh"}, ["projector"]),
        ({"contrast": False, "projector": "tanh"}, []),
        ({"projector": "none", "condition": "pooled"}, ["condition"]),
        ({"condition": "pooled"}, []),
        *(
            ({"difference": "none", name: value}, [name])
            for name, value in {
                "generator": "g",
                "discriminator": "d",
                "causal_generator": "c",
                "rtd_weight": 0.1,
                "rtd_schedule": "linear",
                "rtd_padding": "include",
                "condition": "none",
                "inject": "prepend",
                "pairing": "next",
                "edit_columns": "anchor",
                "edits": ["delete"],
                "sampling": "argmax",
                "sampling_temperature": 2.0,
                "edit_scope": "all",
                "generator_dropout": True,
                "mask_ratio": 0.5,
            }.items()
        ),
        *(
            ({"difference": "none", "edit_role": role, "edits": edits, **choices}, [])
            for role in ("positive", "negative")
            for edits, choices in [
                (["mlm"], {"generator": "g", "mask_ratio": 0.1, "sampling": "argmax", "generator_dropout": True}),
                (["delete"], {"mask_ratio": 0.1}),
                (["causal_lm"], {"causal_generator": "c", "sampling_temperature": 2.0, "edit_scope": "all"}),
            ]
        ),
        ({"difference": "mlm", "mask_ratio": 0.5, "inject": "prepend", "discriminator": "d"}, []),
        ({"sampling": "argmax", "sampling_temperature": 0.5}, ["sampling_temperature"]),
        ({"condition": "none", "inject": "prepend"}, ["inject"]),
        *(
            ({"difference": "mlm", name: value}, [name])
            for name, value in {
                "edits": ["replace"],
                "generator": "g",
                "causal_generator": "c",
                "rtd_padding": "include",
                "sampling": "argmax",
                "sampling_temperature": 2.0,
                "edit_scope": "all",
                "generator_dropout": True,
            }.items()
        ),
        ({"difference": "corrective_lm", "rtd_padding": "include"}, ["rtd_padding"]),
        ({"difference": "corrective_lm", "edits": ["replace"]}, []),
        ({"causal_generator": "c"}, ["causal_generator"]),
        ({"causal_generator": "c", "edits": ["causal_lm"], "generator": "g"}, ["generator"]),
        *(
            ({"edits": ["replace", "delete", "insert_random"], name: value}, [name])
            for name, value in {
                "generator": "g",
                "sampling": "argmax",
                "sampling_temperature": 2.0,
                "generator_dropout": True,
            }.items()
        ),
        ({"edits": ["replace", "insert"], "generator": "g", "sampling": "argmax"}, []),
    ],
)
def test_what_changes_nothing_is_named(choices, unused):
    assert Method(**choices).unused() == unused


# What the documentation says

DOCS = (Path(__file__).parents[2] / "docs" / "method.md").read_text(encoding="utf-8")


def test_every_choice_of_the_method_is_in_the_docs_with_its_values_and_default():
    for field in dataclasses.fields(Method):
        hint = get_type_hints(Method)[field.name]
        row = next((line for line in DOCS.split("\n") if line.startswith(f"| `{field.name}` |")), None)
        if row is None:
            assert f"`{field.name}` (" in DOCS, field.name
            continue
        shown = row.split("|")[2]
        if field.name == "edits":
            assert re.findall("`(.*?)`", shown) == list(EDITS)
        elif get_origin(hint) is Literal:
            assert re.findall("`(.*?)`", shown) == [field.default, *(v for v in get_args(hint) if v != field.default)]
        elif isinstance(field.default, float):
            assert float(shown) == field.default
        elif isinstance(field.default, bool):
            assert shown.strip().startswith("on" if field.default else "off")


def test_recipes_in_the_docs_can_be_read():
    recipes = re.findall(r"```toml\n(.*?)```", DOCS, re.DOTALL)
    assert recipes
    for recipe in recipes:
        parse_recipe(recipe.encode(), "method.md")
