"""Encoders x sets -> one report: what `diffcse evaluate` prints and writes.

Comparisons go wrong at the seams: another pooling, another text, a dev score beside a test score, a floor nobody
drew. So every figure leaves here in a record that says split, number of items, metric, aggregation, data hash, text
variant, pooling and versions, in the form that `evaluation.schema.json` fixes; and every encoder, ours, a library's, a
file of vectors or a bag of words, takes the same way through it.

The report holds no time stamp and no path of its own, and its numbers are rounded to six digits, below which the
composition of a batch shows: the same command gives the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import sparse

from diffcse.config import EncoderPooling
from diffcse.encoder.encode import Encoder
from diffcse.encoder.fingerprint import fingerprint
from diffcse.encoder.load import load
from diffcse.errors import InputError
from diffcse.evaluation.beir import Collection
from diffcse.evaluation.cache import ResultCache, code_hash, default_cache_dir
from diffcse.evaluation.data import Data, TextSet, find_data
from diffcse.evaluation.downstream import EXAMPLES_IN, TransferTask
from diffcse.evaluation.embeddings import EmbeddingMatrix, Encode, as_matrix
from diffcse.evaluation.floors import Sif, TfIdf, input_embeddings, read_vectors
from diffcse.evaluation.geometry import alike_pairs, score_geometry
from diffcse.evaluation.probes import LOGISTIC, PROBES, Probe, Trained
from diffcse.evaluation.retrieval import score_collection
from diffcse.evaluation.stored import SUFFIXES, StoredEmbeddings
from diffcse.evaluation.sts import PAIRS_IN, SEVEN, PairSet, score_sts, split_of, text_variant
from diffcse.evaluation.transfer import score_transfer
from diffcse.record import finite, method_hash, read_record, versions

SCHEMA = "diffcse-evaluation/1"
"""Raised when a field is removed or changes its meaning."""

Group = Literal["sts", "transfer", "retrieval", "geometry"]
GROUPS: tuple[Group, ...] = ("sts", "transfer", "retrieval", "geometry")

TRANSFER_SEVEN = tuple(EXAMPLES_IN)

GEOMETRY_AT_MOST = 20_000
"""Distinct sentences of a text that geometry is computed on: evenly spaced ones where there are more."""

_CHUNK = 2048  # sentences embedded between two reports of progress

Progress = Callable[[str, str, int, int], None]
"""Told (encoder, what is done, done, of how many)."""


@dataclass(frozen=True)
class Candidate:
    """One encoder to be measured: a row of the tables."""

    name: str
    kind: Literal["model", "embeddings", "callable", "floor"]
    fit: Callable[[list[str]], Encode]
    """Sentences of a set -> the encoder for that set; only floors look at the sentences."""
    facts: dict[str, Any] = field(default_factory=dict)
    """pooling, max_tokens, width, normalised, run: what is known."""
    fingerprint: str | None = None
    """Equal exactly where embeddings are; None where nobody can tell, and nothing is then kept in the cache."""
    refits: bool = False
    """Whether `fit` depends on the set."""
    sparse: bool = False


def load_candidate(source: str | Path, *, pooling: EncoderPooling | None = None) -> Candidate:
    """A model folder, run or hub id (as `encoder.load` takes them), or a file of embeddings (.npy, .parquet).

    Raises:
        InputError: it cannot be loaded.
    """
    path = Path(source)
    if path.suffix in SUFFIXES and (path.is_file() or not path.exists()):
        stored = StoredEmbeddings(path)
        return Candidate(str(source), "embeddings", lambda _: stored, {"width": stored.width}, stored.fingerprint)
    encoder = load(source, pooling=pooling)
    return encoder_candidate(str(source), encoder, run=_run_facts(path))


def encoder_candidate(name: str, encoder: Encoder, *, run: dict[str, Any] | None = None) -> Candidate:
    """A loaded encoder; its pooling becomes part of its name."""
    facts: dict[str, Any] = {
        "pooling": encoder.pooling,
        "max_tokens": encoder.max_tokens,
        "width": encoder.width,
        "normalised": encoder.normalised,
    }
    if getattr(encoder, "note", ""):  # who chose the pooling
        facts["pooling_note"] = str(getattr(encoder, "note", ""))
    if run is not None:
        facts["run"] = run
    return Candidate(f"{name} ({encoder.pooling})", "model", lambda _: encoder, facts, fingerprint(encoder))


def callable_candidate(name: str, encode: Encode) -> Candidate:
    """Any function from sentences to rows. It cannot be told from another, so its results are not kept."""
    return Candidate(name, "callable", lambda _: encode)


def floor_candidates(
    encoder: tuple[str, Encoder] | None, *, vectors: Path | None = None, text: TextSet | None = None
) -> list[Candidate]:
    """TF-IDF, and SIF over the input embeddings of `encoder` (name and model) and over the file `vectors`.

    Each is fitted on the sentences of the very set it is measured on, or on `text`.
    """
    where = "each set" if text is None else text.name
    corpus = None if text is None else list(text.sentences)
    marks = {} if text is None else {"fitted_on_sha256": text.sha256}
    rows = [
        Candidate(
            f"TF-IDF, fitted on {where}",
            "floor",
            lambda sentences: TfIdf(corpus or sentences),
            {"fitted_on": where, **marks},
            refits=True,
            sparse=True,
        )
    ]
    if encoder is not None:
        name, model = encoder
        words, table = input_embeddings(model)
        rows.append(
            Candidate(
                f"SIF, input embeddings of {name}, fitted on {where}",
                "floor",
                lambda sentences: Sif(words, table, corpus or sentences),
                {"fitted_on": where, "width": int(table.shape[1]), **marks},
                refits=True,
            )
        )
    if vectors is not None:

        def fit(sentences: list[str]) -> Encode:
            words, table = read_vectors(vectors, [*sentences, *(corpus or ())])
            return Sif(words, table, corpus or sentences)

        rows.append(
            Candidate(
                f"SIF, {vectors.name}, fitted on {where}", "floor", fit, {"fitted_on": where, **marks}, refits=True
            )
        )
    return rows


def _run_facts(folder: Path) -> dict[str, Any] | None:
    """Method and seed of the training run in `folder`, if it is one."""
    file = folder / "run.json"
    if not file.is_file():
        return None
    record = read_record(file)
    return {
        "recipe": record.config.get("name"),
        "method_sha256": method_hash(record.config),  # options change a recipe and leave its name
        "seed": record.seed,
        "train_sha256": record.data.get("sha256"),
    }


# ---- what is measured ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One set of one group: what to embed, and how the embeddings become a record."""

    group: Group
    name: str
    sha256: str
    sentences: list[str]
    run: Callable[[Encode], tuple[dict[str, Any], list[float] | None]]
    """-> the record's own fields, and a value for each item (cosines of pairs, nDCG of queries) where there is one."""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """`group/name`: unique in a report."""
        return f"{self.group}/{self.name}"


