"""Other ways to learn from a domain's text, at equal steps: SimCSE, DiffCSE as published, TSDAE and CT.

    python -m benchmarks.domain_rivals DATA_DIR --output docs/results/domains_trained

The domains, starts and measures are those of benchmarks.domains. Each method trains all weights for --steps steps of
--batch texts, cut after 64 tokens, with AdamW and a rate that falls linearly to zero. The first seed tries each of
--rates on every domain. The rate with the best mean over the domains is then used with the other seeds: the rivals are
tuned on the same labels as adapt was. TSDAE and CT are the losses of sentence-transformers; TSDAE deletes 60 % of the
words, as its paper does. "minilm" has no DiffCSE row: its checkpoint has no masked-language-model head.

Every run is written to runs.jsonl when it ends; the same command continues after the last one.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses

from benchmarks.domains import DOMAINS, STARTS, Domain, model_of, read_domain, table
from diffcse.config import load_recipe
from diffcse.encoder.encode import Encoder, use_bf16
from diffcse.encoder.load import load
from diffcse.encoder.save import save
from diffcse.evaluation.own_texts import bootstrap
from diffcse.files import write_json, write_text
from diffcse.machine import release_memory, tuned
from diffcse.record import hardware, versions
from diffcse.text.corpus import Corpus
from diffcse.training.own_text import unit_rows
from diffcse.training.run import run

RATES = (3e-6, 3e-5)
MAX_TOKENS, DELETED = 64, 0.6
METHODS = {
    "mini": ("SimCSE", "DiffCSE as published", "TSDAE", "CT"),
    "minilm": ("SimCSE", "TSDAE", "CT"),
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One training: what decides its result."""

    start: str
    domain: str
    method: str
    rate: float
    seed: int
    steps: int
    batch: int


def train_ours(job: Run, texts: list[str]) -> Encoder:
    """The encoder after SimCSE or DiffCSE, from the start's own pooling."""
    recipe = load_recipe("mini_cpu")
    difference = "none" if job.method == "SimCSE" else recipe.method.difference
    method = dataclasses.replace(recipe.method, model=model_of(job.start), difference=difference)
    training = dataclasses.replace(
        recipe.training, max_steps=job.steps, batch_size=job.batch, learning_rate=job.rate, max_tokens=MAX_TOKENS,
        seed=job.seed, select="last", eval_every=job.steps,
    )  # fmt: skip
    config = dataclasses.replace(recipe, method=method, training=training)
    with tempfile.TemporaryDirectory() as folder:
        encoder: Encoder = run(config, Corpus.from_sentences(texts), Path(folder) / "run").encoder
        return encoder


def noisy(text: str, generator: np.random.Generator) -> str:
    """The text without 60 % of its words; one word stays at least."""
    words = text.split()
    kept = [word for word in words if generator.random() >= DELETED]
    return " ".join(kept or [words[generator.integers(len(words))]])


def batches(job: Run, texts: list[str]) -> Iterator[list[str]]:
    """Texts in a seeded order, without an end."""
    texts = [text for text in texts if text.strip()]
    generator = np.random.default_rng([job.seed, 7])
    while True:
        order = generator.permutation(len(texts))
        for first in range(0, len(order) - job.batch + 1, job.batch):
            yield [texts[i] for i in order[first : first + job.batch]]


def train_theirs(job: Run, texts: list[str]) -> Encoder:
    """The encoder after TSDAE or CT by sentence-transformers' losses."""
    torch.manual_seed(job.seed)
    generator = np.random.default_rng([job.seed, 8])
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "start"
        save(load(model_of(job.start)), start, "")
        model = SentenceTransformer(str(start), device="cpu")
        limit, model.max_seq_length = model.max_seq_length, MAX_TOKENS
        kind = (
            losses.DenoisingAutoEncoderLoss if job.method == "TSDAE" else losses.ContrastiveTensionLossInBatchNegatives
        )
        loss = kind(model).train()
        optimizer = torch.optim.AdamW(loss.parameters(), lr=job.rate, weight_decay=0.0)
        falling = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, job.steps)
        for _, batch in zip(range(job.steps), batches(job, texts), strict=False):
            views = [[noisy(text, generator) for text in batch], batch] if job.method == "TSDAE" else [batch]
            with torch.autocast("cpu", torch.bfloat16, enabled=use_bf16("auto")):
                value = loss([model.preprocess(view) for view in views], None)
            value.backward()
            torch.nn.utils.clip_grad_norm_(loss.parameters(), 1.0)
            optimizer.step()
            falling.step()
            optimizer.zero_grad(set_to_none=True)
        model.max_seq_length = limit
        model.eval().save(f"{folder}/trained")
        return load(f"{folder}/trained")


