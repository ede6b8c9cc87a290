"""Well-known data sets of the Hugging Face hub -> our sets.

`hub:mteb` names all data sets below, and `hub:OWNER/NAME[@REVISION][:SPLIT]` one of them. `hub:./FOLDER` names a local
folder with the files of one data set, or a folder of such folders. Each is read at one commit, which the record names.

The list has only data sets whose columns, splits and grades are documented. CR and MPQA are missing: no copy with
SentEval's numbers of examples is documented. SST2 is missing too: stanfordnlp/sst2 has no labels in its test split, and
SetFit/sst2 has a tenth of SentEval's training examples.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from diffcse.errors import InputError
from diffcse.evaluation.downstream import (
    TREC_CLASSES,
    Examples,
    Row,
    TransferTask,
    check_examples,
    examples_in_order,
    pair_set,
)
from diffcse.evaluation.lines import hash_files
from diffcse.evaluation.sts import PairSet, check_count, split_of
from diffcse.text import hub

ALL = "hub:mteb"

_PAIRS: dict[str, dict[str, str]] = {
    **{f"mteb/sts{year}-sts": {f"STS{year}": "test"} for year in (12, 13, 14, 15, 16)},
    "mteb/stsbenchmark-sts": {"STSB-train": "train", "STSB-dev": "validation", "STSB-test": "test"},
    "mteb/sickr-sts": {"SICKR-all": "test"},
}
"""Id -> set -> its split. Columns sentence1, sentence2 and score: 0 to 5, for SICK 1 to 5."""

_NOTES = {
    "SICKR-all": "SICKR-all is MTEB's SICK-R, all 9,927 pairs; papers quote the 4,927 test pairs, which the hub's copy "
    "does not tell apart"
}


@dataclass(frozen=True)
class _Labelled:
    """A classification task, and the columns and splits that hold it."""

    task: str
    text: tuple[str, ...]
    """Columns of the sentence, or of the two."""
    label: str
    classes: Mapping[Any, int]
    """Value of the column `label` -> SentEval's class."""
    parts: tuple[tuple[str, ...], ...]
    """Splits of the training examples, and those of the test examples if they are separate."""
    config: str | None = None
    """The configuration of the data set; its files are in a folder of this name."""


_TASKS = {
    "cornell-movie-review-data/rotten_tomatoes": _Labelled(
        "MR", ("text",), "label", {0: 0, 1: 1}, (("train", "validation", "test"),)
    ),
    "SetFit/subj": _Labelled(
        "SUBJ", ("text",), "label", {0: 1, 1: 0}, (("train", "test"),)
    ),  # 0 is objective in this data set
    "SetFit/TREC-QC": _Labelled(
        "TREC",
        ("text",),
        "label_coarse_original",
        {name: i for i, name in enumerate(TREC_CLASSES)},
        (("train",), ("test",)),
    ),
    "nyu-mll/glue": _Labelled(
        "MRPC", ("sentence1", "sentence2"), "label", {0: 0, 1: 1}, (("train", "validation"), ("test",)), "mrpc"
    ),
}
KNOWN = (*_PAIRS, *_TASKS)
"""Ids of the known data sets."""

_FILES = ("*.parquet", "*.jsonl", "*.jsonl.gz", "*.json", "*.json.gz", "*.csv", "README.md")
_SUBSET = ("subset", "dataset")  # columns that name a pair's subset, where there is one
_ROWS = 1000


@dataclass(frozen=True)
class Origin:
    """The source of a set."""

    id: str
    """The data set's id."""
    revision: str | None
    """The commit; None for a folder."""


@dataclass
class HubSets:
    """Sets by name."""

    sts: dict[str, PairSet] = field(default_factory=dict)
    transfer: dict[str, TransferTask] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Place:
    """One known data set: its id, and the name that the user gave."""

    id: str
    name: hub.HubName
    """Its split is empty where the user named none."""


