"""Configurations at random, and the message that refuses a recipe."""

import dataclasses
from typing import Literal, get_args, get_origin

import pytest
from hypothesis import strategies as st

from diffcse.config import EDITS, Config, Method, Pooling, Text, Training, parse_recipe
from diffcse.config.fields import value_types
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
    "map_size": st.integers(2, 2**40),
    "map_strength": ABOVE_0,
    "map_ridge": ABOVE_0,
    "pooling": st.none() | st.sampled_from(get_args(Pooling)),
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
    "patience": st.none() | st.integers(1, 2**40),
    "crop_share_min": st.floats(0.01, 0.3),
    "crop_share_max": st.floats(0.3, 0.99),
    "crop_overlap": st.floats(0, 0.99),
    "crop_least": st.integers(1, 2**40),
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
        int: st.integers(1, 2**40),
        str: TEXT,
        str | None: st.none() | TEXT,
        float: st.floats(-10, 10),
        float | None: st.none() | st.floats(0, 0.99),
    }[kind]


def fields(kind):
    return {name: values(name, hint) for name, hint in value_types(kind).items()}


def trains_something(choices):
    return (
        choices["contrast"]
        if choices["difference"] == "none"
        else choices["contrast"] or choices["condition"] != "none"
    )


def means_something(choices):
    """`choices` without the contradictions that `Method` refuses."""
    if choices["difference"] != "none":
        choices["edit_role"] = "difference"
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
        choices |= {"positive": choices["anchor"] + "+"}
        choices["hard_negative"] = None if choices["hard_negative"] is None else choices["anchor"] + "-"
    return {name: "x" if value == "" else value for name, value in choices.items()}


TEXTS = st.fixed_dictionaries(fields(Text)).map(readable).map(lambda chosen: Text(**chosen))


def judged(choices):
    """`choices` of the training section with columns of a dev file only beside one."""
    if choices["dev"] in (None, "pairs") or choices["dev_label"] is None:
        choices |= {"dev_label": None, "dev_column": None}
    return choices | {"dev_answer": None}


TRAININGS = st.fixed_dictionaries(fields(Training)).map(judged).map(lambda chosen: Training(**chosen))


def together(method, text, **others):
    """A `Config` whose method is for the kind of text it has."""
    plain = {"pairing": "same", "edit_role": "difference", "positives": "dropout"} if text.supervised else {}
    return Config(method=dataclasses.replace(method, **plain), text=text, **others)


CONFIGS = st.builds(together, METHODS, TEXTS, **fields(Config), training=TRAININGS)
