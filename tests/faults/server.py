"""Runs commands in forked children, each with one fault, so that a trial costs no new Python and no import.

Faults: SIGKILL at a file operation or after a time; an error of the disk (ENOSPC, EIO) at a file operation; a limit on
the size of every file, which native writers meet too. File operations are Python's audit events inside the trial's
folder: opening to write, renaming, removing, making folders.
"""

from __future__ import annotations

import errno
import importlib
import os
import pickle
import pkgutil
import random
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
CRASHED = 99
"""Exit code of a child whose command raised something."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong in a trial, once. The fields that are not None count."""

    kill_at: int | None = None
    """SIGKILL before this file operation, counted from 1."""
    kill_after: float | None = None
    """SIGKILL after so many seconds."""
    error_at: int | None = None
    """This file operation, counted from 1, fails."""
    error: int = errno.ENOSPC
    largest: int | None = None
    """No file can grow beyond so many bytes."""


NO_FAULT = Fault()


@dataclass(frozen=True)
class Ended:
    """How a trial ended."""

    code: int
    """Exit code, or minus the signal."""
    text: str
    """What it wrote to stdout and stderr."""
    operations: int
    """File operations, if it lived to count them."""
    seconds: float

    @property
    def crashed(self) -> bool:
        """Whether it ended with a traceback."""
        return self.code in (1, CRASHED) or "Traceback" in self.text


def preload() -> None:
    """Import all that a child may need, with one thread for each library."""
    import torch

    import diffcse

    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(diffcse.__path__, "diffcse."):
        if "ray" not in module.name and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("transformers.models.bert.modeling_bert", "sentence_transformers", "sklearn.linear_model", "datasets"):
        importlib.import_module(name)


def run(arguments: list[str], folder: Path, fault: Fault = NO_FAULT, limit: float = 120) -> Ended:
    """Run `diffcse ARGUMENTS` in `folder` in a forked child."""
    output, counted, began = folder / "console.txt", folder / "operations.txt", time.monotonic()
    counted.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        _child(arguments, folder, output, counted, fault)
    try:
        code = _wait(child, fault.kill_after, limit)
    finally:
        _kill_group(child)
    operations = int(counted.read_text() or 0) if counted.exists() else 0
    return Ended(code, output.read_text("utf-8", "replace"), operations, time.monotonic() - began)


def _wait(child: int, kill_after: float | None, limit: float) -> int:
    began = time.monotonic()
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        passed = time.monotonic() - began
        if passed > limit or (kill_after is not None and passed > kill_after):
            _kill_group(child)
            _, status = os.waitpid(child, 0)
            return os.waitstatus_to_exitcode(status) if passed <= limit else CRASHED
        time.sleep(0.002)


def _kill_group(child: int) -> None:
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        pass
    except PermissionError:  # macOS, for a group of zombies
        pass


def _child(arguments: list[str], folder: Path, output: Path, counted: Path, fault: Fault) -> None:
    """The life of a child; it never returns."""
    code = CRASHED
    try:
        os.setsid()
        os.chdir(folder)
        os.environ |= {"XDG_CACHE_HOME": str(folder / "cache"), "TOKENIZERS_PARALLELISM": "false"}
        random.seed(os.getpid())  # names of temporary files
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1), os.dup2(handle, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        count = _arm(folder, fault)
        from diffcse.cli import main

        try:
            main(arguments)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        sys.stdout.flush()
        counted.write_text(str(count[0]))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def _arm(folder: Path, fault: Fault) -> list[int]:
    """Install the fault; returns the count of file operations, which grows."""
    count, root = [0], str(folder)
    ours = (f"{root}/console.txt", f"{root}/operations.txt")

    def watch(event: str, arguments: tuple) -> None:
        if event not in EVENTS or not isinstance(arguments[0], (str, os.PathLike)):
            return
        path = os.path.abspath(os.fspath(arguments[0]))  # noqa: PTH100
        if not path.startswith(root) or path in ours or (event == "open" and not _writes(arguments)):
            return
        count[0] += 1
        if count[0] == fault.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if count[0] == fault.error_at:
            raise OSError(fault.error, os.strerror(fault.error), path)

    if fault.largest is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault.largest, fault.largest))
    sys.addaudithook(watch)
    return count


def _writes(arguments: tuple) -> bool:
    mode, flags = arguments[1], arguments[2]
    return bool(set(mode or "") & set("wax+")) or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function in a forked child, so that this process starts no native threads before it forks.

    Raises:
        RuntimeError: the function raised something, or the child ended.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        code = CRASHED
        try:
            with os.fdopen(write, "wb") as pipe:
                pickle.dump(function(*arguments), pipe)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        data = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status:
        raise RuntimeError(f"{function.__name__}: the process ended with {status}")
    return pickle.loads(data)


def fresh(folder: Path) -> Path:
    """An empty folder at this place."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
