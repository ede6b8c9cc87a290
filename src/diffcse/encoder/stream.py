"""Any number of sentences -> a file of embeddings, in memory that does not grow with them.

Sentences are taken a block at a time, embedded and written; the file appears under its name when it is complete. Row i
belongs to sentence i: nothing is left out or reordered.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch

from diffcse.encoder.encode import BATCH_TOKENS, Encoder, check_finite, sentence_number
from diffcse.encoder.similarity import to_unit
from diffcse.encoder.workers import rows_by_workers
from diffcse.errors import InputError
from diffcse.files import staged_file
from diffcse.machine import release_memory
from diffcse.text.strings import iter_strings

BLOCK = 4096
"""Sentences embedded and written at once: enough for batches of even length, few enough for frequent progress."""
_BLOCK_CHARACTERS = 1 << 22
"""A block of long sentences has fewer."""

In = TypeVar("In")
Out = TypeVar("Out")


class _Writer(Protocol):
    def write(self, sentences: list[str], rows: np.ndarray) -> None: ...
    def close(self) -> None: ...


def embed(
    encoder: Encoder,
    sentences: Iterable[str],
    output: str | Path,
    *,
    normalise: bool = False,
    batch_tokens: int = BATCH_TOKENS,
    bf16: bool = False,
    workers: int | None = None,
    report: Callable[[int], None] = lambda done: None,
    place: Callable[[int], str] = sentence_number,
) -> int:
    """Write one embedding for each sentence to `output`, in one indivisible step; return their number.

    One thread tokenises ahead of the model, another writes rows behind it. Rows do not depend on blocks or workers
    beyond rounding (1e-6 of a row's length in float32).

    Args:
        sentences: any iterable of strings, as `text.strings.iter_strings` takes it.
        output: a name ending in ".npy": an array (N, H) float32, for `numpy.load(output, mmap_mode="r")`. In
            ".parquet": columns `text` and `embedding` (a list of H float32), with a row group for each block.
        normalise: scale each embedding to length 1.
        workers: processes that embed; they share the CPU's cores or use a GPU each. 1: this process. None: one process
            for each GPU, or this process if there are fewer than two.
        report: called with the number of finished sentences after each block.
        place: names sentence i in messages.

    Raises:
        InputError: another suffix, an item that is not a Unicode string, an embedding that is not finite, a file that
            cannot be written, or a worker that was killed.
    """
    output = Path(output)
    number = _worker_count(workers)
    open_writer = check_output(output)
    blocks = _blocks(iter_strings(sentences))
    done = received = 0
    with staged_file(output) as staging:
        writer = open_writer(staging, encoder)

        def write(embedded: tuple[list[str], np.ndarray]) -> int:
            nonlocal received
            block, rows = embedded
            check_finite(rows, block, lambda i: place(received + i), bf16=bf16)
            received += len(block)
            writer.write(block, to_unit(rows) if normalise else rows)
            return len(block)

        if number == 1:
            rows = _rows_here(encoder, blocks, batch_tokens, bf16)
        else:
            rows = rows_by_workers(encoder, blocks, number, batch_tokens=batch_tokens, bf16=bf16)
        try:
            with closing(rows), closing(_ahead(write, rows)) as written:
                for count in written:
                    done += count
                    release_memory()  # batches of many shapes fragment the memory
                    report(done)
        finally:
            writer.close()
    return done


def _worker_count(asked: int | None) -> int:
    if asked is not None and asked < 1:
        raise InputError(f"workers = {asked}: must be at least 1")
    return max(1, torch.cuda.device_count()) if asked is None else asked


def _rows_here(
    encoder: Encoder, blocks: Iterator[list[str]], batch_tokens: int, bf16: bool
) -> Generator[tuple[list[str], np.ndarray], None, None]:
    def tokenise(block: list[str]) -> tuple[list[str], list[np.ndarray]]:
        return block, encoder.tokens(block)

    with encoder.ready(bf16) as run, closing(_ahead(tokenise, blocks)) as prepared:
        for block, tokens in prepared:
            yield block, run(tokens, batch_tokens)


def _ahead(function: Callable[[In], Out], items: Iterable[In]) -> Generator[Out, None, None]:
    """`map(function, items)`; a thread runs `function` while the next item is made."""
    with ThreadPoolExecutor(1) as thread:
        before: Future[Out] | None = None
        for item in items:
            now = thread.submit(function, item)
            if before is not None:
                yield before.result()
            before = now
        if before is not None:
            yield before.result()


def _blocks(sentences: Iterable[str]) -> Iterator[list[str]]:
    block: list[str] = []
    characters = 0
    for sentence in sentences:
        block.append(sentence)
        characters += len(sentence)
        if len(block) == BLOCK or characters >= _BLOCK_CHARACTERS:
            yield block
            block, characters = [], 0
    if block:
        yield block


def check_output(output: Path) -> Callable[[Path, Encoder], _Writer]:
    """The writer for the format that the suffix of `output` names.

    Raises:
        InputError: there is no such format.
    """
    if output.is_dir():
        raise InputError(f"{output}: is a folder. Give --output a file that ends in .npy or .parquet")
    if output.suffix == ".npy":
        return _Npy
    if output.suffix == ".parquet":
        return _Parquet
    raise InputError(f"{output}: the output must end in .npy or .parquet")


class _Npy:
    """NumPy's format, written row by row. The header holds the number of rows and is written again at the end."""

    def __init__(self, path: Path, encoder: Encoder) -> None:
        self.file = path.open("wb")
        self.rows, self.width = 0, encoder.width
        self._header()
        self.begins = self.file.tell()

    def write(self, sentences: list[str], rows: np.ndarray) -> None:
        self.file.write(np.ascontiguousarray(rows, dtype="<f4").data)
        self.rows += len(rows)

    def close(self) -> None:
        with self.file:
            self.file.seek(0)
            self._header()
            assert self.file.tell() == self.begins  # NumPy leaves room for a longer number

    def _header(self) -> None:
        shape = {"descr": "<f4", "fortran_order": False, "shape": (self.rows, self.width)}
        np.lib.format.write_array_header_1_0(self.file, shape)


class _Parquet:
    """Columns text and embedding; the schema's metadata names pooling and limit."""

    def __init__(self, path: Path, encoder: Encoder) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        self.pa: Any = pa
        self.vector = pa.list_(pa.float32(), encoder.width)
        facts = {"diffcse.pooling": str(encoder.pooling), "diffcse.max_tokens": str(encoder.max_tokens)}
        schema = pa.schema([("text", pa.string()), ("embedding", self.vector)], metadata=facts)
        self.file = parquet.ParquetWriter(path, schema)

    def write(self, sentences: list[str], rows: np.ndarray) -> None:
        flat = self.pa.array(np.ascontiguousarray(rows, dtype=np.float32).reshape(-1))
        vectors = self.pa.FixedSizeListArray.from_arrays(flat, type=self.vector)
        self.file.write_table(self.pa.Table.from_arrays([self.pa.array(sentences), vectors], schema=self.file.schema))

    def close(self) -> None:
        self.file.close()
