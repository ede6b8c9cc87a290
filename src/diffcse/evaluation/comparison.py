"""What `diffcse compare` compares: runs of `diffcse train`, or JSON files of `diffcse evaluate`.

Each source gets a method's name. Seeds of one method share it, so that `seeds.compare_methods` can pair them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypeAlias, TypedDict

import numpy as np

from diffcse.config import differences, method_config, method_identity
from diffcse.errors import InputError
from diffcse.evaluation.data import Data
from diffcse.evaluation.own_pairs import Grades, OwnData, value_of
from diffcse.evaluation.seeds import AVERAGE, Run, compare_methods
from diffcse.record import Record, chosen_by, finite, read_record, versions
from diffcse.values import as_type, read_json

SCHEMA = "diffcse-comparison/1"
CHECKPOINTS = {"best": "best step by dev score", "held_out": "best step by held-out text", "last": "last step"}


@dataclass
class Source:
    """A run folder or a JSON file, as it was given on the command line."""

    label: str
    path: Path
    named: str | None
    """The method's name, if it was given."""
    record: Record | None = None
    """Of a run folder."""
    result: dict[str, Any] | None = None
    """Of a JSON file: its one encoder."""
    method: str = ""
    seed: int | None = None

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal for the runs of one method: the name given to it, or the recipe without its seed, and the text."""
        if self.named is not None:
            return ("named", self.named)
        if self.record is not None:
            return ("method", method_identity(self.record.config), self.record.data.get("sha256"))
        assert self.result is not None
        encoder = self.result["encoder"]
        run = encoder.get("run")
        if run is None:
            return ("encoder", encoder["fingerprint"] or self.label)
        return ("method", run["method_sha256"], run["train_sha256"], encoder.get("pooling"))


_Measure: TypeAlias = tuple[str, tuple[Any, ...]]
"""Kind of a score, and what else two scores must share to be compared: data, metric, split, probe."""


@dataclass
class _Scores:
    """The runs' scores so far, and how each set was measured."""

    runs: list[Run] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    measures: dict[str, dict[_Measure, str]] = field(default_factory=dict)
    """Set -> measure -> the first source that has it."""

    def add_measure(self, name: str, measure: _Measure, source: Source) -> None:
        self.measures.setdefault(name, {}).setdefault(measure, source.label)


