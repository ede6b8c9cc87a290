"""Recipes: what can be said is read back equal; what cannot is refused with file, line, key and the nearest one."""

import dataclasses
import inspect
import math
import os
import re
import time
import tomllib
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from diffcse.config import (
    EDITS,
    PRESETS,
    Config,
    Method,
    Pretraining,
    Text,
    Training,
    apply_preset,
    differences,
    load_pretraining,
    load_recipe,
    parse_pretraining,
    parse_recipe,
    recipe_names,
    to_dict,
    to_toml,
)
from diffcse.errors import InputError


def refusal(text, source="my.toml"):
    """The message with which `text` is refused."""
    with pytest.raises(InputError) as caught:
        parse_recipe(text.encode() if isinstance(text, str) else text, source)
    return str(caught.value)


# Strategies: every value that a field takes

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
ABOVE_0 = st.floats(min_value=0, exclude_min=True, allow_infinity=False)
RANGES = {
    "temperature": ABOVE_0,
    "rtd_weight": ABOVE_0,
    "sampling_temperature": ABOVE_0,
    "mask_ratio": st.floats(min_value=0, max_value=1, exclude_min=True, exclude_max=True),
    "edits": st.lists(st.sampled_from(list(EDITS)), min_size=1, unique=True),
    "seed": st.integers(0, 2**63 - 1),
    "batch_size": st.integers(2, 2**40),
    "mini_batch_size": st.none() | st.integers(1, 2),
    "accumulation": st.integers(1, 2**40),
    "max_tokens": st.integers(4, 2**40),
    "epochs": ABOVE_0,
    "max_steps": st.none() | st.integers(1, 2**40),
    "lora_rank": st.none() | st.integers(1, 2**40),
    "learning_rate": ABOVE_0,
    "discriminator_learning_rate": st.none() | ABOVE_0,
    "warmup_ratio": st.floats(min_value=0, max_value=1, exclude_max=True),
    "weight_decay": st.floats(min_value=0, allow_infinity=False),
    "max_grad_norm": ABOVE_0,
    "eval_every": st.integers(1, 2**40),
    "checkpoint_every": st.integers(1, 2**40),
    "log_every": st.integers(1, 2**40),
}


def values(name, kind):
    if name in RANGES:
        return RANGES[name]
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    return {
        bool: st.booleans(),
        str: TEXT,
        str | None: st.none() | TEXT,
        float: st.floats(-10, 10),
        float | None: st.none() | st.floats(0, 0.99),
    }[kind]


def fields(kind):
    hints = get_type_hints(kind)
    return {name: values(name, hint) for name, hint in hints.items() if hint not in (Method, Text, Training)}


def trains_something(choices):
    return (
        choices["contrast"]
        if choices["difference"] == "none"
        else choices["contrast"] or choices["condition"] != "none"
    )


def means_something(choices):
    """`choices` without what the other choices leave without meaning, which `Method` refuses."""
    if choices["sampling"] == "argmax":
        choices["sampling_temperature"] = 1.0
    if choices["condition"] == "none":
        choices["inject"] = "replace"
    if choices["difference"] != "none":
        choices["edit_role"] = "difference"
    if choices["difference"] == "mlm":
        choices["edits"] = ["mlm"]
    for name in choices["edits"]:
        if choices["difference"] == "corrective_lm" and not EDITS[name].keeps_length:
            choices["difference"] = "rtd"
        if not EDITS[name].takes_all:
            choices["edit_scope"] = "masked"
    if choices["causal_generator"] is None:
        choices["causal_generator"] = "causal"
    if not choices["contrast"] or (choices["edit_role"], choices["pairing"]) != ("difference", "same"):
        choices["positives"] = "dropout"
    return choices


METHODS = (
    st.fixed_dictionaries(fields(Method))
    .filter(trains_something)
    .map(means_something)
    .map(lambda chosen: Method(**chosen))
)


def readable(choices):
    """`choices` of the text section with what belongs together put together."""
    if choices["anchor"] is None or choices["positive"] is None:
        choices |= {"anchor": None, "positive": None, "hard_negative": None}
    else:
        choices |= {"positive": choices["anchor"] + "+", "document": None, "split_sentences": False, "column": "text"}
        choices["hard_negative"] = None if choices["hard_negative"] is None else choices["anchor"] + "-"
    return {name: "x" if value == "" else value for name, value in choices.items()}


