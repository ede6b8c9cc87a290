"""Encoders x sets -> one report: what `diffcse evaluate` prints and writes.

Every score in a report carries its split, number of items, metric, aggregation, data hash, text variant, pooling and
library versions, in the form that `evaluation.schema.json` fixes. All encoders take the same way through the code: our
own, another library's, a file of vectors, a bag of words.

The report holds no time stamp and no path of its own. Its numbers are rounded to six digits, because smaller
differences depend on how sentences are batched. So the same command writes the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diffcse.config import EncoderPooling
from diffcse.encoder.encode import Encoder
from diffcse.errors import InputError
from diffcse.evaluation.cache import ResultCache, default_cache_dir
from diffcse.evaluation.candidates import Candidate, any_candidate, floor_candidates
from diffcse.evaluation.data import Data, find_data
from diffcse.evaluation.downstream import EXAMPLES_IN
from diffcse.evaluation.embeddings import Encode
from diffcse.evaluation.jobs import GROUPS, Group, Job, jobs_of
from diffcse.evaluation.measuring import Measured, Progress, measure
from diffcse.evaluation.own_report import evaluate_own, own_data
from diffcse.evaluation.probes import LOGISTIC, PROBES, Probe
from diffcse.evaluation.sts import SEVEN, text_variant
from diffcse.record import versions

SCHEMA = "diffcse-evaluation/1"
"""Raised when a field is removed or changes its meaning."""

TRANSFER_SEVEN = tuple(EXAMPLES_IN)


def evaluate(
    encoders: Encoder | Encode | str | Path | Mapping[str, Any] | Sequence[Any],
    data: str | Path | Sequence[str | Path] | Data | None = None,
    *,
    texts: Any = None,
    pairs: Any = None,
    graded: str | Path | None = None,
    column: str | None = None,
    label: str = "label",
    answer: str = "answer",
    tasks: Group | Literal["all"] = "sts",
    pooling: EncoderPooling | None = None,
    probe: Literal["logistic", "adam", "adam-fast"] = "logistic",
    floors: bool = False,
    allow_partial: bool = False,
    use_cache: bool = True,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Measure encoders as `diffcse evaluate` does.

    Args:
        encoders: one or several of: a folder, run or hub id; a file of embeddings; an `Encoder`; any function from a
            list of n sentences to n rows, such as `SentenceTransformer(...).encode`. A mapping gives them names.
        data: a folder or several, in the layouts of `evaluation.data`, or `hub:` data sets.
        texts: instead of data: your own texts with labels, a file or a table (DataFrame, dict, data set).
        pairs: instead of data: your own questions with their answers, a file or a table.
        graded: instead of data: a .tsv file of your own graded pairs.
        column: of the text or the question; "text" or "question" if not given.
        label: column of the label; `answer`: that of the answer.
        tasks: what to measure.
        pooling: overrides what folders say; needed for plain checkpoints.
        probe: the classifier of the transfer tasks.
        floors: add TF-IDF, and SIF over the first model's input embeddings.

    Returns:
        The report, plain JSON values; `read_schema()` describes it. That of your own data also prints as a table.

    Raises:
        InputError: an encoder or a set cannot be used.
    """
    if data is None:
        own = own_data(texts, pairs, graded, column=column, label=label, answer=answer)
        return evaluate_own(_candidates(encoders, pooling), own, progress=progress)
    if not (texts is None and pairs is None and graded is None):
        raise InputError("texts, pairs and graded stand in place of data: give one of them")
    if probe not in PROBES:
        raise InputError(f"probe {probe!r}: must be one of {', '.join(PROBES)}")
    groups: tuple[Group, ...] = GROUPS if tasks == "all" else (tasks,)
    if tasks != "all" and tasks not in GROUPS:
        raise InputError(f"tasks {tasks!r}: must be one of {', '.join(GROUPS)}, all")
    if not isinstance(data, Data):
        folders = [data] if isinstance(data, str | Path) else data
        data = find_data(folders, groups=groups, allow_partial=allow_partial)
    candidates = _candidates(encoders, pooling)
    candidates += floor_candidates(candidates) if floors else []
    cache = ResultCache(default_cache_dir() if use_cache else None)
    return build_report(candidates, data, groups=groups, probe=PROBES[probe], cache=cache, progress=progress)


