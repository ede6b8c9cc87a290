"""Is one method better than another, or were this seed and these sentences kind to it?

A score varies for two reasons: other sentence pairs would have been graded, and another seed would have trained other
weights. Over 50 seeds unsupervised SimCSE varies by 0.84 points, more than most differences that are published from
one. So a difference between two methods is given with both:

- the pairs' part, by the paired bootstrap: pairs are drawn anew, all encoders scored on the same draw (`compare`);
- the seeds' part, by the paired t-test over seeds: runs of one seed share batches and masks, and rise and fall
  together; where the seeds differ, by Welch's test;
- of two or three seeds a method's own spread says next to nothing (the t-quantile of one degree of freedom is 12.7, and
  two seeds that agree by luck look certain). Where many methods ran with the same few seeds, as in an ablation table,
  their spread is taken together: `scatter`, the residual of the two-way layout methods x seeds;
- together: the two variances add, with Satterthwaite's degrees of freedom (Biometrics 2, 1946), into one interval and
  one probability that the sign is right. With one seed a method the seeds' part is unknown, and the result says so.

The probability is that of a true difference of the sign seen, under a flat prior: P(t <= |difference| / error).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from diffcse.evaluation.correlation import spearman

_BLOCK = 2**20
EXACT = 9
"""Digits of a score in points that mean anything: what lies behind is the order of additions, not luck."""
FEW = 3
"""Common seeds up to which the spread of many methods together is the better guide to that of two."""
_OUTLIER = 0.05
_NEAR = 0.25
"""Share of the scatter within which two methods that agree in every seed count as one."""


@dataclass(frozen=True)
class Effect:
    """One method's score minus another's, each the mean over its seeds, in points."""

    difference: float
    low: float
    """Of the 95 % interval; `low` and `high` are None (with `probability`) where nothing tells how it varies."""
    high: float
    probability: float
    """That the true difference has this sign: 0.5 knows nothing, 1 is sure."""
    error_pairs: float | None
    """Standard error that comes from the pairs drawn; None without cosines of the pairs."""
    error_seeds: float | None
    """Standard error that comes from the seeds; None with a single seed of either method."""
    p_seeds: float | None
    """Two-sided p of the t-test over seeds alone."""
    seeds: int
    """Pairs of runs with one seed; 0 where the methods share fewer than two seeds and Welch's test is used."""
    pooled: bool = False
    """Whether the seeds' part goes by the scatter of more methods than these two: its degrees of freedom do, and its
    error unless the two's own is the larger."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; what is not finite is None."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }


def bootstrap_difference(
    gold: np.ndarray, a: np.ndarray, b: np.ndarray, *, resamples: int = 1000, seed: int = 0
) -> np.ndarray:
    """Differences of two methods' mean Spearman on `resamples` draws of the pairs, in points, (resamples,).

    Args:
        gold: (n,) human scores.
        a: (k, n) cosines of the n pairs under the k runs of one method.
        b: (m, n) likewise, of the other.
    """
    a, b = np.atleast_2d(a), np.atleast_2d(b)
    if a.shape[1] != len(gold) or b.shape[1] != len(gold) or len(gold) < 3:
        raise ValueError(f"cosines of shapes {a.shape} and {b.shape} for {len(gold)} pairs (at least 3)")
    generator = np.random.default_rng(seed)
    n = len(gold)
    step = max(1, _BLOCK // n)
    found = []
    for start in range(0, resamples, step):
        rows = generator.integers(n, size=(min(step, resamples - start), n))
        # Ranking is what costs, and the drawn grades are ranked once for all runs.
        ranks = stats.rankdata(gold[rows], axis=1)
        means = [np.mean([spearman(values[rows], ranks) for values in runs], axis=0) for runs in (a, b)]
        found.append(100 * (means[0] - means[1]))
    return np.concatenate(found)


@dataclass(frozen=True)
class Scatter:
    """How far runs vary beyond what their method and their seed explain."""

    counted: Mapping[str, str]
    """Method -> the method that it was counted as: itself, or one that it is all but a copy of. Only those that
    scatter alike."""
    variance: float
    """Of one run, in points squared."""
    freedom: int
    """Degrees of freedom of the variance."""

    def tells(self, a: str, b: str) -> bool:
        """Whether this is how two methods scatter against each other: not of a method and its near copy."""
        return a in self.counted and b in self.counted and self.counted[a] != self.counted[b]

    def copies(self, a: str, b: str) -> bool:
        """Whether they are all but one run."""
        return a in self.counted and self.counted[a] == self.counted.get(b)


def scatter(runs: Mapping[str, Mapping[int | None, float]]) -> Scatter | None:
    """The residual variance of the two-way layout methods x seeds: score = method + seed + residual.

    It takes methods to scatter independently and alike, and sees to both. A method that is nearly the same run as
    another (a weight too small to be felt, say: in every seed within a quarter of the scatter) is counted with it,
    once, for copies would make the scatter small and sure. Those whose residuals are too large are set aside by
    Cochran's test at 5 %, which ISO 5725-2 uses for laboratories; up to half of them, and as in Rosner's test for
    outliers (1983) one that fails only after larger ones are gone takes those with it, so that two cannot hide each
    other.

    Two seeds do not always show it where one method varies several times as much as others: simulated, its interval
    then holds the truth in 82 to 90 of 100 cases. Where all vary alike it is 95 and more.

    Args:
        runs: method -> seed -> score in points. Runs without a seed, methods with one run, and scores that are not
            finite tell nothing here.

    Returns:
        None where nothing is left to estimate it from.
    """
    seeded = {
        name: {seed: score for seed, score in each.items() if seed is not None and math.isfinite(score)}
        for name, each in runs.items()
    }
    seeded = {name: each for name, each in seeded.items() if len(each) >= 2}
    counted = {name: name for name in seeded}
    while True:
        found = _scatter_of({name: seeded[name] for name in dict.fromkeys(counted.values())})
        if found is None:
            return None
        # Copies make the scatter look small, so that those counted as one at first show further ones.
        near = _near(seeded, _NEAR * math.sqrt(found.variance), counted)
        if near == counted:
            kept = {name: one for name, one in counted.items() if one in found.counted}
            return Scatter(kept, found.variance, found.freedom)
        counted = near


def _near(runs: Mapping[str, Mapping[int, float]], reach: float, counted: Mapping[str, str]) -> dict[str, str]:
    """`counted`, with methods joined that agree to `reach` in all (at least two) common seeds, through a chain too."""
    joined, order = dict(counted), {name: i for i, name in enumerate(runs)}
    for a, b in itertools.combinations(runs, 2):
        common = runs[a].keys() & runs[b].keys()
        if len(common) >= 2 and all(abs(runs[a][seed] - runs[b][seed]) <= reach for seed in common):
            new, old = sorted((joined[a], joined[b]), key=lambda name: (-len(runs[name]), order[name]))
            joined = {name: new if one == old else one for name, one in joined.items()}
    return joined


def _scatter_of(runs: Mapping[str, Mapping[int, float]]) -> Scatter | None:
    squares, _ = _residual_squares(runs)
    # A method of seeds of its own tells nothing.
    alike = kept = {name: runs[name] for name, (_, own) in squares.items() if own}
    while len(kept) >= 3 and 2 * len(kept) > len(runs):
        squares, _ = _residual_squares(kept)
        means = {name: square / own if own else 0.0 for name, (square, own) in squares.items()}
        largest = max(means, key=means.__getitem__)
        own = float(np.mean([len(each) - 1 for each in kept.values()]))
        too_large = means[largest] > sum(means.values()) * _cochran(len(kept), own)
        kept = {name: each for name, each in kept.items() if name != largest}
        if too_large:
            alike = kept
    if len(alike) < 2:
        return None
    squares, freedom = _residual_squares(alike)
    if freedom < 1:
        return None
    return Scatter({name: name for name in alike}, sum(square for square, _ in squares.values()) / freedom, freedom)


def _residual_squares(runs: Mapping[str, Mapping[int, float]]) -> tuple[dict[str, tuple[float, float]], int]:
    """Method -> (sum of its squared residuals from the least-squares fit of method + seed, its share of the degrees of
    freedom), and these degrees.
    """
    methods = {name: i for i, name in enumerate(runs)}
    seeds = {seed: len(methods) + i for i, seed in enumerate(dict.fromkeys(s for each in runs.values() for s in each))}
    cells = [(name, seed) for name, each in runs.items() for seed in each]
    scores = np.round([runs[name][seed] for name, seed in cells], EXACT)
    layout = np.zeros((len(cells), len(methods) + len(seeds)))
    for i, (name, seed) in enumerate(cells):
        layout[i, [methods[name], seeds[seed]]] = 1
    free = np.eye(len(cells)) - layout @ np.linalg.pinv(layout)
    # Where no run varies, what is left is the order of additions.
    residuals = np.round(free @ scores, EXACT)
    found = dict.fromkeys(runs, (0.0, 0.0))
    for (name, _), residual, own in zip(cells, residuals, np.round(np.diag(free), EXACT), strict=True):
        found[name] = (found[name][0] + float(residual**2), found[name][1] + float(own))
    return found, round(float(np.trace(free)))


def _cochran(groups: int, freedom: float) -> float:
    """Critical share of the largest of `groups` variances, each of `freedom`, in their sum (Cochran 1941)."""
    f = float(stats.f.isf(_OUTLIER / groups, freedom, freedom * (groups - 1)))
    return 1 / (1 + (groups - 1) / f)


def effect(
    a: Mapping[int | None, float],
    b: Mapping[int | None, float],
    draws: np.ndarray | None = None,
    among: Scatter | None = None,
    copies: bool = False,
) -> Effect:
    """`a` minus `b`: scores in points by seed, and the bootstrap's `draws` of the same difference, if there are any.

    Runs are paired by seed where at least two seeds are common; the others then count in neither mean, so that the
    difference is of like with like.

    Args:
        among: the scatter of a table that both methods are of, and which tells of them. Counts where they have 2 to
            `FEW` seeds in common, and where it is the larger error.
        copies: whether a table says that the two are all but one run. Of so few seeds their differences, which may
            agree by luck, then count as error by their size too.

    Raises `ValueError` where a method has no run.
    """
    if not a or not b:
        raise ValueError("an effect needs at least one run of each method")
    common = sorted(seed for seed in a.keys() & b.keys() if seed is not None)
    error_seeds = p = None
    freedom, pooled = math.inf, False
    if len(common) >= 2:
        each = np.round([a[seed] - b[seed] for seed in common], EXACT)
        difference = float(each.mean())
        error_seeds, freedom = float(each.std(ddof=1) / math.sqrt(len(each))), len(each) - 1.0
        if copies and len(common) <= FEW:
            error_seeds = max(error_seeds, float(np.sqrt(np.mean(each**2))))
        elif among is not None and len(common) <= FEW:
            pooled = len({*among.counted.values()}) > 2
            # The larger of the two errors: methods that vary more than the rest are not always found out.
            error_seeds = max(error_seeds, math.sqrt(2 * among.variance / len(each)))
            freedom = float(among.freedom)
    else:
        one, other = (np.round(list(scores.values()), EXACT) for scores in (a, b))
        difference = float(one.mean() - other.mean())
        if len(one) >= 2 and len(other) >= 2:
            parts = [values.var(ddof=1) / len(values) for values in (one, other)]
            error_seeds = float(math.sqrt(sum(parts)))
            scale = sum(part**2 / (len(values) - 1) for part, values in zip(parts, (one, other), strict=True))
            freedom = sum(parts) ** 2 / scale if scale else math.inf
    if error_seeds is not None:
        p = _two_sided(difference, error_seeds, freedom)
    error_pairs = None if draws is None else float(np.std(draws, ddof=1))
    low, high, probability = _interval(difference, error_seeds, freedom, error_pairs)
    return Effect(
        difference=difference,
        low=low,
        high=high,
        probability=probability,
        error_pairs=error_pairs,
        error_seeds=error_seeds,
        p_seeds=p,
        seeds=len(common) if len(common) >= 2 else 0,
        pooled=pooled,
    )


def spread(scores: Sequence[float]) -> dict[str, Any]:
    """Mean and standard deviation over seeds (None for one), in the scores' unit."""
    values = np.asarray(scores, dtype=np.float64)
    return {"mean": float(values.mean()), "sd": float(values.std(ddof=1)) if len(values) > 1 else None}


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
        # With two or three seeds the pairs' known error lends its degrees of freedom to the seeds' unknown one: what
        # is learnt besides must not make the whole surer than the seeds alone.
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
    """"best" (by its dev score) or "held_out" (by its score on held-out text), "last" (after the last step), or "given"
    (where nobody says which)."""
    scores: dict[str, float]
    """Set -> points."""
    cosines: dict[str, np.ndarray]
    """Set -> (n,) cosines of its pairs, for those sets where they are known."""


