"""What is indexed: files, tables or lists -> rows with their kept columns, and their vectors where these exist.

A .parquet file with a column `embedding`, as `diffcse embed` writes it, brings its vectors. Other rows are embedded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffcse.encoder.inputs import Batch, Sentences, batches
from diffcse.encoder.manifest import part_files, whole_parts
from diffcse.errors import InputError
from diffcse.text.lines import STRICT, Reading
from diffcse.text.sources import find_sources
from diffcse.text.strings import iter_strings
from diffcse.text.tables import check_columns

VECTOR = "embedding"
RESERVED = ("row", "text", VECTOR)
"""Columns of an index that no kept column may have as its name; names that begin with _ are Lance's."""
_KINDS = (
    ("int64", re.compile(r"0|-?[1-9]\d{0,17}")),  # 007 stays text
    ("double", re.compile(r"-?(?:0|[1-9]\d{0,17})(?:\.\d+)?(?:[eE][+-]?\d+)?")),
    ("bool", re.compile(r"true|false|True|False")),
)


class Rows:
    """Rows to index. `batches` gives them in order; each is made once at most.

    Attributes:
        schema: pyarrow schema of the kept columns.
        total: the number of rows; None if only reading tells it.
        identity: what a resumed run compares; None: a list, which cannot be resumed.
        has_text: whether rows have texts.
        has_vectors: whether rows bring their vectors.
    """

    schema: Any
    total: int | None
    identity: list[Any] | None = None
    has_text = True
    has_vectors = False

    def batches(self) -> Iterator[tuple[Batch, np.ndarray | None]]:
        """(texts with their kept columns, their vectors (N, H) float32 or None), in order."""
        raise NotImplementedError

    def place(self, index: int) -> str:
        """Where row `index` is, for messages."""
        raise NotImplementedError

    @property
    def notes(self) -> list[str]:
        """What was replaced, removed or guessed while reading."""
        return []


def rows_of(
    texts: Any,
    column: str | None = None,
    keep: Sequence[str] = (),
    *,
    vectors: np.ndarray | None = None,
    reading: Reading = STRICT,
) -> Rows:
    """Rows from a path or glob, a list of `Path`, a table with `column`, or any iterable of strings.

    Args:
        texts: any of these, or `Rows` already.
        keep: names of further columns; a string is one name.
        vectors: the rows' vectors, (N, H); None: they are in the file, or are to be made.

    Raises:
        InputError: a file or column is missing, a name is taken, or lengths differ.
    """
    if isinstance(texts, Rows):
        return texts
    keep = [keep] if isinstance(keep, str) else keep
    is_path = isinstance(texts, str | Path)
    if is_path or (isinstance(texts, Sequence) and len(texts) and all(isinstance(item, Path) for item in texts)):
        return file_rows([texts] if is_path else texts, column, keep, reading)
    return _MemoryRows(texts, column, keep, vectors)


def file_rows(files: Sequence[str | Path], column: str | None, keep: Sequence[str], reading: Reading = STRICT) -> Rows:
    """Rows from files. A folder of parts, as `diffcse embed` writes it, stands for its parts.

    Raises:
        InputError: a file or column is missing, or a name is taken.
    """
    _check_names(keep, column)
    paths: list[str | Path] = []
    for file in files:
        is_parts = Path(file).is_dir() and bool(part_files(Path(file)))
        paths += whole_parts(Path(file)) if is_parts else [file]
    parquets = [str(path) for path in paths if str(path).endswith(".parquet")]
    if len(parquets) == len(paths) and all(_has_vectors(source.path) for source in find_sources(parquets)):
        return _VectorRows(parquets, column, keep)
    return _TextRows(paths, column, keep, reading)


def _check_names(keep: Sequence[str], column: str | None) -> None:
    for name in keep:
        if name.startswith("_") or (name in RESERVED and (name, column or "text") != ("text", "text")):
            raise InputError(f"--keep {name}: an index has a column of its own with this name. Rename it in the input")
        if "." in name:
            raise InputError(f"--keep {name}: no column of an index has a dot in its name. Rename it in the input")


def _has_vectors(path: Path) -> bool:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        schema = parquet.read_schema(path)
    except (OSError, pa.ArrowException):
        return False  # the reader of texts says what is wrong
    kind = schema.field(VECTOR).type if VECTOR in schema.names else pa.null()
    return bool(pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind))


