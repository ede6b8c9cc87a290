"""Speed and memory of a training step on the bundled model: whole batches, parts of batches, recomputed layers.

    python benchmarks/training_memory.py --batch-size 256
    python benchmarks/training_memory.py --batch-size 256 --mini-batch-size 64

Each process measures one setting, because the peak of a process never falls. Sentences are 4 to 28 random words. Time
is the processor time of the fastest step.
"""

from __future__ import annotations

import argparse
import random
import resource
import time

import torch

from diffcse.config import Method
from diffcse.method.build import build
from diffcse.method.loading import MINI
from diffcse.training.collate import Collate


def main() -> None:
    """Print sentences a second, and how far the memory of the process rose above that of a step of 4 sentences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--mini-batch-size", type=int)
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--difference", default="rtd")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    model, tokenizer = build(Method(model=str(MINI), difference=options.difference), seed=options.seed)
    model.train()
    model.mini_batch_size = options.mini_batch_size
    if options.gradient_checkpointing:
        model.checkpoint_layers()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
    words, draw = sorted(word for word in tokenizer.get_vocab() if word.isalpha()), random.Random(options.seed)
    sentences = [" ".join(draw.choices(words, k=draw.randint(4, 28))) for _ in range(options.batch_size)]
    collate = Collate(tokenizer, 32)

    def step(batch: dict[str, torch.Tensor]) -> float:
        began = time.process_time()
        model(batch, step=0).total.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.process_time() - began

    step(collate(sentences[:4]))
    before = peak()
    batch = collate(sentences)
    seconds = min(step(batch) for _ in range(options.steps))
    print(f"{options.batch_size / seconds:.1f} sentences/s, {peak() - before:.0f} MB")


def peak() -> float:
    """The most memory the process has held, in MB (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
