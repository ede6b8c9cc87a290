"""A corpus of sentences, for training on more text than fits in memory.

Why not a list of strings: ten gigabytes of text would need far more than that as Python objects, and every worker
of a data loader would hold its own copy. So the text is read once, in blocks, cleaned, and written to a cache folder;
what is used afterwards are memory maps of that folder, shared by all processes and open at once. Building holds about
40 bytes of memory for each line, however long (55 where documents are followed).

Files hold one sentence a line (`.txt`) or a row (`.csv`, `.tsv`, `.jsonl`, `.parquet`, hub data sets: the cells of one
column); a line and a cell are treated the same. `lines.normalise` says what happens to one. If nothing is left, or the
same sentence came before, it is counted and left out.

A cache folder belongs to one list of source files, told by path, size and modification time, and one `Text`:

- ``sentences.bin``   the kept sentences, UTF-8, joined by ``\\n``; `Corpus.sha256` is this file's SHA-256
- ``offsets.npy``     (N + 1,) int64: sentence i is bytes ``offsets[i] : offsets[i + 1] - 1``
- ``following.npy``   (N,) int64, only with documents: see `Corpus.following`
- ``corpus.json``     format, hash, counts, sources
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diffcse.config import Text
from diffcse.errors import InputError
from diffcse.text import store
from diffcse.text.digest import Plan, digest, digest_sources, processes_for
from diffcse.text.formats import Rows, Wanted, has_columns
from diffcse.text.lines import check_language, normalise
from diffcse.text.sources import Source, find_sources
from diffcse.text.store import Builder, Built, Sentences, SourceFile, default_cache_dir

__all__ = ["Corpus", "CorpusCounts", "SourceFile", "default_cache_dir", "normalise", "read_corpus"]


@dataclass(frozen=True)
class CorpusCounts:
    """What was read and what became of it.

    ``lines == empty + duplicates + sentences``, unless lines were split into sentences: one then gives any number.
    """

    files: int
    bytes: int
    """Bytes of text read. Plain text: after unpacking, line ends included, byte order marks not. Else: of the cells."""
    lines: int
    """Lines, or rows of files with columns."""
    empty: int
    """Lines of white space only; cells without text."""
    duplicates: int
    """Sentences that, once normalised, equal an earlier one."""
    sentences: int
    crlf: int
    """Lines of plain text ended by ``\\r\\n``."""
    cr: int
    """Lines of plain text ended by a lone ``\\r``."""
    documents: int | None = None
    """Documents that hold a sentence; None where nobody asked."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """Distinct, normalised sentences in their first order of appearance; made by `read_corpus` or `from_sentences`.

    Pickling one that has a folder passes the folder's name and opens the memory maps again on the other side.
    """

    counts: CorpusCounts
    sha256: str
    """SHA-256 (hex) of the sentences joined by newlines: the same for the same text in whatever files it came."""
    sources: tuple[SourceFile, ...]
    folder: Path | None
    """The cache folder; None for a corpus in memory."""
    _sentences: Sentences = field(repr=False)
    following: npt.NDArray[np.int64] | None = field(default=None, repr=False)
    """(N,) int64: the index of the sentence that follows sentence i in its document, or -1; None where nobody asked.

    What counts is the place where sentence i was read first. It has -1 there if its document ends with it, or if it
    comes twice in a row. A follower that was read before, and so is left out itself, is told by its first index.
    """
    repeated: tuple[tuple[int, int], ...] = ()
    """The (up to 20) sentences read most often, and how often: (index, times), most often first."""

    @classmethod
    def from_sentences(cls, sentences: Sequence[str], *, documents: bool = False) -> Corpus:
        """A corpus in memory; each string is one line, normalised and counted as `read_corpus` does it.

        Line breaks inside a string are white space like any other. With `documents`, an empty string ends one.

        Raises:
            InputError: not a sequence of strings, or fewer than two distinct sentences.

        >>> corpus = Corpus.from_sentences(["A  dog.", "", "A cat.", "A dog. "])
        >>> list(corpus), corpus.counts.duplicates, corpus.counts.empty
        (['A dog.', 'A cat.'], 1, 1)
        >>> Corpus.from_sentences(["One.", "Two.", "", "Two.", "Three."], documents=True).following
        array([ 1, -1, -1])
        """
        check_strings(sentences, "sentences")
        rows = Rows([list(sentences)], bytes=sum(len(sentence.encode()) for sentence in sentences))
        memory = io.BytesIO()
        builder = Builder(memory)
        builder.add(digest(rows, Plan(Wanted(("",), None, 0), documents=documents)))
        built = builder.finish("The list")
        following = _following(builder, built) if documents else None
        counts = _counts(builder, built, documents)
        kept = Sentences(memory.getvalue(), built.offsets)
        return cls(counts, built.sha256, (), None, kept, following, tuple(built.repeated()))

    def __len__(self) -> int:
        return len(self._sentences)

    def __getitem__(self, index: int) -> str:
        """Sentence `index`; negative ones count from the end. IndexError outside the corpus."""
        return self._sentences[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sentences)

    def __reduce__(self) -> tuple[Callable[..., Corpus], tuple[Any, ...]]:
        if self.folder is not None:
            return _open, (self.folder,)
        return Corpus, (
            self.counts,
            self.sha256,
            self.sources,
            self.folder,
            self._sentences,
            self.following,
            self.repeated,
        )

    @property
    def following_sha256(self) -> str | None:
        """SHA-256 (hex) of `following`, of which `sha256` says nothing; None where nobody asked."""
        if self.following is None:
            return None
        return hashlib.sha256(np.ascontiguousarray(self.following, dtype="<i8").data).hexdigest()

    def summary(self) -> str:
        """One line for people: sentences, files, and what was left out."""
        c = self.counts
        origin = f"{c.files:,} file{'s' * (c.files != 1)}" if c.files else "memory"
        left_out = f"{c.empty:,} blank and {c.duplicates:,} duplicate left out"
        documents = "" if c.documents is None else f" in {c.documents:,} document{'s' * (c.documents != 1)}"
        return (
            f"{c.sentences:,} sentences{documents} from {origin} "
            f"({c.lines:,} lines, {c.bytes / 1e6:,.1f} MB; {left_out})"
        )


def read_corpus(
    patterns: Sequence[str | Path],
    *,
    text: Text = Text(),  # noqa: B008 - frozen
    documents: bool = False,
    cache_dir: Path | None = None,
    max_line_bytes: int = 100_000,
    processes: int | None = None,
) -> Corpus:
    """Read files of sentences; a second call with unchanged files opens the cached result.

    Args:
        patterns: files or globs (``**`` goes into folders). A glob's files are sorted; each file is read once. UTF-8
            ``.txt`` of one sentence a line (as is any unknown ending), ``.csv``, ``.tsv``, ``.jsonl``, ``.ndjson`` or
            ``.parquet``, each also packed as ``.gz``, ``.xz`` or ``.zst``; and data sets of the hub, see `text.hub`.
        text: which column is read, and whether its cells are prose to be split. ``document`` serves `documents` only.
        documents: also find which sentence follows which, see `Corpus.following`. A document ends with its file, and:
            where the value of ``text.document`` changes (a row without a value stands alone); where no such column
            is named, with each line or cell that is split into sentences, and at each one without text.
        cache_dir: where cache folders are kept; `default_cache_dir` when None. Needs about the size of the text.
        max_line_bytes: the longest line, cell or split sentence accepted. Longer ones mean that they are no sentences.
        processes: how many read; as many as pay when None. The result does not depend on it.

    Raises:
        InputError: no such file or column, not UTF-8, a malformed row, a line too long, fewer than two distinct
            sentences, or a cache that cannot be written. Names file, line and column.
    """
    if max_line_bytes < 1:
        raise InputError(f"max_line_bytes = {max_line_bytes}: must be at least 1.")
    sources = find_sources(patterns)
    plan = text_plan(sources, text, documents, max_line_bytes)
    number = processes_for(sources, processes)
    stamps = [source.stamp for source in sources]
    folder = store.cache_folder(cache_dir, "corpus", max_line_bytes, asdict(text), documents, stamps)
    try:
        return _open(folder)
    except InputError:  # not there yet, or torn
        return store.build(folder, lambda temporary: _fill(temporary, sources, plan, number), _open)


def text_plan(sources: Sequence[Source], text: Text, documents: bool, max_line_bytes: int) -> Plan:
    """What is read of each row of `sources`.

    Raises:
        InputError: an unknown language; columns named although no file has any.
    """
    if text.split_sentences:
        check_language(text.language)
    elif text.language != Text.language:
        raise InputError(
            f"text.language = {text.language!r} does nothing here. Set text.split_sentences too (--split-sentences)."
        )
    plain = next((source for source in sources if not has_columns(source)), None)
    if plain and text.document and documents:
        raise InputError(
            f"{plain.name}: plain text has no column {text.document!r}. Leave text.document out, and end each document "
            "with an empty line; or give a file with columns."
        )
    if text.column != Text.column and not any(map(has_columns, sources)):
        raise InputError(
            f"text.column = {text.column!r}, but {sources[0].name} is plain text, without columns. Leave it out, or "
            "give .csv, .tsv, .jsonl or .parquet files."
        )
    wanted = Wanted((text.column,), text.document if documents else None, max_line_bytes, text.split_sentences)
    return Plan(wanted, text.language if text.split_sentences else None, documents)


def check_strings(strings: Sequence[str], name: str) -> None:
    """Refuse what is no list of strings of characters.

    Raises:
        InputError: says which one, and what it is.
    """
    if isinstance(strings, str):
        raise InputError(f"{name}: one string was given. Give a list of strings, one a sentence.")
    for index, string in enumerate(strings):
        if not isinstance(string, str):
            raise InputError(f"{name}[{index}] is a {type(string).__name__}, not a string. Leave it out or convert it.")
        if not string.isascii() and any("\ud800" <= c <= "\udfff" for c in string):
            raise InputError(
                f"{name}[{index}] holds half of a surrogate pair, which is no character. "
                "Decode the text again, as UTF-8."
            )


def _fill(folder: Path, sources: Sequence[Source], plan: Plan, processes: int) -> None:
    pieces = digest_sources(sources, plan, processes)
    builder, built = store.fill_sentences(folder, pieces, store.origin_of(sources))
    if plan.documents:
        np.save(folder / "following.npy", _following(builder, built))
    record = {
        "sha256": built.sha256,
        "counts": asdict(_counts(builder, built, plan.documents)),
        "sources": [asdict(SourceFile.of(source)) for source in sources],
        "repeated": built.repeated(),
    }
    store.write_record(folder, "corpus.json", record)


def _counts(builder: Builder, built: Built, documents: bool) -> CorpusCounts:
    sentences = len(built.offsets) - 1
    return CorpusCounts(
        files=builder.files,
        bytes=builder.bytes,
        lines=builder.rows,
        empty=builder.empty,
        duplicates=len(built.keep) - sentences,
        sentences=sentences,
        crlf=builder.crlf,
        cr=builder.cr,
        documents=sum(builder.starts) if documents else None,
    )


def _following(builder: Builder, built: Built) -> npt.NDArray[np.int64]:
    follower = np.append(built.indices()[1:], -1)
    starts = np.frombuffer(builder.starts, np.bool_)
    follower[:-1][starts[1:]] = -1
    following = follower[built.keep].astype(np.int64)
    following[following == np.arange(len(following))] = -1
    return following


def _open(folder: Path) -> Corpus:
    try:
        record = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
        counts = CorpusCounts(**record["counts"])
        sources = tuple(SourceFile(**source) for source in record["sources"])
        sentences = Sentences.open(folder)
        following = None if counts.documents is None else store.open_array(folder / "following.npy")
        sizes = {len(sentences), *([] if following is None else [len(following)])}
        if record["format"] != store.FORMAT or sizes != {counts.sentences}:
            raise ValueError("the parts do not belong together")
        repeated = tuple((int(index), int(times)) for index, times in record["repeated"])
        return Corpus(counts, record["sha256"], sources, folder, sentences, following, repeated)
    except store.OPENING_ERRORS as error:
        raise store.damaged(folder, error) from error
