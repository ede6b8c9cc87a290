"""Tokens a second of `diffcse pretrain` beside the straightforward loop, at the bundled model's shape, in one run.

The straightforward loop is what one writes first: sentences in random order, tokenised and padded batch by batch, the
library's default attention with a mask, logits at every position with labels of -100, bf16 autocast, AdamW. Both see
real text lengths and about as many real tokens a step, without dropout. Rounds alternate, so that whatever else the
machine does falls on both; tokens count without padding; seconds are those of the processor, and those of the clock.

    python benchmarks/pretrain_speed.py text.txt [rounds]
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from diffcse.method.build import read_vocabulary
from diffcse.method.edits import Draw, mask_tokens
from diffcse.pretraining.config import load_pretraining
from diffcse.pretraining.run import Batches, _Run, new_model, split, spread
from diffcse.pretraining.tokens import tokenise, train_wordpiece
from diffcse.record import Record
from diffcse.text.corpus import read_corpus

STEPS = 1
"""Weight updates in a round."""


def main(text: str, rounds: int = 5) -> None:
    """Print the medians over the rounds."""
    corpus = read_corpus([text])
    config = dataclasses.replace(load_pretraining("masked"), max_steps=10**6, warmup_ratio=0.0)
    held_out, trained_on = split(len(corpus), config.held_out, config.seed)
    sample = (corpus[int(i)] for i in spread(trained_on, 50_000))
    tokenizer = train_wordpiece(sample, config.vocabulary, lowercase=True, positions=config.positions)
    vocabulary = read_vocabulary(tokenizer)
    tokens = tokenise(corpus, tokenizer)
    lengths = tokens.lengths(config.max_tokens)

    batches = Batches(lengths, trained_on, config.batch_tokens, config.seed)
    model, folder = new_model(config, tokenizer, tokens), Path(tempfile.mkdtemp())
    record = Record("pretrain", {}, config.seed)
    run = _Run(model, config, tokens, batches, vocabulary, held_out, 10**6, folder, record, lambda *_: None)
    model.train()

    def ours() -> Iterator[int]:
        for step in range(10**6):
            before = run.tokens_seen
            run._step(step)
            yield run.tokens_seen - before

    def straightforward() -> Iterator[int]:
        plain = new_model(config, tokenizer, tokens).train()
        plain.set_attn_implementation("sdpa")
        optimizer = torch.optim.AdamW(plain.parameters(), lr=config.learning_rate)
        rows = round(config.batch_tokens / lengths[trained_on].mean())
        random = np.random.default_rng(0)
        for step in range(10**6):
            sentences = [corpus[int(i)] for i in random.choice(trained_on, rows)]
            batch = tokenizer(
                sentences, truncation=True, max_length=config.max_tokens, padding=True, return_tensors="pt"
            )
            ids, attention = batch["input_ids"], batch["attention_mask"]
            masked, chosen = mask_tokens(
                ids, attention, vocabulary, config.mask_ratio, Draw((0, step), torch.arange(rows))
            )
            with torch.autocast("cpu", torch.bfloat16, enabled=run.bf16):
                labels = torch.where(chosen, ids, -100)
                loss = plain(input_ids=masked, attention_mask=attention, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            yield int(attention.sum())

    found: dict[Callable[[], Iterator[int]], list[tuple[float, float]]] = {ours: [], straightforward: []}
    loops = {loop: loop() for loop in found}
    for loop in loops.values():
        next(loop)
    for _ in range(rounds):
        for loop, steps in loops.items():
            cpu, wall = time.process_time(), time.perf_counter()
            seen = sum(next(steps) for _ in range(STEPS))
            found[loop].append((seen / (time.process_time() - cpu), seen / (time.perf_counter() - wall)))
    for loop, rates in found.items():
        cpu, wall = (statistics.median(rate[i] for rate in rates) for i in range(2))
        print(f"{loop.__name__:<16}{cpu:10,.0f} tokens/CPU second{wall:10,.0f} tokens/s")
    ratios = [one[0] / other[0] for one, other in zip(found[ours], found[straightforward], strict=True)]
    print(f"ratio by CPU seconds, round by round: {', '.join(f'{r:.2f}' for r in ratios)}")


if __name__ == "__main__":
    main(sys.argv[1], *(int(value) for value in sys.argv[2:]))
