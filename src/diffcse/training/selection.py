"""Which step's encoder is kept, and did training help?

A dev file decides where there is one (`training.select`). Where there is none, sentences that training never saw do,
by the grades that text gives itself (`evaluation.label_free`; measured in docs/log.md). Either way the encoder that is
kept is compared with the one training began from, on the same pairs, and "helped" is said only of a difference that the
choice of pairs cannot explain.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from diffcse.config import Config
from diffcse.errors import InputError
from diffcse.evaluation.correlation import spearman
from diffcse.evaluation.embeddings import Encode, cosines, embed_once
from diffcse.evaluation.label_free import halves, reciprocal_ranks
from diffcse.evaluation.seeds import bootstrap_difference
from diffcse.evaluation.sts import PairSet
from diffcse.files import staged_file
from diffcse.text.corpus import Corpus
from diffcse.text.examples import Examples

SHARE, MOST, FEWEST = 0.02, 500, 100
"""Share of the text that is held out; at most and at least so many sentences."""

RESAMPLES = 500
_STREAM = 0x68656C64  # other draws of the same seed are other draws


class Judge(Protocol):
    """Scores an encoder by one value for each pair or sentence, so that two encoders can be compared on the same."""

    name: str
    """Under which scores are logged: "dev" or "label_free"."""
    metric: str

    def values(self, encode: Encode) -> np.ndarray:
        """(n,) what the encoder makes of each."""

    def score(self, values: np.ndarray) -> float:
        """In points, higher is better."""

    def error(self, start: np.ndarray, kept: np.ndarray) -> float:
        """Standard error of `score(kept) - score(start)`, from the choice of pairs or sentences."""


@dataclass(frozen=True)
class Graded:
    """Pairs that people graded."""

    pairs: PairSet
    name = "dev"
    metric = "Spearman of cosine, points"

    def values(self, encode: Encode) -> np.ndarray:
        """The cosine of each pair."""
        return cosines(*embed_once(encode, self.pairs.first, self.pairs.second))

    def score(self, values: np.ndarray) -> float:
        """Spearman with the grades."""
        return 100 * float(spearman(values, self.pairs.scores))

    def error(self, start: np.ndarray, kept: np.ndarray) -> float:
        """By the paired bootstrap over pairs."""
        draws = bootstrap_difference(self.pairs.scores, kept, start, resamples=RESAMPLES)
        return float(np.std(draws, ddof=1))


@dataclass(frozen=True)
class Halves:
    """Sentences cut in two: each first half must find its second half among all of them."""

    first: tuple[str, ...]
    second: tuple[str, ...]
    name = "label_free"
    metric = "first halves of held-out sentences finding their second, MRR in points"

    def values(self, encode: Encode) -> np.ndarray:
        """The reciprocal rank of each second half."""
        return reciprocal_ranks(*embed_once(encode, self.first, self.second))

    def score(self, values: np.ndarray) -> float:
        """Mean reciprocal rank."""
        return 100 * float(values.mean())

    def error(self, start: np.ndarray, kept: np.ndarray) -> float:
        """Of a mean of paired differences."""
        return 100 * float(np.std(kept - start, ddof=1)) / math.sqrt(len(start))


def compare(judge: Judge, start: np.ndarray, kept: np.ndarray, looks: int) -> dict[str, Any]:
    """The score of `kept` minus that of `start`, with its standard error and 95 % interval, and what follows from them.

    Args:
        looks: among how many checkpoints `kept` was chosen by this very judge. The best of many is lucky, so the
            interval is wider for it (Bonferroni).
    """
    difference, error = judge.score(kept) - judge.score(start), judge.error(start, kept)
    reach = NormalDist().inv_cdf(1 - 0.025 / looks) * error
    low, high = difference - reach, difference + reach
    helped: bool | str = True if low > 0 else False if high < 0 else "unclear"
    return {"difference": difference, "error": error, "low": low, "high": high, "helped": helped}


class Panel:
    """What the judges of a run found for its start and for the step that is kept, on disk, so that a kill loses none.

    Args:
        folder: where their values lie until the run is complete.
    """

    def __init__(self, judges: Sequence[Judge], encode: Encode, folder: Path) -> None:
        self.judges = {judge.name: judge for judge in judges}
        self._encode, self._folder = encode, folder
        self._latest: dict[str, np.ndarray] = {}

    def measures(self) -> dict[str, Callable[[], float]]:
        """Each judge's score of the encoder as it now is; the first time it is the start."""
        return {name: functools.partial(self._measure, judge) for name, judge in self.judges.items()}

    def _measure(self, judge: Judge) -> float:
        values = self._latest[judge.name] = judge.values(self._encode)
        if not self._file("start", judge).exists():
            self._store("start", judge)
        return judge.score(values)

    def keep(self) -> None:
        """The encoder measured last is the one that is kept."""
        for judge in self.judges.values():
            self._store("kept", judge)

    def keep_last(self) -> None:
        """The encoder as it now is is the one that is kept."""
        for judge in self.judges.values():
            self._latest[judge.name] = judge.values(self._encode)
        self.keep()

    def verdict(self, name: str, looks: int) -> dict[str, Any]:
        """See `compare`."""
        judge = self.judges[name]
        start, kept = (np.load(self._file(which, judge), allow_pickle=False) for which in ("start", "kept"))
        return compare(judge, start, kept, looks)

    def _file(self, which: str, judge: Judge) -> Path:
        return self._folder / f"{which}-{judge.name}.npy"

    def _store(self, which: str, judge: Judge) -> None:
        with staged_file(self._file(which, judge)) as staging, staging.open("wb") as file:
            np.save(file, self._latest[judge.name])