TEXTS = st.fixed_dictionaries(fields(Text)).map(readable).map(lambda chosen: Text(**chosen))
TRAININGS = st.fixed_dictionaries(fields(Training)).map(lambda chosen: Training(**chosen))


def together(method, text, **others):
    """A `Config` whose method is for the kind of text it has."""
    plain = {"pairing": "same", "edit_role": "difference", "positives": "dropout"} if text.supervised else {}
    if not text.supervised:
        plain |= {"edit_columns": "both"}
        plain |= {"false_negatives": "mask"} if method.positives == "dropout" else {}
    if text.hard_negative is None:
        plain["hard_negative_weight"] = 0.0
    return Config(method=dataclasses.replace(method, **plain), text=text, **others)


CONFIGS = st.builds(together, METHODS, TEXTS, **fields(Config), training=TRAININGS)


# What can be said


def test_defaults_are_the_papers_with_our_named_changes():
    method, training = Config().method, Config().training
    assert (method.temperature, method.rtd_weight, method.mask_ratio) == (0.05, 0.005, 0.30)
    assert (method.pooling, method.projector, method.difference) == ("cls", "batchnorm", "rtd")
    assert (method.sampling, method.edit_scope, method.rtd_padding) == ("sample", "masked", "ignore")
    assert (method.generator_dropout, method.condition, method.contrast) == (False, "projected", True)
    assert (method.edits, method.edit_role, method.pairing) == (("mlm",), "difference", "same")
    assert (method.edit_columns, method.hard_negative_weight, method.false_negatives) == ("both", 0.0, "mask")
    assert (training.batch_size, training.max_tokens, training.epochs) == (64, 32, 2.0)
    assert (training.learning_rate, training.warmup_ratio, training.max_grad_norm) == (7e-6, 0.0, 1.0)
    assert training.eval_every == 125


def test_an_empty_recipe_is_the_default():
    assert parse_recipe(b"", "my.toml") == Config()


def test_each_field_can_be_read_and_is_described():
    for kind in (Method, Text, Training, Config):
        source = "".join(inspect.getsource(each) for each in kind.__mro__ if dataclasses.is_dataclass(each))
        for field in dataclasses.fields(kind):
            if field.name not in ("method", "text", "training"):
                assert f"    {field.name}: " in source
                assert '"""' in source.split(f"    {field.name}: ")[1].split("\n")[1], f"{field.name} says nothing"


@given(CONFIGS)
@example(Config(name='"""\\\n\r\t\x00\x1f\x7f\x85\u2028\ufeff\U0001f600 = [method]'))
@example(Config(reproduces="\npooling = 'max'\n[training]\n", hardware="'''"))
@example(
    Config(method=Method(temperature=5e-324, rtd_weight=1.7976931348623157e308), training=Training(seed=2**63 - 1))
)
@example(Config(method=Method(temperature=1, rtd_weight=10), training=Training(epochs=3)))
def test_toml_round_trip(config):
    text = to_toml(config)
    assert parse_recipe(text.encode(), "my.toml") == config


def test_an_integer_serves_as_a_float():
    epochs = parse_recipe(b"[training]\nepochs = 3\n", "my.toml").training.epochs
    assert epochs == 3.0
    assert isinstance(epochs, float)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_line_ends_and_byte_order_mark(newline, start):
    data = start + newline.join(["[training]", "seed = 7", ""]).encode()
    assert parse_recipe(data, "my.toml").training.seed == 7


def test_other_ways_to_write_a_table():
    for text in ("method.pooling = 'mean'", "method = {pooling = 'mean'}", "['method']\n\"pooling\" = 'mean'"):
        assert parse_recipe(text.encode(), "my.toml").method.pooling == "mean"


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
    assert refusal('\n[method]\npreset = "refrence"') == (
        "my.toml:3: method.preset = 'refrence': must be one of 'reference', 'simcse'"
    )
    with pytest.raises(InputError, match="--preset 'x': must be one of 'reference', 'simcse'"):
        apply_preset(Config(), "x")


