"""The scores that a table can have: what each is measured on, and how it is measured.

Test sets are read only by columns whose name says so.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffcse.errors import InputError

if TYPE_CHECKING:
    from diffcse.encoder.encode import Encoder
    from diffcse.evaluation.data import Data
    from diffcse.evaluation.jobs import Job
    from diffcse.evaluation.sts import PairSet
    from diffcse.method.paper import DiffCSE


@dataclass(frozen=True)
class Column:
    """A score as a column of tables."""

    label: str
    needs: str
    """What a user must give so that it can be measured."""
    digits: int = 2
    lower_is_better: bool | None = False
    """None: neither direction is better by itself."""


_DEV, _STSB = "a dev set (--dev FILE, or STSB-dev in --data)", "STSB-test in --data"
_TRANSFER, _STS = "SentEval's transfer tasks in --data", "STS test sets in --data"
COLUMNS = {
    "dev": Column("dev Spearman, best step", _DEV),
    "dev_last": Column("dev Spearman, last step", _DEV),
    "transfer_dev": Column("transfer, mean dev accuracy", _TRANSFER),
    "transfer_test": Column("transfer, mean test accuracy", _TRANSFER),
    "sts_test": Column("STS, mean test Spearman", _STS),
    "sts_last": Column("mean Spearman of all STS sets given, last step", "STS sets in --data"),
    **{f"recall_dev@{k}": Column(f"retrieval on dev, R@{k}", _DEV) for k in (1, 5, 10)},
    **{f"recall_test@{k}": Column(f"retrieval on STS-B test, R@{k}", _STSB) for k in (1, 5, 10)},
    "alignment_dev": Column("alignment on dev, 0 where pairs of one meaning coincide", _DEV, 3, lower_is_better=None),
    "uniformity_dev": Column("uniformity on dev, lower where embeddings spread wider", _DEV, 3, lower_is_better=None),
    "rtd_own": Column("RTD log-loss, own embedding", _DEV, 4, lower_is_better=None),
    "rtd_shuffled": Column("RTD log-loss, another's embedding", _DEV, 4, lower_is_better=None),
    "rtd_none": Column("RTD log-loss, no embedding", _DEV, 4, lower_is_better=None),
}
"""The columns that a grid may have."""


# ---- what they are measured on ---------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def column_jobs(dev: str | None, data: tuple[str, ...], columns: tuple[str, ...]) -> dict[str, list[Job]]:
    """What each of `columns` is measured on. Empty for a column whose set is not in `data`.

    Args:
        dev: file of the dev pairs; None for STSB-dev of `data`.
        data: folders of test sets.
    """
    sets, pairs = read_data(data, columns), dev_pairs(dev, data, columns)
    return {name: _jobs(name, pairs, sets) for name in columns}


def dev_pairs(dev: str | None, data: Sequence[str], columns: Sequence[str]) -> PairSet:
    """The graded pairs that choose each run's best step; arguments as in `column_jobs`."""
    from diffcse.evaluation.sts import read_pairs

    return read_pairs(dev) if dev is not None else read_data(data, columns).sts["STSB-dev"]


def measured_on(jobs: Sequence[Job], dev: str | None) -> list[str]:
    """Names of the sets of `jobs`. The bundled pairs get another name, as a user's file may be pairs.tsv too."""
    from diffcse.evaluation.sts import OWN_PAIRS

    bundled = dev is not None and Path(dev) == OWN_PAIRS
    return ["bundled pairs" if bundled and job.name == OWN_PAIRS.stem else job.name for job in jobs]


def read_data(folders: Sequence[str], columns: Sequence[str]) -> Data:
    """The sets of `folders` that `columns` ask for.

    Raises:
        InputError: as `find_data` does.
    """
    from diffcse.evaluation.data import Data, HoldsNothing, find_data

    transfer = any(name.startswith("transfer") for name in columns)
    try:
        return find_data(folders, groups=("sts", "transfer") if transfer else ("sts",)) if folders else Data()
    except HoldsNothing as error:
        wanted = list(dict.fromkeys(COLUMNS[name].needs for name in columns))
        others = [need for need in wanted if "--dev FILE" not in need]
        hint = f"give {' or '.join(others)}" if others else "leave that --data out"
        raise InputError(f"{error}. This grid is measured on {' and '.join(wanted)}: {hint}") from error


