"""Values from files that we did not just write (TOML, JSON), checked against the types that our code relies on.

A type is a plain type, `Literal`, `list`, `tuple`, `dict`, a union, `Any`, a `TypedDict` or a dataclass. A `TypedDict`
may have more keys than it names; a dataclass has exactly its own. Every error names the file and the key.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NoReturn, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from diffcse.errors import InputError

DEEPEST = 50
"""Levels of lists and tables in each other. Ours have fewer than ten; many more would exhaust the stack."""
_TYPE_NAMES = {
    int: "a whole number below 2^63",
    float: "a finite number",
    bool: "true or false",
    str: "text in quotes, of Unicode characters",
    dict: "a table of names and values",
}


def read_json(path: Path, kind: Any = dict[str, Any], *, hint: str = "") -> Any:
    """The JSON value in the file `path`, as `kind` (see the module).

    Args:
        hint: what to do if the file cannot be read or is damaged; ends the message.

    Raises:
        InputError: the file cannot be read, is not JSON, or holds a value of another type; names file and key.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}{hint}") from error
    except (ValueError, RecursionError) as error:  # a path with a zero byte is a ValueError too
        raise InputError(f"{path}: not JSON: {error}{hint}") from error
    try:
        return as_type(value, kind, "")
    except InputError as error:
        raise InputError(f"{path}: {error}{hint}") from None


def as_type(value: Any, kind: Any, key: str, depth: int = 0) -> Any:
    """`value` as `kind`. An integer serves as a float and a list as a tuple; nothing else is converted.

    Raises:
        InputError: another type, a number that is not finite, or lists and tables in each other beyond `DEEPEST`.
    """
    if depth > DEEPEST:
        raise InputError(f"{key}: more than {DEEPEST} lists or tables in each other")
    origin, inner = get_origin(kind), get_args(kind)
    if origin is NotRequired:
        return as_type(value, inner[0], key, depth)
    if kind is Any:
        return _of_any_type(value, key, depth)
    if origin is Literal:
        return _choice(value, inner, key)
    if origin in (Union, UnionType):
        return _one_of(value, inner, key, depth)
    if is_typeddict(kind) or dataclasses.is_dataclass(kind):
        return _with_fields(value, kind, key, depth)
    if origin in (list, tuple):
        if not isinstance(value, list | tuple):
            raise InputError(f"{key} = {shown(value)}: must be a list, such as [{shown(value)}]")
        names = (key if origin is tuple else f"{key}[{i}]" for i in range(len(value)))
        return origin(as_type(item, inner[0], name, depth + 1) for item, name in zip(value, names, strict=True))
    if origin is dict:
        table = value if isinstance(value, dict) else _refuse(value, dict, key)
        return {str(name): as_type(item, inner[1], _join(key, name), depth + 1) for name, item in table.items()}
    if not _fits(value, kind):
        _refuse(value, kind, key)
    return float(value) if kind is float else value


def _refuse(value: Any, kind: Any, key: str) -> NoReturn:
    name = "null" if value is None else shown(value)
    raise InputError(f"{key or 'the file'} = {name}: must be {_TYPE_NAMES.get(kind) or f'a {kind.__name__}'}")


def _join(key: str, name: object) -> str:
    return f"{key}.{shown(name).strip(QUOTES)}".removeprefix(".")


def _of_any_type(value: Any, key: str, depth: int) -> Any:
    """`value`, if it nests no deeper than allowed and its numbers are finite."""
    if isinstance(value, dict):
        return as_type(value, dict[str, Any], key, depth)
    if isinstance(value, list):
        return as_type(value, list[Any], key, depth)
    if isinstance(value, int | float) and not _fits(value, type(value)):
        _refuse(value, type(value), key)
    return value


def _one_of(value: Any, kinds: Sequence[Any], key: str, depth: int) -> Any:
    if value is None and type(None) in kinds:
        return None
    problem: InputError | None = None
    for kind in kinds:
        if kind is not type(None):
            try:
                return as_type(value, kind, key, depth)
            except InputError as error:
                problem = problem or error
    assert problem is not None
    raise problem


def _with_fields(value: Any, kind: Any, key: str, depth: int) -> Any:
    """A table with the fields of a `TypedDict`, or an instance of a dataclass."""
    if dataclasses.is_dataclass(kind) and type(value) is kind:
        return value
    table = value if isinstance(value, dict) else _refuse(value, dict, key)
    hints, is_exact = get_type_hints(kind, include_extras=True), dataclasses.is_dataclass(kind)
    optional = {name for name, hint in hints.items() if get_origin(hint) is NotRequired}
    needed = set(hints) - optional if is_exact or kind.__total__ else set()
    unknown = sorted(set(table) - set(hints)) if is_exact else []
    for problem, names in (("is missing", sorted(needed - set(table))), ("is unknown", unknown)):
        if names:
            raise InputError(f"{_join(key, names[0])} {problem}")
    read = {str(name): as_type(item, hints.get(name, Any), _join(key, name), depth + 1) for name, item in table.items()}
    return kind(**read) if is_exact else read


def _choice(value: Any, choices: Sequence[Any], key: str) -> Any:
    if isinstance(value, str | int) and any(value == choice and type(value) is type(choice) for choice in choices):
        return value
    near = difflib.get_close_matches(shown(value).strip(QUOTES), list(map(str, choices)), 1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise InputError(f"{key} = {shown(value)}: must be one of {', '.join(map(repr, choices))}.{hint}")


def _fits(value: Any, wanted: Any) -> bool:
    fits = type(value) is wanted
    if isinstance(value, int):
        return (fits or (wanted is float and type(value) is int)) and abs(value) < 2**63
    if isinstance(value, float):
        return fits and abs(value) < float("inf")
    if isinstance(value, str):
        return fits and value.encode(errors="ignore").decode() == value
    return fits


QUOTES = "\"'"


def shown(value: object) -> str:
    """`value` as it appears in a message: short, whatever the file holds."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, tables in tables in tables
        return f"a very long {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:76]} ..."
