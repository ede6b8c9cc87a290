"""Seconds and peak memory of reading, training on and embedding millions of lines, to see that memory stays flat.

    python -m benchmarks.scale FOLDER TEXT... --rows 1000000 10000000

The lines are a number and the first words of those in the text files, which are repeated until there are enough. So
all are distinct, which is the worst case for reading. Each part runs in a process of its own:

    read    `read_corpus`, into a new cache in FOLDER
    train   20 steps of `diffcse train --recipe mini_difference` on that cache
    embed   `diffcse embed` into a folder of parts. The encoder is random and tiny (32 dimensions, one layer, 14 words),
            because it does not change how memory grows.
    check   `diffcse embed --check`: every row is there once

Peak memory is the process's own (`getrusage`). It counts pages of files that the process has mapped or written lately,
which the system may take back. So the private memory, without such pages, stands beside it. It is that of the process
and its workers, sampled twice a second. Finished parts are kept in FOLDER/scale.json, and a rerun replaces them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.read_corpus import lines

PARTS = ("read", "train", "embed", "check")
READ = "import sys; from diffcse.text.corpus import read_corpus; print(len(read_corpus(sys.argv[1:])))"
MODEL = "import sys; from benchmarks.scale import write_model; write_model(sys.argv[1])"


def main() -> None:
    """Measure the parts that are asked for, keep the figures as JSON and print them as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for text, cache and embeddings: about 4 GB for 10 million rows")
    parser.add_argument("text", nargs="+", type=Path, help="text files, one sentence a line; .xz is unpacked")
    parser.add_argument("--rows", nargs="+", type=int, default=[1_000_000, 10_000_000])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--words", type=int, default=6, help="words of a line")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for rows in options.rows:
        for part in options.parts:
            figures = measure(command(part, rows, options), {"XDG_CACHE_HOME": str(options.folder.resolve() / "cache")})
            keep(options.folder / "scale.json", {"rows": rows, "part": part, **figures})
    print(table(json.loads((options.folder / "scale.json").read_text())["parts"]))


def command(part: str, rows: int, options: argparse.Namespace) -> list[str]:
    """The command of a part, after its input is written."""
    folder, diffcse = options.folder, [sys.executable, "-m", "diffcse"]
    text = folder / f"text-{rows}.txt"
    write(text, (" ".join(line.split()[: 1 + options.words]) for line in lines(options.text, rows)))
    if part == "read":
        shutil.rmtree(folder / "cache", ignore_errors=True)
        return [sys.executable, "-c", READ, str(text)]
    if part == "train":
        shutil.rmtree(folder / f"run-{rows}", ignore_errors=True)
        train = ["--recipe", "mini_difference", "--max-steps", "20", "--select", "last"]
        return [*diffcse, "train", str(text), *train, "--output", str(folder / f"run-{rows}")]
    model = folder / "model"
    if not model.exists():
        subprocess.run([sys.executable, "-c", MODEL, str(model)], check=True, capture_output=True)
    embed = [*diffcse, "embed", str(model), str(text), "--output", str(folder / f"parts-{rows}"), "--pooling", "mean"]
    return [*embed, "--check"] if part == "check" else [*embed, "--precision", "fp32", "--overwrite"]


def write_model(folder: str) -> None:
    """A random encoder of 32 dimensions, whose tokenizer splits at spaces. The parent never runs it: torch is large."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "of", "in", "and", "a", "is", "was", "to", "born", "he"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **special).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=64, **sizes)).save_pretrained(folder)


def write(target: Path, made: Iterator[str]) -> None:
    """Write the lines, unless they are there."""
    if not target.exists():
        with target.with_suffix(".partial").open("w", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in made)
        target.with_suffix(".partial").rename(target)


def measure(command: list[str], environment: dict[str, str]) -> dict[str, float]:
    """Run a command to its end: its seconds, processor seconds and memory in MB."""
    began = time.perf_counter()
    process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL)
    watched, private = psutil.Process(process.pid), [0.0]
    while True:
        ended, status, used = os.wait4(process.pid, os.WNOHANG)
        if ended:
            break
        private.append(private_mb(watched))
        time.sleep(0.5)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"ended with status {process.returncode}: {' '.join(command)}")
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_mb": round(used.ru_maxrss / 1024),
        "private_mb": round(max(private)),
        "private_mb_by_half": round(max(private[: len(private) // 2 + 1])),
    }


def private_mb(process: psutil.Process) -> float:
    """Memory of a process and its workers that no file backs, in MB."""
    total = 0
    for member in [process, *process.children(recursive=True)]:
        try:
            memory = member.memory_info()
        except psutil.Error:  # it has just ended
            continue
        total += memory.rss - memory.shared
    return total / 2**20


def keep(path: Path, figures: dict[str, Any]) -> None:
    """Add the figures of a part to the JSON file, in place of older ones."""
    parts = json.loads(path.read_text())["parts"] if path.exists() else []
    parts = [old for old in parts if (old["rows"], old["part"]) != (figures["rows"], figures["part"])] + [figures]
    parts.sort(key=lambda kept: (PARTS.index(kept["part"]), kept["rows"]))
    machine = {"system": f"{platform.system()} {platform.machine()}", "cores": os.cpu_count()}
    machine["threads"] = os.environ.get("OMP_NUM_THREADS", "as many as cores")
    path.write_text(json.dumps({"command": "python -m benchmarks.scale", "machine": machine, "parts": parts}, indent=2))


def table(parts: list[dict[str, Any]]) -> str:
    """The parts as Markdown."""
    head = "| part | rows | by the clock, s | CPU s | peak MB | private MB, first half | private MB |\n"
    head += "|---|---|---|---|---|---|---|\n"
    return head + "\n".join(
        f"| {p['part']} | {p['rows']:,} | {p['seconds']:,.0f} | {p['cpu_seconds']:,.0f} | {p['peak_mb']:,} "
        f"| {p['private_mb_by_half']:,} | {p['private_mb']:,} |"
        for p in parts
    )


if __name__ == "__main__":
    main()
