"""How embeddings are stored: their numbers, and the files of one run of `diffcse embed`.

Names: *store* is the type of the stored numbers. The arithmetic that made them is another choice (`precision`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

import numpy as np

from diffcse.config import Store
from diffcse.encoder.inputs import Batch
from diffcse.errors import InputError
from diffcse.files import write_errors

SAMPLE = 4096
"""The ranges of int8 and the recall are measured on so many first rows."""
_QUERIES, _NEAREST = 1000, 10


@dataclass(frozen=True)
class Form:
    """What becomes of an embedding before it is stored."""

    width: int
    """H, the dimensions of the encoder."""
    normalise: bool = False
    """Scale each embedding to length 1."""
    store: Store = "float32"
    """float32; int8: a byte a dimension; binary: a bit a dimension, packed in bytes."""
    ranges: np.ndarray | None = None
    """(2, H) float32, for int8: the lowest and the highest value of each dimension. Values outside are clipped."""

    def __post_init__(self) -> None:
        if self.store not in get_args(Store):
            raise InputError(f"store {self.store!r}: must be one of {', '.join(get_args(Store))}")

    @property
    def columns(self) -> int:
        """Stored numbers of an embedding."""
        return (self.width + 7) // 8 if self.store == "binary" else self.width

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the stored numbers."""
        return np.dtype("<f4" if self.store == "float32" else "i1")

    @property
    def label(self) -> str:
        """The shape and type of a stored row, for messages."""
        return f"{self.columns} {self.dtype.name}" + (f" ({self.width} bits)" if self.store == "binary" else "")

    def unit(self, rows_NH: np.ndarray) -> np.ndarray:
        """The float32 embeddings, (N, H), scaled to length 1 if this form normalises."""
        return to_unit(rows_NH) if self.normalise else rows_NH

    def stored(self, rows_NH: np.ndarray) -> np.ndarray:
        """What is stored of float32 embeddings, (N, H): (N, columns), by sentence-transformers' quantisation."""
        rows_NH = self.unit(rows_NH)
        if self.store != "float32":
            from sentence_transformers.util.quantization import quantize_embeddings

            return np.asarray(quantize_embeddings(rows_NH, precision=self.store, ranges=self.ranges))
        return np.ascontiguousarray(rows_NH, dtype=self.dtype)

    def restored(self, stored: np.ndarray) -> np.ndarray:
        """The float32 values that int8 numbers stand for, (N, H): the middle of each step; binary: -1 and 1."""
        if self.store == "binary":
            bits = np.unpackbits((stored.astype(np.int16) + 128).astype(np.uint8), axis=1, count=self.width)
            return bits.astype(np.float32) * 2 - 1
        if self.ranges is None:
            return stored
        steps = (self.ranges[1] - self.ranges[0]) / 255
        return self.ranges[0] + (stored.astype(np.float32) + 128.5) * steps

    def calibrated(self, rows_NH: np.ndarray) -> Form:
        """This form with the ranges of sample embeddings, which int8 needs."""
        if self.store != "int8":
            return self
        rows = self.unit(rows_NH)
        ends = (rows.min(axis=0), rows.max(axis=0)) if len(rows) else (np.zeros(self.width), np.ones(self.width))
        return Form(self.width, self.normalise, self.store, np.stack(ends).astype(np.float32))

    def recall(self, rows_NH: np.ndarray) -> float | None:
        """Share of the 10 nearest float32 neighbours (cosine) that the stored embeddings also give, 0 to 1.

        int8 is searched by the float32 query's cosine with the restored rows, binary by the bits that differ. Queries
        are up to 1,000 of the rows. None: fewer than 20 rows.
        """
        if len(rows_NH) <= 2 * _NEAREST:
            return None
        queries = np.linspace(0, len(rows_NH) - 1, min(_QUERIES, len(rows_NH))).astype(int)
        exact, kept = to_unit(rows_NH), to_unit(self.restored(self.stored(rows_NH)))
        asked = kept[queries] if self.store == "binary" else exact[queries]
        true, found = _nearest(exact[queries] @ exact.T, queries), _nearest(asked @ kept.T, queries)
        return float(np.mean([len(set(a) & set(b)) / _NEAREST for a, b in zip(true, found, strict=True)]))


