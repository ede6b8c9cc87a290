"""Shared by all speed benchmarks: options, text, timing in turns, and the JSON result.

The module does not import torch at the top. A fresh process counts its parent's memory as its own until it starts its
program, so a parent that measures memory must be small.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from itertools import islice
from pathlib import Path
from platform import libc_ver
from typing import Any

import numpy as np
import psutil

from diffcse.errors import InputError
from diffcse.files import write_json
from diffcse.machine import keep_memory, use_fast_float32
from diffcse.record import finite, hardware, versions

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
SCHEMA = 1
POOL = 20_000
"""Sentences are drawn from so many, the first of the text."""
_SETTINGS = ("OMP_", "GOMP_", "KMP_", "MKL_", "MALLOC_", "GLIBC_", "LD_PRELOAD", "CUDA_VISIBLE_DEVICES")
_ENGINES = ("onnx", "onnxruntime", "openvino", "nncf")

_WHOLE = {"benchmark", "created", "command", "commit", "busy_percent", "environment", "versions", "seed", "machine"}
_WHOLE |= {"groups"}
_ROW = {"name", "wall_s", "cpu_s", "ratio", "ratio_range", "figures", "samples"}

Sample = dict[str, Any]
"""One turn: `wall` and `cpu` seconds, and perhaps `parts` (seconds by name) or `peak_mb`."""


def parser(description: str | None, *, rounds: int, text: bool = True) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    made = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    if text:
        made.add_argument("text", nargs="?", type=Path, help="sentences, one a line; else the standard library's")
    made.add_argument("--rounds", type=int, default=rounds, help="turns of each contestant (default: %(default)s)")
    made.add_argument("--seconds", type=float, default=300, help="of a group: no round begins that would pass this")
    made.add_argument("--seed", type=int, default=0, help="of sentences and random weights")
    made.add_argument("--quick", action="store_true", help="tiny shapes: does it run?")
    made.add_argument("--results", type=Path, default=RESULTS, help="folder for the JSON")
    return made


def use_device(name: str) -> Any:
    """The torch device, hidden from the toolkit (which takes a GPU where there is one) if it is to be the CPU.

    Raises:
        InputError: no GPU.
    """
    if name == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU here: leave it at cpu")
    return torch.device(name)


def read_text(text: Path | None) -> list[str]:
    """The first sentences of a file, or of the standard library's documentation."""
    if text is None:
        from diffcse.text.stdlib import read_stdlib

        return read_stdlib().split()[0][:POOL]
    from diffcse.encoder.inputs import Sentences

    return list(islice((line for line in Sentences([text]) if line.strip()), POOL))


def draw(pool: Sequence[str], number: int, *address: int) -> list[str]:
    """`number` sentences at random, the same for the same address (seed, round, ...)."""
    return [pool[int(i)] for i in np.random.default_rng(address).choice(len(pool), number, len(pool) < number)]


# ---- timing ----------------------------------------------------------------------------------------------------------


class Stopwatch:
    """Seconds spent in parts of a turn, nested or not, each under its own name."""

    def __init__(self, synchronise: Callable[[], None] = lambda: None) -> None:
        self.parts: dict[str, float] = {}
        self.running = True
        self._synchronise = synchronise
        self._open: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._start(name)
        yield
        self._stop(name)

    def follow(self, module: Any, name: str) -> None:
        """Count what `module`'s forward passes take from now on."""
        module.register_forward_pre_hook(lambda *_: self._start(name))
        module.register_forward_hook(lambda *_: self._stop(name))

    def read(self) -> dict[str, float]:
        """What was counted, and from zero again."""
        parts, self.parts = self.parts, {}
        return parts

    def _start(self, name: str) -> None:
        if self.running:
            self._synchronise()
            self._open[name] = time.perf_counter()

    def _stop(self, name: str) -> None:
        if self.running:
            self._synchronise()
            self.parts[name] = self.parts.get(name, 0.0) + time.perf_counter() - self._open.pop(name)


def always(run: Callable[[], Any]) -> Callable[[int], Any]:
    """A contestant that does the same in every round."""
    return lambda _: run()


def interleave(
    contestants: Mapping[str, Callable[[int], Any]],
    *,
    rounds: int,
    seconds: float,
    synchronise: Callable[[], None] = lambda: None,
    watch: Stopwatch | None = None,
) -> dict[str, list[Sample]]:
    """Let each take its turn in every round; -> its samples, one a round.

    A contestant is called with the round's number. Who begins changes from round to round. From the third round on
    none begins that would likely end after `seconds`. What a contestant returns as a dict with "wall" in it (it has
    measured processes of its own) is its sample.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in contestants}
    names, began = list(contestants), time.perf_counter()
    for number in range(rounds):
        if number >= 2 and (time.perf_counter() - began) * (number + 1) / number > seconds:
            break
        first = number % len(names)
        for name in names[first:] + names[:first]:
            if watch:
                watch.read()
            time.sleep(0.05)  # threads of the one before may still spin
            synchronise()
            cpu, wall = time.process_time(), time.perf_counter()
            said = contestants[name](number)
            synchronise()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            own = {**said} if isinstance(said, dict) and "wall" in said else {"wall": wall, "cpu": cpu}
            own.pop("printed", None)
            samples[name].append({**own, **({"parts": watch.read()} if watch else {})})
            print(f"  round {number + 1}  {name:<28}{own['wall']:9.3f} s  {own['cpu']:9.3f} CPU s", flush=True)
    return samples


@cache
def _float32_products() -> tuple[str, str]:
    """What multiplies float32 by default, and after `machine.use_fast_float32`, in torch's words."""
    import torch

    products: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    default = products.fp32_precision
    use_fast_float32()
    fast, products.fp32_precision = products.fp32_precision, default
    return default, fast


