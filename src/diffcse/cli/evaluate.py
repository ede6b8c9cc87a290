"""`diffcse evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from rich.console import Console
from tyro.conf import Positional, UseAppendAction, arg

from diffcse.cli.paths import check_data, check_files, check_model
from diffcse.config import EncoderPooling, Quoting
from diffcse.errors import InputError

if TYPE_CHECKING:
    from diffcse.evaluation.candidates import Candidate
    from diffcse.evaluation.data import Data
    from diffcse.evaluation.jobs import Group

Tasks = Literal["sts", "transfer", "retrieval", "geometry", "all"]


@dataclass(frozen=True)
class Evaluate:
    """Score encoders on graded pairs, classification, search and geometry."""

    models: Annotated[Positional[tuple[str, ...]], arg(metavar="MODEL...", help_behavior_hint="")]
    """Model folders, runs of diffcse train, hub ids, or "mini". Also embeddings: x.npy (with x.txt) or x.parquet."""
    data: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="DIR|hub:ID|pairs")] = ()
    """Folder with the test sets, hub:mteb, or "pairs" (399 graded pairs in this package)."""
    tasks: Tasks = "sts"
    """What to measure."""
    sets: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME")] = ()
    """Measure only this set, such as STS12 or MR."""
    text: Annotated[UseAppendAction[tuple[Path, ...]], arg(metavar="FILE")] = ()
    """Also measure geometry and conditional gain on this file of one sentence a line."""
    texts: Annotated[str | None, arg(metavar="FILE")] = None
    """Measure on this table of your own texts with labels: neighbours, clusters, few examples."""
    pairs: Annotated[str | None, arg(metavar="FILE")] = None
    """Measure on this table of your own questions with their answers: recall and MRR."""
    graded: Annotated[str | None, arg(metavar="FILE")] = None
    """Measure on your own graded pairs: a .tsv of score, text, text."""
    column: str | None = None
    """Column of the text (--texts) or of the question (--pairs); if not given "text" or "question"."""
    label: str = "label"
    """With --texts: column of the label."""
    answer: str = "answer"
    """With --pairs: column of the answer."""
    encoding: str | None = None
    """With --texts and --pairs: encoding of the file, such as windows-1252. Unset: UTF-8."""
    quoting: Quoting = "auto"
    """With --texts and --pairs: double quotes in .csv and .tsv enclose cells (csv) or are text (none)."""
    columns: Annotated[str | None, arg(metavar="LIST")] = None
    """With --texts and --pairs: names of all columns, with commas between them, where the file has no header."""
    limits: Annotated[str | None, arg(metavar="LIST")] = None
    """With --texts and --pairs: limits of the reader, such as max_line_bytes=20000000; docs/text.md has their names."""
    pooling: EncoderPooling | None = None
    """Pooling for all models; needed for a plain checkpoint."""
    probe: Literal["logistic", "adam", "adam-fast"] = "logistic"
    """Classifier of the transfer tasks."""
    allow_partial: bool = False
    """Accept known sets with missing pairs or subsets."""
    floors: bool = False
    """With --data: add baselines of words alone, TF-IDF and SIF over the first model's word vectors. Your own data
    always has baselines."""
    floor_vectors: Path | None = None
    """With --floors: also SIF over this file of word vectors (GloVe's text format)."""
    floor_text: Path | None = None
    """With --floors: fit the baselines on this text instead of on each set."""
    details: bool = False
    """Also print every subset, and each way to average."""
    json: Path | None = None
    """Also write the report to this file (docs/evaluation.md)."""
    list_sentences: Path | None = None
    """Write the sentences that the tasks need to this file, one a line, and stop."""
    cache: bool = True
    """Use and keep cached results. --no-cache measures again."""

    COMMON: ClassVar[tuple[str, ...]] = (
        "texts", "pairs", "graded", "column", "label", "answer", "data", "tasks", "sets", "floors", "details", "json",
    )  # fmt: skip

    def __call__(self, console: Console) -> None:
        self._check_arguments()
        if self._own:
            self._measure_own(console)
            return
        from diffcse.evaluation.cache import ResultCache, default_cache_dir
        from diffcse.evaluation.data import find_data
        from diffcse.evaluation.jobs import GROUPS
        from diffcse.evaluation.probes import PROBES
        from diffcse.evaluation.report import build_report
        from diffcse.files import write_json
        from diffcse.machine import tune
        from diffcse.terminal import EvaluationView, say
        from diffcse.training.gain import add_gains

        tune()
        groups: tuple[Group, ...] = GROUPS if self.tasks == "all" else (self.tasks,)
        if self.text and "geometry" not in groups:
            groups = (*groups, "geometry")
        if idle := self._idle(groups):
            say(console, f"note     without effect here: {', '.join(idle)}")
        data = find_data(self.data, groups=groups, only=self.sets, texts=self.text, allow_partial=self.allow_partial)
        if self.list_sentences:
            self._write_sentences(self.list_sentences, data, groups, console)
            return
        candidates = self._candidates()
        cache = ResultCache(default_cache_dir() if self.cache else None)
        with EvaluationView(console) as view:
            report = build_report(candidates, data, groups=groups, probe=PROBES[self.probe], cache=cache, progress=view)
        texts = [*data.texts.values(), *data.shapes().values()]
        if "geometry" in groups and texts:
            add_gains(report, self.models, texts[0])
        self._print(report, console)
        if cache.hits:
            say(console, f"cache    results from the cache: {cache.hits} (--no-cache measures again)")
        if self.json:
            write_json(self.json, report)
            say(console, f"written  {self.json}")

    def _check_arguments(self) -> None:
        if self._own and (self.data or self.text or self.list_sentences or len(self._own) > 1):
            others = [*self._own[1:], *(["--data, --text or --list-sentences"] if len(self._own) == 1 else [])]
            raise InputError(f"{self._own[0]}: cannot be combined with {others[0]}. Run twice")
        if not self.data and not self.text and not self._own:
            raise InputError(
                "no data: give --texts, --pairs or --graded (your own), --data DIR (a folder in SentEval's, BEIR's or "
                "the *.tsv layout), --data hub:mteb, or --data pairs (graded pairs in this package)"
            )
        if not self.models and not self.list_sentences:
            raise InputError("no model: give a model folder, e.g. diffcse evaluate out/model --data pairs")
        for name in self.data:
            check_data(name)
        floor_files = (self.floor_vectors, self.floor_text) if self.floors else ()
        check_files(str(file) for file in (*self.text, *floor_files, self.texts, self.pairs) if file is not None)
        if self.graded is not None:
            check_data(self.graded, "--graded")
        for model in self.models:
            check_model(model, "model")

    @property
    def _own(self) -> list[str]:
        """The options given that name own data."""
        return [f"--{name}" for name in ("texts", "pairs", "graded") if getattr(self, name) is not None]

    def _measure_own(self, console: Console) -> None:
        from diffcse.evaluation.own_report import evaluate_own, own_data, with_starts
        from diffcse.files import write_json
        from diffcse.machine import tune
        from diffcse.terminal import EvaluationView, print_figures, say
        from diffcse.text.lines import Reading

        tune()
        data = own_data(
            self.texts,
            self.pairs,
            self.graded,
            column=self.column,
            label=self.label,
            answer=self.answer,
            reading=Reading.of(self.encoding, self.quoting, self.columns, self.limits),
        )
        candidates, notes = with_starts(self.models, self.pooling)
        if idle := self._idle(()):
            notes.append(f"without effect here: {', '.join(idle)}")
        for note in [*data.notes, *notes]:
            say(console, f"note     {note}")
        with EvaluationView(console) as view:
            report = evaluate_own(candidates, data, progress=view)
        print_figures(console, report.figures())
        if self.json:
            write_json(self.json, report)
            say(console, f"written  {self.json}")

    def _idle(self, groups: Sequence[Group]) -> list[str]:
        """Options that are given and have no effect beside the others."""
        stored = [Path(model).suffix in (".npy", ".parquet") for model in self.models]
        own, is_no_table = bool(self._own), self.texts is None and self.pairs is None
        idle = {
            "--tasks": own and self.tasks != "sts",
            "--sets": own and bool(self.sets),
            "--column": is_no_table and self.column is not None,
            "--encoding": is_no_table and self.encoding is not None,
            "--quoting": is_no_table and self.quoting != "auto",
            "--columns": is_no_table and self.columns is not None,
            "--limits": is_no_table and self.limits is not None,
            "--label": self.texts is None and self.label != "label",
            "--answer": self.pairs is None and self.answer != "answer",
            "--floors": own and self.floors,
            "--probe": self.probe != "logistic" and "transfer" not in groups,
            "--details": self.details and not {"sts", "transfer"} & set(groups),
            "--pooling": self.pooling is not None and bool(stored) and all(stored),
            "--floor-vectors": bool(self.floor_vectors) and (own or not self.floors),
            "--floor-text": bool(self.floor_text) and (own or not self.floors),
        }
        return [name for name, is_idle in idle.items() if is_idle]

    def _write_sentences(self, file: Path, data: Data, groups: Sequence[Group], console: Console) -> None:
        from diffcse.evaluation.jobs import jobs_of
        from diffcse.files import write_text
        from diffcse.terminal import say

        needed = list(dict.fromkeys(sentence for job in jobs_of(data, groups) for sentence in job.sentences))
        write_text(file, "".join(f"{sentence}\n" for sentence in needed))
        say(console, f"written  {file}  ({len(needed):,} sentences)")

    def _candidates(self) -> list[Candidate]:
        from diffcse.evaluation.candidates import floor_candidates, load_candidate
        from diffcse.evaluation.data import read_texts

        candidates = [load_candidate(source, pooling=self.pooling) for source in self.models]
        if self.floors:
            text = None if self.floor_text is None else read_texts(self.floor_text)
            candidates += floor_candidates(candidates, vectors=self.floor_vectors, text=text)
        return candidates

    def _print(self, report: dict[str, Any], console: Console) -> None:
        from diffcse.cli.evaluation_tables import tables
        from diffcse.terminal import print_figures, say

        for source, result in zip(self.models, report["results"], strict=False):  # the floors follow the models
            encoder = result["encoder"]
            if "pooling" in encoder:
                why = f" ({encoder['pooling_note']})" if "pooling_note" in encoder else ""
                tokens = f"up to {encoder['max_tokens']} tokens"
                say(console, f"encoder  {source}: pooling {encoder['pooling']}{why}, {tokens}")
        for figures in tables(report, details=self.details):
            print_figures(console, figures)
        for note in report["notes"]:
            say(console, f"note     {note}")