def _jobs(column: str, dev: PairSet, data: Data) -> list[Job]:
    from diffcse.evaluation.data import Data
    from diffcse.evaluation.jobs import jobs_of
    from diffcse.evaluation.probes import PROBES
    from diffcse.evaluation.sts import SEVEN

    family, _, split = column.partition("@")[0].partition("_")
    pairs = data.sts.get("STSB-test") if split == "test" else dev
    single = Data(sts={} if pairs is None else {pairs.name: pairs})
    if family == "transfer":
        # SentEval's fast mode is for choosing between models. The paper's dev figures are made with it.
        return jobs_of(data, ("transfer",), PROBES["adam-fast" if split == "dev" else "logistic"])
    if column == "sts_last":
        return jobs_of(Data(sts=data.sts), ("sts",))
    if family == "sts":
        return jobs_of(Data(sts={name: data.sts[name] for name in SEVEN if name in data.sts}), ("sts",))
    if family == "recall":
        return jobs_of(single, ("retrieval",))
    return jobs_of(single, ("geometry",) if family in ("alignment", "uniformity") else ("sts",))


def jobs_hash(jobs: Sequence[Job]) -> str:
    """SHA-256 (hex) of what `jobs` measure: sets, their content, settings."""
    return hashlib.sha256(json.dumps([[job.key, job.sha256, job.settings] for job in jobs]).encode()).hexdigest()


# ---- how they are measured -------------------------------------------------------------------------------------------


def measure_columns(encoder: Encoder, jobs: Mapping[str, list[Job]]) -> dict[str, float]:
    """Column -> score of `encoder`, from the cache of results where it is there."""
    from diffcse.evaluation.cache import ResultCache, default_cache_dir
    from diffcse.evaluation.candidates import encoder_candidate
    from diffcse.evaluation.measuring import EmbedOnce, measure

    once = EmbedOnce(encoder)  # columns share sentences
    candidate = dataclasses.replace(encoder_candidate("cell", encoder), fit=lambda _: once)
    cache = ResultCache(default_cache_dir())
    scores = {}
    for name, each in jobs.items():
        records = [record for record, _ in measure(candidate, each, cache=cache).values()]
        scores[name] = _value(name, records)
    return scores


def _value(column: str, records: Sequence[Mapping[str, Any]]) -> float:
    family, _, k = column.partition("@")
    family = family.partition("_")[0]
    if family == "recall":
        return float(records[0]["values"][f"recall@{k}"])
    if family in ("alignment", "uniformity"):
        value = records[0][family]
        return float("nan") if value is None else float(value)
    return sum(record["value"] for record in records) / len(records)


_AT_MOST, _BATCH = 2048, 64


def rtd_losses(
    model: DiffCSE, tokenizer: Any, sentences: Sequence[str], max_tokens: int, prompt: str = ""
) -> dict[str, float]:
    """D's held-out log-loss, nats a token: given a sentence's own embedding, another's, and none.

    Without an embedding D reads its start token, which it was not trained for. The edits are the same in all three.

    Args:
        prompt: put before every sentence, as in training.

    Returns:
        "rtd_own", "rtd_shuffled", "rtd_none". Empty where D judges no edits of the embedded sentence.
    """
    import torch
    import torch.nn.functional as F

    from diffcse.method.inspect import conditional_gain
    from diffcse.training.collate import Collate

    choices = model.choices
    if choices.difference != "rtd" or choices.condition == "none" or choices.pairing == "next":
        return {}
    distinct = list(dict.fromkeys(sentence for sentence in sentences if sentence))
    random.Random(0).shuffle(distinct)  # neighbours in a file share a topic
    distinct = distinct[: min(_AT_MOST, len(distinct) - (len(distinct) % _BATCH == 1))]  # no batch of one sentence
    collate = Collate(tokenizer, max_tokens, prompt=prompt)
    batches = [collate(distinct[i : i + _BATCH]) for i in range(0, len(distinct), _BATCH)]
    gain = conditional_gain(model, batches)
    device, loss, tokens = next(model.parameters()).device, 0.0, 0
    model.eval()
    with torch.no_grad():
        for step, batch in enumerate(batches):
            ids, attention = (batch[name].to(device) for name in ("input_ids", "attention_mask"))
            edited = model.edit(ids, attention, step=step, rows_R=torch.arange(len(ids), device=device))
            logits_RT2 = model.discriminate(edited.ids, edited.attention, None).float()
            each_RT = F.cross_entropy(logits_RT2.mT, edited.labels, reduction="none")
            loss += float((each_RT * edited.editable).double().sum())
            tokens += int(edited.editable.sum())
    return {"rtd_own": gain.own, "rtd_shuffled": gain.shuffled, "rtd_none": loss / tokens}