def to_unit(rows: np.ndarray) -> np.ndarray:
    """Each row scaled to length 1; a row of zeros stays as it is."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(length > 0, length, 1)


def _nearest(cosines: np.ndarray, own: np.ndarray) -> np.ndarray:
    """The columns of each row's highest cosines, without its own."""
    cosines[np.arange(len(own)), own] = -np.inf
    return np.argsort(-cosines, axis=1, kind="stable")[:, :_NEAREST]


class Writer(Protocol):
    """A file that takes rows in order."""

    def write(self, batch: Batch, rows: np.ndarray) -> None: ...
    def close(self) -> None: ...


def is_folder(output: Path) -> bool:
    """Whether `output` is a folder of parts: it is a folder, or its name has no suffix."""
    return output.is_dir() or not output.suffix


def check_output(output: Path, *, overwrite: bool = False) -> Callable[..., Writer]:
    """The writer for the format that the suffix of `output` names.

    Raises:
        InputError: there is no such format, or the file exists and shall not be overwritten.
    """
    if output.suffix not in _WRITERS or output.is_dir():
        raise InputError(f"{output}: the output must end in .npy or .parquet; a folder of parts has no suffix")
    if output.is_file() and not overwrite:
        raise InputError(f"{output}: exists. Give another --output, or replace it with --overwrite")
    return _WRITERS[output.suffix]


class NpyWriter:
    """NumPy's format, written row by row. The header holds the number of rows and is written again at the end."""

    def __init__(self, path: Path, form: Form, facts: Mapping[str, str], kept: Any = None) -> None:
        self.form, self.rows = form, 0
        self.file = path.open("wb")
        self._header()
        self.begins = self.file.tell()

    def write(self, batch: Batch, rows: np.ndarray) -> None:
        self.file.write(rows.data)
        self.rows += len(rows)

    def close(self) -> None:
        with self.file:
            self.file.seek(0)
            self._header()
            assert self.file.tell() == self.begins  # NumPy leaves room for a longer number

    def _header(self) -> None:
        shape = {"descr": self.form.dtype.str, "fortran_order": False, "shape": (self.rows, self.form.columns)}
        np.lib.format.write_array_header_1_0(self.file, shape)


class ParquetWriter:
    """The kept columns, text and embedding; the schema's metadata says how the embeddings were made and stored."""

    def __init__(
        self, path: Path, form: Form, facts: Mapping[str, str], kept: Any = None, *, ids: bool = False
    ) -> None:
        """`kept` is the schema of the kept columns; `ids` adds the rows' numbers as the column id, int64."""
        import pyarrow as pa
        from pyarrow import parquet

        self.pa: Any = pa
        self.ids = ids
        self.vector = pa.list_(pa.from_numpy_dtype(form.dtype), form.columns)
        first = [("id", pa.int64())] if ids else []
        fields = [*first, *(kept or ()), ("text", pa.string()), ("embedding", self.vector)]
        self.file = parquet.ParquetWriter(path, pa.schema(fields, metadata=dict(facts) | _facts_of(form)))

    def write(self, batch: Batch, rows: np.ndarray) -> None:
        flat = self.pa.array(rows.reshape(-1))
        vectors = self.pa.FixedSizeListArray.from_arrays(flat, type=self.vector)
        ids = [self.pa.array(range(batch.first, batch.first + len(rows)), self.pa.int64())] if self.ids else []
        kept = [] if batch.kept is None else batch.kept.columns
        columns = [*ids, *kept, self.pa.array(batch.texts, self.pa.string()), vectors]
        self.file.write_table(self.pa.Table.from_arrays(columns, schema=self.file.schema))

    def close(self, **facts: str) -> None:
        """Write the end of the file, with more facts among its metadata."""
        if facts:
            self.file.add_key_value_metadata({f"diffcse.{name}": value for name, value in facts.items()})
        self.file.close()


_WRITERS: dict[str, Callable[..., Writer]] = {".npy": NpyWriter, ".parquet": ParquetWriter}


def _facts_of(form: Form) -> dict[str, str]:
    facts = {"diffcse.store": form.store, "diffcse.dimensions": str(form.width)}
    return facts if form.ranges is None else facts | {"diffcse.ranges": json.dumps(form.ranges.tolist())}


def write_ranges(output: Path, form: Form) -> None:
    """For int8 in .npy: the ranges beside it, as NAME.ranges.npy; a .parquet file has them in its metadata."""
    if output.suffix == ".npy" and form.ranges is not None:
        with write_errors(output):
            np.save(output.with_suffix(".ranges.npy"), form.ranges)
