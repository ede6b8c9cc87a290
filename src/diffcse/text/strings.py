"""Python values -> sentences: what the functions of this package accept where they ask for sentences."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from diffcse.errors import InputError


def iter_strings(values: Any, name: str = "sentences") -> Iterator[str]:
    """The strings of `values`, each checked when its turn comes; `name` is that of the argument.

    Args:
        values: an iterable of strings: a list, a generator, a pandas Series, a numpy array of one dimension. The lines
            of an open text file lose their line ends.

    Raises:
        InputError: one string, a table, or an item that is not Unicode text; names its position.

    >>> list(iter_strings(line for line in ("One.", "Two.")))
    ['One.', 'Two.']
    """
    if isinstance(values, (str, bytes)):
        raise InputError(f"{name}: one string was given. Give a list of strings, one a sentence.")
    # Asked of the class: a Series gives its element "columns" as an attribute.
    if isinstance(values, Mapping) or hasattr(type(values), "columns"):
        names = ", ".join(map(repr, list(values if isinstance(values, Mapping) else values.columns)[:5]))
        raise InputError(
            f"{name}: a table with the columns {names}. Give one column of it, such as table[{names[:40]}]."
        )
    if not isinstance(values, Iterable) or getattr(values, "ndim", 1) != 1:
        raise InputError(f"{name}: a {type(values).__name__} cannot be read as sentences. Give a list of strings.")
    is_file = isinstance(values, io.TextIOBase)
    for index, value in enumerate(values):
        if not isinstance(value, str):
            raise InputError(f"{name}[{index}] is {_kind(value)}, not a string. Leave it out or convert it.")
        if not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
            raise InputError(
                f"{name}[{index}] holds half of a surrogate pair, which is not a character. "
                "Decode the text again, as UTF-8."
            )
        yield value.removesuffix("\n") if is_file else value


def _kind(value: Any) -> str:
    if value is None or type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value):
        return f"a missing value ({value})"
    return f"of type {type(value).__name__}"
