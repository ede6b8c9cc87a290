"""Folders -> all the sets to measure on.

People keep these sets in different layouts and in parts. This module finds the sets and checks that they are complete.
A folder may be

- SentEval's `downstream` (or its parent),
- a folder of `*.tsv`: score, sentence 1, sentence 2 and optionally subset; a file's stem names its set,
- a search collection in BEIR's layout, or a folder of such collections.

In place of a folder, `hub:...` names data sets of the Hugging Face hub (see `hub`), and "pairs" the graded pairs of
this package. Where two sources have the same set, the first one counts, and a note says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from diffcse.errors import InputError
from diffcse.evaluation.beir import Collection, is_collection, pairs_as_collection, read_collection
from diffcse.evaluation.downstream import TransferTask, downstream_root, read_downstream_sts, read_downstream_transfer
from diffcse.evaluation.hub import ALL, Origin, is_hub, read_hub
from diffcse.evaluation.lines import hash_files, read_bytes, split_lines
from diffcse.evaluation.sts import OWN_PAIRS, PAIRS_IN, SEVEN, PairSet, check_count, named_pairs, read_pairs, split_of
from diffcse.text.hub import Unreachable

TSV_LAYOUT = "score<TAB>sentence 1<TAB>sentence 2, and optionally <TAB>subset"
_FOLDERS = (
    "Known are: SentEval's downstream folder (STS/, SICK/, CR/, ...), *.tsv files of "
    f"{TSV_LAYOUT}, and BEIR's corpus.jsonl, queries.jsonl, qrels/test.tsv"
)
LAYOUTS = f'{_FOLDERS}; {ALL} for data sets of the hub; and "pairs" for the graded pairs of this package'


class HoldsNothing(InputError):
    """A valid folder or hub name that has no set of the requested groups."""


@dataclass(frozen=True, eq=False)
class TextSet:
    """Plain sentences, to measure geometry on."""

    name: str
    sentences: tuple[str, ...]
    sha256: str


@dataclass(eq=False)
class Data:
    """Sets by name."""

    sts: dict[str, PairSet] = field(default_factory=dict)
    transfer: dict[str, TransferTask] = field(default_factory=dict)
    collections: dict[str, Collection] = field(default_factory=dict)
    texts: dict[str, TextSet] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    """Where the sets from the hub come from."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the scores should know."""

    def searches(self) -> dict[str, Collection]:
        """The collections, and the DiffCSE paper's search on STS-B, or else on each set with pairs graded 5."""
        found = dict(self.collections)
        for name, pairs in _preferring_stsb(self.sts).items():
            made = pairs_as_collection(pairs)
            if made is not None:
                found.setdefault(name, made)
        return found

    def shapes(self) -> dict[str, PairSet | TextSet]:
        """The sets to measure geometry on: STS-B (SimCSE's choice), else every set; and the texts."""
        return {**_preferring_stsb(self.sts), **self.texts}

    def names(self) -> list[str]:
        """Every set's name, each once."""
        return list(dict.fromkeys([*self.sts, *self.transfer, *self.collections, *self.texts]))


def find_data(
    folders: Sequence[str | Path],
    *,
    groups: Iterable[str] = ("sts", "transfer", "retrieval", "geometry"),
    only: Sequence[str] = (),
    texts: Sequence[str | Path] = (),
    allow_partial: bool = False,
) -> Data:
    """Read the sets of `groups` in `folders` (or `hub:` data sets), and `texts`, files of one sentence a line.

    Training splits of STS-B and SICK-R are left out unless `only` names them: no published figures use them.

    Args:
        only: names of the sets to read; empty: all.
        allow_partial: accept well-known sets with missing rows or subsets.

    Raises:
        InputError: a folder has no such set, a set is incomplete or unreadable, `only` names an unknown set, or the hub
            cannot be reached.
    """
    groups = set(groups)
    data = Data()
    for folder in folders:
        if is_hub(folder):
            _read_hub(str(folder), groups, only, allow_partial, data)
        else:
            _read_folder(_folder(folder), groups, only, allow_partial, data)
    order = {name: i for i, name in enumerate(PAIRS_IN)}  # the order of published tables; other sets follow
    data.sts = dict(sorted(data.sts.items(), key=lambda item: order.get(item[0], len(order))))
    for path in map(Path, texts):
        text = read_texts(path)
        _add(data.texts, {text.name: text}, path.name, data.notes)
    missing = [name for name in only if name not in data.names()]
    if missing:
        raise InputError(f"no set {', '.join(missing)}. Sets here: {', '.join(data.names()) or 'none'}")
    if "sts" in groups and any(name in SEVEN for name in data.sts) and not only:
        absent = [name for name in SEVEN if name not in data.sts]
        if absent:
            data.notes.append(f"no average over the seven STS sets: {', '.join(absent)} missing")
    return data


def find_sets(directory: str | Path, *, allow_partial: bool = False) -> dict[str, PairSet]:
    """The STS sets of one folder or `hub:` data set, training splits included, by name.

    Raises:
        InputError: as `find_data` does.
    """
    if is_hub(directory):
        with _local_layouts():
            return read_hub(str(directory), transfer=False, training=True, allow_partial=allow_partial).sts
    directory = _folder(directory)
    sets = _read_sts(_listed(directory)[0], directory, (), allow_partial, training=True)
    if not sets:
        raise InputError(f"{directory}: holds no graded pairs. {LAYOUTS}. It holds {_holds(directory)}")
    return sets


