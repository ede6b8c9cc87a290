"""The one check of values that come from files."""

import json
import random
import re
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

import pytest

from diffcse.errors import InputError
from diffcse.values import DEEPEST, as_type, read_json
from tests.mutations import json_mutations


class Inner(TypedDict):
    name: str
    size: NotRequired[int | None]


class Loose(TypedDict, total=False):
    level: Literal[1, "high"]


@dataclass
class Whole:
    inner: Inner
    scores: dict[str, list[float]]
    loose: Loose
    rest: Any


GOOD = {"inner": {"name": "a", "more": [1]}, "scores": {"x": [1, 2.5]}, "loose": {}, "rest": {"deep": [[{}]]}}


def test_what_fits_is_read():
    whole = as_type(GOOD, Whole, "")
    assert whole.inner == {"name": "a", "more": [1]}
    assert whole.scores == {"x": [1.0, 2.5]}
    assert type(whole.scores["x"][0]) is float
    assert as_type([1, 2], tuple[int, ...], "k") == (1, 2)
    assert as_type(None, int | None, "k") is None
    assert as_type("x", int | str, "k") == "x"


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"inner": 5}, "inner = 5"),
        ({"inner": {}}, "inner.name is missing"),
        ({"inner": {"name": None}}, "inner.name = null"),
        ({"inner": {"name": "a", "size": True}}, "inner.size = True"),
        ({"inner": {"name": "a", "size": 2**63}}, "inner.size = "),
        ({"scores": {"x": [1, "2"]}}, "scores.x[1] = '2'"),
        ({"scores": {"x": 1}}, "scores.x = 1"),
        ({"scores": {"x": [float("inf")]}}, "scores.x[0] = inf"),
        ({"loose": {"level": 2}}, "loose.level = 2"),
        ({"loose": {"level": True}}, "loose.level = True"),
        ({"loose": {"level": ["high"]}}, "loose.level = ['high']"),
        ({"rest": {"far": [float("nan")]}}, "rest.far[0] = nan"),
        ({"new": 1}, "new is unknown"),
    ],
)
def test_what_does_not_fit_is_named_with_file_and_key(tmp_path, change, key):
    (tmp_path / "a.json").write_text(json.dumps(GOOD | change))
    with pytest.raises(InputError, match=f"^{re.escape(str(tmp_path / 'a.json'))}: {re.escape(key)}"):
        read_json(tmp_path / "a.json", Whole)


@pytest.mark.parametrize("depth", [DEEPEST + 1, 900, 10_000])
def test_values_in_each_other_are_bounded(tmp_path, depth):
    (tmp_path / "a.json").write_text('{"a": ' + "[" * depth + "]" * depth + "}")
    with pytest.raises(InputError, match=r"a\.json: "):
        read_json(tmp_path / "a.json")


def test_any_damage_is_an_input_error(tmp_path):
    file, rng, messages = tmp_path / "a.json", random.Random(0), []
    for text in json_mutations(GOOD, rng, 400):
        file.write_text(text)
        try:
            read_json(file, Whole)
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > 200
    assert all(message.startswith(str(file)) for message in messages)
