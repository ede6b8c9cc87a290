"""The options of verbs that read texts row by row and embed them, and what these verbs do alike."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console
from tyro.conf import arg

from diffcse.cli.paths import check_model
from diffcse.config import EncoderPooling, Precision, Quoting
from diffcse.errors import InputError

if TYPE_CHECKING:
    from diffcse.encoder.encode import Encoder
    from diffcse.encoder.inputs import Sentences


_WRITTEN = ("row", "kind", "score", "kept_row", "kept_text", "cluster", "distance")
"""Columns that the verbs write themselves."""


@dataclass(frozen=True, kw_only=True)
class OwnRows:
    """Base of a verb: `model` and the options of the readers."""

    model: str = "mini"
    """Model folder, run of `diffcse train`, hub id, or "mini"."""
    column: str | None = None
    """Column with the texts, in files that have columns. Unset: "text"."""
    keep: Annotated[str | None, arg(metavar="LIST")] = None
    """More columns for the output, with commas between them, such as id,title."""
    encoding: str | None = None
    """Encoding of text files, such as windows-1252; bytes outside it become U+FFFD. Unset: UTF-8, or what a byte order
    mark says."""
    quoting: Quoting = "auto"
    """Double quotes in .csv and .tsv enclose cells (csv) or are text (none). auto: csv in .csv, and in a .tsv file that
    is consistently quoted."""
    columns: Annotated[str | None, arg(metavar="LIST")] = None
    """Names of all columns, with commas between them, for .csv and .tsv files without a header."""
    limits: Annotated[str | None, arg(metavar="LIST")] = None
    """Raise the limits of the reader, such as max_line_bytes=5000000; docs/text.md has their names."""
    pooling: EncoderPooling | None = None
    """Overrides the folder's pooling; required for a plain checkpoint."""
    precision: Precision = "auto"
    """auto: bf16 on hardware that computes in bf16 (cosines to the exact embeddings above 0.9999), else fp32."""

    def open(self, verb: str, files: Sequence[str]) -> Sentences:
        """The texts of `files`, not read yet.

        Raises:
            InputError: no file, or a model, file or column that is not there.
        """
        if not files:
            raise InputError(f"no file: give one or more, e.g. diffcse {verb} texts.csv --column title --model MODEL")
        check_model(self.model, "--model")
        from diffcse.encoder.inputs import Sentences
        from diffcse.text.lines import Reading

        keep = [name.strip() for name in self.keep.split(",") if name.strip()] if self.keep else []
        clash = next((name for name in keep if name in _WRITTEN or name == (self.column or "text")), None)
        if clash or self.column in _WRITTEN:
            option = f"--keep {clash}" if clash else f"--column {self.column}"
            raise InputError(f"{option}: the output has a column of this name. Rename it in the input")
        reading = Reading.of(self.encoding, self.quoting, self.columns, self.limits)
        return Sentences(files, self.column, keep=keep, reading=reading)

    def encoder(self, console: Console) -> Encoder:
        """The encoder, and a line that says how it pools."""
        from diffcse.machine import tune
        from diffcse.terminal import loading, say

        with loading(console):
            from diffcse.encoder.load import load

        tune()
        encoder = load(self.model, pooling=self.pooling)
        say(console, f"encoder  {self.model}: pooling {encoder.pooling} ({encoder.note})")
        return encoder


def read_all(sentences: Sentences, console: Console) -> tuple[list[str], list[tuple[Any, ...]]]:
    """(all texts, the kept values of each), in order; what the reader changed is printed."""
    from diffcse.terminal import say

    texts: list[str] = []
    kept: list[tuple[Any, ...]] = []
    for chunk in sentences.chunks():
        texts += chunk.texts
        columns = [] if chunk.kept is None else [column.to_pylist() for column in chunk.kept.columns]
        kept += zip(*columns, strict=True) if columns else [()] * len(chunk.texts)
    for note in sentences.notes.values():
        say(console, f"note     {note}")
    return texts, kept


def stages(console: Console) -> tuple[Any, Callable[[str, int, int], None]]:
    """(live line, function that shows a stage's progress on it)."""
    from diffcse.terminal import LiveLine

    line = LiveLine(console, pause=30.0)
    current = ""

    def show(stage: str, done: int, total: int) -> None:
        nonlocal current
        if stage != current:
            current = stage
            line.restart()
        line.show(done / max(total, 1), [f"{stage}  {done:,} of {total:,}"])

    return line, show


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table in UTF-8 in one atomic step."""
    from diffcse.files import staged_file

    with staged_file(path) as staging, staging.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)  # its \r\n at line ends makes it quote a cell with a lone \r, as \n alone does not
        writer.writerow(header)
        writer.writerows(rows)


def has_pages() -> bool:
    """Whether jinja2, which makes the pages, is installed."""
    return find_spec("jinja2") is not None


def cut(text: str, width: int = 70) -> str:
    """The text in one line of at most `width` characters."""
    from diffcse.figures import without_controls

    line = " ".join(without_controls(text).split())
    return line if len(line) <= width else f"{line[: width - 2]} …"
