"""Is one method better than another, or were this seed and these sentences kind to it?

A score varies for two reasons: other sentence pairs would have been graded, and another seed would have trained other
weights. Over 50 seeds unsupervised SimCSE varies by 0.84 points. That is more than most differences that are published
from one seed. So a difference between two methods is given with both parts:

- The pairs' part comes from the paired bootstrap: pairs are drawn anew, and all encoders are scored on the same draw.
- The seeds' part comes from the paired t-test over seeds. Runs of one seed share batches and masks, and rise and fall
  together. Methods that share fewer than four seeds are compared by Welch's test.
- The two variances add, with Satterthwaite's degrees of freedom (Biometrics 2, 1946). They give one interval and one
  probability that the sign is right.

With fewer than four seeds the spread over seeds is not known well enough: two seeds that agree by luck look certain.
The seeds' part is then left out, and `verdict` gives none.

The probability is that of a true difference of the sign seen, under a flat prior: P(t <= |difference| / error).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from scipy import stats

from diffcse.evaluation.correlation import spearman

_BLOCK = 2**20
EXACT = 9
"""Digits of a score in points that mean anything. Later digits depend on the order of additions."""
LEAST_SEEDS = 4
"""Fewest seeds from which an interval over seeds is taken."""

Verdict: TypeAlias = Literal["better", "worse", "tie"]


@dataclass(frozen=True)
class Effect:
    """One method's score minus another's, each the mean over its seeds, in points."""

    difference: float
    low: float
    """Lower end of the 95 % interval. NaN, as are `high` and `probability`, where nothing tells how it varies."""
    high: float
    probability: float
    """That the true difference has this sign: 0.5 is no knowledge, 1 is certainty."""
    error_pairs: float | None
    """Standard error that comes from the pairs drawn. None without cosines of the pairs."""
    error_seeds: float | None
    """Standard error that comes from the seeds. None with fewer than `LEAST_SEEDS` seeds."""
    p_seeds: float | None
    """Two-sided p of the t-test over seeds alone."""
    seeds: int
    """Pairs of runs with one seed. 0 where the methods are not paired by seed."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values. Values that are not finite become None."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }


def excludes_zero(low: float, high: float) -> Verdict:
    """What an interval of a difference says: it lies above zero, below zero, or holds zero."""
    return "better" if low > 0 else "worse" if high < 0 else "tie"


def verdict(compared: Effect, *, digits: int = 2, lower_is_better: bool = False) -> Verdict | None:
    """Whether a difference between two methods is clear. This is the only rule for it.

    A difference is clear if its 95 % interval excludes zero and it is not shown as zero at `digits` decimals.

    Returns:
        None where fewer than `LEAST_SEEDS` seeds were run, or where the seeds show no spread to judge by.
    """
    if compared.error_seeds is None or not math.isfinite(compared.low):
        return None
    if abs(compared.difference) < 0.5 * 10**-digits:
        return "tie"
    side = excludes_zero(compared.low, compared.high)
    swapped: dict[Verdict, Verdict] = {"better": "worse", "worse": "better", "tie": "tie"}
    return swapped[side] if lower_is_better else side


