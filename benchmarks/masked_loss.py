"""Masked-token loss of language models on the same sentences, which `diffcse pretrain` holds out.

    python benchmarks/masked_loss.py mini other/model --corpus "wiki/*.txt.xz" --sentences 5000

Models with different tokenizers split the same text into different tokens. So the table also has the loss for each
character of the text.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F

from diffcse.method.edits import Draw, mask_tokens
from diffcse.method.fast import logits_at
from diffcse.method.loading import load_generator, load_tokenizer, named, read_vocabulary
from diffcse.pretraining.batches import split
from diffcse.pretraining.config import Pretraining
from diffcse.text.corpus import read_corpus
from diffcse.training.collate import Collate

BATCH = 32


@torch.no_grad()
def main() -> None:
    """Print a row for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--corpus", nargs="+", required=True)
    parser.add_argument("--sentences", type=int, default=5000, help="number of held-out sentences")
    parser.add_argument("--mask-ratio", type=float, default=0.2)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()

    corpus = read_corpus(options.corpus)
    held_out, _ = split(len(corpus), Pretraining().held_out, options.seed)
    sentences = [corpus[int(i)] for i in held_out[: options.sentences]]
    print("| model | nats a masked token | accuracy | tokens a sentence | nats a character |\n|---|---|---|---|---|")
    for name in options.models:
        tokenizer, model = load_tokenizer(named(name)), load_generator(named(name))
        vocabulary, collate = read_vocabulary(tokenizer), Collate(tokenizer, options.max_tokens)
        loss = right = predicted = tokens = 0.0
        for first in range(0, len(sentences), BATCH):
            batch = collate(sentences[first : first + BATCH])
            ids, attention = batch["input_ids"], batch["attention_mask"]
            draw = Draw((options.seed, 0), torch.arange(first, first + len(ids)))
            masked, chosen = mask_tokens(ids, attention, vocabulary, options.mask_ratio, draw)
            logits = logits_at(model, masked, attention, chosen)
            loss += float(F.cross_entropy(logits, ids[chosen], reduction="sum"))
            right += float((logits.argmax(-1) == ids[chosen]).sum())
            predicted += int(chosen.sum())
            tokens += int((attention.bool() & ~vocabulary.is_special(ids)).sum())
        characters = sum(map(len, sentences))
        print(
            f"| {name} | {loss / predicted:.3f} | {right / predicted:.1%} | {tokens / len(sentences):.1f} | "
            f"{loss / predicted * tokens / characters:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