@pytest.mark.parametrize("value", ["[]", "{a = 1}", "1", "true", "1979-05-27", "['reference']"])
def test_a_preset_of_another_type(value):
    assert refusal(f"[method]\npreset = {value}\n").startswith("my.toml:2: method.preset = ")


# What is refused, and how


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "\n[method]\n\ntemprature = 1\n",
            "my.toml:4: unknown key method.temprature: did you mean method.temperature?",
        ),
        ("[training]\nbatchsize = 1", "my.toml:2: unknown key training.batchsize: did you mean training.batch_size?"),
        ("[method]\npresett = 1", "my.toml:2: unknown key method.presett: did you mean method.preset?"),
        (
            "[method]\npooling = 'cls'\nlearning_rate = 1\n",
            "my.toml:3: unknown key method.learning_rate: did you mean training.learning_rate? "
            "Write it under [training]",
        ),
        ("seed = 1", "my.toml:1: unknown key seed: did you mean training.seed? Write it under [training]"),
        ("preset = 'simcse'", "my.toml:1: unknown key preset: did you mean method.preset? Write it under [method]"),
        ("nam = 'x'", "my.toml:1: unknown key nam: did you mean name?"),
        ("\n[trainning]\nseed = 1", "my.toml:2: unknown key trainning: did you mean training?"),
        ("zzz = 1", "my.toml:1: unknown key zzz: known keys: name, reproduces, hardware, method, text, training"),
        ("[method]\nmodel = 3", "my.toml:2: method.model = 3: must be text in quotes, of Unicode characters"),
        ("[method]\ncontrast = 1", "my.toml:2: method.contrast = 1: must be true or false"),
        ("[method]\ntemperature = true", "my.toml:2: method.temperature = True: must be a finite number"),
        ("[method]\ntemperature = nan", "my.toml:2: method.temperature = nan: must be a finite number"),
        ("[training]\nepochs = -inf", "my.toml:2: training.epochs = -inf: must be a finite number"),
        ("[training]\nseed = 1.0", "my.toml:2: training.seed = 1.0: must be a whole number below 2^63"),
        ("[training]\nseed = '1'", "my.toml:2: training.seed = '1': must be a whole number below 2^63"),
        ("[training]\nseed = true", "my.toml:2: training.seed = True: must be a whole number below 2^63"),
        ("name = ['x']", "my.toml:1: name = ['x']: must be text in quotes, of Unicode characters"),
        (
            "[method]\npooling = 'means'",
            "my.toml:2: method.pooling = 'means': must be one of 'cls', 'mean', 'first_last', 'top2'. "
            "Did you mean 'mean'?",
        ),
        (
            "[method]\npooling = 'pooler'",
            "my.toml:2: method.pooling = 'pooler': must be one of 'cls', 'mean', 'first_last', 'top2'. "
            "A checkpoint's own head is for loading and measuring an encoder; in training the projector plays its "
            "part, and is thrown away after it.",
        ),
        ("[method]\npooling = 1", "my.toml:2: method.pooling = 1: must be one of 'cls', 'mean', 'first_last', 'top2'."),
        (
            "[method]\npooling = ['cls']",
            "my.toml:2: method.pooling = ['cls']: must be one of 'cls', 'mean', 'first_last', 'top2'. "
            "Did you mean 'cls'?",
        ),
        (
            "[text]\npositive = 'p'",
            "my.toml:1: text.anchor = None: anchor and positive belong together: "
            "set text.anchor and text.positive (--anchor, --positive)",
        ),
        ("[text]\nanchor = 'a'\npositive = 'a'", "my.toml:2: text.anchor = a: one column cannot have two roles"),
        ("[text]\nhard_negative = 'n'", "my.toml:2: text.hard_negative = n: needs anchor and positive beside it"),
        (
            "[text]\nanchor = 'a'\npositive = 'b'\nsplit_sentences = true",
            "my.toml:4: text.split_sentences = True: is for plain text, not for pairs",
        ),
        ("[text]\ncolumn = ''", "my.toml:2: text.column = (empty): must not be empty"),
        ("\nmethod = 1", "my.toml:2: method must be a table: write [method]"),
        ("[[training]]\nseed = 1", "my.toml:1: training must be a table: write [training]"),
        ("[method]\ntemperature = 0", "my.toml:2: method.temperature = 0.0: must be above 0"),
        ("[method]\nmask_ratio = 1", "my.toml:2: method.mask_ratio = 1.0: must lie between 0 and 1"),
        ("[method]\nmask_ratio = 0", "my.toml:2: method.mask_ratio = 0.0: must lie between 0 and 1"),
        ("[training]\n\nwarmup_ratio = 1", "my.toml:3: training.warmup_ratio = 1.0: must lie in [0, 1)"),
        ("[training]\nmax_steps = 0", "my.toml:2: training.max_steps = 0: must be above 0"),
        ("[training]\nbatch_size = 1", "my.toml:2: training.batch_size = 1: must be at least 2"),
        (
            "[training]\nbatch_size = 8\nmini_batch_size = 9",
            "my.toml:3: training.mini_batch_size = 9: must lie between 1 and batch_size = 8: a batch is taken in parts "
            "of this size",
        ),
        ("[training]\nmax_tokens = 3", "my.toml:2: training.max_tokens = 3: must be at least 4"),
        ("[training]\nseed = -1", "my.toml:2: training.seed = -1: must be at least 0"),
        (
            "[training]\nseed = 9223372036854775808",
            "my.toml:2: training.seed = 9223372036854775808: must be a whole number below 2^63",
        ),
    ],
)
def test_each_error_names_file_line_key_and_near_miss(text, message):
    assert refusal(text) == message