def jobs_of(data: Data, groups: Sequence[Group], probe: Probe = LOGISTIC) -> list[Job]:
    """Everything to do, in the order of `GROUPS`."""
    jobs: list[Job] = []
    if "sts" in groups:
        jobs += [_sts_job(pairs) for pairs in data.sts.values()]
    if "transfer" in groups:
        jobs += [_transfer_job(task, probe) for task in data.transfer.values()]
    if "retrieval" in groups:
        jobs += [_retrieval_job(one, paper=one.name not in data.collections) for one in data.searches().values()]
    if "geometry" in groups:
        jobs += [_geometry_job(one) for one in data.shapes().values()]
    return jobs


def sts_jobs(data: Data) -> list[Job]:
    """The STS sets alone, whose values are the cosines of their pairs."""
    return jobs_of(data, ("sts",))


def _sts_job(pairs: PairSet) -> Job:
    def run(encode: Encode) -> tuple[dict[str, Any], list[float]]:
        score = score_sts(encode, pairs)
        plain = score.to_dict()
        record = {
            "split": split_of(pairs.name),
            "n": score.n,
            "complete": _complete(pairs.name, len(pairs)),
            "metric": "spearman",
            "aggregation": "all",
            "value": score.all.spearman,
            "aggregations": {name: plain[name] for name in ("all", "mean", "wmean")},
            "subsets": plain["subsets"],
            "unscored": plain["unscored"],
        }
        return record, [float(value) for value in score.cosines]

    return Job("sts", pairs.name, pairs.sha256, [*pairs.first, *pairs.second], run)


