"""The options of a verb: their names and help, a quick check of what was typed, and `--set`.

tyro parses the command line. This module reads the same dataclass, for two reasons: `--help` shows the common options
on one screen and `--help-all` shows the others by section, and a mistyped name or value is answered in one line.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from tyro.conf import Positional, UseAppendAction

from diffcse.errors import InputError

_WIDTH, _COLUMN = 80, 27


@dataclass(frozen=True)
class Option:
    """One option or positional argument of a verb."""

    key: str
    """Where its value goes: "resume", or "method.mask_ratio" for a field of a section."""
    name: str
    """"--mask-ratio"; of a positional argument its metavar."""
    help: str
    kinds: tuple[type, ...]
    """Types of the value, without None."""
    choices: tuple[str, ...]
    metavar: str
    is_list: bool
    repeatable: bool
    positional: bool
    default: Any

    @property
    def section(self) -> str:
        """The section of the recipe that the option belongs to; empty for the verb's own options."""
        return self.key.rpartition(".")[0]

    @property
    def is_flag(self) -> bool:
        """Whether the option takes no value."""
        return self.kinds == (bool,)


def options_of(verb: type, arguments: Sequence[str] = ()) -> list[Option]:
    """All options of a verb, in the order of its fields; a field that is a dataclass is a section of options.

    Defaults are those of the recipe that `arguments` name.
    """
    return list(_options(verb, verb.defaults(arguments) if hasattr(verb, "defaults") else None, ""))


def _options(kind: type, defaults: Any, prefix: str) -> Iterator[Option]:
    hints, docs = get_type_hints(kind, include_extras=True), _docs(kind)
    for field in dataclasses.fields(kind):
        hint, default = hints[field.name], getattr(defaults, field.name, field.default)
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            sections = hint() if default is dataclasses.MISSING else default
            yield from _options(hint, sections, f"{field.name}.")
            continue
        marks = getattr(hint, "__metadata__", ())
        named = {key: value for mark in marks for key in ("name", "metavar") if (value := getattr(mark, key, None))}
        kinds, choices, is_list = _value(get_args(hint)[0] if marks else hint)
        positional = Positional in marks
        metavar = named.get("metavar") or ("|".join(choices) if choices else _METAVARS[kinds[0]])
        name = metavar if positional else f"--{named.get('name', field.name).replace('_', '-')}"
        text = " ".join(docs.get(field.name, "").split())
        yield Option(
            f"{prefix}{field.name}", name, text, kinds, choices, metavar, is_list, UseAppendAction in marks,
            positional, None if default is dataclasses.MISSING else default,
        )  # fmt: skip


_METAVARS = {Path: "PATH", str: "NAME", int: "N", float: "X", bool: ""}


def _value(hint: Any) -> tuple[tuple[type, ...], tuple[str, ...], bool]:
    """Types, choices, and whether there may be several values, of an annotation."""
    if get_origin(hint) in (Union, UnionType):
        parts = [_value(part) for part in get_args(hint) if part is not type(None)]
        return parts[0]
    if get_origin(hint) is tuple:
        kinds, choices, _ = _value(get_args(hint)[0])
        return kinds, choices, True
    if get_origin(hint) is Literal:
        return (str,), get_args(hint), False
    return (hint,), (), False


@cache
def _docs(kind: type) -> dict[str, str]:
    """The string below each field of a dataclass, and below those of its bases."""
    docs: dict[str, str] = {}
    for base in kind.__mro__[-2::-1]:
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, below in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                docs[field.target.id] = str(getattr(getattr(below, "value", None), "value", ""))
    return docs


# ---- help ----------------------------------------------------------------------------------------------------------


def help_text(verb: type, name: str, arguments: Sequence[str] = ()) -> str:
    """The help page of a verb, at most 80 columns wide.

    `verb.COMMON`, if there is one, names the options of the page, in order. With --help-all among `arguments` the
    page shows every option, grouped by section.
    """
    options, everything = options_of(verb, arguments), "--help-all" in arguments
    order = [option.key for option in options if not option.section]
    order = order if everything else list(getattr(verb, "COMMON", order))
    shown = sorted((option for option in options if option.key in order), key=lambda option: order.index(option.key))
    positional = [option for option in options if option.positional]
    lines = [" ".join(["usage: diffcse", name, *(option.name for option in positional), "[options]"]), ""]
    lines += [*textwrap.wrap(" ".join(str(verb.__doc__).split()), _WIDTH), ""]
    for option in [*positional, *(option for option in shown if not option.positional)]:
        lines += _entry(option)
    if _takes_set(verb, options):
        example = getattr(verb, "SETTING", "text.column=NAME")
        lines += _row("--set NAME=VALUE", f"any other setting, such as {example} (repeatable)")
    if not everything:
        hidden = len(options) - len(positional) - len([option for option in shown if not option.positional])
        return "\n".join([*lines, *(_row("--help-all", f"show the other {hidden} options too") if hidden else [])])
    for section in dict.fromkeys(option.section for option in options if option.section):
        lines += ["", f"{section}:"]
        lines += [line for option in options if option.section == section for line in _entry(option)]
    return "\n".join(lines)


def _entry(option: Option) -> list[str]:
    text = option.help.removesuffix(".")
    default = option.default
    if option.is_flag:
        text += f" [on; --no-{option.name[2:]} switches it off]" if default is True else ""
    elif default is not None and default not in ("", ()) and not option.positional:
        text += f" [{' '.join(map(str, default)) if isinstance(default, tuple) else default}]"
    name = option.name if option.positional else f"{option.name} {option.metavar}".rstrip()
    return _row(name, text + (" (repeatable)" if option.repeatable else ""))


