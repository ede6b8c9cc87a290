"""Where a line ends and what text is: one rule for every reader.

Training text, labelled examples, tables, evaluation sets and `diffcse embed` all follow it:

- A line ends at ``\\n`` or ``\\r\\n``. A lone ``\\r`` is a space. Only a file without ``\\n`` in its first 64 KiB ends
  its lines with ``\\r``, as old Macs did. Other Unicode line breaks are white space.
- Text is UTF-8, or UTF-16 or UTF-32 with a byte order mark, or in the encoding that `Reading.encoding` names. Bytes
  outside that encoding become U+FFFD; without a name they are an error.
- U+FEFF, U+200B and U+2060 have neither width nor meaning, and are removed. Zero-width joiners stay: Persian and emoji
  need them.
- A cell of a table follows `tables`. A null, or a missing key of a JSON object, is an empty cell.

Whatever is replaced, removed, merged or guessed is a `Note`: it is counted, and its first line is kept.

Training and search also call `normalise`. `embed` does not: row i of its output belongs to line i as it stands.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from diffcse.config import PlainText, Quoting
from diffcse.errors import InputError
from diffcse.text.guess import encoding_advice, wide_advice
from diffcse.text.sources import PACKED_STARTS, Transcoder, check_encoding, open_unpacked

BLOCK_BYTES = 1 << 18
_LINE_END_SAMPLE = 1 << 16
_EXPANSION_FREE = 1 << 28
INVISIBLE = re.compile("[\ufeff\u200b\u2060]")
_BYTE_ORDER_MARKS = (  # UTF-32 first: its little-endian mark begins with that of UTF-16
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


_LIMITS = ("max_line_bytes", "max_blank_lines", "max_expansion")


def raise_limit(name: str) -> str:
    """How to raise a limit, in the words of both kinds of commands."""
    return (
        f"--set text.{name}=N in train, pretrain and doctor, --limits {name}=N in embed, evaluate, index, dedup and "
        "cluster"
    )


@dataclass(frozen=True)
class Reading:
    """How the bytes of files become lines and cells."""

    encoding: str | None = None
    """Encoding of the files. None: UTF-8, or what a byte order mark says; other bytes are an error."""
    quoting: Quoting = "auto"
    """Whether double quotes enclose the cells of a .csv or .tsv file; see `tables`."""
    header: tuple[str, ...] = ()
    """Names of the columns of .csv and .tsv files whose first line is a row."""
    max_line_bytes: int | None = None
    """Longest line or cell in bytes. None: the reader's own limit."""
    max_blank_lines: int = PlainText.max_blank_lines
    """Most blank lines in a row, roughly."""
    max_expansion: int = PlainText.max_expansion
    """How many times its own size a packed file may unpack to."""

    @classmethod
    def of(
        cls,
        encoding: str | None = None,
        quoting: Quoting = "auto",
        columns: str | None = None,
        limits: str | None = None,
    ) -> Reading:
        """Make it from options.

        Args:
            columns: names with commas between them.
            limits: NAME=NUMBER with commas between them, such as "max_line_bytes=5000000".

        Raises:
            InputError: an unknown encoding, or no such limit.
        """
        if encoding is not None:
            check_encoding(encoding)
        header = tuple(name.strip() for name in columns.split(",")) if columns else ()
        numbers: dict[str, int] = {}
        for part in limits.split(",") if limits else ():
            name, _, value = map(str.strip, part.partition("="))
            if name not in _LIMITS or not (value.isdecimal() and 0 < int(value) < 2**63):
                raise InputError(f"--limits {part}: write NAME=NUMBER; the names are {', '.join(_LIMITS)}")
            numbers[name] = int(value)
        return cls(encoding, quoting, header, **numbers)

    def check_blank(self, name: str, line: int, count: int) -> None:
        """Raise `InputError` if `count` blank lines in a row, around line `line`, are too many."""
        if count > self.max_blank_lines:
            raise InputError(
                f"{name}, near line {line}: more than {self.max_blank_lines:,} blank lines in a row. Remove them, or "
                f"raise the limit: {raise_limit('max_blank_lines')}."
            )

    def check_expansion(self, path: Path, size: int) -> None:
        """Raise `InputError` if `size` bytes are too many to come from the file `path`."""
        if size > _EXPANSION_FREE and size > self.max_expansion * path.stat().st_size:
            raise InputError(
                f"{path}: unpacks to more than {self.max_expansion:,} times its size, which text does not. If it is "
                f"right, raise the limit: {raise_limit('max_expansion')}."
            )


