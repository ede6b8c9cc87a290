"""What a run leaves in memory: the encoder that ships, its record, and what people do next with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from diffcse.config import ADAPT_MOST
from diffcse.encoder.encode import Encoder
from diffcse.encoder.load import load
from diffcse.encoder.save import save
from diffcse.encoder.share import push
from diffcse.errors import InputError
from diffcse.evaluation.embeddings import normalise
from diffcse.evaluation.report import evaluate
from diffcse.figures import Figures
from diffcse.method.paper import DiffCSE
from diffcse.record import Record, verdict
from diffcse.text.corpus import Corpus
from diffcse.text.examples import Examples
from diffcse.text.strings import iter_strings
from diffcse.training.folder import check_output

UNJUDGED = "unknown: nothing measured whether this helps. A dev file (--dev) of 50 labelled or graded examples does"


@dataclasses.dataclass(frozen=True, repr=False)
class Trained:
    """A trained encoder with its record. Printed, and in a notebook, it is a table."""

    model: DiffCSE | None
    """The trained module after the last step; None for a run that was already complete and kept no training parts."""
    encoder: Encoder
    """What ships."""
    record: Record
    output: Path | None = None
    """The run's folder."""
    corpus: Corpus | Examples | None = None
    """The text it learned from."""

    def figures(self) -> Figures:
        """The run as a table: what was learned from what, and what judged it."""
        config, scores = self.record.config, self.record.scores
        start = scores.get("shipped") == "start"
        steps = f", {scores['steps']:,} steps" if scores.get("steps") else ""
        rows = [
            ["recipe", f"{config['name']}{steps}, {self.record.timing.get('seconds', 0):.0f} s"],
            ["start", config["method"]["model"]],
            ["text", f"{self.record.data.get('sentences', 0):,} distinct texts"],
            ["encoder", "the start, unchanged" if start else f"{self.encoder.width} numbers a text"],
            ["verdict", verdict(scores) or UNJUDGED],
        ]
        rows += [["folder", str(self.output)]] if self.output is not None else []
        return Figures("Trained encoder", ["", ""], rows, prose=True)

    def __repr__(self) -> str:
        return str(self.figures())

    def _repr_html_(self) -> str:
        return self.figures()._repr_html_()

    def start(self) -> Encoder:
        """The encoder before training.

        Raises:
            InputError: it is no longer where it was.
        """
        method = self.record.config["method"]
        return load(method["model"], pooling=method["pooling"])

    def evaluate(self, data: Any = None, **options: Any) -> dict[str, Any]:
        """`diffcse.evaluate` of the start and of this encoder, on the same data.

        Args:
            data: as there; or leave it out and give `texts`, `pairs` or `graded`.
            options: as there, such as texts=table, column="title", label="topic".

        Raises:
            InputError: as `diffcse.evaluate`.
        """
        return evaluate({"start": self.start(), "trained": self.encoder}, data, **options)

    def neighbours(
        self, sentences: Iterable[str] | str | None = None, *, texts: Iterable[str] | None = None, k: int = 5
    ) -> Figures:
        """The `k` nearest texts of each sentence, with their cosines, as a table.

        Args:
            sentences: one or several; if not given, five texts whose nearest text has changed in training.
            texts: where to search; if not given, the texts of training (the first 20,000).

        Raises:
            InputError: nothing to search, k below 1, or not strings.
        """
        if sentences is None:
            return self._changed()
        if k < 1:
            raise InputError(f"k = {k}: must be 1 or more")
        asked = list(iter_strings([sentences] if isinstance(sentences, str) else sentences))
        searched, rows_NH = self._searched if texts is None else self._embedded(list(iter_strings(texts, "texts")))
        cosines = np.asarray(normalise(self.encoder(asked))) @ rows_NH.T
        rows: list[list[str]] = []
        for sentence, values in zip(asked, cosines, strict=True):
            rows.append([sentence, ""])
            others = [i for i in np.argsort(-values, kind="stable")[: k + 1] if searched[i] != sentence][:k]
            rows += [[f"    {searched[i]}", f"{values[i]:.2f}"] for i in others]
        return Figures(f"Nearest of {len(searched):,} texts", ["text", "cosine"], rows)

    @cached_property
    def _searched(self) -> tuple[list[str], np.ndarray]:
        if not isinstance(self.corpus, Corpus):
            raise InputError("texts: the run has no plain text to search. Give texts=[...]")
        return self._embedded([self.corpus[i] for i in range(min(len(self.corpus), ADAPT_MOST))])

    def _embedded(self, texts: list[str]) -> tuple[list[str], np.ndarray]:
        if not texts:
            raise InputError("texts: nothing to search")
        return texts, np.asarray(normalise(self.encoder(texts)))

    def _changed(self) -> Figures:
        changed: Sequence[dict[str, str]] = self.record.scores.get("neighbours") or []
        if not changed:
            raise InputError("sentences: this run compared no neighbours. Give the sentences to search for")
        rows = [[row[name] for name in ("text", "before", "after")] for row in changed]
        return Figures("Nearest text before and after", ["text", "before", "after"], rows, prose=True)

    def push(self, repository: str, *, license: str | None = None, private: bool = False, update: bool = False) -> str:
        """Upload the shipped folder to the Hugging Face hub, as `diffcse push` does; return its address.

        Args:
            repository: OWNER/NAME.
            license: of the weights, by the hub's name for it, such as "mit"; that of the card if None.
            private: whether only its owner sees a new repository.
            update: whether the repository may exist.

        Raises:
            InputError: the run has no folder, or as `encoder.share.push`.
        """
        if self.output is None:
            raise InputError("output: this run has no folder to push. Save the encoder and push that folder")
        return push(self.output, repository, licence=license, private=private, update=update)

    def save(self, folder: str | Path) -> None:
        """Write the encoder as a plain sentence-transformers folder, which must be new or empty.

        Raises:
            InputError: the folder is not empty, or cannot be written.
        """
        if Path(folder).is_dir() and any(not path.name.startswith(".") for path in Path(folder).iterdir()):
            raise InputError(f"{folder}: the folder exists: give a new one")
        check_output(Path(folder), resume=False)
        card = None if self.output is None else self.output / "model" / "README.md"
        save(
            self.encoder, Path(folder), card.read_text(encoding="utf-8") if card is not None and card.is_file() else ""
        )
