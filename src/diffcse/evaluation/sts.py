"""Semantic textual similarity (STS): do cosines order sentence pairs as people do?

Published STS figures of one model differ by several points, because three ways to combine a set's subsets are in use.
All three are given: `all` (one correlation over all pairs of the set, as in SimCSE, DiffCSE and our tables), and `mean`
and `wmean` over the subsets (SimCSE, arXiv 2104.08821, appendix B).

Files are `score<TAB>sentence 1<TAB>sentence 2[<TAB>subset]`. Sentences contain quote characters, which a CSV reader
would pair up, and so merge lines: `text.tables` says when quotes are text. `downstream` reads SentEval's own layout.

The sets circulate in two texts, natural and Moses-tokenised (SentEval's). Scores on one do not compare with scores on
the other, so `text_variant` tells which text it is.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diffcse.errors import InputError
from diffcse.evaluation.correlation import pearson, spearman
from diffcse.evaluation.embeddings import Encode, cosines, embed_once
from diffcse.evaluation.lines import read_bytes, split_lines
from diffcse.text.lines import Note, Notes
from diffcse.text.tables import tsv_rows

PAIRS_IN = {
    "STS12": 3108,
    "STS13": 1500,
    "STS14": 3750,
    "STS15": 3000,
    "STS16": 1186,
    "STSB-train": 5749,
    "STSB-dev": 1500,
    "STSB-test": 1379,
    "SICKR-train": 4500,
    "SICKR-trial": 500,
    "SICKR-test": 4927,
    "SICKR-all": 9927,
}
"""Number of pairs in the well-known sets. Truncated copies circulate; their scores compare with nothing.

SICKR-all is MTEB's SICK-R: training, trial and test pairs together.
"""

SEVEN = ("STS12", "STS13", "STS14", "STS15", "STS16", "STSB-test", "SICKR-test")
"""The sets whose average SimCSE, DiffCSE and their successors report."""

TextVariant = Literal["natural", "lower-cased", "tokenised", "tokenised, lower-cased"]

OWN_PAIRS = Path(__file__).parent.parent / "assets" / "pairs" / "pairs.tsv"
"""The graded pairs of this package, named "pairs": documentation of programs, not a benchmark."""

_FIELDS = ("score", "sentence 1", "sentence 2", "subset")
_LAYOUT = "score<TAB>sentence 1<TAB>sentence 2, and optionally <TAB>subset"
_FEWEST = 3  # two pairs always correlate perfectly


@dataclass(frozen=True, eq=False)
class PairSet:
    """Graded sentence pairs, as read from one file; pair i is (first[i], second[i]) with scores[i]."""

    name: str
    scores: np.ndarray  # (n,) float64, higher is more alike, on whatever scale the file uses
    first: tuple[str, ...]
    second: tuple[str, ...]
    subsets: tuple[str, ...]  # the pair's subset; the set's own name where the file names none
    sha256: str  # of the file's bytes
    notes: tuple[str, ...] = ()  # what was removed or guessed while reading

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True)
class Correlation:
    """Two correlations of cosines with human scores over `n` pairs, in points (x 100)."""

    n: int
    spearman: float
    pearson: float


@dataclass(frozen=True)
class StsScore:
    """One encoder's score on one set, in points (x 100)."""

    name: str
    n: int
    all: Correlation
    subsets: dict[str, Correlation]  # in the file's order; those where a correlation exists
    unscored: tuple[str, ...]  # subsets with fewer than 3 pairs or with a single score throughout
    mean: Correlation | None  # over `subsets`, each counting alike; None where there are none
    wmean: Correlation | None  # over `subsets`, each counting by its pairs
    cosines: np.ndarray = field(repr=False, compare=False)  # (n,), for `compare.paired_bootstrap`

    def to_dict(self) -> dict[str, Any]:
        """Everything but the per-pair cosines, as plain JSON values."""
        plain = asdict(self)
        del plain["cosines"]
        return plain | {"unscored": list(self.unscored)}


def score_sts(encode: Encode, pair_set: PairSet) -> StsScore:
    """Score `encode` on `pair_set`: cosine of the two embeddings against the human scores.

    Raises `InputError` as `embed_once` does, on embeddings that are not finite for one. Equal cosines for all
    pairs score 0 (see `correlation`).
    """
    return score_cosines(cosines(*embed_once(encode, pair_set.first, pair_set.second)), pair_set)


def score_cosines(values: np.ndarray, pair_set: PairSet) -> StsScore:
    """Score one number for each pair, `values` (n,); higher means more similar."""
    rows_of: dict[str, list[int]] = {}
    for i, subset in enumerate(pair_set.subsets):
        rows_of.setdefault(subset, []).append(i)
    scored = {s: rows for s, rows in rows_of.items() if _can_correlate(pair_set.scores[rows])}
    subsets = {s: _correlate(values[rows], pair_set.scores[rows]) for s, rows in scored.items()}
    return StsScore(
        name=pair_set.name,
        n=len(pair_set),
        all=_correlate(values, pair_set.scores),
        subsets=subsets,
        unscored=tuple(s for s in rows_of if s not in scored),
        mean=_average(subsets.values(), [1 for _ in subsets]),
        wmean=_average(subsets.values(), [c.n for c in subsets.values()]),
        cosines=values,
    )


