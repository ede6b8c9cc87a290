"""Runs all speed benchmarks in turn, each in its own process, and writes docs/performance.md.

python -m benchmarks.speed [sentences.txt] [--rounds 3] [--quick]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.speed import measure, render
from diffcse.machine import cores

# On two cores these rounds take a quarter of an hour in all.
_ROUNDS = {"startup": 15, "step": 3, "encode": 3, "scaling": 1}


def main() -> None:
    """Run them; a benchmark that fails stops the rest."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("text", nargs="?", type=Path, help="sentences, one a line; else the standard library's")
    parser.add_argument("--rounds", type=int, help=f"of each benchmark (default: {_ROUNDS})")
    parser.add_argument("--quick", action="store_true", help="tiny shapes: does everything run?")
    parser.add_argument("--results", type=Path, default=measure.RESULTS)
    options = parser.parse_args()
    print(f"{len(cores())} cores, load average {os.getloadavg()[0]:.1f}: measure on an idle machine")
    for name, rounds in _ROUNDS.items():
        command = [sys.executable, "-m", f"benchmarks.speed.{name}", "--rounds", str(options.rounds or rounds)]
        command += ["--results", str(options.results)] if options.results != measure.RESULTS else []
        command += ["--quick"] if options.quick else []
        command += [str(options.text)] if options.text and name != "startup" else []
        began = time.perf_counter()
        print(f"\n== {name}", flush=True)
        subprocess.run(command, check=True)
        print(f"{name}: {time.perf_counter() - began:.0f} s")
    if options.results == measure.RESULTS:
        render.main([])
    print("tokens a second of `diffcse pretrain`: python benchmarks/pretrain_speed.py TEXT")


if __name__ == "__main__":
    main()