@contextmanager
def tuned() -> Iterator[None]:
    """Within the block the process is set as `machine.tune` sets it; outside as it would be without.

    Freed memory outside: glibc's own limits as they stand once a large block has been freed (mallopt(3): both grow to
    these), except that what ours has left in the heap is there for the others too, which helps them a little.
    """
    import torch

    keep_memory()
    default, fast = _float32_products()
    products: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    products.fp32_precision = fast
    try:
        yield
    finally:
        products.fp32_precision = default
        if libc_ver()[0] == "glibc":
            libc = ctypes.CDLL(None)
            for name, value in {-4: 65536, -3: 32 << 20, -1: 64 << 20}.items():  # M_MMAP_MAX, _THRESHOLD, M_TRIM_
                libc.mallopt(name, value)


def child(command: Sequence[str], **environment: str) -> Sample:
    """Run a process to its end: wall and CPU seconds, its memory's high-water mark in MB, and what it printed.

    Raises:
        RuntimeError: it failed.
    """
    with tempfile.TemporaryFile() as out:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **environment})
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        printed = out.read().decode(errors="replace")
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {process.returncode}\n{printed[-2000:]}")
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return {"wall": wall, "cpu": used.ru_utime + used.ru_stime, "peak_mb": used.ru_maxrss / unit, "printed": printed}


# ---- results ---------------------------------------------------------------------------------------------------------


@dataclass
class Group:
    """Contestants that ran in turns: one table. Ratios are taken round by round, then their median."""

    name: str
    references: list[str]
    """Those that the others are measured against."""
    facts: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    """Contestants that could not run, and why."""
    chart: str | None = None
    """The figure to draw; None: the ratios to the first reference."""

    def add(self, samples: Mapping[str, list[Sample]], figures: Callable[[str, list[Sample]], dict[str, Any]]) -> None:
        """Rows of medians, with `figures` (numbers by label) of each beside them."""
        for name, own in samples.items():
            times = {
                of: [ref["wall"] / one["wall"] for ref, one in zip(samples[of], own, strict=True)]
                for of in self.references
                if of in samples
            }
            row: dict[str, Any] = {
                "name": name,
                "wall_s": statistics.median(s["wall"] for s in own),
                "cpu_s": statistics.median(s["cpu"] for s in own),
                "ratio": {of: statistics.median(values) for of, values in times.items()},
                "ratio_range": {of: [min(values), max(values)] for of, values in times.items()},
                "figures": figures(name, own),
                "samples": own,
            }
            if all("parts" in s for s in own):
                row["parts"] = {p: statistics.median(s["parts"][p] for s in own) for p in own[0]["parts"]}
            self.rows.append(row)


def start(name: str, argv: Sequence[str] | None) -> dict[str, Any]:
    """What a result begins with: the machine as it is before anything runs. Warns if it is busy."""
    busy = psutil.cpu_percent(interval=1.0)  # not the load average, which remembers the benchmark before this one
    if busy > 10:
        print(f"warning: {busy:.0f} % of the machine is busy: ratios hold, absolute times do not", file=sys.stderr)
    found = {}
    for package in _ENGINES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    module = f"benchmarks.speed.{name.partition('-')[0]}"
    arguments = sys.argv[1:] if argv is None else argv
    typed = [
        Path(word).name if Path(word).is_absolute() else word for word in arguments
    ]  # folders are nobody's business
    return {
        "schema": SCHEMA,
        "benchmark": name,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python -m", module, *typed]),
        "commit": _git("rev-parse", "--short=12", "HEAD") + ("+" if _git("status", "--porcelain", "src") else ""),
        "busy_percent": busy,
        "environment": {key: value for key, value in sorted(os.environ.items()) if key.startswith(_SETTINGS)},
        "versions": versions() | found,
    }


def finish(result: dict[str, Any], seed: int, groups: Sequence[Group], folder: Path) -> Path:
    """Write the result; -> its file."""
    result |= {"seed": seed, "machine": hardware(), "groups": [vars(group) for group in groups]}
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{result['benchmark']}.json"
    write_json(target, finite(result))
    print(f"written  {target}")
    return target


def read(file: Path) -> dict[str, Any]:
    """A result.

    Raises:
        InputError: not one of this schema, or something is missing in it.
    """
    result = json.loads(file.read_text(encoding="utf-8"))
    if result.get("schema") != SCHEMA:
        raise InputError(f"{file}: not a result of schema {SCHEMA}: rerun it with this version")
    if missing := _WHOLE - set(result):
        raise InputError(f"{file}: no {sorted(missing)}: rerun")
    for group in result["groups"]:
        for row in group["rows"]:
            if missing := _ROW - set(row):
                raise InputError(f"{file}: {group['name']}, {row.get('name')}: no {sorted(missing)}: rerun")
    return result


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    return done.stdout.strip() or ("" if done.returncode == 0 else "unknown")
