"""SentEval's `downstream` folder, the layout of most copies of these tasks.

    STS/STS12-en-test/STS.input.<subset>.txt, STS.gs.<subset>.txt    (STS12 to STS16)
    STS/STSBenchmark/sts-{train,dev,test}.csv                         (tab-separated, whatever its name says)
    SICK/SICK_{train,trial,test_annotated}.txt
    MR CR SUBJ MPQA (a file a class), SST/binary, TREC, MRPC          (transfer)

Rows are read as SentEval reads them (its senteval/sts.py, sick.py, binary.py, sst.py, trec.py, mrpc.py): white space
becomes one space, an STS row without a grade is left out, and transfer examples are sorted by length and label. The
order matters, because SentEval draws the folds of its cross-validation by position. In addition, this module counts
the examples and names missing files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffcse.errors import InputError
from diffcse.evaluation.lines import hash_files, read_bytes, split_lines
from diffcse.evaluation.sts import PairSet, check_count

STS_SUBSETS = {
    "STS12": ("MSRpar", "MSRvid", "SMTeuroparl", "surprise.OnWN", "surprise.SMTnews"),
    "STS13": ("FNWN", "headlines", "OnWN"),
    "STS14": ("deft-forum", "deft-news", "headlines", "images", "OnWN", "tweet-news"),
    "STS15": ("answers-forums", "answers-students", "belief", "headlines", "images"),
    "STS16": ("answer-answer", "headlines", "plagiarism", "postediting", "question-question"),
}
"""Subsets of each year, in SentEval's order. STS13's fourth (SMT) is not free; no published figure uses it."""

_STSB = {f"STSB-{split}": f"STS/STSBenchmark/sts-{split}.csv" for split in ("train", "dev", "test")}
_SICK = {
    "SICKR-train": "SICK/SICK_train.txt",
    "SICKR-trial": "SICK/SICK_trial.txt",
    "SICKR-test": "SICK/SICK_test_annotated.txt",
}

EXAMPLES_IN = {
    "MR": (10662,),
    "CR": (3775,),
    "SUBJ": (10000,),
    "MPQA": (10606,),
    "SST2": (67349, 872, 1821),
    "TREC": (5452, 500),
    "MRPC": (4076, 1725),
}
"""Examples in each transfer task: all; train and test; or train, dev and test."""

_BINARY = {  # task -> file of class 1, file of class 0
    "MR": ("MR/rt-polarity.pos", "MR/rt-polarity.neg"),
    "CR": ("CR/custrev.pos", "CR/custrev.neg"),
    "SUBJ": ("SUBJ/subj.objective", "SUBJ/subj.subjective"),
    "MPQA": ("MPQA/mpqa.pos", "MPQA/mpqa.neg"),
}
_FILES = {
    **_BINARY,
    "SST2": tuple(f"SST/binary/sentiment-{split}" for split in ("train", "dev", "test")),
    "TREC": ("TREC/train_5500.label", "TREC/TREC_10.label"),
    "MRPC": ("MRPC/msr_paraphrase_train.txt", "MRPC/msr_paraphrase_test.txt"),
}
Row = tuple[str, str | None, int]
"""Sentence, other sentence, label."""
TREC_CLASSES = ("ABBR", "DESC", "ENTY", "HUM", "LOC", "NUM")


@dataclass(frozen=True, eq=False)
class Examples:
    """Labelled sentences, or sentence pairs, of one split."""

    first: tuple[str, ...]
    second: tuple[str, ...] | None
    """The other sentence of each pair; None where an example is one sentence."""
    labels: np.ndarray
    """(n,) int64, classes from 0."""

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True, eq=False)
class TransferTask:
    """One classification task. No `test`: scored by nested cross-validation. No `dev`: the probe is tuned by folds."""

    name: str
    train: Examples
    dev: Examples | None
    test: Examples | None
    sha256: str

    def sentences(self) -> list[str]:
        """All sentences, repeats included."""
        parts = [part for part in (self.train, self.dev, self.test) if part is not None]
        return [sentence for part in parts for sentence in (*part.first, *(part.second or ()))]


def downstream_root(directory: Path) -> Path | None:
    """The folder in SentEval's layout that `directory` is or holds as `downstream`; None if neither."""
    marks = ("STS", "SICK", *(files[0].partition("/")[0] for files in _FILES.values()))
    for root in (directory, directory / "downstream"):
        if any((root / mark).is_dir() for mark in marks):
            return root
    return None


# STS