def is_hub(source: str | Path) -> bool:
    """Whether `source` is a `hub:` name."""
    return str(source).startswith(hub.PREFIX)


def read_hub(
    spelling: str,
    *,
    sts: bool = True,
    transfer: bool = True,
    only: Sequence[str] = (),
    training: bool = False,
    allow_partial: bool = False,
) -> HubSets:
    """The sets that `spelling` names. White space within sentences becomes one space.

    Args:
        sts: read graded pairs.
        transfer: read classification tasks.
        only: names of sets; nothing else is downloaded.
        training: also read training splits of graded pairs that `only` does not name.

    Raises:
        InputError: the data set is unknown or incomplete, the network cannot be reached, columns are missing, or a row
            is malformed (with its split, number and column).
    """
    found = HubSets()
    for place in _places(spelling):
        wanted = _wanted(place, sts=sts, transfer=transfer, only=only, training=training)
        if not wanted:
            continue
        origin, folder = _fetch(place)
        if place.id in _PAIRS:
            for name in wanted:
                found.sts[name] = _read_pairs(place, folder, name, allow_partial=allow_partial)
                found.notes += [_NOTES[name]] if name in _NOTES else []
        else:
            task = _read_task(place, folder, allow_partial=allow_partial)
            found.transfer[task.name] = task
        found.origins |= dict.fromkeys(wanted, origin)
    return found


def _places(spelling: str) -> list[_Place]:
    """The known data sets that `spelling` names."""
    if spelling == ALL:
        return [_Place(id_, hub.parse(f"{hub.PREFIX}{id_}", split="")) for id_ in KNOWN]
    name = hub.parse(spelling, split="")
    if name.is_folder:
        return _in_folder(name)
    id_ = next((known for known in KNOWN if known.lower() == name.id.lower()), None)
    if id_ is None:
        raise InputError(
            f"{spelling}: not a data set with known columns. Known are {', '.join(KNOWN)}; {ALL} means all of them. "
            "Save any other data set as a file of graded pairs: score<TAB>sentence 1<TAB>sentence 2"
        )
    config = _TASKS[id_].config if id_ in _TASKS else None
    if name.config not in (None, config or "default"):
        raise InputError(f"{spelling}: of {id_} the configuration {config or 'default'} is read, not {name.config}")
    return [_Place(id_, name)]


def _in_folder(name: hub.HubName) -> list[_Place]:
    folder = name.folder
    if not folder.is_dir():
        raise InputError(f"{name.name}: {folder} is not a folder. Relative paths start at {Path.cwd()}.")
    folder = folder.resolve()
    found = []
    for id_ in KNOWN:
        own = id_.rpartition("/")[2]
        places = [folder] if folder.name == own else [folder / own, folder / id_]
        there = next((place for place in places if place.is_dir()), None)
        if there is not None:
            found.append(_Place(id_, replace(name, id=str(there))))
    if not found:
        names = ", ".join(id_.rpartition("/")[2] for id_ in KNOWN)
        raise InputError(
            f"{name.name}: neither the folder of a known data set nor a folder of such. Known names: {names}"
        )
    return found


def _wanted(place: _Place, *, sts: bool, transfer: bool, only: Sequence[str], training: bool) -> list[str]:
    """Names of the sets to read of one data set."""
    split = place.name.split
    if place.id in _TASKS:
        if split:
            raise InputError(f"{place.name.name}: a task needs training and test examples: remove :{split}")
        names = [_TASKS[place.id].task] if transfer else []
    else:
        splits = _PAIRS[place.id]
        if split and split not in splits.values():
            raise InputError(f"{place.name.name}: its splits are {', '.join(splits.values())}, not {split}")
        names = [name for name, own in splits.items() if not split or own == split] if sts else []
        if not (only or training or split):
            names = [name for name in names if split_of(name) != "train"]
    return [name for name in names if not only or name in only]