class _TextRows(Rows):
    """Files of text."""

    def __init__(self, files: Sequence[str | Path], column: str | None, keep: Sequence[str], reading: Reading) -> None:
        self.sentences = Sentences(files, column, keep=keep, reading=reading)
        self._again = lambda: Sentences(files, column, keep=keep, reading=reading)
        self.total = self.sentences.total
        if all(source.path.is_file() for source in self.sentences.sources):
            stamps = [list(source.stamp) for source in self.sentences.sources]
            self.identity = [stamps, self.sentences.column, list(self.sentences.keep), str(reading)]
            next(self._again().chunks(), None)  # a missing column is an error before anything heavy is loaded
        self.schema = self._schema()

    @property
    def notes(self) -> list[str]:
        return [str(note) for note in self.sentences.notes.values()]

    def _schema(self) -> Any:
        """Types from .parquet; a column of text that holds only numbers, or true and false, gets that type."""
        import pyarrow as pa

        schema = self.sentences.kept_schema
        kinds = {field.name: set[str]() for field in schema if pa.types.is_string(field.type)}
        if not kinds or all(source.format == "parquet" for source in self.sentences.sources):
            return schema
        for chunk in self._again().chunks():
            for name, kind in kinds.items():
                kind.update(map(_kind_of, chunk.kept[name].to_pylist()))
        return pa.schema([(f.name, _type_of(kinds[f.name]) if f.name in kinds else f.type) for f in schema])

    def batches(self) -> Iterator[tuple[Batch, np.ndarray | None]]:
        for batch in batches(self.sentences.chunks()):
            if batch.kept is not None:
                batch.kept = converted(batch.kept, self.schema, self.place(batch.first))
            yield batch, None

    def place(self, index: int) -> str:
        return self.sentences.place(index)


def _kind_of(value: str | None) -> str:
    """The narrowest type of a cell; "" for an empty one."""
    if not value:
        return ""
    return next((kind for kind, pattern in _KINDS if pattern.fullmatch(value)), "string")


def _type_of(kinds: set[str]) -> Any:
    import pyarrow as pa

    kinds = kinds - {""}
    for name, kind in (("bool", pa.bool_()), ("int64", pa.int64())):
        if kinds == {name}:
            return kind
    return pa.float64() if kinds and kinds <= {"int64", "double"} else pa.string()


