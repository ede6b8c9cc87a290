"""`diffcse quickstart`: from this package and its Python alone to a measured encoder, in minutes.

It trains three encoders with the same steps and seed, on a text that every Python carries: its own documentation.
It measures them on modules that were held out, beside two baselines that need no training: TF-IDF and the start.
The recipes were chosen on other text (docs/log/ says what was seen here before). No run chooses a step by these
scores, the last step counts, and a paired bootstrap gives the verdict.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from rich.console import Console

from diffcse.config import Config, load_recipe, to_dict
from diffcse.encoder.load import load
from diffcse.errors import InputError
from diffcse.evaluation.compare import Difference, mean_score, paired_bootstrap, spearman_with
from diffcse.evaluation.embeddings import Encode
from diffcse.evaluation.floors import TfIdf
from diffcse.evaluation.geometry import alignment, uniformity
from diffcse.evaluation.retrieval import RetrievalScore, score_retrieval
from diffcse.evaluation.sts import OWN_PAIRS, PairSet, StsScore, read_pairs, score_sts
from diffcse.files import write_text
from diffcse.method.inspect import ConditionalGain, conditional_gain, judge
from diffcse.record import Record, read_record
from diffcse.terminal import Figures, TrainingView, judged_sentence, loss_parts, print_figures, say
from diffcse.text.corpus import Corpus
from diffcse.text.stdlib import Docstring, StdlibCorpus, read_stdlib, retrieval_pairs
from diffcse.training.collate import Collate
from diffcse.training.folder import check_output
from diffcse.training.run import Trained, run

CONTRAST, DIFFERENCE = "mini_documents", "mini_difference"
"""Recipes: the first gives the contrastive term, the second the difference term. They agree in all else."""
ALIKE = 4.0
"""Graded pairs from this score on count as positives for alignment."""
MINUTES = 10
"""What the recipe's steps take on two CPU cores, all three runs and the measurement together."""

METHODS = {
    "SimCSE": "reads each sentence twice with random dropout, and pulls the two embeddings together",
    "contrast alone": "pulls a sentence towards the one that follows it in its docstring",
    "DiffCSE": "does the same; its embedding must also help a second network to find replaced words",
}
SHOWN = ("TF-IDF", "start", "DiffCSE")
"""Encoders whose searches are shown side by side."""
COLUMNS = ["encoder", "MRR@10", "recall@10", "graded pairs", "alignment ↓", "uniformity ↓"]


