"""Memory, float32 products and cores: the settings are made, and only where they apply."""

import json
import os
import platform
import subprocess
import sys

import pytest
import torch

from diffcse import machine
from diffcse.errors import InputError

GLIBC = platform.libc_ver()[0] == "glibc"


@pytest.mark.skipif(not GLIBC, reason="another C library")
def test_freed_memory_is_kept_and_fetched_once():
    """Page faults of the tenth large tensor: none; without the setting each has 16,384 (64 MiB in 4 KiB pages)."""
    code = """
import json, resource, sys, torch
from diffcse import machine
if sys.argv[1] == "tuned":
    assert machine.keep_memory()
faults = []
for _ in range(10):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(1 << 24).add_(1)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
held = int(open("/proc/self/statm").read().split()[1]) * 4096
machine.release_memory()
print(json.dumps([faults, held - int(open("/proc/self/statm").read().split()[1]) * 4096]))
"""
    found = {}
    for how in ("tuned", "plain"):
        done = subprocess.run([sys.executable, "-c", code, how], capture_output=True, text=True, check=True)
        found[how] = json.loads(done.stdout)
    assert found["plain"][0][-1] > 100 * max(1, found["tuned"][0][-1]) or found["plain"][0][-1] == 0  # huge pages
    assert found["tuned"][0][-1] < 20
    assert found["tuned"][1] > 32 << 20  # given back when asked to


def test_float32_products_stay_float32():
    """With either library the error is that of float32, a hundred times below that of bf16."""
    torch.manual_seed(1)
    a, b = torch.randn(300, 768), torch.randn(768, 500)
    machine.use_fast_float32()
    assert (a @ b - a.double() @ b.double()).abs().max() < 5e-4


def test_a_library_that_rounds_to_bf16_is_not_left_on(monkeypatch):
    class Rounds:
        fp32_precision = "none"

    products = Rounds()
    monkeypatch.setattr(torch.backends.mkldnn, "matmul", products)
    monkeypatch.setattr(machine, "_is_amd", lambda: True)
    plain = torch.Tensor.__matmul__
    monkeypatch.setattr(
        torch.Tensor,
        "__matmul__",
        lambda a, b: (
            plain(a.bfloat16(), b.bfloat16()).float()
            if products.fp32_precision == "bf16" and a.dtype == torch.float32
            else plain(a, b)
        ),
    )
    assert not machine.use_fast_float32()
    assert products.fp32_precision == "none"


def test_other_processors_keep_their_library(monkeypatch):
    monkeypatch.setattr(machine, "_is_amd", lambda: False)
    before = torch.backends.mkldnn.matmul.fp32_precision
    assert not machine.use_fast_float32()
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_training_leaves_products_as_they_were():
    products = torch.backends.mkldnn.matmul
    before = products.fp32_precision
    try:
        products.fp32_precision = "ieee"

        @machine.tuned()
        def within():
            return products.fp32_precision

        assert within() == ("bf16" if machine._is_amd() else "ieee")
        assert products.fp32_precision == "ieee"
    finally:
        products.fp32_precision = before


BOUND = """
import json, os, sys, threading
import diffcse, torch
from diffcse import machine
found = {"bound": len(os.sched_getaffinity(0)), "counted": len(machine.cores())}
%s
print(json.dumps(found))
"""
manycores = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(machine.cores()) < 2, reason="no cores to be bound to"
)


def bound(code):
    """The dictionary `found` of `code`, in a process whose main thread torch has bound to one core."""
    environment = {"OMP_PROC_BIND": "true", "OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": ""}
    with machine.all_cores():
        done = subprocess.run(
            [sys.executable, "-c", BOUND % code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, **environment},
        )
    found = json.loads(done.stdout)
    if found.pop("bound") != 1:
        pytest.skip("this torch binds nothing")
    assert found.pop("counted") == len(machine.cores())
    return found


@manycores
def test_cores_are_counted_before_torch_binds_the_thread_to_one():
    code = """
with machine.all_cores():
    found["inside"] = len(os.sched_getaffinity(0))
found["after"] = len(os.sched_getaffinity(0))
"""
    assert bound(code) == {"inside": len(machine.cores()), "after": 1}


@manycores
@pytest.mark.parametrize("what", ["cells", "embedding", "reading"])
def test_processes_that_share_the_work_are_not_all_bound_to_one_core(what, tmp_path):
    """Each kind of worker process reports the cores it may use."""
    code = {
        "cells": """
from diffcse.tables import workers
from diffcse.tables.cells import Cell, Shared
told = '''
import json, os, torch
unbound = os.environ["OMP_PROC_BIND"] == "false"
print(json.dumps(["end", {"cores": len(os.sched_getaffinity(0)) * unbound}]), flush=True)
'''
popen = workers.subprocess.Popen
workers.subprocess.Popen = lambda words, **rest: popen([words[0], "-c", told], **rest)
[environment, _] = workers._environments(2)
worker = workers._Worker(environment)
cell = Cell("row", 1, "", "", "")
thread = threading.Thread(target=lambda: found.update(worker._run(cell, Shared((), ""), print)))
thread.start(); thread.join()
""",
        "embedding": """
from diffcse.encoder import workers
from diffcse.encoder.inputs import Batch
from diffcse.method.loading import MINI
import numpy as np
encoder = diffcse.load(MINI)
unbound = lambda: os.environ["OMP_PROC_BIND"] == "false"  # or threads that torch starts are bound all the same
workers._rows = lambda block: np.array([len(os.sched_getaffinity(0)) * unbound()])
rows = workers.rows_by_workers(encoder, iter([Batch(0, ["a"])]), 2, batch_tokens=100, bf16=False)
found["cores"] = int(next(rows)[1][0])
""",
        "reading": """
from diffcse.text import digest
digest._try_block = lambda block, plan: len(os.sched_getaffinity(0))
[(_, found["cores"])] = digest._in_order(iter(["a block"]), None, 2)
""",
    }[what]
    assert bound(code) == {"cores": len(machine.cores())}


@manycores
def test_a_process_bound_on_purpose_stays_bound():
    code = """
import os
import diffcse
os.environ.pop("OMP_PROC_BIND", None)
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from diffcse.text import digest
digest._try_block = lambda block, plan: len(os.sched_getaffinity(0))
print(len(diffcse.machine.cores()), [found for _, found in digest._in_order(iter(["a block"]), None, 2)])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1 [1]\n"


def test_refused_cores_change_nothing(monkeypatch):
    before = machine.cores()
    machine.use_cores({5000})
    assert machine.cores() == before


@pytest.mark.parametrize("size", ["x", "-1", "1.5"])
def test_a_number_of_processes_that_is_none(monkeypatch, size):
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(InputError, match=f"WORLD_SIZE = {size}"):
        machine.one_process("x", "y")
