"""One encoder in several processes.

Each is given a block of sentences and gives back their rows; blocks come back in the order in which they were given.
Weights lie in one file that all processes map into their memory; what goes through a pipe is the model's shape.
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
import signal
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any, cast

import cloudpickle
import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffcse.encoder.encode import Encoder
from diffcse.errors import InputError

_AHEAD = 2
"""Blocks for each process that are begun or wait, at most."""


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rows_by_workers(
    encoder: Encoder, blocks: Iterator[list[str]], workers: int, *, batch_tokens: int, bf16: bool
) -> Generator[tuple[list[str], np.ndarray], None, None]:
    """Each block with its embeddings, made by `workers` processes that share the CPU's cores, or have a GPU each.

    Raises:
        InputError: a process was ended from outside.
    """
    from loky import ProcessPoolExecutor  # its processes do not import the caller's script, as the stock ones do
    from loky.process_executor import TerminatedWorkerError

    threads = max(1, cores() // workers)
    env = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "RAYON_NUM_THREADS": threads}
    waiting: deque[tuple[list[str], Any]] = deque()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="diffcse-")))
        shape = _pack(encoder, folder / "weights.safetensors")
        pool = ProcessPoolExecutor(
            workers,
            initializer=_begin,
            initargs=(shape, folder, workers, threads, batch_tokens, bf16),
            env={name: str(value) for name, value in env.items()}
            | {"TOKENIZERS_PARALLELISM": str(threads > 1).lower()},
        )
        stack.callback(pool.shutdown, kill_workers=True)  # after the last row they have nothing to do
        try:
            for block in blocks:
                waiting.append((block, pool.submit(_rows, block)))
                if len(waiting) > _AHEAD * workers:
                    done, future = waiting.popleft()
                    yield done, future.result()
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()
        except TerminatedWorkerError as error:
            raise InputError(
                f"one of {workers} worker processes was ended from outside, perhaps because memory ran out. Nothing "
                "was written: try again with fewer workers"
            ) from error


# ---- in a worker -----------------------------------------------------------------------------------------------------

_run: Callable[[list[str]], np.ndarray] | None = None


def _begin(shape: bytes, folder: Path, workers: int, threads: int, batch_tokens: int, bf16: bool) -> None:
    global _run
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who pressed Ctrl-C is answered by the process that was started
    Thread(target=_end_with, args=(os.getppid(), folder), daemon=True).start()
    torch.set_num_threads(threads)
    encoder = _unpack(shape, folder / "weights.safetensors")
    if torch.cuda.is_available():
        number = _claim(folder, workers) % torch.cuda.device_count()
        encoder = replace(encoder, model=cast(Any, encoder.model).to(f"cuda:{number}"))
    run = ExitStack().enter_context(encoder.ready(bf16))

    def rows(block: list[str]) -> np.ndarray:
        return run(encoder.tokens(block), batch_tokens)

    _run = rows


def _end_with(parent: int, folder: Path) -> None:
    """A worker whose parent was killed would wait for the next block for ever."""
    while os.getppid() == parent:
        time.sleep(1)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _rows(block: list[str]) -> np.ndarray:
    assert _run is not None
    return _run(block)


def _claim(folder: Path, workers: int) -> int:
    """This worker's number: the first that no other has taken."""
    for number in range(workers):
        try:
            (folder / f"worker-{number}").mkdir()
        except FileExistsError:
            continue
        return number
    return 0  # one was started anew


# ---- the way there ---------------------------------------------------------------------------------------------------


class _Packer(cloudpickle.Pickler):
    """Pickles everything but tensors, which it collects."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[int, str] = {}

    def persistent_id(self, obj: Any) -> tuple[str, bool] | None:
        if not isinstance(obj, Tensor):
            return None
        name = self._names.setdefault(id(obj), str(len(self._names)))
        self.tensors[name] = obj
        return name, isinstance(obj, nn.Parameter)


class _Unpacker(pickle.Unpickler):
    """Undoes it, on what this program's own process wrote."""

    def __init__(self, file: io.BytesIO, tensors: dict[str, Tensor]) -> None:
        super().__init__(file)
        self.made = {
            (name, is_parameter): nn.Parameter(tensor, requires_grad=False) if is_parameter else tensor
            for name, tensor in tensors.items()
            for is_parameter in (False, True)
            if not is_parameter or tensor.is_floating_point()
        }

    def persistent_load(self, pid: Any) -> Tensor:
        return self.made[pid]


def _pack(encoder: Encoder, weights: Path) -> bytes:
    """Tensors go to the file `weights`, all else is returned."""
    packer = _Packer(file := io.BytesIO())
    packer.dump(encoder)
    # Clones, because several may look at one piece of memory, which the format forbids.
    save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in packer.tensors.items()}, weights)
    return file.getvalue()


def _unpack(shape: bytes, weights: Path) -> Encoder:
    return _Unpacker(io.BytesIO(shape), load_file(weights)).load()
