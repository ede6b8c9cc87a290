"""`diffcse embed`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console
from tyro.conf import Positional, arg

from diffcse.cli.paths import check_model
from diffcse.config import EncoderPooling, Precision, Quoting
from diffcse.errors import InputError
from diffcse.machine import tune


@dataclass(frozen=True)
class Embed:
    """Write an embedding for every line of text files to one file: row i is line i, also if it is blank or repeated."""

    model: Annotated[Positional[str], arg(metavar="MODEL", help_behavior_hint="")]
    """Model folder, run of `diffcse train`, hub id, or "mini"."""
    files: Annotated[Positional[tuple[str, ...]], arg(metavar="FILE...", help_behavior_hint="")] = ()
    """Files or globs: .txt, .csv, .tsv, .jsonl, .json, .parquet, hub data sets, also packed; "-" for lines of
    standard input."""
    output: Path | None = None
    """File to write: .npy (an array, rows x dimensions, float32) or .parquet (columns text and embedding)."""
    column: str | None = None
    """Column with the sentences, in files that have columns. Unset: "text"."""
    encoding: str | None = None
    """Encoding of text files, such as windows-1252; bytes outside it become U+FFFD. Unset: UTF-8, or what a byte order
    mark says."""
    quoting: Quoting = "auto"
    """Double quotes in .csv and .tsv enclose cells (csv) or are text (none). auto: csv in .csv, and in a .tsv file that
    is consistently quoted."""
    columns: str | None = None
    """Names of all columns, with commas between them, for .csv and .tsv files without a header."""
    pooling: EncoderPooling | None = None
    """Overrides the folder's pooling; required for a plain checkpoint."""
    normalise: bool = False
    """Scale every embedding to length 1, so that dot products are cosines."""
    precision: Precision = "auto"
    """auto: bf16 on hardware that computes in bf16 (cosines to the exact embeddings above 0.9999), else fp32."""
    batch_tokens: int = 4096
    """Most tokens in one forward pass; padding counts only for models that cannot run without it."""
    workers: int | None = None
    """Processes that embed; they share the CPU's cores or use a GPU each. Unset: one for each GPU. On two cores, a
    second process saves 5 % of the time (20 % with a tiny model) and takes seconds to start."""

    def __call__(self, console: Console) -> None:
        if not self.files:
            raise InputError("no file: give one or more, e.g. diffcse embed out/model sentences.txt --output out.npy")
        if self.output is None:
            raise InputError("no output: give --output FILE.npy or FILE.parquet")
        if self.batch_tokens < 1:
            raise InputError(f"--batch-tokens {self.batch_tokens}: must be at least 1")
        if self.workers is not None and self.workers < 1:
            raise InputError(f"--workers {self.workers}: must be at least 1")
        check_model(self.model, "model")
        from diffcse.encoder.inputs import Sentences
        from diffcse.text.lines import Reading

        reading = Reading.of(self.encoding, self.quoting, self.columns)
        sentences = Sentences(self.files, self.column, reading=reading)
        if any(source.path.resolve() == self.output.resolve() for source in sentences.sources):
            raise InputError(f"{self.output}: is also an input: give another --output")
        from diffcse.terminal import CountView, loading, say

        with loading(console):
            from diffcse.encoder.encode import use_bf16
            from diffcse.encoder.load import load
            from diffcse.encoder.stream import check_output, embed

        tune()
        check_output(self.output)
        encoder = load(self.model, pooling=self.pooling)
        bf16 = use_bf16(self.precision)
        say(
            console,
            f"encoder  {self.model}: pooling {encoder.pooling} ({encoder.note}), up to {encoder.max_tokens} tokens, "
            f"on {encoder.model.device.type} in {'bf16' if bf16 else 'fp32'}",
        )
        view = CountView(console, "sentences")
        try:
            view(0, sentences.share_of(0))
            rows = embed(
                encoder,
                sentences,
                self.output,
                normalise=self.normalise,
                batch_tokens=self.batch_tokens,
                bf16=bf16,
                workers=self.workers,
                report=lambda done: view(done, sentences.share_of(done)),
                place=sentences.place,
            )
        finally:
            view.close()
        for note in sentences.notes.values():
            say(console, f"note     {note}")
        say(console, f"written  {self.output}  ({rows:,} rows of {encoder.width} float32; {view.rate()})")