STRICT = Reading()
"""The default."""

# Notes

Notes = dict[str, tuple[int, int]]
"""Kind of note -> (count, first line)."""

_NOTES = {  # kind -> (what is counted, what became of it, an option that changes it)
    "old_mac": ("file", "whose lines end with a carriage return", ""),
    "carriage_return": ("line", "with a lone carriage return, read as a space", ""),
    "invisible": ("line", "with invisible characters (U+FEFF, U+200B, U+2060), which were removed", ""),
    "replaced": ("line", "with bytes outside the encoding, read as U+FFFD", ""),
    "spanning": ("quoted cell", "with line breaks", ""),
    "unquoted": ("line", "with quoted cells, whose quotes were removed", "; --quoting none keeps them"),
    "rebuilt": ("cached corpus", "that was damaged, read again from its files", ""),
    "quotes": ("line", "with a quote at the start of a cell, kept as text", "; --quoting csv reads quoted cells"),
}


@dataclass(frozen=True)
class Note:
    """Something in the files that was replaced, removed, merged or guessed."""

    kind: str
    count: int
    where: str
    """File and line of the first."""

    def __str__(self) -> str:
        return self.text()

    def text(self, *, advises: bool = True) -> str:
        """The note as a line; with `advises` it names the option that changes what was done."""
        noun, what, advice = _NOTES[self.kind]
        return f"{self.count:,} {noun}{'s' * (self.count != 1)} {what}{advice if advises else ''} (first: {self.where})"


def gather_notes(known: dict[str, Note], notes: Notes, place: str) -> None:
    """Add the notes on some lines of a file to `known`; `place` is the file, then what its numbers count."""
    for kind, (number, at) in notes.items():
        note = known.get(kind, Note(kind, 0, f"{place} {at}"))
        known[kind] = replace(note, count=note.count + number)


def add_note(notes: Notes, kind: str, line: int, count: int = 1) -> None:
    """Count something at `line`."""
    before, first = notes.get(kind, (0, line))
    notes[kind] = (before + count, first)


def remove_invisible(cells: list[str], numbers: Sequence[int], notes: Notes) -> None:
    """Remove invisible characters from `cells`; `numbers` are their lines."""
    for index, cell in enumerate(cells):
        if not cell.isascii() and INVISIBLE.search(cell):
            cells[index] = INVISIBLE.sub("", cell)
            add_note(notes, "invisible", numbers[index])


def normalise(line: str) -> str:
    """Unicode normal form C, each run of white space as one space, no white space at the ends.

    A line of nothing but control and zero-width characters is empty.

    >>> normalise("  Cafe\\u0301\\u00a0\\t society "), normalise("\\u200d\\x07")
    ('Café society', '')
    """
    text = " ".join(unicodedata.normalize("NFC", line).split())
    return text if text.isprintable() or any(map(_is_visible, text)) else ""


def _is_visible(character: str) -> bool:
    return character != " " and unicodedata.category(character) not in ("Cc", "Cf")


# Bytes -> blocks of lines


def read_blocks(path: Path, longest: int, reading: Reading, notes: Notes) -> Iterator[bytes]:
    """Whole lines in UTF-8, about a block at a time, without the byte order mark.

    A line of more than `longest` bytes may be cut: `decode_lines` refuses it, and the rest need not be read.

    Raises:
        InputError: the file cannot be read or unpacked, is packed without the suffix, unpacks to too much, or has too
            many blank lines in a row.
    """
    with open_unpacked(path) as opened:
        file: Any = opened
        head = file.read(4)
        for start, suffix in PACKED_STARTS:
            if head.startswith(start):
                raise InputError(f"{path}, byte 0: packed text without its suffix. Add {suffix} to the file's name.")
        file.seek(0)
        marked = next((name for mark, name in _BYTE_ORDER_MARKS if head.startswith(mark)), None)
        if reading.encoding or marked:
            file = Transcoder(file, reading.encoding or str(marked))
        size = lines = blank = 0
        for block in whole_lines(iter(lambda: file.read(BLOCK_BYTES), b""), longest, notes):
            size, ends = size + len(block), block.count(b"\n")
            blank = blank + ends if block.isspace() else 0
            reading.check_blank(str(path), lines + 1, blank)
            reading.check_expansion(path, size)
            lines += ends
            yield block


