"""Tokens a second of a pretraining step and of a plain step, at the bundled model's shape, in one process.

The plain step tokenises and pads sentences in random order. It uses the library's default attention with a mask,
logits at every position with labels of -100, bf16 autocast and AdamW. Both steps read the same text and about as many
tokens, without dropout. Rounds alternate, so other load on the machine falls on both. Padding does not count as tokens.

    python benchmarks/pretrain_speed.py text.txt [rounds]
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from diffcse.encoder.encode import use_bf16
from diffcse.method.edits import Draw, mask_tokens
from diffcse.method.loading import read_vocabulary
from diffcse.pretraining.batches import Batches, Grouping, split, spread
from diffcse.pretraining.config import Pretraining, load_pretraining
from diffcse.pretraining.models import new_model
from diffcse.pretraining.task import TokenUpdates
from diffcse.pretraining.tokens import tokenise, train_wordpiece
from diffcse.text.corpus import Corpus, read_corpus

STEPS = 1
"""Weight updates in a round."""


def main(text: str, rounds: int = 5) -> None:
    """Print the medians over the rounds, and the ratio of each round."""
    corpus, config = read_corpus([text]), load_pretraining("masked")
    _, training = split(len(corpus), config.held_out, config.seed)
    sample = (corpus[int(i)] for i in spread(training, 50_000))
    tokenizer = train_wordpiece(sample, config.vocabulary, lowercase=True, positions=config.positions)
    tokens = tokenise(corpus, tokenizer)
    grouping = Grouping(
        tokens,
        tokens.lengths(config.max_tokens),
        read_vocabulary(tokenizer),
        causal=False,
        mask_ratio=config.mask_ratio,
        padding=tokenizer.pad_token_id,
        device=torch.device("cpu"),
    )
    loops = {
        "ours": ours(config, new_model(config, tokenizer, tokens), grouping, training),
        "plain": plain(config, new_model(config, tokenizer, tokens), grouping, training, corpus, tokenizer),
    }
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in loops}
    for loop in loops.values():
        next(loop)
    for _ in range(rounds):
        for name, loop in loops.items():
            cpu, wall = time.process_time(), time.perf_counter()
            seen = sum(next(loop) for _ in range(STEPS))
            rates[name].append((seen / (time.process_time() - cpu), seen / (time.perf_counter() - wall)))
    for name, measured in rates.items():
        cpu, wall = (statistics.median(rate[i] for rate in measured) for i in range(2))
        print(f"{name:<8}{cpu:10,.0f} tokens/CPU second{wall:10,.0f} tokens/s")
    ratios = [first[0] / second[0] for first, second in zip(rates["ours"], rates["plain"], strict=True)]
    print(f"ratio by CPU seconds, round by round: {', '.join(f'{r:.2f}' for r in ratios)}")


def ours(config: Pretraining, model: PreTrainedModel, grouping: Grouping, training: np.ndarray) -> Iterator[int]:
    """Steps of `diffcse pretrain`; yields the tokens of each."""
    batches = Batches(grouping.lengths, training, config.batch_tokens, config.seed)
    updates = TokenUpdates(model.train(), batches, grouping, config.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, fused=True)
    for step in itertools.count():
        with torch.autocast("cpu", torch.bfloat16, enabled=use_bf16(config.precision)):
            values = updates.backward(step)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield int(values["tokens"])


def plain(
    config: Pretraining,
    model: PreTrainedModel,
    grouping: Grouping,
    training: np.ndarray,
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerBase,
) -> Iterator[int]:
    """Plain steps; yields the tokens of each."""
    model.train().set_attn_implementation("sdpa")
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)
    rows = round(config.batch_tokens / grouping.lengths[training].mean())
    random = np.random.default_rng(0)
    for step in itertools.count():
        sentences = [corpus[int(i)] for i in random.choice(training, rows)]
        batch = tokenizer(sentences, truncation=True, max_length=config.max_tokens, padding=True, return_tensors="pt")
        ids, attention = batch["input_ids"], batch["attention_mask"]
        draw = Draw((0, step), torch.arange(rows))
        masked, chosen = mask_tokens(ids, attention, grouping.vocabulary, config.mask_ratio, draw)
        with torch.autocast("cpu", torch.bfloat16, enabled=use_bf16(config.precision)):
            labels = torch.where(chosen, ids, -100)
            loss = model(input_ids=masked, attention_mask=attention, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        yield int(attention.sum())


if __name__ == "__main__":
    main(sys.argv[1], *(int(value) for value in sys.argv[2:]))
