"""Seconds and peak memory of `read_corpus` for a number of lines, in one process or several.

Each line of the text files gets a number in front, so all lines are distinct. That is the worst case, because every
hash and every line must be kept.

    python benchmarks/read_corpus.py --lines 1000000 --processes 1 TEXT...
    python benchmarks/read_corpus.py --lines 1000000 --format .parquet --documents TEXT...

A fresh process reads the corpus. The start is measured after its imports, so the difference is what reading adds. The
peak includes the worker processes.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import lzma
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

MEASURE = """
import json, resource, sys, time
from pathlib import Path
from diffcse.text.corpus import read_corpus
def use(who):
    used = resource.getrusage(who)
    return used.ru_maxrss / 1e3, used.ru_utime + used.ru_stime
start_mb, start_cpu = use(resource.RUSAGE_SELF)
began = time.perf_counter()
file, cache, processes, documents = sys.argv[1:]
corpus = read_corpus([file], cache_dir=Path(cache), processes=int(processes), documents=documents == "True")
seconds = time.perf_counter() - began
peak_mb, cpu = use(resource.RUSAGE_SELF)
worker_mb, worker_cpu = use(resource.RUSAGE_CHILDREN)
print(json.dumps({
    "sentences": len(corpus), "seconds": round(seconds, 1), "cpu_seconds": round(cpu - start_cpu, 1),
    "cpu_seconds_of_workers": round(worker_cpu, 1), "start_mb": round(start_mb), "peak_mb": round(peak_mb),
    "largest_worker_mb": round(worker_mb), "sha256": corpus.sha256[:16],
}))
"""


def lines(files: list[Path], number: int) -> Iterator[str]:
    """`number` distinct lines; the files are repeated as often as needed."""
    made = 0
    while made < number:
        for file in files:
            with (lzma.open if file.suffix == ".xz" else open)(file, "rt", encoding="utf-8") as source:
                for line in source:
                    if made == number:
                        return
                    yield f"{made} {line.rstrip()}"
                    made += 1


def write(target: Path, made: Iterator[str]) -> None:
    """The lines in the format of `target`'s ending."""
    if target.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema({"text": pa.string()})
        with pq.ParquetWriter(target, schema) as writer:  # in parts: a fresh process starts with its parent's peak
            while part := list(itertools.islice(made, 10_000)):
                writer.write_table(pa.table({"text": part}, schema))
        return
    with target.open("w", encoding="utf-8", newline="") as file:
        if target.suffix == ".csv":
            rows = csv.writer(file)
            rows.writerow(["text"])
            rows.writerows([line] for line in made)
        elif target.suffix == ".jsonl":
            file.writelines(json.dumps({"text": line}) + "\n" for line in made)
        else:
            file.writelines(line + "\n" for line in made)


def main() -> None:
    """Write the lines, read them in a fresh process, print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("text", nargs="+", type=Path)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--format", default=".txt", choices=[".txt", ".csv", ".jsonl", ".parquet"])
    parser.add_argument("--documents", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / f"lines{options.format}"
        write(target, lines(options.text, options.lines))
        print(f"{options.lines:,} lines, {target.stat().st_size / 1e6:,.0f} MB as {options.format}", flush=True)
        arguments = [str(target), f"{folder}/cache", str(options.processes), str(options.documents)]
        run = subprocess.run([sys.executable, "-c", MEASURE, *arguments], check=True, capture_output=True, text=True)
        facts = json.loads(run.stdout)
        print(json.dumps(facts))
        print(f"{facts['sentences'] / facts['seconds']:,.0f} lines/s")


if __name__ == "__main__":
    main()
