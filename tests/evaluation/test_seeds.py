"""Effects over pairs and seeds: against loops and scipy, and whether intervals hold the truth as often as they say."""

import math

import numpy as np
import pytest
from scipy import stats

from diffcse.evaluation.seeds import (
    AVERAGE,
    Run,
    bootstrap_difference,
    compare_methods,
    effect,
    excludes_zero,
    spread,
    verdict,
)


def test_draws_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 6, size=30) / 2
    a, b = rng.normal(size=(3, 30)) + gold, rng.normal(size=(2, 30))
    found = bootstrap_difference(gold, a, b, resamples=50, seed=4)
    rows = np.random.default_rng(4).integers(30, size=(50, 30))

    def mean(runs, draw):
        return np.mean([100 * stats.spearmanr(values[draw], gold[draw])[0] for values in runs])

    assert found == pytest.approx([mean(a, draw) - mean(b, draw) for draw in rows])


FOUR = {1: 63.0, 2: 65.0, 3: 64.0, 4: 66.5}, {1: 62.0, 2: 64.5, 3: 62.0, 4: 65.0}


def test_runs_of_one_seed_are_paired():
    a, b = FOUR[0] | {9: 0.0}, dict(reversed(FOUR[1].items()))
    found = effect(a, b)
    test = stats.ttest_rel([*FOUR[0].values()], [*FOUR[1].values()])
    interval = test.confidence_interval(0.95)
    assert found.difference == pytest.approx(1.25)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.p_seeds == pytest.approx(test.pvalue)
    assert found.probability == pytest.approx(1 - test.pvalue / 2)
    assert (found.seeds, found.error_pairs) == (4, None)


@pytest.mark.parametrize("common", [0, 3])
def test_other_seeds_are_compared_by_welch(common):
    a, b = [63.0, 65.0, 64.5, 61.0, 64.0], [62.5, 64.0, 63.0, 64.5]
    found = effect(dict(enumerate(a)), {i if i < common else i + 9: score for i, score in enumerate(b)})
    test = stats.ttest_ind(a, b, equal_var=False)
    interval = test.confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert (found.p_seeds, found.seeds) == (pytest.approx(test.pvalue), 0)


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_fewer_than_four_seeds_tell_no_spread(seeds):
    a, b = ({seed: score for seed, score in each.items() if seed <= seeds} for each in FOUR)
    found = effect(a, b)
    assert found.difference == pytest.approx(np.mean([a[seed] - b[seed] for seed in a]))
    assert math.isnan(found.low)
    assert (found.error_seeds, found.p_seeds, verdict(found)) == (None, None, None)
    assert effect(FOUR[0], b).error_seeds is None
    assert effect(FOUR[0], b).difference == pytest.approx(found.difference if seeds > 1 else 64.625 - 62)


def test_the_rule_for_a_clear_difference():
    clear = effect(*FOUR)
    assert clear.low > 0
    assert (verdict(clear), verdict(clear, lower_is_better=True)) == ("better", "worse")
    assert verdict(effect(FOUR[1], FOUR[0])) == "worse"
    assert verdict(effect(FOUR[0] | {4: 60.0}, FOUR[1])) == "tie"
    tiny = effect({seed: 0.004 + seed * 1e-5 for seed in range(4)}, dict.fromkeys(range(4), 0.0))
    assert tiny.low > 0
    assert (verdict(tiny), verdict(tiny, digits=3)) == ("tie", "better"), "it would read +0.00 better"
    pairs = effect({1: 64.0}, {1: 60.0}, np.random.default_rng(0).normal(size=100))
    assert pairs.low > 0
    assert verdict(pairs) is None, "one seed, however sure of the pairs"
    assert [excludes_zero(1, 2), excludes_zero(-2, -1), excludes_zero(-1, 1)] == ["better", "worse", "tie"]


def test_one_seed_leaves_the_pairs_alone():
    draws = np.random.default_rng(0).normal(1.0, 2.0, size=1000)
    found = effect({1: 64.0}, {1: 63.0}, draws)
    error = draws.std(ddof=1)
    assert (found.low, found.high) == pytest.approx((1 - 1.959964 * error, 1 + 1.959964 * error))
    assert found.probability == pytest.approx(stats.norm.cdf(1 / error))
    assert (found.error_seeds, found.p_seeds) == (None, None)


