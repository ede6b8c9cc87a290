"""`diffcse index`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from rich.console import Console
from tyro.conf import Positional, arg

from diffcse.cli.paths import check_files, check_model
from diffcse.config import EncoderPooling, Precision, Quoting
from diffcse.errors import InputError
from diffcse.machine import tune
from diffcse.searching.place import Place, Record, check_new, require_extra

if TYPE_CHECKING:
    from diffcse.searching.index import Index as OpenIndex
    from diffcse.searching.rows import Rows


@dataclass(frozen=True)
class Index:
    """Make an index of texts on disk, to search it by meaning with `diffcse search`. Also adds to an index, deletes
    from it, and builds an approximate index for millions of rows.
    """

    texts: Annotated[Positional[tuple[str, ...]], arg(metavar="TEXT...", help_behavior_hint="")] = ()
    """Files or globs of text, as for `diffcse embed`, or "-" for lines of standard input; or what it wrote: .parquet
    with a column embedding."""
    model: str | None = None
    """Model folder, run of `diffcse train`, hub id, or "mini". With --add: unset, the model that made the index."""
    output: str | None = None
    """The index: a new folder, or an address such as s3://bucket/folder."""
    column: str | None = None
    """Column with the texts, in files that have columns. Unset: "text"."""
    keep: Annotated[str | None, arg(metavar="LIST")] = None
    """More columns, with commas between them, such as id,title: for --where, and shown with each answer."""
    ann: bool = False
    """Build an approximate index, and print how much it misses. Pays from some 100,000 rows. Without TEXT: for an
    index that exists."""
    ann_kind: Literal["hnsw", "ivf-pq"] = "hnsw"
    """Kind of the approximate index: hnsw misses less, ivf-pq takes less space."""
    add: bool = False
    """Add TEXT to the index that exists; its columns must have the kept ones."""
    delete: Annotated[str | None, arg(metavar="FILTER")] = None
    """Delete the rows of a filter from the index that exists, such as "lang = 'en'"."""
    resume: bool = False
    """Continue a run that was killed, with the same files and options."""
    language: str = "English"
    """Language of the word stems for `diffcse search --hybrid`; none: words are compared as they are."""
    encoding: str | None = None
    """Encoding of text files, such as windows-1252. Unset: UTF-8, or what a byte order mark says."""
    quoting: Quoting = "auto"
    """Double quotes in .csv and .tsv enclose cells (csv) or are text (none). auto: csv in .csv, and in a .tsv file that
    is consistently quoted."""
    columns: Annotated[str | None, arg(metavar="LIST")] = None
    """Names of all columns, with commas between them, for .csv and .tsv files without a header."""
    limits: Annotated[str | None, arg(metavar="LIST")] = None
    """Raise the limits of the reader, such as max_line_bytes=5000000; docs/text.md has their names."""
    pooling: EncoderPooling | None = None
    """Overrides the folder's pooling; required for a plain checkpoint."""
    precision: Precision = "auto"
    """Arithmetic. auto: bf16 on hardware that computes in bf16 (cosines to the exact embeddings above 0.9999), else
    fp32."""
    batch_tokens: int = 4096
    """Most tokens in one forward pass; padding counts only for models that cannot run without it."""
    workers: int | None = None
    """Processes that embed. Unset: one for each GPU."""

    COMMON: ClassVar[tuple[str, ...]] = (
        "model", "output", "column", "keep", "ann", "ann_kind", "add", "delete", "resume", "language",
    )  # fmt: skip

    def __call__(self, console: Console) -> None:
        place = self._checked()
        if self.delete is not None or not self.texts:
            self._change(console, place)
            return
        from diffcse.searching.rows import file_rows
        from diffcse.text.lines import Reading

        keep = [name.strip() for name in self.keep.split(",") if name.strip()] if self.keep else []
        if self.add:
            keep = self._kept(place)
        reading = Reading.of(self.encoding, self.quoting, self.columns, self.limits)
        self._fill(console, place, file_rows(self.texts, self.column, keep, reading))

    def _checked(self) -> Place:
        """The index's place, once everything is checked that needs no heavy library."""
        if self.output is None:
            raise InputError("no output: give --output DIR, the folder of the index")
        place = Place.of(self.output)
        exists = self.add or self.delete is not None or (self.ann and not self.texts)
        if self.texts and self.delete is not None:
            raise InputError("--delete: goes without TEXT. Delete first, then add with --add")
        if not self.texts and (self.add or not exists):
            raise InputError(
                "no text: give one or more files, e.g. diffcse index texts.csv --model mini --output my-index"
            )
        if self.add and self.keep:
            raise InputError("--keep: an index keeps the columns that it was made with. Leave --keep out with --add")
        if self.ann and self.delete is not None:
            raise InputError("--ann: goes without --delete. Run the two after each other")
        if self.model is None and not exists:
            raise InputError("no model: give --model MODEL, a folder, a hub id or mini")
        for name in ("batch_tokens", "workers"):
            if (getattr(self, name) or 1) < 1:
                raise InputError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be at least 1")
        check_files(text for text in self.texts if text != "-" and not Path(text).is_dir())
        if self.model is not None:
            check_model(self.model, "--model")
        require_extra()
        if not exists:
            check_new(place, resume=self.resume)
        elif Record.read(place) is None:
            raise InputError(
                f"{self.output}: no index. Make it first: diffcse index TEXT --model MODEL --output {self.output}"
            )
        return place

    def _kept(self, place: Place) -> list[str]:
        from diffcse.searching.index import Index

        return Index.open(place.uri).columns

    def _change(self, console: Console, place: Place) -> None:
        """Delete rows, or build the approximate index of an index that exists."""
        from diffcse.searching.index import Index
        from diffcse.terminal import say

        index = Index.open(place.uri)
        if self.delete is not None:
            count = index.delete(self.delete)
            say(console, f"deleted  {count:,} rows; {len(index):,} are left")
            return
        with console.status("building the approximate index, then its recall"):
            index.build_ann(self.ann_kind)
        _show_ann(console, index)

    def _fill(self, console: Console, place: Place, rows: Rows) -> None:
        """Make an index, or add to one."""
        from diffcse.terminal import CountView, loading, say

        with loading(console):
            from diffcse.encoder.encode import use_bf16
            from diffcse.searching.ann import LEAST_ROWS
            from diffcse.searching.index import Index, Speed
        tune()
        speed = Speed(use_bf16(self.precision), self.workers, self.batch_tokens)
        view, done = CountView(console, "rows"), 0

        def report(what: str, count: int) -> None:
            nonlocal done
            if what == "rows":
                done = count
                view(count, rows.total)
            else:
                view.show(None, [_STAGES[what]])

        start = time.monotonic()
        try:
            with view:
                if self.add:
                    index = Index.open(place.uri, model=self.model)
                    before = len(index)
                    index.add(rows, resume=self.resume, speed=speed, report=report)
                else:
                    before = 0
                    index = Index.build(
                        rows, place.uri, model=str(self.model), ann=self.ann_kind if self.ann else None,
                        language=self.language, resume=self.resume, pooling=self.pooling, speed=speed, report=report,
                    )  # fmt: skip
                if self.ann and (self.add or index.record.ann is None) and len(index) >= LEAST_ROWS:
                    index.build_ann(self.ann_kind, report=report)
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(f"after {done:,} rows") from stop
        seconds = time.monotonic() - start
        for note in rows.notes:
            say(console, f"note     {note}")
        added = f"{len(index) - before:,} rows added, {len(index):,} in all" if self.add else f"{len(index):,} rows"
        kept = f", kept columns: {', '.join(index.columns)}" if index.columns else ""
        say(console, f"written  {place.uri}  ({added}, {index.record.dimension} numbers each{kept}; {seconds:.0f} s)")
        if self.ann:
            _show_ann(console, index)
        say(console, f'search   diffcse search {place.uri} "your question"')


_STAGES = {"words": "indexing words", "vectors": "building the approximate index", "recall": "measuring its recall"}


def _show_ann(console: Console, index: OpenIndex) -> None:
    from diffcse.terminal import say

    facts: Any = index.record.ann
    if facts is None:
        say(console, f"note     {len(index):,} rows are too few for an approximate index; search is exact")
        return
    say(
        console,
        f"ann      {facts['kind']}: recall@10 {facts['recall']:.3f} against exact search, for {facts['queries']:,} of "
        "its rows. Search compares every row with --exact",
    )
