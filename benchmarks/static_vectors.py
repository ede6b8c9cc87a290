"""Scores of plain sums of token vectors, and which positives teach the vectors most.

    python benchmarks/static_vectors.py DEV.tsv CORPUS... --tokenizer mini --steps 300

Token vectors are counted from the text (PPMI and SVD). Then they and a weight for each token are trained by a
contrastive loss over 512 sentences. Positives are the next sentence ("next", as in `diffcse pretrain`), the two parts
of a random split of the sentence's tokens ("split"), or two copies with half the tokens left out ("drop"). The table
has Spearman (points) on the graded pairs, with all components and without the first one or three principal ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffcse.evaluation.sts import PairSet, read_pairs, score_sts
from diffcse.method.loading import load_tokenizer, named
from diffcse.pretraining.batches import following_pairs
from diffcse.pretraining.token_vectors import LONGEST, Views, learn, next_views, ppmi_svd, sif_weights
from diffcse.pretraining.tokens import tokenise
from diffcse.text.corpus import read_corpus

WIDTH, BATCH = 256, 512
KINDS = ["next", "split", "drop"]


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
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    options = parser.parse_args()

    tokenizer = load_tokenizer(named(options.tokenizer))
    corpus = read_corpus(options.corpus, documents="next" in options.kinds)
    tokens = tokenise(corpus, tokenizer)
    ids, offsets, size = tokens.ids, np.asarray(tokens.offsets), len(tokenizer)
    special = tuple(tokenizer.all_special_ids)
    start_VH = ppmi_svd(ids, offsets, size, WIDTH, length=1.0, skip=special, seed=options.seed)
    sif_V = sif_weights(ids, size)
    pairs = read_pairs(options.dev)

    print("| vectors | as they are | one component less | three less |\n|---|---|---|---|")
    report("PPMI-SVD, mean", start_VH, np.ones(size), tokenizer, pairs)
    report("PPMI-SVD, SIF", start_VH, sif_V, tokenizer, pairs)
    for kind in options.kinds:
        if kind == "next":
            first_P, second_P = following_pairs(corpus, np.arange(len(corpus))).T
            views = next_views(ids, offsets, first_P, second_P, min(BATCH, len(first_P)))
        else:
            views = halves(kind, ids, offsets)
        vectors_VH, weights_V, loss = learn(
            start_VH,
            sif_V,
            views,
            steps=options.steps,
            learning_rate=options.learning_rate,
            temperature=options.temperature,
            seed=options.seed,
        )
        report(f"{kind}, {options.steps} steps (loss {loss:.2f})", vectors_VH, weights_V, tokenizer, pairs)


def halves(kind: str, ids: np.ndarray, offsets: np.ndarray) -> Views:
    """Draws two parts of each sentence: disjoint ("split"), or independent ("drop")."""

    def draw(random: np.random.Generator) -> tuple[list[np.ndarray], list[np.ndarray], None]:
        first, second = [], []
        for index in random.integers(0, len(offsets) - 1, BATCH):
            own = ids[offsets[index] : offsets[index + 1]][:LONGEST]
            one = random.random(len(own)) < 0.5
            other = ~one if kind == "split" else random.random(len(own)) < 0.5
            first.append(own[one] if one.any() else own[:1])
            second.append(own[other] if other.any() else own[:1])
        return first, second, None

    return draw


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
