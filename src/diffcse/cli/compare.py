"""`diffcse compare`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from rich.console import Console
from tyro.conf import Positional, UseAppendAction, arg

from diffcse.cli.paths import check_files, check_model
from diffcse.errors import InputError

if TYPE_CHECKING:
    from diffcse.evaluation.comparison import Source
    from diffcse.evaluation.own_pairs import OwnData


@dataclass(frozen=True)
class Compare:
    """Compare methods over seeds: is a difference clear, or within the luck of the seeds and the sentences?"""

    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="RUN...", help_behavior_hint="")]
    """Runs of `diffcse train`, or JSON files of `diffcse evaluate`. NAME=RUN names its method. With --recipes: files of
    text to train on."""
    recipes: tuple[str, ...] = ()
    """Train these recipes (or presets, such as simcse) on the text first, then compare them. Spaces or commas between
    them."""
    seeds: int = 4
    """With --recipes: runs of each recipe, with the seeds 0, 1, ... A verdict needs four."""
    model: str | None = None
    """With --recipes: the start of all; each recipe's own if not given."""
    max_steps: int | None = None
    """With --recipes: updates of the recipes that train weights."""
    train_column: str = "text"
    """With --recipes: column of the text to train on."""
    output: Path = Path("comparison")
    """With --recipes: folder of the runs. Complete runs in it are not trained again."""
    texts: Annotated[str | None, arg(metavar="FILE")] = None
    """Score on this table of your own texts with labels (precision@10)."""
    pairs: Annotated[str | None, arg(metavar="FILE")] = None
    """Score on this table of your own questions with answers (MRR@10)."""
    graded: Annotated[str | None, arg(metavar="FILE")] = None
    """Score on your own graded pairs, a .tsv (Spearman)."""
    column: str | None = None
    """Column of the text (--texts) or of the question (--pairs); if not given "text" or "question"."""
    label: str = "label"
    """With --texts: column of the label."""
    answer: str = "answer"
    """With --pairs: column of the answer."""
    data: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="DIR|hub:ID|pairs")] = ()
    """Folder with STS sets, hub:mteb or "pairs", to score the runs' encoders on pair by pair. Without: recorded dev
    scores."""
    sets: UseAppendAction[tuple[str, ...]] = ()
    """Only this set, such as STS12."""
    baseline: str | None = None
    """The method that the others are compared with; the first if not given."""
    resamples: int = 1000
    """Draws of the bootstrap over sentence pairs."""
    allow_partial: bool = False
    """Accept well-known sets with pairs or subsets missing."""
    cache: bool = True
    """Keep scores, and use those kept for exactly this encoder, set and code."""
    markdown: Path | None = None
    """Write the tables to this file."""
    json: Path | None = None
    """Write everything to this file."""
    html: Path | None = None
    """Write a page with plots to this file."""

    COMMON: ClassVar[tuple[str, ...]] = (
        "recipes", "seeds", "model", "max_steps", "train_column", "output", "texts", "pairs", "graded", "column",
        "label", "answer", "data", "baseline", "json", "html",
    )  # fmt: skip

    def __call__(self, console: Console) -> None:
        self._check()
        if self.resamples < 100:
            raise InputError(f"--resamples {self.resamples}: at least 100, or intervals mean nothing")
        from diffcse.evaluation.comparison import check_sources, compare_sources, read_source
        from diffcse.evaluation.data import Data, find_data
        from diffcse.terminal import say

        own = self._own()
        sources = self._train(console) if self.recipes else [read_source(text) for text in self.runs]
        check_sources(sources, with_data=bool(self.data) or own is not None)
        data, places = Data(), self.data
        if self.recipes and not places and own is None:
            places = ("pairs",)
            say(
                console,
                "note     scored on 399 general pairs, which do not know your text (--texts, --pairs, --graded)",
            )
        if places:
            data = find_data(places, groups=("sts",), only=self.sets, allow_partial=self.allow_partial)
        elif idle := self._idle():
            say(console, f"note     {', '.join(idle)}: no effect without --data")
        comparison = compare_sources(
            sources,
            data,
            own=own,
            sets=self.sets,
            baseline=self.baseline,
            resamples=self.resamples,
            cache=self.cache,
            report=lambda line: say(console, line) if console.is_terminal else None,
        )
        _show(comparison, console)
        self._write(comparison, console)

    def _check(self) -> None:
        if self.recipes:
            if not self.runs:
                raise InputError("no text: give files, e.g. diffcse compare texts.csv --recipes adapt simcse")
            check_files(self.runs)
            check_model(self.model, "--model")
        elif len(self.runs) < 2:
            raise InputError("nothing to compare: give two or more runs, e.g. diffcse compare runs/*")
        given = [f"--{name}" for name in ("texts", "pairs", "graded") if getattr(self, name) is not None]
        if len(given) + bool(self.data) > 1:
            raise InputError(f"{given[0]}: cannot be combined with {[*given[1:], '--data'][0]}. Run twice")
        check_files(file for file in (self.texts, self.pairs) if file is not None)

    def _own(self) -> OwnData | None:
        from diffcse.evaluation.own_report import own_data

        if self.texts is self.pairs is self.graded is None:
            return None
        return own_data(self.texts, self.pairs, self.graded, column=self.column, label=self.label, answer=self.answer)

    def _train(self, console: Console) -> list[Source]:
        from diffcse.evaluation.seeds import LEAST_SEEDS
        from diffcse.tables.recipes import train_recipes
        from diffcse.terminal import say

        if self.seeds < LEAST_SEEDS:
            say(console, f"note     --seeds {self.seeds}: a verdict needs {LEAST_SEEDS}, so there will be none")
        return train_recipes(
            [name for names in self.recipes for name in names.split(",") if name],
            self.runs,
            self.output,
            seeds=self.seeds,
            model=self.model,
            max_steps=self.max_steps,
            text={"column": self.train_column},
            report=lambda line: say(console, line),
        )

    def _idle(self) -> list[str]:
        """Options that were given and have no effect without --data."""
        given = {
            "--resamples": self.resamples != 1000,
            "--allow-partial": self.allow_partial,
            "--no-cache": not self.cache,
        }
        return [name for name, changed in given.items() if changed]

    def _write(self, comparison: dict[str, Any], console: Console) -> None:
        from diffcse.files import write_json, write_text
        from diffcse.report.comparison import comparison_markdown, comparison_page
        from diffcse.terminal import say

        if self.markdown:
            write_text(self.markdown, comparison_markdown(comparison))
        if self.html:
            write_text(self.html, comparison_page(comparison))
        if self.json:
            write_json(self.json, comparison)
        for path in (self.markdown, self.html, self.json):
            if path:
                say(console, f"written  {path}")


def _show(comparison: dict[str, Any], console: Console) -> None:
    """Print a table for each checkpoint, what it shows, and the notes."""
    from diffcse.report.comparison import Comparison
    from diffcse.terminal import print_figures

    whole = Comparison(comparison)
    for figures in whole.figures():
        print_figures(console, figures)
    for line in whole.lines():
        console.print(line, style="dim", markup=False, highlight=False)
