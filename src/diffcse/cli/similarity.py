"""`diffcse similarity`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tyro.conf import Positional, arg

from diffcse.cli.paths import check_model
from diffcse.config import EncoderPooling
from diffcse.errors import InputError
from diffcse.machine import tune


@dataclass(frozen=True)
class Similarity:
    """Cosine of two sentences, of all pairs of several sentences, or of every pair in a file."""

    model: Annotated[Positional[str], arg(metavar="MODEL", help_behavior_hint="")]
    """Model folder, run of `diffcse train`, hub id, or "mini"."""
    sentences: Annotated[Positional[tuple[str, ...]], arg(metavar="SENTENCE...", help_behavior_hint="")] = ()
    """Two sentences give a cosine, more give a table. "-" reads them from standard input, one a line; blank lines are
    skipped."""
    file: str | None = None
    """Pairs instead: a text file with sentence, tab, sentence on each line ("-": standard input). One cosine a line."""
    encoding: str | None = None
    """Encoding of --file or standard input, such as windows-1252. Unset: UTF-8."""
    pooling: EncoderPooling | None = None
    """Overrides the folder's pooling; required for a plain checkpoint."""

    def __call__(self, console: Console) -> None:
        if self.file is not None and self.sentences:
            raise InputError("give sentences or --file, not both")
        if self.encoding is not None and self.file is None and self.sentences != ("-",):
            raise InputError("--encoding: is for --file and standard input")
        check_model(self.model, "model")
        from diffcse.encoder.inputs import STDIN, Sentences
        from diffcse.text.lines import Reading

        reading = Reading.of(self.encoding)
        sentences = list(self.sentences)
        if self.sentences == (STDIN,):
            sentences = [line for line in Sentences([STDIN], reading=reading) if line.strip()]
        if self.file is None and len(sentences) < 2:
            given = "1 sentence" if sentences else "0 sentences"
            raise InputError(f"{given} given: a cosine needs at least two. Give two sentences, or --file PAIRS.tsv")
        pairs = None if self.file is None else Sentences([self.file], lines=True, reading=reading)
        from diffcse.encoder.load import load
        from diffcse.encoder.similarity import pair_cosines, similarity
        from diffcse.terminal import say

        tune()
        encoder = load(self.model, pooling=self.pooling)
        # On standard error, so that the results can be piped.
        say(Console(stderr=True), f"encoder  {self.model}: pooling {encoder.pooling} ({encoder.note})")
        if pairs is not None:
            for cosine in pair_cosines(encoder, pairs, "standard input" if self.file == STDIN else str(self.file)):
                sys.stdout.write(f"{cosine:.4f}\n")
                if getattr(sys.stdout, "error", None):  # no reader is left
                    break
            return
        cosines = similarity(encoder, sentences, sentences)
        if len(sentences) == 2:
            say(console, f"{cosines[0, 1]:.4f}")
            return
        console.print(cosine_table(console, sentences, cosines.tolist()))


def cosine_table(console: Console, sentences: Sequence[str], cosines: Sequence[Sequence[float]]) -> Table:
    """Cosines of all pairs; where they are too many for the console's width, each sentence's nearest other."""
    others = [[(value, j) for j, value in enumerate(row) if j != i] for i, row in enumerate(cosines)]
    if 30 + 8 * len(sentences) > console.width:
        view = Table(title="Each sentence's nearest among the others", title_justify="left")
        view.add_column("sentence", overflow="fold")
        view.add_column("cosine", justify="right", no_wrap=True, min_width=6)
        view.add_column("nearest", overflow="fold")
        for sentence, row in zip(sentences, others, strict=True):
            value, nearest = max(row)
            view.add_row(escape(sentence), f"{value:.2f}", escape(sentences[nearest]))
        return view
    title = "Cosines; each row's highest in bold" if console.is_terminal else "Cosines"
    view = Table(title=title, title_justify="left")
    view.add_column("", justify="right", no_wrap=True)
    view.add_column("sentence", overflow="fold")
    for i in range(len(sentences)):
        view.add_column(str(i + 1), justify="right", no_wrap=True, min_width=5)
    for i, (sentence, row) in enumerate(zip(sentences, others, strict=True)):
        highest = max(row)[1]
        shown = {j: f"[bold green]{value:.2f}[/]" if j == highest else f"{value:.2f}" for value, j in row}
        view.add_row(str(i + 1), escape(sentence), *(shown.get(j, "[dim]1[/]") for j in range(len(sentences))))
    return view