def _transfer_job(task: TransferTask, probe: Probe) -> Job:
    def run(encode: Encode) -> tuple[dict[str, Any], None]:
        score = score_transfer(encode, task, probe)
        plain = score.to_dict()
        # SentEval's fast mode is for choosing between models: what it reports is the dev accuracy.
        dev = probe.name == "adam-fast"
        sizes = tuple(len(part) for part in (task.train, task.dev, task.test) if part is not None)
        record = {
            "split": "dev" if dev else "test",
            "n": score.n_dev if dev else score.n_test,
            "complete": sizes == EXAMPLES_IN.get(task.name, sizes),
            "metric": "accuracy",
            "value": score.dev_accuracy if dev else score.accuracy,
            "dev_accuracy": score.dev_accuracy,
            "test_accuracy": score.accuracy,
            "f1": None if dev else score.f1,  # it is over the test examples, which are not to choose by
            "majority": score.dev_majority if dev else score.majority,
            "protocol": score.protocol,
            "strengths": plain["strengths"],
            "probe": probe.name,
        }
        return record, None

    return Job("transfer", task.name, task.sha256, task.sentences(), run, {"probe": probe.facts()})


def _retrieval_job(collection: Collection, *, paper: bool) -> Job:
    def run(encode: Encode) -> tuple[dict[str, Any], list[float]]:
        score = score_collection(encode, collection, (1, 5, 10) if paper else (1, 5, 10, 100))
        values = score.to_dict()
        metric = "recall@1" if paper else "ndcg@10"
        record = {
            "split": split_of(collection.name) if paper else "test",
            "n": score.queries,
            "documents": score.documents,
            "unjudged": collection.unjudged,
            "metric": metric,
            "value": values[metric],
            "values": values,
        }
        return record, [float(value) for value in score.gains]

    return Job("retrieval", collection.name, collection.sha256, collection.sentences(), run, {"paper": paper})


def _geometry_job(source: PairSet | TextSet) -> Job:
    pairs = source if isinstance(source, PairSet) else None
    sentences = list(
        dict.fromkeys((*source.first, *source.second) if isinstance(source, PairSet) else source.sentences)
    )
    if len(sentences) > GEOMETRY_AT_MOST:
        places = np.linspace(0, len(sentences) - 1, GEOMETRY_AT_MOST).astype(int)
        sentences = [sentences[place] for place in places]
    # Alignment is over all pairs that are alike, also where some of their sentences are not among those taken.
    needed = [*sentences, *(part for pair in alike_pairs(pairs) for part in pair)] if pairs is not None else sentences

    def run(encode: Encode) -> tuple[dict[str, Any], None]:
        score = score_geometry(encode, sentences, pairs)
        record = {"split": split_of(source.name), "metric": "uniformity", "value": score.uniformity, **score.to_dict()}
        return record, None

    return Job("geometry", source.name, source.sha256, list(dict.fromkeys(needed)), run, {"at_most": GEOMETRY_AT_MOST})


def _complete(name: str, n: int) -> bool:
    return n == PAIRS_IN.get(name, n)


# ---- measuring -----------------------------------------------------------------------------------------------------


