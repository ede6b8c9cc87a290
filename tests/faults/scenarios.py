"""The commands that must survive a fault, and what must be the same afterwards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.models import SENTENCES, save_tiny

GRID = """
title = "two rows"
columns = ["dev"]
reference = "one"
[[rows]]
name = "one"
label = "one"
[[rows]]
name = "two"
label = "two"
method.temperature = 0.1
"""
TRAIN = "train text.txt --recipe mini_cpu --model tiny --precision fp32 --batch-size 8 --select last --output out"
PACE = "--checkpoint-every 3 --log-every 2 --eval-every 3"


@dataclass(frozen=True)
class Scenario:
    """A command, the command that continues it, and what it leaves."""

    name: str
    command: str
    outcome: Callable[[Path], Any]
    again: str = ""
    """What is added to continue."""


def prepare(folder: Path) -> None:
    """Write the inputs: a tiny model, a text, graded pairs and a grid."""
    save_tiny(folder / "tiny", "bert")
    (folder / "text.txt").write_text("\n".join(SENTENCES[:40]) + "\n")
    rows = [f"{i % 5}\t{SENTENCES[i]}\t{SENTENCES[(i * 7 + 3) % 80]}" for i in range(20)]
    (folder / "dev.tsv").write_text("\n".join(rows) + "\n")
    (folder / "grid.toml").write_text(GRID)


def _hashes(folder: Path, *patterns: str) -> dict[str, str]:
    files = sorted(file for pattern in patterns for file in folder.glob(pattern))
    assert files, f"{folder}: nothing of {patterns}"
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def trained(folder: Path) -> dict[str, Any]:
    """Weights and log of a training run."""
    lines = [json.loads(line) for line in (folder / "out" / "log.jsonl").read_text().splitlines()]
    log = [{k: v for k, v in line.items() if not k.endswith("per_second")} for line in lines]
    return _hashes(folder / "out", "model/model.safetensors") | {"log": log, "left": _left(folder)}


def _left(folder: Path) -> list[str]:
    """Names in the folder without what processes leave for themselves: temporary names are a fault."""
    own = {"console.txt", "operations.txt", "cache"}
    return sorted(path.name for path in folder.iterdir() if path.name not in own)


def embedded(folder: Path) -> dict[str, Any]:
    """Parts and their rows."""
    import pyarrow.parquet as pq

    parts = sorted((folder / "parts").glob("*.parquet"))
    table = [row for part in parts for row in pq.read_table(part).to_pylist()]
    return {"rows": table, "parts": [part.name for part in parts], "left": _left(folder)}


def tabulated(folder: Path) -> dict[str, Any]:
    """Scores of every cell of a table."""
    cells = sorted((folder / "out").glob("cells/**/run.json"))
    return {str(cell.relative_to(folder)): json.loads(cell.read_text())["scores"]["dev"] for cell in cells}


def indexed(folder: Path) -> list[Any]:
    """Rows of an index, in their order."""
    import lancedb

    place = next((folder / "index").glob("**/*.lance"))
    table = lancedb.connect(str(place.parent)).open_table(place.stem)
    return sorted(table.to_arrow().to_pylist(), key=lambda row: row["row"])


SCENARIOS = [
    Scenario("train", f"{TRAIN} --epochs 2 {PACE}", trained, "--resume"),
    Scenario("train, accumulation 2", f"{TRAIN} --accumulation 2 --epochs 2 {PACE}", trained, "--resume"),
    Scenario(
        "pretrain",
        "pretrain text.txt --recipe masked --layers 1 --width 32 --heads 2 --vocabulary 100 --batch-tokens 256 "
        "--held-out 10 --precision fp32 --max-steps 8 --set checkpoint_every=2 --set eval_every=4 --output out",
        trained,
        "--resume",
    ),
    Scenario(
        "embed, parts",
        "embed tiny text.txt --pooling mean --precision fp32 --rows-per-part 12 --output parts",
        embedded,
    ),
    Scenario(
        "ablate",
        "ablate grid.toml text.txt --recipe mini_cpu --model tiny --dev dev.tsv --seeds 1 --max-steps 3 --output out "
        "--set training.batch_size=8 --set training.precision=fp32",
        tabulated,
    ),
    Scenario(
        "index", "index text.txt --model tiny --pooling mean --precision fp32 --output index", indexed, "--resume"
    ),
]
