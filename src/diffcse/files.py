"""Writing files and folders as a whole, locks, and hashes.

A run can be killed, or the disk can fill, at any moment. So everything is first written under a temporary name next to
its target and then renamed. File systems rename in one atomic step: a reader sees the old content or the new content,
never a part of it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from diffcse.errors import InputError

_MANIFEST = "manifest.json"
_LOCK = ".lock"
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
"""Errors of file systems without locks (some network and cloud drives). There, two processes are not kept apart."""
_FULL = ("No space left", "quota exceeded", "file write failed", "inline_container.cc")
_TOO_LARGE = "File too large"


@contextmanager
def write_errors(target: Path) -> Iterator[None]:
    """Turn the errors of writing to disk into one `InputError` that names `target`.

    safetensors and `torch.save` report a full disk by their own exception types, without `errno`. So such an error is
    recognised by its text (`torch.save` only reports an unexpected position of its archive writer).
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        number = getattr(error, "errno", None)
        text = str(error)
        if number == errno.EFBIG or _TOO_LARGE in text:
            raise InputError(
                f"{target}: larger than a file may be here. Files that were complete are unchanged. Raise the limit of "
                "this process (ulimit -f), or write to another file system."
            ) from error
        if number in (errno.ENOSPC, errno.EDQUOT) or any(sign in text for sign in _FULL):
            # torch.save gives the same error for a limit on file sizes.
            limit = " (or a file is larger than ulimit -f allows)" if number is None else ""
            raise InputError(
                f"{target}: no space left on the device{limit}. Files that were complete are unchanged. Free some "
                "space, or give another --output, then start again."
            ) from error
        if isinstance(error, OSError):
            raise InputError(f"{target}: cannot be written: {error.strerror or error}") from error
        raise


def _sync(path: Path) -> None:
    if os.name == "nt":  # Windows cannot open folders, and cannot sync files opened for reading
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_files(folder: Path) -> None:
    """Wait until the files of `folder`, and its list of them, are on the disk."""
    for path in (*folder.iterdir(), folder):
        _sync(path)


@contextmanager
def staged_file(target: Path) -> Iterator[Path]:
    """Yield a temporary path next to `target`. It becomes `target` if the block succeeds, and is removed otherwise.

    A pipe, a terminal or a device is written to directly.

    Raises:
        InputError: `target` cannot be written to, or is a link like /dev/stdout that leads to a file.
    """
    with write_errors(target):
        if _is_special(target):
            yield target
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        clear_dead(target)
        staging = temporary_name(target)
        try:
            yield staging
            _sync(staging)
            staging.replace(target)
        finally:
            staging.unlink(missing_ok=True)


