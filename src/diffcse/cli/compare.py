"""`diffcse compare`."""

from __future__ import annotations

import json as json_format
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from rich.console import Console
from tyro.conf import Positional, UseAppendAction, arg

from diffcse.errors import InputError
from diffcse.record import chosen_by

if TYPE_CHECKING:
    from diffcse.evaluation.data import Data
    from diffcse.evaluation.seeds import Run


@dataclass(frozen=True)
class Compare:
    """Compare methods over seeds: is a difference more than luck with the seed and the sentences?"""

    runs: Annotated[Positional[tuple[str, ...]], arg(metavar="RUN...", help_behavior_hint="")]
    """Runs of `diffcse train`, or JSON files of `diffcse evaluate`. NAME=RUN names its method."""
    data: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="DIR|hub:ID|pairs")] = ()
    """Folder with STS sets, hub:mteb or "pairs", to score the runs' encoders on pair by pair. Without: recorded dev
    scores."""
    sets: UseAppendAction[tuple[str, ...]] = ()
    """Only this set, such as STS12."""
    baseline: str | None = None
    """The method the others are compared with; the first if not given."""
    resamples: int = 1000
    """Draws of the bootstrap over sentence pairs."""
    allow_partial: bool = False
    """Accept well-known sets with pairs or subsets missing."""
    cache: bool = True
    """Keep scores, and use those kept for exactly this encoder, set and code."""
    markdown: Path | None = None
    """Write the tables to this file."""
    json: Path | None = None
    """Write everything to this file."""
    html: Path | None = None
    """Write a page with plots to this file."""

    def __call__(self, console: Console) -> None:
        if len(self.runs) < 2:
            raise InputError("nothing to compare: give two or more runs, e.g. diffcse compare runs/*")
        if self.resamples < 100:
            raise InputError(f"--resamples {self.resamples}: at least 100, or intervals mean nothing")
        from diffcse.evaluation.data import Data, find_data
        from diffcse.evaluation.seeds import AVERAGE, compare_methods
        from diffcse.files import write_json, write_text
        from diffcse.record import finite, versions
        from diffcse.report.comparison import CHECKPOINTS, comparison_markdown, comparison_page
        from diffcse.terminal import say

        sources = [_Source.of(text) for text in self.runs]
        self._check_choices(sources)
        data = Data()
        if self.data:
            data = find_data(self.data, groups=("sts",), only=self.sets, allow_partial=self.allow_partial)
        _name_methods(sources)
        runs, notes = [], list(data.notes)
        measured: _Measured = {}
        for source in sources:
            runs += self._scored(source, data, measured, notes, console)
        compared = set().union(*_shared(runs).values())
        kinds = {name: _one_measure(name, measured[name]) for name in measured if name in compared}
        if any(name.startswith(AVERAGE) for name in compared):
            raise InputError(f"a set is called {AVERAGE}..., as the mean over sets is here: rename its file")
        try:
            found = compare_methods(
                runs,
                {name: pairs.scores for name, pairs in data.sts.items()},
                baseline=self.baseline,
                kinds=kinds,
                resamples=self.resamples,
            )
        except ValueError as error:
            raise InputError(str(error)) from error
        empty = [which for which, each in found["checkpoints"].items() if not each["sets"]]
        if len(empty) == len(found["checkpoints"]):
            raise InputError("the runs share no set: nothing can be compared. Give --data DIR to score them all on one")
        for which in empty:
            del found["checkpoints"][which]
            notes.append(f"“{CHECKPOINTS[which][0]}” is left out: its runs share no set")
        whole = {
            "schema": "diffcse-comparison/1",
            **found,
            "metric": "points; for STS, Spearman of cosine, all pairs of a set together",
            "data": {name: {"sha256": pairs.sha256, "pairs": len(pairs)} for name, pairs in data.sts.items()},
            "sources": [{"run": s.label, "method": s.method, "seed": s.seed} for s in sources],
            "notes": list(dict.fromkeys(notes)),
            "versions": versions(),
        }
        whole = finite(whole)
        markdown = comparison_markdown(whole)
        print(markdown, end="")
        for path, text in ((self.markdown, lambda: markdown), (self.html, lambda: comparison_page(whole))):
            if path:
                write_text(path, text())
                say(console, f"written  {path}")
        if self.json:
            write_json(self.json, whole)
            say(console, f"written  {self.json}")

    def _check_choices(self, sources: list[_Source]) -> None:
        files = [source.label for source in sources if source.report is not None]
        if files and len(files) < len(sources):
            folder = next(source.label for source in sources if source.report is None)
            raise InputError(
                f"{files[0]} holds scores, {folder} is a run: they cannot be compared with each other. Give a JSON "
                f"file of each: diffcse evaluate {folder} --data DIR --json FILE"
            )
        if files and self.data:
            raise InputError(f"--data scores the encoders of run folders, and {files[0]} holds scores: leave it out")
        if not self.data:
            for name, value, usual in (
                ("--resamples", self.resamples, 1000),
                ("--allow-partial", self.allow_partial, False),
                ("--no-cache", self.cache, True),
            ):
                if value != usual:
                    raise InputError(f"{name} changes nothing without --data")

    def _scored(
        self, source: _Source, data: Data, measured: _Measured, notes: list[str], console: Console
    ) -> list[Run]:
        from diffcse.evaluation.seeds import Run

        def note_measure(name: str, kind: str, what: tuple[Any, ...]) -> None:
            measured.setdefault(name, {}).setdefault((kind, what), source.label)

        if source.report is not None:
            tasks = {_short(task): task for task in source.result["tasks"].values() if task["group"] != "geometry"}
            missing = [name for name in self.sets if name not in tasks]
            if missing:
                raise InputError(
                    f"{source.label}: has no {', '.join(missing)}; there are: {', '.join(tasks) or 'none'}"
                )
            tasks = {name: task for name, task in tasks.items() if not self.sets or name in self.sets}
            for name, task in tasks.items():
                facts = [task["data"]["sha256"], *(task.get(key) for key in ("metric", "split", "probe"))]
                kind = {"sts": "STS"}.get(task["group"], task["group"])
                note_measure(name, kind if kind != "retrieval" else f"{kind} {task['metric']}", tuple(facts))
            return [Run(source.method, source.seed, "given", {n: task["value"] for n, task in tasks.items()}, {})]
        dev = source.record.scores.get("dev")
        if not data.sts:
            if not dev:
                raise InputError(f"{source.label}: recorded no dev score: give --data DIR to score its encoder")
            name = Path(dev["file"]).stem
            if {*self.sets} - {name}:
                raise InputError(f"{source.label}: its dev score is on {name}; give --data DIR for other sets")
            # A highest score of many that chose nothing is no score of any model.
            wanted = ("best", "last") if chosen_by(source.record.scores) == "dev" else ("last",)
            if "best" in wanted:
                notes.append(_too_high(name))
            if source.record.data.get("dev_sha256"):  # older records do not say
                note_measure(name, "STS", (source.record.data["dev_sha256"],))
            return [
                Run(source.method, source.seed, which, {name: dev[which]}, {})
                for which in wanted
                if dev.get(which) is not None
            ]
        import numpy as np

        from diffcse.encoder.load import load
        from diffcse.evaluation.cache import ResultCache, default_cache_dir
        from diffcse.evaluation.candidates import encoder_candidate
        from diffcse.evaluation.jobs import jobs_of
        from diffcse.evaluation.measuring import measure

        cache = ResultCache(default_cache_dir() if self.cache else None)
        chose = source.record.data.get("dev_sha256")
        if chosen_by(source.record.scores) == "dev":
            # The same set can be another file: SentEval's sts-dev.csv and STSB-dev.tsv.
            named = Path(dev["file"]).stem if dev else None
            notes += [_too_high(n) for n, pairs in data.sts.items() if chose == pairs.sha256 or n == named]
        chose_step = {"dev": "best", "label_free": "held_out"}.get(chosen_by(source.record.scores) or "")
        folders = {chose_step: "model", "last": "last"} if chose_step else {"last": "model"}
        made = []
        for which, folder in folders.items():
            if not (source.path / folder).is_dir():
                raise InputError(
                    f"{source.label}: has no {folder}/, so its run is not complete; finish it with --resume"
                )
            if console.is_terminal:
                console.print(f"scoring  {source.label}/{folder}", markup=False, highlight=False)
            candidate = encoder_candidate(source.label, load(source.path / folder))
            done = measure(candidate, jobs_of(data, ("sts",)), cache=cache)
            values = {key.partition("/")[2]: found for key, found in done.items()}
            made.append(
                Run(
                    source.method,
                    source.seed,
                    which,
                    {name: record["value"] for name, (record, _) in values.items()},
                    {name: np.array(cosines) for name, (_, cosines) in values.items()},
                )
            )
        return made