def _fetch(place: _Place) -> tuple[Origin, Path]:
    """The source of the data set, and the folder with its files."""
    config = _TASKS[place.id].config if place.id in _TASKS else None
    if place.name.is_folder:
        folder, commit = Path(place.name.id), None
    else:
        commit = str(place.name.stamp()[2])
        # Only one of many configurations: the others are a hundred times larger.
        folder = hub.download(place.name, commit, [f"{config}/*"] if config else _FILES)
    if config and (folder / config).is_dir():
        folder = folder / config
    return Origin(place.id, commit), folder


def _rows(place: _Place, folder: Path, split: str, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row of `split`: its place, for messages, and the cells of `columns` and of the subset column."""
    where = f"{place.name.name} ({place.id}, {split})"
    name = hub.HubName(where, str(folder), None, None, split)
    there, data = hub.open_columns(name, ("", 0, ""))
    missing = [column for column in columns if column not in there]
    if missing:
        raise InputError(f"{where}: no column {', '.join(missing)}; columns here: {', '.join(there)}")
    read = [*columns, *(column for column in _SUBSET if column in there and column not in columns)]
    number = 0
    for cells in hub.stream(name, data, read, _ROWS):
        for row in zip(*cells, strict=True):
            number += 1
            yield f"{where}, row {number}", dict(zip(read, row, strict=True))


def _read_pairs(place: _Place, folder: Path, name: str, *, allow_partial: bool) -> PairSet:
    split = _PAIRS[place.id][name]
    scores, rows = [], []
    for where, row in _rows(place, folder, split, ("sentence1", "sentence2", "score")):
        scores.append(_score(row["score"], where))
        subset = next((str(row[column]) for column in _SUBSET if row.get(column)), name)
        rows.append((_sentence(row, "sentence1", where), _sentence(row, "sentence2", where), subset))
    where = f"{place.name.name} ({place.id}, {split})"
    pairs = pair_set(name, scores, rows, _hash(name, zip(scores, rows, strict=True)), where)
    check_count(pairs, where, allow_partial=allow_partial)
    return pairs


def _read_task(place: _Place, folder: Path, *, allow_partial: bool) -> TransferTask:
    known = _TASKS[place.id]
    parts: list[Examples] = []
    read: list[Row] = []
    for splits in known.parts:
        rows: list[Row] = []
        for split in splits:
            for where, row in _rows(place, folder, split, (*known.text, known.label)):
                first, *second = (_sentence(row, column, where) for column in known.text)
                rows.append((first, second[0] if second else None, _class(row[known.label], known, where)))
        parts.append(examples_in_order(rows, f"{place.name.name} ({place.id})"))
        read += rows
    # No known task has a dev split: a single part is cross-validated; of two parts, the second is the test.
    test = parts[1] if len(parts) > 1 else None
    task = TransferTask(known.task, parts[0], None, test, _hash(known.task, [[len(part) for part in parts], *read]))
    check_examples(task, f"{place.name.name} ({place.id})", allow_partial=allow_partial)
    return task


def _hash(name: str, rows: Any) -> str:
    """The hash of the rows, so that the same rows in another file format are the same data."""
    return hash_files([(name, "".join(json.dumps(row) + "\n" for row in rows).encode())])


def _score(value: Any, where: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{where}, column 'score': {value!r} is not a finite number")
    return number


def _sentence(row: dict[str, Any], column: str, where: str) -> str:
    value = row[column]
    text = " ".join(value.split()) if isinstance(value, str) else ""
    if not text:
        raise InputError(f"{where}, column {column!r}: {value!r} is not a sentence")
    return text


def _class(value: Any, known: _Labelled, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str) or value not in known.classes:
        names = ", ".join(map(str, known.classes))
        raise InputError(f"{where}, column {known.label!r}: {value!r} must be one of {names} (-1 means: no label)")
    return known.classes[value]
