"""The plan of a folder of parts, and which parts are there: what lets a run resume and many processes share a folder.

    DIR/manifest.json          the plan: model, settings, input files. Made once, by the first process.
    DIR/part-00000.parquet     rows 0 to R-1 (R = rows per part), renamed into place when complete
    DIR/part-00001.parquet     rows R to 2R-1, ...

A part's own metadata holds its entry: the plan's hash, its first row, and hashes of its input and its embeddings. Entry
and rows appear in one rename, so processes that write at the same time cannot lose each other's entries. No lock is
needed. The process that sees the last part adds all entries to the manifest.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from diffcse.encoder.inputs import STDIN, Batch, Sentences, batches
from diffcse.errors import InputError
from diffcse.files import temporary_name, write_errors, write_json
from diffcse.text.sources import Source

MANIFEST = "manifest.json"
ENTRY = "part"
"""The key of a part's entry among its metadata, after "diffcse."."""
SCHEMA = 1
ROWS_PER_PART = 50_000
"""A kill loses at most one unfinished part."""
_PART = re.compile(r"part-(\d{5,})\.parquet")
_NAMES = {
    "engine": "--engine",
    "fingerprint": "model",
    "precision": "--precision",
    "pooling": "--pooling",
    "prompt": "--prompt",
    "truncate_dim": "--truncate-dim",
    "normalise": "--normalize",
    "store": "--store",
    "column": "--column",
    "keep": "--keep",
    "rows_per_part": "--rows-per-part",
}
"""Setting of the plan -> what sets it."""


@dataclass(frozen=True)
class Shard:
    """Which parts a process writes: those whose number leaves the rest `index` when divided by `count`."""

    index: int = 0
    count: int = 1

    @classmethod
    def of(cls, text: str | None) -> Shard:
        """From "i/n": i from 1 to n, or from 0 to n - 1 (0/n and n/n are the same shard); None: every part.

        Raises:
            InputError: another spelling.

        >>> Shard.of("3/4"), Shard.of("4/4"), Shard.of("0/4")
        (Shard(index=3, count=4), Shard(index=0, count=4), Shard(index=0, count=4))
        """
        if text is None:
            return cls()
        match = re.fullmatch(r"(\d+)/([1-9]\d*)", text)
        if not match or int(match[1]) > int(match[2]):
            raise InputError(f"--shard {text}: write i/n, such as 1/8 to 8/8 (or 0/8 to 7/8)")
        return cls(int(match[1]) % int(match[2]), int(match[2]))

    def has(self, part: int) -> bool:
        """Whether this process writes a part."""
        return part % self.count == self.index


def part_name(part: int) -> str:
    """The file name of a part.

    >>> part_name(7)
    'part-00007.parquet'
    """
    return f"part-{part:05d}.parquet"


def part_files(folder: Path) -> dict[int, Path]:
    """The parts in `folder`, in order."""
    return dict(sorted((int(match[1]), path) for path in folder.iterdir() if (match := _PART.fullmatch(path.name))))


def whole_parts(folder: Path) -> list[Path]:
    """The parts in `folder`, in order; without a manifest those that are there.

    Raises:
        InputError: `embed` has not finished this folder.
    """
    plan, parts = read_plan(folder) if (folder / MANIFEST).exists() else None, part_files(folder)
    if plan is not None and list(parts) != list(range(len(plan.get("parts", ())))):
        raise InputError(f"{folder}: parts are missing. Finish it first: run the same diffcse embed command again")
    return list(parts.values())


# ---- the plan --------------------------------------------------------------------------------------------------------


def plan_hash(plan: Mapping[str, Any]) -> str:
    """The identity of a plan: of its settings, its ranges, and what its inputs hold."""
    inputs = [{key: entry[key] for key in ("bytes", "xxh3")} for entry in plan["inputs"]]
    kept = {"settings": plan["settings"], "ranges": plan["ranges"], "inputs": inputs}
    return xxhash.xxh3_128_hexdigest(json.dumps(kept, sort_keys=True).encode())


def read_plan(folder: Path) -> dict[str, Any] | None:
    """The plan in `folder`; None if the folder does not exist or is empty.

    Raises:
        InputError: the folder holds other files, or its manifest cannot be read.
    """
    path = folder / MANIFEST
    if not folder.exists() or all(path.name.startswith(".") for path in folder.iterdir()):
        return None
    if not path.exists():
        raise InputError(f"{folder}: holds files but no {MANIFEST}, so embed did not write them. Give a new --output")
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        if plan["schema"] != SCHEMA:
            raise KeyError("schema")
        return dict(plan)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read as the manifest of embed ({error}). Give a new --output") from error


