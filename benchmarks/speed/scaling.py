"""Sentences a second and peak memory as batches, sentences, corpus and threads grow: `diffcse embed`, `diffcse train`.

    python -m benchmarks.speed.scaling [sentences.txt] [--model mini] [--lines 2000 10000] [--batch 64 256 1024]

Each cell is one process that runs the command, so its peak memory is its own. Seconds are those of the whole process.
Sentences a second are what the command reports, without start and loading. Cells with several processes run them at
once, each with one thread and an equal part of the corpus; their memory is added up.
"""

from __future__ import annotations

import itertools
import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.speed import measure
from benchmarks.speed.measure import Group, Sample
from diffcse.machine import cores

_CLI = (sys.executable, "-m", "diffcse")


def corpus(pool: Sequence[str], lines: int, target: Path, *, words: int | None = None, split: int = 1) -> list[Path]:
    """`lines` distinct lines in `split` files, going round the sentences; each of so many words, or as they are."""
    text = itertools.cycle(pool)
    stream = (word for sentence in text for word in sentence.split())
    files = [target.with_suffix(f".{part}.txt") for part in range(split)]
    for part, file in enumerate(files):
        with file.open("w", encoding="utf-8") as out:
            for number in range(lines * part // split, lines * (part + 1) // split):
                line = next(text) if words is None else " ".join(itertools.islice(stream, words - 1))
                out.write(f"{number} {line}\n")
    return files


def embed(model: str, files: Sequence[Path], *options: str, **environment: str) -> Sample:
    """`diffcse embed` of each file at once: wall seconds of all; CPU seconds, memory and rates added up."""

    def one(file: Path) -> Sample:
        output = str(file.with_suffix(".npy"))
        return measure.child(
            [*_CLI, "embed", model, str(file), "--output", output, "--pooling=mean", *options], **environment
        )

    began = time.perf_counter()
    with ThreadPoolExecutor(len(files)) as pool:
        parts = list(pool.map(one, files))
    wall = time.perf_counter() - began
    rate = sum(rate_in(part["printed"]) for part in parts)
    return {"wall": wall, "rate": rate, **{key: sum(part[key] for part in parts) for key in ("cpu", "peak_mb")}}


def rate_in(printed: str) -> float:
    """The sentences a second that `diffcse embed` says at its end.

    Raises:
        RuntimeError: it does not.
    """
    found = re.search(r"([\d,]+) sentences/s\)", printed)
    if not found:
        raise RuntimeError(f"no sentences/s in what diffcse embed printed: {printed}")
    return float(found[1].replace(",", ""))


def train(model: str, text: Path, batch: int, steps: int) -> Sample:
    """`diffcse train` of twice so many steps, with the sentences a second that it logs of the second half.

    One entry a half: at every entry training gives memory back, which would slow each step if each were logged.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = [
            f"--{name}={value}"
            for name, value in {"batch-size": batch, "max-steps": 2 * steps, "log-every": steps}.items()
        ]
        options += ["--recipe=mini_cpu", "--checkpoint-every=100000", f"--model={model}", "--output", f"{folder}/run"]
        sample = measure.child([*_CLI, "train", str(text), *options])
        log = json.loads(Path(folder, "run", "run.json").read_text(encoding="utf-8"))["log"]
    return {**sample, "rate": log[-1]["sentences_per_second"]}


def embedding(options: Any, pool: Sequence[str], work: Path) -> Iterator[Group]:
    """Groups in which batch tokens, length, corpus size, and threads or processes grow."""
    base = min(options.lines)
    plain = corpus(pool, base, work / "plain")
    halves = corpus(pool, base, work / "halves", split=len(cores()))
    run = partial(embed, options.model)
    groups: dict[str, dict[str, Callable[[], Sample]]] = {
        "tokens of a batch": {
            f"{tokens:,} tokens": partial(run, plain, f"--batch-tokens={tokens}")
            for tokens in ((4096,) if options.quick else (512, 4096, 32768))
        },
        "words of a sentence": {
            f"{words} words": partial(run, corpus(pool, base, work / f"w{words}", words=words))
            for words in ((8,) if options.quick else (8, 32, 128))
        },
        "lines of the corpus": {
            f"lines: {lines:,}": partial(run, corpus(pool, lines, work / f"n{lines}")) for lines in (1, *options.lines)
        },
        "threads and processes": {
            f"threads: {threads}": partial(run, plain, OMP_NUM_THREADS=str(threads))
            for threads in sorted({1, len(cores())})
        },
    }
    if len(cores()) > 1:  # not bound to cores: each would take the first
        one_each = partial(run, halves, OMP_NUM_THREADS="1", OMP_PROC_BIND="false")
        groups["threads and processes"][f"processes of 1 thread: {len(cores())}"] = one_each
    for name, cells in groups.items():
        print(f"embedding, by {name}", flush=True)
        turns = {cell: measure.always(call) for cell, call in cells.items()}
        samples = measure.interleave(turns, rounds=options.rounds, seconds=options.seconds)
        group = Group(f"`diffcse embed`, by {name}", [], {"model": options.model}, chart="sentences/s")
        group.add(samples, figures)
        yield group


def figures(_: str, own: list[Sample]) -> dict[str, float]:
    """Medians of rate and memory."""
    return {
        "sentences/s": statistics.median(sample["rate"] for sample in own),
        "peak MB": statistics.median(sample["peak_mb"] for sample in own),
    }


def training(options: Any, pool: Sequence[str], work: Path) -> Group:
    """Training as the batch grows, on about as many sentences each."""
    batches = [8] if options.quick else options.batch
    text = corpus(pool, 2 * max(batches), work / "train")[0]
    steps = {batch: 2 if options.quick else max(2, options.sentences // batch) for batch in batches}
    print("training, by batch", flush=True)
    turns = {
        f"batch {batch}": measure.always(partial(train, options.model, text, batch, steps[batch])) for batch in batches
    }
    samples = measure.interleave(turns, rounds=options.rounds, seconds=options.seconds)
    facts = {"model": options.model, "timed steps": list(steps.values())}
    group = Group("`diffcse train`, by batch", [], facts, chart="sentences/s")
    group.add(samples, figures)
    return group


def main(argv: Sequence[str] | None = None) -> Path:
    """Measure, and write the result."""
    parser = measure.parser(__doc__, rounds=1)
    parser.add_argument("--model", default="mini", help="model folder (default: mini, the bundled one)")
    parser.add_argument("--lines", type=int, nargs="+", default=[2000, 10_000], help="up to 10,000,000, with patience")
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--sentences", type=int, default=512, help="of the timed half of training, or 2 steps")
    options = parser.parse_args(argv)
    if options.quick:
        options.lines = [40]
    result = measure.start("scaling", argv)
    pool = measure.read_text(options.text)
    with tempfile.TemporaryDirectory() as folder:
        groups = [*embedding(options, pool, Path(folder)), training(options, pool, Path(folder))]
    return measure.finish(result, options.seed, groups, options.results)


if __name__ == "__main__":
    main()
