"""Speed against graded similarity: the encoder in float32 and bf16, and what `diffcse export` makes of it.

    python -m benchmarks.export_curve FOLDER PAIRS.tsv --name all-MiniLM-L6-v2 --output docs/export-curve

The first sentences of the graded pairs are embedded, on one thread. Speed is in sentences for each second of processor
time, the median of rounds in which all ways take turns; so other programs on the machine disturb it little. It prints a
Markdown table, and writes OUTPUT.json and OUTPUT.svg.
"""

from __future__ import annotations

import argparse
import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from diffcse.encoder.encode import Encoder, use_bf16
from diffcse.encoder.export import agreement, export
from diffcse.encoder.load import load
from diffcse.evaluation.sts import read_pairs, score_sts
from diffcse.machine import tune
from diffcse.record import hardware, versions
from diffcse.report.forest import axis_range, ticks
from diffcse.report.parts import markdown_table

TARGETS = {"onnx": "ONNX Runtime", "onnx-int8": "ONNX Runtime, int8", "static": "static"}
Encode = Callable[[Sequence[str]], np.ndarray]
STYLE = (
    "<style>text{font:13px system-ui,sans-serif;fill:#333}line{stroke:#ccc}circle{fill:#3b6fb6}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}line{stroke:#555}circle{fill:#8ab4f8}}</style>"
)


def ways(encoder: Encoder, folder: Path, texts: Sequence[str]) -> dict[str, Encode]:
    """name -> what embeds."""
    made: dict[str, Encode] = {"diffcse embed, fp32": encoder}
    if use_bf16("auto"):
        made["diffcse embed, bf16"] = partial(encoder, bf16=True)
    for to, name in TARGETS.items():
        made[name] = export(encoder, folder / to, to, texts=texts).encode  # type: ignore[arg-type]
    return made


def measure(encoder: Encoder, pairs_file: Path, sentences: int, rounds: int) -> list[dict[str, Any]]:
    """Speed, Spearman and cosines of each way."""
    pairs = read_pairs(pairs_file)
    texts = list(dict.fromkeys(pairs.first))[:sentences]
    with tempfile.TemporaryDirectory() as folder:
        made = ways(encoder, Path(folder), texts)
        seconds: dict[str, list[float]] = {name: [] for name in made}
        for turn in range(rounds + 1):  # the first warms up
            for name, encode in made.items():
                start = time.process_time()
                encode(texts)
                if turn:
                    seconds[name].append(time.process_time() - start)
        exact = encoder(texts)
        rows = []
        for name, encode in made.items():
            least, mean = (None, None) if name == "static" else agreement(exact, encode(texts))
            speed = len(texts) / median(seconds[name])
            spearman = score_sts(encode, pairs).all.spearman
            rows.append({"way": name, "speed": speed, "spearman": spearman, "least": least, "mean": mean})
    return rows


def picture(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The ways as points, speed on a scale of factors, in one SVG for light and dark."""
    left, right, top, bottom = 60, 600, 40, 280
    low, high = axis_range([row["spearman"] for row in rows])
    speeds = [math.log10(row["speed"]) for row in rows]
    first, last = min(speeds) - 0.1, max(speeds) + 0.1

    def x(speed: float) -> float:
        return left + (math.log10(speed) - first) / (last - first) * (right - left)

    def y(score: float) -> float:
        return bottom - (score - low) / (high - low) * (bottom - top)

    parts = [f'<text x="{left}" y="20">{escape(title)}</text>']
    for tick in ticks(low, high):
        parts.append(f'<line x1="{left}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(f'<text x="{left - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    for step in (100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000):
        if first <= math.log10(step) <= last:
            parts.append(f'<line x1="{x(step):.1f}" x2="{x(step):.1f}" y1="{top}" y2="{bottom}"/>')
            parts.append(f'<text x="{x(step):.1f}" y="{bottom + 18}" text-anchor="middle">{step:,}</text>')
    parts.append(f'<text x="{right}" y="{bottom + 38}" text-anchor="end">sentences a second of one core</text>')
    for number, row in enumerate(rows):
        at, anchor = x(row["speed"]), "end" if x(row["speed"]) > (left + right) / 2 else "start"
        across, down = (-8 if anchor == "end" else 8), 16 if number % 2 else -8
        parts.append(f'<circle cx="{at:.1f}" cy="{y(row["spearman"]):.1f}" r="5"/>')
        label = f'x="{at + across:.1f}" y="{y(row["spearman"]) + down:.1f}" text-anchor="{anchor}"'
        parts.append(f"<text {label}>{escape(row['way'])}</text>")
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 325">{STYLE}{"".join(parts)}</svg>\n'


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print a table, write the figures and the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--name", help="the model's name in the picture; default: MODEL")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--sentences", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(argv)
    tune()
    encoder = load(options.model)
    rows = measure(encoder, options.pairs, options.sentences, options.rounds)
    name = options.name or options.model
    facts = {"model": name, "pairs": options.pairs.name, "hardware": hardware(), "versions": versions(), "rows": rows}
    options.output.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    svg = picture(f"{name}: Spearman on {options.pairs.stem}", rows)
    options.output.with_suffix(".svg").write_text(svg, encoding="utf-8")
    cells = [
        [
            row["way"],
            f"{row['speed']:,.0f}",
            f"{row['spearman']:.2f}",
            "–" if row["least"] is None else f"{row['least']:.5f}",
            "–" if row["mean"] is None else f"{row['mean']:.5f}",
        ]
        for row in rows
    ]
    print("\n".join(markdown_table(["way", "sentences/s", "Spearman", "least cosine", "mean cosine"], cells)))


if __name__ == "__main__":
    main()
