"""The rows of an index in LanceDB: versions, filters, and the two auxiliary indexes, of words and of near vectors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from diffcse.encoder.inputs import Batch
from diffcse.errors import InputError
from diffcse.files import write_errors
from diffcse.searching.ann import Ann
from diffcse.searching.encoders import METRICS
from diffcse.searching.place import Place, lancedb
from diffcse.searching.rows import RESERVED, VECTOR

COMMIT_ROWS = 16_384
"""Rows in a commit: a killed run loses at most so many."""
_NAME = "rows"
_KEPT_DAYS = 1
"""A process that opened an index reads its version on; old versions are removed after this many days."""
_TAG = "answers"
_DEPTH = 100
"""Hybrid search joins the first 100 of both rankings."""


class Table:
    """The rows at one version. Column `row` is a row's number in the input, from 0."""

    def __init__(self, place: Place, table: Any, similarity: str) -> None:
        self.place, self._table, self.similarity = place, table, similarity

    @classmethod
    def create(cls, place: Place, kept: Any, dimension: int, similarity: str) -> Table:
        """An empty table, or the one that a killed run left."""
        import pyarrow as pa

        vector = pa.list_(pa.float32(), dimension)
        schema = pa.schema([("row", pa.int64()), ("text", pa.string()), *kept, (VECTOR, vector)])
        with write_errors(Path(place.uri)), damage(place):
            return cls(place, _connect(place).create_table(_NAME, schema=schema, exist_ok=True), similarity)

    @classmethod
    def open(cls, place: Place, version: int | None, similarity: str) -> Table:
        """The rows at `version`, read only; None: the latest, to write to.

        Raises:
            InputError: the rows are missing or damaged.
        """
        with damage(place):
            table = _connect(place).open_table(_NAME)
            if version is not None:
                table.checkout(version)
            return cls(place, table, similarity)

    # ---- facts -----------------------------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """The number of this version."""
        return int(self._table.version)

    @property
    def kept(self) -> Any:
        """pyarrow schema of the kept columns."""
        import pyarrow as pa

        return pa.schema([field for field in self._table.schema if field.name not in RESERVED])

    def __len__(self) -> int:
        with damage(self.place):
            return int(self._table.count_rows())

    def check_filter(self, where: str, option: str = "--where") -> None:
        """Check a filter, which `option` gave.

        Raises:
            InputError: it is not an expression, or names a column that is not there.
        """
        if ";" in _QUOTED.sub("", where):  # what follows would be left out without a word
            raise InputError(f"{option} {where}: not a filter: it must be one expression, without a semicolon")
        with self._filtered(where, option):
            self._table.search().where(where).limit(1).select(["row"]).to_arrow()

    @contextmanager
    def _filtered(self, where: str | None, option: str = "--where") -> Iterator[None]:
        with damage(self.place):
            try:
                yield
            except (ValueError, RuntimeError) as error:
                if where is None or "LanceError(IO)" in str(error):
                    raise
                raise InputError(f"{option} {where}: {self._problem(where, str(error))}") from error

    def _problem(self, where: str, text: str) -> str:
        columns = ", ".join(f"{field.name} ({field.type})" for field in self._table.schema if field.name != VECTOR)
        if unknown := re.search(r"No field named \"?([^\s\".]+)", text):
            return (
                f"no column {unknown[1]!r}. Columns: {columns}. Text stands in single quotes: lang = 'en'. A column is "
                "there if --keep named it when the index was made"
            )
        for field in self.kept:
            compared = rf"\b{re.escape(field.name)}\W*\s*(=|<|>|!=|in\b)[\s=>(]*'"
            if "literal of type" in text and str(field.type).startswith(_NUMBERS) and re.search(compared, where, re.I):
                return f"{field.name} holds numbers: write {field.name} = 4. Columns: {columns}"
        text = text.replace(f"Error resolving filter expression {where}: ", "")
        reason = re.sub(
            r"Invalid input, |Invalid user input: |, /\S+\.rs:\d+:\d+|statement: SELECT 1 FROM t WHERE", "", text
        )
        return (
            f"not a filter: {reason.partition(chr(10))[0].strip()}. Write for example lang = 'en'. Columns: {columns}"
        )

    # ---- changes ---------------------------------------------------------------------------------------------------

    def protect(self, version: int) -> None:
        """Keep `version` whatever its age, in place of the one that was kept before."""
        with damage(self.place):
            tags = self._table.tags
            (tags.update if _TAG in tags.list() else tags.create)(_TAG, version)

    def restore(self, version: int) -> None:
        """Make `version` the latest again, without what was committed after it."""
        with damage(self.place):
            if self.version != version:
                self._table.checkout(version)
                self._table.restore()
                self._table.checkout_latest()

    def delete(self, where: str) -> int:
        """Delete the rows of a filter; return their number."""
        before = len(self)
        with self._filtered(where, "--delete"):
            self._table.delete(where)
        return before - len(self)

    def index_words(self, language: str) -> None:
        """Make the index of words, for BM25."""
        from lancedb.index import FTS

        stems = language.lower() != "none"
        config = FTS(stem=stems, remove_stop_words=stems, language=language.capitalize() if stems else "English")
        with write_errors(Path(self.place.uri)), damage(self.place):
            self._table.create_index("text", config=config)

    def index_vectors(self, ann: Ann) -> None:
        """Make the approximate index of vectors."""
        with write_errors(Path(self.place.uri)), damage(self.place):
            self._table.create_index(VECTOR, config=ann.config(METRICS[self.similarity]))

    def merge(self) -> None:
        """Bring added rows into the auxiliary indexes and small files together, and remove versions that are old."""
        with write_errors(Path(self.place.uri)), damage(self.place):
            self._table.optimize(cleanup_older_than=timedelta(days=_KEPT_DAYS))

    # ---- searches --------------------------------------------------------------------------------------------------

    def nearest(self, query_H: np.ndarray, k: int, *, where: str | None, ann: Ann | None) -> Any:
        """The `k` nearest rows as a pyarrow table with the column _distance."""
        search = self._table.search(query_H, vector_column_name=VECTOR).distance_type(METRICS[self.similarity])
        search = search.bypass_vector_index() if ann is None else ann.applied(search, k)
        if where is not None:
            search = search.where(where)
        with self._filtered(where):
            return search.select([*self._columns, "_distance"]).limit(k).to_arrow()

    def hybrid(self, query_H: np.ndarray, text: str, k: int, *, where: str | None, ann: Ann | None) -> Any:
        """The `k` best rows by two rankings, of vectors and of words, with the column _relevance_score.

        A row's score is the sum over both rankings of 1 / (60 + its rank): reciprocal rank fusion (Cormack 2009).
        """
        from lancedb.query import MatchQuery
        from lancedb.rerankers import RRFReranker

        match = MatchQuery(text, "text")  # type: ignore[call-arg]  # pydantic adds the defaults
        search = self._table.search(query_type="hybrid", vector_column_name=VECTOR, fts_columns="text")
        search = search.vector(query_H).text(match).distance_type(METRICS[self.similarity])
        search = search.bypass_vector_index() if ann is None else ann.applied(search, max(k, _DEPTH))
        if where is not None:
            search = search.where(where)
        with self._filtered(where):
            return search.rerank(RRFReranker(K=60)).select(self._columns).limit(max(k, _DEPTH)).to_arrow().slice(0, k)

    @property
    def _columns(self) -> list[str]:
        return [name for name in self._table.schema.names if name != VECTOR]

    def vectors(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(row numbers (N,), vectors (N, H) float32) of all rows, a batch at a time."""
        with damage(self.place):
            for batch in self._table.search().select(["row", VECTOR]).limit(len(self)).to_batches(batch_size=16_384):
                flat = batch[VECTOR].flatten().to_numpy()
                yield batch["row"].to_numpy(), flat.reshape(len(batch), -1)

    def whole(self) -> Any:
        """All rows as a pyarrow table in their order: row, text, the kept columns, and the vectors."""
        with damage(self.place):
            return self._table.search().limit(len(self)).to_arrow().sort_by("row")


class Appender:
    """Adds rows in commits of `COMMIT_ROWS`; a `encoder.outputs.Writer`."""

    def __init__(self, table: Table, first_row: int, committed: Callable[[int], None] = lambda rows: None) -> None:
        self._table, self._row, self._committed = table, first_row, committed
        self._waiting: list[Any] = []
        self._rows = 0

    def write(self, batch: Batch, rows: np.ndarray) -> None:
        """Add rows (N, H); they are on disk after the next commit."""
        import pyarrow as pa

        schema = self._table._table.schema
        numbers = pa.array(range(self._row, self._row + len(rows)), pa.int64())
        flat = pa.array(np.ascontiguousarray(rows, dtype=np.float32).reshape(-1))
        vectors = pa.FixedSizeListArray.from_arrays(flat, type=schema.field(VECTOR).type)
        kept = [] if batch.kept is None else batch.kept.columns
        texts = pa.array(batch.texts, pa.string())
        self._waiting.append(pa.Table.from_arrays([numbers, texts, *kept, vectors], schema=schema))
        self._row += len(rows)
        self._rows += len(rows)
        if self._rows >= COMMIT_ROWS:
            self._commit()

    def _commit(self) -> None:
        import pyarrow as pa

        if self._waiting:
            place = self._table.place
            with write_errors(Path(place.uri)), damage(place):
                self._table._table.add(pa.concat_tables(self._waiting))
            self._committed(self._rows)
            self._waiting, self._rows = [], 0

    def close(self) -> None:
        """Commit what is left."""
        self._commit()


_NUMBERS = ("int", "uint", "float", "double", "halffloat", "decimal")
_QUOTED = re.compile(r"""'[^']*'|"[^"]*"|`[^`]*`""")


def _connect(place: Place) -> Any:
    return lancedb().connect(place.uri)


@contextmanager
def damage(place: Place) -> Iterator[None]:
    """Turn LanceDB's errors on missing or unreadable files into one `InputError`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        # A panic of the library is a class that no module exports.
        known = isinstance(error, (ValueError, RuntimeError, OSError)) or type(error).__name__ == "RustPanic"
        if not known or "No space left" in str(error):
            raise
        reason = re.sub(r"^lance error: |, /\S+\.rs:\d+:\d+$", "", str(error).partition("\n")[0])
        raise InputError(
            f"{place.uri}: the rows of the index are missing or damaged ({reason}). Copy the folder back, or make the "
            "index again"
        ) from error
