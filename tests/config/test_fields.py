"""Configurations: what is written is read back equal; what is refused names file and key; what each field affects."""

import dataclasses
import doctest
import inspect
import math
import os
import time
from dataclasses import dataclass, field
from typing import get_args

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from diffcse.config import Config, Method, Pooling, Text, Training, fields, parse_recipe, to_dict, to_toml
from diffcse.config.fields import affects, changed_fields, differences, identity, override, setting
from diffcse.errors import InputError
from diffcse.pretraining.config import Pretraining
from tests.config.strategies import CONFIGS, refusal


def test_an_empty_recipe_is_the_default():
    assert parse_recipe(b"", "my.toml") == Config()


def test_each_field_can_be_read_and_is_described():
    for kind in (Method, Text, Training, Config):
        source = "".join(inspect.getsource(each) for each in kind.__mro__ if dataclasses.is_dataclass(each))
        for item in dataclasses.fields(kind):
            if item.name not in ("method", "text", "training"):
                assert f"    {item.name}: " in source
                assert '"""' in source.split(f"    {item.name}: ")[1].split("\n")[1], f"{item.name} says nothing"


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


# What is refused, and how


VALUES = f"must be one of {', '.join(map(repr, get_args(Pooling)))}."


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("\n[method]\n\ntemprature = 1\n", "unknown key method.temprature: did you mean method.temperature?"),
        ("[training]\nbatchsize = 1", "unknown key training.batchsize: did you mean training.batch_size?"),
        ("[method]\npresett = 1", "unknown key method.presett: did you mean method.preset?"),
        ("[method]\nlearning_rate = 1\n", "unknown key method.learning_rate: did you mean training.learning_rate?"),
        ("seed = 1", "unknown key seed: did you mean training.seed?"),
        ("preset = 'simcse'", "unknown key preset: did you mean method.preset?"),
        ("nam = 'x'", "unknown key nam: did you mean name?"),
        ("\n[trainning]\nseed = 1", "unknown key trainning: did you mean training?"),
        ("zzz = 1", "unknown key zzz: known keys: name, reproduces, hardware, method, text, training"),
        ("[method.polling.deeper]\nx = 1", "unknown key method.polling: did you mean method.pooling?"),
        ("[method]\nmodel = 3", "method.model = 3: "),
        ("[method]\ncontrast = 1", "method.contrast = 1: "),
        ("[method]\ntemperature = true", "method.temperature = True: "),
        ("[method]\ntemperature = nan", "method.temperature = nan: "),
        ("[training]\nepochs = -inf", "training.epochs = -inf: "),
        ("[training]\nseed = 1.0", "training.seed = 1.0: "),
        ("[training]\nseed = '1'", "training.seed = '1': "),
        ("[training]\nseed = true", "training.seed = True: "),
        ("name = ['x']", "name = ['x']: "),
        ("[method]\npooling = 'means'", f"method.pooling = 'means': {VALUES} Did you mean 'mean'?"),
        ("[method]\npooling = 'pooler'", f"method.pooling = 'pooler': {VALUES}"),
        ("[method]\npooling = 1", f"method.pooling = 1: {VALUES}"),
        ("[method]\npooling = ['cls']", f"method.pooling = ['cls']: {VALUES}"),
        ("\nmethod = 1", "method must be a table"),
        ("[[training]]\nseed = 1", "training must be a table"),
        ("[method]\ntemperature = 0", "method.temperature = 0.0: must be above 0"),
        ("[method]\nmask_ratio = 1", "method.mask_ratio = 1.0: must be above 0 and below 1"),
        ("[method]\nmask_ratio = 0", "method.mask_ratio = 0.0: must be above 0 and below 1"),
        ("[method]\ndropout = 1", "method.dropout = 1.0: "),
        ("[method]\nlora_rank = 0", "method.lora_rank = 0: "),
        ("[training]\n\nwarmup_ratio = 1", "training.warmup_ratio = 1.0: "),
        ("[training]\nweight_decay = -0.1", "training.weight_decay = -0.1: "),
        ("[training]\nmax_steps = 0", "training.max_steps = 0: "),
        ("[training]\nbatch_size = 1", "training.batch_size = 1: must be at least 2"),
        ("[training]\nbatch_size = 8\nmini_batch_size = 9", "training.mini_batch_size = 9: "),
        ("[training]\nmini_batch_size = 0", "training.mini_batch_size = 0: "),
        ("[training]\nmax_tokens = 3", "training.max_tokens = 3: "),
        ("[training]\nseed = -1", "training.seed = -1: "),
        ("[training]\nseed = 9223372036854775808", "training.seed = 9223372036854775808: "),
        ("[training]\ndiscriminator_learning_rate = 0", "training.discriminator_learning_rate = 0.0: "),
        ("[text]\npositive = 'p'", "text.anchor = None: "),
        ("[text]\nanchor = 'a'\npositive = 'a'", "text.anchor = a: "),
        ("[text]\nhard_negative = 'n'", "text.hard_negative = n: "),
        ("[text]\ncolumn = ''", "text.column = (empty): "),
    ],
)
def test_each_error_names_file_and_key(text, start):
    assert refusal(text).startswith(f"my.toml: {start}")


