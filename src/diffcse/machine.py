"""What this process asks of the computer it runs on, before it computes for long.

Two settings of PyTorch's surroundings cost a CPU much and change no result beyond rounding. They are the process's,
so they are made by what computes for long (training and pretraining, while they last, and the commands that embed),
never by an import of this package:

- Memory that is freed goes back to the system and is fetched again, page by page, at the next step: a tenth to a third
  of a training step. glibc is told to keep it; what a process holds is then the most it ever needed.
- On AMD processors PyTorch multiplies float32 matrices by a library's slow path, at half the speed of the other library
  it comes with. The only switch to the other is named after a precision, "bf16", which that library may then use where
  the hardware has matrix units for it, and this hardware has none: one product is compared with float64 before it is
  left on.

Which thread runs on which core is left to the system: binding (OMP_PROC_BIND=true) gains a little for one process that
has the machine to itself and ruins two that share it. Under it the import of torch leaves the main thread one core, and
all that it starts inherits that one; so the cores are counted before, and processes that share the work are started
with all of them, unbound (`all_cores`, `UNBOUND`).
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # mallopt's names for them
_NEVER = 2**31 - 1

_BINDERS = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")
"""Environment variables by which torch's threads bind themselves, the one that imports it too."""

UNBOUND = {"OMP_PROC_BIND": "false", "KMP_AFFINITY": "disabled"}
"""Environment variables of a process that is one of several: with them the other ways to bind do nothing."""


def _allowed() -> frozenset[int]:
    return frozenset(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


_AT_IMPORT = _allowed()


def cores() -> frozenset[int]:
    """The CPU cores that this process was given; where torch may have bound this thread to one of them, those it was
    given when `diffcse` was imported, which is then to be before torch is."""
    return _AT_IMPORT if any(name in os.environ for name in _BINDERS) else _allowed()


def use_cores(these: Iterable[int]) -> None:
    """Let this thread, and what it starts, use these cores. Where that is not allowed, all stays as it is."""
    if hasattr(os, "sched_setaffinity"):
        with suppress(OSError):  # taken away meanwhile, or a sandbox: work goes on, on what there is
            os.sched_setaffinity(0, these)


@contextmanager
def all_cores() -> Iterator[None]:
    """Within the block this thread, and what it starts, may use every core, also under OMP_PROC_BIND."""
    bound = _allowed()
    use_cores(cores())
    try:
        yield
    finally:
        use_cores(bound)


def tune() -> None:
    """Make both settings, where they apply. Safe to call again.

    While float32 products are switched, `torch.get_float32_matmul_precision()` raises: PyTorch has two ways to say what
    it is switched by, and refuses to be asked in one what was said in the other.
    """
    keep_memory()
    use_fast_float32()


@contextmanager
def tuned() -> Iterator[None]:
    """Within the block, or the function it decorates, as after `tune`; then float32 products are as they were."""
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
    """Have glibc keep freed memory for the next allocation; False where the C library is another."""
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_MMAP_MAX, 0)) and bool(libc.mallopt(_TRIM_THRESHOLD, _NEVER))


def release_memory() -> None:
    """Give freed memory back to the system: after a phase that needed much more than what follows."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def use_fast_float32() -> bool:
    """Multiply float32 matrices by oneDNN on an AMD processor; whether that is so now."""
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
    # Rounding to bf16 on the way would be wrong by more than 0.1 here; float32 is by 0.00005.
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
