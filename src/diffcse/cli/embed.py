"""`diffcse embed`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from rich.console import Console
from tyro.conf import Positional, arg

from diffcse.cli.paths import check_model
from diffcse.config import EncoderPooling, Precision, Quoting, Store
from diffcse.errors import InputError
from diffcse.figures import counted
from diffcse.machine import tune

if TYPE_CHECKING:
    from diffcse.encoder.inputs import Sentences
    from diffcse.encoder.manifest import Shard


@dataclass(frozen=True)
class Embed:
    """Write an embedding for every line of text files: row i is line i, also if it is blank or repeated. The output is
    one file, or a folder of parts that can be resumed and shared by many processes.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL", help_behavior_hint="")]
    """Model folder, run of `diffcse train`, hub id, or "mini"."""
    files: Annotated[Positional[tuple[str, ...]], arg(metavar="FILE...", help_behavior_hint="")] = ()
    """Files or globs: .txt, .csv, .tsv, .jsonl, .json, .parquet, hub data sets, also packed; "-" for lines of
    standard input."""
    output: Path | None = None
    """FILE.npy (an array, rows x dimensions), FILE.parquet (columns text and embedding), or a folder of .parquet parts
    (a name without suffix). A folder is resumed: the same command again writes what is missing."""
    column: str | None = None
    """Column with the sentences, in files that have columns. Unset: "text"."""
    keep: Annotated[str | None, arg(metavar="LIST")] = None
    """More columns for .parquet, with commas between them, such as id,title."""
    overwrite: bool = False
    """Replace an existing file, or begin a folder of parts again."""
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
    prompt: str | None = None
    """Put before each sentence: the name of a prompt of the model, such as query, or a text that ends with a space or
    colon. Unset: the model's default prompt, if it has one."""
    truncate_dim: int | None = None
    """Keep only so many numbers of each embedding, the first ones."""
    normalize: bool = False
    """Scale every embedding to length 1, so that dot products are cosines."""
    store: Store = "float32"
    """Type of the stored numbers: int8 takes a quarter of the space, binary 1/32. Prints how many of the 10 nearest
    neighbours stay the same."""
    precision: Precision = "auto"
    """Arithmetic. auto: bf16 on hardware that computes in bf16 (cosines to the exact embeddings above 0.9999), else
    fp32."""
    batch_tokens: int = 4096
    """Most tokens in one forward pass; padding counts only for models that cannot run without it."""
    workers: int | None = None
    """Processes that embed; they share the CPU's cores or use a GPU each. Unset: one for each GPU. On two cores, a
    second process saves 5 % of the time (20 % with a tiny model) and takes seconds to start."""
    shard: str | None = None
    """i/n: write every n-th part of the folder, for n jobs that share it; i from 1 to n, or from 0 to n - 1."""
    rows_per_part: int = 50_000
    """Rows in a part of the folder; a kill loses at most one part."""
    engine: Literal["local", "ray"] = "local"
    """ray: embed a folder of Parquet files by --workers actors of Ray Data, here or on a cluster (diffcse[ray]). They
    need 3 CPUs more than actors."""
    address: str | None = None
    """A running Ray cluster, such as auto or ray://HEAD:10001. Unset: Ray starts on this machine."""
    check: bool = False
    """Embed nothing: check that the folder has every row of the input once, unchanged."""

    COMMON: ClassVar[tuple[str, ...]] = (
        "output", "column", "keep", "overwrite", "prompt", "truncate_dim", "normalize", "store", "precision",
        "shard", "check",
    )  # fmt: skip
    RENAMED: ClassVar[Mapping[str, str]] = {"--normalise": "--normalize", "--no-normalise": "--no-normalize"}

    def __call__(self, console: Console) -> None:
        from diffcse.encoder.manifest import Shard, check, check_folder
        from diffcse.encoder.outputs import check_output, is_folder

        sentences, output = self._checked()
        shard = Shard.of(self.shard)
        if is_folder(output):
            check_folder(
                output, sentences, self.rows_per_part, shard, overwrite=self.overwrite, engine=self.engine
            )  # fmt: skip
        else:
            check_output(output, overwrite=self.overwrite)
        if self.engine == "ray":
            self._embed_on_ray(console, sentences, output)
            return
        from diffcse.terminal import CountView, loading, say

        if self.check:
            with CountView(console, "sentences") as view:
                parts, rows = check(output, sentences, lambda done: view(done, sentences.total))
            say(console, f"complete {output}  ({rows:,} rows in {counted(parts, 'part')}, each row once)")
            return
        with loading(console):
            from diffcse.encoder.encode import use_bf16
            from diffcse.encoder.load import load
            from diffcse.encoder.stream import adjusted

        tune()
        encoder = adjusted(load(self.model, pooling=self.pooling), self.prompt, self.truncate_dim)
        bf16 = use_bf16(self.precision)
        say(
            console,
            f"encoder  {self.model}: pooling {encoder.pooling} ({encoder.note}), up to {encoder.max_tokens} tokens, "
            f"on {encoder.model.device.type} in {'bf16' if bf16 else 'fp32'}",
        )
        options: dict[str, Any] = {
            "normalise": self.normalize, "store": self.store, "overwrite": self.overwrite, "bf16": bf16,
            "batch_tokens": self.batch_tokens, "workers": self.workers, "note": lambda line: say(console, line),
        }  # fmt: skip
        view = CountView(console, "sentences")
        if is_folder(output):
            lines = self._write_parts(view, encoder, sentences, output, shard, options)
        else:
            lines = _write_file(view, encoder, sentences, output, options)
        for line in [*(f"note     {note}" for note in sentences.notes.values()), *lines]:
            say(console, line)

    def _checked(self) -> tuple[Sentences, Path]:
        """The input and the output, after every check that needs no model."""
        from diffcse.encoder.outputs import is_folder

        if not self.files:
            raise InputError("no file: give one or more, e.g. diffcse embed out/model sentences.txt --output out.npy")
        if self.output is None:
            raise InputError("no output: give --output FILE.npy, FILE.parquet or FOLDER")
        if self.batch_tokens < 1:
            raise InputError(f"--batch-tokens {self.batch_tokens}: must be at least 1")
        if self.workers is not None and self.workers < 1:
            raise InputError(f"--workers {self.workers}: must be at least 1")
        if self.output.suffix == ".npy" and self.keep:
            raise InputError(f"--keep {self.keep}: {self.output} is an array alone. Give --output FILE.parquet")
        if not is_folder(self.output) and (self.shard or self.check):
            option = "--shard" if self.shard else "--check"
            raise InputError(f"{option}: needs a folder of parts: give --output a name without suffix")
        if self.engine == "ray" and (self.shard or self.check or self.overwrite or not is_folder(self.output)):
            raise InputError("--engine ray: writes a folder, without --shard, --check and --overwrite")
        if self.address and self.engine != "ray":
            raise InputError(f"--address {self.address}: goes with --engine ray")
        check_model(self.model, "model")
        from diffcse.encoder.inputs import STDIN, Sentences
        from diffcse.text.lines import Reading

        reading = Reading.of(self.encoding, self.quoting, self.columns, self.limits)
        keep = [name.strip() for name in self.keep.split(",") if name.strip()] if self.keep else []
        sentences = Sentences(self.files, self.column, keep=keep, reading=reading)
        if any(source.path.resolve() == self.output.resolve() for source in sentences.sources):
            raise InputError(f"{self.output}: is also an input: give another --output")
        if STDIN not in self.files:  # a wrong column is known before a model is loaded
            next(Sentences(self.files[:1], self.column, keep=keep, reading=reading).chunks(), None)
        _ = sentences.kept_schema
        return sentences, self.output

    def _embed_on_ray(self, console: Console, sentences: Sentences, output: Path) -> None:
        from diffcse.terminal import loading, say

        with loading(console):
            from diffcse.integrations.ray_data import embed_on_ray
        rows = embed_on_ray(
            self.model, sentences, output, pooling=self.pooling, prompt=self.prompt, truncate_dim=self.truncate_dim,
            normalise=self.normalize, store=self.store, precision=self.precision, batch_tokens=self.batch_tokens,
            actors=self.workers or 1, address=self.address, rows_per_part=self.rows_per_part,
            note=lambda line: say(console, line),
        )  # fmt: skip
        say(console, f"complete {output}  ({rows:,} rows)")

    def _write_parts(
        self, view: Any, encoder: Any, sentences: Sentences, output: Path, shard: Shard, options: dict[str, Any]
    ) -> list[str]:
        """Write the missing parts; return lines on what was written."""
        from diffcse.encoder.outputs import Form
        from diffcse.encoder.parts import embed_parts

        try:
            with view:
                done = embed_parts(
                    encoder, sentences, output, name=self.model, rows_per_part=self.rows_per_part, shard=shard,
                    report=view, **options,
                )  # fmt: skip
        except KeyboardInterrupt as stop:
            raise KeyboardInterrupt(_kept(output, sentences.total)) from stop
        if not done.written and not done.missing:
            parts = counted(done.present, "part") if shard.count == 1 else "all parts"
            return [f"complete: nothing to do ({done.total:,} rows in {parts})"]
        form = Form(encoder.width, self.normalize, self.store)
        before = f"; {done.present:,} were there already" if done.present else ""
        lines = [
            f"written  {output}  ({counted(done.written, 'part')}{before}; {done.rows:,} rows of {form.label}; "
            f"{view.rate()})"
        ]
        if not done.missing:
            return [*lines, f"complete {output}  ({done.total:,} rows)"]
        missing = f"{counted(done.missing, 'part')} {'is' if done.missing == 1 else 'are'} missing"
        return [*lines, f"note     {missing}: other shards, or the same command without --shard, write what is missing"]


def _kept(output: Path, total: int | None) -> str:
    """What a stopped run left in its folder of parts, for the line on the stop."""
    from pyarrow import parquet

    from diffcse.encoder.manifest import part_files

    files = part_files(output).values() if output.is_dir() else []
    rows = sum(parquet.read_metadata(path).num_rows for path in files)
    if not rows:
        return ": nothing was complete yet"
    return f": kept {rows:,}{'' if total is None else f' of {total:,}'} rows; the same command continues"


def _write_file(view: Any, encoder: Any, sentences: Sentences, output: Path, options: dict[str, Any]) -> list[str]:
    """Write one file; return a line on what was written."""
    from diffcse.encoder.outputs import Form
    from diffcse.encoder.stream import embed

    total = sentences.total
    with view:
        view(0, total)
        rows = embed(
            encoder, sentences, output, report=lambda done: view(done, total), place=sentences.place, **options
        )  # fmt: skip
    form = Form(encoder.width, options["normalise"], options["store"])
    return [f"written  {output}  ({rows:,} rows of {form.label}; {view.rate()})"]
