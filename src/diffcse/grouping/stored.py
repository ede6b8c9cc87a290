"""Stored embeddings with their texts and other columns: what `diffcse embed` wrote, or anyone else's .parquet."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diffcse.encoder.manifest import whole_parts
from diffcse.errors import InputError
from diffcse.grouping.vectors import Rows, check_rows

_EMBEDDING = "embedding"


@dataclass(frozen=True)
class Stored:
    """N rows."""

    texts: list[str]
    rows: Rows = field(repr=False)
    """(N, H) of length 1."""
    columns: dict[str, list[Any]] = field(default_factory=dict, repr=False)
    """Name -> N values: numbers, text, or None."""


def read_parquet(source: Path, *, column: str | None = None, vectors: str | None = None) -> Stored:
    """The rows of a .parquet file, or of all .parquet files of a folder by name.

    Args:
        column: of the texts; None: "text".
        vectors: column of the embeddings, lists of floating-point numbers of one length; None: "embedding", or the only
            such column.

    Raises:
        InputError: no .parquet file, not a whole one, a folder that `embed` has not finished, a missing column, or
            embeddings of other types or lengths.
    """
    import pyarrow as pa
    from pyarrow import parquet

    files = (whole_parts(source) or sorted(source.glob("*.parquet"))) if source.is_dir() else [source]
    if not files:
        raise InputError(f"{source}: a folder without .parquet files")
    try:
        table = pa.concat_tables([parquet.read_table(file) for file in files])
    except (pa.ArrowException, OSError, ValueError) as error:
        raise InputError(
            f"{source}: cannot be read as .parquet ({str(error).strip().partition(chr(10))[0]})"
        ) from error
    return from_table(table, source, column=column, vectors=vectors)


def from_table(table: Any, source: Path, *, column: str | None = None, vectors: str | None = None) -> Stored:
    """The rows of a pyarrow table that was read from `source`; the rest as for `read_parquet`."""
    import pyarrow as pa

    name = _vector_column(table, vectors, source)
    text = column or "text"
    if text not in table.column_names:
        raise InputError(f"{source}: no column {text!r}. There are: {_names(table)}. Choose one with --column")
    texts = ["" if value is None else str(value) for value in table.column(text).to_pylist()]
    others = [each for each in table.schema if each.name not in (name, text) and not pa.types.is_nested(each.type)]
    columns = {each.name: [_plain(value) for value in table.column(each.name).to_pylist()] for each in others}
    return Stored(texts, _vectors(table.column(name), f"{source}, column {name!r}"), columns)


def _names(table: Any) -> str:
    return ", ".join(map(repr, table.column_names))


def _vector_column(table: Any, asked: str | None, source: Path) -> str:
    import pyarrow as pa

    lists = [
        each.name for each in table.schema if pa.types.is_list(each.type) or pa.types.is_fixed_size_list(each.type)
    ]
    if asked is not None and asked not in table.column_names:
        raise InputError(f"{source}: no column {asked!r}. There are: {_names(table)}. Choose one with --vectors")
    name = asked or (_EMBEDDING if _EMBEDDING in lists else lists[0] if len(lists) == 1 else None)
    if name is None:
        problem = f"several columns hold lists: {', '.join(lists)}" if lists else "no column holds lists of numbers"
        raise InputError(f"{source}: {problem}. Choose the embeddings with --vectors, or make them by diffcse embed")
    if name not in lists or not pa.types.is_floating(table.schema.field(name).type.value_type):
        kind = table.schema.field(name).type
        raise InputError(
            f"{source}, column {name!r} holds {kind}, not lists of floating-point numbers. "
            "Embed again in float32, or choose another column with --vectors"
        )
    return name


def _vectors(column: Any, where: str) -> Rows:
    array = column.combine_chunks()
    if array.null_count:
        raise InputError(f"{where}: {array.null_count} rows have no embedding. Leave these rows out")
    flat = np.asarray(array.flatten(), np.float32)
    if not len(array):
        raise InputError(f"{where}: has no rows")
    if len(array.value_lengths().unique()) > 1:
        raise InputError(f"{where}: holds lists of several lengths. Embed all texts by one model")
    return check_rows(flat.reshape(len(array), -1), where)


def _plain(value: Any) -> Any:
    """A value that JSON can hold: numbers and text stay, dates become text, NaN becomes None."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    return value if value is None or isinstance(value, int | str) else str(value)


def read_npy(source: Path, texts: list[str] | None = None) -> Stored:
    """The rows of a .npy file; without `texts`, a row's text is its number, counted from 0.

    Raises:
        InputError: not a table of numbers, or another number of texts.
    """
    try:
        rows = np.load(source, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{source}: cannot be read as .npy ({error})") from error
    if rows.dtype.kind != "f":
        raise InputError(f"{source}: holds {rows.dtype}. Embed again in float32")
    rows = check_rows(rows, str(source))
    if texts is not None and len(texts) != len(rows):
        raise InputError(
            f"{source}: {len(rows):,} rows, but --texts has {len(texts):,}. Give the file that was embedded"
        )
    return Stored(texts or [f"row {i}" for i in range(len(rows))], rows)