def compare_methods(
    runs: Sequence[Run],
    gold: Mapping[str, np.ndarray],
    *,
    baseline: str | None = None,
    kinds: Mapping[str, str] | None = None,
    resamples: int = 1000,
) -> dict[str, Any]:
    """Every method against `baseline` (the first method if not given), on every set and on their average.

    Args:
        gold: set -> (n,) human scores, for sets whose runs carry cosines.
        kinds: set -> what its score is. Sets of different kinds have no average together, each kind has its own.

    Of three methods or more with two or three common seeds, `scatter` tells how far runs vary, set by set.

    Returns:
        Plain JSON values: `methods`, `baseline`, and for each checkpoint `sets`, `headlines` (the averages, and sets
        that are in none), `methods` (mean, sd, values by seed) and `effects`.

    Raises `ValueError` on an unknown baseline, or two runs of one method with the same seed and checkpoint.
    """
    methods = list(dict.fromkeys(run.method for run in runs))
    baseline = methods[0] if baseline is None else baseline
    if baseline not in methods:
        raise ValueError(f"no run of the baseline {baseline!r}; there are: {', '.join(methods)}")
    checkpoints = {}
    for checkpoint in ("best", "held_out", "last", "given"):
        there = [run for run in runs if run.checkpoint == checkpoint]
        if there:
            checkpoints[checkpoint] = _compare_one(there, methods, gold, baseline, kinds or {}, resamples)
    return {"methods": methods, "baseline": baseline, "resamples": resamples, "checkpoints": checkpoints}


