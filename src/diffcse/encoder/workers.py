"""One encoder in several processes.

Each process gets a batch of sentences and returns their rows; batches come back in their order. The encoder is saved to
a temporary folder, and all processes map its weights into memory.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import numpy as np
import torch

from diffcse.encoder.encode import Encoder
from diffcse.encoder.inputs import Batch
from diffcse.encoder.load import load
from diffcse.encoder.save import save
from diffcse.errors import InputError
from diffcse.machine import UNBOUND, cores, release_memory, tune, use_cores
from diffcse.stops import leave_to_parent

_NAME = "encoder"
_AHEAD = 2
"""Most blocks for each process, begun or waiting."""


def rows_by_workers(
    encoder: Encoder, batches: Iterator[Batch], workers: int, *, batch_tokens: int, bf16: bool
) -> Generator[tuple[Batch, np.ndarray], None, None]:
    """Each batch with its embeddings, from `workers` processes that share the CPU's cores or use a GPU each.

    Raises:
        InputError: another program ended a process.
    """
    from loky import ProcessPoolExecutor  # its processes do not import the caller's script, unlike the standard ones
    from loky.process_executor import TerminatedWorkerError

    threads = max(1, len(cores()) // workers)
    env = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "RAYON_NUM_THREADS": threads}
    waiting: deque[tuple[Batch, Any]] = deque()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="diffcse-")))
        save(encoder, folder / _NAME, "")
        pool = ProcessPoolExecutor(
            workers,
            initializer=_begin,
            initargs=(folder, cores(), workers, threads, batch_tokens, bf16),
            env={name: str(value) for name, value in env.items()}
            | {"TOKENIZERS_PARALLELISM": str(threads > 1).lower(), **UNBOUND},
        )
        stack.callback(pool.shutdown, kill_workers=True)  # they are idle after the last row
        try:
            for batch in batches:
                waiting.append((batch, pool.submit(_rows, batch.texts)))
                if len(waiting) > _AHEAD * workers:
                    done, future = waiting.popleft()
                    yield done, future.result()
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()
        except TerminatedWorkerError as error:
            raise InputError(
                f"one of {workers} worker processes was killed, perhaps because memory ran out. Only what "
                "was complete is kept: try again with fewer workers"
            ) from error


# ---- in a worker -----------------------------------------------------------------------------------------------------

_run: Callable[[list[str]], np.ndarray] | None = None


def _begin(folder: Path, given: frozenset[int], workers: int, threads: int, batch_tokens: int, bf16: bool) -> None:
    global _run
    use_cores(given)
    leave_to_parent()
    Thread(target=_end_with, args=(os.getppid(), folder), daemon=True).start()
    torch.set_num_threads(threads)
    tune()
    _take_gpu(folder, workers)
    encoder = load(folder / _NAME)
    run = ExitStack().enter_context(encoder.ready(bf16))

    def rows(block: list[str]) -> np.ndarray:
        embedded = run(encoder.tokens(block), batch_tokens)
        release_memory()
        return embedded

    _run = rows


def _end_with(parent: int, folder: Path) -> None:
    """End this worker when its parent is gone; it would wait for the next block for ever."""
    while os.getppid() == parent:
        time.sleep(1)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _rows(block: list[str]) -> np.ndarray:
    assert _run is not None
    return _run(block)


def _take_gpu(folder: Path, workers: int) -> None:
    """Select this worker's GPU before the encoder is loaded, which would otherwise use the first GPU."""
    if torch.cuda.is_available():
        torch.cuda.set_device(_claim(folder, workers) % torch.cuda.device_count())


def _claim(folder: Path, workers: int) -> int:
    """This worker's number: the first that no other worker has claimed."""
    for number in range(workers):
        try:
            (folder / f"worker-{number}").mkdir()
        except FileExistsError:
            continue
        return number
    return 0  # a worker was restarted