def _candidates(encoders: Any, pooling: EncoderPooling | None) -> list[Candidate]:
    return [any_candidate(name, encoder, pooling) for name, encoder in _named(encoders)]


def _named(encoders: Any) -> list[tuple[str | None, Any]]:
    if isinstance(encoders, Mapping):
        return list(encoders.items())
    if isinstance(encoders, str | Path) or callable(encoders):
        return [(None, encoders)]
    return [(None, encoder) for encoder in encoders]


def build_report(
    candidates: Sequence[Candidate],
    data: Data,
    *,
    groups: Sequence[Group] = GROUPS,
    probe: Probe = LOGISTIC,
    cache: ResultCache | None = None,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Measure every candidate on every set: the report, plain JSON values as the schema describes them.

    Raises:
        InputError: two candidates have the same name, there is nothing to measure, or as the scores do.
    """
    names = [candidate.name for candidate in candidates]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{twice}: given twice")
    jobs = jobs_of(data, groups, probe)
    if not jobs:
        raise InputError("nothing to measure: the folders given hold no set of these tasks")
    variants = {job.key: text_variant(job.sentences) for job in jobs}
    results = [
        _result(candidate, measure(candidate, jobs, cache=cache, progress=progress), jobs, variants, data)
        for candidate in candidates
    ]
    return _rounded(
        {
            "schema": SCHEMA,
            "results": results,
            "settings": {"groups": list(groups), "probe": probe.facts() if "transfer" in groups else None},
            "notes": [*data.notes, *_mixed_texts(jobs, variants)],
            "versions": versions(),
        }
    )


def _result(
    candidate: Candidate, measured: dict[str, Measured], jobs: Sequence[Job], variants: Mapping[str, str], data: Data
) -> dict[str, Any]:
    """One encoder's part of the report."""
    tasks = {}
    for job in jobs:
        if job.key in measured:
            facts: dict[str, Any] = {"sha256": job.sha256, "text_variant": variants[job.key]}
            if job.name in data.origins:
                facts["hub"] = asdict(data.origins[job.name])
            tasks[job.key] = {"group": job.group, "name": job.name, **measured[job.key][0], "data": facts}
    encoder = {"name": candidate.name, "kind": candidate.kind, "fingerprint": candidate.fingerprint}
    return {"encoder": encoder | candidate.facts, "tasks": tasks, "averages": _averages(tasks)}


def _mixed_texts(jobs: Sequence[Job], variants: Mapping[str, str]) -> list[str]:
    """A note where some STS sets are tokenised and others are not."""
    by_variant = {_tokenised(variants[job.key]): job.name for job in jobs if job.group == "sts"}
    if len(by_variant) < 2:
        return []
    return [f"no average: the STS sets differ in text ({by_variant[True]} is tokenised, {by_variant[False]} is not)"]


def _averages(tasks: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The two averages that papers report; None unless every set is present, complete, and in one text variant."""
    averages = {}
    for group, names in (("sts", SEVEN), ("transfer", TRANSFER_SEVEN)):
        members = [tasks[key] for name in names if (key := f"{group}/{name}") in tasks and tasks[key]["complete"]]
        variants = {_tokenised(task["data"]["text_variant"]) for task in members}
        comparable = len(members) == len(names) and (group != "sts" or len(variants) == 1)
        value = float(np.mean([task["value"] for task in members])) if comparable else None
        averages[group] = {"of": list(names), "value": value}
    return averages


def _tokenised(variant: str) -> bool:
    """The property that all sets of an average share. Case may differ: SentEval lower-cases all STS sets but SICK."""
    return variant.startswith("tokenised")


def _rounded(value: Any) -> Any:
    """`value` with numbers rounded to six digits and non-finite ones as null, all the way down."""
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value]


def read_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a report."""
    file = resources.files("diffcse.evaluation").joinpath("evaluation.schema.json")
    schema: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return schema
