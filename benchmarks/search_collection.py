"""Search an index of a collection with judged queries: nDCG@10 by `Index.search`, beside `diffcse evaluate`'s own.

    python -m benchmarks.search_collection COLLECTION... --models mini

COLLECTION is a folder in BEIR's layout. Rows: exact search, hybrid search (BM25 joined by reciprocal ranks), and the
score of `diffcse evaluate` on the same embeddings. The interval is that of the difference between hybrid and exact
search, from 1,000 resamples of the queries.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from diffcse import Index, load
from diffcse.evaluation.beir import Collection, read_collection
from diffcse.evaluation.retrieval import CUTOFF, score_collection


def gains(index: Index, collection: Collection, *, hybrid: bool) -> np.ndarray:
    """nDCG@10 of each query, in points."""
    discounts = 1 / np.log2(np.arange(2, CUTOFF + 2))
    values = []
    answers = index.search(collection.queries, CUTOFF + 1, hybrid=hybrid)
    for hits, relevant, excluded in zip(answers, collection.relevant, collection.excluded, strict=True):
        rows = [hit.row for hit in hits if hit.row not in excluded][:CUTOFF]  # type: ignore[union-attr]
        grades = np.array([relevant.get(row, 0.0) for row in rows])
        best = np.sort(list(relevant.values()))[::-1][:CUTOFF]
        values.append(100 * (grades @ discounts[: len(grades)]) / (best @ discounts[: len(best)]))
    return np.array(values)


def main() -> None:
    """Print one line for each collection and model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("collections", nargs="+", type=Path)
    parser.add_argument("--models", nargs="+", default=["mini"])
    options = parser.parse_args()
    print("| collection | model | diffcse evaluate | exact search | hybrid search | hybrid minus exact |")
    print("|---|---|---|---|---|---|")
    for collection in map(read_collection, options.collections):
        for model in options.models:
            encoder = load(model)
            with tempfile.TemporaryDirectory() as folder:
                index = Index.build(collection.documents, Path(folder) / "index", model=encoder)
                exact, hybrid = (gains(index, collection, hybrid=hybrid) for hybrid in (False, True))
            judged = score_collection(encoder, collection).ndcg
            rng = np.random.default_rng(0)
            draws = rng.integers(0, len(exact), (1000, len(exact)))
            low, high = np.percentile((hybrid - exact)[draws].mean(axis=1), [2.5, 97.5])
            figures = f"{judged:.2f} | {exact.mean():.2f} | {hybrid.mean():.2f}"
            difference = f"{(hybrid - exact).mean():+.2f} ({low:+.2f} to {high:+.2f})"
            print(f"| {collection.name} | {Path(model).name} | {figures} | {difference} |", flush=True)


if __name__ == "__main__":
    main()
