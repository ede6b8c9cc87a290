"""Worker processes: the same outcomes, no process left behind, checkpoints after Ctrl-C."""

import dataclasses
import json
import queue
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from diffcse.errors import InputError
from diffcse.machine import UNBOUND
from diffcse.tables.cells import cells_of, outcome_of
from diffcse.tables.workers import _environments, _Worker, _workers, run_cells
from tests.tables.grid import made


def served(cells, shared, environment):
    pending = queue.SimpleQueue()
    for cell in cells:
        pending.put(cell)
    events = []
    with _workers([environment]) as (worker,):
        worker.serve(pending, shared, lambda cell, event, facts: events.append((cell.seed, event)))
    assert worker.broken is None
    return events


def test_a_worker_process_runs_cells_as_this_one_does(place, done, tmp_path):
    _, _, whole, shared = done
    _, cells, _ = made(place, tmp_path)
    events = served(cells[:2], shared, {"OMP_NUM_THREADS": "1"})
    assert [event for event in events if event[1] == "end"] == [(1, "end"), (2, "end")]
    assert (1, "start") in events
    assert [outcome_of(c)["scores"] for c in cells[:2]] == [outcome_of(c)["scores"] for c in whole[:2]]


def test_a_worker_that_dies_is_a_failed_cell(place, tmp_path):
    _, cells, shared = made(place, tmp_path)
    events = served(cells[:2], shared, {"PYTHONHOME": str(tmp_path / "nowhere")})
    assert events == [(1, "end"), (2, "end")]
    assert outcome_of(cells[1])["status"] == "failed"
    assert outcome_of(cells[1])["message"].startswith("its process ended (")


def test_ctrl_c_leaves_checkpoints_of_all_runs_at_work(place, tmp_path):
    """In a process of its own, which hears one Ctrl-C when both of its workers have trained some steps."""
    grid, _, shared = made(place, tmp_path)
    long = "training.max_steps = 100000\ntraining.checkpoint_every = 100000"
    cells = cells_of(grid, {row.name: grid.config(row, changes=long) for row in grid.rows}, shared, (1,), tmp_path)
    program = """
import dataclasses, json, os, signal, sys
from diffcse.tables.cells import Cell, Shared
from diffcse.tables.workers import run_cells
signal.signal(signal.SIGINT, signal.default_int_handler)
cells, shared = json.loads(sys.argv[1])
at = {}
def report(cell, event, facts):
    if event == "log":
        at[cell.row] = facts["step"]
        if len(at) == 2 and min(at.values()) > 2:
            os.kill(os.getpid(), signal.SIGINT)
            at.clear()
            at["never again"] = 0
shared = {key: tuple(value) if isinstance(value, list) else value for key, value in shared.items()}
run_cells([Cell(**cell) for cell in cells], Shared(**shared), parallel=2, report=report)
"""
    asked = json.dumps([[dataclasses.asdict(cell) for cell in cells], dataclasses.asdict(shared)])
    done = subprocess.run([sys.executable, "-c", program, asked], capture_output=True, text=True, timeout=240)
    assert done.returncode == -signal.SIGINT, done.stderr
    assert "stopping after" in done.stderr
    for cell in cells:
        [left] = Path(cell.folder).glob("checkpoints/step-*")  # none was due
        assert 2 < int(left.name.removeprefix("step-")) < 100000
        assert json.loads(cell.record.read_text())["status"] == "stopped"


def test_a_process_that_starts_while_all_are_stopped_does_not_outlive_it(place, tmp_path, monkeypatch):
    _, cells, shared = made(place, tmp_path)
    worker, started = _Worker({"OMP_NUM_THREADS": "1"}), []

    class Slow(subprocess.Popen):
        def __init__(self, *words, **options):
            worker.stop()  # Ctrl-C, just now
            super().__init__(*words, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Slow)
    assert worker._run(cells[0], shared, lambda *_: pytest.fail("it ran")) is None
    assert started[0].wait(timeout=10) != 0


def test_no_more_processes_than_there_is_room_for(place, tmp_path, monkeypatch):
    _, cells, shared = made(place, tmp_path)
    with pytest.raises(InputError, match="--parallel 0: must be at least 1"):
        run_cells(cells, shared, parallel=0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InputError, match=r"--parallel 5000: there are \d+ cores"):
        run_cells(cells, shared, parallel=5000)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="--parallel 3: there are 2 GPUs"):
        run_cells(cells, shared, parallel=3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert _environments(2) == [
        {"CUDA_VISIBLE_DEVICES": "5", **UNBOUND},
        {"CUDA_VISIBLE_DEVICES": "7", **UNBOUND},
    ]