def converted(kept: Any, schema: Any, where: str) -> Any:
    """Kept columns with the types of `schema`. An empty cell becomes null where the type is not text.

    Raises:
        InputError: a value does not fit its column; names the column.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = []
    for field in schema:
        column = kept[field.name]
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_string(column.type) and not pa.types.is_string(field.type):
            column = pc.if_else(pc.equal(column, ""), None, column)
        try:
            columns.append(column.cast(field.type))
        except pa.ArrowException as error:
            reason = str(error).partition("\n")[0]
            raise InputError(
                f"{where} and after it, column {field.name!r}: does not fit {field.type}: {reason}"
            ) from error
    return pa.Table.from_arrays(columns, schema=schema)


class _VectorRows(Rows):
    """.parquet files with vectors."""

    has_vectors = True

    def __init__(self, files: Sequence[str], column: str | None, keep: Sequence[str]) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        self.sources = find_sources(files)
        self.column, self.keep = column or "text", tuple(dict.fromkeys(name for name in keep if name != "text"))
        self.identity = [[list(source.stamp) for source in self.sources], self.column, list(self.keep), "vectors"]
        self.total, self._starts = 0, list[int]()
        for index, source in enumerate(self.sources):
            schema, metadata = parquet.read_schema(source.path), parquet.read_metadata(source.path)
            has_text = self.column in schema.names
            wanted = dict.fromkeys(self.keep, "keep") | ({self.column: "column"} if column or has_text else {})
            check_columns(source.name, schema.names, wanted)
            numbers = schema.field(VECTOR).type.value_type
            if not pa.types.is_floating(numbers):
                raise InputError(
                    f"{source.name}, column {VECTOR!r}: holds {numbers}, which an index cannot compare. Embed with "
                    "--store float32"
                )
            fields = []
            for name in self.keep:
                kind = schema.field(name).type
                fields.append((name, kind.value_type if pa.types.is_dictionary(kind) else kind))
            kept = pa.schema(fields)
            if index and (kept != self.schema or has_text != self.has_text):
                raise InputError(f"{source.name}: has other columns or types than {self.sources[0].name}")
            self.schema, self.has_text = kept, has_text
            self._starts.append(self.total)
            self.total += metadata.num_rows

    def batches(self) -> Iterator[tuple[Batch, np.ndarray | None]]:
        import pyarrow as pa
        from pyarrow import parquet

        first = 0
        names = list(dict.fromkeys([*self.keep, VECTOR, *([self.column] if self.has_text else [])]))
        for source in self.sources:
            try:
                for part in parquet.ParquetFile(source.path).iter_batches(_BATCH, columns=names, use_threads=False):
                    texts = (
                        [text or "" for text in part[self.column].to_pylist()] if self.has_text else [""] * len(part)
                    )
                    kept = pa.Table.from_batches([part]).select(list(self.keep))
                    yield Batch(first, texts, converted(kept, self.schema, self.place(first))), self._array(part, first)
                    first += len(part)
            except (OSError, pa.ArrowException) as error:
                raise InputError(f"{source.name}: not a whole .parquet file ({error}). Write the file again") from error

    def _array(self, part: Any, first: int) -> np.ndarray:
        import pyarrow.compute as pc

        vectors = part[VECTOR]
        flat = np.asarray(vectors.flatten().to_numpy(zero_copy_only=False), dtype=np.float32)
        if vectors.null_count or len(pc.list_value_length(vectors).unique()) != 1:
            raise InputError(
                f"{self.place(first)} and after it, column {VECTOR!r}: rows without a vector, or of two lengths"
            )
        return check_finite(flat.reshape(len(vectors), -1), lambda index: self.place(first + index))

    def place(self, index: int) -> str:
        start, source = next(
            pair for pair in reversed(list(zip(self._starts, self.sources, strict=True))) if pair[0] <= index
        )
        return f"{source.name}, row {index - start + 1}"


_BATCH = 4096


def check_finite(vectors: np.ndarray, place: Any) -> np.ndarray:
    """`vectors` (N, H) themselves.

    Raises:
        InputError: a number is NaN or infinite; names the first row.
    """
    is_finite = np.isfinite(vectors).all(axis=1)
    if not is_finite.all():
        raise InputError(
            f"{place(int(is_finite.argmin()))}: its vector holds NaN or infinity. Leave the row out, or embed it again"
        )
    return vectors


class _MemoryRows(Rows):
    """A list of strings, or a column of a table."""

    def __init__(self, texts: Any, column: str | None, keep: Sequence[str], vectors: np.ndarray | None) -> None:
        import pyarrow as pa

        _check_names(keep, column)
        is_table = isinstance(texts, Mapping) or hasattr(type(texts), "columns") or hasattr(type(texts), "column_names")
        if (column is not None or keep) and not is_table:
            raise InputError(f"column, keep: a {type(texts).__name__} has no columns. Give a table, or texts alone")
        names = [] if not is_table else list(texts if isinstance(texts, Mapping) else _names(texts))
        column = column or "text"
        if is_table:
            check_columns("texts", names, dict.fromkeys(keep, "keep") | {column: "column"})
        self.texts = list(iter_strings(texts[column] if is_table else texts, "texts"))
        kept = {name: _arrow(texts[name], name) for name in dict.fromkeys(keep) if name not in RESERVED}
        table = pa.table(kept)
        self.table, self.schema = table if kept else None, table.schema
        self.total = len(self.texts)
        self.vectors = None if vectors is None else np.asarray(vectors, dtype=np.float32)
        self.has_vectors = vectors is not None
        if self.vectors is not None and (self.vectors.ndim != 2 or len(self.vectors) != self.total):
            raise InputError(
                f"vectors: of shape {self.vectors.shape}. Give one row for each of the {self.total:,} texts"
            )

    def batches(self) -> Iterator[tuple[Batch, np.ndarray | None]]:
        for batch in batches([Batch(0, self.texts, self.table)]):
            end = batch.first + len(batch.texts)
            vectors = None if self.vectors is None else check_finite(self.vectors[batch.first : end], self.place)
            yield batch, vectors

    def place(self, index: int) -> str:
        return f"texts[{index}]"


def _names(table: Any) -> Sequence[str]:
    return list(table.column_names if hasattr(table, "column_names") else table.columns)


def _arrow(values: Any, name: str) -> Any:
    import pyarrow as pa

    if isinstance(values, pa.ChunkedArray):
        return values.combine_chunks()
    try:
        return pa.array(values if hasattr(values, "__array__") else list(values), from_pandas=True)
    except (pa.ArrowException, UnicodeEncodeError) as error:
        raise InputError(f"column {name!r}: its values have no common type ({error}). Convert them first") from error
