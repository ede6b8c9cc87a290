"""Do the rules of `diffcse dedup` and `diffcse cluster` choose well? Planted duplicates, and topics that are known.

    python -m benchmarks.groups DATA_DIR --model mini

DATA_DIR holds stackoverflow.csv (20 topics) and banking.csv (77 intents), with columns text and label; they are not
part of this repository. Duplicates: 200 copies of each kind are put among 5,000 texts of a set, which are drawn with
seed 0. A copy counts as recalled if it is dropped. "same label": of the set's own texts dropped by embedding, the share
whose kept text has the same label. Clusters: accuracy under the best matching of clusters to labels, and normalised
mutual information, means over seeds 0 to 2, with the true k and with k = auto.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import normalized_mutual_info_score

from diffcse.encoder.encode import Encoder
from diffcse.encoder.load import load
from diffcse.evaluation.own_texts import read_labelled
from diffcse.grouping.clusters import cluster
from diffcse.grouping.duplicates import dedup
from diffcse.grouping.vectors import unit_rows
from diffcse.machine import tune
from diffcse.report.parts import markdown_table

SETS = ("stackoverflow", "banking")
TEXTS, COPIES = 5000, 200


def _swap(words: list[str], rng: np.random.Generator) -> list[str]:
    i = int(rng.integers(len(words) - 1))
    return [*words[:i], words[i + 1], words[i], *words[i + 2 :]]


def _without_one(words: list[str], rng: np.random.Generator) -> list[str]:
    i = int(rng.integers(len(words)))
    return [*words[:i], *words[i + 1 :]]


KINDS: dict[str, Callable[[list[str], np.random.Generator], list[str]]] = {
    "exact": lambda words, rng: words,
    "case and end mark": lambda words, rng: [*words[:-1], words[-1].rstrip("?.!") + "!!"] if rng.integers(2) else [
        word.upper() for word in words
    ],
    "two words swapped": _swap,
    "one word left out": _without_one,
    "begun with “Please tell me:”": lambda words, rng: ["Please", "tell", "me:", *words],
}  # fmt: skip


def duplicates(name: str, texts: list[str], labels: np.ndarray, encoder: Encoder) -> list[str]:
    """A row of the table: share of each kind of copy that is dropped, and what else is."""
    rng = np.random.default_rng(0)
    chosen = rng.permutation([i for i, text in enumerate(texts) if len(text.split()) > 3])[:TEXTS]
    own = [texts[i] for i in chosen]
    copies = []
    for number, edit in enumerate(KINDS.values()):
        copies += [" ".join(edit(text.split(), rng)) for text in own[number * COPIES : (number + 1) * COPIES]]
    result = dedup([*own, *copies], encoder)
    rows = {each.row for each in result.dropped}
    recalled = [
        np.mean([len(own) + number * COPIES + i in rows for i in range(COPIES)]) for number in range(len(KINDS))
    ]
    pairs = [each for each in result.dropped if each.row < len(own) and each.kind == "embedding"]
    same = np.mean([labels[chosen[each.row]] == labels[chosen[each.kept]] for each in pairs])
    threshold = f"{result.threshold.value:.3f}"
    return [name, threshold, *(f"{share:.0%}" for share in recalled), f"{len(pairs) / len(own):.1%}", f"{same:.0%}"]


def clusters(name: str, texts: list[str], labels: np.ndarray, encoder: Encoder) -> list[list[str]]:
    """Two rows of the table: with the true k, and with k = auto."""
    rows = unit_rows(encoder, texts)
    true = int(labels.max()) + 1
    table = []
    for k in (true, "auto"):
        results = [cluster(texts, rows=rows, k=k, seed=seed) for seed in range(3)]
        chosen = ", ".join(str(len(each.clusters)) for each in results)
        accuracy = np.mean([_accuracy(labels, each.labels) for each in results])
        information = np.mean([normalized_mutual_info_score(labels, each.labels) for each in results])
        table.append([f"{name}, {k}", chosen, f"{100 * accuracy:.1f}", f"{100 * information:.1f}"])
    return table


def _accuracy(labels: np.ndarray, found: np.ndarray) -> float:
    counts = np.zeros((max(labels.max(), found.max()) + 1,) * 2, int)
    np.add.at(counts, (labels, found), 1)
    return float(counts[linear_sum_assignment(-counts)].sum() / len(labels))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="mini")
    options = parser.parse_args()
    tune()
    encoder = load(options.model)
    heads = ["set", "threshold", *KINDS, "own texts dropped by embedding", "same label"]
    first, second = [], []
    for name in SETS:
        texts, labels = _labelled(options.data / f"{name}.csv")
        first.append(duplicates(name, texts, labels, encoder))
        second += clusters(name, texts, labels, encoder)
        print(first[-1], second[-2:], flush=True)
    print("\n".join(markdown_table(heads, first)))
    print("\n".join(markdown_table(["set, k", "clusters", "accuracy", "NMI"], second)))


def _labelled(path: Path) -> tuple[list[str], np.ndarray]:
    labelled = read_labelled(path)
    return list(labelled.texts), labelled.labels_N


if __name__ == "__main__":
    main()
