"""One prepared run for the day a GPU is at hand: at most twelve minutes, every part written to disk as it ends.

    python -m benchmarks.gpu_run wiki.txt --dev DIR --output OUT                            # a GPU
    python -m benchmarks.gpu_run wiki.txt --dev DIR --output OUT --quick --device cpu       # the rehearsal

a. Speed of a BERT-base step (batch 64 and 512) and of embedding, beside the plain implementations; share of the bf16
   peak and the time of the paper's run (benchmarks.speed.step and .encode).
b. A language model of 6 layers x 384 from scratch on the text, for as many updates as --pretrain-minutes allow.
c. From it: SimCSE, the contrast with BatchNorm, and DiffCSE at λ 0.005 and 50, with five paired seeds. Scores of all
   STS files in DIR (`score<TAB>sentence<TAB>sentence`), and the paired difference from SimCSE with its interval.
d. Is (b) better than the bundled model on those files, within 25 MB? Then it should replace it.

The same command continues with the parts that are missing in OUT. Failures of one part do not stop the next.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from diffcse.config import Config, load_recipe, to_toml
from diffcse.files import write_json, write_text
from diffcse.pretraining.config import load_pretraining
from diffcse.pretraining.config import to_toml as pretraining_toml
from diffcse.record import hardware, read_record

METHODS: dict[str, dict[str, Any]] = {
    "SimCSE": {"difference": "none", "projector": "tanh"},
    "contrast with BatchNorm": {"difference": "none"},
    "DiffCSE, λ = 0.005": {},
    "DiffCSE, λ = 50": {"rtd_weight": 50.0},
}
LARGEST_MB = 25
Options = argparse.Namespace


def diffcse(*arguments: str | Path) -> list[str]:
    """The command `diffcse ...` of this environment."""
    return [sys.executable, "-m", "diffcse", *map(str, arguments)]


def execute(command: list[str], log: Path, seconds: float) -> None:
    """Run a command with its output in `log`.

    Raises:
        RuntimeError: it failed or took longer than `seconds`.
    """
    with log.open("w", encoding="utf-8") as out:
        try:
            done = subprocess.run(command, stdout=out, stderr=subprocess.STDOUT, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{log.name}: stopped after {seconds:.0f} s") from None
    if done.returncode:
        raise RuntimeError(f"{log.name}: exit code {done.returncode}: {log.read_text('utf-8')[-400:]}")


# ---- the parts -----------------------------------------------------------------------------------------------------


def speed(options: Options) -> dict[str, Any]:
    """Part (a): the speed benchmarks on this device."""
    made = {}
    for name in ("step", "encode"):
        command = [sys.executable, "-m", f"benchmarks.speed.{name}", "--device", options.device, "--rounds", "5"]
        command += ["--results", str(options.output), "--seconds", "50"] + ["--quick"] * options.quick
        command += [] if options.quick or name == "encode" else ["--shape", "base", "--batch", "64", "512"]
        execute(command, options.output / f"{name}.log", 150)
        suffix = "" if options.device == "cpu" else f"-{options.device}"
        made[name] = json.loads((options.output / f"{name}{suffix}.json").read_text("utf-8"))["groups"]
    return made


def pretrain(options: Options) -> dict[str, Any]:
    """Part (b): a short run measures the rate, then the model gets as many updates as fit."""
    shape: dict[str, Any] = {"layers": 6, "batch_tokens": 65_536}
    if options.quick:
        shape = {"layers": 2, "width": 64, "heads": 2, "intermediate": 128, "vocabulary": 500, "held_out": 200}
    config = dataclasses.replace(load_pretraining("masked"), name="gpu_run", **shape)
    probe = _pretrain(options, dataclasses.replace(config, max_steps=20), "probe")
    seconds = config.batch_tokens / probe.timing["tokens_per_second"]
    steps = 20 if options.quick else max(20, int(60 * options.pretrain_minutes / seconds))
    record = _pretrain(options, dataclasses.replace(config, max_steps=steps), "language_model")
    return {"steps": steps, "seconds_a_step": seconds, "scores": record.scores}


def _pretrain(options: Options, config: Any, name: str) -> Any:
    recipe, folder = options.output / f"{name}.toml", options.output / name
    every = dataclasses.replace(config, log_every=5, eval_every=10**6, checkpoint_every=10**6)
    write_text(recipe, pretraining_toml(every))
    command = diffcse("pretrain", options.text, "--recipe", recipe, "--output", folder)
    execute(command, options.output / f"{name}.log", 60 * options.pretrain_minutes + 120)
    return read_record(folder / "run.json")


def compare(options: Options) -> dict[str, Any]:
    """Part (c): every method with every seed, several at once; scores and paired differences."""
    jobs = [(method, seed) for seed in options.seeds for method in METHODS]
    with ThreadPoolExecutor(options.at_once) as pool:
        scores = dict(zip(jobs, pool.map(lambda job: _train(options, *job), jobs), strict=True))
    start = score(options, options.output / "language_model" / "model", "start")
    rows = {}
    for method in METHODS:
        averages = [float(np.mean(list(scores[method, seed].values()))) for seed in options.seeds]
        floor = [float(np.mean(list(scores["SimCSE", seed].values()))) for seed in options.seeds]
        gains = np.subtract(averages, floor)
        half = stats.t.ppf(0.975, len(gains) - 1) * stats.sem(gains) if len(gains) > 1 else float("nan")
        rows[method] = {
            "average": float(np.mean(averages)),
            "against SimCSE": [float(gains.mean()), float(gains.mean() - half), float(gains.mean() + half)],
            "by seed": {seed: scores[method, seed] for seed in options.seeds},
        }
    return {"start": start, "rows": rows, "steps": options.steps}


def _train(options: Options, method: str, seed: int) -> dict[str, float]:
    folder = options.output / f"train-{list(METHODS).index(method)}-{seed}"
    base = load_recipe("diffcse_bert_base_sts")
    language_model = str(options.output / "language_model" / "model")
    changes = {"model": language_model, "generator": None, "pooling": "mean", **METHODS[method]}
    if changes.get("difference") != "none":
        changes["generator"] = language_model
    training = dataclasses.replace(
        base.training, max_steps=options.steps, seed=seed, select="last", eval_every=options.steps, dev=None,
        learning_rate=3e-5, checkpoint_every=options.steps,
    )  # fmt: skip
    config: Config = dataclasses.replace(base, method=dataclasses.replace(base.method, **changes), training=training)
    recipe = options.output / f"{folder.name}.toml"
    write_text(recipe, to_toml(config))
    execute(diffcse("train", options.text, "--recipe", recipe, "--output", folder), recipe.with_suffix(".log"), 400)
    return score(options, folder / "model", folder.name)


def score(options: Options, model: Path | str, name: str) -> dict[str, float]:
    """Spearman correlation, in points, of the model's cosines on each STS file."""
    from diffcse.encoder.load import load
    from diffcse.evaluation.sts import read_pairs, score_sts

    encoder = load(str(model), pooling="mean" if name == "start" else None)
    files = sorted(options.dev.glob("*.tsv"))
    return {file.stem: score_sts(encoder, read_pairs(file)).all.spearman for file in files}


