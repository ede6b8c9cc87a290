"""`diffcse export`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any, get_args

from rich.console import Console
from tyro.conf import Positional, arg

from diffcse.cli.paths import check_files, check_model, check_output
from diffcse.config import EncoderPooling
from diffcse.encoder.settings import Target
from diffcse.errors import InputError
from diffcse.machine import tune

if TYPE_CHECKING:
    from diffcse.encoder.encode import Encoder
    from diffcse.encoder.export import Exported

_ROUNDS = 3


@dataclass(frozen=True)
class Export:
    """Write an encoder as a folder for other programs, and compare it with the encoder on real sentences.

    onnx, onnx-int8 and openvino are one graph from token ids and mask to the embedding, with tokenizer.json beside it.
    static has one vector for each token: many times as fast, and less exact. sentence-transformers is the plain folder.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL", help_behavior_hint="")]
    """Model folder, run of `diffcse train`, hub id, or "mini"."""
    to: Target | None = None
    """What to write; see above."""
    output: Path | None = None
    """Folder to write; must be new or empty."""
    text: str | None = None
    """File with sentences to compare on; the first 500 are used. Unset: Python's own documentation."""
    column: str | None = None
    """Column with the sentences, if --text has columns. Unset: "text"."""
    pooling: EncoderPooling | None = None
    """Overrides the folder's pooling; required for a plain checkpoint."""

    def __call__(self, console: Console) -> None:
        if self.to is None:
            raise InputError(f"no --to: choose one of {', '.join(get_args(Target))}")
        if self.output is None:
            raise InputError("no output: give --output FOLDER")
        if self.column is not None and self.text is None:
            raise InputError("--column: names a column of --text FILE, which is not given")
        check_output(self.output, resume=None)
        check_model(self.model, "model")
        if self.text is not None:
            check_files([self.text])
        from diffcse.encoder.inputs import Sentences
        from diffcse.terminal import Figures, loading, print_figures, say

        texts = None if self.text is None else Sentences([self.text], self.column)
        with loading(console):
            from diffcse.encoder.export import comparison_texts, export
            from diffcse.encoder.load import load

        tune()
        sample = comparison_texts(texts)
        encoder = load(self.model, pooling=self.pooling)
        say(console, f"encoder  {self.model}: pooling {encoder.pooling} ({encoder.note}), {encoder.width} numbers")
        with console.status("writing and comparing"):
            exported = export(encoder, self.output, self.to, texts=sample)
            rows = _rows(encoder, exported, sample)
        columns = ["", "MB", "texts/s", "least cos", "mean cos", "Spearman"]
        caption = (
            f"Cosines to fp32 on {len(sample)} sentences. Spearman (x 100) on the bundled graded pairs. "
            f"Texts a second: median of {_ROUNDS} rounds, on this machine."
        )
        print_figures(console, Figures("The folder beside the encoder", columns, rows, caption))
        self._warn(console, exported, float(rows[-1][-1]) - float(rows[0][-1]))
        say(console, f"written  {self.output}  ({self.to}; {exported.bytes / 1e6:.1f} MB)")

    def _warn(self, console: Console, exported: Exported, change: float) -> None:
        from diffcse.encoder.export import EXACT, LEAST
        from diffcse.terminal import say

        if self.to in EXACT:
            return
        loss = f"{change:+.2f} points on the bundled graded pairs"
        if exported.least is None:
            say(console, f"warning  token vectors alone: word order is lost. {loss}. Measure on your own texts")
        elif exported.least < LEAST:
            say(console, f"warning  int8 changes embeddings: least cosine {exported.least:.4f}, {loss}")


def _rows(encoder: Encoder, exported: Exported, texts: Sequence[str]) -> list[list[str]]:
    """Name, size, speed, agreement and Spearman of the encoder and of what was written."""
    from diffcse.encoder.encode import use_bf16
    from diffcse.encoder.export import agreement
    from diffcse.evaluation.sts import OWN_PAIRS, read_pairs, score_sts

    ways: dict[str, Callable[[Sequence[str]], Any]] = {"diffcse embed, fp32": encoder}
    if use_bf16("auto"):
        ways["diffcse embed, bf16"] = partial(encoder, bf16=True)
    ways[exported.to] = exported.encode
    embedded = {name: encode(texts) for name, encode in ways.items()}  # also warms up
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for name in [*ways] * _ROUNDS:  # in turn, so that noise affects all alike
        start = time.perf_counter()
        ways[name](texts)
        seconds[name].append(time.perf_counter() - start)
    pairs, own = read_pairs(OWN_PAIRS), _own_bytes(encoder)
    rows = []
    for name, encode in ways.items():
        comparable = name != exported.to or exported.least is not None
        cosines = agreement(embedded["diffcse embed, fp32"], embedded[name]) if comparable else ()
        size = exported.bytes if name == exported.to else own
        speed = f"{len(texts) / median(seconds[name]):,.0f}"
        shown = [f"{value:.5f}" for value in cosines] or ["–", "–"]
        rows.append([name, f"{size / 1e6:.1f}", speed, *shown, f"{score_sts(encode, pairs).all.spearman:.2f}"])
    return rows


def _own_bytes(encoder: Encoder) -> int:
    """The size of the encoder's folder; of one in memory alone, of its weights."""
    from diffcse.encoder.export import folder_bytes

    folder = encoder.model.name_or_path
    if folder and Path(folder).is_dir():
        return folder_bytes(Path(folder))
    return sum(weight.nbytes for weight in encoder.model.parameters())