def read_texts(path: Path) -> TextSet:
    """The non-blank lines of a UTF-8 file, white space at the ends removed.

    Raises:
        InputError: unreadable, not UTF-8, or fewer than two sentences.
    """
    data = read_bytes(path, "one sentence a line")
    sentences = tuple(line.strip() for line in split_lines(data, path) if line.strip())
    if len(set(sentences)) < 2:
        raise InputError(f"{path}: has fewer than 2 distinct sentences; geometry compares sentences")
    return TextSet(path.name, sentences, hash_files([(path.name, data)]))


def _folder(source: str | Path) -> Path:
    path = named_pairs(source)
    return path.parent if path == OWN_PAIRS else path


def _read_hub(spelling: str, groups: set[str], only: Sequence[str], allow_partial: bool, data: Data) -> None:
    pairs, tasks = bool(groups & {"sts", "retrieval", "geometry"}), "transfer" in groups
    with _local_layouts():
        found = read_hub(spelling, sts=pairs, transfer=tasks, only=only, allow_partial=allow_partial)
    if not found.origins and not only:
        raise HoldsNothing(f"{spelling}: holds nothing for {', '.join(sorted(groups))}")
    known = data.names()
    data.origins |= {name: origin for name, origin in found.origins.items() if name not in known}
    _add(data.sts, found.sts, spelling, data.notes)
    _add(data.transfer, found.transfer, spelling, data.notes)
    data.notes += found.notes


@contextmanager
def _local_layouts() -> Iterator[None]:
    """Where the hub cannot be reached, add what can be read without it."""
    try:
        yield
    except Unreachable as error:
        raise InputError(f"{error} Folders on this machine can be read without it. {_FOLDERS}") from error


def _read_folder(folder: Path, groups: set[str], only: Sequence[str], allow_partial: bool, data: Data) -> None:
    names, root = _listed(folder)
    held = 0
    if groups & {"sts", "retrieval", "geometry"}:
        sets = _read_sts(names, folder, only, allow_partial)
        held += len(sets)
        _add(data.sts, sets, folder.name or str(folder), data.notes)
    if "transfer" in groups and root is not None:
        tasks = read_downstream_transfer(root, only=only, allow_partial=allow_partial)
        held += len(tasks)
        _add(data.transfer, tasks, folder.name or str(folder), data.notes)
    if "retrieval" in groups:
        places = (
            [folder] if is_collection(folder) else [folder / name for name in names if is_collection(folder / name)]
        )
        collections = {place.name or place.resolve().name: place for place in places}  # "." has no name
        read = {name: read_collection(place) for name, place in _chosen(collections, only).items()}
        held += len(read)
        _add(data.collections, read, folder.name or str(folder), data.notes)
    if not held and not only:
        raise HoldsNothing(
            f"{folder}: holds nothing for {', '.join(sorted(groups))}. {LAYOUTS}. It holds {_holds(folder)}"
        )


def _listed(folder: Path) -> tuple[list[str], Path | None]:
    if not folder.is_dir():
        hint = ": give the folder that contains it" if folder.is_file() else ""
        what = "is not a folder" if folder.exists() else "does not exist"
        raise InputError(f"{folder}: {what}{hint}. {LAYOUTS}")
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    return names, downstream_root(folder)


def _read_sts(
    names: list[str], folder: Path, only: Sequence[str], allow_partial: bool, *, training: bool = False
) -> dict[str, PairSet]:
    root = downstream_root(folder)
    found = {} if root is None else read_downstream_sts(root, only=only, allow_partial=allow_partial)
    for name in names:
        stem = name.removesuffix(".tsv")
        if stem == name or (only and stem not in only):
            continue
        pairs = read_pairs(folder / name)
        check_count(pairs, str(folder / name), allow_partial=allow_partial)
        found.setdefault(pairs.name, pairs)
    chosen = _chosen(found, only)
    return chosen if training or only else {name: p for name, p in chosen.items() if split_of(name) != "train"}


_T = TypeVar("_T")


def _chosen(found: dict[str, _T], only: Sequence[str]) -> dict[str, _T]:
    return {name: value for name, value in found.items() if not only or name in only}


def _add(known: dict[str, _T], found: dict[str, _T], where: str, notes: list[str]) -> None:
    for name, value in found.items():
        if name in known:
            notes.append(f"{name} is also in {where}; the folder given first is used")
        else:
            known[name] = value
            notes += value.notes if isinstance(value, PairSet) else ()


def _preferring_stsb(sets: dict[str, PairSet]) -> dict[str, PairSet]:
    stsb = {name: pairs for name, pairs in sets.items() if name.startswith("STSB-")}
    return stsb or dict(sets)


def _holds(folder: Path) -> str:
    names = _listed(folder)[0]
    return (", ".join(names[:10]) + (", ..." if len(names) > 10 else "")) if names else "nothing"