class EmbedOnce:
    """An `Encode` that embeds each distinct sentence once, however many sets hold it.

    New sentences are embedded longest first, some thousands at a time, so that batches hold equal lengths and
    progress can be told.
    """

    def __init__(self, encode: Encode, progress: Callable[[int, int], None] = lambda done, total: None) -> None:
        self._encode, self._progress = encode, progress
        self._place: dict[str, int] = {}
        self._blocks: list[EmbeddingMatrix] = []

    def __call__(self, sentences: list[str]) -> EmbeddingMatrix:
        """Rows for `sentences`, (n, d)."""
        new = [sentence for sentence in dict.fromkeys(sentences) if sentence not in self._place]
        new.sort(key=len, reverse=True)
        for start in range(0, len(new), _CHUNK):
            self._progress(start, len(new))
            chunk = new[start : start + _CHUNK]
            rows = as_matrix(self._encode(chunk))
            if rows.shape[0] != len(chunk):
                raise InputError(f"The encoder gave {rows.shape[0]} embeddings for {len(chunk)} sentences.")
            if self._blocks and rows.shape[1] != self._blocks[0].shape[1]:
                raise InputError(
                    f"The encoder gave rows of {self._blocks[0].shape[1]}, then of {rows.shape[1]} numbers."
                )
            for sentence in chunk:
                self._place[sentence] = len(self._place)
            self._blocks.append(rows)
        if len(self._blocks) > 1:
            whole = any(sparse.issparse(block) for block in self._blocks)
            self._blocks = [sparse.vstack(self._blocks, "csr") if whole else np.concatenate(self._blocks)]
        return self._blocks[0][[self._place[sentence] for sentence in sentences]]


def measure(
    candidate: Candidate,
    jobs: Sequence[Job],
    *,
    cache: ResultCache | None = None,
    progress: Progress = lambda *_: None,
) -> dict[str, tuple[dict[str, Any], list[float] | None]]:
    """Each job's record and values for one encoder, by key; jobs it cannot do are left out.

    Raises:
        InputError: as the scores do.
    """
    cache = cache or ResultCache(None)
    encode = None
    done = {}
    for job in jobs:
        if candidate.sparse and job.group == "transfer" and isinstance(PROBES[job.settings["probe"]["name"]], Trained):
            continue  # tens of thousands of columns, dense: nobody would wait for it
        key = None
        if candidate.fingerprint is not None:
            key = {
                "encoder": candidate.fingerprint,
                "job": job.key,
                "data": job.sha256,
                "settings": job.settings,
                "versions": versions(),
                "code": code_hash(),
            }
            kept = cache.get(key)
            if kept is not None:
                done[job.key] = (kept[0], kept[1])
                continue
        if candidate.refits:
            progress(candidate.name, job.key, 0, 0)
            done[job.key] = job.run(candidate.fit(job.sentences))
            continue
        if encode is None:
            told = lambda part, of: progress(candidate.name, "embedding", part, of)  # noqa: E731
            encode = EmbedOnce(candidate.fit(job.sentences), told)
        encode(job.sentences)
        progress(candidate.name, job.key, 0, 0)
        done[job.key] = job.run(encode)
        if key is not None:
            cache.put(key, finite(list(done[job.key])))
    return done


