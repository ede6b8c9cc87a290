"""Results that need not be computed again, and are never another model's.

A result is kept under everything it follows from: the encoder's own hash (weights, tokenizer, pooling), the data's,
the settings, the versions of the libraries, and the hash of the code that computes it. Nothing is kept by name, path
or time, so there is nothing to invalidate: another input is another key.
"""

from __future__ import annotations

import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

from diffcse.errors import InputError
from diffcse.files import write_text

_ROOMS = ("evaluation", "encoder", "method")


def default_cache_dir() -> Path:
    """``$XDG_CACHE_HOME/diffcse/evaluations``, or ``~/.cache/diffcse/evaluations``: beside the cache of corpora."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "diffcse" / "evaluations"


class ResultCache:
    """JSON values by JSON keys, a file each, in `folder`; without a folder it keeps nothing."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.hits = 0

    def get(self, key: dict[str, Any]) -> Any:
        """The value kept for exactly `key`, or None. What cannot be read counts as not there."""
        if self.folder is None:
            return None
        try:
            entry = json.loads(self._file(key).read_text(encoding="utf-8"))
            found = entry["value"] if entry["key"] == _plain(key) else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        self.hits += found is not None
        return found

    def put(self, key: dict[str, Any], value: Any) -> None:
        """Keep `value`. A cache that cannot be written is no reason to lose a result: it is left."""
        if self.folder is None:
            return
        try:
            write_text(self._file(key), json.dumps({"key": _plain(key), "value": value}, allow_nan=False))
        except InputError:
            self.folder = None

    def _file(self, key: dict[str, Any]) -> Path:
        assert self.folder is not None
        name = hashlib.sha256(json.dumps(_plain(key), sort_keys=True).encode()).hexdigest()
        return self.folder / f"{name[:40]}.json"


def _plain(key: dict[str, Any]) -> Any:
    return json.loads(json.dumps(key))


@cache
def code_hash() -> str:
    """SHA-256 (hex) of the sources that results follow from."""
    digest = hashlib.sha256()
    package = Path(__file__).parent.parent
    for room in _ROOMS:
        for file in sorted((package / room).glob("*.py")):
            digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
