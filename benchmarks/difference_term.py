"""When does the difference term reach the encoder? Gradient norms of both losses, and what a run makes of them.

    python benchmarks/difference_term.py CORPUS DEV.tsv --model mini --steps 200 --seeds 42 43 \\
        --rows "" "rtd_weight=0.5" "d_rate=8" "d_first=100" "difference=none"

A row is a list of `field=value` pairs. A field is one of the recipe's method section, or `rate` (learning rate),
`d_rate` (the discriminator's rate, as a multiple of it), or `d_first` (first steps, which train the discriminator
alone). At five steps of a run, both losses are differentiated separately by the encoder's weights. Each line prints
the norms |g_contrast| and lambda |g_difference|, the cosine between the two gradients, and both losses; the last line
prints the dev score. Batches, masks, dropout and the linear decay are those of a training run.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from torch import Tensor

from diffcse.config import Config, Method, Training
from diffcse.encoder.encode import Encoder, position_limit
from diffcse.evaluation.sts import PairSet, read_pairs, score_sts
from diffcse.machine import tuned
from diffcse.method import draws
from diffcse.method.build import build
from diffcse.method.paper import DiffCSE, Terms
from diffcse.text.corpus import Corpus, read_corpus
from diffcse.training.collate import Collate, Neighbours, epoch_order

BATCH, TOKENS = 64, 32


@tuned()
def main() -> None:
    """A table of gradient norms for each row and seed, and one of dev scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("dev", type=Path)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--rows", nargs="+", default=["", "difference=none"], help='"field=value field=value"')
    options = parser.parse_args()

    corpus, dev = read_corpus([options.corpus], documents=True), read_pairs(options.dev)
    scores: dict[str, list[float]] = {}
    print("| row | seed | step | contrast | rtd | g_contrast | lambda g_difference | cosine | dev |\n|" + "---|" * 9)
    for row in options.rows:
        for seed in options.seeds:
            settings = dict(pair.split("=") for pair in row.split())
            score = run(settings, seed, corpus, dev, options)
            scores.setdefault(row or "recipe", []).append(score)
    print("\n| row | dev, last step | sd | seeds |\n|---|---|---|---|")
    for row, found in scores.items():
        sd = f"{statistics.stdev(found):.2f}" if len(found) > 1 else "–"
        print(f"| {row} | {statistics.mean(found):.2f} | {sd} | {len(found)} |")


def run(settings: dict[str, str], seed: int, corpus: Corpus, dev: PairSet, options: argparse.Namespace) -> float:
    """Train one model, print its table, and return its dev score."""
    rate = float(settings.get("rate", options.rate))
    d_rate, d_first = float(settings.get("d_rate", 1)), int(settings.get("d_first", 0))
    fields = {name: read(value) for name, value in settings.items() if name not in ("rate", "d_rate", "d_first")}
    method = Method(**{"model": options.model, "generator": options.model, **fields})
    Config(method=method, training=Training(seed=seed))
    model, tokenizer = build(method, seed=seed)
    encoder = Encoder(model.encoder, tokenizer, method.pooling, position_limit(model.encoder, tokenizer))
    learner = [p for part in (model.discriminator, model.head) if part is not None for p in part.parameters()]
    judged = {id(p) for p in learner}
    seen = [p for p in model.parameters() if p.requires_grad and id(p) not in judged]
    watched = [p for p in model.encoder.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": seen, "factor": 1.0, "first": d_first},
            *([{"params": learner, "factor": d_rate, "first": 0}] if learner else []),
        ],
        weight_decay=0.0,
        fused=True,
    )
    examples = Neighbours(corpus) if method.reads_next else corpus
    order = epoch_order(len(corpus), seed, 0).tolist()
    collate = Collate(tokenizer, TOKENS, neighbours=method.reads_next)
    moments = {round(share * (d_first + options.steps - 1)) for share in (0, 0.05, 0.25, 0.5, 1)}
    for step in range(d_first + options.steps):
        for group in optimizer.param_groups:
            left = 1 - max(0, step - d_first) / options.steps
            group["lr"] = rate * left * group["factor"] * (step >= group["first"])
        batch = collate([examples[i] for i in order[step * BATCH : (step + 1) * BATCH]])
        model.train()
        torch.manual_seed(draws.key(seed, step) >> 1)
        with torch.autocast("cpu", torch.bfloat16):
            terms = model(batch, step=step)
        if step in moments:
            show(model, settings, seed, step, terms, watched, evaluate(encoder, dev))
        optimizer.zero_grad()
        terms.total.backward()
        torch.nn.utils.clip_grad_norm_([*seen, *learner], 1.0)
        optimizer.step()
    score = evaluate(encoder, dev)
    print(f"| {' '.join(f'{k}={v}' for k, v in settings.items()) or 'recipe'} | {seed} | end | | | | | | {score:.2f} |")
    return score


def evaluate(encoder: Encoder, dev: PairSet) -> float:
    """Spearman of cosine, points."""
    return score_sts(lambda sentences: encoder(sentences, bf16=True), dev).all.spearman


def show(
    model: DiffCSE, settings: dict[str, str], seed: int, step: int, terms: Terms, watched: list[Tensor], dev: float
) -> None:
    """One line: both gradients of this step's batch by the encoder's weights."""
    parts = []
    for loss, weight in ((terms.contrastive, 1.0), (terms.difference, model.choices.rtd_weight)):
        if loss is None:
            parts.append(None)
            continue
        found = torch.autograd.grad(loss * weight, watched, retain_graph=True, allow_unused=True)
        pairs = zip(watched, found, strict=True)
        parts.append(torch.cat([torch.zeros(p.numel()) if g is None else g.flatten() for p, g in pairs]))
    norms = ["–" if g is None else f"{g.norm():.2e}" for g in parts]
    both = all(g is not None and g.norm() > 0 for g in parts)
    cosine = f"{torch.cosine_similarity(*parts, dim=0):+.2f}" if both else "–"
    losses = ["–" if loss is None else f"{loss.item():.4f}" for loss in (terms.contrastive, terms.difference)]
    label = " ".join(f"{k}={v}" for k, v in settings.items()) or "recipe"
    print(
        f"| {label} | {seed} | {step} | {losses[0]} | {losses[1]} | {norms[0]} | {norms[1]} | {cosine} | {dev:.2f} |",
        flush=True,
    )


def read(text: str) -> str | int | float | bool:
    """A value as a recipe would have it."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


if __name__ == "__main__":
    main()
