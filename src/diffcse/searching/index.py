"""An index on disk: build, open, search, add, delete. `place` states what it consists of and why a kill is harmless."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffcse.encoder.encode import BATCH_TOKENS, Encoder
from diffcse.encoder.inputs import Batch
from diffcse.encoder.outputs import Form
from diffcse.encoder.stream import write_rows
from diffcse.errors import InputError
from diffcse.searching.ann import LEAST_ROWS, QUERIES, Ann, AnnKind, recall
from diffcse.searching.encoders import Sides, scores_of
from diffcse.searching.hits import Hit
from diffcse.searching.place import Place, Record, check_language, check_new, check_queries
from diffcse.searching.rows import Rows, converted, rows_of
from diffcse.searching.table import Appender, Table

Report = Callable[[str, int], None]
"""Called with what is being done ("rows", "words", "vectors", "recall") and the number of rows done."""


def _silent(what: str, rows: int) -> None: ...


@dataclass(frozen=True)
class Speed:
    """How rows are embedded; changes vectors only by rounding."""

    bf16: bool = False
    workers: int | None = 1
    batch_tokens: int = BATCH_TOKENS


class Index:
    """Texts, kept columns and vectors in a folder that is searched without loading it into memory.

    Make one by `Index.build`, open it by `Index.open`. Several processes may search while one changes it: each reads
    the version that was complete when it opened the index.
    """

    def __init__(self, place: Place, record: Record, table: Table, model: Encoder | str | Path | None = None) -> None:
        self._place, self.record, self._table, self._model = place, record, table, model
        self._sides: Sides | None = None

    @classmethod
    def build(
        cls,
        texts: Any,
        output: str | Path,
        *,
        model: Encoder | str | Path,
        column: str | None = None,
        keep: Sequence[str] = (),
        vectors: np.ndarray | None = None,
        ann: AnnKind | None = None,
        language: str = "English",
        resume: bool = False,
        pooling: Any = None,
        speed: Speed = Speed(),
        report: Report = _silent,
    ) -> Index:
        """Embed texts and write an index of them.

        Args:
            texts: a list of strings, a generator, a pandas Series, a table with `column`, a path or glob, or a list of
                `Path`. A .parquet file with a column `embedding` brings its vectors.
            output: a new folder, or an address that LanceDB takes, such as s3://bucket/folder.
            model: an encoder, or what `diffcse.load` takes. Its document prompt is used if it has one.
            column: the texts' column in a table or file; None: "text".
            keep: further columns, for filters and answers.
            vectors: the texts' vectors by `model`, (N, H); None: they are made.
            ann: also build an approximate index, "hnsw" or "ivf-pq"; `record.ann` has its recall. Not below 256 rows.
            language: whose word stems hybrid search compares; "none": words as they are.
            resume: continue a killed run on the same files.
            pooling: as in `load`, for a plain checkpoint.
            speed: how rows are embedded.
            report: receives the progress.

        Raises:
            InputError: an unusable text or model, a vector that is not finite, an output that exists, or a full disk.
        """
        place = Place.of(output)
        check_new(place, resume=resume)
        check_language(language)
        rows = rows_of(texts, column, keep, vectors=vectors)
        return cls._build(place, rows, Sides.of(model, pooling), ann, language, resume, speed, report)

    @classmethod
    def _build(
        cls, place: Place, rows: Rows, sides: Sides, ann: AnnKind | None, language: str, resume: bool,
        speed: Speed, report: Report,
    ) -> Index:  # fmt: skip
        with place.lock():
            record = Record.read(place)
            if record is None:
                record = sides.record(has_text=rows.has_text, language=language)
                record = replace(record, pending=_pending(rows, 0, 0))
                record.write(place)
            else:
                check_new(place, resume=resume)
                sides.check(record, place.uri)
                _check_same(record, rows, place)
                if record.pending is None:  # killed after its last write: nothing is missing
                    return cls.open(place.uri, model=sides.encoder)
            table = Table.create(place, rows.schema, record.dimension, record.similarity)
            index = cls(place, record, table, sides.encoder)
            index._sides = sides
            try:
                index._append(rows, resume, speed, report)
            except InputError:
                if len(table) == 0:  # nothing to resume, so the output is free again
                    place.clear()
                raise
            index._finish(ann, report)
        return index

    @classmethod
    def open(cls, path: str | Path, *, model: Encoder | str | Path | None = None) -> Index:
        """Open an index to search or change it. The encoder is loaded at the first search.

        Args:
            path: the folder or address of the index.
            model: the encoder that made the index; None: the one that the record names.

        Raises:
            InputError: there is no index, its first run has not finished, or it is damaged.
        """
        place = Place.of(path)
        record = Record.read(place)
        if record is None:
            raise InputError(f"{path}: no index. Make it: diffcse index TEXT --model MODEL --output {path}")
        if record.version is None:
            raise InputError(
                f"{path}: the run that makes this index has not finished. The same command with --resume continues it"
            )
        table = Table.open(place, record.version, record.similarity)
        if len(table) != record.rows:
            raise InputError(f"{path}: damaged: {len(table):,} rows, where the record says {record.rows:,}")
        return cls(place, record, table, model)

    def __len__(self) -> int:
        return self.record.rows

    def whole(self) -> Any:
        """All rows as a pyarrow table: row, text, the kept columns, and `embedding`, lists of float32."""
        return self._table.whole()

    @property
    def columns(self) -> list[str]:
        """The names of the kept columns."""
        return list(self._table.kept.names)

    @property
    def sides(self) -> Sides:
        """The encoder, loaded and compared with the record.

        Raises:
            InputError: it cannot be loaded, or did not make this index.
        """
        return self._checked_sides("Search")

    def _checked_sides(self, purpose: str) -> Sides:
        if self._sides is None:
            model = self._model if self._model is not None else self.record.model
            if model is None:
                raise InputError(f"{self._place.uri}: was made by an encoder in memory. Give it by model")
            sides = Sides.of(model, self.record.pooling)
            sides.check(self.record, self._place.uri, purpose)
            self._sides = sides
        return self._sides

    # ---- search ----------------------------------------------------------------------------------------------------

    def search(
        self,
        queries: str | Sequence[str],
        k: int = 10,
        *,
        where: str | None = None,
        hybrid: bool = False,
        exact: bool = False,
    ) -> list[Hit] | list[list[Hit]]:
        """The `k` rows nearest to each query.

        Args:
            queries: one query, or several.
            k: number of answers; fewer if fewer rows pass the filter.
            where: a filter on kept columns and `text` in SQL, such as "lang = 'en' AND year > 2000".
            hybrid: join the ranking by vectors with one by words (BM25); see `Table.hybrid`.
            exact: compare every row, also where there is an approximate index.

        Returns:
            One list of `Hit` for one query, a list of such lists for several.

        Raises:
            InputError: an empty query, k below 1, a filter that is none, an encoder that did not make this index, or
                hybrid search without texts.
        """
        asked = [queries] if isinstance(queries, str) else list(queries)
        self.check(asked, k, where=where, hybrid=hybrid)
        rows = self.sides.queries(asked)
        hits = [self._answers(*pair, k, where, hybrid, exact) for pair in zip(asked, rows, strict=True)]
        return hits[0] if isinstance(queries, str) else hits

    def check(self, queries: Sequence[str], k: int, *, where: str | None = None, hybrid: bool = False) -> None:
        """Check a search before the encoder is loaded.

        Raises:
            InputError: as `search`.
        """
        check_queries(queries, k)
        if where is not None:
            self._table.check_filter(where)
        if hybrid and not self.record.has_text:
            raise InputError(f"{self._place.uri}: --hybrid needs texts, and this index was made from vectors alone")

    def _answers(
        self, query: str, vector_H: np.ndarray, k: int, where: str | None, hybrid: bool, exact: bool
    ) -> list[Hit]:
        ann = None if exact else self._ann
        if hybrid:
            table = self._table.hybrid(vector_H, query, k, where=where, ann=ann)
            scores = table["_relevance_score"].to_numpy()
        else:
            table = self._table.nearest(vector_H, k, where=where, ann=ann)
            scores = scores_of(table["_distance"].to_numpy(), self.record.similarity)
        rows, texts = table["row"].to_pylist(), table["text"].to_pylist()
        kept = table.select(self.columns).to_pylist() if self.columns else [{}] * len(rows)
        order = sorted(range(len(rows)), key=lambda i: (-scores[i], rows[i]))
        return [Hit(n, float(scores[i]), rows[i], texts[i], kept[i]) for n, i in enumerate(order, 1)]

    @property
    def _ann(self) -> Ann | None:
        facts = self.record.ann
        return None if facts is None else Ann(**{item.name: facts[item.name] for item in fields(Ann)})

    # ---- changes ---------------------------------------------------------------------------------------------------

    def add(
        self,
        texts: Any,
        *,
        column: str | None = None,
        vectors: np.ndarray | None = None,
        resume: bool = False,
        speed: Speed = Speed(),
        report: Report = _silent,
    ) -> int:
        """Embed texts and add them; return their number. The texts have the index's kept columns; arguments as `build`.

        Raises:
            InputError: as `build`; or a kept column is missing or has another type.
        """
        rows = rows_of(texts, column, self.columns, vectors=vectors)
        if self.record.has_text and not rows.has_text:
            raise InputError("the index has texts, and the rows to add have none. Name their column by --column")
        sides = self._checked_sides("Add")
        before = len(self)
        with self._changing(resume=resume):
            if resume:
                _check_same(self.record, rows, self._place)
            if self.record.pending is None:
                if resume:  # killed after its last write: nothing is missing
                    return 0
                self._set(pending=_pending(rows, self.record.rows, self.record.next_row))
            self._append(rows, resume, speed, report)
            self._table.merge()
            facts = self.record.ann
            grew = facts is not None and len(self._table) > 2 * facts["rows"]  # its cells no longer fit
            self._finish(facts["kind"] if facts and grew else None, report, is_merged=True)
        assert sides is self._sides
        return len(self) - before

    def delete(self, where: str) -> int:
        """Delete the rows of a filter; return their number. Old versions stay on disk for a day.

        Raises:
            InputError: not a filter, or the index cannot be written to.
        """
        self._table.check_filter(where, "--delete")
        with self._changing():
            count = self._table.delete(where)
            self._table.merge()
            self._set(version=self._table.version, rows=len(self._table), pending=None, finished=None)
        return count

    def build_ann(self, kind: AnnKind, *, report: Report = _silent) -> float:
        """Build an approximate index; return its recall@10 on up to 1,000 of the index's rows, 0 to 1.

        Raises:
            InputError: there are fewer than 256 rows, or no such kind.
        """
        Ann.of(kind, len(self), self.record.dimension)
        with self._changing():
            self._finish(kind, report, is_merged=True)
        assert self.record.ann is not None
        return float(self.record.ann["recall"])

    def _changing(self, *, resume: bool = False) -> Any:
        return _Change(self, resume)

    def _set(self, **values: Any) -> None:
        self.record = replace(self.record, **values)
        self.record.write(self._place)

    def _append(self, rows: Rows, resume: bool, speed: Speed, report: Report) -> None:
        """Embed and commit the rows that are not there yet."""
        pending = self.record.pending
        assert pending is not None
        done = len(self._table) - pending["rows"]
        writer = Appender(self._table, pending["next_row"] + done)
        form = Form(self.record.dimension, self.sides.is_unit)
        report("rows", done)
        if rows.has_vectors:
            self._copy(rows, done, writer, form, report)
        else:
            batches = (self._fitting(batch, rows) for batch, _ in _after(rows.batches(), done))
            write_rows(
                self.sides.documents, batches, writer, form, batch_tokens=speed.batch_tokens, bf16=speed.bf16,
                workers=speed.workers, report=lambda count: report("rows", done + count), place=rows.place,
            )  # fmt: skip
        writer.close()
        if len(self._table) == 0:
            raise InputError("texts: there are none, so there is nothing to index")

    def _copy(self, rows: Rows, done: int, writer: Appender, form: Form, report: Report) -> None:
        for batch, vectors in _after(rows.batches(), done):
            assert vectors is not None
            texts = batch.texts if rows.has_text and batch.first == done else []
            self.sides.check_vectors(texts, vectors, rows.place(batch.first))
            writer.write(self._fitting(batch, rows), form.stored(vectors))
            report("rows", batch.first + len(batch.texts))

    def _fitting(self, batch: Batch, rows: Rows) -> Batch:
        """`batch` with the types of the index's columns."""
        kept = None if batch.kept is None else converted(batch.kept, self._table.kept, rows.place(batch.first))
        return replace(batch, kept=kept)

    def _finish(self, ann: AnnKind | None, report: Report, *, is_merged: bool = False) -> None:
        """Build what searches need beside the rows, then let the record name this version."""
        count = len(self._table)
        if self.record.has_text and not is_merged:
            report("words", count)
            self._table.index_words(self.record.language)
        facts = self._measured(ann, count, report) if ann and count >= LEAST_ROWS else self.record.ann
        next_row = max(self.record.next_row, self._next_row(count))
        pending = self.record.pending
        finished = pending["identity"] if pending else self.record.finished
        self._set(
            version=self._table.version, rows=count, ann=facts, pending=None, finished=finished, next_row=next_row
        )

    def _next_row(self, count: int) -> int:
        pending = self.record.pending
        return self.record.next_row if pending is None else pending["next_row"] + count - pending["rows"]

    def _measured(self, kind: AnnKind, count: int, report: Report) -> dict[str, Any]:
        """Build the approximate index, and measure its recall."""
        ann = Ann.of(kind, count, self.record.dimension)
        report("vectors", count)
        self._table.index_vectors(ann)
        report("recall", count)

        def nearest(query_H: np.ndarray, k: int) -> list[int]:
            return self._table.nearest(query_H, k, where=None, ann=ann)["row"].to_pylist()

        share = recall(self._table.vectors, count, nearest, is_product=self.record.similarity != "euclidean")
        return {**ann.to_dict(), "recall": share, "queries": min(QUERIES, count)}