@pytest.mark.parametrize("name", ["epochs", "learning_rate", "max_grad_norm"])
def test_rates_must_be_above_0(name):
    assert refusal(f"[training]\n{name} = 0.0") == f"my.toml:2: training.{name} = 0.0: must be above 0"


@pytest.mark.parametrize("name", ["accumulation", "eval_every", "checkpoint_every", "log_every"])
def test_counts_must_be_1_or_more(name):
    assert refusal(f"[training]\n{name} = 0") == f"my.toml:2: training.{name} = 0: must be at least 1"


def test_the_discriminator_learns_at_some_rate():
    assert "training.discriminator_learning_rate = 0.0: must be above 0" in refusal(
        "[training]\ndiscriminator_learning_rate = 0.0"
    )


def test_negative_decay():
    assert "training.weight_decay = -0.1: must not be negative" in refusal("[training]\nweight_decay = -0.1")


def test_contradictions():
    nothing = refusal('[method]\ndifference = "none"\ncontrast = false')
    assert nothing.startswith("my.toml:3: method.contrast = false with method.difference")
    assert "switch one of them on" in nothing
    no_gradient = refusal('[method]\ncondition = "none"\ncontrast = false')
    assert no_gradient.startswith("my.toml:3: method.contrast = false with method.condition")
    zero = refusal("[method]\nrtd_weight = 0")
    assert zero.startswith("my.toml:2: method.rtd_weight = 0.0: must be above 0")
    assert 'method.difference = "none"' in zero
    certain = refusal('[method]\nsampling = "argmax"\nsampling_temperature = 0.5')
    assert certain.startswith("my.toml:3: method.sampling_temperature = 0.5 changes nothing")
    untold = refusal('[method]\ncondition = "none"\ninject = "prepend"')
    assert untold.startswith("my.toml:3: method.inject")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("edits = []", "method.edits = []: name at least one way to edit"),
        ('edits = ["mlm", "mlm"]', "method.edits = ['mlm', 'mlm']: names one of them twice"),
        ('edits = "mlm"', "method.edits = 'mlm': must be a list, such as ['mlm']"),
        ("edits = 3", "method.edits = 3: must be a list, such as [3]"),
        (
            'edits = ["mlm", "inserts"]',
            "method.edits = 'inserts': must be one of 'mlm', 'causal_lm', 'replace', 'insert', 'delete', "
            "'insert_random'. Did you mean 'insert'?",
        ),
        (
            'edits = ["mlm", "causal_lm"]',
            'method.edits holds "causal_lm", which needs a causal language model over the encoder\'s vocabulary: name '
            "one as method.causal_generator (diffcse pretrain --objective causal --tokenizer ENCODER --recipe masked "
            "makes one)",
        ),
        *(
            (
                f'edit_scope = "all"\nedits = ["{name}"]',
                f'method.edit_scope = "all" has a generator rewrite every position, which "{name}" does not do: set '
                'edit_scope = "masked", or take it out of method.edits',
            )
            for name in ("replace", "insert", "delete", "insert_random")
        ),
        *(
            (
                f'difference = "corrective_lm"\nedits = ["mlm", "{name}"]',
                'method.difference = "corrective_lm" asks D for the original token at each position, and after '
                f'"{name}" positions no longer correspond: take it out of method.edits',
            )
            for name in ("insert", "delete", "insert_random")
        ),
        (
            'difference = "mlm"\nedits = ["replace"]',
            'method.difference = "mlm" has D fill the masks itself, so nothing else edits: leave method.edits at '
            '["mlm"], or set method.difference = "rtd"',
        ),
        *(
            (
                f'difference = "{difference}"\nedit_role = "{role}"',
                f'method.edit_role = "{role}" takes the edited copy as a view instead of the difference task: set '
                f'method.difference = "none" (it is "{difference}")',
            )
            for role in ("positive", "negative")
            for difference in ("rtd", "mlm", "corrective_lm")
        ),
    ],
)
def test_edits_that_do_not_go_together(text, message):
    """The message, and the line of the field that it begins with."""
    field = message.split(" ")[0].removeprefix("method.")
    line = 2 + [line.split(" ")[0] for line in text.split("\n")].index(field)
    assert refusal(f"[method]\n{text}") == f"my.toml:{line}: {message}"


