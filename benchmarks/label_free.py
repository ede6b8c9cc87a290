"""Can a checkpoint be chosen without labels? Which score from plain text orders checkpoints as STS-B dev does?

    python -m benchmarks.label_free CORPUS STSB-dev.tsv STS13.tsv SICKR-trial.tsv --output runs --weak mini --strong DIR
    python -m benchmarks.label_free CORPUS STSB-dev.tsv STS13.tsv --output runs --bundled --steps 300 --every 50

The second command starts from the bundled model, with the settings of its recipes and with wrong settings.

The script trains short runs that differ in method, learning rate and start model; some learning rates are too high.
No run trains on the held-out sentences. The embeddings of every checkpoint are kept under --output (half a gigabyte),
so that more scores can be tried later. The first set of graded pairs is the judge. The table has for every score:

- Spearman between score and judge over the checkpoints of a run (mean over runs), over all checkpoints, and over the
  gains of checkpoints on their start; each with the 95 % interval of a bootstrap over runs;
- points of the judge lost by choosing each run's checkpoint by the score instead of by the judge (mean and maximum over
  runs), and the points lost by always taking the last step;
- the number of runs in which the score is right about whether the last step is above the start.

The last line applies to each run the score that is best on all other runs.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import label_free_grades as grades
from diffcse.config import Method, Training
from diffcse.encoder.encode import Encoder, position_limit, use_bf16
from diffcse.evaluation.correlation import spearman
from diffcse.evaluation.embeddings import Encode
from diffcse.evaluation.geometry import alignment, effective_rank, mean_cosine, uniformity
from diffcse.evaluation.label_free import halves, reciprocal_ranks
from diffcse.evaluation.sts import PairSet, read_pairs, score_sts
from diffcse.machine import tuned
from diffcse.method.build import build
from diffcse.method.heads import pooled
from diffcse.method.inspect import conditional_gain
from diffcse.method.loading import default_generator
from diffcse.method.paper import DiffCSE
from diffcse.text.corpus import Corpus, read_corpus
from diffcse.training.collate import Batches, Collate, Neighbours
from diffcse.training.loop import Loop, Pace, linear_rate
from diffcse.training.selection import Without
from diffcse.training.task import DiffCSETask

SIMCSE: dict[str, Any] = {"difference": "none"}
NEXT: dict[str, Any] = {"difference": "none", "positives": "next"}
BARE: dict[str, Any] = {"projector": "none", "temperature": 0.1}
RUNS: dict[str, tuple[str, dict[str, Any], float | dict[str, Any]]] = {
    "weak, next sentences": ("weak", NEXT, 2e-4),
    "strong, next sentences": ("strong", NEXT | BARE, 1e-4),
    "weak, SimCSE, too hot": ("weak", SIMCSE, 2e-3),
    "strong, next sentences, too hot": ("strong", NEXT, 1e-3),
    "weak, DiffCSE": ("weak", {"rtd_weight": 0.05}, 5e-4),
    "strong, SimCSE, too hot": ("strong", SIMCSE | {"dropout": 0.3}, 1e-3),
}
"""name -> (start, method, learning rate or fields of the training)."""

BUNDLED: dict[str, tuple[str, dict[str, Any], float | dict[str, Any]]] = {
    "bundled, contrast": ("mini", SIMCSE, 3e-5),
    "bundled, SimCSE's projector": ("mini", SIMCSE | {"projector": "tanh"}, 3e-5),
    "bundled, next sentences": ("mini", NEXT, 3e-5),
    "bundled, mini_difference": (
        "mini",
        {"condition": "pooled", "rtd_weight": 50.0},
        {"learning_rate": 3e-5, "discriminator_learning_rate": 1e-3},
    ),
    "bundled, conditional MLM": (
        "mini",
        {"difference": "mlm", "condition": "pooled", "rtd_weight": 50.0},
        {"learning_rate": 3e-5, "discriminator_learning_rate": 1e-3},
    ),
    "bundled, contrast, too hot": ("mini", SIMCSE, 1e-3),
    "bundled, next sentences, too hot": ("mini", NEXT, 1e-3),
}
"""The same of the bundled model. The conditional MLM of the same sentence takes it below its start (docs/log/)."""

RESAMPLES = 300

HIGHER_IS_WORSE = {
    "next loss",
    "halves loss",
    "dropout loss",
    "uniformity",
    "alignment of next",
    "mean cosine",
    "dropout alignment",
}


@dataclass(frozen=True)
class Texts:
    """What every checkpoint embeds."""

    sentences: list[str]
    following: list[str]
    pairs: dict[str, PairSet]
    searches: dict[str, tuple[list[str], list[str]]]
    judges: dict[str, PairSet]

    def all(self) -> list[str]:
        """Each distinct sentence once."""
        sets = [*self.pairs.values(), *self.judges.values()]
        lists = [self.sentences, self.following, *(each for pair in self.searches.values() for each in pair)]
        lists += [list(each) for pairs in sets for each in (pairs.first, pairs.second)]
        return list(dict.fromkeys(sentence for each in lists for sentence in each))


def main() -> None:
    """Train what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("judges", nargs="+", type=Path, help="TSVs of graded pairs; the first chooses")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--weak", help="a start that training improves; the bundled model, if not given")
    parser.add_argument("--strong", help="a start that training mostly harms")
    parser.add_argument("--bundled", action="store_true", help="the bundled model's runs in place of theirs")
    parser.add_argument("--pooling", default="cls", choices=["cls", "mean"])
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--held-out", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--train", nargs="*", help="only train these, print nothing")
    options = parser.parse_args()
    runs = BUNDLED if options.bundled else RUNS
    if not options.bundled and options.strong is None:
        parser.error("--strong: name a second start, or give --bundled")
    if options.bundled and (options.weak or options.strong):
        parser.error("--bundled: has one start: leave out --weak and --strong")
    if strange := [name for name in options.train or () if name not in runs]:
        parser.error(f"--train {strange[0]!r}: choose from {', '.join(runs)}")

    corpus = read_corpus([options.corpus], documents=True)
    assert corpus.following is not None
    random = np.random.default_rng(options.seed)
    index = random.permutation(np.flatnonzero(np.asarray(corpus.following) >= 0))[: options.held_out]
    held_out = np.unique([*index, *corpus.following[index]])
    texts = material(corpus, [int(i) for i in index], {path.stem: read_pairs(path) for path in options.judges})
    starts = {"weak": options.weak or "mini", "strong": options.strong, "mini": "mini"}
    for name in runs if options.train is None else options.train:
        folder = folder_of(options.output, name)
        if not (folder / "facts.json").is_file():
            start, changes, training = runs[name]
            train(folder, name, starts[start], changes, training, corpus, held_out, texts, options)
    if options.train is None:
        tables([read(folder_of(options.output, name), texts) for name in runs], list(runs), list(texts.judges))