AVERAGE = "average"
"""The name under which the mean over all sets stands beside them; that of one kind of several is "average KIND"."""


def _compare_one(
    runs: Sequence[Run],
    methods: list[str],
    gold: Mapping[str, np.ndarray],
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
    parts = {one: [one] for one in sets} | averages
    rows: list[dict[str, Any]] = []
    seeded: dict[str, dict[str, dict[int | None, float]]] = {one: {} for one in parts}
    for name, each in by_method.items():
        scores: dict[str, Any] = {}
        for one, names in parts.items():
            values = [float(np.mean([run.scores[part] for part in names])) for run in each]
            scores[one] = {**spread(values), "values": values}
            seeded[one][name] = {run.seed: value for run, value in zip(each, values, strict=True)}
        rows.append({"method": name, "seeds": [run.seed for run in each], "scores": scores})
    among = {one: scatter(methods) for one, methods in seeded.items()}
    effects = []
    for name, each in by_method.items():
        if name != baseline and baseline in by_method:
            found = _effects(each, by_method[baseline], sets, averages, gold, among, resamples)
            effects.append({"method": name, "against": baseline, "sets": found})
    averaged = {one for names in averages.values() for one in names}
    headlines = [one for one in parts if one not in averaged]
    return {"sets": [*parts], "headlines": headlines, "methods": rows, "effects": effects}


def _effects(
    ours: Sequence[Run],
    theirs: Sequence[Run],
    sets: list[str],
    averages: Mapping[str, list[str]],
    gold: Mapping[str, np.ndarray],
    among: Mapping[str, Scatter | None],
    resamples: int,
) -> dict[str, Any]:
    common = {run.seed for run in ours} & {run.seed for run in theirs} - {None}
    if len(common) >= 2:
        ours, theirs = ([run for run in runs if run.seed in common] for runs in (ours, theirs))
    found: dict[str, Any] = {}
    pair = (ours[0].method, theirs[0].method)
    all_draws = {}
    for number, name in enumerate(sets):
        draws = None
        if name in gold and all(name in run.cosines for run in (*ours, *theirs)):
            a, b = (np.stack([run.cosines[name] for run in runs]) for runs in (ours, theirs))
            draws = bootstrap_difference(gold[name], a, b, resamples=resamples, seed=number)
            all_draws[name] = draws
        found[name] = effect(
            _by_seed(ours, name), _by_seed(theirs, name), draws, **together(among[name], *pair)
        ).to_dict()
    for average, names in averages.items():
        # Sets are drawn independently of each other, so the mean of their draws is a draw of their mean.
        draws = np.mean([all_draws[one] for one in names], axis=0) if all_draws.keys() >= set(names) else None
        means = [
            {seed: float(np.mean([values[name] for name in names])) for seed, values in _all_by_seed(runs).items()}
            for runs in (ours, theirs)
        ]
        found[average] = effect(means[0], means[1], draws, **together(among[average], *pair)).to_dict()
    return found


def together(among: Scatter | None, a: str, b: str) -> dict[str, Any]:
    """What `effect` is to know of the table that `a` and `b` are of."""
    if among is None:
        return {}
    return {"among": among if among.tells(a, b) else None, "copies": among.copies(a, b)}


def _averages(sets: list[str], kinds: Mapping[str, str]) -> dict[str, list[str]]:
    """Name of an average -> the sets, two or more of one kind, that it is of."""
    by_kind: dict[str, list[str]] = {}
    for name in sets:
        by_kind.setdefault(kinds.get(name, ""), []).append(name)
    return {
        AVERAGE if len(by_kind) == 1 else f"{AVERAGE} {kind}": names
        for kind, names in by_kind.items()
        if len(names) > 1
    }


def _by_seed(runs: Sequence[Run], name: str) -> dict[Any, float]:
    return {key: values[name] for key, values in _all_by_seed(runs).items()}


def _all_by_seed(runs: Sequence[Run]) -> dict[Any, dict[str, float]]:
    """Scores by seed; runs without one are told apart by method and place, and so pair with nothing."""
    return {((run.method, i) if run.seed is None else run.seed): run.scores for i, run in enumerate(runs)}