@dataclass
class _Source:
    """One thing given on the command line."""

    label: str
    path: Path
    named: str | None
    record: Any = None
    report: Any = None
    result: Any = None
    method: str = ""
    seed: int | None = None

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal for the runs of one method: the name given to it, or the recipe without its seed, and the text."""
        if self.named is not None:
            return ("named", self.named)
        if self.record is not None:
            from diffcse.config import method_identity

            return ("method", method_identity(self.record.config), self.record.data.get("sha256"))
        encoder = self.result["encoder"]
        run = encoder.get("run")
        if run is None:
            return ("encoder", encoder["fingerprint"] or self.label)
        return ("method", run.get("method_sha256", run["recipe"]), run["train_sha256"], encoder.get("pooling"))

    @classmethod
    def of(cls, text: str) -> _Source:
        """`text` is a path, or a method's name, "=" and a path."""
        name, found, rest = text.partition("=")
        named, path = (name, Path(rest)) if found and not Path(text).exists() else (None, Path(text))
        if path.is_dir():
            from diffcse.record import read_record

            if not (path / "run.json").is_file():
                raise InputError(f"{path}: no run: it has no run.json. Give the folder that diffcse train wrote")
            record = read_record(path / "run.json")
            if record.kind != "train" or record.status != "complete":
                raise InputError(f"{path}: not a complete run of diffcse train; finish it with --resume")
            return cls(str(path), path, named, record=record, seed=record.seed)
        report = _read_report(path)
        results = [result for result in report["results"] if result["encoder"]["kind"] != "floor"]
        if len(results) != 1:
            raise InputError(f"{path}: holds {len(results)} encoders; write one file for each run to compare")
        run = results[0]["encoder"].get("run") or {}
        return cls(str(path), path, named, report=report, result=results[0], seed=run.get("seed"))