def test_plain_text_is_not_trained_like_pairs_nor_pairs_like_plain_text():
    pairs = '\n[text]\nanchor = "a"\npositive = "b"\n'
    assert refusal(f'[method]\npairing = "next"{pairs}') == (
        'my.toml:2: method.pairing = "next" is for plain text, and text.anchor names pairs: leave it at "same", or '
        "train on plain text"
    )
    assert refusal(f'[method]\ndifference = "none"\nedit_role = "negative"{pairs}') == (
        'my.toml:3: method.edit_role = "negative" is for plain text, and text.anchor names pairs: leave it at '
        '"difference", or train on plain text'
    )
    for line, shown in (('edit_columns = "anchor"', "anchor"), ('false_negatives = "keep"', "keep")):
        key = line.split(" ")[0]
        assert refusal(f"[method]\n{line}") == (
            f'my.toml:2: method.{key} = "{shown}" is for pairs: name their columns with text.anchor and text.positive, '
            "or leave it out"
        )
        assert getattr(parse_recipe(f"[method]\n{line}{pairs}".encode(), "my.toml").method, key) == shown
    for rest in ("", pairs):
        assert refusal(f"[method]\nhard_negative_weight = 2{rest}") == (
            "my.toml:2: method.hard_negative_weight = 2.0: there are no hard negatives; name their column with "
            "text.hard_negative"
        )
    whole = f'[method]\nhard_negative_weight = 2{pairs}hard_negative = "c"'
    assert parse_recipe(whole.encode(), "my.toml").method.hard_negative_weight == 2


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
        *(
            ({"difference": "mlm", name: value}, [name])
            for name, value in {
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


def test_contradiction_with_a_preset():
    assert refusal('[method]\npreset = "simcse"\ncontrast = false').startswith("my.toml:3: method.contrast = false")


def test_what_is_switched_off_may_have_any_value():
    assert parse_recipe(b'[method]\ndifference = "none"\nrtd_weight = 0\n', "my.toml").method.rtd_weight == 0


def test_values_given_in_python_are_checked_too():
    for make, name in [
        (lambda: Method(pooling="max"), "method.pooling"),
        (lambda: Method(model=None), "method.model"),
        (lambda: Method(temperature=math.nan), "method.temperature"),
        (lambda: Method(contrast=1), "method.contrast"),
        (lambda: Training(batch_size=64.0), "training.batch_size"),
        (lambda: Training(learning_rate=10**400), "training.learning_rate"),
        (lambda: Config(name=3), "name = 3"),
        (lambda: Config(method=Training()), "method = "),
    ]:
        with pytest.raises(InputError, match=name):
            make()


def test_text_that_no_file_can_hold():
    """A path that is not UTF-8 reaches a program as lone surrogates; run.json and recipe.toml could not be written."""
    odd = os.fsdecode(b"dev\xff.tsv")
    with pytest.raises(InputError, match=r"training\.dev = 'dev\\udcff\.tsv'"):
        Training(dev=odd)


# The line is the right one, however the file is laid out


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[training]\nseed = 1\n\n[method]\nseed = 2\n", 5),  # the same name in two places
        ('name = """\n[method]\npolling = 1\n"""\n[method]\n# polling = 2\npolling = 3\n', 7),  # in text, in a comment
        ("hardware = '''\nmethod.polling = 1'''\nmethod.polling = 3\n", 3),
        ("[method]\nmodel = 'a' # x = 2\n  'polling' = 3\n", 3),
        ("[method]\r\n\r\npolling = 3\r\n", 3),
        ("\nmethod.polling = 3", 2),
        ("\n  [ method ]\n\tpolling=3", 3),
        ("\n\nmethod = {pooling = 'cls', polling = 3}", 3),
        ("[method.polling]\n", 1),
        ("\n[method]\nmodel = 'x'\n[method.polling.deeper]\nx = 1\n", 4),
        ('[method]\n"\\u0070olling" = 1', 1),  # written with an escape: the line of the table around it
    ],
)
def test_lines(text, line):
    key = "seed" if "seed" in text else "polling"
    assert refusal(text).startswith(f"my.toml:{line}: unknown key method.{key}: did you mean ")