def scores(encoder: Encoder, domain: Domain) -> np.ndarray:
    """Score of each query, (Q,)."""
    rows_NH = unit_rows(encoder([*domain.texts, *domain.others], bf16=use_bf16("auto")))
    measured: np.ndarray = domain.measure(rows_NH)
    return measured


class Measured:
    """Scores of runs, kept in a file: a run that is already there is not repeated."""

    def __init__(self, file: Path, domains: dict[str, Domain]) -> None:
        self.file, self.domains = file, domains
        lines = file.read_text("utf-8").splitlines() if file.exists() else []
        self.known = {json.dumps(entry["run"]): entry for entry in map(json.loads, lines)}

    def __call__(self, job: Run, train: Callable[[Run, list[str]], Encoder]) -> np.ndarray:
        """Score of each query after the run, (Q,)."""
        key = json.dumps(dataclasses.asdict(job))
        if key not in self.known:
            domain, began = self.domains[job.domain], time.perf_counter()
            values = scores(train(job, domain.texts), domain)
            entry = {
                "run": dataclasses.asdict(job),
                "seconds": round(time.perf_counter() - began),
                "scores": values.tolist(),
            }
            with self.file.open("a", encoding="utf-8") as out:
                print(json.dumps(entry), file=out)
            print(f"{100 * values.mean():6.2f}  {entry['seconds']:4d} s  {job}", flush=True)
            self.known[key] = entry
            gc.collect()
            release_memory()
        return np.array(self.known[key]["scores"])


def train_start(job: Run, texts: list[str]) -> Encoder:
    """The start as it is."""
    return load(model_of(job.start))


def rows_of(start: str, measure: Measured, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one start: the start, then each method at its best rate."""
    names = options.domains
    before = {name: measure(Run(start, name, "start", 0.0, 0, 0, 0), train_start) for name in names}
    made = [{"start": start, "row": "start", "domain": name, "score": bootstrap(before[name])} for name in names]
    for method in METHODS[start]:
        train = train_ours if "CSE" in method else train_theirs

        def scored(name: str, rate: float, seed: int, method: str = method, train: Any = train) -> np.ndarray:
            return measure(Run(start, name, method, rate, seed, options.steps, options.batch), train)

        first = options.seeds[0]
        by_rate = {rate: [100 * float(scored(name, rate, first).mean()) for name in names] for rate in options.rates}
        best = max(by_rate, key=lambda rate: float(np.mean(by_rate[rate])))
        for name in names:
            by_seed = [scored(name, best, seed) for seed in options.seeds]
            mean_Q = np.mean(by_seed, axis=0)
            facts = {"start": start, "row": f"{method}, rate {best:g}", "domain": name, "by_rate": by_rate}
            facts |= {"by_seed": [100 * float(seed_Q.mean()) for seed_Q in by_seed], "score": bootstrap(mean_Q)}
            made.append(facts | {"difference": bootstrap(mean_Q - before[name])})
    return made


@tuned()
def main(arguments: list[str] | None = None) -> None:
    """Train, measure and write runs.jsonl, domains.json and table.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--starts", nargs="+", default=list(STARTS), choices=STARTS)
    parser.add_argument("--domains", nargs="+", default=list(DOMAINS), choices=list(DOMAINS))
    parser.add_argument("--rates", type=float, nargs="+", default=list(RATES))
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    domains = {name: read_domain(options.data, name) for name in options.domains}
    measure = Measured(options.output / "runs.jsonl", domains)
    results = [row for start in options.starts for row in rows_of(start, measure, options)]
    facts = {"hardware": hardware() | {"instructions": torch.backends.cpu.get_cpu_capability()}, "versions": versions()}
    chosen = {key: value for key, value in vars(options).items() if key not in ("data", "output")}
    write_json(options.output / "domains.json", {"settings": chosen, **facts, "results": results})
    figures = table(results, options.domains)
    write_text(options.output / "table.md", page(figures, options, facts["hardware"]))
    print(figures)


def page(figures: str, options: argparse.Namespace, machine: dict[str, Any]) -> str:
    """The table with what a reader needs to judge it."""
    return f"""# Own domains: all weights trained, at equal steps

{figures}

Points. In brackets: 95 % interval of the difference from the start, a bootstrap over queries. Each row is the mean over
the seeds {", ".join(map(str, options.seeds))}. All methods: {options.steps} steps of {options.batch} texts, at most
{MAX_TOKENS} tokens, AdamW. The rate was chosen among {", ".join(f"{rate:g}" for rate in options.rates)} by the labels,
with the first seed, as adapt was chosen by them.
`domains.json` has each seed and each rate.

Made by `python -m benchmarks.domain_rivals DATA_DIR --output DIR`. {machine["processor"]}, {machine["instructions"]},
{machine["threads"]} thread(s), bf16 where the processor has it.
"""


if __name__ == "__main__":
    main()
