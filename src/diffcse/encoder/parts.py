"""Any number of rows -> a folder of parts that many processes may share, killed and started again at any time."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffcse.config import Store
from diffcse.encoder.encode import BATCH_TOKENS, Encoder
from diffcse.encoder.fingerprint import fingerprint
from diffcse.encoder.inputs import Batch, Sentences, batches
from diffcse.encoder.manifest import (
    ENTRY,
    ROWS_PER_PART,
    SCHEMA,
    PartHash,
    Shard,
    agree,
    check_folder,
    complete,
    create_plan,
    describe_inputs,
    entry_of,
    part_files,
    part_name,
    plan_hash,
    read_plan,
    remove_plan,
)
from diffcse.encoder.outputs import SAMPLE, Form, ParquetWriter
from diffcse.encoder.stream import calibrate, facts_of, write_rows
from diffcse.files import staged_file


@dataclass(frozen=True)
class Written:
    """What a run of `embed_parts` did."""

    rows: int
    """Rows that it embedded."""
    written: int
    """Parts that it wrote."""
    present: int
    """Parts of its shard that were there already."""
    total: int
    """Rows of the input."""
    missing: int
    """Parts of the whole folder that no process has written yet."""


def embed_parts(
    encoder: Encoder,
    sentences: Sentences,
    folder: str | Path,
    *,
    name: str = "",
    normalise: bool = False,
    store: Store = "float32",
    rows_per_part: int = ROWS_PER_PART,
    shard: Shard = Shard(),  # noqa: B008 - frozen
    overwrite: bool = False,
    batch_tokens: int = BATCH_TOKENS,
    bf16: bool = False,
    workers: int | None = None,
    report: Callable[[int, int | None], None] = lambda done, total: None,
    note: Callable[[str], None] = lambda line: None,
) -> Written:
    """Write the missing parts of a shard to `folder`, see `manifest`. Columns: id, kept ones, text, embedding.

    `id` is the row's number in the whole input, int64 from 0, unless a kept column has this name.

    Args:
        name: the model's name in the manifest.
        rows_per_part: a kill loses at most this much work.
        shard: which parts this process writes.
        overwrite: remove the parts in `folder` first.
        report: called with the rows embedded so far, and how many are to be embedded (None: not known).
        note: as in `stream.embed`, like the other arguments.

    Raises:
        InputError: as `stream.embed`; or the folder was begun with another model, input or setting.
    """
    folder = Path(folder)
    check_folder(folder, sentences, rows_per_part, shard, overwrite=overwrite)
    if overwrite:
        remove_plan(folder)
    form = Form(encoder.width, normalise, store)
    settings = settings_of(encoder, sentences, name, form, rows_per_part, bf16=bf16)
    plan = _plan(encoder, sentences, folder, settings, bf16=bf16, note=note)
    form = replace(form, ranges=None if plan["ranges"] is None else np.array(plan["ranges"], dtype=np.float32))
    present = _present(folder, plan, shard)

    def is_needed(first: int, rows: int) -> bool:
        parts = range(first // rows_per_part, (first + max(rows, 1) - 1) // rows_per_part + 1)
        return any(shard.has(part) and part not in present for part in parts)

    rows_in = (batch for batch in batches(sentences.chunks(is_needed), rows_per_part) if is_needed(batch.first, 1))
    to_do = None if sentences.total is None else _rows_to_do(sentences.total, rows_per_part, is_needed)
    writer = _Parts(folder, form, facts_of(encoder), sentences.kept_schema, plan)
    report(0, to_do)
    with writer:
        rows = write_rows(
            encoder, rows_in, writer, form, batch_tokens=batch_tokens, bf16=bf16, workers=workers,
            report=lambda done: report(done, to_do), place=sentences.place,
        )  # fmt: skip
    missing = complete(folder, plan, sentences.count)
    return Written(rows, writer.count, len(present), sentences.count, len(missing))


def _present(folder: Path, plan: dict[str, Any], shard: Shard) -> set[int]:
    """The parts of this shard that are there, each one checked."""
    parts = {part: path for part, path in part_files(folder).items() if shard.has(part)}
    expected = plan_hash(plan)
    for path in parts.values():
        entry_of(path, expected)
    return set(parts)


def settings_of(
    encoder: Encoder, sentences: Sentences, name: str, form: Form, rows_per_part: int, *, bf16: bool
) -> dict[str, Any]:
    """What must agree between all processes that write to one folder. What is easily mistaken comes first."""
    return {
        "engine": "local",
        "model": name,
        "device": encoder.model.device.type,
        "precision": "bf16" if bf16 else "fp32",
        "pooling": encoder.pooling,
        "prompt": encoder.settings.prompt,
        "truncate_dim": encoder.settings.truncate_dim,
        "fingerprint": fingerprint(encoder),
        "normalise": form.normalise,
        "store": form.store,
        "dimensions": form.width,
        "column": sentences.column,
        "keep": list(sentences.keep),
        "rows_per_part": rows_per_part,
    }


def _plan(
    encoder: Encoder,
    sentences: Sentences,
    folder: Path,
    settings: dict[str, Any],
    *,
    bf16: bool,
    note: Callable[[str], None],
) -> dict[str, Any]:
    """The plan of the folder, made if there is none yet."""
    plan = read_plan(folder)
    if plan is None:
        inputs = describe_inputs(folder, sentences.sources, None)
        form = Form(encoder.width, settings["normalise"], settings["store"])
        if form.store != "float32":
            sample = next(batches(sentences.chunks(), SAMPLE), Batch(0, [])).texts
            form = calibrate(encoder, sample, form, bf16=bf16, note=note)
        ranges = None if form.ranges is None else form.ranges.tolist()
        plan = create_plan(folder, {"schema": SCHEMA, "settings": settings, "ranges": ranges, "inputs": inputs})
    agree(folder, plan, {name: value for name, value in settings.items() if name != "model"})
    describe_inputs(folder, sentences.sources, plan)
    return plan


def _rows_to_do(total: int, size: int, is_needed: Callable[[int, int], bool]) -> int:
    return sum(min(size, total - first) for first in range(0, total, size) if is_needed(first, 1))


class _Parts:
    """A `Writer` of parts. A part appears when its last row is written; an unfinished part is removed on an error."""

    def __init__(self, folder: Path, form: Form, facts: dict[str, str], kept: Any, plan: dict[str, Any]) -> None:
        self.folder, self.form, self.facts, self.kept = folder, form, facts, kept
        self.size, self.plan = plan["settings"]["rows_per_part"], plan_hash(plan)
        self.ids = "id" not in kept.names
        self.count = 0
        self._open: tuple[int, ParquetWriter, PartHash, ExitStack] | None = None
        self._rows = 0

    def __enter__(self) -> _Parts:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._open and error is None:
            self.close()
        elif self._open:
            _, writer, _, stack = self._open
            with suppress(Exception):
                writer.close()
            with suppress(BaseException):
                stack.__exit__(kind, error, trace)

    def write(self, batch: Batch, rows: np.ndarray) -> None:
        part = batch.first // self.size
        if not self._open:
            stack = ExitStack()
            staging = stack.enter_context(staged_file(self.folder / part_name(part)))
            writer = ParquetWriter(staging, self.form, self.facts, self.kept, ids=self.ids)
            self._open, self._rows = (part, writer, PartHash(), stack), 0
        number, writer, digest, _ = self._open
        assert number == part, "a part must end before the next begins"
        writer.write(batch, rows)
        digest.add(batch, rows)
        self._rows += len(rows)
        if (batch.first + len(rows)) % self.size == 0:
            self.close()

    def close(self) -> None:
        """Finish the open part: it appears under its name."""
        assert self._open
        part, writer, digest, stack = self._open
        entry = {
            "plan": self.plan,
            "part": part,
            "first": part * self.size,
            "rows": self._rows,
            "input": digest.input.hexdigest(),
            "vectors": digest.vectors.hexdigest(),
        }
        writer.close(**{ENTRY: json.dumps(entry)})
        self._open = None
        stack.close()
        self.count += 1