def whole_lines(chunks: Iterable[bytes], longest: int, notes: Notes) -> Iterator[bytes]:
    """Cut a stream of UTF-8 into blocks that end with a line; `longest` as for `read_blocks`."""
    carry = b""
    is_mac: bool | None = None  # None: the line end is not known yet
    for chunk in chain(chunks, (None,)):
        carry += chunk or b""
        if is_mac is None:
            sample = carry[:_LINE_END_SAMPLE]
            if b"\n" not in sample and len(sample) < _LINE_END_SAMPLE and chunk is not None:
                continue
            is_mac = b"\n" not in sample and b"\r" in sample
            if is_mac:
                add_note(notes, "old_mac", 1)
            carry = carry.removeprefix(b"\xef\xbb\xbf")
        end = carry.rfind(b"\n") + 1
        if is_mac:
            end = max(end, carry.rfind(b"\r", 0, -1) + 1)  # a last \r may be half of a \r\n
        if chunk is None or (end == 0 and len(carry) > longest + 1):
            end = len(carry)
        if end:
            block, carry = carry[:end], carry[end:]
            yield _unix_ends(block) if is_mac else block


def _unix_ends(block: bytes) -> bytes:
    return block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


# Blocks -> lines


def decode_lines(
    name: str, block: bytes, first: int, longest: int, advice: str, notes: Notes, encoding: str | None = None
) -> list[str]:
    """The lines of a block of UTF-8, without their ends; the first is line `first` of the file (from 1).

    Raises:
        InputError: a zero byte, a line of more than `longest` bytes (`advice` ends that message), or not UTF-8.
    """
    data = block.replace(b"\r\n", b"\n").removesuffix(b"\n")
    if (at := data.find(b"\0")) >= 0:
        line = first + data.count(b"\n", 0, at)
        raise InputError(f"{name}, line {line}: a zero byte, so this is not UTF-8 text. {wide_advice(block)}")
    lines = data.split(b"\n")
    if len(data) > longest and max(map(len, lines)) > longest:
        index, long = next((i, line) for i, line in enumerate(lines) if len(line) > longest)
        at_least = "at least " if index == len(lines) - 1 and not block.endswith(b"\n") else ""
        raise InputError(f"{name}, line {first + index}: {at_least}{len(long):,} bytes long, more than {advice}")
    if b"\r" in data:
        for index, raw in enumerate(lines):
            if b"\r" in raw:
                add_note(notes, "carriage_return", first + index)
        data = data.replace(b"\r", b" ")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(name, data, first, error) from error
    if encoding and "\ufffd" in text:
        for index, decoded in enumerate(text.split("\n")):
            if "\ufffd" in decoded:
                add_note(notes, "replaced", first + index)
    return text.split("\n")


def _not_utf8(name: str, data: bytes, first: int, error: UnicodeDecodeError) -> InputError:
    line = first + data.count(b"\n", 0, error.start)
    byte = error.start - data.rfind(b"\n", 0, error.start)
    text = data.decode(errors="replace")
    strays = text.count("\ufffd")
    if sum(not character.isascii() for character in text) - strays > strays:
        advice = (
            'Most of the file is UTF-8. To read such bytes as U+FFFD, set text.encoding = "utf-8" (--encoding utf-8).'
        )
    else:
        advice = encoding_advice(data, data.split(b"\n")[line - first])
    return InputError(f"{name}, line {line}, byte {byte}: 0x{data[error.start]:02X} is not UTF-8 here. {advice}")