def read_downstream_sts(root: Path, *, only: Sequence[str] = (), allow_partial: bool = False) -> dict[str, PairSet]:
    """The STS sets in `root` (of those in `only`, if given), in the order of published tables.

    Raises:
        InputError: files, rows or grades of a set are missing (unless `allow_partial`), or a row is malformed.
    """
    found: dict[str, PairSet] = {}
    for name, subsets in STS_SUBSETS.items():
        folder = root / "STS" / f"{name}-en-test"
        if folder.is_dir() and (not only or name in only):
            pairs = _read_year(folder, name, subsets, allow_partial=allow_partial)
            check_count(pairs, str(folder), allow_partial=allow_partial)
            found[name] = pairs
    for files, read in ((_STSB, _read_stsb), (_SICK, _read_sick)):
        for name, file in files.items():
            if (root / file).is_file() and (not only or name in only):
                pairs = read(root / file, name)
                check_count(pairs, str(root / file), allow_partial=allow_partial)
                found[name] = pairs
    return found


def _read_year(folder: Path, name: str, subsets: tuple[str, ...], *, allow_partial: bool) -> PairSet:
    files = {s: (folder / f"STS.input.{s}.txt", folder / f"STS.gs.{s}.txt") for s in subsets}
    missing = [path.name for both in files.values() for path in both if not path.is_file()]
    if missing and not allow_partial:
        raise InputError(
            f"{folder}: {name} is incomplete: {', '.join(missing)} missing. Get the complete set, or pass "
            "--allow-partial if scores need not compare with others"
        )
    there = {s: both for s, both in files.items() if all(path.is_file() for path in both)}
    if not there:
        raise InputError(f"{folder}: holds none of the files of {name}: {', '.join(missing)}")
    scores: list[float] = []
    rows: list[tuple[str, str, str]] = []
    contents: list[tuple[str, bytes]] = []
    for subset, (text_file, grade_file) in there.items():
        texts, grades = (read_bytes(path, wanted) for path, wanted in ((text_file, _PAIR), (grade_file, _GRADE)))
        contents += [(text_file.name, texts), (grade_file.name, grades)]
        lines, numbers = split_lines(texts, text_file), split_lines(grades, grade_file)
        # An editor may have removed the blank grades of ungraded pairs at the end of a file.
        numbers += [""] * (len(lines) - len(numbers))
        if len(numbers) > len(lines):
            raise InputError(
                f"{grade_file}, line {len(lines) + 1}: a grade without a pair: {text_file.name} has {len(lines)} lines"
            )
        for i, (line, number) in enumerate(zip(lines, numbers, strict=True), start=1):
            if number.strip():
                scores.append(_grade(number, f"{grade_file}, line {i}"))
                rows.append((*_two(line.split("\t"), (0, 1), f"{text_file}, line {i}", _PAIR), subset))
    return pair_set(name, scores, rows, hash_files(contents), folder)


def _read_stsb(path: Path, name: str) -> PairSet:
    return _read_table(path, name, header=False, score=4, sentences=(5, 6), subset=1, wanted=_STSB_ROW)


def _read_sick(path: Path, name: str) -> PairSet:
    return _read_table(path, name, header=True, score=3, sentences=(1, 2), subset=4, wanted=_SICK_ROW)


def _read_table(
    path: Path, name: str, *, header: bool, score: int, sentences: tuple[int, int], subset: int, wanted: str
) -> PairSet:
    data = read_bytes(path, wanted)
    scores, rows = [], []
    for i, line in enumerate(split_lines(data, path), start=1):
        if header and i == 1:
            continue
        fields = line.split("\t")
        if len(fields) <= max(score, *sentences, subset):
            raise InputError(f"{path}, line {i}: has {len(fields)} tab-separated fields; each line is {wanted}")
        scores.append(_grade(fields[score], f"{path}, line {i}, field {score + 1}"))
        rows.append((*_two(fields, sentences, f"{path}, line {i}", wanted), fields[subset].strip() or name))
    return pair_set(name, scores, rows, hash_files([(path.name, data)]), path)


_PAIR = "sentence 1<TAB>sentence 2"
_GRADE = "one grade a line, blank where a pair has none"
_STSB_ROW = "genre, file, year, number, score, sentence 1, sentence 2, separated by tabs"
_SICK_ROW = "number, sentence A, sentence B, relatedness, entailment, separated by tabs, below a header line"


def _grade(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where} (score): {text.strip()!r} is not a finite number")
    return value


def _two(fields: list[str], places: tuple[int, int], where: str, wanted: str) -> tuple[str, str]:
    if len(fields) <= max(places):
        raise InputError(f"{where}: has {len(fields)} tab-separated fields; each line is {wanted}")
    first, second = (" ".join(fields[place].split()) for place in places)
    for place, sentence in zip(places, (first, second), strict=True):
        if not sentence:
            raise InputError(f"{where}, field {place + 1}: the sentence is empty")
    return first, second


def pair_set(
    name: str, scores: list[float], rows: list[tuple[str, str, str]], sha256: str, where: str | Path
) -> PairSet:
    """A set of graded pairs from rows (sentence 1, sentence 2, subset).

    Raises:
        InputError: fewer than 3 pairs, or only one grade: no correlation is defined.
    """
    if len(scores) < 3 or max(scores) == min(scores):
        raise InputError(
            f"{where}: {len(scores)} graded pairs have no correlation. Give at least 3 with unequal grades"
        )
    first, second, subsets = (tuple(column) for column in zip(*rows, strict=True))
    return PairSet(name, np.array(scores), first, second, subsets, sha256)