# ---- held-out sentences ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeldOut:
    """Sentences that are kept from training."""

    left_out: npt.NDArray[np.int64]
    """Their indices in the corpus, sorted."""
    judge: Halves


def hold_out(config: Config, corpus: Corpus | Examples) -> tuple[HeldOut | None, list[str]]:
    """What is held out of `corpus`, decided by the seed alone; None, and why, where nothing can or need be.

    Raises:
        InputError: `training.select` asks for what is not there: graded pairs, or plain text.
    """
    training = config.training
    if training.select == "labels" and training.dev is None:
        raise InputError(
            'training.select = "labels" without graded pairs: name their file with training.dev (--dev), or set select '
            '= "label_free"'
        )
    if training.select == "label_free" and isinstance(corpus, Examples):
        raise InputError(
            'training.select = "label_free" holds out plain text, and text.anchor names pairs: name graded pairs with '
            'training.dev (--dev), or set select = "last"'
        )
    if training.select in ("last", "labels") or (training.select == "auto" and training.dev is not None):
        return None, []
    if isinstance(corpus, Examples):
        return None, [f"no dev file: {_UNJUDGED}"]
    size = min(MOST, int(SHARE * len(corpus)))
    if size < FEWEST:
        enough = f"at least {FEWEST / SHARE:,.0f}"
        return _cannot(config, f"{len(corpus):,} sentences are too few to hold some out ({enough})")
    random = np.random.default_rng([training.seed, _STREAM])
    index = np.sort(random.choice(len(corpus), size, replace=False))
    cut = [both for both in (halves(corpus[int(i)]) for i in index) if both is not None]
    if len(cut) < FEWEST:
        return _cannot(config, "held-out sentences are too short to be cut in two")
    return HeldOut(index, Halves(tuple(a for a, _ in cut), tuple(b for _, b in cut))), []


_UNJUDGED = "model/ is the last step's, and nothing tells whether training helped"


def _cannot(config: Config, why: str) -> tuple[None, list[str]]:
    """What is made of a text that nothing can be held out of: an error, if that was asked for by name."""
    if config.training.select == "label_free":
        raise InputError(
            f'training.select = "label_free": {why}: give more text, or set select = "last" (or "labels", with --dev)'
        )
    return None, [f"no dev file, and {why}: {_UNJUDGED}"]


class Without(Sequence[Any]):
    """`examples` but for those at the indices `left_out`, which are sorted: nothing is copied.

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