def _row(name: str, text: str) -> list[str]:
    """Name and text in two columns; a long name has a line of its own."""
    lines = textwrap.wrap(text, _WIDTH - _COLUMN, break_on_hyphens=False) or [""]
    first = f"  {name}"
    if len(first) > _COLUMN - 2:
        # The spaces are where a list of choices may break.
        spaced = name.replace("|", "| ")
        first = "\n".join(textwrap.wrap(spaced, _WIDTH - 2, initial_indent="  ", subsequent_indent="      "))
        first = first.replace("| ", "|")
        return [*first.split("\n"), *(" " * _COLUMN + line for line in lines)]
    return [f"{first:<{_COLUMN}}{lines[0]}", *(" " * _COLUMN + line for line in lines[1:])]


# ---- what was typed ------------------------------------------------------------------------------------------------


def prepare(verb: type, name: str, arguments: Sequence[str]) -> list[str]:
    """`arguments` with each `--set KEY=VALUE` as the option it stands for, all names and simple values checked.

    Raises:
        InputError: no such option or setting, or a value of the wrong type; names the nearest one.
    """
    options = options_of(verb)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    plain, sets = [], []
    renamed = getattr(verb, "RENAMED", {})
    rest = iter(arguments[:end])
    for argument in rest:
        argument = renamed.get(argument, argument)
        if not _takes_set(verb, options) or argument.partition("=")[0] != "--set":
            plain.append(argument)
        elif "=" in argument:
            sets += _as_option(verb, options, argument.partition("=")[2])
        else:
            sets += _as_option(verb, options, next(rest, ""))
    _check(options, name, plain)
    _check(options, name, sets)
    return [*plain, *sets, *arguments[end:]]


def _takes_set(verb: type, options: Sequence[Option]) -> bool:
    return any(option.section for option in options) and not any(option.name == "--set" for option in options)


def _set_key(verb: type, option: Option) -> str:
    """The option's name in `--set`: its key in a recipe. A verb with one unnamed section has bare keys there."""
    return option.key.removeprefix(f"{getattr(verb, 'UNNAMED', '')}.")


def _as_option(verb: type, options: Sequence[Option], setting: str) -> list[str]:
    """`method.mask_ratio=0.2` as the tokens of the option that sets it."""
    key, equals, value = (part.strip() for part in setting.partition("="))
    if not equals:
        raise InputError(f"--set {setting}: write --set NAME=VALUE, such as --set training.batch_size=128")
    known = {_set_key(verb, option): option for option in options if not option.positional}
    if key not in known:
        same = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
        near = same or difflib.get_close_matches(key, known, 1)
        raise InputError(f"--set {key}: no such setting.{f' Did you mean {near[0]}?' if near else ''}")
    option = known[key]
    if option.is_flag:
        if value.lower() not in ("true", "false"):
            raise InputError(f"--set {key}={value}: must be true or false")
        return [option.name if value.lower() == "true" else f"--no-{option.name[2:]}"]
    if option.is_list:
        return [option.name, *(part.strip("\"'") for part in re.split(r"[\s,]+", value.strip("[] ")) if part)]
    return [f"{option.name}={value.strip(chr(34) + chr(39))}"]


def _check(options: Sequence[Option], verb: str, arguments: Sequence[str]) -> None:
    known = {option.name: option for option in options if not option.positional}
    flags = {f"--no-{option.name[2:]}" for option in known.values() if option.is_flag}
    for argument, following in itertools.zip_longest(arguments, arguments[1:], fillvalue=""):
        name, equals, value = argument.partition("=")
        name = name.replace("_", "-")
        if not name.startswith("--") or name in flags:
            continue
        if name not in known:
            near = difflib.get_close_matches(name, [*known, "--help", "--help-all"], 1)
            hint = f"Did you mean {near[0]}?" if near else f"diffcse {verb} --help-all lists them."
            raise InputError(f"{name}: no such option. {hint}")
        if not known[name].is_flag:
            _check_value(known[name], value if equals else following)


def _check_value(option: Option, value: str) -> None:
    if value == "None" or (option.is_list and not value):
        return
    if not value or value.startswith("--"):
        raise InputError(f"{option.name}: needs a value ({option.metavar})")
    if option.choices and value not in option.choices:
        near = difflib.get_close_matches(value, option.choices, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise InputError(f"{option.name} {value}: must be one of {', '.join(option.choices)}.{hint}")
    for kind, words in ((int, "a whole number"), (float, "a number")):
        if option.kinds[0] is kind:
            try:
                kind(value)
            except ValueError:
                raise InputError(f"{option.name} {value}: must be {words}") from None


def check_sections(verb: type, defaults: Any, arguments: Sequence[str]) -> None:
    """Make each section of `defaults` with the values typed, so that a bad value has the error of its own dataclass.

    Raises:
        InputError: a value is out of range, or values do not fit together.
    """
    named = {option.name: option for option in options_of(verb) if option.section}
    changes: dict[str, dict[str, Any]] = {}
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        name = name.replace("_", "-")
        option = named.get(name) or named.get(f"--{name.removeprefix('--no-')}")
        if option is None or not name.startswith("--"):
            continue
        following = itertools.takewhile(lambda word: not word.startswith("--"), arguments[i + 1 :])
        words = [value] if equals else list(following)
        field = option.key.rpartition(".")[2]
        changes.setdefault(option.section, {})[field] = _typed(option, name, words)
    for section, values in changes.items():
        dataclasses.replace(getattr(defaults, section), **values)


def _typed(option: Option, name: str, words: Sequence[str]) -> Any:
    if option.is_flag:
        return name == option.name
    if option.is_list:
        return tuple(words)
    return None if not words or words[0] == "None" else option.kinds[0](words[0])
