"""Any number of sentences -> embeddings on disk, in memory that does not grow with them.

Sentences are taken a batch at a time, embedded and written. Row i belongs to sentence i: nothing is left out or
reordered. One file appears under its name when it is complete; `parts` writes a folder of files.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from diffcse.config import Store
from diffcse.encoder.encode import BATCH_TOKENS, Encoder, check_finite, sentence_number
from diffcse.encoder.inputs import Batch, Sentences, batches, string_chunks
from diffcse.encoder.outputs import SAMPLE, Form, Writer, check_output, write_ranges
from diffcse.encoder.workers import rows_by_workers
from diffcse.errors import InputError
from diffcse.files import staged_file
from diffcse.machine import release_memory

In = TypeVar("In")
Out = TypeVar("Out")


def embed(
    encoder: Encoder,
    sentences: Iterable[str] | Sentences,
    output: str | Path,
    *,
    normalise: bool = False,
    store: Store = "float32",
    overwrite: bool = False,
    batch_tokens: int = BATCH_TOKENS,
    bf16: bool = False,
    workers: int | None = None,
    report: Callable[[int], None] = lambda done: None,
    note: Callable[[str], None] = lambda line: None,
    place: Callable[[int], str] = sentence_number,
) -> int:
    """Write one embedding for each sentence to `output`, in one indivisible step; return their number.

    One thread tokenises ahead of the model, another writes rows behind it. Rows do not depend on batches or workers
    beyond rounding (1e-6 of a row's length in float32).

    Args:
        sentences: any iterable of strings, as `text.strings.iter_strings` takes it; or `Sentences`, whose kept columns
            go to .parquet.
        output: a name ending in ".npy": an array (N, H), for `numpy.load(output, mmap_mode="r")`. In ".parquet": kept
            columns, `text` and `embedding` (a list of H numbers), with a row group for each batch.
        normalise: scale each embedding to length 1.
        store: type of the stored numbers, see `outputs.Form`.
        overwrite: replace an existing file.
        workers: processes that embed; they share the CPU's cores or use a GPU each. 1: this process. None: one process
            for each GPU, or this process if there are fewer than two.
        report: called with the number of finished sentences after each batch.
        note: called with a line on the recall of int8 or binary.
        place: names sentence i in messages.

    Raises:
        InputError: another suffix, an item that is not a Unicode string, an embedding that is not finite, a file that
            exists or cannot be written, or a worker that was killed.
    """
    output = Path(output)
    open_writer = check_output(output, overwrite=overwrite)
    kept = sentences.kept_schema if isinstance(sentences, Sentences) else None
    chunks = sentences.chunks() if isinstance(sentences, Sentences) else string_chunks(sentences)
    form = Form(encoder.width, normalise, store)
    if store != "float32":
        sample, chunks = _sample(chunks)
        form = calibrate(encoder, sample, form, bf16=bf16, note=note)
    with staged_file(output) as staging:
        writer = open_writer(staging, form, facts_of(encoder), kept)
        try:
            done = write_rows(
                encoder, batches(chunks), writer, form, batch_tokens=batch_tokens, bf16=bf16, workers=workers,
                report=report, place=place,
            )  # fmt: skip
        finally:
            writer.close()
        write_ranges(output, form)
    return done


def adjusted(encoder: Encoder, prompt: str | None = None, truncate_dim: int | None = None) -> Encoder:
    """`encoder` with another prompt before each sentence, and with only the first numbers of each embedding.

    Args:
        prompt: the name of one of the encoder's prompts, or the text itself if it ends with a space or a colon.
        truncate_dim: how many numbers are kept.

    Raises:
        InputError: no prompt has this name, or the embedding has fewer numbers.
    """
    settings = encoder.settings
    if prompt is not None:
        if prompt not in settings.prompts and not prompt.endswith((" ", ":")):
            names = ", ".join(map(repr, settings.prompts)) or "none"
            raise InputError(
                f"--prompt {prompt}: the model has no prompt of this name (it has: {names}). A text to put before each "
                "sentence must end with a space or a colon, such as 'query: '"
            )
        prompts = {prompt: prompt, **settings.prompts}
        settings = replace(settings, prompts=prompts, default_prompt=prompt)
    if truncate_dim is not None:
        if not 1 <= truncate_dim <= encoder.width:
            raise InputError(f"--truncate-dim {truncate_dim}: must be from 1 to {encoder.width}, the embedding's size")
        settings = replace(settings, truncate_dim=truncate_dim)
    return replace(encoder, settings=settings)


def facts_of(encoder: Encoder) -> dict[str, str]:
    """What a .parquet file says about its encoder."""
    return {"diffcse.pooling": str(encoder.pooling), "diffcse.max_tokens": str(encoder.max_tokens)}


def _sample(chunks: Iterator[Batch]) -> tuple[list[str], Iterator[Batch]]:
    """(the first sentences, all chunks)"""
    taken: list[Batch] = []
    texts: list[str] = []
    for chunk in chunks:
        taken.append(chunk)
        texts += chunk.texts
        if len(texts) >= SAMPLE:
            break
    return texts[:SAMPLE], chain(taken, chunks)


def calibrate(encoder: Encoder, sample: list[str], form: Form, *, bf16: bool, note: Callable[[str], None]) -> Form:
    """`form` with the ranges that int8 needs; `note` gets the measured recall of its stored embeddings."""
    rows = encoder(sample, bf16=bf16)
    form = form.calibrated(rows)
    recall = form.recall(rows)
    if recall is not None:
        note(
            f"recall   {form.store} gives {recall:.1%} of the 10 nearest neighbours by float32 "
            f"({min(1000, len(rows)):,} queries among the first {len(rows):,} rows)"
        )
    return form


def write_rows(
    encoder: Encoder,
    rows_in: Iterator[Batch],
    writer: Writer,
    form: Form,
    *,
    batch_tokens: int,
    bf16: bool,
    workers: int | None,
    report: Callable[[int], None],
    place: Callable[[int], str],
) -> int:
    """Embed batches and hand them to `writer` in their order; return the number of rows. Arguments as in `embed`."""
    done = 0
    has_failed = False
    number = _worker_count(workers)

    def write(embedded: tuple[Batch, np.ndarray]) -> int:
        nonlocal has_failed
        batch, rows = embedded
        if has_failed:  # the batch before, and its error is not raised yet
            return 0
        has_failed = True
        check_finite(rows, batch.texts, lambda i: place(batch.first + i), bf16=bf16)
        writer.write(batch, form.stored(rows))
        has_failed = False
        return len(rows)

    if number == 1:
        rows = _rows_here(encoder, rows_in, batch_tokens, bf16)
    else:
        rows = rows_by_workers(encoder, rows_in, number, batch_tokens=batch_tokens, bf16=bf16)
    with closing(rows), closing(_ahead(write, rows)) as written:
        for count in written:
            done += count
            release_memory()  # batches of many shapes fragment the memory
            report(done)
    return done


def _worker_count(asked: int | None) -> int:
    if asked is not None and asked < 1:
        raise InputError(f"workers = {asked}: must be at least 1")
    return max(1, torch.cuda.device_count()) if asked is None else asked


def _rows_here(
    encoder: Encoder, rows_in: Iterator[Batch], batch_tokens: int, bf16: bool
) -> Generator[tuple[Batch, np.ndarray], None, None]:
    def tokenise(batch: Batch) -> tuple[Batch, list[np.ndarray]]:
        return batch, encoder.tokens(batch.texts)

    with encoder.ready(bf16) as run, closing(_ahead(tokenise, rows_in)) as prepared:
        for batch, tokens in prepared:
            yield batch, run(tokens, batch_tokens)


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
