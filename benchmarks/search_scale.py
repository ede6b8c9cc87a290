"""An index of a million vectors on disk: times to build and to answer, recall, disk and memory.

    python -m benchmarks.search_scale FOLDER --rows 1000000 --steps write exact ivf-pq hnsw

The vectors are random: a mixture of Gaussians in 48 dimensions, mapped to 384 with a little noise, length 1. Embeddings
of texts have such a low inner dimension; independent numbers would make every approximate index look bad. Queries are
drawn from the same mixture, none is a row. Steps may run in several calls on one FOLDER, which keeps the vectors and
the figures. Every search step runs in a process of its own, so that its memory is its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from diffcse.encoder.inputs import Batch
from diffcse.record import hardware, versions
from diffcse.searching.ann import Ann, recall
from diffcse.searching.place import Place
from diffcse.searching.table import Appender, Table

WIDTH, INNER, CENTRES, BLOCK = 384, 48, 5_000, 16_384


def vectors(rng: np.random.Generator, rows: int, centres: np.ndarray, to_width: np.ndarray) -> np.ndarray:
    """Unit rows of the mixture, (rows, 384) float32."""
    inner = centres[rng.integers(0, len(centres), rows)] + 0.5 * rng.standard_normal((rows, INNER), dtype=np.float32)
    made = inner @ to_width + 0.05 * rng.standard_normal((rows, WIDTH), dtype=np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def mixture(seed: int) -> tuple[np.random.Generator, np.ndarray, np.ndarray]:
    """(generator, centres, map to the full width)"""
    rng = np.random.default_rng(seed)
    to_width = rng.standard_normal((INNER, WIDTH), dtype=np.float32) / np.float32(INNER**0.5)
    return rng, rng.standard_normal((CENTRES, INNER), dtype=np.float32), to_width


def write(folder: Path, rows: int) -> dict[str, Any]:
    """Write the rows to a new table, as `diffcse index` commits them."""
    shutil.rmtree(folder / "index", ignore_errors=True)
    (folder / "index").mkdir(parents=True)
    rng, centres, to_width = mixture(0)
    table = Table.create(Place.of(folder / "index"), pa.schema([("part", pa.int64())]), WIDTH, "cosine")
    appender, seconds = Appender(table, 0), 0.0
    for first in range(0, rows, BLOCK):
        count = min(BLOCK, rows - first)
        made = vectors(rng, count, centres, to_width)
        texts = [f"row {row}" for row in range(first, first + count)]
        kept = pa.table({"part": pa.array([row % 100 for row in range(first, first + count)], pa.int64())})
        start = time.perf_counter()
        appender.write(Batch(first, texts, kept), made)
        seconds += time.perf_counter() - start
    start = time.perf_counter()
    appender.close()
    return {"build s": seconds + time.perf_counter() - start}


def ask(folder: Path, rows: int, kind: str, count: int) -> dict[str, Any]:
    """Times of `count` queries one after the other, on a table that is opened for them."""
    _, centres, to_width = mixture(0)
    queries = vectors(np.random.default_rng(1), count + 5, centres, to_width)
    table = Table.open(Place.of(folder / "index"), None, "cosine")
    ann = None if kind == "exact" else Ann.of(kind, rows, WIDTH)  # type: ignore[arg-type]
    times = []
    for query in queries:
        start = time.perf_counter()
        table.nearest(query, 10, where=None, ann=ann)
        times.append(1000 * (time.perf_counter() - start))
    filtered = []
    for query in queries[: count // 4]:
        start = time.perf_counter()
        table.nearest(query, 10, where="part = 7", ann=ann)
        filtered.append(1000 * (time.perf_counter() - start))
    warm = times[5:]
    return {
        "p50 ms": float(np.median(warm)),
        "p95 ms": float(np.percentile(warm, 95)),
        "p50 ms, 1 % pass a filter": float(np.median(filtered)),
        "peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "queries": count,
    }


def build(folder: Path, rows: int, kind: str) -> dict[str, Any]:
    """Build an approximate index and measure its recall on 1,000 rows."""
    table = Table.open(Place.of(folder / "index"), None, "cosine")
    ann = Ann.of(kind, rows, WIDTH)  # type: ignore[arg-type]
    start = time.perf_counter()
    table.index_vectors(ann)
    seconds = time.perf_counter() - start

    def nearest(query: np.ndarray, k: int) -> list[int]:
        return table.nearest(query, k, where=None, ann=ann)["row"].to_pylist()

    start = time.perf_counter()
    share = recall(table.vectors, rows, nearest, is_product=True)
    measuring = time.perf_counter() - start
    return {"build s": seconds, "recall@10": share, "recall measured in s": measuring, **ann.to_dict()}


def size(folder: Path) -> float:
    """Gigabytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9


def main() -> None:
    """Run the steps and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--steps", nargs="+", default=["write", "exact", "ivf-pq"])
    parser.add_argument("--ask", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ask:
        print(json.dumps(ask(options.folder, options.rows, options.ask, 40 if options.ask == "exact" else 400)))
        return
    path = options.folder / "figures.json"
    figures = json.loads(path.read_text()) if path.exists() else {"hardware": hardware(), "versions": versions()}
    for step in options.steps:
        facts = write(options.folder, options.rows) if step == "write" else {}
        if step in ("ivf-pq", "hnsw"):
            facts = build(options.folder, options.rows, step)
            facts["GB on disk"] = size(options.folder / "index" / "rows.lance" / "_indices")
        if step != "write":
            command = [sys.executable, "-m", __spec__.name, str(options.folder), "--rows", str(options.rows)]
            done = subprocess.run([*command, "--ask", step], check=True, capture_output=True, text=True)
            facts |= json.loads(done.stdout)
        else:
            facts["GB on disk"] = size(options.folder / "index")
        figures[step] = {"rows": options.rows, **facts}
        path.write_text(json.dumps(figures, indent=2) + "\n")
        print(step, json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