def test_not_toml_names_the_line():
    message = refusal("[method]\nmodel = mini\n")
    assert message.startswith("my.toml: not TOML: ")
    assert "line 2" in message


def test_a_key_twice():
    assert "not TOML" in refusal("[training]\nseed = 1\nseed = 2")


def test_not_utf8_names_the_line():
    assert refusal(b"[method]\n\nmodel = '\xff'\n") == "my.toml:3: not UTF-8 text: save the recipe as UTF-8"
    assert refusal("name = 'x'".encode("utf-16")).startswith("my.toml:1: not UTF-8")


# Whatever bytes come: a Config or an InputError, soon

LINES = st.sampled_from(
    [
        "[method]",
        "[training]",
        "[[method]]",
        "preset = 'reference'",
        "preset = []",
        "pooling = 'mean'",
        "temperature = 1e400",
        "seed = 0x" + "f" * 9000,
        "seed = " + "9" * 5000,
        "learning_rate = " + "9" * 400,
        "pooling = 0x" + "f" * 9000,
        "model" + ".a" * 800 + " = 1",
        "epochs = " + "[" * 500,
        "epochs = 1979-05-27T07:32:00-99:99",
        "epochs = 24:61:00",
        "epochs = 2023-02-30",
        "name = '\ud83d'",
        'name = "\\ud800"',
        'name = """',
        "name = '\0'",
        '"" = 1',
        '"method"."seed" = 1',
        "\\",
        "\r",
    ]
)


@given(
    st.binary(max_size=200)
    | st.text(max_size=200).map(lambda text: text.encode(errors="surrogatepass"))
    | st.lists(LINES | st.text(st.characters(max_codepoint=127), max_size=12), max_size=6).map(
        lambda lines: "\n".join(lines).encode(errors="surrogatepass")
    )
)
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@example(b"[method]\npreset = []")
@example(b"training.learning_rate = " + b"9" * 400)
@example(b"training.seed = " + b"9" * 5000)
@example(b"training.seed = 0x" + b"f" * 9000)
@example(b"method.pooling = [0x" + b"f" * 9000 + b"]")
@example(b"method.pooling" + b".a" * 5000 + b" = 1")
@example(b"method.pooling = " + b"[" * 5000)
@example(b"method.pooling = " + b"{a=" * 200 + b"1" + b"}" * 200)
def test_any_bytes_give_a_config_or_an_input_error(data):
    message = None
    try:
        config = parse_recipe(data, "my.toml")
    except InputError as error:
        message = str(error)
    if message is None:
        assert parse_recipe(to_toml(config).encode(), "again") == config
    else:
        assert message.startswith("my.toml")
        assert len(message) < 1000


