"""Run cells one after another, or several at once in processes of their own."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from diffcse.errors import InputError
from diffcse.files import write_json
from diffcse.machine import UNBOUND, all_cores, cores
from diffcse.record import finite
from diffcse.stops import leave_to_parent, say_at_once
from diffcse.tables.cells import Cell, Shared, is_finished, outcome_of
from diffcse.tables.run import head, run_cell

Report = Callable[[Cell, str, dict[str, Any]], None]
"""Receives (cell, event, facts): the events of `training.run.run`, and "end" with the cell's outcome."""


def run_cells(
    cells: Sequence[Cell], shared: Shared, *, parallel: int = 1, report: Report = lambda cell, event, facts: None
) -> None:
    """Run the unfinished ones of `cells`, each identity once.

    Args:
        parallel: runs at once. Above 1 each has a process with its share of the cores, or a GPU of its own.

    Raises:
        InputError: `parallel` is below 1, or above the number of cores or GPUs.
    """
    if parallel < 1:
        raise InputError(f"--parallel {parallel}: must be at least 1")
    unfinished = [*{cell.identity: cell for cell in cells if not is_finished(cell, shared)}.values()]
    if parallel > 1:
        _run_at_once(unfinished, shared, _environments(parallel), report)
        return
    for cell in unfinished:
        report(cell, "end", run_cell(cell, shared, functools.partial(report, cell)))


def _run_at_once(cells: Sequence[Cell], shared: Shared, environments: Sequence[dict[str, str]], report: Report) -> None:
    lock = threading.Lock()

    def report_in_turn(cell: Cell, event: str, facts: dict[str, Any]) -> None:
        with lock:
            report(cell, event, facts)

    pending: queue.SimpleQueue[Cell] = queue.SimpleQueue()
    for cell in cells:
        pending.put(cell)
    with _workers(environments[: len(cells)]) as workers:
        threads = [threading.Thread(target=worker.serve, args=(pending, shared, report_in_turn)) for worker in workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)  # a wait without timeout would not let Python see Ctrl-C
    broken = next((worker.broken for worker in workers if worker.broken is not None), None)
    if broken is not None:
        raise broken


def _environments(parallel: int) -> list[dict[str, str]]:
    """Environment variables of each worker."""
    import torch

    if gpus := torch.cuda.device_count():
        if parallel > gpus:
            raise InputError(f"--parallel {parallel}: there are {gpus} GPUs, one for each process")
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(i) for i in range(gpus)]
        return [{"CUDA_VISIBLE_DEVICES": names[i], **UNBOUND} for i in range(parallel)]
    if parallel > len(cores()):
        raise InputError(f"--parallel {parallel}: there are {len(cores())} cores")
    return [{"OMP_NUM_THREADS": str(len(cores()) // parallel), **UNBOUND} for _ in range(parallel)]


@contextmanager
def _workers(environments: Sequence[dict[str, str]]) -> Iterator[list[_Worker]]:
    workers = [_Worker(environment) for environment in environments]
    try:
        yield workers
    except KeyboardInterrupt:
        say_at_once("stopping after the current step of each run; a second signal (Ctrl-C) stops at once")
        for worker in workers:
            worker.interrupt()
        for worker in workers:
            worker.wait()
        raise
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process that runs one cell after another, as it receives them on its standard input.

    It ends when its standard input closes, so it does not outlive a command that was killed. A run that ends in the
    middle can be resumed.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False
        self.broken: Exception | None = None
        """What ended `serve` early."""

    def serve(self, pending: queue.SimpleQueue[Cell], shared: Shared, report: Report) -> None:
        """Run cells from `pending` until it is empty."""
        try:
            while not self._stopped:
                try:
                    cell = pending.get_nowait()
                except queue.Empty:
                    return
                outcome = self._run(cell, shared, report)
                if outcome is not None:
                    report(cell, "end", outcome)
        except Exception as error:
            self.broken = error

    def _run(self, cell: Cell, shared: Shared, report: Report) -> dict[str, Any] | None:
        """The cell's outcome; None if this worker was stopped meanwhile."""
        process = self._process = self._process or self._start()
        if self._stopped:  # `stop` came while the process was starting, and did not see it
            process.kill()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps([dataclasses.asdict(cell), dataclasses.asdict(shared)]) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                event, facts = json.loads(line)
                if event == "end":
                    return dict(facts)
                report(cell, event, facts)
        except BrokenPipeError:
            pass
        return None if self._stopped else self._failure(cell, process)

    def _start(self) -> subprocess.Popen[str]:
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        with all_cores():
            return subprocess.Popen(
                [sys.executable, "-P", "-c", "from diffcse.tables.workers import work; work()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env={**os.environ, **self._environment},
                start_new_session=True,  # Ctrl-C goes to this process, which passes it on
                text=True,
            )

    def _failure(self, cell: Cell, process: subprocess.Popen[str]) -> dict[str, Any]:
        """Write and return the outcome of a cell whose process died."""
        code, self._process = process.wait(), None
        self._errors.seek(0)
        hint = ", perhaps out of memory" if code == -9 else ""
        outcome = {"scores": {}} | (outcome_of(cell) or head(cell)) | {"status": "failed", "seconds": None}
        outcome |= {"message": f"its process ended ({code}{hint})", "traceback": self._errors.read()[-4000:].strip()}
        write_json(cell.record, outcome)
        return outcome

    def interrupt(self) -> None:
        """Ask the process to end, and to leave a checkpoint of its run."""
        self._stopped = True
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)

    def wait(self) -> None:
        """Wait until the process has ended."""
        if self._process is not None:
            self._process.wait()

    def stop(self) -> None:
        """End the process at once."""
        self._stopped = True
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._errors.close()


def work() -> None:
    """The worker process: reads cells as JSON lines from standard input, writes events to standard output."""
    leave_to_parent()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # `_Worker.interrupt` sends it
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # output of libraries goes to standard error
    received: queue.SimpleQueue[str] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            received.put(line)
        os._exit(1)  # the process that started this one has ended

    def answer(event: str, facts: Any) -> None:
        answers.write(json.dumps([event, finite(facts)]) + "\n")
        answers.flush()

    threading.Thread(target=listen, daemon=True).start()
    while True:
        cell, shared = json.loads(received.get())
        shared = {key: tuple(value) if isinstance(value, list) else value for key, value in shared.items()}
        answer("end", run_cell(Cell(**cell), Shared(**shared), answer))
