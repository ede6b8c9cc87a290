"""Which step's encoder ships, and did training help?

A dev file of graded pairs chooses the step, if the run has one (`training.select`). Otherwise sentences that are held
out from training choose it, by grades that text gives itself (`evaluation.label_free`; measured in docs/log/). The
encoder that ships is compared with the start encoder on the same pairs. "helped" is claimed only of a difference that
the choice of pairs cannot explain.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from diffcse.config import Config
from diffcse.encoder.encode import Encoder
from diffcse.errors import InputError
from diffcse.evaluation.correlation import spearman
from diffcse.evaluation.embeddings import Encode, cosines, embed_once
from diffcse.evaluation.label_free import halves, reciprocal_ranks
from diffcse.evaluation.own_pairs import Answers
from diffcse.evaluation.own_texts import LabelledTexts
from diffcse.evaluation.seeds import bootstrap_difference
from diffcse.evaluation.sts import PairSet
from diffcse.files import staged_file
from diffcse.text.corpus import Corpus
from diffcse.text.examples import Examples
from diffcse.training.folder import CHECKPOINTS

SHARE, MOST, FEWEST = 0.02, 500, 100
"""Share of the text that is held out, and the greatest and smallest number of sentences."""

RESAMPLES = 500
_STREAM = 0x68656C64  # separates this draw from others of the same seed


class Judge(Protocol):
    """Scores an encoder by one value for each pair or sentence, so that two encoders can be compared on the same."""

    name: str
    """Name of its score in the log: "dev" or "label_free"."""

    @property
    def metric(self) -> str:
        """What it measures."""

    def source(self) -> dict[str, Any]:
        """What it judges by, for the record."""

    def values(self, encode: Encode) -> np.ndarray:
        """(n,) the value of each pair or sentence."""

    def score(self, values: np.ndarray) -> float:
        """In points, higher is better."""

    def error(self, start: np.ndarray, kept: np.ndarray) -> float:
        """Standard error of `score(kept) - score(start)` due to the choice of pairs or sentences."""


@dataclass(frozen=True)
class Graded:
    """Pairs that people graded."""

    pairs: PairSet
    file: str | None = None
    name = "dev"
    metric = "Spearman of cosine, points"

    def source(self) -> dict[str, Any]:
        """The name of the file."""
        return {"file": self.file}

    def values(self, encode: Encode) -> np.ndarray:
        """The cosine of each pair."""
        return cosines(*embed_once(encode, self.pairs.first, self.pairs.second))

    def score(self, values: np.ndarray) -> float:
        """Spearman correlation with the grades."""
        return 100 * float(spearman(values, self.pairs.scores))

    def error(self, start: np.ndarray, kept: np.ndarray) -> float:
        """From the paired bootstrap over pairs."""
        draws = bootstrap_difference(self.pairs.scores, kept, start, resamples=RESAMPLES)
        return float(np.std(draws, ddof=1))


@dataclass(frozen=True)
class Own:
    """The user's own labelled texts, or questions with answers."""

    data: LabelledTexts | Answers
    file: str | None = None
    name = "dev"

    @property
    def metric(self) -> str:
        """The data's main score."""
        return f"{self.data.score}, points"

    def source(self) -> dict[str, Any]:
        """The name of the file."""
        return {"file": self.file}

    def values(self, encode: Encode) -> np.ndarray:
        """The main score of each query, in points."""
        return self.data.values(encode)[self.data.score]

    def score(self, values: np.ndarray) -> float:
        """Their mean."""
        return float(values.mean())

    def error(self, start: np.ndarray, kept: np.ndarray) -> float:
        """Of the mean of paired differences."""
        return float(np.std(kept - start, ddof=1)) / math.sqrt(len(start))


def dev_judge(dev: Any, file: str | None) -> Judge:
    """The judge by the data of `training.dev`."""
    return Graded(dev, file) if isinstance(dev, PairSet) else Own(dev, file)


