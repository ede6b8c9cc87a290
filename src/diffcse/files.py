"""Writing without leaving halves behind.

A run can be killed, or the disk can fill, at any moment. Whatever this package writes is therefore first completed
under a temporary name beside its target and then renamed, which file systems do in one indivisible step: a reader
sees the old content or the new, never a torn one.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from diffcse.errors import InputError

_MANIFEST = "manifest.json"
_LOCK = ".lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
"""What file systems say that have no locks (some of networks and clouds): there nothing can be promised."""
_FULL = ("No space left", "File too large", "quota exceeded", "file write failed", "inline_container.cc")


@contextmanager
def write_errors(target: Path) -> Iterator[None]:
    """Turn what can go wrong on the way to the disk into one readable `InputError` naming `target`.

    safetensors and `torch.save` report a full disk as their own exception types, so the cause is recognised by
    its text where there is no `errno`. (`torch.save` does not even name it: its archive writer finds itself at an
    unexpected position.)
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        number = getattr(error, "errno", None)
        text = str(error)
        full = number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or any(sign in text for sign in _FULL)
        if full:
            raise InputError(
                f"{target}: no space left on the device to write this. What was complete before is untouched. "
                "Free some space, or write somewhere else with --output, then start again."
            ) from error
        if isinstance(error, OSError):
            raise InputError(f"{target}: cannot be written: {error.strerror or error}") from error
        raise


def _sync(path: Path) -> None:
    if os.name == "nt":  # folders cannot be opened there, nor files opened for reading be synced
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def staged_file(target: Path) -> Iterator[Path]:
    """Yield a name beside `target` to write to; when the block ends well, that becomes `target`, else it vanishes.

    A pipe, a terminal or a device is written to as it is.

    Raises:
        InputError: `target` cannot be written to, or is /dev/stdout or its like where that leads to a file.
    """
    with write_errors(target):
        if _is_special(target):
            yield target
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            yield staging
            _sync(staging)
            staging.replace(target)
        finally:
            staging.unlink(missing_ok=True)


def _is_special(target: Path) -> bool:
    """Whether `target` is no file to be replaced: a pipe, say, or /dev/stdout, whatever that now leads to."""
    if target.is_symlink() and target.absolute().parts[1:2] in (("dev",), ("proc",)):
        if target.is_file():
            # Whoever has it open writes on at a place of their own, over what is written here.
            raise InputError(f"{target}: leads to a file here: name that file, or another")
        return True
    return target.exists() and not target.is_file() and not target.is_dir()


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path` in one indivisible step; parents are made."""
    with staged_file(path) as staging:
        staging.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path` in one indivisible step. NaN is refused: it is not JSON."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # A file name that is not UTF-8 reaches us as lone surrogates, which JSON can hold only escaped.
    write_text(path, text.encode(errors="backslashreplace").decode())


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target`; when the block ends well it becomes `target`, else it vanishes.

    A folder already at `target` is replaced. Between moving it away and renaming, a kill can leave neither under that
    name, but never a half: both are complete then, and `clear_partials` puts the new one in its place.
    """
    with write_errors(target):
        if target.exists() and not target.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file is in the folder's place")
        target = target.resolve()  # what a link points to is replaced, not the link
        target.parent.mkdir(parents=True, exist_ok=True)
        staging, old = (target.with_name(f".{target.name}.{os.getpid()}.{end}") for end in ("partial", "old"))
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        try:
            yield staging
            for file in staging.rglob("*"):
                _sync(file)
            _sync(staging)
            if target.exists():
                # Renaming the old one away first keeps the moment without any `target` to two renames.
                shutil.rmtree(old, ignore_errors=True)
                target.rename(old)
            try:
                staging.rename(target)
            except OSError:
                if old.exists():
                    old.rename(target)
                raise
            shutil.rmtree(old, ignore_errors=True)
            _sync(target.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Keep `folder`, made if there is none, for one process at a time. A process that dies gives it back.

    A folder that was made here, and that nothing was written to, is taken away again.

    Raises:
        InputError: another process has it, it is a file, or it cannot be written to.
    """
    with write_errors(folder):
        made = not folder.exists()
        if not made and not folder.is_dir():
            raise InputError(f"{folder}: is a file: give --output a folder")
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise InputError(
                f"{folder}: another process is writing there: wait until it ends, or give another --output"
            ) from error
        except (NotImplementedError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise
    try:
        yield
    finally:
        try:
            with suppress(OSError):  # on Windows a file that is open stays
                # Nobody waits for it: who finds it taken has given up.
                (folder / _LOCK).unlink()
                if made:
                    folder.rmdir()  # if it is empty
        finally:
            lock.release()


def clear_partials(folder: Path) -> None:
    """Remove what a killed process left under a staging name in `folder`.

    Where it was killed in the middle of replacing a folder, the replacement is completed first.
    """
    for leftover in sorted(folder.glob(".*")):  # .old before .partial
        found = _STAGING.fullmatch(leftover.name)
        if not found:
            continue
        with suppress(OSError):
            if found["end"] == "old" and not (folder / found["name"]).exists():
                staging = leftover.with_suffix(".partial")
                (staging if staging.is_dir() else leftover).rename(folder / found["name"])
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)


_STAGING = re.compile(r"\.(?P<name>.+)\.\d+\.(?P<end>partial|old)", re.DOTALL)


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def model_sha256(folder: Path) -> str:
    """Hex SHA-256 of what decides how a model folder reads and computes: weights, configuration, vocabulary.

    Raises:
        InputError: it cannot be read.
    """
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".txt", ".model", ".safetensors"))
        return hashlib.sha256("".join(f"{path.name} {sha256_of(path)}\n" for path in files).encode()).hexdigest()
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}: check its permissions") from error


def write_manifest(folder: Path) -> None:
    """List every file of `folder` with size and SHA-256, so that `is_whole` can tell a torn copy."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _MANIFEST)
    entries = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in files
    }
    write_json(folder / _MANIFEST, entries)


def is_whole(folder: Path) -> bool:
    """Whether `folder` holds all that its manifest lists, unaltered. A missing or unreadable manifest means no."""
    try:
        entries = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        return bool(entries) and all(
            (folder / name).stat().st_size == entry["bytes"] and sha256_of(folder / name) == entry["sha256"]
            for name, entry in entries.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