@pytest.mark.parametrize(
    "text",
    [
        "\n" * 200_000 + "zzz = 1",
        " " * 1_000_000 + "zzz = 1",
        "# " + "a" * 1_000_000 + "\nzzz = 1",
        "'" + "a" * 1_000_000 + "' = 1",
        "a" * 1_000_000 + " = 1",
        "# " + '"""\\' * 200_000 + "\nzzz = 1",
        "# " + "''''\"\"\"" * 100_000 + "\nzzz = 1",
        "zzz" + " " * 1_000_000 + "= 1",
        "name = '''" + "[\n" * 300_000 + "'''\nzzz = 1",
    ],
)
def test_large_recipes_are_refused_soon(text):
    started = time.process_time()
    assert "unknown key" in refusal(text)
    assert time.process_time() - started < 5


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
    assert str(caught.value) == f"{other}:2: unknown key training.sed: did you mean training.seed?"


def test_no_such_recipe(tmp_path):
    with pytest.raises(InputError, match=r"no recipe of that name\. Did you mean 'mini_cpu'"):
        load_recipe("mini_cp")
    with pytest.raises(InputError, match=r"There are: .*mini_cpu.*or give a path that ends in \.toml"):
        load_recipe("zzz")
    missing = tmp_path / "missing.toml"
    with pytest.raises(InputError) as caught:
        load_recipe(str(missing))
    assert str(caught.value) == f"{missing}: no such recipe file"


def test_a_recipe_that_cannot_be_read(tmp_path):
    folder = tmp_path / "folder.toml"
    folder.mkdir()
    with pytest.raises(InputError, match=r"folder\.toml: cannot be read"):
        load_recipe(str(folder))
    with pytest.raises(InputError, match="cannot be read: File name too long"):
        load_recipe("a" * 5000)


# Comparing two


def test_differences_are_dotted_names():
    one = to_dict(Config())
    assert differences(one, to_dict(Config())) == []
    other = to_dict(Config(name="x", method=Method(pooling="mean", generator="g"), training=Training(seed=1)))
    assert differences(one, other) == ["name", "method.generator", "method.pooling", "training.seed"]


def test_differences_where_one_lacks_a_field():
    assert differences({"a": {"b": 1}}, {"a": {}}) == ["a.b"]
    assert differences({}, {"a": {"b": 1}}) == ["a"]
    assert differences({"a": 1}, {"a": {"b": 1}}) == ["a"]
    assert differences({}, {"a": None}) == []  # a field that an older version did not have, unset


@given(CONFIGS, CONFIGS)
@settings(max_examples=30)
def test_differences_are_exact(one, other):
    found = differences(to_dict(one), to_dict(other))
    assert (found == []) == (one == other)
    for name in found:
        a, b = to_dict(one), to_dict(other)
        for part in name.split("."):
            a, b = a[part], b[part]
        assert a != b


# Recipes for pretraining: no sections, the same care


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
    ("line", "says"),
    [
        ("layer = 3", "my.toml:2: unknown key layer: did you mean layers?"),
        ("heads = 3", "my.toml:2: width = 256: must be a multiple of heads = 3"),
        ("max_tokens = 129", "my.toml:2: max_tokens = 129: is above positions = 128"),
        ("batch_tokens = 63", "my.toml:2: batch_tokens = 63: must hold at least one sentence"),
        ('objective = "clm"', "my.toml:2: objective = 'clm': must be one of 'mlm', 'causal'"),
        ("mask_ratio = 1.0", "my.toml:2: mask_ratio = 1.0: must lie between 0 and 1"),
        ("learning_rate = nan", "my.toml:2: learning_rate = nan: must be a finite number"),
        ("[method]", "my.toml:2: unknown key method"),
    ],
)
def test_pretraining_recipe_that_cannot_be_used(line, says):
    with pytest.raises(InputError) as caught:
        parse_pretraining(f'name = "mine"\n{line}\n'.encode(), "my.toml")
    if line.startswith("heads"):
        says = says.replace("my.toml:2", "my.toml:1")  # the width was not written: there is no line of it
    assert says in str(caught.value)


# What the documentation says

DOCS = (Path(__file__).parents[1] / "docs" / "method.md").read_text(encoding="utf-8")


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