def _is_special(target: Path) -> bool:
    """Whether `target` cannot be replaced: a pipe, a device, or a link like /dev/stdout."""
    if target.is_symlink() and target.absolute().parts[1:2] in (("dev",), ("proc",)):
        if target.is_file():
            # A process that already has this file open keeps writing at its own offset and would overwrite our bytes.
            raise InputError(f"{target}: leads to a file: give the path of that file, or of another")
        return True
    return target.exists() and not target.is_file() and not target.is_dir()


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) to `path` in one atomic step; missing parent folders are made."""
    with staged_file(path) as staging:
        staging.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON to `path` in one atomic step. NaN raises ValueError: it is not JSON."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # Python represents a file name that is not UTF-8 by lone surrogates, and JSON can hold these only escaped.
    write_text(path, text.encode(errors="backslashreplace").decode())


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder next to `target`. It becomes `target` if the block succeeds, and is removed otherwise.

    An existing folder at `target` is replaced by two renames. A kill between them leaves no folder at `target`; both
    folders are then complete under temporary names, and `clear_partials` finishes the replacement.
    """
    with write_errors(target):
        if target.exists() and not target.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "a file has this name")
        target = target.resolve()  # replace the target of a link, not the link
        target.parent.mkdir(parents=True, exist_ok=True)
        clear_dead(target)
        staging, old = temporary_name(target), temporary_name(target, "old")
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir()
        try:
            yield staging
            mode = staging.stat().st_mode & 0o666  # the umask's: safetensors gives its files to their owner alone
            for file in staging.rglob("*"):
                if file.is_file():
                    file.chmod(mode)
                _sync(file)
            _sync(staging)
            if target.exists():
                # A folder cannot be renamed over another, so the old one is first moved away.
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
    """Lock `folder` for this process until the block ends; it is made if it does not exist.

    The lock of a process that dies is released. If the folder was made here and is still empty, it is removed.

    Raises:
        InputError: another process has the lock, `folder` is a file, or it cannot be written to.
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
            with suppress(OSError):  # Windows cannot remove an open file
                # No process waits for the lock: a process that finds it taken gives up.
                (folder / _LOCK).unlink()
                if made:
                    folder.rmdir()  # if it is empty
        finally:
            lock.release()


def temporary_name(target: Path, end: str = "partial") -> Path:
    """Where this process writes what will be `target`. The name holds the machine and the process."""
    return target.with_name(f".{target.name}.{_HOST}-{os.getpid()}.{end}")


_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
_STAGING = re.compile(r"\.(?P<name>.+)\.((?P<host>[0-9a-f]{8})-)?(?P<process>\d+)\.(?P<end>partial|old)", re.DOTALL)


def clear_partials(folder: Path) -> None:
    """Remove all temporary files and folders from `folder`, which no other process may be writing to.

    If a process was killed while it replaced a folder, the replacement is finished first.
    """
    for leftover, name in _leftovers(folder):
        _clear(leftover, name)


def clear_dead(target: Path) -> None:
    """Remove the temporary files and folders of killed processes beside `target`, as `clear_partials` does."""
    for leftover, name in _leftovers(target.parent):
        if (name["host"] or name["name"] == target.name) and _is_dead(leftover, name):
            _clear(leftover, name)


def _leftovers(folder: Path) -> list[tuple[Path, re.Match[str]]]:
    """Temporary files and folders, with the parts of their names; .old before .partial."""
    return [(path, name) for path in sorted(folder.glob(".*")) if (name := _STAGING.fullmatch(path.name))]


def _is_dead(leftover: Path, name: re.Match[str]) -> bool:
    """Whether no process writes to `leftover`. Of another machine's, only its age tells."""
    with suppress(OSError):
        if time.time() - leftover.stat().st_mtime > _LONG_AGO:
            return True
    if os.name == "nt" or name["host"] not in (None, _HOST):  # on Windows, kill would end the process
        return False
    try:
        os.kill(int(name["process"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


_LONG_AGO = 86_400
"""Seconds without a write after which a temporary file is taken for a leftover."""


def _clear(leftover: Path, name: re.Match[str]) -> None:
    target = leftover.with_name(name["name"])
    with suppress(OSError):
        if name["end"] == "old" and not target.exists():
            staging = leftover.with_suffix(".partial")
            (staging if staging.is_dir() else leftover).rename(target)
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def model_sha256(folder: Path) -> str:
    """Hex SHA-256 of the files that determine what a model computes: weights, configuration, vocabulary.

    The folders of a sentence-transformers folder's modules count: pooling and Dense layers are in them. Of a run, its
    encoder in model/ counts.

    Raises:
        InputError: a file cannot be read.
    """
    try:
        places = sorted({folder, folder / "model", *_module_folders(folder), *_module_folders(folder / "model")})
        files = sorted(
            path
            for place in places
            if place.is_dir()
            for path in place.iterdir()
            if path.suffix in (".json", ".txt", ".model", ".safetensors")
        )
        lines = [f"{path.relative_to(folder).as_posix()} {sha256_of(path)}\n" for path in files]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}: check its permissions") from error


def _module_folders(folder: Path) -> list[Path]:
    """The folders that modules.json of a sentence-transformers folder names; none if it names none."""
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        paths = [folder / module["path"] for module in modules if module["path"]]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return []  # loading reports a damaged file
    return [path for path in paths if path.parent == folder]


def write_manifest(folder: Path) -> None:
    """Write the size and SHA-256 of every file of `folder` to its manifest, for `is_whole`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != _MANIFEST)
    entries = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in files
    }
    write_json(folder / _MANIFEST, entries)


def is_whole(folder: Path) -> bool:
    """Whether `folder` has every file of its manifest, unchanged. False if the manifest is missing or unreadable."""
    try:
        entries = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        return bool(entries) and all(
            (folder / name).stat().st_size == entry["bytes"] and sha256_of(folder / name) == entry["sha256"]
            for name, entry in entries.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