@pytest.mark.parametrize("name", ["epochs", "learning_rate", "max_grad_norm"])
def test_rates_must_be_above_0(name):
    assert refusal(f"[training]\n{name} = 0.0") == f"my.toml: training.{name} = 0.0: must be above 0"


@pytest.mark.parametrize("name", ["accumulation", "eval_every", "checkpoint_every", "log_every"])
def test_counts_must_be_1_or_more(name):
    assert refusal(f"[training]\n{name} = 0") == f"my.toml: training.{name} = 0: must be at least 1"


def test_what_is_switched_off_may_have_any_value():
    assert parse_recipe(b'[method]\ndifference = "none"\nrtd_weight = 0\n', "my.toml").method.rtd_weight == 0


def test_values_given_in_python_are_checked_too():
    for make, name in [
        (lambda: Method(pooling="middle"), "method.pooling"),
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


# Layouts and encodings


def test_not_toml_names_the_line():
    message = refusal("[method]\nmodel = mini\n")
    assert message.startswith("my.toml: not TOML: ")
    assert "line 2" in message


def test_a_key_twice():
    assert "not TOML" in refusal("[training]\nseed = 1\nseed = 2")


def test_not_utf8_names_the_line():
    assert refusal(b"[method]\n\nmodel = '\xff'\n").startswith("my.toml:3: not UTF-8")
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


@pytest.mark.parametrize("text", ["'" + "a" * 1_000_000 + "' = 1", "name = '''" + "[\n" * 300_000 + "'''\nzzz = 1"])
def test_large_recipes_are_refused_soon(text):
    started = time.process_time()
    assert len(refusal(text)) < 1000
    assert time.process_time() - started < 5


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


# What each field affects


@dataclass(frozen=True)
class Part:
    size: int = setting(3, at_least=1)
    speed: float = setting(1.0, affects="nothing")
    judge: str | None = setting(None, affects="score")


@dataclass(frozen=True)
class Whole:
    name: str = setting("x", affects="nothing")
    part: Part = field(default_factory=Part)


def test_any_dataclass_is_a_configuration():
    whole = override(Whole(), {"name": "y", "part": {"size": 5, "judge": "j"}}, "a.toml")
    assert whole == Whole("y", Part(5, 1.0, "j"))
    assert to_toml(whole) == 'name = "y"\n\n[part]\nsize = 5\nspeed = 1.0\njudge = "j"\n'
    assert affects(Whole) == {"name": "nothing", "part.size": "weights", "part.speed": "nothing", "part.judge": "score"}


def test_changed_fields_by_their_least_effect():
    one, other = to_dict(Whole()), to_dict(Whole("y", Part(4, 2.0, "j")))
    assert changed_fields(one, other, Whole) == ["part.size", "part.judge"]
    assert changed_fields(one, other, Whole, least="weights") == ["part.size"]
    assert changed_fields(one, other, Whole, least="nothing") == ["name", "part.size", "part.speed", "part.judge"]
    assert changed_fields(one, {**one, "text": 1}, Whole, least="weights") == ["text"]  # no field of that dataclass


def test_the_identity_leaves_out_what_affects_nothing():
    plain = identity(to_dict(Whole()), Whole)
    assert identity(to_dict(Whole("y", Part(speed=2.0))), Whole) == plain
    assert identity({"part": {"size": 3}}, Whole) == plain  # an unset field equals a missing one
    others = [to_dict(Whole(part=part)) for part in (Part(size=4), Part(judge="j"))]
    assert len({plain, *(identity(other, Whole) for other in others)}) == 3
    assert identity(others[1], Whole, without=["part.judge"]) == plain


@pytest.mark.parametrize(
    ("kind", "nothing", "score"),
    [
        (
            Config,
            {
                *("name", "reproduces", "hardware", "training.log_every", "training.checkpoint_every"),
                *("training.gradient_checkpointing", "training.keep_training_parts", "training.report_to"),
                *("text.max_line_bytes", "text.max_blank_lines", "text.max_expansion"),
            },
            {
                *("training.dev", "training.dev_column", "training.dev_label", "training.dev_answer"),
                *("training.select", "training.eval_every", "training.patience"),
            },
        ),
        (Pretraining, {"name", "purpose", "hardware", "log_every", "eval_every", "checkpoint_every"}, set()),
    ],
)
def test_each_field_says_what_it_affects(kind, nothing, score):
    answers = affects(kind)
    assert list(answers) == list(flat(to_dict(kind())))
    assert {name for name, answer in answers.items() if answer == "nothing"} == nothing
    assert {name for name, answer in answers.items() if answer == "score"} == score


def flat(config, prefix=""):
    """Dotted names of the values of a configuration as dictionary."""
    for name, value in config.items():
        yield from flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [f"{prefix}{name}"]


def test_doctests():
    assert doctest.testmod(fields).failed == 0
