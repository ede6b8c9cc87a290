"""The hash of the code that trains: a finished cell of a table is valid only for the code that trained it."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from diffcse.files import sha256_of

_ROOMS = ("config", "method", "training")


@functools.cache
def source_hash() -> str:
    """SHA-256 (hex) of this package's code that trains and of the bundled model's weights. Computed once per process.

    The code is the bytes of every .py file of the rooms config, method and training. So a comment or a space counts as
    a change too: the cells are then trained again, which costs time and never gives a wrong table.
    """
    package = Path(__file__).parents[1]
    files = [file for room in _ROOMS for file in sorted((package / room).rglob("*.py"))]
    files.append(package / "assets" / "mini" / "model.safetensors")
    lines = [f"{file.relative_to(package).as_posix()} {sha256_of(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