def replace_bundled(options: Options) -> dict[str, Any]:
    """Part (d): the new language model against the bundled one."""
    folder = options.output / "language_model" / "model"
    mine, bundled = score(options, folder, "start"), score(options, "mini", "mini")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    better = float(np.mean(list(mine.values()))) > float(np.mean(list(bundled.values())))
    return {"new": mine, "bundled": bundled, "megabytes": size, "replace": better and size <= LARGEST_MB}


PARTS: dict[str, Callable[[Options], dict[str, Any]]] = {
    "a_speed": speed,
    "b_pretrain": pretrain,
    "c_methods": compare,
    "d_replace": replace_bundled,
}


def main(arguments: list[str] | None = None) -> None:
    """Run the parts that are missing, each for itself."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="sentences, one a line")
    parser.add_argument("--dev", type=Path, required=True, help="folder of STS files")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--pretrain-minutes", type=float, default=3.5)
    parser.add_argument("--steps", type=int, default=3000, help="updates of each training of part c")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--at-once", type=int, default=10, help="trainings that share the GPU")
    parser.add_argument("--quick", action="store_true", help="tiny models and few steps: does everything run?")
    options = parser.parse_args(arguments)
    if options.quick:
        options.steps, options.seeds, options.at_once = 4, options.seeds[:2], 1
    options.output.mkdir(parents=True, exist_ok=True)
    os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0") if options.device == "cuda" else ""
    failed = 0
    for name in options.parts:
        file, began = options.output / f"{name}.json", time.perf_counter()
        if file.exists():
            continue
        try:
            result = PARTS[name](options)
        except Exception as error:
            print(f"{name}: failed: {error}", flush=True)
            failed += 1
            continue
        facts = {"part": name, "seconds": time.perf_counter() - began, "hardware": hardware(), "result": result}
        write_json(file, facts)
        print(f"{name}: {facts['seconds']:.0f} s", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