def test_without_seeds_and_pairs_nothing_is_claimed():
    found = effect({1: 64.0}, {1: 63.0}).to_dict()
    assert found["difference"] == 1
    assert (found["low"], found["high"], found["probability"], found["p_seeds"]) == (None,) * 4
    with pytest.raises(ValueError, match="at least one run"):
        effect({}, {1: 1.0})


def test_both_errors_add():
    draws = np.random.default_rng(0).normal(size=4000)
    a, b = FOUR
    found = effect(a, b, draws)
    each = np.array([1.0, 0.5, 2.0, 1.5])
    seeds, pairs = each.std(ddof=1) / math.sqrt(4), draws.std(ddof=1)
    error = math.sqrt(seeds**2 + pairs**2)
    reach = stats.t(3 * error**4 / seeds**4).ppf(0.975) * error
    assert (found.low, found.high) == pytest.approx((each.mean() - reach, each.mean() + reach))
    alone = effect(a, b)
    assert found.p_seeds == alone.p_seeds


def test_no_difference_at_all_is_no_knowledge():
    same = dict.fromkeys(range(4), 60.0)
    found = effect(same, same, np.zeros(100))
    assert (found.difference, found.low, found.high, found.probability) == (0, 0, 0, 0.5)
    alike = effect(dict.fromkeys(range(4), 61.0), same)  # seeds in coarse steps: luck cannot be told
    assert alike.difference == 1
    assert all(math.isnan(x) for x in (alike.low, alike.high, alike.probability, alike.p_seeds))
    assert verdict(alike) is None


def test_the_last_bits_of_equal_scores_are_no_luck():
    one, other = 92.86085363702821, 92.86085363702823
    assert one != other
    bits = dict(enumerate([one, other, one, other]))
    for b in (dict.fromkeys(range(4), 92.0), dict.fromkeys(range(10, 14), 92.0)):
        found = effect(bits, b)
        assert found.difference == pytest.approx(one - 92)
        assert math.isnan(found.low)
        assert math.isnan(found.probability)
    same = effect(bits, {seed: bits[seed ^ 1] for seed in bits})
    assert (same.difference, same.low, same.high, same.probability) == (0, 0, 0, 0.5)


@pytest.mark.parametrize("seeds", [1, 4])
def test_the_interval_holds_the_truth_as_often_as_it_says(seeds):
    """Simulated methods with rho .6 and .5: each seed shifts a run, each draw of pairs all of them."""
    rng = np.random.default_rng(seeds)
    rho = (0.6, 0.5)
    # A run's noise: half its own, half shared with the other method's run of the same seed. With one seed the truth
    # that can be asked for is that run's own; with several, the method's.
    truth = 100 * 6 / math.pi * (math.asin(rho[0] / 2) - math.asin(rho[1] / 2))
    covered = 0
    trials = 120
    for trial in range(trials):
        gold = rng.normal(size=120)
        shift = rng.normal(size=(2, seeds)) * (0.02 if seeds > 1 else 0)
        runs = []
        for r, shifts in zip(rho, shift, strict=True):
            each = []
            for s in shifts:
                q = r + s
                each.append(q * gold + math.sqrt(1 - q * q) * rng.normal(size=120))
            runs.append(np.stack(each))
        scores = [{k: 100 * stats.spearmanr(v, gold)[0] for k, v in enumerate(each)} for each in runs]
        draws = bootstrap_difference(gold, *runs, resamples=100, seed=trial)
        found = effect(*scores, draws)
        covered += found.low <= truth <= found.high
    # 95 % of 120 is 114. Adding the errors errs on the safe side, as the seeds' spread holds some of the pairs' luck.
    assert covered >= 108
    if seeds == 1:
        assert covered <= 119


@pytest.mark.parametrize("seeds", [4, 5])
def test_pairs_scored_besides_never_make_the_seeds_surer(seeds):
    rng = np.random.default_rng(seeds)
    held = 0
    for _ in range(400):
        # No true difference: the pairs' luck is shared by all seeds, and a fourth of the seeds'.
        draws = rng.normal(size=200)
        shared = rng.normal()
        ours = {seed: shared + 4 * rng.normal() for seed in range(seeds)}
        theirs = dict.fromkeys(ours, 0.0)
        alone, both = effect(ours, theirs), effect(ours, theirs, draws)
        assert both.low <= alone.low + 1e-9
        assert both.high >= alone.high - 1e-9
        assert both.probability <= alone.probability + 1e-9
        held += both.low <= 0 <= both.high
    assert held >= 370  # 92.5 %


