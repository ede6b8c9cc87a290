"""Tables in .parquet files. A small file may unpack to very much; its footer and dictionaries tell it in time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from diffcse.errors import InputError
from diffcse.text.rows import ROWS, Needed, Rows, Wanted, rows_of
from diffcse.text.sources import Source, open_unpacked
from diffcse.text.tables import check_columns


def read_parquet(source: Source, wanted: Wanted, needed: Needed | None) -> Iterator[Rows]:
    """The rows of a file; row groups that are not `needed` are left out.

    Raises:
        InputError: the file is damaged, a column is missing or not text, a cell is too long, or the file unpacks to too
            much; names the row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_unpacked(source.path) as opened, tempfile.TemporaryFile() as copy:
        file: Any = opened
        if source.path.suffix.lower() != ".parquet":  # pyarrow must seek, so a packed table is unpacked first
            while chunk := opened.read(1 << 20):
                copy.write(chunk)
                wanted.reading.check_expansion(source.path, copy.tell())
            copy.seek(0)
            file = copy
        try:
            parquet = pq.ParquetFile(file)
            schema = parquet.schema_arrow
            check_columns(source.name, schema.names, wanted.options)
            for column in wanted.columns:
                _check_type(source.name, column, schema.field(column).type)
            # A repeated cell stays one cell: a small file may hold gigabytes of copies.
            texts = [column for column in wanted.columns if column not in wanted.kept]
            parquet = pq.ParquetFile(file, metadata=parquet.metadata, read_dictionary=texts)
            number, budget = 1, _Budget(source, wanted)
            for groups, rows in _row_groups(parquet, whole=needed is None):
                if needed and not needed(number, rows):
                    number += rows
                    continue
                _check_groups(source, wanted, parquet.metadata, groups)
                names = list(dict.fromkeys(wanted.names))
                for batch in parquet.iter_batches(ROWS, groups, names, use_threads=False):
                    for part in budget.parts(batch, number):
                        arrays = [part.column(column) for column in wanted.names]
                        values = [x if i in wanted.kept_range else x.to_pylist() for i, x in enumerate(arrays)]
                        yield rows_of(source, wanted, values, range(number, number + part.num_rows))
                        number += part.num_rows
        except InputError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise InputError(
                f"{source.name}: not a whole .parquet file ({reason}). Copy, download or write the file again."
            ) from error


def _row_groups(parquet: Any, *, whole: bool) -> list[tuple[list[int], int]]:
    """(row groups that are read together, their rows)"""
    sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
    return [(list(range(len(sizes))), sum(sizes))] if whole else [([group], rows) for group, rows in enumerate(sizes)]


def _check_groups(source: Source, wanted: Wanted, metadata: Any, groups: Sequence[int]) -> None:
    """Refuse row groups whose pages alone unpack to too much; the file's footer tells it."""
    for group in map(metadata.row_group, groups):
        for column in map(group.column, range(group.num_columns)):
            if column.path_in_schema in wanted.names:
                wanted.reading.check_expansion(source.path, column.total_uncompressed_size)


class _Budget:
    """The text that a .parquet file may still give, and how much of it is handed on at once."""

    def __init__(self, source: Source, wanted: Wanted) -> None:
        self.source, self.wanted = source, wanted
        self.size = self.blank = 0

    def parts(self, batch: Any, number: int) -> Iterator[Any]:
        """`batch` in slices of at most about 16 MiB of text; its first row is row `number`.

        Raises:
            InputError: a cell that is too long, too many rows without text, or too much text for the file's size.
        """
        import pyarrow.compute as pc

        size = longest = 0
        for column in self.wanted.columns:
            cells = batch.column(column)
            if not hasattr(cells, "dictionary"):
                continue
            lengths = pc.binary_length(cells.dictionary).take(cells.indices)
            most = pc.max(lengths).as_py() or 0
            if most > self.wanted.longest:
                row = number + pc.index(lengths, most).as_py()
                raise InputError(
                    f"{self.source.name}, row {row}, column {column!r}: {most:,} bytes long, more than "
                    f"{self.wanted.advice}"
                )
            size += pc.sum(lengths).as_py() or 0
            longest = max(longest, most)
        self.size += size
        self.blank = 0 if size else self.blank + batch.num_rows
        self.wanted.reading.check_blank(self.source.name, number, self.blank)
        self.wanted.reading.check_expansion(self.source.path, self.size)
        rows = max(1, (1 << 24) // max(1, longest))
        yield from (batch.slice(start, rows) for start in range(0, batch.num_rows, rows))


def _check_type(name: str, column: str, kind: Any) -> None:
    import pyarrow as pa

    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    if not any(is_kind(inner) for is_kind in texts):
        raise InputError(f"{name}, column {column!r} holds {kind}, not text. Choose a column of text (string).")
