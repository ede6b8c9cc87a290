"""run.json: the settings, data, environment and results of one run, enough to repeat and to check it.

Tables, plots and comparisons read records, never the output of a terminal. The module imports nothing heavy, so that
reading a thousand records is fast.
"""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from diffcse.errors import InputError
from diffcse.files import write_json
from diffcse.machine import cores
from diffcse.values import as_type, read_json

SCHEMA = 1
"""Raised when a field is added, removed, or changes its meaning."""

_PACKAGES = (
    "diffcse",
    "torch",
    "transformers",
    "accelerate",
    "sentence-transformers",
    "tokenizers",
    "numpy",
    "scipy",
    "scikit-learn",
)


@dataclass
class Record:
    """One run. Times in seconds, scores in points (x100), losses in nats."""

    kind: str
    """The command: "train", "quickstart" or "pretrain"."""
    config: dict[str, Any]
    seed: int
    data: dict[str, Any] = field(default_factory=dict)
    """The text: files, counts, content hash."""
    log: list[dict[str, Any]] = field(default_factory=list)
    """Each logged step: loss terms and metrics, as means over the steps since the previous entry."""
    scores: dict[str, Any] = field(default_factory=dict)
    timing: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=lambda: versions())
    hardware: dict[str, Any] = field(default_factory=lambda: hardware())
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    status: str = "running"
    """"running" until everything is written, then "complete"; "stopped" after a Ctrl-C that left a checkpoint."""
    schema: int = SCHEMA

    def write(self, path: Path) -> None:
        """Write as JSON in one atomic step. A number that is not finite is written as null."""
        write_json(path, finite(asdict(self)))


JUDGES = {"dev": "dev Spearman", "label_free": "held-out text, without labels"}
"""Sections of `Record.scores` that can judge the encoder, most trusted first -> their names in messages."""

_HELPED = {True: "training helped", False: "training hurt", "unclear": "whether training helped is unclear"}


def chosen_by(scores: dict[str, Any]) -> str | None:
    """Which of `JUDGES` selected the step in model/; None if it is the last step."""
    return next((name for name in JUDGES if scores.get(name) and scores[name].get("selects", True)), None)


def verdict(scores: dict[str, Any]) -> str | None:
    """Whether what was learned is better than the start, as a clause; None if nothing judged it."""
    for name, label in JUDGES.items():
        judged = scores.get(name) or {}
        if any(judged.get(key) is None for key in ("helped", "difference", "low", "high")):
            continue
        if name == "dev" and not str(judged.get("metric", "Spearman")).startswith("Spearman"):
            label = f"dev {judged['metric'].partition(',')[0]}"
        if judged["helped"] in _HELPED and scores.get("shipped") == "start":
            return (
                f"model/ is the start, unchanged: by {label}, what was learned is {judged['difference']:+.2f} points "
                f"from it (95 % interval {judged['low']:+.2f} to {judged['high']:+.2f})"
            )
        if judged["helped"] in _HELPED:
            return (
                f"{_HELPED[judged['helped']]}: by {label}, model/ is {judged['difference']:+.2f} points from the "
                f"start (95 % interval {judged['low']:+.2f} to {judged['high']:+.2f}, wider for every look)"
                + ("; the start is the better encoder" if judged["helped"] is False else "")
            )
    return None


class _Judged(TypedDict):
    """What one judge measured. None where a number was not finite."""

    start: float | None
    best: float | None
    last: float | None
    selects: NotRequired[bool]
    helped: NotRequired[bool | Literal["unclear"] | None]
    difference: NotRequired[float | None]
    low: NotRequired[float | None]
    high: NotRequired[float | None]


class _Graded(_Judged):
    file: str


class _Scores(TypedDict, total=False):
    """Those of `Record.scores` that are read again."""

    steps: int
    shipped: str
    dev: _Graded | None
    label_free: _Judged | None
    neighbours: list[dict[str, str]]
    columns: list[str]
    rows: list[list[Any]]
    verdicts: list[dict[str, Any]]
    conditional_gain: dict[str, Any]
    edited: list[list[dict[str, Any]]]


class _Data(TypedDict, total=False):
    """Those of `Record.data` that are read again."""

    sha256: str
    following_sha256: str | None
    dev_sha256: str
    start_model_sha256: str | None
    models_sha256: dict[str, str]
    truncated: int
    text: dict[str, Any]


class _Config(TypedDict, total=False):
    method: dict[str, Any]
    text: dict[str, Any]
    training: dict[str, Any]


_READ_AGAIN: dict[str, Any] = {
    "config": _Config,
    "data": _Data,
    "log": list[dict[str, float | None]],
    "scores": _Scores,
    "timing": dict[str, float | None],
}
"""Field of a record -> what a reader relies on, beyond the field's own type. A command may write more keys."""


def read_record(path: Path) -> Record:
    """The record in `path`.

    Raises:
        InputError: the file is missing, not JSON, of another schema, or has values of other types; names file and key.
    """
    values = read_json(path)
    if values.get("schema") != SCHEMA:
        raise InputError(f"{path}: not a run record of schema {SCHEMA}: run it again with this version")
    try:
        record: Record = as_type(values, Record, "")
        for name, kind in _READ_AGAIN.items():
            as_type(values[name], kind, name)
    except InputError as error:
        raise InputError(f"{path}: not a run record: {error}") from None
    return record


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect a result, without those that are not installed."""
    numbers = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            numbers[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return numbers


def hardware() -> dict[str, Any]:
    """Processor, usable cores, memory in GiB, and the accelerator if torch is loaded and finds one."""
    facts: dict[str, Any] = {"system": f"{platform.system()} {platform.machine()}", "processor": _processor()}
    facts["cores"] = len(cores())
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        facts["memory_gib"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    torch = sys.modules.get("torch")  # importing it takes seconds, so it is not imported for this
    if torch is not None:
        facts["threads"] = torch.get_num_threads()
        # "bf16" here selects a library, not a precision: see machine.use_fast_float32.
        products = getattr(torch.backends.mkldnn, "matmul", None)
        onednn = getattr(products, "fp32_precision", "") == "bf16"
        facts["float32_products"] = "oneDNN" if onednn else "default"
        if torch.cuda.is_available():
            facts["accelerator"] = torch.cuda.get_device_name()
    return facts


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def finite(value: Any) -> Any:
    """`value` with None for every number that JSON cannot hold (NaN, infinity), at any depth."""
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value