def made(method, seed, value, checkpoint="last", rng=None):
    rng = rng or np.random.default_rng(abs(hash((method, seed))) % 2**32)
    return Run(method, seed, checkpoint, {"A": value, "B": value / 2}, {"A": rng.normal(size=20)})


def test_methods_by_seeds():
    gold = {"A": np.arange(20.0)}
    runs = [made("base", s, 60.0 + s) for s in (1, 2)] + [made("ours", s, 62.0 + s) for s in (1, 2, 3)]
    found = compare_methods(runs, gold, resamples=100)
    (checkpoint,) = found["checkpoints"].values()
    assert (found["baseline"], found["methods"], checkpoint["sets"]) == ("base", ["base", "ours"], ["A", "B", AVERAGE])
    base = checkpoint["methods"][0]
    assert base["seeds"] == [1, 2]
    assert base["scores"]["A"] == {"mean": 61.5, "sd": None, "values": [61.0, 62.0]}
    assert base["scores"][AVERAGE]["mean"] == pytest.approx(61.5 * 0.75)
    (each,) = checkpoint["effects"]
    assert each["sets"]["A"]["difference"] == 2  # seed 3 has no partner
    assert each["sets"]["A"]["error_pairs"] > 0
    assert each["sets"]["B"]["error_pairs"] is None
    assert each["sets"][AVERAGE]["error_pairs"] is None  # the pairs of one set are not known
    assert [one["verdict"] for one in each["sets"].values()] == [None] * 3
    assert found == compare_methods(runs, gold, resamples=100)


def test_every_difference_has_its_verdict():
    runs = [
        Run(name, seed, "last", {"A": 50.0 + gain + seed}, {})
        for name, gain in (("base", 0), ("ours", 1))
        for seed in range(4)
    ]
    runs[-1].scores["A"] += 0.1
    (part,) = compare_methods(runs, {})["checkpoints"].values()
    found = part["effects"][0]["sets"]["A"]
    by_seed = [{run.seed: run.scores["A"] for run in each} for each in (runs[4:], runs[:4])]
    assert found == effect(*by_seed).to_dict() | {"verdict": "better"}


def test_runs_that_know_no_seed_pair_with_nothing():
    runs = [Run("a", None, "given", {"A": value}, {}) for value in (50.0, 51.0, 52.0, 53.0)]
    runs += [Run("b", None, "given", {"A": value}, {}) for value in (51.0, 52.0, 53.0, 53.5)]
    (part,) = compare_methods(runs, {})["checkpoints"].values()
    found = part["effects"][0]["sets"]["A"]
    assert found["seeds"] == 0
    assert found["p_seeds"] == pytest.approx(
        stats.ttest_ind([51, 52, 53, 53.5], [50, 51, 52, 53], equal_var=False).pvalue
    )


def test_checkpoints_stay_apart_and_mistakes_are_named():
    runs = [made("a", 1, 1.0, "best"), made("b", 1, 2.0, "best"), made("a", 1, 3.0), made("b", 1, 4.0)]
    found = compare_methods(runs, {}, baseline="b")
    assert list(found["checkpoints"]) == ["best", "last"]
    assert found["checkpoints"]["best"]["effects"][0]["sets"]["A"]["difference"] == -1
    with pytest.raises(ValueError, match="no run of the baseline 'c'; there are: a, b"):
        compare_methods(runs, {}, baseline="c")
    with pytest.raises(ValueError, match="a: two runs with the same seed"):
        compare_methods([made("a", 1, 1.0), made("a", 1, 2.0)], {})


def test_spread():
    assert spread([3.0]) == {"mean": 3.0, "sd": None}
    assert spread([1.0, 3.0, 2.0]) == {"mean": 2.0, "sd": None}
    assert spread([1.0, 3.0, 1.0, 3.0])["sd"] == pytest.approx(math.sqrt(4 / 3))