def folder_of(output: Path, name: str) -> Path:
    """Where a run's embeddings lie."""
    return output / name.replace(", ", "-").replace(" ", "-")


def material(corpus: Corpus, index: Sequence[int], judges: dict[str, PairSet]) -> Texts:
    """The held-out sentences at `index` of `corpus`, and what is made of them."""
    assert corpus.following is not None
    sentences, following = [corpus[i] for i in index], [corpus[int(corpus.following[i])] for i in index]
    random = np.random.default_rng(0)
    some, after = sentences[: len(sentences) // 8], following[: len(sentences) // 8]
    quarter, half = sentences[: len(sentences) // 4], sentences[: len(sentences) // 2]
    counts = Counter(word for sentence in corpus for word in set(sentence.split()))
    cut = [both for both in map(halves, sentences) if both is not None]

    fewer = cut[: len(cut) // 2]

    def rare(word: str) -> float:
        return log((1 + len(corpus)) / (1 + counts[word])) + 1e-9

    shuffled = [*some[1:], some[0]]
    pairs = {
        "neighbours": grades.neighbour_pairs(sentences, following),
        "neighbours, of 500 sentences alone": grades.neighbour_pairs(sentences[:500], following[:500]),
        "halves": grades.half_pairs(sentences),
        "mixed": grades.mixed_pairs(some, shuffled, 0),
        "mixed, rare words weigh more": grades.mixed_pairs(some, shuffled, 0, rare),
        "mixed with the next": grades.mixed_pairs(some, after, 0),
        "mixed with the next, rare words weigh more": grades.mixed_pairs(some, after, 0, rare),
        "lexical": grades.lexical_pairs(sentences, following),
        "lexical, no order": grades.lexical_pairs(sentences),
        "ladder": grades.ladder_pairs(quarter, following[: len(quarter)], 0),
        "ladder, no order": grades.ladder_pairs(quarter, None, 0),
    }
    searches = {
        "next MRR": (sentences, following),
        "halves MRR": ([a for a, _ in cut], [b for _, b in cut]),
        "halves MRR, half as many": ([a for a, _ in fewer], [b for _, b in fewer]),
        "a fifth of the words MRR": ([grades.dropped(sentence, 0.8, random) for sentence in half], half),
    }
    return Texts(sentences, following, pairs, searches, judges)


@tuned()
def train(
    folder: Path,
    name: str,
    start: str,
    changes: dict[str, Any],
    trained: float | dict[str, Any],
    corpus: Corpus,
    held_out: np.ndarray,
    texts: Texts,
    options: Any,
) -> None:
    """One run; leaves embeddings of `texts` at every checkpoint, and what needs the training network, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    method = Method(
        model=start,
        generator=None if "difference" in changes else default_generator(start),
        pooling=options.pooling,
        **changes,
    )
    training = Training(
        seed=options.seed,
        max_steps=options.steps,
        eval_every=options.every,
        checkpoint_every=10**6,
        **(trained if isinstance(trained, dict) else {"learning_rate": trained}),
    )
    model, tokenizer = build(method, seed=options.seed, packed=True)
    encoder = Encoder(model.encoder, tokenizer, method.pooling, position_limit(model.encoder, tokenizer))
    bf16 = use_bf16("auto")
    collate = Collate(tokenizer, training.max_tokens, neighbours=method.reads_next)
    everything, facts = texts.all(), []
    chooser = next(iter(texts.judges.values()))

    def judge() -> float:
        step = loop.step
        rows = encoder(everything, bf16=bf16)
        np.save(folder / f"step-{step:05d}.npy", rows.astype(np.float16))
        facts.append({"step": step, **in_training(model, encoder, texts.sentences[:512], bf16)})
        return score_sts(table_of(everything, rows), chooser).all.spearman

    examples = Without(Neighbours(corpus, held_out) if method.reads_next else corpus, held_out)
    batches = Batches(
        examples,
        collate,
        batch_size=training.batch_size,
        accumulation=training.accumulation,
        seed=training.seed,
    )
    task = DiffCSETask(model, training, batches, steps=options.steps, bf16=bf16, judges={"dev": judge})
    pace = Pace(
        steps=options.steps,
        log_every=training.log_every,
        evaluate_every=training.eval_every,
        checkpoint_every=training.checkpoint_every,
        max_grad_norm=training.max_grad_norm,
        rate=linear_rate(options.steps, 0),
        per_epoch=batches.per_epoch,
    )
    loop = Loop(
        task,
        pace,
        folder,
        report=lambda entry: print(name, {k: entry[k] for k in ("step", "dev", "loss") if k in entry}, flush=True),
    )
    loop.run()
    (folder / "facts.json").write_text(json.dumps(facts))


@torch.no_grad()
def in_training(model: DiffCSE, encoder: Encoder, sentences: Sequence[str], bf16: bool) -> dict[str, float]:
    """What needs more than embeddings: two dropout views of `sentences`, and D, where there is one."""
    collate = Collate(encoder.tokenizer, 32)
    batches = [collate(sentences[i : i + 64]) for i in range(0, len(sentences), 64)]
    was_training = model.training
    model.train()
    random = torch.random.get_rng_state()
    torch.manual_seed(0)
    views = []
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        for _ in range(2):
            rows = [
                pooled(encoder.model, batch["input_ids"], batch["attention_mask"], encoder.pooling) for batch in batches
            ]
            views.append(torch.cat(rows).float().numpy())
        model.train(was_training)
        gain = {}
        if model.choices.difference == "rtd":
            gain = {"conditional gain": conditional_gain(model, batches).gain}
    torch.random.set_rng_state(random)
    x, y = views
    losses = grades.contrastive_losses(x, y)
    right = 100 * float((reciprocal_ranks(x, y) == 1).mean())
    found = {"dropout loss": float(losses.mean()), "dropout accuracy": right, "dropout alignment": alignment(x, y)}
    return found | gain


def table_of(texts: Sequence[str], rows: np.ndarray) -> Encode:
    """An encoder that looks its answers up."""
    at = {text: i for i, text in enumerate(texts)}
    return lambda sentences: rows[[at[sentence] for sentence in sentences]]


def scores(encode: Encode, texts: Texts) -> dict[str, float]:
    """Every candidate's score of one checkpoint."""
    x, y = (np.asarray(encode(each)) for each in (texts.sentences, texts.following))
    found = {name: score_sts(encode, pairs).all.spearman for name, pairs in texts.pairs.items()}
    for name, each in texts.searches.items():
        found[name] = 100 * float(reciprocal_ranks(*map(encode, each)).mean())
    found["next loss"] = float(grades.contrastive_losses(x, y).mean())
    found["halves loss"] = float(grades.contrastive_losses(*map(encode, texts.searches["halves MRR"])).mean())
    found["next accuracy"] = 100 * float((reciprocal_ranks(x, y) == 1).mean())
    found["neighbours + mixed"] = found["neighbours"] + found["mixed"]
    found["neighbours + halves"] = found["neighbours"] + found["halves"]
    found["halves + mixed"] = found["halves"] + found["mixed"]
    found |= {"uniformity": uniformity(x), "effective rank": effective_rank(x), "mean cosine": mean_cosine(x)}
    found["alignment of next"] = alignment(x, y)
    return found


def read(folder: Path, texts: Texts) -> list[dict[str, float]]:
    """Candidates and judges of a run's checkpoints, in order; kept beside them once computed."""
    everything, rows = texts.all(), []
    for facts in json.loads((folder / "facts.json").read_text()):
        encode = table_of(everything, np.load(folder / f"step-{facts['step']:05d}.npy").astype(np.float32))
        judged = {name: score_sts(encode, pairs).all.spearman for name, pairs in texts.judges.items()}
        rows.append(facts | scores(encode, texts) | judged)
    return rows


def tables(runs: Sequence[list[dict[str, float]]], names: Sequence[str], judges: Sequence[str]) -> None:
    """Print how well each candidate orders checkpoints as the first judge does, and the choice on runs left out."""
    chooser, *others = judges
    print(f"{len(runs)} runs, {sum(map(len, runs))} checkpoints\n")
    print(f"| run | {chooser} at the start, best, last | the last step loses |\n|---|---|---|")
    for name, run in zip(names, runs, strict=True):
        best = max(row[chooser] for row in run[1:])
        said = ", ".join(f"{value:.1f}" for value in (run[0][chooser], best, run[-1][chooser]))
        print(f"| {name} | {said} | {best - run[-1][chooser]:.2f} |")
    heads = ["score", "within runs", "all checkpoints", "change from the start", "lost", "most", "right"]
    heads += [f"within, {other}" for other in others]
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name in sorted(candidates(runs, judges), key=lambda name: -within(runs, name, chooser)):
        cells = [interval(runs, name, chooser, kind) for kind in (within, overall, changes)]
        losses = [lost(run, name, chooser) for run in runs]
        right = sum(helped(run, name) == helped(run, chooser) for run in runs)
        cells += [f"{np.mean(losses):.2f}", f"{max(losses):.2f}", f"{right} of {len(runs)}"]
        cells += [f"{within(runs, name, other):.2f}" for other in others]
        print(f"| {name} | {' | '.join(cells)} |")
    for name, row in (("the last step", -1), ("the first checkpoint", 1)):
        losses = [max(each[chooser] for each in run[1:]) - run[row][chooser] for run in runs]
        print(f"| {name} | | | | {np.mean(losses):.2f} | {max(losses):.2f} | |{' |' * len(others)}")
    print("\n| run left out | chosen on the others | within it | lost | last step loses |\n|---|---|---|---|---|")
    for i, (name, run) in enumerate(zip(names, runs, strict=True)):
        rest = [*runs[:i], *runs[i + 1 :]]
        best_score = max(candidates(rest, judges), key=lambda score: within(rest, score, chooser))
        last = max(row[chooser] for row in run[1:]) - run[-1][chooser]
        inside, loss = within([run], best_score, chooser), lost(run, best_score, chooser)
        print(f"| {name} | {best_score} | {inside:.2f} | {loss:.2f} | {last:.2f} |")


def candidates(runs: Sequence[list[dict[str, float]]], judges: Sequence[str]) -> list[str]:
    """Names of the scores that every checkpoint has."""
    names = [name for name in runs[0][0] if name not in {"step", *judges}]
    return [name for name in names if all(name in row for run in runs for row in run)]


def column(run: list[dict[str, float]], name: str) -> np.ndarray:
    """One score of a run's checkpoints, higher being better."""
    sign = -1.0 if name in HIGHER_IS_WORSE else 1.0
    return sign * np.array([row[name] for row in run])


def within(runs: Sequence[list[dict[str, float]]], name: str, judge: str) -> float:
    """Mean over runs of Spearman between score and judge over a run's checkpoints."""
    return float(np.mean([spearman(column(run, name), column(run, judge)) for run in runs]))


def overall(runs: Sequence[list[dict[str, float]]], name: str, judge: str) -> float:
    """Spearman over all checkpoints of all runs."""
    return float(spearman(*(np.concatenate([column(run, each) for run in runs]) for each in (name, judge))))


def changes(runs: Sequence[list[dict[str, float]]], name: str, judge: str) -> float:
    """The same of what each checkpoint gained on its run's start."""
    gains = (np.concatenate([column(run, each)[1:] - column(run, each)[0] for run in runs]) for each in (name, judge))
    return float(spearman(*gains))


def interval(runs: Sequence[Any], name: str, judge: str, kind: Callable[..., float]) -> str:
    """`kind` with its 95 % interval over draws of the runs."""
    random = np.random.default_rng(0)
    draws = [kind([runs[i] for i in random.integers(len(runs), size=len(runs))], name, judge) for _ in range(RESAMPLES)]
    low, high = np.quantile(draws, [0.025, 0.975])
    return f"{kind(runs, name, judge):.2f} ({low:.2f} to {high:.2f})"


def lost(run: list[dict[str, float]], name: str, judge: str) -> float:
    """Points of `judge` between its best checkpoint and the one `name` chooses; the start cannot be chosen."""
    judged = column(run, judge)[1:]
    return float(judged.max() - judged[int(column(run, name)[1:].argmax())])


def helped(run: list[dict[str, float]], name: str) -> bool:
    """Whether the last step is above the start."""
    return bool(column(run, name)[-1] > column(run, name)[0])


if __name__ == "__main__":
    main()
