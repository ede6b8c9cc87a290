"""Frozen dataclasses as configurations: checks, TOML, and what each field affects. Names no dataclass of ours.

A configuration is a dataclass whose fields are values or sections. A section is a field whose type is a dataclass.
`setting` gives a field its range and says what the field affects. A section may have presets (`PRESETS`): the TOML key
`preset` then sets several of its fields at once.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args, get_type_hints

from diffcse.errors import InputError
from diffcse.values import QUOTES, as_type, shown

Effect = Literal["nothing", "score", "weights"]
"""What a field affects. nothing: neither a weight nor a score (speed, memory, logs, descriptions). score: which step
ships, or how it is judged. weights: the trained weights."""
_EFFECTS: tuple[Effect, ...] = get_args(Effect)


def setting(
    default: Any,
    *,
    affects: Effect = "weights",
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
) -> Any:
    """A dataclass field with a default value, what it affects, and the range of its numbers."""
    limits = {"above": above, "at least": at_least, "below": below}
    limits = {name: limit for name, limit in limits.items() if limit is not None}
    return dataclasses.field(default=default, metadata={"affects": affects, "limits": limits})


# ---- what a configuration consists of ----------------------------------------------------------------------------


def sections(kind: Any) -> dict[str, Any]:
    """Name -> dataclass of the fields of `kind` that are sections."""
    return {name: hint for name, hint in _types(kind).items() if dataclasses.is_dataclass(hint)}


def value_types(kind: Any) -> dict[str, Any]:
    """Name -> type of the fields of `kind` that are values."""
    return {name: hint for name, hint in _types(kind).items() if not dataclasses.is_dataclass(hint)}


def _types(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _keys(kind: Any) -> list[str]:
    """What TOML may set in a section: its values, and `preset` if it has presets."""
    return [*value_types(kind), *(["preset"] if hasattr(kind, "PRESETS") else [])]


# ---- what a field affects ----------------------------------------------------------------------------------------


def affects(config_class: Any, prefix: str = "") -> dict[str, Effect]:
    """Dotted name -> what the field affects, sections included ("training.log_every" -> "nothing")."""
    answers: dict[str, Effect] = {}
    inner = sections(config_class)
    for field in dataclasses.fields(config_class):
        name = f"{prefix}{field.name}"
        if field.name in inner:
            answers |= affects(inner[field.name], f"{name}.")
        else:
            answers[name] = field.metadata.get("affects", "weights")
    return answers


def changed_fields(
    one: Mapping[str, Any], other: Mapping[str, Any], config_class: Any, *, least: Effect = "score"
) -> list[str]:
    """Dotted names of the fields that differ and affect at least `least`; a field that is unset equals a missing one.

    Args:
        one: a configuration as dictionary; `other` likewise.
        config_class: its dataclass. A field that it does not have counts as one that affects the weights.
        least: "weights", "score" (and weights), or "nothing" (every field).
    """
    answers, least_rank = affects(config_class), _EFFECTS.index(least)
    names = differences(one, other)
    return [name for name in names if _EFFECTS.index(answers.get(name, "weights")) >= least_rank]


def effective(config: Mapping[str, Any], config_class: Any, *, without: Collection[str] = ()) -> dict[str, Any]:
    """`config` without unset fields, fields that affect nothing, and the fields named in `without` (dotted)."""
    answers = affects(config_class)

    def kept(section: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        return {
            key: kept(value, f"{name}.") if isinstance(value, Mapping) else value
            for key, value in section.items()
            for name in [f"{prefix}{key}"]
            if value is not None and answers.get(name) != "nothing" and name not in without
        }

    return kept(config, "")


def identity(config: Mapping[str, Any], config_class: Any, *, without: Collection[str] = ()) -> str:
    """SHA-256 (hex) of `effective`: equal for configurations that give the same weights and scores."""
    values = effective(config, config_class, without=without)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def differences(one: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the fields in which two configurations, as dictionaries, differ."""
    names: list[str] = []
    for key in {**one, **other}:
        a, b = one.get(key), other.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            names += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(f"{prefix}{key}")
    return names


def previous_values(names: Sequence[str], before: Mapping[str, Any]) -> str:
    """Fields by their dotted names, each with its value in the dictionary `before`.

    >>> previous_values(["seed", "a.b", "a.c"], {"seed": 1, "a": {"b": None}})
    'seed was 1, a.b was not set, a.c was not set'
    """
    parts = []
    for name in names:
        value: Any = before
        for key in name.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        parts.append(f"{name} was {'not set' if value is None else json.dumps(value)}")
    return ", ".join(parts)


# ---- checks ------------------------------------------------------------------------------------------------------


def require(condition: bool, key: str, value: object, rule: str) -> None:
    """Raise an `InputError` that names the key, its value and the rule, unless the condition holds."""
    if not condition:
        raise InputError(f"{key} = {value}: {rule}")


def check_values(config: Any, prefix: str = "") -> None:
    """Convert every field of a dataclass to its type and check its range, for callers in Python as for TOML.

    Args:
        config: a frozen dataclass; lists become tuples and integers become floats where the type says so.
        prefix: of the keys in messages ("method.").

    Raises:
        InputError: a value of another type, not finite, or out of range.
    """
    hints = get_type_hints(type(config))
    for field in dataclasses.fields(config):
        key = f"{prefix}{field.name}"
        value = as_type(getattr(config, field.name), hints[field.name], key)
        object.__setattr__(config, field.name, value)
        limits: Mapping[str, float] = field.metadata.get("limits", {})
        if value is not None and not all(_WITHIN[name](value, limit) for name, limit in limits.items()):
            rule = " and ".join(f"{name} {limit}" for name, limit in limits.items())
            raise InputError(f"{key} = {value}: must be {rule}")


