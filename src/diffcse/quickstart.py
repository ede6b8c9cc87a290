"""`diffcse quickstart`: from nothing but this package and its Python to a measured encoder, in minutes.

It trains SimCSE, DiffCSE and DiffCSE without its difference term, with the same steps and seed, on the text every
Python carries, its own documentation, and measures all on modules that were held out, beside what costs nothing:
TF-IDF and the untrained start. Its recipes were made on other text (what was seen here before they were taken is in
docs/log.md), no run chooses anything by the scores, the last step counts, and the verdict is given by a paired
bootstrap, whichever way it falls.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape

from diffcse.config import Config, load_recipe, to_dict
from diffcse.encoder.encode import Encoder
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
from diffcse.terminal import TrainingView, judged_sentence, loss_parts, say, table
from diffcse.text.corpus import Corpus
from diffcse.text.stdlib import Docstring, read_stdlib, retrieval_pairs
from diffcse.training.collate import Collate
from diffcse.training.run import Trained, check_output, run

CONTRAST, DIFFERENCE = "mini_documents", "mini_difference"
"""Recipes: what pulls sentences together here, and what the difference term is made with; they agree in all else."""
ALIKE = 4.0
"""Graded pairs from this score on count as positives for alignment."""

SEARCHES = (
    "read the rows of a spreadsheet saved as text",
    "wait until a thread has finished",
    "shrink data so that it takes less space",
)


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


COLUMNS = ["encoder", "MRR@10", "recall@10", "graded pairs", "alignment ↓", "uniformity ↓"]


def quickstart(output: Path, *, steps: int | None, seed: int, resume: bool, console: Console) -> Record:
    """Run the whole of it, write `output`/run.json and report.html, and print what came out.

    Raises:
        InputError: the folder is in use, the disk is full, or this Python has no library sources.
    """
    began = time.perf_counter()
    check_output(output, resume=resume, begun="simcse")
    if (output / "run.json").exists() and read_record(output / "run.json").kind != "quickstart":
        raise InputError(f"{output}: holds another kind of run: give another --output")

    _heading(console, "1  Text", "this Python's own documentation")
    library = read_stdlib()
    _, held_out = library.split()
    corpus = Corpus.from_sentences(library.documents(), documents=True)
    queries, documents = retrieval_pairs(held_out)
    modules = len({doc.module.partition(".")[0] for doc in held_out})
    console.print(
        f"{len(corpus):,} sentences from the docstrings of Python {library.python_version} to train on; "
        f"{len(held_out):,} docstrings of {modules} whole modules held out",
        highlight=False,
    )

    _heading(console, "2  Training", "three times: same start, text, steps, batches and seed")
    trained = {
        name: _train(name, config, corpus, output, resume, console) for name, config in _configs(steps, seed).items()
    }

    _heading(console, "3  Measurement", "on held-out modules, and on graded sentence pairs of our own")
    pairs = read_pairs(OWN_PAIRS)
    rows = _rows(trained, pairs, queries, documents)
    console.print(
        table(
            "",
            COLUMNS,
            [row.cells() for row in rows],
            caption=(
                f"MRR@10, recall@10 (points): a docstring's first sentence must find the rest of its docstring among "
                f"{len(documents):,}. Graded pairs: Spearman (points) on {len(pairs)} pairs of our own, no benchmark."
            ),
        )
    )
    verdicts = _verdicts({row.name: row for row in rows}, pairs)
    for verdict in verdicts:
        console.print(escape(verdict["words"]), highlight=False)
    console.print(
        f"[dim]One seed ({seed}). The intervals are over queries and pairs, not over training runs.[/]", highlight=False
    )

    _heading(console, "4  What the embedding knows of its edits", "only DiffCSE can tell")
    gain, edited = _inspect(trained["DiffCSE"], held_out, console)

    _heading(console, "5  Search", "over all docstrings of the library, with the DiffCSE encoder")
    searches = _search(trained["DiffCSE"].encoder, library.docstrings, console)

    record = Record(
        kind="quickstart",
        config={name: to_dict(config) for name, config in _configs(steps, seed).items()},
        seed=seed,
        data={
            "python": library.python_version,
            "sha256": library.sha256,
            "train_sentences": len(corpus),
            "train_sha256": corpus.sha256,
            "held_out_docstrings": len(held_out),
            "held_out_modules": modules,
            "queries": len(queries),
            "documents": len(documents),
            "pairs": len(pairs),
            "pairs_sha256": pairs.sha256,
        },
        scores={
            "columns": COLUMNS,
            "rows": [row.cells() for row in rows],
            "exact": [
                {
                    "encoder": row.name,
                    "retrieval": row.retrieval.to_dict(),
                    "pairs": row.pairs.to_dict(),
                    "alignment": row.alignment,
                    "uniformity": row.uniformity,
                }
                for row in rows
            ],
            "verdicts": verdicts,
            "conditional_gain": dataclasses.asdict(gain),
            "edited": edited,
            "searches": searches,
        },
        timing={
            "seconds": time.perf_counter() - began,
            **{f"training_{name}": t.record.timing.get("seconds", 0.0) for name, t in trained.items()},
        },
        status="complete",
    )
    record.write(output / "run.json")
    page = _page(record, output)
    _closing(console, output, page, record.timing["seconds"])
    return record


def _configs(steps: int | None, seed: int) -> dict[str, Config]:
    """SimCSE, whose positives are dropout views; DiffCSE, whose positives are next sentences; and that one without
    its difference term, which alone tells what the term brings."""
    contrast, difference = load_recipe(CONTRAST), load_recipe(DIFFERENCE)
    changes: dict[str, tuple[Config, dict[str, Any]]] = {
        "SimCSE": (contrast, {"difference": "none", "positives": "dropout"}),
        "contrast alone": (contrast, {"difference": "none"}),
        "DiffCSE": (difference, {"positives": contrast.method.positives}),
    }
    found = {}
    for name, (base, choices) in changes.items():
        # Its modules held out from training judge; all other text is trained on.
        training = dataclasses.replace(
            base.training,
            seed=seed,
            max_steps=steps or base.training.max_steps,
            keep_training_parts=True,
            select="last",
        )
        method = dataclasses.replace(base.method, **choices)
        found[name] = dataclasses.replace(
            base, name="quickstart", reproduces="", hardware="", method=method, training=training
        )
    return found


_DOES = {
    "SimCSE": "pulls two dropout views of a sentence together",
    "contrast alone": "pulls a sentence towards the next one of its docstring",
    "DiffCSE": "the same, and its embedding must help to tell which words were replaced",
}


def _folder(output: Path, name: str) -> Path:
    return output / name.lower().replace(" ", "-")


def _train(name: str, config: Config, corpus: Corpus, output: Path, resume: bool, console: Console) -> Trained:
    view = TrainingView(console, name)
    console.print(f"[bold]{name}[/]  [dim]{_DOES[name]}[/]", highlight=False)
    folder = _folder(output, name)
    try:
        trained = run(config, corpus, folder, resume=resume, report=view)
    finally:
        view.close()
    last = [entry for entry in trained.record.log if "loss" in entry][-1]
    console.print(f"last {config.training.log_every} steps: {'  '.join(loss_parts(last))}", highlight=False)
    return trained


def _rows(trained: dict[str, Trained], pairs: PairSet, queries: list[str], documents: list[str]) -> list[Row]:
    """TF-IDF, the untrained start, and what was trained."""
    sentences = [*pairs.first, *pairs.second]
    start = trained["DiffCSE"].record.config["method"]["model"]
    rows = [_row("TF-IDF", TfIdf(sentences), TfIdf([*queries, *documents]), pairs, queries, documents)]
    encoders = {
        "start": load(start, pooling=trained["DiffCSE"].record.config["method"]["pooling"]),
        **{name: run.encoder for name, run in trained.items()},
    }
    return rows + [_row(name, f, f, pairs, queries, documents) for name, f in encoders.items()]


def _row(
    name: str, pair_encode: Encode, search_encode: Encode, pairs: PairSet, queries: list[str], documents: list[str]
) -> Row:
    """One encoder's figures; TF-IDF needs an encoder for each of the two texts, fitted on it."""
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
    measures: dict[str, Callable[[Row, Row], Difference]] = {
        "held-out retrieval (MRR@10)": lambda a, b: paired_bootstrap(
            mean_score, 100 * a.retrieval.reciprocal_ranks, 100 * b.retrieval.reciprocal_ranks
        ),
        "graded pairs (Spearman)": lambda a, b: paired_bootstrap(
            spearman_with(pairs.scores), a.pairs.cosines, b.pairs.cosines
        ),
    }
    ours, verdicts = rows["DiffCSE"], []
    for measure, compare in measures.items():
        points = 1 if "MRR" in measure else 100
        for other in ("contrast alone", "SimCSE", "start", "TF-IDF"):
            found = compare(ours, rows[other])
            difference, low, high = (points * x for x in (found.difference, found.low, found.high))
            words = {
                "better": f"DiffCSE is better than {other}",
                "worse": f"{other} is better than DiffCSE",
                "tie": f"DiffCSE and {other} cannot be told apart",
            }[found.verdict]
            figures = f"{_signed(difference)} points, 95 % interval {_signed(low)} to {_signed(high)}"
            if max(abs(low), abs(high)) < 0.05:
                figures = "95 % interval less than 0.05 points to either side"
            verdicts.append(
                {
                    "measure": measure,
                    "other": other,
                    "difference": difference,
                    "low": low,
                    "high": high,
                    "verdict": found.verdict,
                    "words": f"{measure}: {words} ({figures})",
                }
            )
    return verdicts