def report(
    candidates: Sequence[Candidate],
    data: Data,
    *,
    groups: Sequence[Group] = GROUPS,
    probe: Probe = LOGISTIC,
    cache: ResultCache | None = None,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Measure every candidate on everything: the report, plain JSON values as the schema describes them.

    Raises:
        InputError: two candidates share a name, nothing to measure, or as the scores do.
    """
    names = [candidate.name for candidate in candidates]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{twice}: given twice")
    jobs = jobs_of(data, groups, probe)
    if not jobs:
        raise InputError("nothing to measure: the folders given hold no set of these tasks")
    variants = {job.key: text_variant(job.sentences) for job in jobs}
    notes = list(data.notes)
    apart = {_tokenised(variants[job.key]): job.name for job in jobs if job.group == "sts"}
    if len(apart) > 1:
        notes.append(f"the STS sets are in different texts ({apart[True]} tokenised, {apart[False]} not): no average")
    results = []
    for candidate in candidates:
        done = measure(candidate, jobs, cache=cache, progress=progress)
        tasks = {}
        for job in jobs:
            if job.key in done:
                data_facts: dict[str, Any] = {"sha256": job.sha256, "text_variant": variants[job.key]}
                if job.name in data.origins:
                    data_facts["hub"] = asdict(data.origins[job.name])
                tasks[job.key] = {"group": job.group, "name": job.name, **done[job.key][0], "data": data_facts}
        encoder = {"name": candidate.name, "kind": candidate.kind, "fingerprint": candidate.fingerprint}
        results.append({"encoder": encoder | candidate.facts, "tasks": tasks, "averages": _averages(tasks)})
    return _rounded(
        {
            "schema": SCHEMA,
            "results": results,
            "settings": {"groups": list(groups), "probe": probe.facts() if "transfer" in groups else None},
            "notes": notes,
            "versions": versions(),
        }
    )


def _averages(tasks: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The two averages that papers report, where every set of them is there, whole, and in one text variant."""
    found = {}
    for group, names in (("sts", SEVEN), ("transfer", TRANSFER_SEVEN)):
        members = [tasks.get(f"{group}/{name}") for name in names]
        there = [task for task in members if task is not None and task["complete"]]
        one_text = group != "sts" or len({_tokenised(task["data"]["text_variant"]) for task in there}) == 1
        whole = len(there) == len(names) and one_text
        value = float(np.mean([task["value"] for task in there])) if whole else None
        found[group] = {"of": list(names), "value": value}
    return found


def _tokenised(variant: str) -> bool:
    """What must be one for an average. Case must not: SentEval lower-cases all its STS sets but SICK."""
    return variant.startswith("tokenised")


def _rounded(value: Any) -> Any:
    """`value` with numbers to six digits, and those JSON cannot hold as null, all the way down."""
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
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


# ---- from Python ---------------------------------------------------------------------------------------------------


def evaluate(
    encoders: Encoder | Encode | str | Path | Mapping[str, Any] | Sequence[Any],
    data: str | Path | Sequence[str | Path] | Data,
    *,
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
        tasks: what to measure.
        pooling: overrides what folders say; needed for plain checkpoints.
        probe: the classifier of the transfer tasks.
        floors: add TF-IDF, and SIF over the first model's input embeddings.

    Returns:
        The report, plain JSON values; `evaluation.suite.read_schema()` describes it.

    Raises:
        InputError: an encoder or a set cannot be used.
    """
    if probe not in PROBES:
        raise InputError(f"probe {probe!r}: must be one of {', '.join(PROBES)}")
    groups: tuple[Group, ...] = GROUPS if tasks == "all" else (tasks,)
    if tasks != "all" and tasks not in GROUPS:
        raise InputError(f"tasks {tasks!r}: must be one of {', '.join(GROUPS)}, all")
    if not isinstance(data, Data):
        folders = [data] if isinstance(data, str | Path) else data
        data = find_data(folders, groups=groups, allow_partial=allow_partial)
    named: list[tuple[str | None, Any]]
    if isinstance(encoders, Mapping):
        named = list(encoders.items())
    elif isinstance(encoders, str | Path) or callable(encoders):
        named = [(None, encoders)]
    else:
        named = [(None, encoder) for encoder in encoders]
    candidates = [_candidate(name, encoder, pooling) for name, encoder in named]
    if floors:
        first = next(((c.name, e) for c in candidates if isinstance(e := c.fit([]), Encoder)), None)
        candidates += floor_candidates(first)
    cache = ResultCache(default_cache_dir() if use_cache else None)
    return report(candidates, data, groups=groups, probe=PROBES[probe], cache=cache, progress=progress)


def _candidate(name: str | None, encoder: Any, pooling: EncoderPooling | None) -> Candidate:
    if isinstance(encoder, str | Path):
        made = load_candidate(encoder, pooling=pooling)
    elif isinstance(encoder, Encoder):
        made = encoder_candidate("encoder", encoder)
    elif callable(encoder):
        made = callable_candidate(getattr(encoder, "__qualname__", type(encoder).__name__), encoder)
    else:
        raise InputError(f"an encoder of type {type(encoder).__name__}: give a path, an Encoder or a function")
    return made if name is None else Candidate(**{**vars(made), "name": name})
