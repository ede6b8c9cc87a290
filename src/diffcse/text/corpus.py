"""A corpus of sentences, for training on more text than fits in memory.

Files hold one sentence a line (`.txt`) or a row (tables and hub data sets: the cells of one column). `lines` states
what a line and a cell is; `lines.normalise` is applied to each. Blank and repeated sentences are counted and left out.
`reader` describes the cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from diffcse.config import Text
from diffcse.errors import InputError
from diffcse.text.digest import Plan
from diffcse.text.formats import Rows, Wanted
from diffcse.text.lines import normalise
from diffcse.text.prose import check_language
from diffcse.text.reader import Counts, Stored, longest_line, reading_of
from diffcse.text.sources import Source, find_sources
from diffcse.text.store import Builder, Built, SourceFile, default_cache_dir
from diffcse.text.strings import iter_strings

__all__ = ["Corpus", "CorpusCounts", "SourceFile", "default_cache_dir", "normalise", "read_corpus"]


@dataclass(frozen=True, kw_only=True)
class CorpusCounts(Counts):
    """What was read: ``lines == empty + duplicates + sentences``, unless lines were split into sentences."""

    lines: int
    """Lines, or rows of files with columns."""
    documents: int | None = None
    """Documents with a sentence; None if documents were not recorded."""


@dataclass(frozen=True, eq=False)
class Corpus(Stored):
    """Distinct, normalised sentences in their first order of appearance.

    `sha256` (hex) is that of the sentences joined by newlines: the same for the same text in any files.
    """

    COUNTS: ClassVar = CorpusCounts
    ARRAYS: ClassVar = ("following",)

    following: npt.NDArray[np.int64] | None = field(default=None, repr=False)
    """(N,) int64: index of the sentence after sentence i in its document, or -1; None if documents were not recorded.

    The first occurrence of a sentence counts. It has -1 if it ends its document, or if it occurs twice in a row. If the
    sentence after it occurred before, `following` gives the index of that occurrence.
    """
    repeated: tuple[tuple[int, int], ...] = ()
    """(index, times) of the (up to 20) most frequent sentences, in descending order."""

    @classmethod
    def from_sentences(cls, sentences: Iterable[str], *, documents: bool = False) -> Corpus:
        """Make a corpus in memory. Each string is one line and is normalised and counted as by `read_corpus`.

        A line break inside a string is white space. With `documents`, an empty string ends a document.

        Raises:
            InputError: not strings, or fewer than two distinct sentences.

        >>> corpus = Corpus.from_sentences(["A  dog.", "", "A cat.", "A dog. "])
        >>> list(corpus), corpus.counts.duplicates, corpus.counts.empty
        (['A dog.', 'A cat.'], 1, 1)
        >>> Corpus.from_sentences(["One.", "Two.", "", "Two.", "Three."], documents=True).following
        array([ 1, -1, -1])
        """
        return cls.of_rows(Rows([list(iter_strings(sentences))]), Plan(Wanted(("",), None, 0), documents=documents))

    @classmethod
    def finish(cls, builder: Builder, plan: Plan, origin: str) -> dict[str, Any]:
        built = builder.finish(origin)
        sentences = builder.sentences(built)
        counts = CorpusCounts(
            files=builder.files,
            bytes=builder.bytes,
            lines=builder.rows,
            empty=builder.empty,
            duplicates=len(built.keep) - len(sentences),
            sentences=len(sentences),
            documents=sum(builder.starts) if plan.documents else None,
            notes=tuple(builder.notes.values()),
        )
        following = _following(builder, built) if plan.documents else None
        parts = {"counts": counts, "sha256": built.sha256, "repeated": built.repeated()}
        return parts | {"sentences": sentences, "following": following}

    def check(self) -> None:
        """Raise ValueError if the parts do not belong together."""
        lengths = {len(self.sentences), *([] if self.following is None else [len(self.following)])}
        if lengths != {self.counts.sentences} or (self.following is None) != (self.counts.documents is None):
            raise ValueError("the parts do not belong together")

    def __len__(self) -> int:
        return len(self.sentences)

    def __getitem__(self, index: int) -> str:
        """Sentence `index`; a negative index counts from the end. Raises IndexError outside."""
        return self.sentences[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self.sentences)

    @property
    def following_sha256(self) -> str | None:
        """SHA-256 (hex) of `following`, which `sha256` does not cover; None without documents."""
        if self.following is None:
            return None
        return hashlib.sha256(np.ascontiguousarray(self.following, dtype="<i8").data).hexdigest()

    def summary(self) -> str:
        """One line: sentences, files, what was left out, and the notes."""
        c = self.counts
        documents = "" if c.documents is None else f" in {c.documents:,} document{'s' * (c.documents != 1)}"
        return (
            f"{c.sentences:,} sentences{documents} from {c.origin} ({c.lines:,} lines, {c.bytes / 1e6:,.1f} MB; "
            f"{c.empty:,} blank and {c.duplicates:,} duplicate left out){c.remarks}"
        )


def read_corpus(
    patterns: Sequence[str | Path],
    *,
    text: Text = Text(),  # noqa: B008 - frozen
    documents: bool = False,
    cache_dir: Path | None = None,
    max_line_bytes: int | None = None,
    processes: int | None = None,
) -> Corpus:
    """Read files of sentences; a second call with unchanged files opens the cached result.

    Args:
        patterns: files or globs (``**`` goes into folders). A glob's files are sorted; each file is read once.
            ``.txt`` (or an unknown ending) holds one sentence a line. ``.csv``, ``.tsv``, ``.jsonl``, ``.ndjson``,
            ``.json`` and ``.parquet`` have columns. Each can be packed as ``.gz``, ``.xz`` or ``.zst``. ``hub:`` names
            a data set, see `text.hub`.
        text: which column is read, how, and whether its cells are prose to be split. ``text.document`` is used only
            with `documents`.
        documents: record which sentence follows which, see `Corpus.following`. A document ends with its file and where
            the value of ``text.document`` changes (a row without a value stands alone). Without such a column, it ends
            at each row without text, and after each line or cell that is split into sentences.
        cache_dir: folder of the cache folders; None: `default_cache_dir`. Needs about the size of the text.
        max_line_bytes: the longest line, cell or split sentence. None: that of `text`.
        processes: number of reading processes; None: as many as pay. The result does not depend on it.

    Raises:
        InputError: a file or column is missing, text in another encoding, a malformed row, a line too long, fewer than
            two distinct sentences, or a cache that cannot be written. Names file, line and column.
    """
    sources = find_sources(patterns)
    plan = text_plan(sources, text, documents, max_line_bytes)
    return Corpus.read(sources, plan, cache_dir=cache_dir, processes=processes)


def text_plan(sources: Sequence[Source], text: Text, documents: bool, max_line_bytes: int | None = None) -> Plan:
    """The plan for files of sentences.

    Raises:
        InputError: an unknown language or encoding, or columns are named but no file has columns.
    """
    if text.split_sentences:
        check_language(text.language)
    elif text.language != Text.language:
        raise InputError(
            f"text.language = {text.language!r} needs text.split_sentences (--split-sentences). Set it too."
        )
    plain = next((source for source in sources if not source.has_columns), None)
    if plain and text.document and documents:
        raise InputError(
            f"{plain.name}: plain text has no column {text.document!r}. Leave text.document out, and end each document "
            "with an empty line; or give a file with columns."
        )
    if text.column != Text.column and not any(source.has_columns for source in sources):
        raise InputError(
            f"{sources[0].name}: plain text has no column {text.column!r}. Leave text.column out, or give .csv, .tsv, "
            ".jsonl or .parquet files."
        )
    document = text.document if documents else None
    longest = longest_line(text, max_line_bytes)
    wanted = Wanted((text.column,), document, longest, text.split_sentences, reading_of(text))
    return Plan(wanted, text.language if text.split_sentences else None, documents)


def _following(builder: Builder, built: Built) -> npt.NDArray[np.int64]:
    follower = np.append(built.indices()[1:], -1)
    starts = np.frombuffer(builder.starts, np.bool_)
    follower[:-1][starts[1:]] = -1
    following = follower[built.keep].astype(np.int64)
    following[following == np.arange(len(following))] = -1
    return following