_Measured: TypeAlias = dict[str, dict[tuple[str, tuple[Any, ...]], str]]
"""Set -> (kind of score, what it is of and how it is taken) -> the first source that has it so."""


def _shared(runs: list[Run]) -> dict[str, set[str]]:
    """Checkpoint -> the sets that all its runs have a score on."""
    found: dict[str, set[str]] = {}
    for run in runs:
        found[run.checkpoint] = found.get(run.checkpoint, {*run.scores}) & {*run.scores}
    return found


def _one_measure(name: str, found: dict[tuple[str, tuple[Any, ...]], str]) -> str:
    """The kind of score of the set `name`, which all sources must have taken alike."""
    (kind, first), *others = found
    if others:
        labels = list(found.values())
        what = "on other data" if others[0][1][0] != first[0] else "in another way"
        raise InputError(
            f"{name}: {labels[0]} and {labels[1]} measured it {what}, which no difference can be taken of. Measure all "
            "alike (run folders: --data DIR), or choose other sets with --sets"
        )
    return kind


def _too_high(name: str) -> str:
    return f"{name} chose the best steps, so its scores under “best” are too high; those under “last” are not"


def _read_report(path: Path) -> Any:
    try:
        report = json_format.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}. Give a run folder or a JSON file") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    if not isinstance(report, dict) or report.get("schema") != "diffcse-evaluation/1":
        raise InputError(f"{path}: not what diffcse evaluate --json of this version writes")
    return report


def _short(task: dict[str, Any]) -> str:
    return task["name"] if task["group"] == "sts" else f"{task['group']}/{task['name']}"


def _name_methods(sources: list[_Source]) -> None:
    """Give each source its method's name: as asked, or what sets its recipe apart. Seeds of one method share it."""
    from diffcse.config import differences, method_config

    configs = {id(s): method_config(s.record.config) for s in sources if s.record is not None and s.named is None}
    changing: dict[str, set[str]] = {}
    for kind in {_kind(config) for config in configs.values()}:
        # A recipe without the difference term has fields that mean nothing there: like is compared with like.
        alike = [config for config in configs.values() if _kind(config) == kind]
        changing[kind] = {key for config in alike[1:] for key in differences(alike[0], config)}
    for source in sources:
        if source.named is not None:
            source.method = source.named
        elif source.record is None:
            encoder = source.result["encoder"]
            source.method = (encoder.get("run") or {}).get("recipe") or encoder["name"]
        else:
            config = configs[id(source)]
            values = [f"{key.rpartition('.')[2]} {_get(config, key)}" for key in sorted(changing[_kind(config)])]
            source.method = ", ".join([_kind(config), *values])
    # A name says less than a recipe and its text: runs are of one method only where these are one.
    taken = {source.named: source.identity for source in sources if source.named is not None}
    by_identity: dict[Any, str] = {}
    for source in sources:
        if source.named is None:
            if source.identity not in by_identity:
                free = taken.setdefault(source.method, source.identity) == source.identity
                by_identity[source.identity] = source.method if free else f"{source.method} ({source.label})"
            source.method = by_identity[source.identity]


def _kind(config: dict[str, Any]) -> str:
    difference, positives = _get(config, "method.difference"), _get(config, "method.positives")
    plain = positives in (None, "dropout")
    # Without dropout's views it is no SimCSE any more.
    name = {"none": "SimCSE" if plain else "contrast", "rtd": "DiffCSE"}.get(difference, f"DiffCSE ({difference})")
    role = _get(config, "method.edit_role")
    if role not in (None, "difference"):
        return f"{name} (an edited copy as one more {role})"
    return name if plain else f"{name} ({positives} sentences)" if positives == "next" else f"{name} (both positives)"


def _get(config: dict[str, Any], key: str) -> Any:
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