class _Change:
    """Locks an index and makes its table writable; afterwards the index reads the new version."""

    def __init__(self, index: Index, resume: bool) -> None:
        self.index, self.resume, self.lock = index, resume, index._place.lock()

    def __enter__(self) -> None:
        index = self.index
        self.lock.__enter__()
        try:
            record = Record.read(index._place)
            if record is None or record.version is None:
                raise InputError(f"{index._place.uri}: was removed or replaced since it was opened. Open it again")
            index.record = record
            index._table = Table.open(index._place, None, record.similarity)
            index._table.protect(record.version)
            if not self.resume:
                index._table.restore(record.version)
                index.record = replace(record, pending=None)
        except BaseException:
            self.lock.__exit__(None, None, None)
            raise

    def __exit__(self, *error: Any) -> None:
        try:
            self.index._table = Table.open(self.index._place, self.index.record.version, self.index.record.similarity)
        finally:
            self.lock.__exit__(*error)


def _pending(rows: Rows, count: int, next_row: int) -> dict[str, Any]:
    return {"identity": rows.identity, "rows": count, "next_row": next_row}


def _check_same(record: Record, rows: Rows, place: Place) -> None:
    """Check that a resumed run has the input of the run that was killed, or of the last one that finished."""
    identity = record.finished if record.pending is None else record.pending["identity"]
    if identity is None or identity != rows.identity:
        raise InputError(
            f"{place.uri}: the run to resume had other input or other --column and --keep. Give the same files, "
            "unchanged, or leave --resume out"
        )


def _after(pairs: Iterator[tuple[Batch, np.ndarray | None]], done: int) -> Iterator[tuple[Batch, np.ndarray | None]]:
    """The pairs without their first `done` rows."""
    for batch, vectors in pairs:
        start = min(max(done - batch.first, 0), len(batch.texts))
        if start < len(batch.texts):
            yield batch.cut(start, len(batch.texts)), None if vectors is None else vectors[start:]
