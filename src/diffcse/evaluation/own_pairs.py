"""A user's own pairs: questions with the answers that must be found, and pairs of texts with grades.

- answers: each distinct answer is a document, and each distinct question must find its own among all of them. MRR@10 is
  the mean of 1 / rank of its first answer (0 below rank 10); recall@k the share of its answers among the first k;
- grades: Spearman correlation of the cosine with the grade, as in `sts`.

Both have the shape of `own_texts.LabelledTexts`, so that one report, one judge and one comparison serve all three.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
from scipy import stats

from diffcse.errors import InputError
from diffcse.evaluation.beir import Collection
from diffcse.evaluation.correlation import spearman
from diffcse.evaluation.embeddings import Encode, cosines, embed_once
from diffcse.evaluation.floors import Bm25
from diffcse.evaluation.own_texts import mean_draws, read_columns, sha256_of, source_name
from diffcse.evaluation.retrieval import CUTOFF, score_collection
from diffcse.evaluation.sts import PairSet, named_pairs, read_pairs
from diffcse.text.lines import STRICT, Note, Reading

RECALLS = (1, 5, 10)
_FEWEST, _RESAMPLES = 11, 1000
Values = npt.NDArray[np.float64]


class OwnData(Protocol):
    """A user's own data, which scores an encoder by one value an item: a query, a question or a pair."""

    score: ClassVar[str]
    """Name of the main score; the first key of `values`."""

    @property
    def name(self) -> str:
        """The name of the file, or the kind of the table."""

    @property
    def sha256(self) -> str:
        """Hash (hex) of what is measured."""

    @property
    def empty(self) -> int:
        """Rows left out because a cell is blank."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was replaced, removed or guessed while reading."""

    @property
    def sentences(self) -> list[str]:
        """What an encoder embeds."""

    @property
    def items(self) -> str:
        """Number and kind of the items."""

    def values(self, encode: Encode | Bm25) -> dict[str, Values]:
        """Score -> (n,) value of each item."""

    def draws(self, values: Values) -> Values:
        """The score of `values` in points, on draws of the items with replacement; the same draws for every encoder."""

    def more(self, encode: Encode) -> dict[str, dict[str, float]]:
        """Further scores with their lowest and highest value."""

    def facts(self) -> dict[str, Any]:
        """What the report says about the data."""


@dataclass(frozen=True, eq=False)
class Answers:
    """Questions, and the answers among which each must find its own."""

    collection: Collection
    empty: int = 0
    notes: tuple[str, ...] = ()
    score: ClassVar[str] = f"MRR@{CUTOFF}"

    @property
    def name(self) -> str:
        """As the collection's."""
        return self.collection.name

    @property
    def sha256(self) -> str:
        """As the collection's."""
        return self.collection.sha256

    @property
    def sentences(self) -> list[str]:
        """All questions and answers."""
        return self.collection.sentences()

    @property
    def items(self) -> str:
        """Number of questions and answers."""
        return f"{len(self.collection.queries):,} questions, {len(self.collection.documents):,} answers"

    def values(self, encode: Encode | Bm25) -> dict[str, Values]:
        """Reciprocal rank and recalls of each question, in points: (Q,)."""
        found = score_collection(encode, self.collection, RECALLS)
        return {self.score: found.reciprocal_ranks, **{f"recall@{k}": found.hits[k] for k in RECALLS}}

    def draws(self, values: Values) -> Values:
        """See `own_texts.mean_draws`."""
        return mean_draws(values)

    def more(self, encode: Encode) -> dict[str, dict[str, float]]:
        """Nothing more."""
        return {}

    def facts(self) -> dict[str, Any]:
        """What the report says about the data."""
        return {"questions": len(self.collection.queries), "answers": len(self.collection.documents)}


@dataclass(frozen=True, eq=False)
class Grades:
    """Pairs of texts that people graded."""

    pairs: PairSet
    empty: int = 0
    score: ClassVar[str] = "Spearman"

    @property
    def name(self) -> str:
        """As the pairs'."""
        return self.pairs.name

    @property
    def sha256(self) -> str:
        """As the pairs'."""
        return self.pairs.sha256

    @property
    def notes(self) -> tuple[str, ...]:
        """As the pairs'."""
        return self.pairs.notes

    @property
    def sentences(self) -> list[str]:
        """Both texts of all pairs."""
        return [*self.pairs.first, *self.pairs.second]

    @property
    def items(self) -> str:
        """Number of pairs."""
        return f"{len(self.pairs):,} graded pairs"

    def values(self, encode: Encode | Bm25) -> dict[str, Values]:
        """The cosine of each pair: (n,). Its score is a correlation, see `draws`."""
        assert not isinstance(encode, Bm25), "BM25 has no cosine"
        return {self.score: cosines(*embed_once(encode, self.pairs.first, self.pairs.second))}

    def draws(self, values: Values) -> Values:
        """Spearman correlation with the grades on 1,000 draws of pairs (seed 0), in points."""
        rows = np.random.default_rng(0).integers(0, len(values), (_RESAMPLES, len(values)))
        return 100 * spearman(values[rows], stats.rankdata(self.pairs.scores[rows], axis=1))

    def more(self, encode: Encode) -> dict[str, dict[str, float]]:
        """Nothing more."""
        return {}

    def facts(self) -> dict[str, Any]:
        """What the report says about the data."""
        return {"pairs": len(self.pairs)}


def value_of(data: OwnData, values: Values) -> float:
    """The score of `values` in points."""
    return 100 * float(spearman(values, data.pairs.scores)) if isinstance(data, Grades) else float(values.mean())


def read_answers(
    source: Any,
    column: str = "question",
    answer: str = "answer",
    *,
    reading: Reading = STRICT,
    roles: tuple[str, str] = ("column", "answer"),
) -> Answers:
    """Questions and answers of one table (or of files that `read_columns` takes), a pair a row.

    Equal questions are one question with several answers; equal answers are one document. A question that is itself an
    answer of another one does not find itself.

    Args:
        reading, roles: as in `read_columns`.

    Raises:
        InputError: a file cannot be read, a column is missing, or fewer than 11 distinct answers.
    """
    notes: dict[str, Note] = {}
    rows = list(read_columns(source, (column, answer), roles, reading, notes))
    whole = [row for row in rows if all(row)]
    places = {text: number for number, text in enumerate(dict.fromkeys(second for _, second in whole))}
    if len(places) < _FEWEST:
        where = f"{source_name(source)}, columns {column!r} and {answer!r}"
        raise InputError(f"{where}: {len(places)} distinct answers. Give {_FEWEST} or more")
    relevant: dict[str, dict[int, float]] = {}
    for question, text in whole:
        relevant.setdefault(question, {})[places[text]] = 1.0
    own = ({places[question]} if question in places else set() for question in relevant)
    excluded = tuple(frozenset(mine - set(wanted)) for mine, wanted in zip(own, relevant.values(), strict=True))
    collection = Collection(
        source_name(source), tuple(relevant), tuple(places), tuple(relevant.values()), excluded, 0, sha256_of(whole)
    )
    return Answers(collection, len(rows) - len(whole), tuple(map(str, notes.values())))


def read_graded(source: str | Path) -> Grades:
    """Graded pairs of a .tsv file (score, text, text), or of this package ("pairs").

    Raises:
        InputError: as `sts.read_pairs`.
    """
    return Grades(read_pairs(named_pairs(source)))