# Transfer


def read_downstream_transfer(
    root: Path, *, only: Sequence[str] = (), allow_partial: bool = False
) -> dict[str, TransferTask]:
    """The transfer tasks in `root` (of those in `only`, if given).

    Raises:
        InputError: files of a task are missing, examples are missing (unless `allow_partial`), or a row is malformed.
    """
    found = {}
    for name, files in _FILES.items():
        missing = [file for file in files if not (root / file).is_file()]
        if len(missing) == len(files) or (only and name not in only):
            continue
        if missing:
            raise InputError(
                f"{root}: {name} is incomplete: {', '.join(missing)} missing. Add them, or remove the folder {name}"
            )
        task = _read_task(root, name, files)
        check_examples(task, str(root / files[0].partition("/")[0]), allow_partial=allow_partial)
        found[name] = task
    return found


def check_examples(task: TransferTask, where: str, *, allow_partial: bool) -> None:
    """Check that a task is complete.

    Raises:
        InputError: the numbers of examples differ from `EXAMPLES_IN`, and partial tasks are not allowed.
    """
    sizes = tuple(len(part) for part in (task.train, task.dev, task.test) if part is not None)
    if sizes != EXAMPLES_IN[task.name] and not allow_partial:
        wanted, there = (" + ".join(map(str, counts)) for counts in (EXAMPLES_IN[task.name], sizes))
        raise InputError(
            f"{where}: {task.name} has {wanted} examples, {there} found. Get the complete set, or pass --allow-partial "
            "if scores need not compare with others"
        )


def _read_task(root: Path, name: str, files: tuple[str, ...]) -> TransferTask:
    contents = {file: read_bytes(root / file, f"the task {name} in SentEval's layout") for file in files}
    sha256 = hash_files((file.rpartition("/")[2], data) for file, data in contents.items())
    if name in _BINARY:
        rows: list[Row] = [
            (" ".join(line.split()), None, label)
            for file, label in zip(files, (1, 0), strict=True)
            for line in split_lines(contents[file], root / file, "latin-1")
        ]
        return TransferTask(name, examples_in_order(rows, root / files[0]), None, None, sha256)
    parse, header = {"SST2": (_sst_row, False), "TREC": (_trec_row, False), "MRPC": (_mrpc_row, True)}[name]
    parts = [
        _read_examples(root / file, data, parse, header=header, latin=name == "TREC") for file, data in contents.items()
    ]
    return TransferTask(name, parts[0], parts[1] if len(parts) == 3 else None, parts[-1], sha256)


def _read_examples(path: Path, data: bytes, parse: Callable[[str, str], Row], *, header: bool, latin: bool) -> Examples:
    lines = split_lines(data, path, "latin-1" if latin else "utf-8")
    rows = [parse(line, f"{path}, line {i}") for i, line in enumerate(lines, start=1) if i > header]
    return examples_in_order(rows, path)


def examples_in_order(rows: list[Row], where: str | Path) -> Examples:
    """Rows in SentEval's order: by number of words, then by label. (CR contains an empty sentence.)

    Raises:
        InputError: examples of one class only.
    """
    if len({label for *_, label in rows}) < 2:
        raise InputError(f"{where}: has examples of one class only")
    rows = sorted(rows, key=lambda row: (_words(row[0]), _words(row[1]), row[2]))
    pairs = rows[0][1] is not None
    return Examples(
        first=tuple(first for first, *_ in rows),
        second=tuple(second or "" for _, second, _ in rows) if pairs else None,
        labels=np.array([label for *_, label in rows], dtype=np.int64),
    )


def _words(sentence: str | None) -> int:
    return len(sentence.split()) if sentence else 0


def _sst_row(line: str, where: str) -> Row:
    fields = line.strip().split("\t")
    if len(fields) != 2 or fields[1] not in ("0", "1"):
        raise InputError(f"{where}: each line is sentence<TAB>label, and the label is 0 or 1")
    return " ".join(fields[0].split()), None, int(fields[1])


def _trec_row(line: str, where: str) -> Row:
    label, colon, question = line.strip().partition(":")
    if not colon or label not in TREC_CLASSES:
        raise InputError(
            f"{where}: each line begins with {', '.join(TREC_CLASSES)} and a colon; this line with {label!r}"
        )
    return " ".join(question.split()[1:]), None, TREC_CLASSES.index(label)


def _mrpc_row(line: str, where: str) -> Row:
    fields = line.strip().split("\t")
    if len(fields) != 5 or fields[0] not in ("0", "1"):
        raise InputError(f"{where}: each line is label, two numbers and two sentences, separated by tabs")
    return " ".join(fields[3].split()), " ".join(fields[4].split()), int(fields[0])