@dataclass(frozen=True)
class Halves:
    """Sentences cut in two: each first half must retrieve its second half among all of them."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    name = "label_free"
    metric = "first halves of held-out sentences finding their second, MRR in points"

    def source(self) -> dict[str, Any]:
        """The number of sentences."""
        return {"sentences": len(self.first)}

    def values(self, encode: Encode) -> np.ndarray:
        """The reciprocal rank of each second half."""
        return reciprocal_ranks(*embed_once(encode, self.first, self.second))

    def score(self, values: np.ndarray) -> float:
        """Mean reciprocal rank."""
        return 100 * float(values.mean())

    def error(self, start: np.ndarray, kept: np.ndarray) -> float:
        """Of the mean of paired differences."""
        return 100 * float(np.std(kept - start, ddof=1)) / math.sqrt(len(start))


def compare(judge: Judge, start: np.ndarray, kept: np.ndarray, looks: int) -> dict[str, Any]:
    """The score of `kept` minus that of `start`, its standard error, its 95 % interval, and whether it helped.

    Args:
        looks: number of steps among which this judge itself chose `kept`. The best of many is lucky, so the interval
            is wider (Bonferroni).
    """
    difference, error = judge.score(kept) - judge.score(start), judge.error(start, kept)
    reach = NormalDist().inv_cdf(1 - 0.025 / looks) * error
    low, high = difference - reach, difference + reach
    helped: bool | str = True if low > 0 else False if high < 0 else "unclear"
    return {"difference": difference, "error": error, "low": low, "high": high, "helped": helped}


class Panel:
    """The judges of a run, with their values for the start and for the step that is kept.

    The values are on disk, so that a kill loses none.

    Args:
        folder: where the values are until the run is complete.
        select: name of the judge that chooses the step; None: the last step ships.
    """

    def __init__(self, judges: Sequence[Judge], encode: Encode, folder: Path, select: str | None = None) -> None:
        self.judges, self.select = {judge.name: judge for judge in judges}, select
        self._encode, self._folder = encode, folder
        self._latest: dict[str, np.ndarray] = {}

    def measures(self) -> dict[str, Callable[[], float]]:
        """By judge, a function that scores the encoder as it is. The first call scores the start."""
        return {name: functools.partial(self._measure, judge) for name, judge in self.judges.items()}

    def _measure(self, judge: Judge) -> float:
        values = self._latest[judge.name] = judge.values(self._encode)
        if not self._file("start", judge).exists():
            self._store("start", judge)
        return judge.score(values)

    def keep(self) -> None:
        """Note that the encoder measured last is kept."""
        for judge in self.judges.values():
            self._store("kept", judge)

    def keep_last(self) -> None:
        """Measure the encoder as it is, and note that it is kept."""
        for judge in self.judges.values():
            self._latest[judge.name] = judge.values(self._encode)
        self.keep()

    def summary(self, log: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """By judge: its scores at the start, the best and the last step of `log`, and `compare` of start and kept."""
        return {name: self._summary(judge, log) for name, judge in self.judges.items()}

    def _summary(self, judge: Judge, log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        scores = {entry["step"]: entry[judge.name] for entry in log if judge.name in entry}
        steps = [step for step in scores if step > 0]
        best = max(steps, key=lambda step: scores[step])  # the first of equals, as in `DiffCSETask.measure`
        selects = judge.name == self.select
        start, kept = (np.load(self._file(which, judge), allow_pickle=False) for which in ("start", "kept"))
        return {
            **judge.source(),
            "metric": judge.metric,
            "start": scores.get(0),
            "best": scores[best],
            "best_step": best,
            "last": scores[max(scores)],
            "selects": selects,
            **compare(judge, start, kept, len(steps) if selects else 1),
        }

    def _file(self, which: str, judge: Judge) -> Path:
        return self._folder / f"{which}-{judge.name}.npy"

    def _store(self, which: str, judge: Judge) -> None:
        with staged_file(self._file(which, judge)) as staging, staging.open("wb") as file:
            np.save(file, self._latest[judge.name])


def gives_up(log: Sequence[Mapping[str, Any]], judge: str | None, patience: int | None) -> bool:
    """Whether the last `patience` scores of `judge` in `log` are no better than one before them, the start's left out.

    >>> log = [{"step": step, "dev": score} for step, score in enumerate([9, 3, 5, 4, 5])]
    >>> gives_up(log, "dev", 2), gives_up(log, "dev", 3), gives_up(log[:4], "dev", 2)
    (True, False, False)
    """
    if patience is None or judge is None:
        return False
    scores = [entry[judge] for entry in log if judge in entry and entry["step"] > 0]
    return len(scores) > patience and max(scores[-patience:]) <= max(scores[:-patience])


def make_panel(config: Config, dev: Any, held_out: HeldOut | None, encoder: Encoder, bf16: bool, output: Path) -> Panel:
    """The judges that `config` and its text give, and which of them chooses the step."""
    by_labels = dev is not None and config.training.select in ("auto", "labels")
    return Panel(
        [
            *([] if dev is None else [dev_judge(dev, config.training.dev)]),
            *([] if held_out is None else [held_out.judge]),
        ],
        lambda sentences: encoder(sentences, bf16=bf16),
        output / CHECKPOINTS,
        "label_free" if held_out is not None else "dev" if by_labels else None,
    )


# ---- held-out sentences ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeldOut:
    """Sentences that are kept from training."""

    left_out: npt.NDArray[np.int64]
    """Their indices in the corpus, sorted."""
    judge: Halves


def hold_out(config: Config, corpus: Corpus | Examples) -> tuple[HeldOut | None, list[str]]:
    """What the seed holds out of `corpus`; None and the reason where nothing can be held out.

    Nothing is held out, without a reason, where the dev file or the last step is to be chosen.

    Raises:
        InputError: `training.select` needs graded pairs or plain text, and the run has none.
    """
    training = config.training
    if training.select == "labels" and training.dev is None:
        raise InputError(
            'training.select = "labels": needs graded pairs. Name their file with training.dev (--dev), or set select '
            '= "label_free".'
        )
    if training.select in ("last", "labels") or (training.select == "auto" and training.dev is not None):
        return None, []
    if isinstance(corpus, Examples):
        return _nothing(config, "text.anchor names pairs, and only plain text can be held out")
    size = min(MOST, int(SHARE * len(corpus)))
    if size < FEWEST:
        enough = f"at least {FEWEST / SHARE:,.0f}"
        return _nothing(config, f"{len(corpus):,} sentences are too few to hold some out (needs {enough})")
    random = np.random.default_rng([training.seed, _STREAM])
    index = np.sort(random.choice(len(corpus), size, replace=False))
    cut = [both for both in (halves(corpus[int(i)]) for i in index) if both is not None]
    if len(cut) < FEWEST:
        return _nothing(config, "the held-out sentences are too short to be cut in two")
    return HeldOut(index, Halves(tuple(a for a, _ in cut), tuple(b for _, b in cut))), []


def _nothing(config: Config, why: str) -> tuple[None, list[str]]:
    """Nothing is held out: an error if `training.select` asks for it, otherwise a note."""
    if config.training.select == "label_free":
        raise InputError(
            f'training.select = "label_free": {why}. Give more plain text, or set select = "last" (or "labels", with '
            "--dev)."
        )
    return None, [f"no dev file, and {why}: model/ is the last step's, and nothing measures whether training helped"]


class Without(Sequence[Any]):
    """`examples` without those at the sorted indices `left_out`. Nothing is copied.

    >>> list(Without("abcde", np.array([0, 3])))
    ['b', 'c', 'e']
    """

    def __init__(self, examples: Sequence[Any], left_out: npt.NDArray[np.int64]) -> None:
        self.examples = examples
        self._shift = left_out - np.arange(len(left_out))

    def __len__(self) -> int:
        return len(self.examples) - len(self._shift)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.examples[int(index) + int(np.searchsorted(self._shift, index, side="right"))]