def _signed(points: float) -> str:
    return f"{round(points, 1) + 0.0:+.1f}"  # adding 0.0 turns -0.0 into 0.0


def _inspect(
    trained: Trained, held_out: Sequence[Docstring], console: Console
) -> tuple[ConditionalGain, list[list[dict[str, Any]]]]:
    """Conditional gain on held-out text, and two edited sentences with D's opinion of every token."""
    assert trained.model is not None
    tokenizer = trained.encoder.tokenizer
    collate = Collate(tokenizer, trained.record.config["training"]["max_tokens"])
    texts = list(dict.fromkeys(itertools.chain.from_iterable(doc.sentences for doc in held_out)))
    # In random order, or the embedding given for another sentence's would come from the same docstring.
    random.Random(0).shuffle(texts)
    gain = conditional_gain(trained.model, [collate(texts[i : i + 64]) for i in range(0, len(texts) - 63, 64)])
    clear = abs(gain.gain) > 2 * gain.standard_error
    verdict = ("easier" if gain.gain > 0 else "harder") if clear else "no easier, within the error,"
    lines = (
        f"conditional gain {gain.gain:+.4f} ± {gain.standard_error:.4f} nats a token, {gain.tokens:,} held-out tokens:",
        f"  telling edits is {verdict} with a sentence's own embedding (log-loss {gain.own:.4f})",
        f"  than with another sentence's ({gain.shuffled:.4f})",
        f"tokens judged rightly {gain.accuracy:.1%}; always answering the commoner label {gain.majority:.1%}",
    )
    for line in lines:
        say(console, line)
    # Two sentences of middling length, taken by position, not for how well they come out.
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
        '[dim]Numbers: probability (%) of "replaced". Underlined: really replaced, the original in brackets.[/]',
        highlight=False,
    )
    return gain, edited


