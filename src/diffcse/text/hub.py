"""Data sets of the Hugging Face hub: `hub:OWNER/NAME`, `hub:OWNER/NAME/CONFIG@REVISION:SPLIT`.

Configuration, revision and split can be left out; the defaults are the data set's own, the newest commit and "train".
A folder that starts with `./`, `/` or `~` can replace OWNER/NAME and needs no network.

Corpora are streamed; small sets can be downloaded whole. Each cache entry belongs to a commit of the data set. Without
a revision, the hub is asked for the newest commit. A whole commit hash needs no network if the entry exists. Code of a
data set is never run.
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
from diffcse.network import hub_or_cache, is_unreachable, why_unreachable

PREFIX = "hub:"
_SPELLING = re.compile(
    r"(?P<id>[\w.-]+/[\w.-]+)(?:/(?P<config>[^/@:]+))?(?:@(?P<revision>[^@:]+))?(?::(?P<split>[^:]+))?"
)
_FOLDER = re.compile(r"(?P<id>[./~][^:]*)(?::(?P<split>[^:]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Unreachable(InputError):
    """The hub cannot be reached."""


@dataclass(frozen=True)
class HubName:
    """A data set, as a `hub:` spelling names it."""

    name: str
    """The spelling itself."""
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
        """The folder, which may be missing."""
        return Path(os.path.expanduser(self.id))  # noqa: PTH111 - Path's own knows no name of no user

    def stamp(self) -> tuple[str, int, str]:
        """The state of the data set: spelling, bytes (0: unknown), commit or the states of its files.

        Raises:
            InputError: the data set or folder does not exist, or the hub cannot be reached.
        """
        if self.is_folder:
            folder = self.folder
            if not folder.is_dir():
                raise InputError(f"{self.name}: {folder} is not a folder. Relative paths start at {Path.cwd()}.")
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            states = [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
            return f"{PREFIX}{folder.absolute()}:{self.split}", sum(size for _, size, _ in states), repr(states)
        if self.revision and _COMMIT.fullmatch(self.revision):
            return self.name, 0, self.revision
        from huggingface_hub import HfApi

        try:
            with hub_or_cache():
                return self.name, 0, str(HfApi().dataset_info(self.id, revision=self.revision).sha)
        except Exception as error:
            raise self.failure(error) from error

    def failure(self, error: Exception) -> InputError:
        """The error for the user, from an error of a library."""
        reason = str(error).strip().partition("\n")[0]
        if is_unreachable(error):
            reason = why_unreachable() or reason
            return Unreachable(
                f"{self.name}: the hub cannot be reached ({reason}). Try again with a network, or name a whole commit "
                f"({PREFIX}{self.id}@COMMIT) that was read before, or give the data set's folder as {PREFIX}./FOLDER."
            )
        reason = reason if reason[-1:] in (".", "!", "?") else f"{reason}."
        return InputError(f"{self.name}: {reason} Write hub:OWNER/NAME, with /CONFIG, @REVISION and :SPLIT as needed.")


def parse(spelling: str, *, split: str = "train") -> HubName:
    """Parse `hub:...`; `split` is the default.

    Raises:
        InputError: another form.

    >>> name = parse("hub:Salesforce/wikitext/wikitext-2-raw-v1:validation")
    >>> name.id, name.config, name.revision, name.split
    ('Salesforce/wikitext', 'wikitext-2-raw-v1', None, 'validation')
    """
    rest = spelling.removeprefix(PREFIX)
    match = (_FOLDER if rest[:1] in (".", "/", "~") else _SPELLING).fullmatch(rest)
    if not match:
        raise InputError(
            f"{spelling}: must be hub:OWNER/NAME, hub:OWNER/NAME/CONFIG@REVISION:SPLIT (each of the three can be left "
            "out) or hub:./FOLDER:SPLIT."
        )
    parts = match.groupdict()
    return HubName(spelling, parts["id"], parts.get("config"), parts.get("revision"), parts["split"] or split)


def download(name: HubName, commit: str, patterns: Sequence[str]) -> Path:
    """The folder with the data set's files of these patterns at `commit`, from the hub or its cache.

    Opening a small set by its id is less safe: without a network, `datasets` uses the last cached revision and only
    logs it.

    Raises:
        InputError: the data set does not exist, or it is not in the cache and the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import OfflineModeIsEnabled

    fetch = partial(snapshot_download, name.id, repo_type="dataset", revision=commit, allow_patterns=list(patterns))
    try:
        try:
            with hub_or_cache():
                return Path(fetch())
        except OfflineModeIsEnabled:
            # Some releases look for a file list that others do not write. Offline, no download can be unfinished.
            return Path(fetch(local_files_only=True))
    except Exception as error:
        raise name.failure(error) from error


def open_columns(name: HubName, stamp: tuple[str, int, int | str]) -> tuple[list[str], Any]:
    """The data set's columns, and the data set itself, to be streamed.

    Raises:
        InputError: it cannot be opened: a wrong configuration or split, no network, or unreadable files.
    """
    import datasets

    revision = None if name.is_folder else str(stamp[2])
    place = str(name.folder) if name.is_folder else name.id
    try:
        data = datasets.load_dataset(place, name=name.config, split=name.split, revision=revision, streaming=True)
        if data.column_names is None:
            data = data._resolve_features()
        return list(data.column_names), data
    except Exception as error:  # the library's readers raise many kinds of errors, all about the data
        raise name.failure(error) from error


def stream(name: HubName, data: Any, columns: Sequence[str], rows: int) -> Iterator[list[list[Any]]]:
    """The cells of `columns`, up to `rows` rows at a time, one list a column.

    Raises:
        InputError: reading fails.
    """
    try:
        for batch in data.select_columns(list(columns)).iter(batch_size=rows):
            yield [batch[column] for column in columns]
    except InputError:
        raise
    except Exception as error:  # as above
        raise name.failure(error) from error
