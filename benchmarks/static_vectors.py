"""How far do plain sums of token vectors get, and which positives teach them most?

    python benchmarks/static_vectors.py DEV.tsv CORPUS... --tokenizer mini --steps 300

Token vectors counted from the text (PPMI and SVD), a learned weight for each token, and a contrastive loss over 512
sentences at a time, whose positives are what follows in the text ("next"), the two halves of a random split of the
sentence's tokens ("split"), or two copies with half the tokens left out ("drop"). No network, no labels: a floor for
every encoder, and a quick look at what a positive is worth. Prints Spearman (points) on the graded pairs, as the
vectors are and without their first or first three principal components.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from diffcse.evaluation.sts import PairSet, read_pairs, score_sts
from diffcse.method.parts import load_tokenizer, named
from diffcse.text.corpus import read_corpus
from diffcse.training.token_vectors import ppmi_svd
from diffcse.training.tokens import tokenise

WIDTH, BATCH, LONGEST = 256, 512, 64


def main() -> None:
    """Count vectors, train a copy of them for each kind of positive, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dev", type=Path)
    parser.add_argument("corpus", nargs="+")
    parser.add_argument("--tokenizer", default="mini")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--temperature", type=float, default=0.1)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--kinds", nargs="+", default=["next", "split", "drop"])
    options = parser.parse_args()
    torch.manual_seed(options.seed)

    tokenizer = load_tokenizer(named(options.tokenizer))
    tokens = tokenise(read_corpus(options.corpus), tokenizer)
    ids, offsets, size = np.asarray(tokens.ids, dtype=np.int64), np.asarray(tokens.offsets), len(tokenizer)
    special = tuple(tokenizer.all_special_ids)
    start_VH = ppmi_svd(ids, offsets, size, WIDTH, length=1.0, skip=special, seed=options.seed)
    share_V = (np.bincount(ids, minlength=size) + 1.0) / (len(ids) + size)
    sif_V = 1e-3 / (1e-3 + share_V)
    pairs = read_pairs(options.dev)

    print("| vectors | as they are | one component less | three less |\n|---|---|---|---|")
    report("PPMI-SVD, mean", start_VH, np.ones(size), tokenizer, pairs)
    report("PPMI-SVD, SIF", start_VH, sif_V, tokenizer, pairs)
    for kind in options.kinds:
        vectors_VH = torch.nn.Parameter(torch.tensor(start_VH, dtype=torch.float32))
        weights_V = torch.nn.Parameter(torch.tensor(np.log(sif_V), dtype=torch.float32))
        optimizer = torch.optim.Adam([vectors_VH, weights_V], lr=options.learning_rate)
        decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, options.steps)
        random = np.random.default_rng(options.seed)
        for _ in range(options.steps):
            views = positives(kind, ids, offsets, random)
            first_BH, second_BH = (embed(rows, vectors_VH, weights_V) for rows in views)
            logits_BB = first_BH @ second_BH.T / options.temperature
            own_B = torch.arange(BATCH)
            loss = (F.cross_entropy(logits_BB, own_B) + F.cross_entropy(logits_BB.T, own_B)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
        label = f"{kind}, {options.steps} steps (loss {loss.item():.2f})"
        report(label, vectors_VH.detach().numpy(), weights_V.detach().exp().numpy(), tokenizer, pairs)


def positives(
    kind: str, ids: np.ndarray, offsets: np.ndarray, random: np.random.Generator
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A batch of sentences and their positives, as token ids."""
    first, second = [], []
    for index in random.integers(0, len(offsets) - 2, BATCH):
        own = ids[offsets[index] : offsets[index + 1]][:LONGEST]
        if kind == "next":
            views = own, ids[offsets[index + 1] : offsets[index + 2]][:LONGEST]
        elif kind == "split":
            left = random.random(len(own)) < 0.5
            views = own[left], own[~left]
        else:
            views = own[random.random(len(own)) < 0.5], own[random.random(len(own)) < 0.5]
        first.append(views[0] if len(views[0]) else own[:1])
        second.append(views[1] if len(views[1]) else own[:1])
    return first, second


def embed(rows: Sequence[np.ndarray], vectors_VH: torch.Tensor, weights_V: torch.Tensor) -> torch.Tensor:
    """Weighted sums of token vectors, of length 1: (B, H)."""
    ids_N = torch.from_numpy(np.concatenate(rows))
    starts_B = torch.from_numpy(np.cumsum([0, *(len(row) for row in rows[:-1])]))
    sums_BH = F.embedding_bag(ids_N, vectors_VH, starts_B, mode="sum", per_sample_weights=weights_V.exp()[ids_N])
    return F.normalize(sums_BH, dim=-1)


def report(name: str, vectors_VH: np.ndarray, weights_V: np.ndarray, tokenizer: object, pairs: PairSet) -> None:
    """One row of the table."""

    def encode(sentences: Sequence[str]) -> np.ndarray:
        rows = [
            np.array(tokenizer(s, add_special_tokens=False)["input_ids"] or [tokenizer.unk_token_id]) for s in sentences
        ]
        return np.stack([weights_V[row] @ vectors_VH[row] / weights_V[row].sum() for row in rows])

    def without(components: int) -> float:
        def encode_less(sentences: Sequence[str]) -> np.ndarray:
            embeddings = encode(sentences)
            if not components:
                return embeddings
            _, _, directions = np.linalg.svd(embeddings, full_matrices=False)
            return embeddings - embeddings @ directions[:components].T @ directions[:components]

        return score_sts(encode_less, pairs).all.spearman

    print(f"| {name} | {' | '.join(f'{without(components):.2f}' for components in (0, 1, 3))} |", flush=True)


if __name__ == "__main__":
    main()
