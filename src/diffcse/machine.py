"""Settings of the process and the processor that make long computations faster.

Two settings cost a CPU much time and change results only by rounding. They belong to the process. So training,
pretraining and the commands that embed set them; an import of this package does not.

- Memory: glibc returns freed memory to the system and requests it again at the next step, which takes a tenth to a
  third of a training step. `keep_memory` makes glibc keep it; the process then holds its peak memory.
- float32 products: on AMD processors PyTorch uses a slow path of one library, at half the speed of oneDNN. The only
  switch to oneDNN is named after a precision, "bf16", and lets oneDNN compute in bf16 on hardware with matrix units for
  it. So `use_fast_float32` compares one product with float64 before it leaves the switch on.

Threads are not bound to cores here. Binding (OMP_PROC_BIND=true) gains a little for one process alone and ruins two
that share a machine. Under binding, the import of torch leaves the main thread one core, and its child processes
inherit that core. So the cores are counted before torch is imported, and child processes are started with all cores and
unbound (`all_cores`, `UNBOUND`).
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from diffcse.errors import InputError

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of glibc's mallopt
_NEVER = 2**31 - 1

_BINDERS = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
"""Environment variables that make torch bind its threads, and the thread that imports it, to cores."""

UNBOUND = {"OMP_PROC_BIND": "false", "KMP_AFFINITY": "disabled"}
"""Environment variables for a process that shares the machine: they switch every kind of binding off."""


def processes() -> int:
    """How many processes a launcher such as torchrun started for one job.

    Raises:
        InputError: its environment variable WORLD_SIZE is not a number.
    """
    text = os.environ.get("WORLD_SIZE") or "1"
    if not text.isdecimal():
        raise InputError(f"WORLD_SIZE = {text}: must be the number of processes. Unset this environment variable.")
    return max(int(text), 1)


def first_process() -> bool:
    """Whether this process is the only one or, of several, the one that prints."""
    return processes() == 1 or os.environ.get("RANK", "0") == "0"


def one_process(what: str, why: str) -> None:
    """Refuse to do `what` as one of several processes, and say `why`.

    Raises:
        InputError: there are several.
    """
    if processes() > 1:
        raise InputError(f"{what}: {why}. Start one process, without torchrun (WORLD_SIZE = {processes()})")


def _allowed() -> frozenset[int]:
    return frozenset(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


_AT_IMPORT = _allowed()


def cores() -> frozenset[int]:
    """The CPU cores of this process. If torch may have bound this thread to one core, those at the import of `diffcse`,
    which must then come before the import of torch."""
    return _AT_IMPORT if any(name in os.environ for name in _BINDERS) else _allowed()


def use_cores(numbers: Iterable[int]) -> None:
    """Let this thread and its children use the cores of these numbers. Does nothing where that is not allowed."""
    if hasattr(os, "sched_setaffinity"):
        with suppress(OSError):  # a core was taken away, or a sandbox forbids it: keep the present cores
            os.sched_setaffinity(0, numbers)


@contextmanager
def all_cores() -> Iterator[None]:
    """Within the block this thread and its children may use every core, also under OMP_PROC_BIND."""
    bound = _allowed()
    use_cores(cores())
    try:
        yield
    finally:
        use_cores(bound)


def tune() -> None:
    """Make both settings where they apply. Safe to call again.

    While the float32 switch is on, `torch.get_float32_matmul_precision()` raises: PyTorch has an older and a newer
    interface for it, and does not answer in the older one what was set in the newer.
    """
    keep_memory()
    use_fast_float32()


@contextmanager
def tuned() -> Iterator[None]:
    """`tune` for the block, or the decorated function; afterwards float32 products are computed as before."""
    import torch

    products: Any = getattr(torch.backends.mkldnn, "matmul", None)
    before = getattr(products, "fp32_precision", None)
    tune()
    try:
        yield
    finally:
        if before is not None:
            products.fp32_precision = before


def keep_memory() -> bool:
    """Make glibc keep freed memory for the next allocation. Returns False with another C library."""
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_MMAP_MAX, 0)) and bool(libc.mallopt(_TRIM_THRESHOLD, _NEVER))


def release_memory() -> None:
    """Return freed memory to the system, after a phase that needed more memory than the next."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def use_fast_float32() -> bool:
    """Multiply float32 matrices by oneDNN on an AMD processor. Returns whether oneDNN is in use."""
    import torch

    products: Any = getattr(torch.backends.mkldnn, "matmul", None)
    if not hasattr(products, "fp32_precision") or not torch.backends.mkldnn.is_available() or not _is_amd():
        return False
    before = products.fp32_precision
    if before == _ONEDNN:
        return True
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(256, 256, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    products.fp32_precision = _ONEDNN
    # In bf16 the largest error here would be above 0.1; in float32 it is 0.00005.
    if (a @ b - exact).abs().max() > 1e-3:
        products.fp32_precision = before
        return False
    return True


_ONEDNN = "bf16"


def _is_amd() -> bool:
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return "AMD" in platform.processor()
