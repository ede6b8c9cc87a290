"""Text files as lists of lines, or an error with file, line and field.

Every reader of this room starts here, so all report a byte outside UTF-8 alike. `text.lines` states where a line ends.
`str.splitlines` also splits at characters such as U+2028, which occur inside sentences: all labels after would shift.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from diffcse.errors import InputError
from diffcse.text.lines import Notes, add_note, remove_invisible, whole_lines


def read_bytes(path: Path, wanted: str) -> bytes:
    """The file's bytes; `wanted` describes the expected content in an error.

    Raises:
        InputError: the file cannot be read, or has only white space.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Give a file of {wanted}.") from error
    if not data.strip():
        raise InputError(f"{path}: is empty. Give a file of {wanted}.")
    return data


def split_lines(data: bytes, path: Path, encoding: str = "utf-8", notes: Notes | None = None) -> list[str]:
    """The lines of `data`, without their ends, a byte-order mark and invisible characters; `notes` gets what changed.

    Raises:
        InputError: not text in `encoding`; it names the line and the tab-separated field of the first bad byte.
    """
    notes = {} if notes is None else notes
    data = b"".join(whole_lines([data], len(data), notes))
    try:
        text = data.decode("utf-8-sig" if encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        # error.start and error.object both begin after a byte-order mark.
        before = error.object[: error.start]
        line, place = before.count(b"\n") + 1, before.rpartition(b"\n")[2].count(b"\t") + 1
        byte = error.object[error.start]
        raise InputError(
            f"{path}, line {line}, field {place}: byte 0x{byte:02x} is not UTF-8. Save the file as UTF-8."
        ) from error
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    if "\r" in text:
        for index, raw in enumerate(lines):
            if "\r" in raw:
                add_note(notes, "carriage_return", index + 1)
                lines[index] = raw.replace("\r", " ")
    remove_invisible(lines, range(1, len(lines) + 1), notes)
    return lines


def hash_files(parts: Iterable[tuple[str, bytes]]) -> str:
    """One SHA-256 (hex) of the names and contents of several files, in any order."""
    digest = hashlib.sha256()
    for name, data in sorted(parts):
        digest.update(f"{name}\0{hashlib.sha256(data).hexdigest()}\n".encode())
    return digest.hexdigest()
