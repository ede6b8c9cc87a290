"""SimCSE and DiffCSE on a small model with equal search budgets: the same grid, steps, batches and seeds.

    python benchmarks/search_mini.py CORPUS DEV.tsv OUTPUT --steps 300 --seeds 42 --grid learning_rate=5e-5,1e-4

Each cell is an ordinary training run under OUTPUT. A complete run is not repeated. The Markdown table has the dev
score of the last step, because the best step on the same dev set would favour the noisier method.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import statistics
from pathlib import Path

from diffcse.config import Config, Method, Training
from diffcse.text.corpus import read_corpus
from diffcse.training.run import run

METHODS = {
    "SimCSE": {"difference": "none"},
    "DiffCSE": {},
    "SimCSE-next": {"difference": "none", "positives": "next"},
    "DiffCSE-next": {"positives": "next"},
    "SimCSE-both": {"difference": "none", "positives": "both"},
}


def main() -> None:
    """Run the grid and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("dev")
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--methods", nargs="+", default=["SimCSE", "DiffCSE"], choices=list(METHODS))
    parser.add_argument("--grid", nargs="*", default=[], help="field=value,value,...")
    parser.add_argument("--eval-every", type=int, default=100)
    options = parser.parse_args()

    corpus = read_corpus([options.corpus], documents=True)
    axes = {name: values.split(",") for name, _, values in (item.partition("=") for item in options.grid)}
    rows: dict[tuple[str, ...], list[float]] = {}
    for name in options.methods:
        for cell in itertools.product(*axes.values()):
            for seed in options.seeds:
                method, training = dict(METHODS[name]), {"learning_rate": 2e-4}
                for field, text in zip(axes, cell, strict=True):
                    section = method if field in {f.name for f in dataclasses.fields(Method)} else training
                    section[field] = _value(text)
                config = Config(
                    method=Method(**method),
                    training=Training(
                        seed=seed,
                        max_steps=options.steps,
                        dev=options.dev,
                        eval_every=options.eval_every,
                        checkpoint_every=options.steps,
                        log_every=50,
                        **training,
                    ),
                )
                folder = options.output / "-".join([name, *cell, str(seed), str(options.steps)])
                record = run(config, corpus, folder, resume=True).record
                dev = record.scores["dev"]
                rows.setdefault((name, *cell), []).append(dev["last"])
                print(json.dumps({"run": folder.name, **dev}), flush=True)
    print(f"\n| method | {' | '.join(axes)} | dev, last step | sd | seeds |\n|{'---|' * (len(axes) + 4)}")
    for key, scores in rows.items():
        sd = f"{statistics.stdev(scores):.2f}" if len(scores) > 1 else "-"
        print(f"| {' | '.join(key)} | {statistics.mean(scores):.2f} | {sd} | {len(scores)} |")


def _value(text: str) -> str | int | float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


if __name__ == "__main__":
    main()
