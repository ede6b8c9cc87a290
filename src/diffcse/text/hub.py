"""Data sets of the Hugging Face hub: `hub:OWNER/NAME`, `hub:OWNER/NAME/CONFIG@REVISION:SPLIT`.

Configuration, revision and split may each be left out (then: the data set's default, the newest commit, "train"). A
folder in the place of OWNER/NAME, written with a leading `./`, `/` or `~`, is opened the same way, without a network.

Corpora are streamed; small sets may be downloaded whole. Neither must change under its name. So what is cached belongs
to a commit of the data set: without a revision the hub is asked for the newest one; a whole commit hash needs no
asking, and so is read from the cache without a network.
Code that comes with a data set is never run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from diffcse.errors import InputError

PREFIX = "hub:"
_SPELLING = re.compile(
    r"(?P<id>[\w.-]+/[\w.-]+)(?:/(?P<config>[^/@:]+))?(?:@(?P<revision>[^@:]+))?(?::(?P<split>[^:]+))?"
)
_FOLDER = re.compile(r"(?P<id>[./~][^:]*)(?::(?P<split>[^:]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Unreachable(InputError):
    """The hub gives no answer."""


@dataclass(frozen=True)
class HubName:
    """What a `hub:` spelling names."""

    name: str
    """The spelling as it was given."""
    id: str
    """OWNER/NAME, or a folder."""
    config: str | None
    revision: str | None
    split: str

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder on this machine."""
        return self.id[0] in "./~"

    @property
    def folder(self) -> Path:
        """That folder, which need not be there."""
        return Path(os.path.expanduser(self.id))  # noqa: PTH111 - Path's own knows no name of no user

    def stamp(self) -> tuple[str, int, str]:
        """What tells one state of it from another: spelling, bytes (0: unknown), commit or the files' state.

        Raises:
            InputError: no such data set or folder, or the hub cannot be reached.
        """
        if self.is_folder:
            folder = self.folder
            if not folder.is_dir():
                raise InputError(f"{self.name}: {folder} is no folder. Relative paths start at {Path.cwd()}.")
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            states = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
            return f"{PREFIX}{folder.absolute()}:{self.split}", sum(size for _, size, _ in states), repr(states)
        if self.revision and _COMMIT.fullmatch(self.revision):
            return self.name, 0, self.revision
        from huggingface_hub import HfApi

        try:
            return self.name, 0, str(HfApi().dataset_info(self.id, revision=self.revision).sha)
        except Exception as error:
            raise self.failure(error) from error

    def failure(self, error: Exception) -> InputError:
        """What a library's error means for who gave this name."""
        said = str(error).strip().partition("\n")[0]
        if _is_network(error):
            return Unreachable(
                f"{self.name}: the hub cannot be reached ({said}). Try again with a network; or name a whole commit "
                f"({PREFIX}{self.id}@COMMIT) that was read before; or give the data set's files, or its folder as "
                f"{PREFIX}./FOLDER."
            )
        said = said if said[-1:] in (".", "!", "?") else f"{said}."
        return InputError(f"{self.name}: {said} Write hub:OWNER/NAME, with /CONFIG, @REVISION and :SPLIT as needed.")


def _is_network(error: BaseException | None) -> bool:
    """Whether no answer came. The libraries below each have errors of their own for that, so names must do."""
    while error is not None:
        names = [kind.__name__ for kind in type(error).__mro__]
        if any("Connect" in name or "Timeout" in name or "Offline" in name for name in names):
            return True
        error = error.__cause__ or error.__context__
    return False


def parse(spelling: str, *, split: str = "train") -> HubName:
    """Take `hub:...` apart; `split` is the one meant where the spelling names none.

    Raises:
        InputError: not of that form.

    >>> name = parse("hub:Salesforce/wikitext/wikitext-2-raw-v1:validation")
    >>> name.id, name.config, name.revision, name.split
    ('Salesforce/wikitext', 'wikitext-2-raw-v1', None, 'validation')
    """
    rest = spelling.removeprefix(PREFIX)
    found = (_FOLDER if rest[:1] in (".", "/", "~") else _SPELLING).fullmatch(rest)
    if not found:
        raise InputError(
            f"{spelling}: must be hub:OWNER/NAME, hub:OWNER/NAME/CONFIG@REVISION:SPLIT (each of the three may be left "
            "out) or hub:./FOLDER:SPLIT."
        )
    parts = found.groupdict()
    return HubName(spelling, parts["id"], parts.get("config"), parts.get("revision"), parts["split"] or split)


def download(name: HubName, commit: str, patterns: Sequence[str]) -> Path:
    """The folder that holds the data set's files of these patterns as of `commit`, from the hub or from its cache.

    Where small sets are read whole, this is surer than opening them by their id: without a network, `datasets` takes
    whichever revision it had last and says so in a log line only.

    Raises:
        InputError: no such data set, or it is not in the cache and the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import OfflineModeIsEnabled

    fetch = partial(snapshot_download, name.id, repo_type="dataset", revision=commit, allow_patterns=list(patterns))
    try:
        try:
            return Path(fetch())
        except OfflineModeIsEnabled:
            # Releases differ in whether they ask the hub for a list of what earlier ones have downloaded. In this mode
            # alone it is certain that no download was broken off just now.
            return Path(fetch(local_files_only=True))
    except Exception as error:
        raise name.failure(error) from error


def open_columns(name: HubName, stamp: tuple[str, int, int | str]) -> tuple[list[str], Any]:
    """The data set's columns, and the data set itself, to be streamed.

    Raises:
        InputError: it cannot be opened: no such configuration or split, no network, files it cannot read.
    """
    import datasets

    revision = None if name.is_folder else str(stamp[2])
    place = str(name.folder) if name.is_folder else name.id
    try:
        data = datasets.load_dataset(place, name=name.config, split=name.split, revision=revision, streaming=True)
        if data.column_names is None:
            data = data._resolve_features()
        return list(data.column_names), data
    except Exception as error:  # the library's readers raise errors of many kinds; all of them mean the data
        raise name.failure(error) from error


def stream(name: HubName, data: Any, columns: Sequence[str], rows: int) -> Iterator[list[list[Any]]]:
    """The cells of `columns`, up to `rows` rows at a time, one list a column.

    Raises:
        InputError: reading fails on the way.
    """
    try:
        for batch in data.select_columns(list(columns)).iter(batch_size=rows):
            yield [batch[column] for column in columns]
    except InputError:
        raise
    except Exception as error:  # as above
        raise name.failure(error) from error
