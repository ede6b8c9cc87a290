"""The encoder of an index: its identity, and the prompts of its queries and documents."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffcse.encoder.encode import Encoder
from diffcse.encoder.fingerprint import fingerprint
from diffcse.encoder.load import load
from diffcse.encoder.outputs import to_unit
from diffcse.errors import InputError
from diffcse.searching.place import Record

_DOCUMENTS = ("document", "passage", "corpus")
"""Names of document prompts, in sentence-transformers' order of choice."""
METRICS = {"cosine": "dot", "dot": "dot", "euclidean": "l2"}
"""How an encoder's embeddings are compared -> LanceDB's name. For cosine, rows and queries have length 1."""


@dataclass(frozen=True)
class Sides:
    """An encoder as it embeds queries, and as it embeds documents."""

    encoder: Encoder
    name: str | None
    """What loads it: a folder, a hub id or "mini"; None: it was in memory."""

    @classmethod
    def of(cls, model: Encoder | str | Path, pooling: Any = None) -> Sides:
        """Load `model`, unless it is an encoder or the result of `diffcse.train`, which has one.

        Raises:
            InputError: as `load`; or its embeddings are compared by a similarity that no index has.
        """
        if isinstance(owned := getattr(model, "encoder", None), Encoder):
            model = owned
        if isinstance(model, Encoder):
            sides = cls(model, None)
        else:
            name = str(Path(model).expanduser().absolute()) if Path(model).expanduser().is_dir() else str(model)
            sides = cls(load(model, pooling=pooling), name)
        if sides.encoder.settings.similarity not in METRICS:
            raise InputError(
                f"{model}: compares embeddings by {sides.encoder.settings.similarity}, which no index has. "
                f"An index has {', '.join(METRICS)}"
            )
        return sides

    @property
    def query_prompt(self) -> str | None:
        """The name of the prompt before queries."""
        settings = self.encoder.settings
        return "query" if "query" in settings.prompts else settings.default_prompt

    @property
    def document_prompt(self) -> str | None:
        """The name of the prompt before documents."""
        settings = self.encoder.settings
        return next((name for name in _DOCUMENTS if name in settings.prompts), settings.default_prompt)

    @property
    def documents(self) -> Encoder:
        """Embeds documents."""
        return self._with(self.document_prompt)

    def _with(self, prompt: str | None) -> Encoder:
        return replace(self.encoder, settings=replace(self.encoder.settings, default_prompt=prompt))

    @property
    def is_unit(self) -> bool:
        """Whether rows and queries are scaled to length 1."""
        return self.encoder.settings.similarity == "cosine"

    def queries(self, texts: list[str], *, bf16: bool = False) -> np.ndarray:
        """Embeddings of queries, (N, H) float32, as they are compared."""
        rows = self._with(self.query_prompt)(texts, bf16=bf16)
        return to_unit(rows) if self.is_unit else rows

    def check_vectors(self, texts: list[str], vectors_NH: np.ndarray, name: str) -> None:
        """Check that `vectors` are this encoder's, by embedding the first of their texts again, if there are any.

        Raises:
            InputError: another dimension, or a cosine to the encoder's own embedding below 0.99.
        """
        width = self.encoder.width
        if vectors_NH.shape[1] != width:
            raise InputError(
                f"{name}: its embeddings have {vectors_NH.shape[1]} numbers, those of {self.label} {width}. "
                "Give the model that made them"
            )
        texts = texts[:_COMPARED]
        if not texts:
            return
        # `embed` uses the default prompt, an index the documents': either made the vectors.
        made = [to_unit(encoder(texts)) for encoder in (self.documents, self.encoder)]
        given = to_unit(vectors_NH[: len(texts)])
        cosines = np.max([(given * rows).sum(1) for rows in made], axis=0)
        if cosines.min() < _SAME:
            raise InputError(
                f"{name}, row {int(cosines.argmin()) + 1}: its embedding has a cosine of {cosines.min():.2f} to what "
                f"{self.label} makes of its text. Give the model that made the embeddings"
            )

    @property
    def label(self) -> str:
        """A name for messages."""
        return self.name or "the given encoder"

    def record(self, *, has_text: bool, language: str) -> Record:
        """A new index's record."""
        encoder, settings = self.encoder, self.encoder.settings
        return Record(
            model=self.name,
            fingerprint=fingerprint(encoder, by_device=False),
            pooling=str(encoder.pooling),
            max_tokens=encoder.max_tokens,
            dimension=encoder.width,
            similarity=settings.similarity,
            prompts=dict(settings.prompts),
            query_prompt=self.query_prompt,
            document_prompt=self.document_prompt,
            has_text=has_text,
            language=language,
        )

    def check(self, record: Record, index: str, purpose: str = "Search") -> None:
        """Check that this encoder made the index, before a "Search" or an "Add".

        Raises:
            InputError: it did not; names both.
        """
        own = fingerprint(self.encoder, by_device=False)
        if own == record.fingerprint:
            return
        made = f"{record.model or 'an encoder in memory'} (fingerprint {record.fingerprint[:12]})"
        if self.name == record.model and self.name is not None:
            raise InputError(
                f"{index}: was made by {made}, but that model has changed since (fingerprint {own[:12]}). Make the "
                "index again, or give the old weights by --model"
            )
        maker = f": {record.model}" if record.model else ""
        raise InputError(
            f"{index}: was made by {made}. {self.label} is another encoder (fingerprint {own[:12]}), whose "
            f"embeddings do not compare with these. {purpose} with the model that made the index{maker}"
        )


_COMPARED, _SAME = 8, 0.99


def scores_of(distances: np.ndarray, similarity: str) -> np.ndarray:
    """Scores (higher is nearer) from LanceDB's distances: the product, or minus the Euclidean distance."""
    return 1 - distances if METRICS[similarity] == "dot" else -np.sqrt(np.maximum(distances, 0))
