"""A cache of results that can never return the result of another model.

The key of a result holds everything that it depends on: the hash of the encoder (weights, tokenizer, pooling), the hash
of the data, the settings, the library versions, and the hash of the code. Names, paths and times are not in the key, so
nothing needs to be invalidated.
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
    """JSON values by JSON keys, one file each, in `folder`. Without a folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.hits = 0

    def get(self, key: dict[str, Any]) -> Any:
        """The value kept for exactly `key`, or None. A file that cannot be read counts as missing."""
        if self.folder is None:
            return None
        try:
            entry = json.loads(self._file(key).read_text(encoding="utf-8"))
            value = entry["value"] if entry["key"] == _plain(key) else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        self.hits += value is not None
        return value

    def put(self, key: dict[str, Any], value: Any) -> None:
        """Keep `value`. If the folder cannot be written, the cache is switched off and the result is not lost."""
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
    """SHA-256 (hex) of the sources that results depend on."""
    digest = hashlib.sha256()
    package = Path(__file__).parent.parent
    for room in _ROOMS:
        for file in sorted((package / room).rglob("*.py")):
            digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()
