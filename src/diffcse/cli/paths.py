"""Wrong paths are answered before torch is loaded, which takes seconds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from diffcse.errors import InputError
from diffcse.network import check_spelling
from diffcse.text.hub import PREFIX
from diffcse.text.sources import find_sources


def check_files(patterns: Iterable[str]) -> None:
    """That these files of text exist and have a format that is read; `hub:` names are left to the reader.

    Raises:
        InputError: a file does not exist, or its format is not read.
    """
    local = [pattern for pattern in patterns if not pattern.startswith(PREFIX)]
    if local:
        find_sources(local)


def check_model(name: str | Path | None, option: str) -> None:
    """That a model that is written as a path exists. Other names may be those of the hub.

    Raises:
        InputError: the path does not exist, or the name is nearly "mini".
    """
    text = str(name)
    if name is not None and not _exists(Path(text)):
        check_spelling(text)
    if name is not None and (text.startswith(("/", ".", "~")) or text.count("/") > 1) and not _exists(Path(text)):
        raise InputError(f"{option} {text}: no such folder. Relative paths start at {Path.cwd()}.")


def check_output(output: Path, *, resume: bool | None) -> None:
    """That a new run does not begin in a folder that holds files. The trainer checks the rest.

    Args:
        resume: value of --resume; None: the verb has no such option.

    Raises:
        InputError: the folder is not empty, and `resume` is not given.
    """
    if not resume and output.is_dir() and any(not path.name.startswith(".") for path in output.iterdir()):
        way = "Give a new folder" if resume is None else "Give a new folder, or continue with --resume"
        raise InputError(f"--output {output}: not empty. {way}")


def check_new(*files: Path, overwrite: bool) -> None:
    """That files to write do not exist, unless `overwrite` is given.

    Raises:
        InputError: a file exists.
    """
    for path in files:
        if not overwrite and path.exists():
            raise InputError(f"{path}: exists. Give another --output, or replace it with --overwrite")


def check_data(name: str, option: str = "--data") -> None:
    """That a folder or file exists; "pairs" and `hub:` names stand for data sets.

    Raises:
        InputError: the path does not exist.
    """
    if name != "pairs" and not name.startswith(PREFIX) and not _exists(Path(name)):
        raise InputError(f"{option} {name}: does not exist. Relative paths start at {Path.cwd()}.")


def _exists(path: Path) -> bool:
    try:
        return path.expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # a name too long, with a NUL, or in the home of no user
        return False