@dataclasses.dataclass(frozen=True)
class Row:
    """One encoder on the held-out text and the graded pairs."""

    name: str
    retrieval: RetrievalScore
    pairs: StsScore
    alignment: float
    uniformity: float

    def cells(self) -> list[str]:
        """The table's cells."""
        return [
            self.name,
            f"{100 * self.retrieval.mrr:.1f}",
            f"{100 * self.retrieval.recall[10]:.1f}",
            f"{self.pairs.all.spearman:.1f}",
            f"{self.alignment:.2f}",
            f"{self.uniformity:.2f}",
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, not rounded."""
        return {
            "encoder": self.name,
            "retrieval": self.retrieval.to_dict(),
            "pairs": self.pairs.to_dict(),
            "alignment": self.alignment,
            "uniformity": self.uniformity,
        }


def quickstart(output: Path, *, steps: int | None, seed: int, resume: bool, console: Console) -> Record:
    """Train, measure, print, and write `output`/run.json and report.html.

    Raises:
        InputError: the folder is in use, the disk is full, or this Python has no library sources.
    """
    began = time.perf_counter()
    check_output(output, resume=resume, begun="simcse")
    if (output / "run.json").exists() and read_record(output / "run.json").kind != "quickstart":
        raise InputError(f"{output}: holds another kind of run: give another --output")
    configs = _configs(steps, seed)
    usual = load_recipe(DIFFERENCE).training.max_steps or 1
    minutes = max(1, round(MINUTES * (steps or usual) / usual))
    say(console, f"On two CPU cores this takes about {minutes} min. It needs no network.")
    say(console, "Ctrl-C stops it; the same command with --resume continues.")

    _heading(console, "1  Text", "the documentation inside this Python")
    library = read_stdlib()
    _, held_out = library.split()
    corpus = Corpus.from_sentences(library.documents(), documents=True)
    queries, documents = retrieval_pairs(held_out)
    modules = len({doc.module.partition(".")[0] for doc in held_out})
    say(console, f"To train on: {len(corpus):,} sentences from the docstrings of Python {library.python_version}.")
    say(console, f"Held out for the test: {len(held_out):,} docstrings of {modules} other modules.")

    _heading(console, "2  Training", "three encoders: same start, text, steps, batches and seed")
    trained = {name: _train(name, config, corpus, output, resume, console) for name, config in configs.items()}

    _heading(console, "3  Test", "does an encoder find what belongs together?")
    pairs = read_pairs(OWN_PAIRS)
    rows = _rows(trained, pairs, queries, documents)
    verdicts = _verdicts({row.name: row for row in rows}, pairs)
    _print_scores(rows, verdicts, len(documents), len(pairs), seed, console)
    searches = _searches({row.name: row.retrieval.ranks for row in rows}, queries, documents)
    _print_searches(searches, console)

    _heading(console, "4  What the embedding knows about its sentence", "only DiffCSE trains for this")
    gain, edited = _inspect(trained["DiffCSE"], held_out, console)

    facts = {
        "held_out_docstrings": len(held_out),
        "held_out_modules": modules,
        "queries": len(queries),
        "documents": len(documents),
        "pairs": len(pairs),
        "pairs_sha256": pairs.sha256,
    }
    scores = {
        "columns": COLUMNS,
        "rows": [row.cells() for row in rows],
        "exact": [row.to_dict() for row in rows],
        "verdicts": verdicts,
        "searches": searches,
        "conditional_gain": dataclasses.asdict(gain),
        "edited": edited,
    }
    record = _record(configs, library, corpus, facts, scores, trained, time.perf_counter() - began)
    record.write(output / "run.json")
    _closing(console, output, _page(record, output), record.timing["seconds"])
    return record


# ---- training ------------------------------------------------------------------------------------------------------


def _configs(steps: int | None, seed: int) -> dict[str, Config]:
    """The three runs. "contrast alone" is DiffCSE without its difference term, so it shows what the term brings."""
    contrast, difference = load_recipe(CONTRAST), load_recipe(DIFFERENCE)
    changes: dict[str, tuple[Config, dict[str, Any]]] = {
        "SimCSE": (contrast, {"difference": "none", "positives": "dropout"}),
        "contrast alone": (contrast, {"difference": "none"}),
        "DiffCSE": (difference, {"positives": contrast.method.positives}),
    }
    configs = {}
    for name, (base, choices) in changes.items():
        # The held-out modules judge, so all other text is trained on and the last step is kept.
        training = dataclasses.replace(
            base.training,
            seed=seed,
            max_steps=steps or base.training.max_steps,
            keep_training_parts=True,
            select="last",
        )
        method = dataclasses.replace(base.method, **choices)
        configs[name] = dataclasses.replace(
            base, name="quickstart", reproduces="", hardware="", method=method, training=training
        )
    return configs


def _folder(output: Path, name: str) -> Path:
    return output / name.lower().replace(" ", "-")


def _train(name: str, config: Config, corpus: Corpus, output: Path, resume: bool, console: Console) -> Trained:
    console.print(f"\n[bold]{name}[/]  [dim]{METHODS[name]}[/]", highlight=False, soft_wrap=True)
    with TrainingView(console, name) as view:

        def report(event: str, facts: dict[str, Any]) -> None:
            if event != "corpus":  # the same for all three, and described above
                view(event, facts)

        trained = run(config, corpus, _folder(output, name), resume=resume, report=report)
    last = [entry for entry in trained.record.log if "loss" in entry][-1]
    say(console, f"at the end: {'  '.join(loss_parts(last))}")
    return trained


# ---- the test ------------------------------------------------------------------------------------------------------


def _rows(trained: Mapping[str, Trained], pairs: PairSet, queries: list[str], documents: list[str]) -> list[Row]:
    """TF-IDF, the untrained start, and the trained encoders."""
    words = TfIdf([*pairs.first, *pairs.second]), TfIdf([*queries, *documents])
    rows = [_row("TF-IDF", *words, pairs, queries, documents)]
    method = trained["DiffCSE"].record.config["method"]
    start = load(method["model"], pooling=method["pooling"])
    encoders = {"start": start, **{name: run.encoder for name, run in trained.items()}}
    return rows + [_row(name, f, f, pairs, queries, documents) for name, f in encoders.items()]


def _row(
    name: str, pair_encode: Encode, search_encode: Encode, pairs: PairSet, queries: list[str], documents: list[str]
) -> Row:
    """One encoder's figures. TF-IDF has an encoder for each of the two texts, fitted on it."""
    distinct = list(dict.fromkeys([*pairs.first, *pairs.second]))
    alike = [i for i, score in enumerate(pairs.scores) if score >= ALIKE]
    return Row(
        name=name,
        retrieval=score_retrieval(search_encode, queries, documents, range(len(queries))),
        pairs=score_sts(pair_encode, pairs),
        alignment=alignment(
            pair_encode([pairs.first[i] for i in alike]), pair_encode([pairs.second[i] for i in alike])
        ),
        uniformity=uniformity(pair_encode(distinct)),
    )


def _verdicts(rows: dict[str, Row], pairs: PairSet) -> list[dict[str, Any]]:
    """DiffCSE against each other row on both measures, in figures and in words."""
    measures: dict[str, tuple[float, Callable[[Row, Row], Difference]]] = {
        "held-out retrieval (MRR@10)": (
            1,
            lambda a, b: paired_bootstrap(
                mean_score, 100 * a.retrieval.reciprocal_ranks, 100 * b.retrieval.reciprocal_ranks
            ),
        ),
        "graded pairs (Spearman)": (
            100,
            lambda a, b: paired_bootstrap(spearman_with(pairs.scores), a.pairs.cosines, b.pairs.cosines),
        ),
    }
    return [
        _verdict(measure, other, compare(rows["DiffCSE"], rows[other]), points)
        for measure, (points, compare) in measures.items()
        for other in ("contrast alone", "SimCSE", "start", "TF-IDF")
    ]


def _verdict(measure: str, other: str, found: Difference, points: float) -> dict[str, Any]:
    difference, low, high = (points * value for value in (found.difference, found.low, found.high))
    words = {
        "better": f"DiffCSE is better than {other}",
        "worse": f"{other} is better than DiffCSE",
        "tie": f"no clear difference between DiffCSE and {other}",
    }[found.verdict]
    figures = f"{_signed(difference)} points, 95 % interval {_signed(low)} to {_signed(high)}"
    if max(abs(low), abs(high)) < 0.05:
        figures = "95 % interval less than 0.05 points to either side"
    return {
        "measure": measure,
        "other": other,
        "difference": difference,
        "low": low,
        "high": high,
        "verdict": found.verdict,
        "words": f"{measure}: {words} ({figures})",
    }


def _signed(points: float) -> str:
    return f"{round(points, 1) + 0.0:+.1f}"  # adding 0.0 turns -0.0 into 0.0


def _print_scores(
    rows: Sequence[Row], verdicts: Sequence[dict[str, Any]], documents: int, pairs: int, seed: int, console: Console
) -> None:
    for line in (
        f"MRR@10 and recall@10: a docstring's first sentence must find the rest of it among {documents:,}.",
        f"Graded pairs: how well the cosine orders {pairs} sentence pairs as a person graded them (Spearman).",
        "Alignment, uniformity: are pairs of one meaning near, and all sentences spread out? Lower is better.",
        "TF-IDF compares words and learns nothing; start is the encoder before training. All others in points.",
    ):
        say(console, line)
    print_figures(console, Figures("Scores", COLUMNS, [row.cells() for row in rows]))
    for verdict in verdicts:
        say(console, verdict["words"])
    console.print(
        f"[dim]One seed ({seed}). The intervals are over queries and pairs, not over training runs.[/]",
        highlight=False,
        soft_wrap=True,
    )


def _searches(ranks: Mapping[str, np.ndarray], queries: list[str], documents: list[str]) -> dict[str, Any]:
    """How often each encoder is right, and up to three searches that DiffCSE has first and word matching has not.

    Of those, the ones that TF-IDF places worst are shown, and of equals the first in the text.
    """
    ours, words = ranks["DiffCSE"], ranks["TF-IDF"]
    convincing = np.flatnonzero((ours == 1) & (words > 3))
    shown = convincing[np.argsort(-words[convincing], kind="stable")][:3]
    return {
        "first": {name: int((rank == 1).sum()) for name, rank in ranks.items() if name in SHOWN},
        "of": len(queries),
        "examples": [
            {"query": queries[i], "answer": documents[i], "ranks": {name: int(ranks[name][i]) for name in SHOWN}}
            for i in shown
        ],
    }


def _print_searches(searches: dict[str, Any], console: Console) -> None:
    firsts = ", ".join(f"{name} {count}" for name, count in searches["first"].items())
    say(console, f"\nThe right answer came first, of {searches['of']} searches: {firsts}.")
    if not searches["examples"]:
        say(console, "No search that DiffCSE answers was hard for TF-IDF.")
        return
    say(console, "Searches that TF-IDF gets most wrong and DiffCSE gets right (picked for that):")
    for example in searches["examples"]:
        places = ", ".join(f"{name} {rank}" for name, rank in example["ranks"].items())
        say(console, f"  {example['query']}")
        say(console, f"    answer: {shorten(example['answer'], 96, placeholder=' ...')}")
        say(console, f"    its place: {places}")


# ---- what the embedding knows --------------------------------------------------------------------------------------


def _inspect(
    trained: Trained, held_out: Sequence[Docstring], console: Console
) -> tuple[ConditionalGain, list[list[dict[str, Any]]]]:
    """Conditional gain on held-out text, and two edited sentences with D's probability for every token."""
    assert trained.model is not None
    tokenizer = trained.encoder.tokenizer
    collate = Collate(tokenizer, trained.record.config["training"]["max_tokens"])
    texts = list(dict.fromkeys(itertools.chain.from_iterable(doc.sentences for doc in held_out)))
    # In random order, so that the other sentence whose embedding is given is of another docstring.
    random.Random(0).shuffle(texts)
    gain = conditional_gain(trained.model, [collate(texts[i : i + 64]) for i in range(0, len(texts) - 63, 64)])
    clear = abs(gain.gain) > 2 * gain.standard_error
    effect = ("helps it" if gain.gain > 0 else "misleads it") if clear else "does not help it measurably"
    for line in (
        "Some words of a sentence were replaced. A second network must tell which, given an embedding.",
        f"The sentence's own embedding {effect}: conditional gain {gain.gain:+.4f} ± {gain.standard_error:.4f}.",
        f"(Its loss in nats a token: {gain.own:.4f} given the own embedding, {gain.shuffled:.4f} given another's.)",
        f"It is right for {gain.accuracy:.1%} of {gain.tokens:,} tokens; the commoner answer alone for "
        f"{gain.majority:.1%}.",
    ):
        say(console, line)
    # Two sentences of medium length, chosen by position and not by result.
    shown = [text for text in texts if 8 <= len(text.split()) <= 14][:2]
    edited = []
    for sentence in judge(trained.model, collate(shown)):
        tokens = [
            {
                "token": tokenizer.convert_ids_to_tokens(token.id),
                "original": tokenizer.convert_ids_to_tokens(token.original),
                "replaced": token.replaced,
                "probability": token.probability,
            }
            for token in sentence[1:-1]
        ]
        edited.append(tokens)
        console.print(judged_sentence(tokens))
    console.print(
        '[dim]Numbers: its probability (%) for "replaced". Underlined: really replaced, the original in brackets.[/]',
        highlight=False,
        soft_wrap=True,
    )
    return gain, edited


# ---- what it leaves ------------------------------------------------------------------------------------------------


def _record(
    configs: Mapping[str, Config],
    library: StdlibCorpus,
    corpus: Corpus,
    facts: dict[str, Any],
    scores: dict[str, Any],
    trained: Mapping[str, Trained],
    seconds: float,
) -> Record:
    return Record(
        kind="quickstart",
        config={name: to_dict(config) for name, config in configs.items()},
        seed=configs["DiffCSE"].training.seed,
        data={
            "python": library.python_version,
            "sha256": library.sha256,
            "train_sentences": len(corpus),
            "train_sha256": corpus.sha256,
            **facts,
        },
        scores=scores,
        timing={
            "seconds": seconds,
            **{f"training_{name}": run.record.timing.get("seconds", 0.0) for name, run in trained.items()},
        },
        status="complete",
    )


def _page(record: Record, output: Path) -> Path | None:
    """Write the page, if the packages that draw it are installed."""
    from diffcse.report.quickstart import quickstart_page

    runs = {name: read_record(_folder(output, name) / "run.json") for name in record.config}
    try:
        html = quickstart_page(record, runs)
    except InputError as error:
        print(error)
        return None
    write_text(output / "report.html", html)
    return output / "report.html"


def _heading(console: Console, title: str, rest: str) -> None:
    console.print(f"\n[bold blue]{title}[/]  [dim]{rest}[/]", highlight=False)


def _closing(console: Console, output: Path, page: Path | None, seconds: float) -> None:
    _heading(console, "Done", f"in {seconds / 60:.1f} minutes")
    for label, value in (
        ("encoder", f"{output / 'diffcse' / 'model'}  (loads in sentence-transformers)"),
        ("record", str(output / "run.json")),
        ("page", str(page) if page else "not written"),
        ("next", "your own text: diffcse train your-text.txt --output my-encoder"),
    ):
        say(console, f"{label:<9}{value}")
