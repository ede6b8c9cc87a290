"""Which encoding a file that is not UTF-8 may have. A guess is shown with what it reads, and never applied."""

from __future__ import annotations

import re
from collections.abc import Iterator

_MOST_BYTES = 1 << 16
_SHOWN = 40
"""Characters of a line that are shown."""
_MULTIBYTE = re.compile(r"gb|big5|cp9\d\d|euc|shift|johab|hz|utf")
_WESTERN = "windows-1252"
_FEW = 8
"""Bytes beyond ASCII that are too few to tell an encoding of East Asia."""


def encoding_advice(data: bytes, line: bytes) -> str:
    """The end of a message: options that may read `data`, which is not UTF-8, with what they make of `line`."""
    readings: dict[str, str] = {}  # line as read -> encoding
    for name in _guesses(data):
        text = _decoded(line, name)
        if text and len(readings) < 2:
            readings.setdefault(text, name)
    if not readings:
        return "Name its encoding, such as --encoding gb18030, or convert it to UTF-8."
    first, *others = (f"--encoding {name} reads {text!r}" for text, name in readings.items())
    hint = "" if _has_normalizer() else ' For a better guess: pip install "diffcse[doctor]".'
    return f"Name its encoding (text.encoding): {first}{''.join(f'; {other}' for other in others)}.{hint}"


def wide_advice(data: bytes) -> str:
    """The same for data with zero bytes, which UTF-16 without a byte order mark has in every line."""
    even, odd = data[::2].count(0), data[1::2].count(0)
    name = "utf-16-le" if odd > even else "utf-16-be"
    text = _decoded(data[: len(data) // 2 * 2], name)
    if not text:
        return "It looks like a binary file. Convert it to text first."
    return f"If it is UTF-16 without a byte order mark, --encoding {name} reads {text!r}."


def _guesses(data: bytes) -> Iterator[str]:
    """Names of encodings, the best first. Few bytes of one alphabet fit many: the commonest is then offered too."""
    if not _has_normalizer():
        yield _WESTERN
        return
    from charset_normalizer import from_bytes

    lines = [line for line in data.split(b"\n") if not line.isascii()]  # the others say nothing
    sample = b"\n".join(lines)[:_MOST_BYTES]
    matches = from_bytes(sample)
    best = matches.best()
    if best is None:
        yield _WESTERN
        return
    is_weak = not best.coherence
    if _MULTIBYTE.match(best.encoding):
        is_weak &= sum(byte > 127 for byte in sample) < _FEW
    else:
        is_weak |= any(match.encoding == "cp1252" and match.chaos == best.chaos for match in matches)
    name = re.sub(r"^cp(125\d)$", r"windows-\1", best.encoding)
    if is_weak:
        yield _WESTERN
    if not is_weak or name.startswith("windows") or _MULTIBYTE.match(name):
        yield name


def _has_normalizer() -> bool:
    from importlib.util import find_spec

    return find_spec("charset_normalizer") is not None


def _decoded(data: bytes, encoding: str) -> str:
    """The first line of text in `data`, or an empty string if it is not in `encoding`."""
    try:
        text = data.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        return ""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return f"{line[:_SHOWN]}…" if len(line) > _SHOWN else line
