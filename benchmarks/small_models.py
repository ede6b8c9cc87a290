"""Makes the small language models that `diffcse ablate` asks for and that are not in the package.

    python benchmarks/small_models.py 'wiki/*.txt.xz' --tokenizer mini --output models

They are six generators of different sizes and a causal model, all in the vocabulary of the tokenizer. Each is an
ordinary run of `pretrain` under OUTPUT/NAME: a complete run is not repeated, and a killed run is resumed. The Markdown
table has their losses on the same held-out sentences. With --dev it also has the scores of their embeddings before any
contrastive training. An example of their use:

    diffcse ablate generator TEXT --output table --set base=models/base/model --set distil=models/distil/model \\
        --set medium=models/medium/model --set small=models/small/model --set mini=models/mini/model \\
        --set tiny=models/tiny/model
    diffcse ablate edits TEXT --output table --set causal=models/causal/model

The published tables used fewer steps: --steps 1500, and 500 for the causal model.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from diffcse.config import Pooling
from diffcse.encoder.load import load
from diffcse.evaluation.sts import PairSet, read_pairs, score_sts
from diffcse.method.loading import named
from diffcse.pretraining.config import Pretraining
from diffcse.pretraining.run import Pretrained, pretrain
from diffcse.text.corpus import Corpus, read_corpus

MODELS = {
    "base": {"layers": 2, "width": 384, "intermediate": 1536, "heads": 6},
    "distil": {"layers": 1, "width": 384, "intermediate": 1536, "heads": 6},
    "medium": {"layers": 4, "width": 256, "intermediate": 1024, "heads": 4},
    "small": {"layers": 2, "width": 128, "intermediate": 512, "heads": 2},
    "mini": {"layers": 1, "width": 128, "intermediate": 512, "heads": 2},
    "tiny": {"layers": 1, "width": 64, "intermediate": 256, "heads": 2},
    "causal": {"layers": 2, "width": 256, "intermediate": 1024, "heads": 4, "objective": "causal"},
}
STEPS = {**dict.fromkeys(MODELS, 4000), "causal": 3000}
"""Weight updates unless told otherwise, of 8,192 tokens each."""


def main(arguments: list[str] | None = None) -> None:
    """Make what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="+")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tokenizer", default="mini", help="the model or tokenizer whose vocabulary they speak")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--steps", type=int, help=f"weight updates of each; by default {STEPS}")
    parser.add_argument("--batch-tokens", type=int, default=8192)
    parser.add_argument("--held-out", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--license-note", default="")
    parser.add_argument("--dev", type=Path, help="TSV of graded pairs, to score the embeddings by")
    options = parser.parse_args(arguments)

    corpus = read_corpus(options.corpus)
    dev = None if options.dev is None else read_pairs(options.dev)
    more = "" if dev is None else " [CLS] | mean |"
    print(
        f"| model | layers | width | weights | steps | tokens | held-out loss | by frequency | right | seconds |{more}"
    )
    print(f"|{'---|' * (10 if dev is None else 12)}", flush=True)
    for name in options.models:
        made = make(name, corpus, options)
        scores = "" if dev is None else f" {' | '.join(untrained(options.output / name / 'model', dev))} |"
        print(row(name, made) + scores, flush=True)


def make(name: str, corpus: Corpus, options: argparse.Namespace) -> Pretrained:
    """The model of that name, from scratch or as it was left."""
    config = Pretraining(
        name=name,
        purpose=f"A {name} language model for the tables, made by benchmarks/small_models.py.",
        tokenizer=str(named(options.tokenizer)),
        start_embeddings="ppmi_svd",
        max_steps=options.steps or STEPS[name],
        batch_tokens=options.batch_tokens,
        held_out=options.held_out,
        seed=options.seed,
        **MODELS[name],
    )
    return pretrain(config, corpus, options.output / name, resume=True, license_note=options.license_note)


def untrained(model: Path, dev: PairSet) -> list[str]:
    """Spearman of cosines on the graded pairs, points, by [CLS] and by the mean; a causal model has neither."""
    if json.loads((model / "config.json").read_text())["model_type"] == "gpt2":
        return ["–", "–"]
    ways: list[Pooling] = ["cls", "mean"]
    return [f"{score_sts(load(model, pooling=way), dev).all.spearman:.2f}" for way in ways]


def row(name: str, made: Pretrained) -> str:
    """One row of the table."""
    scores, config = made.record.scores, made.record.config
    weights = sum(p.numel() for p in made.model.parameters())
    return (
        f"| {name} | {config['layers']} | {config['width']} | {weights:,} | {scores['steps']:,} | "
        f"{scores['tokens_seen']:,} | {scores['held_out_loss']:.3f} | {scores['unigram_loss']:.3f} | "
        f"{scores['held_out_accuracy']:.1%} | {made.record.timing['seconds']:,.0f} |"
    )


if __name__ == "__main__":
    main()
