"""Data -> jobs: for each set, the sentences to embed and the function that turns embeddings into a score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from diffcse.evaluation.beir import Collection
from diffcse.evaluation.data import Data, TextSet
from diffcse.evaluation.downstream import EXAMPLES_IN, TransferTask
from diffcse.evaluation.embeddings import Encode
from diffcse.evaluation.geometry import alike_pairs, score_geometry
from diffcse.evaluation.probes import LOGISTIC, Probe
from diffcse.evaluation.retrieval import score_collection
from diffcse.evaluation.sts import PAIRS_IN, PairSet, score_sts, split_of
from diffcse.evaluation.transfer import score_transfer

Group = Literal["sts", "transfer", "retrieval", "geometry"]
GROUPS: tuple[Group, ...] = ("sts", "transfer", "retrieval", "geometry")

GEOMETRY_AT_MOST = 20_000
"""Geometry uses at most this many distinct sentences of a text, evenly spaced."""


@dataclass(frozen=True)
class Job:
    """One set of one group."""

    group: Group
    name: str
    sha256: str
    sentences: list[str]
    """Every sentence that `run` embeds."""
    run: Callable[[Encode], tuple[dict[str, Any], list[float] | None]]
    """Encode -> the score's fields, and one value for each item (the cosine of a pair, the nDCG of a query)."""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """`group/name`: unique in a report."""
        return f"{self.group}/{self.name}"


def jobs_of(data: Data, groups: Sequence[Group], probe: Probe = LOGISTIC) -> list[Job]:
    """One job for each set of `data` in these groups, in the order of `GROUPS`."""
    jobs: list[Job] = []
    if "sts" in groups:
        jobs += [_sts_job(pairs) for pairs in data.sts.values()]
    if "transfer" in groups:
        jobs += [_transfer_job(task, probe) for task in data.transfer.values()]
    if "retrieval" in groups:
        searches = data.searches().values()
        jobs += [_retrieval_job(search, paper=search.name not in data.collections) for search in searches]
    if "geometry" in groups:
        jobs += [_geometry_job(source) for source in data.shapes().values()]
    return jobs


def _sts_job(pairs: PairSet) -> Job:
    def run(encode: Encode) -> tuple[dict[str, Any], list[float]]:
        score = score_sts(encode, pairs)
        plain = score.to_dict()
        record = {
            "split": split_of(pairs.name),
            "n": score.n,
            "complete": len(pairs) == PAIRS_IN.get(pairs.name, len(pairs)),
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
        # SentEval's fast mode is for choosing between models, so it reports the dev accuracy.
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
            "f1": None if dev else score.f1,  # computed on the test examples, which must not guide a choice
            "majority": score.dev_majority if dev else score.majority,
            "protocol": score.protocol,
            "strengths": plain["strengths"],
            "probe": probe.name,
        }
        return record, None

    return Job("transfer", task.name, task.sha256, task.sentences(), run, {"probe": probe.facts()})


def _retrieval_job(collection: Collection, *, paper: bool) -> Job:
    """`paper`: the search that the DiffCSE paper makes of STS-B, scored by recall@1; else BEIR, by nDCG@10."""

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
    texts = source.sentences if isinstance(source, TextSet) else (*source.first, *source.second)
    sentences = list(dict.fromkeys(texts))
    if len(sentences) > GEOMETRY_AT_MOST:
        places = np.linspace(0, len(sentences) - 1, GEOMETRY_AT_MOST).astype(int)
        sentences = [sentences[place] for place in places]
    # Alignment needs all similar pairs, also those whose sentences are not in the selection above.
    needed = [*sentences, *(part for pair in alike_pairs(pairs) for part in pair)] if pairs is not None else sentences

    def run(encode: Encode) -> tuple[dict[str, Any], None]:
        score = score_geometry(encode, sentences, pairs)
        record = {"split": split_of(source.name), "metric": "uniformity", "value": score.uniformity, **score.to_dict()}
        return record, None

    return Job("geometry", source.name, source.sha256, list(dict.fromkeys(needed)), run, {"at_most": GEOMETRY_AT_MOST})