def named_pairs(source: str | Path) -> Path:
    """`source` as a path, with the name "pairs" standing for the file of `OWN_PAIRS`.

    Raises:
        InputError: a file or folder here has that name.
    """
    if source != OWN_PAIRS.stem:  # a Path of that name is a file
        return Path(source)
    if Path(source).exists():
        raise InputError(
            '"pairs" names the graded pairs of this package, and also a file here: write ./pairs for the file'
        )
    return OWN_PAIRS


def read_pairs(path: str | Path) -> PairSet:
    """Read a UTF-8 file of `score<TAB>sentence 1<TAB>sentence 2[<TAB>subset]`; its stem names the set.

    `text.lines` states where a line ends, and `text.tables` when quotes enclose cells. Sentences are kept unchanged.

    Raises:
        InputError: with file, line and field: the file cannot be read or is empty, bytes are not UTF-8, rows differ in
            width, a score is not a finite number, or a sentence is empty. Also where the file has fewer than 3 pairs or
            a single score, for which no correlation is defined.
    """
    path = Path(path)
    data = read_bytes(path, _LAYOUT)
    notes: Notes = {}
    numbered = tsv_rows(split_lines(data, path, notes=notes), str(path), notes)
    rows = [row for _, row in numbered]
    scores = [_check_row(row, len(rows[0]), f"{path}, line {number}") for number, row in numbered]
    if len(rows) < _FEWEST:
        raise InputError(f"{path}: has {len(rows)} pairs; a correlation needs at least {_FEWEST}.")
    if not _can_correlate(np.array(scores)):
        raise InputError(
            f"{path}: every score is {scores[0]:g}, so no correlation is defined. Check that field 1 is the score."
        )
    return PairSet(
        name=path.stem,
        scores=np.array(scores),
        first=tuple(row[1] for row in rows),
        second=tuple(row[2] for row in rows),
        subsets=tuple((row[3].strip() if len(row) > 3 else "") or path.stem for row in rows),
        sha256=hashlib.sha256(data).hexdigest(),
        notes=tuple(Note(kind, n, f"{path}, line {at}").text(advises=False) for kind, (n, at) in notes.items()),
    )


def split_of(name: str) -> Literal["train", "dev", "test", "unknown"]:
    """The split of its benchmark that the set `name` is, so that nobody reports a dev score as a test score."""
    if name in PAIRS_IN and name.startswith("STS1"):
        return "test"
    ends: dict[str, Literal["train", "dev", "test"]] = {"train": "train", "dev": "dev", "trial": "dev", "test": "test"}
    return ends.get(name.rpartition("-")[2], "unknown") if name in PAIRS_IN else "unknown"


def text_variant(sentences: Sequence[str]) -> TextVariant:
    """The circulating form that these sentences have.

    Tokenised: most marks such as `. , ; : ?` have a space before them, as after Moses' tokenizer (SentEval) or the Penn
    Treebank's. Lower-cased: no sentence has a capital letter.

    >>> text_variant(["A man, a plan.", "So what?"]), text_variant(["a man , a plan .", "so what ?"])
    ('natural', 'tokenised, lower-cased')
    """
    attached = apart = 0
    lower = True
    for sentence in sentences:
        attached += len(_ATTACHED.findall(sentence))
        apart += len(_APART.findall(sentence))
        lower = lower and sentence == sentence.lower()
    if apart > attached:
        return "tokenised, lower-cased" if lower else "tokenised"
    return "lower-cased" if lower else "natural"


_ATTACHED = re.compile(r"\w[.,;:!?](?=\s|$)")
_APART = re.compile(r"(?<=\s)[.,;:!?](?=\s|$)")


def check_count(pairs: PairSet, where: str, *, allow_partial: bool) -> None:
    """Check that a well-known set is complete.

    Raises:
        InputError: it has another number of pairs than `PAIRS_IN` says, and partial sets are not allowed.
    """
    expected = PAIRS_IN.get(pairs.name, len(pairs))
    if len(pairs) != expected and not allow_partial:
        raise InputError(
            f"{where}: {expected} pairs expected, {len(pairs)} found. Get the complete set, rename a set of your own, "
            "or pass --allow-partial if scores need not compare with others"
        )


def _check_row(row: list[str], width: int, where: str) -> float:
    """The score of a sound row of `width` fields (3 or 4); `InputError` otherwise."""
    if len(row) not in (3, 4):
        raise InputError(f"{where}: has {len(row)} tab-separated fields; each line is {_LAYOUT}.")
    if len(row) != width:
        raise InputError(f"{where}: has {len(row)} fields where line 1 has {width}; give all lines the same.")
    for i in (1, 2):
        if not row[i].strip():
            raise InputError(f"{where}, field {i + 1} ({_FIELDS[i]}): is empty. Fill it or remove the line.")
    try:
        score = float(row[0])
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise InputError(
            f"{where}, field 1 (score): {row[0]!r} is not a finite number. Write a number such as 3.8, or remove the "
            "line if it is a header or has no grade."
        )
    return score


def _can_correlate(scores: np.ndarray) -> bool:
    return len(scores) >= _FEWEST and bool(scores.max() > scores.min())


def _correlate(values: np.ndarray, scores: np.ndarray) -> Correlation:
    return Correlation(
        n=len(scores),
        spearman=100 * float(spearman(values, scores)),
        pearson=100 * float(pearson(values, scores)),
    )


def _average(parts: Iterable[Correlation], weights: list[int]) -> Correlation | None:
    parts = list(parts)
    if not parts:
        return None
    return Correlation(
        n=sum(part.n for part in parts),
        spearman=float(np.average([part.spearman for part in parts], weights=weights)),
        pearson=float(np.average([part.pearson for part in parts], weights=weights)),
    )