def _search(encoder: Encoder, docstrings: Sequence[Docstring], console: Console) -> list[dict[str, Any]]:
    """The three best docstrings for each of three searches, one hit a definition."""
    documents = {" ".join(doc.sentences): doc for doc in reversed(docstrings)}
    vectors = encoder(list(documents))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = []
    for query, vector in zip(SEARCHES, encoder(SEARCHES), strict=True):
        scores = vectors @ (vector / np.linalg.norm(vector))
        hits = [
            {
                "name": f"{doc.module}.{doc.qualname}".rstrip("."),
                "text": doc.sentences[0],
                "cosine": float(scores[i]),
            }
            for i, doc in ((i, list(documents.values())[i]) for i in np.argsort(-scores)[:3])
        ]
        found.append({"query": query, "hits": hits})
        console.print(f"[bold]{escape(query)}[/]", highlight=False)
        for hit in hits:
            console.print(
                f"  {hit['cosine']:.2f}  [cyan]{escape(hit['name'])}[/]  {escape(hit['text'][:90])}", highlight=False
            )
    return found


def _page(record: Record, output: Path) -> Path | None:
    """The page, if the packages that draw it are installed."""
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
    for what, where in (
        ("encoder", f"{output / 'diffcse' / 'model'}  (loads in sentence-transformers)"),
        ("record", str(output / "run.json")),
        ("page", str(page) if page else "not written"),
        ("next", "diffcse doctor your-text.txt --model mini, then diffcse train your-text.txt --output my-encoder"),
    ):
        say(console, f"{what:<9}{where}")