def bootstrap_difference(
    gold: np.ndarray | None, a: np.ndarray, b: np.ndarray, *, resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """Differences of two methods' mean Spearman on `resamples` draws of the pairs, in points, (resamples,).

    Args:
        gold: (n,) human scores; None: the score is the mean of the items' values, which are in points.
        a: (k, n) cosines of the n pairs under the k runs of one method.
        b: (m, n) likewise, of the other.

    Raises:
        ValueError: shapes that do not fit, or fewer than 3 pairs.
    """
    a, b = np.atleast_2d(a), np.atleast_2d(b)
    if gold is None:
        picks = np.random.default_rng(seed).integers(a.shape[1], size=(resamples, a.shape[1]), dtype=np.int32)
        return np.asarray((a.mean(axis=0) - b.mean(axis=0))[picks].mean(axis=1))
    if a.shape[1] != len(gold) or b.shape[1] != len(gold) or len(gold) < 3:
        raise ValueError(f"cosines of shapes {a.shape} and {b.shape} for {len(gold)} pairs (at least 3)")
    generator = np.random.default_rng(seed)
    n = len(gold)
    step = max(1, _BLOCK // n)
    draws = []
    for start in range(0, resamples, step):
        rows = generator.integers(n, size=(min(step, resamples - start), n))
        # Ranking is what costs, and the drawn grades are ranked once for all runs.
        ranks = stats.rankdata(gold[rows], axis=1)
        means = [np.mean([spearman(values[rows], ranks) for values in runs], axis=0) for runs in (a, b)]
        draws.append(100 * (means[0] - means[1]))
    return np.concatenate(draws)


def effect(a: Mapping[Any, float], b: Mapping[Any, float], draws: np.ndarray | None = None) -> Effect:
    """`a` minus `b`, each seed -> score in points.

    Runs are paired by the seeds that `paired_seeds` names. Other seeds then count in neither mean.

    Args:
        draws: (resamples,) bootstrap draws of the same difference in points.

    Raises:
        ValueError: a method has no run.
    """
    if not a or not b:
        raise ValueError("an effect needs at least one run of each method")
    common = paired_seeds(a, b)
    if common:
        difference, error_seeds, freedom = _paired([a[seed] - b[seed] for seed in common])
    else:
        difference, error_seeds, freedom = _unpaired([*a.values()], [*b.values()])
    error_pairs = None if draws is None else float(np.std(draws, ddof=1))
    low, high, probability = _interval(difference, error_seeds, freedom, error_pairs)
    return Effect(
        difference=difference,
        low=low,
        high=high,
        probability=probability,
        error_pairs=error_pairs,
        error_seeds=error_seeds,
        p_seeds=None if error_seeds is None else _two_sided(difference, error_seeds, freedom),
        seeds=len(common),
    )


def paired_seeds(a: Iterable[Any], b: Iterable[Any]) -> list[int]:
    """The seeds by which runs of two methods are paired, in order. Empty where all runs count, unpaired.

    Two common seeds are enough, unless both methods have runs enough for an interval without pairing.
    """
    ours, theirs = set(a), set(b)
    common = sorted(seed for seed in ours & theirs if isinstance(seed, int))
    enough = LEAST_SEEDS if min(len(ours), len(theirs)) >= LEAST_SEEDS else 2
    return common if len(common) >= enough else []


def _paired(differences: Sequence[float]) -> tuple[float, float | None, float]:
    """(mean, its standard error, degrees of freedom) of differences between runs of one seed."""
    each = np.round(differences, EXACT)
    known = len(each) >= LEAST_SEEDS
    error = float(each.std(ddof=1) / math.sqrt(len(each))) if known else None
    return float(each.mean()), error, len(each) - 1.0


def _unpaired(a: Sequence[float], b: Sequence[float]) -> tuple[float, float | None, float]:
    """(difference of the means, its standard error, degrees of freedom) by Welch's test."""
    one, other = (np.round(scores, EXACT) for scores in (a, b))
    difference = float(one.mean() - other.mean())
    if min(len(one), len(other)) < LEAST_SEEDS:
        return difference, None, math.inf
    parts = [values.var(ddof=1) / len(values) for values in (one, other)]
    scale = sum(part**2 / (len(values) - 1) for part, values in zip(parts, (one, other), strict=True))
    return difference, float(math.sqrt(sum(parts))), float(sum(parts) ** 2 / scale) if scale else math.inf


def spread(scores: Sequence[float]) -> dict[str, Any]:
    """Mean and standard deviation over seeds, in the scores' unit. `sd` is None below `LEAST_SEEDS`."""
    values = np.asarray(scores, dtype=np.float64)
    return {"mean": float(values.mean()), "sd": float(values.std(ddof=1)) if len(values) >= LEAST_SEEDS else None}


def _interval(
    difference: float, error_seeds: float | None, freedom: float, error_pairs: float | None
) -> tuple[float, float, float]:
    """Low, high and probability from the two standard errors; NaN where neither is known."""
    known = [error for error in (error_seeds, error_pairs) if error is not None]
    if not known:
        return math.nan, math.nan, math.nan
    variance = sum(error**2 for error in known)
    if variance == 0:
        # Scores in coarse steps can differ alike by chance: that no seed varied is no certainty.
        return (0.0, 0.0, 0.5) if difference == 0 else (math.nan, math.nan, math.nan)
    # The bootstrap's own degrees of freedom (pairs - 1) are so many that they do not show.
    seeds_part = 0.0 if error_seeds is None or math.isinf(freedom) else error_seeds**4 / freedom
    together = variance**2 / seeds_part if seeds_part else math.inf
    error = math.sqrt(variance)
    law = stats.norm if math.isinf(together) else stats.t(together)
    reach, probability = float(law.ppf(0.975)) * error, float(law.cdf(abs(difference) / error))
    if error_seeds and not math.isinf(freedom):
        # The pairs' error has so many degrees of freedom that it could make the sum narrower than the seeds' part.
        alone = stats.t(freedom)
        reach = max(reach, float(alone.ppf(0.975)) * error_seeds)
        probability = min(probability, float(alone.cdf(abs(difference) / error_seeds)))
    return difference - reach, difference + reach, probability


def _two_sided(difference: float, error: float, freedom: float) -> float:
    if error == 0:
        return 1.0 if difference == 0 else math.nan
    return float(2 * stats.t(freedom).sf(abs(difference) / error))


# ---- methods x seeds -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Run:
    """One trained encoder's scores."""

    method: str
    seed: int | None
    checkpoint: str
    """What chose the step of its weights.

    "best": the dev score. "held_out": the score on held-out text. "last": nothing; it is the last step. "given": not
    known.
    """
    scores: dict[str, float]
    """Set -> points."""
    cosines: dict[str, np.ndarray]
    """Set -> (n,) cosines of its pairs, for those sets where they are known."""


def compare_methods(
    runs: Sequence[Run],
    gold: Mapping[str, np.ndarray | None],
    *,
    baseline: str | None = None,
    kinds: Mapping[str, str] | None = None,
    resamples: int = 1000,
) -> dict[str, Any]:
    """Every method against `baseline` (the first method if not given), on every set and on their average.

    Args:
        gold: set -> (n,) human scores, for sets whose runs carry cosines.
        kinds: set -> what its score is. Only sets of one kind have an average together.

    Returns:
        Plain JSON values: `methods`, `baseline`, and for each checkpoint `sets`, `headlines` (the averages, and sets
        that are in none), `methods` (mean, sd, values by seed) and `effects` (each with its `verdict`).

    Raises:
        ValueError: an unknown baseline, or two runs of one method with the same seed and checkpoint.
    """
    methods = list(dict.fromkeys(run.method for run in runs))
    baseline = methods[0] if baseline is None else baseline
    if baseline not in methods:
        raise ValueError(f"no run of the baseline {baseline!r}; there are: {', '.join(methods)}")
    checkpoints = {}
    for checkpoint in ("best", "held_out", "last", "given"):
        chosen = [run for run in runs if run.checkpoint == checkpoint]
        if chosen:
            checkpoints[checkpoint] = _compare_one(chosen, methods, gold, baseline, kinds or {}, resamples)
    return {"methods": methods, "baseline": baseline, "resamples": resamples, "checkpoints": checkpoints}


AVERAGE = "average"
"""Name of the mean over all sets. The mean over one kind of several is "average KIND"."""


def _compare_one(
    runs: Sequence[Run],
    methods: list[str],
    gold: Mapping[str, np.ndarray | None],
    baseline: str,
    kinds: Mapping[str, str],
    resamples: int,
) -> dict[str, Any]:
    by_method = {name: [run for run in runs if run.method == name] for name in methods}
    by_method = {name: each for name, each in by_method.items() if each}
    for name, each in by_method.items():
        known = [run.seed for run in each if run.seed is not None]
        if len(set(known)) < len(known):
            raise ValueError(f"{name}: two runs with the same seed; write NAME=RUN to tell two methods apart")
    sets = [name for name in runs[0].scores if all(name in run.scores for run in runs)]
    averages = _averages(sets, kinds)
    parts = {name: [name] for name in sets} | averages
    rows = [_method_row(name, each, parts) for name, each in by_method.items()]
    effects = [
        {
            "method": name,
            "against": baseline,
            "sets": _effects(each, by_method[baseline], sets, averages, gold, resamples),
        }
        for name, each in by_method.items()
        if name != baseline and baseline in by_method
    ]
    averaged = {name for names in averages.values() for name in names}
    headlines = [name for name in parts if name not in averaged]
    return {"sets": [*parts], "headlines": headlines, "methods": rows, "effects": effects}


def _method_row(name: str, runs: Sequence[Run], parts: Mapping[str, list[str]]) -> dict[str, Any]:
    """Mean, standard deviation and values by run, for every set and average."""
    scores = {}
    for part, names in parts.items():
        values = [float(np.mean([run.scores[each] for each in names])) for run in runs]
        scores[part] = {**spread(values), "values": values}
    return {"method": name, "seeds": [run.seed for run in runs], "scores": scores}


def _effects(
    ours: Sequence[Run],
    theirs: Sequence[Run],
    sets: list[str],
    averages: Mapping[str, list[str]],
    gold: Mapping[str, np.ndarray | None],
    resamples: int,
) -> dict[str, Any]:
    """Set or average -> effect of `ours` against `theirs`, with its verdict."""
    if common := paired_seeds(_all_by_seed(ours), _all_by_seed(theirs)):
        ours, theirs = ([run for run in runs if run.seed in common] for runs in (ours, theirs))
    a, b = _all_by_seed(ours), _all_by_seed(theirs)
    all_draws = {}
    for number, name in enumerate(sets):
        if name in gold and all(name in run.cosines for run in (*ours, *theirs)):
            cosines = (np.stack([run.cosines[name] for run in runs]) for runs in (ours, theirs))
            all_draws[name] = bootstrap_difference(gold[name], *cosines, resamples=resamples, seed=number)
    effects = {}
    for part, names in {**{name: [name] for name in sets}, **averages}.items():
        # Sets are drawn independently of each other, so the mean of their draws is a draw of their mean.
        draws = np.mean([all_draws[name] for name in names], axis=0) if all_draws.keys() >= set(names) else None
        difference = effect(_means(a, names), _means(b, names), draws)
        effects[part] = difference.to_dict() | {"verdict": verdict(difference)}
    return effects


def _means(by_seed: Mapping[Any, Mapping[str, float]], names: Sequence[str]) -> dict[Any, float]:
    """Seed -> mean score over the sets `names`."""
    return {seed: float(np.mean([scores[name] for name in names])) for seed, scores in by_seed.items()}


def _averages(sets: list[str], kinds: Mapping[str, str]) -> dict[str, list[str]]:
    """Name of an average -> the sets, two or more of one kind, over which it is taken."""
    by_kind: dict[str, list[str]] = {}
    for name in sets:
        by_kind.setdefault(kinds.get(name, ""), []).append(name)
    return {
        AVERAGE if len(by_kind) == 1 else f"{AVERAGE} {kind}": names
        for kind, names in by_kind.items()
        if len(names) > 1
    }


def _all_by_seed(runs: Sequence[Run]) -> dict[Any, dict[str, float]]:
    """Scores by seed. A run without a seed gets a key of its own, and so pairs with no other run."""
    return {((run.method, i) if run.seed is None else run.seed): run.scores for i, run in enumerate(runs)}