_WITHIN: dict[str, Callable[[float, float], bool]] = {
    "above": lambda value, limit: value > limit,
    "at least": lambda value, limit: value >= limit,
    "below": lambda value, limit: value < limit,
}


def non_default(section: Any, names: Collection[str]) -> list[str]:
    """Those of the fields `names` that have another value than their default, in the order of the fields."""
    fields = dataclasses.fields(section)
    return [f.name for f in fields if f.name in names and getattr(section, f.name) != f.default]


# ---- TOML --------------------------------------------------------------------------------------------------------


def read_toml(data: bytes, source: str) -> dict[str, Any]:
    """The table in TOML bytes; `source` is the file's name in messages.

    Raises:
        InputError: not UTF-8, or not TOML; names the file and, where it is known, the line.
    """
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError(f"{source}:{line}: not UTF-8 text: save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:  # tomllib's own error is a ValueError; so is a too long number's
        raise InputError(f"{source}: not TOML: {error}") from error


def override(config: Any, table: Mapping[str, Any], source: str) -> Any:
    """`config`, a dataclass, with the fields that the TOML table sets.

    Raises:
        InputError: an unknown key, or a value out of range or out of place; names file and key.
    """
    inner = sections(type(config))
    made: dict[str, Any] = {}
    for name, kind in inner.items():
        values = table.get(name, {})
        if not isinstance(values, dict):
            raise InputError(f"{source}: {name} must be a table: write [{name}]")
        fields = read_fields(kind, values, source, path=(name,), root=type(config))
        with _named(source):
            made[name] = dataclasses.replace(getattr(config, name), **fields)
    head = {key: value for key, value in table.items() if key not in inner}
    fields = read_fields(type(config), head, source, root=type(config))
    with _named(source):
        return dataclasses.replace(config, **fields, **made)


def read_fields(
    kind: Any, table: Mapping[str, Any], source: str, *, path: Sequence[str] = (), root: Any = None
) -> dict[str, Any]:
    """The values of a TOML table, each checked against the field of its name in the dataclass `kind`.

    Args:
        kind: a dataclass; if it has presets, the key `preset` sets several fields, and keys written out win over it.
        table: the TOML table.
        source: the file's name in messages.
        path: keys that lead to the table.
        root: the dataclass whose sections are searched for an unknown key's right place.

    Raises:
        InputError: an unknown key, or a value of another type; names file and key.
    """
    values, kinds, read = dict(table), value_types(kind), {}
    if hasattr(kind, "PRESETS") and "preset" in values:
        values = {**preset(kind, values.pop("preset"), f"{source}: {'.'.join([*path, 'preset'])} ="), **values}
    for key, value in values.items():
        name = ".".join([*path, key])
        if key not in kinds:
            hint = _near_miss(key, kind, path, root)
            raise InputError(f"{source}: unknown key {shown(name).strip(QUOTES)}: {hint}")
        with _named(source):
            read[key] = as_type(value, kinds[key], name)
    return read


def preset(kind: Any, name: object, where: str) -> Mapping[str, Any]:
    """The fields that the preset of the dataclass `kind` sets; `where` begins the message.

    Raises:
        InputError: no such preset.
    """
    if not isinstance(name, str) or name not in kind.PRESETS:
        raise InputError(f"{where} {shown(name)}: must be one of {', '.join(map(repr, kind.PRESETS))}")
    chosen: Mapping[str, Any] = kind.PRESETS[name]
    return chosen


@contextmanager
def _named(source: str) -> Iterator[None]:
    """Put the file's name before the text of an `InputError` raised in the block."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


def _near_miss(key: str, kind: Any, path: Sequence[str], root: Any) -> str:
    """What an unknown key was probably meant to be: the same name in another section, or a similar one in its own."""
    known = {} if root is None else {name: _keys(section) for name, section in sections(root).items()}
    for section, keys in known.items():
        if key in keys:
            return f"did you mean {section}.{key}? Write it under [{section}]"
    here = [*_keys(kind), *(() if path else known)]
    near = difflib.get_close_matches(key, here, 1)
    return f"did you mean {'.'.join([*path, near[0]])}?" if near else f"known keys: {', '.join(here)}"


def to_toml(config: Any, without: Collection[str] = ()) -> str:
    """A dataclass as TOML that `override` reads back to an equal one, without unset fields and those of `without`."""

    def lines(section: Any) -> Iterator[str]:
        for name in value_types(type(section)):
            value = getattr(section, name)
            if value is not None and name not in without:
                yield f"{name} = {_toml_value(value)}"

    blocks = [[*lines(config)], *([f"[{name}]", *lines(getattr(config, name))] for name in sections(type(config)))]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def _toml_value(value: bool | int | float | str | tuple[str, ...]) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = "".join(_ESCAPES.get(c, f"\\u{ord(c):04x}" if ord(c) < 32 or ord(c) == 127 else c) for c in value)
        return f'"{escaped}"'
    return repr(value)


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain dictionaries and lists, for `run.json`."""
    return {
        name: to_dict(value) if dataclasses.is_dataclass(value) else list(value) if isinstance(value, tuple) else value
        for name, value in ((field.name, getattr(config, field.name)) for field in dataclasses.fields(config))
    }