def compare_sources(
    sources: Sequence[Source],
    data: Data,
    *,
    own: OwnData | None = None,
    sets: Sequence[str] = (),
    baseline: str | None = None,
    resamples: int = 1000,
    cache: bool = True,
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Score the sources and compare their methods; plain JSON values.

    Args:
        data: STS sets on which run folders are scored pair by pair. Without sets: the dev scores that runs recorded.
        own: own labelled texts, answers or grades, on which run folders are scored instead.
        sets: of JSON files, only these.
        report: receives a line when an encoder is being scored.

    Raises:
        InputError: sources that cannot be compared with each other.
    """
    name_methods(sources)
    scores = _Scores(notes=list(data.notes))
    for source in sources:
        if source.result is not None:
            _add_json_scores(source, source.result, sets, scores)
        elif own is not None:
            _add_own(source, own, scores, report)
        elif data.sts:
            _add_measured(source, data, cache, scores, report)
        else:
            _add_dev_scores(source, sets, scores)
    kinds = _kinds(scores)
    try:
        gold: dict[str, Any] = {name: pairs.scores for name, pairs in data.sts.items()}
        if own is not None:
            gold = {_own_name(own): own.pairs.scores if isinstance(own, Grades) else None}
        compared = compare_methods(scores.runs, gold, baseline=baseline, kinds=kinds, resamples=resamples)
    except ValueError as error:
        raise InputError(str(error)) from error
    _drop_empty(compared["checkpoints"], scores.notes)
    whole = {
        "schema": SCHEMA,
        **compared,
        "metric": "points; for STS, Spearman of cosine, all pairs of a set together",
        "data": {name: {"sha256": pairs.sha256, "pairs": len(pairs)} for name, pairs in data.sts.items()},
        "sources": [{"run": each.label, "method": each.method, "seed": each.seed} for each in sources],
        "notes": list(dict.fromkeys(scores.notes)),
        "versions": versions(),
    }
    return dict(finite(whole))


def _kinds(scores: _Scores) -> dict[str, str]:
    """Set -> kind of its score, for the sets that all runs of a checkpoint share."""
    shared: dict[str, set[str]] = {}
    for run in scores.runs:
        shared[run.checkpoint] = shared.get(run.checkpoint, {*run.scores}) & {*run.scores}
    compared = set().union(*shared.values())
    if any(name.startswith(AVERAGE) for name in compared):
        raise InputError(f"a set is called {AVERAGE}..., which is the name of the mean over sets: rename its file")
    return {name: _one_kind(name, measures) for name, measures in scores.measures.items() if name in compared}


def _one_kind(name: str, measures: Mapping[_Measure, str]) -> str:
    (kind, first), *others = measures
    if others:
        labels = list(measures.values())
        what = "on other data" if others[0][1][0] != first[0] else "in another way"
        raise InputError(
            f"{name}: {labels[0]} and {labels[1]} measured it {what}, so their scores cannot be compared. Measure all "
            "alike (run folders: --data DIR), or choose other sets with --sets"
        )
    return kind


def _drop_empty(checkpoints: dict[str, Any], notes: list[str]) -> None:
    empty = [which for which, part in checkpoints.items() if not part["sets"]]
    if len(empty) == len(checkpoints):
        raise InputError("the runs share no set: nothing can be compared. Give --data DIR to score them all on one")
    for which in empty:
        del checkpoints[which]
        notes.append(f"no comparison of the {CHECKPOINTS.get(which, which)}: its runs share no set")


# ---- scores ----------------------------------------------------------------------------------------------------------


def _add_json_scores(source: Source, result: Mapping[str, Any], sets: Sequence[str], scores: _Scores) -> None:
    tasks = {_task_name(task): task for task in result["tasks"].values() if task["group"] != "geometry"}
    missing = [name for name in sets if name not in tasks]
    if missing:
        raise InputError(f"{source.label}: has no {', '.join(missing)}; it has: {', '.join(tasks) or 'no set'}")
    tasks = {name: task for name, task in tasks.items() if not sets or name in sets}
    for name, task in tasks.items():
        facts = (task["data"]["sha256"], *(task.get(key) for key in ("metric", "split", "probe")))
        kind = {"sts": "STS"}.get(task["group"], task["group"])
        scores.add_measure(name, (f"{kind} {task['metric']}" if kind == "retrieval" else kind, facts), source)
    values = {name: task["value"] for name, task in tasks.items()}
    scores.runs.append(Run(source.method, source.seed, "given", values, {}))


def _task_name(task: Mapping[str, Any]) -> str:
    return str(task["name"]) if task["group"] == "sts" else f"{task['group']}/{task['name']}"


def _add_dev_scores(source: Source, sets: Sequence[str], scores: _Scores) -> None:
    """The scores on the dev set that the run recorded."""
    assert source.record is not None
    dev = source.record.scores.get("dev")
    if not dev:
        raise InputError(f"{source.label}: recorded no dev score: give --data DIR to score its encoder")
    name = Path(dev["file"]).stem
    if {*sets} - {name}:
        raise InputError(f"{source.label}: its dev score is on {name}; give --data DIR for other sets")
    spearman = str(dev.get("metric", "Spearman")).startswith("Spearman")
    kind = "STS" if spearman else dev["metric"].partition(",")[0]
    scores.add_measure(name, (kind, (source.record.data.get("dev_sha256"),)), source)
    # Where the dev score did not choose the step, no model has the best one.
    chose = chosen_by(source.record.scores) == "dev"
    if chose:
        scores.notes.append(_too_high(name))
    for which in ("best", "last") if chose else ("last",):
        if dev.get(which) is not None:
            scores.runs.append(Run(source.method, source.seed, which, {name: dev[which]}, {}))


def _add_measured(source: Source, data: Data, cache: bool, scores: _Scores, report: Callable[[str], None]) -> None:
    """The scores of a run's encoders on `data`, with the cosines of the pairs."""
    from diffcse.encoder.load import load
    from diffcse.evaluation.cache import ResultCache, default_cache_dir
    from diffcse.evaluation.candidates import encoder_candidate
    from diffcse.evaluation.jobs import jobs_of
    from diffcse.evaluation.measuring import measure

    assert source.record is not None
    chose = chosen_by(source.record.scores)
    if chose == "dev":
        # One set can be two files: SentEval's sts-dev.csv and STSB-dev.tsv.
        dev = source.record.scores["dev"]
        sha256, stem = source.record.data.get("dev_sha256"), Path(dev["file"]).stem
        scores.notes += [_too_high(n) for n, pairs in data.sts.items() if n == stem or pairs.sha256 == sha256]
    best = {"dev": "best", "label_free": "held_out"}.get(chose or "")
    for which, folder in ({best: "model", "last": "last"} if best else {"last": "model"}).items():
        if not (source.path / folder).is_dir():
            raise InputError(f"{source.label}: has no {folder}/, so its run is not complete; finish it with --resume")
        report(f"scoring  {source.label}/{folder}")
        candidate = encoder_candidate(source.label, load(source.path / folder))
        results = measure(candidate, jobs_of(data, ("sts",)), cache=ResultCache(default_cache_dir() if cache else None))
        named = {key.partition("/")[2]: result for key, result in results.items()}
        values = {name: record["value"] for name, (record, _) in named.items()}
        cosines = {name: np.array(each) for name, (_, each) in named.items()}
        scores.runs.append(Run(source.method, source.seed, which, values, cosines))


def _own_name(own: OwnData) -> str:
    return f"{own.score} on {Path(own.name).name}"


def _add_own(source: Source, own: OwnData, scores: _Scores, report: Callable[[str], None]) -> None:
    """The score of the encoder that ships, with the value of each item."""
    from diffcse.encoder.load import load

    scores.notes += own.notes
    report(f"scoring  {source.label}")
    values = own.values(load(source.path))[own.score]
    name = _own_name(own)
    scores.add_measure(name, (own.score, (own.sha256,)), source)
    scores.runs.append(Run(source.method, source.seed, "given", {name: value_of(own, values)}, {name: values}))


def _too_high(name: str) -> str:
    return f"{name} chose the best steps, so its scores of the best step are too high; those of the last step are not"


# ---- sources ---------------------------------------------------------------------------------------------------------


def read_source(text: str) -> Source:
    """`text` is a path, or a method's name, "=" and a path.

    Raises:
        InputError: no complete run, or no JSON file of one encoder.
    """
    name, equals, rest = text.partition("=")
    named, path = (name, Path(rest)) if equals and not Path(text).exists() else (None, Path(text))
    if path.is_dir():
        if not (path / "run.json").is_file():
            raise InputError(f"{path}: no run: it has no run.json. Give the folder that diffcse train wrote")
        record = read_record(path / "run.json")
        if record.kind != "train" or record.status != "complete":
            raise InputError(f"{path}: not a complete run of diffcse train; finish it with --resume")
        return Source(str(path), path, named, record=record, seed=record.seed)
    results = [result for result in _read_report(path)["results"] if result["encoder"]["kind"] != "floor"]
    if len(results) != 1:
        raise InputError(f"{path}: holds {len(results)} encoders; write one file for each run to compare")
    run = results[0]["encoder"].get("run") or {}
    return Source(str(path), path, named, result=results[0], seed=run.get("seed"))


class _Data(TypedDict):
    sha256: str


class _Task(TypedDict):
    group: str
    name: str
    value: float
    data: _Data
    metric: NotRequired[str]
    split: NotRequired[str]
    probe: NotRequired[str]


class _Run(TypedDict):
    recipe: str | None
    method_sha256: str
    seed: int
    train_sha256: str | None


class _Encoder(TypedDict):
    name: str
    kind: str
    fingerprint: str | None
    pooling: NotRequired[str]
    run: NotRequired[_Run | None]


class _Result(TypedDict):
    encoder: _Encoder
    tasks: dict[str, _Task]


class _Report(TypedDict):
    """What is compared of the file that `diffcse evaluate --json` writes; evaluation.schema.json has all of it."""

    results: list[_Result]


def _read_report(path: Path) -> Any:
    report = read_json(path, hint=". Give a run folder, or a JSON file of diffcse evaluate")
    if report.get("schema") != "diffcse-evaluation/1":
        raise InputError(f"{path}: not what diffcse evaluate --json of this version writes")
    try:
        return as_type(report, _Report, "")
    except InputError as error:
        raise InputError(f"{path}: not what diffcse evaluate --json writes: {error}") from None


def check_sources(sources: Sequence[Source], *, with_data: bool) -> None:
    """Raise an `InputError` where files of scores stand beside run folders, or beside data to score on."""
    files = [source.label for source in sources if source.result is not None]
    if files and len(files) < len(sources):
        folder = next(source.label for source in sources if source.result is None)
        raise InputError(
            f"{files[0]} holds scores, {folder} is a run: they cannot be compared with each other. Give a JSON "
            f"file of each: diffcse evaluate {folder} --data DIR --json FILE"
        )
    if files and with_data:
        raise InputError(f"--data scores the encoders of run folders, and {files[0]} holds scores: leave it out")


def name_methods(sources: Sequence[Source]) -> None:
    """Set each source's method: the name given, or what sets its recipe apart. Seeds of one method share it."""
    configs = {id(s): method_config(s.record.config) for s in sources if s.record is not None and s.named is None}
    changing: dict[str, set[str]] = {}
    for kind in {kind_of(config) for config in configs.values()}:
        # A recipe without the difference term has fields without effect: only recipes of one kind are compared.
        alike = [config for config in configs.values() if kind_of(config) == kind]
        changing[kind] = {key for config in alike[1:] for key in differences(alike[0], config)}
    for source in sources:
        if source.named is not None:
            source.method = source.named
        elif source.result is not None:
            encoder = source.result["encoder"]
            source.method = (encoder.get("run") or {}).get("recipe") or encoder["name"]
        else:
            config = configs[id(source)]
            kind = kind_of(config)
            values = [f"{key.rpartition('.')[2]} {_get(config, key)}" for key in sorted(changing[kind])]
            source.method = ", ".join([kind, *values])
    # Two methods may get one name: the second one's is made longer by its path.
    taken = {source.named: source.identity for source in sources if source.named is not None}
    by_identity: dict[Any, str] = {}
    for source in sources:
        if source.named is None:
            if source.identity not in by_identity:
                free = taken.setdefault(source.method, source.identity) == source.identity
                by_identity[source.identity] = source.method if free else f"{source.method} ({source.label})"
            source.method = by_identity[source.identity]


def kind_of(config: Mapping[str, Any]) -> str:
    """Name of a method by its parts, such as "SimCSE" or "DiffCSE (next sentences)"."""
    difference, positives = _get(config, "method.difference"), _get(config, "method.positives")
    plain = positives in (None, "dropout")
    # SimCSE is the contrast of two dropout views.
    name = {"none": "SimCSE" if plain else "contrast", "rtd": "DiffCSE"}.get(str(difference), f"DiffCSE ({difference})")
    role = _get(config, "method.edit_role")
    if role not in (None, "difference"):
        return f"{name} (an edited copy as one more {role})"
    kinds = {"next": "next sentences", "both": "both positives", "crop": "crops"}
    return name if plain else f"{name} ({kinds.get(str(positives), positives)})"


def _get(config: Mapping[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
