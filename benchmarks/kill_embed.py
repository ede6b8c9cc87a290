"""A folder of parts under random kills: 1,000,000 short texts, two shards at once, each killed again and again.

    python benchmarks/kill_embed.py killed                 # a new folder; about ten minutes on two cores

Every process is a fork of this one that runs `diffcse embed ... --shard i/2`, and gets SIGKILL at a random moment.
After the last kill both shards run to their end. Then every row is counted and compared with its line, and 1,000 random
rows with an embedding made in one go. The encoder is random and tiny (32 dimensions, one layer): writing counts here.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from pyarrow import parquet
from transformers import BertConfig, BertModel

import diffcse.encoder.parts  # noqa: F401
from diffcse.cli import main as command
from diffcse.encoder.inputs import Sentences
from diffcse.encoder.load import load
from diffcse.encoder.manifest import check, part_files
from diffcse.method.loading import MINI, load_tokenizer

SHARDS = 2


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Run the processes and the kills, print the figures as JSON, and return them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=110)
    parser.add_argument("--longest", type=float, default=4.0, help="seconds a process lives at most before its kill")
    parser.add_argument("--rows-per-part", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    draw = random.Random(options.seed)
    options.folder.mkdir(parents=True)
    text, model = write_text(options.folder / "text.txt", options.rows, draw), options.folder / "model"
    pid = os.fork()  # so that this process itself never computes, and its forks begin clean
    if pid == 0:
        write_model(model)
        os._exit(0)
    os.waitpid(pid, 0)
    began = time.monotonic()
    output = options.folder / "parts"
    embed = ["embed", str(model), str(text), "--output", str(output), "--pooling", "mean", "--precision", "fp32"]
    embed += ["--rows-per-part", str(options.rows_per_part)]
    kills, runs = run_and_kill(embed, options.kills, options.longest, draw)
    seconds = time.monotonic() - began
    figures = {"kills": kills, "runs": runs, "seconds": round(seconds), **measure(output, text, model, draw)}
    print(json.dumps(figures))
    return figures


def write_text(path: Path, rows: int, draw: random.Random) -> Path:
    """Lines of 3 to 8 words; every line has its number, so no two are equal."""
    words = "the a old cold river sea town house bird tree stone letter king night long small saw made".split()  # noqa: SIM905
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            file.write(f"{number} {' '.join(draw.choices(words, k=draw.randint(2, 7)))}\n")
    return path


def write_model(folder: Path) -> None:
    """A random encoder of 32 dimensions with the bundled tokenizer."""
    tokenizer = load_tokenizer(MINI)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(tokenizer), initializer_range=0.2, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def run_and_kill(embed: list[str], kills: int, longest: float, draw: random.Random) -> tuple[int, int]:
    """Keep one process a shard running, kill it at random times, `kills` times in all; then let all end."""
    done = runs = 0
    running: dict[int, tuple[int, float]] = {}  # shard -> (process, when it is killed)
    complete: set[int] = set()
    while len(complete) < SHARDS:
        for shard in range(SHARDS):
            if shard not in running and shard not in complete:
                life = draw.uniform(0.1, longest) if done + len(running) < kills else float("inf")
                running[shard] = start([*embed, "--shard", f"{shard}/{SHARDS}"]), time.monotonic() + life
                runs += 1
        time.sleep(0.01)
        for shard, (process, end) in list(running.items()):
            ended, status = os.waitpid(process, os.WNOHANG)
            if not ended and time.monotonic() > end:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
                done += 1
                del running[shard]
            elif ended:
                assert status == 0, f"a process ended with status {status}"
                complete.add(shard)
                del running[shard]
    return done, runs


def start(arguments: list[str]) -> int:
    """A fork of this process that runs one command; its id."""
    process = os.fork()
    if process == 0:
        with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):  # noqa: PTH123
            try:
                command(arguments)
            except BaseException as error:  # the fork must never return into this script
                print(error)
                os._exit(1)
        os._exit(0)
    return process


def measure(output: Path, text: Path, model: Path, draw: random.Random) -> dict[str, float]:
    """Count rows, compare texts with lines, and a sample of embeddings with the same made at once."""
    lines = text.read_text(encoding="utf-8").splitlines()
    seen = np.zeros(len(lines), dtype=int)
    sample = sorted(draw.sample(range(len(lines)), min(1000, len(lines))))
    expected = load(model, pooling="mean")([lines[row] for row in sample])
    wrong_texts, difference = 0, 0.0
    for path in part_files(output).values():
        table = parquet.read_table(path)
        ids = table["id"].to_numpy()
        np.add.at(seen, ids, 1)
        wrong_texts += sum(lines[row] != line for row, line in zip(ids, table["text"].to_pylist(), strict=True))
        rows = np.array(table["embedding"].to_pylist(), dtype=np.float32)
        places = [(i, int(np.searchsorted(ids, row))) for i, row in enumerate(sample) if ids[0] <= row <= ids[-1]]
        difference = max([difference, *(float(np.abs(rows[at] - expected[i]).max()) for i, at in places)])
    parts, rows_checked = check(output, Sentences([text]))
    return {
        "rows": int((seen > 0).sum()),
        "missing": int((seen == 0).sum()),
        "twice": int((seen > 1).sum()),
        "wrong_texts": wrong_texts,
        "largest_difference": difference,
        "parts": parts,
        "rows_checked": rows_checked,
        "temporary_files_left": len([*output.glob(".part*")]),
    }


if __name__ == "__main__":
    main()