def remove_plan(folder: Path) -> None:
    """Remove the manifest and the parts of `folder`.

    Raises:
        InputError: as `read_plan`; or a file cannot be removed.
    """
    if read_plan(folder) is not None:
        with write_errors(folder):
            for path in [*part_files(folder).values(), folder / MANIFEST]:  # the manifest last, as it names the folder
                path.unlink()


def create_plan(folder: Path, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Write `plan` as the manifest of `folder`, unless another process was first; return the plan that is there."""
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        draft = temporary_name(folder / MANIFEST)
        draft.write_text(json.dumps(plan, indent=2) + "\n", encoding="utf-8")
        try:
            # A link fails if the name exists, so of several processes exactly one makes the manifest.
            with suppress(FileExistsError):
                os.link(draft, folder / MANIFEST)
        except OSError:  # a file system without links: the last process wins, and `agree` finds a difference
            if not (folder / MANIFEST).exists():
                draft.replace(folder / MANIFEST)
        draft.unlink(missing_ok=True)
    return read_plan(folder) or {}


def agree(folder: Path, plan: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Check that a run with `settings` may add to the folder of `plan`. Settings that are not given are not compared.

    Raises:
        InputError: a setting differs; names it, and says what to do.
    """
    for name, given in settings.items():
        begun = plan["settings"].get(name)
        if begun == given:
            continue
        if name == "fingerprint":
            raise InputError(
                f"{folder}: was begun with another model ({plan['settings'].get('model')}). Give that model, or "
                "another --output"
            )
        option = _NAMES.get(name, name)
        unset: tuple[Any, ...] = (None, [], "")
        was = f"without {option}" if begun in unset else f"with {option} {_shown(begun)}"
        now = f"{option} is missing" if given in unset else f"it is {_shown(given)}"
        raise InputError(f"{folder}: was begun {was}; now {now}. Give the same value, or another --output")


def _shown(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


def check_folder(
    folder: Path, sentences: Sentences, rows_per_part: int, shard: Shard, *, overwrite: bool, engine: str = "local"
) -> None:
    """What can be said before a model is loaded.

    Raises:
        InputError: the folder cannot take these parts.
    """
    if any(source.name == "standard input" for source in sentences.sources):
        raise InputError(f"{STDIN}: a folder of parts is resumed by reading the input again. Write the text to a file")
    if rows_per_part < 1:
        raise InputError(f"--rows-per-part {rows_per_part}: must be at least 1")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file. Give --output a folder, or a name that ends in .npy or .parquet")
    if overwrite and shard.count > 1:
        raise InputError("--overwrite: would remove the parts of the other shards. Remove the folder yourself first")
    plan = read_plan(folder)
    if plan and not overwrite:
        agree(
            folder,
            plan,
            {
                "engine": engine,
                "column": sentences.column,
                "keep": list(sentences.keep),
                "rows_per_part": rows_per_part,
            },
        )
        describe_inputs(folder, sentences.sources, plan)


# ---- the input -------------------------------------------------------------------------------------------------------


def describe_inputs(folder: Path, sources: Sequence[Source], plan: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """What identifies each input: bytes and content hash. A file with the size and time in `plan` is not read again.

    Raises:
        InputError: `plan` is of other input; names the first file that differs.
    """
    known = plan["inputs"] if plan else []
    if plan and len(known) != len(sources):
        raise InputError(f"{folder}: was begun with {len(known)} input files, not {len(sources)}. Give the same files")
    entries = []
    for index, source in enumerate(sources):
        before = known[index] if known else {}
        _, size, modified = source.stamp
        entry = {"name": source.short_name, "bytes": size, "modified": modified}
        if before and (before["bytes"], before["modified"]) == (size, modified):
            entry["xxh3"] = before["xxh3"]
        else:
            entry["xxh3"] = str(modified) if source.format == "hub" else _content_hash(source.path)
        if before and (before["bytes"], before["xxh3"]) != (size, entry["xxh3"]):
            raise InputError(
                f"{source.name}: has another content than input {index + 1} of {folder} ({before['name']}). Give the "
                "same input, or another --output"
            )
        entries.append(entry)
    return entries


def _content_hash(path: Path) -> str:
    digest = xxhash.xxh3_128()
    try:
        with path.open("rb") as file:
            while data := file.read(1 << 20):
                digest.update(data)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. Check its permissions.") from error
    return digest.hexdigest()


class PartHash:
    """Hashes of a part while it is made: of its texts and kept columns, and of its stored embeddings."""

    def __init__(self) -> None:
        self.input, self.vectors = xxhash.xxh3_128(), xxhash.xxh3_128()

    def add(self, batch: Batch, rows: np.ndarray) -> None:
        """Add the next rows."""
        self.input.update("".join(f"{text}\0" for text in batch.texts).encode())
        if batch.kept is not None:
            self.input.update("".join(f"{row}\0" for row in batch.kept.to_pylist()).encode(errors="replace"))
        self.vectors.update(np.ascontiguousarray(rows).data)


# ---- the parts -------------------------------------------------------------------------------------------------------


def entry_of(path: Path, expected: str) -> dict[str, Any]:
    """The entry in a part's metadata: part, first, rows, input, vectors.

    Raises:
        InputError: it is not a whole part, or belongs to another plan than `expected`.
    """
    from pyarrow import parquet

    try:
        entry = json.loads(parquet.read_metadata(path).metadata[f"diffcse.{ENTRY}".encode()])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a whole part. Remove it and run the command again") from error
    if entry.pop("plan") != expected:
        raise InputError(f"{path}: belongs to another run than {MANIFEST} beside it. Remove it and run again")
    return dict(entry)


def complete(folder: Path, plan: Mapping[str, Any], rows: int) -> list[int]:
    """Add all entries to the manifest if every part is there; return the numbers of the parts that are missing.

    Processes that do this at the same time write the same bytes.
    """
    parts = part_files(folder)
    wanted = range(-(-rows // plan["settings"]["rows_per_part"]))
    missing = [part for part in wanted if part not in parts]
    if not missing and "parts" not in plan:
        expected = plan_hash(plan)
        entries = [{"file": parts[part].name, **entry_of(parts[part], expected)} for part in wanted]
        write_json(folder / MANIFEST, {**plan, "rows": rows, "parts": entries})
    return missing


def check(folder: Path, sentences: Sentences, report: Callable[[int], None] = lambda done: None) -> tuple[int, int]:
    """Read all parts and all input again, and check that each row is there once, unchanged; return (parts, rows).

    Raises:
        InputError: there is no plan, the input is another, or a part is missing, damaged or not the plan's; names the
            file.
    """
    plan = read_plan(folder)
    if plan is None:
        raise InputError(f"{folder}: holds no {MANIFEST}. Check the folder that embed wrote")
    describe_inputs(folder, sentences.sources, plan)
    size, expected = plan["settings"]["rows_per_part"], plan_hash(plan)
    files = part_files(folder)
    rows = 0
    for part, texts in _parts_of(batches(sentences.chunks(), size), size):
        if part not in files:
            raise InputError(f"{folder / part_name(part)}: missing. Run the command again to make it")
        rows += _check_part(files.pop(part), expected, part, part * size, texts)
        report(rows)
    if files:
        raise InputError(f"{next(iter(files.values()))}: has no rows in the input. Remove it")
    return -(-rows // size), rows


def _parts_of(all_batches: Iterator[Batch], size: int) -> Iterator[tuple[int, list[Batch]]]:
    """(number, batches) of each part."""
    ready: list[Batch] = []
    for batch in all_batches:
        if ready and batch.first // size != ready[0].first // size:
            yield ready[0].first // size, ready
            ready = []
        ready.append(batch)
    if ready:
        yield ready[0].first // size, ready


def _check_part(path: Path, expected: str, part: int, first: int, texts: Sequence[Batch]) -> int:
    from pyarrow import parquet

    entry = entry_of(path, expected)
    try:
        table = parquet.read_table(path)
        vectors = table["embedding"].combine_chunks().flatten().to_numpy()
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: cannot be read: {error}. Remove it and run the command again") from error
    digest = PartHash()
    for batch in texts:
        digest.add(batch, vectors[:0])
    digest.vectors.update(np.ascontiguousarray(vectors).data)
    rows = sum(len(batch.texts) for batch in texts)
    hashes = {"input": digest.input.hexdigest(), "vectors": digest.vectors.hexdigest()}
    made = {"part": part, "first": first, "rows": rows, **hashes}
    wrong = next((key for key, value in made.items() if entry.get(key) != value), None)
    wrong = "rows" if table.num_rows != rows else wrong
    if wrong:
        raise InputError(f"{path}: its {wrong} does not agree with the input. Remove it and run the command again")
    return rows
