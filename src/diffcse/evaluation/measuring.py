"""One encoder x jobs -> scores, with each distinct sentence embedded once and results cached."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from diffcse.errors import InputError
from diffcse.evaluation.cache import ResultCache, code_hash
from diffcse.evaluation.candidates import Candidate
from diffcse.evaluation.embeddings import EmbeddingMatrix, Encode, as_matrix
from diffcse.evaluation.jobs import Job
from diffcse.evaluation.probes import PROBES, Trained
from diffcse.record import finite, versions

_CHUNK = 2048  # sentences embedded between two reports of progress

Measured = tuple[dict[str, Any], list[float] | None]
"""A score's fields, and one value for each item where the score has such values."""
Progress = Callable[[str, str, int, int], None]
"""Called with (encoder, what is being done, number done, total)."""


class EmbedOnce:
    """An `Encode` that embeds each distinct sentence once, however many sets contain it.

    New sentences are embedded longest first, `_CHUNK` at a time. Batches then hold equal lengths, and progress can be
    reported between chunks.
    """

    def __init__(self, encode: Encode, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        self._encode, self._progress = encode, progress
        self._row: dict[str, int] = {}
        self._blocks: list[EmbeddingMatrix] = []

    def __call__(self, sentences: list[str]) -> EmbeddingMatrix:
        """Rows for `sentences`, (n, d).

        Raises:
            InputError: the encoder gives another number of rows than sentences, or rows of different widths.
        """
        new = [sentence for sentence in dict.fromkeys(sentences) if sentence not in self._row]
        new.sort(key=len, reverse=True)
        for start in range(0, len(new), _CHUNK):
            self._progress(start, len(new))
            self._add(new[start : start + _CHUNK])
        if len(self._blocks) > 1:
            any_sparse = any(sparse.issparse(block) for block in self._blocks)
            self._blocks = [sparse.vstack(self._blocks, "csr") if any_sparse else np.concatenate(self._blocks)]
        return self._blocks[0][[self._row[sentence] for sentence in sentences]]

    def _add(self, chunk: list[str]) -> None:
        rows = as_matrix(self._encode(chunk))
        if rows.shape[0] != len(chunk):
            raise InputError(f"the encoder gave {rows.shape[0]} embeddings for {len(chunk)} sentences")
        if self._blocks and rows.shape[1] != self._blocks[0].shape[1]:
            raise InputError(f"the encoder gave rows of {self._blocks[0].shape[1]}, then of {rows.shape[1]} numbers")
        for sentence in chunk:
            self._row[sentence] = len(self._row)
        self._blocks.append(rows)


def measure(
    candidate: Candidate,
    jobs: Sequence[Job],
    *,
    cache: ResultCache | None = None,
    progress: Progress = lambda *_: None,
) -> dict[str, Measured]:
    """Each job's result for one encoder, by the job's key. Jobs that the encoder cannot do are left out.

    Raises:
        InputError: as the scores do.
    """
    cache = cache or ResultCache(None)
    encode: EmbedOnce | None = None
    results: dict[str, Measured] = {}
    for job in jobs:
        if _too_wide(candidate, job):
            continue
        key = _cache_key(candidate, job)
        cached = None if key is None else cache.get(key)
        if cached is not None:
            results[job.key] = (cached[0], cached[1])
            continue
        if candidate.refits:
            progress(candidate.name, job.key, 0, 0)
            results[job.key] = job.run(candidate.fit(job.sentences))
            continue
        if encode is None:
            report = lambda done, total: progress(candidate.name, "embedding", done, total)  # noqa: E731
            encode = EmbedOnce(candidate.fit(job.sentences), report)
        encode(job.sentences)
        progress(candidate.name, job.key, 0, 0)
        results[job.key] = job.run(encode)
        if key is not None:
            cache.put(key, finite(list(results[job.key])))
    return results


def _too_wide(candidate: Candidate, job: Job) -> bool:
    """The trained probe needs dense rows; TF-IDF has tens of thousands of columns, so it would take hours."""
    return candidate.sparse and job.group == "transfer" and isinstance(PROBES[job.settings["probe"]["name"]], Trained)


def _cache_key(candidate: Candidate, job: Job) -> dict[str, Any] | None:
    """Everything that the result depends on; None where the encoder has no fingerprint."""
    if candidate.fingerprint is None:
        return None
    return {
        "encoder": candidate.fingerprint,
        "job": job.key,
        "data": job.sha256,
        "settings": job.settings,
        "versions": versions(),
        "code": code_hash(),
    }
