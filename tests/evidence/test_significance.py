"""Statistics against scipy, deepsig and simulation."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from clfa.evidence.compare import gap_of
from clfa.evidence.power import detectable_accuracy, detectable_difference, mcnemar_power
from clfa.evidence.results import Gap
from clfa.evidence.significance import (
    Paired,
    almost_stochastic_order,
    bca_interval,
    bootstrap_p,
    mcnemar,
    paired_bootstrap,
    system_difference,
    verdict,
)
from clfa.metrics import Runs, Score, holm, is_claim, nll_difference, scores


def answers(generator, truth, accuracy, runs=1, classes=3):
    """(runs, N) predictions that are right with this probability."""
    right = generator.random((runs, len(truth))) < accuracy
    wrong = (truth + generator.integers(1, classes, (runs, len(truth)))) % classes
    return np.where(right, truth, wrong)


def test_bca_is_scipys():
    generator = np.random.default_rng(0)
    sample = generator.exponential(size=80)
    draws = np.array([np.mean(generator.choice(sample, 80)) ** 2 for _ in range(2000)])
    left_out = np.array([np.mean(np.delete(sample, number)) ** 2 for number in range(80)])
    given = stats.bootstrap(
        (sample,),
        lambda values, axis=-1: np.mean(values, axis=axis) ** 2,
        method="BCa",
        n_resamples=0,
        bootstrap_result=stats._resampling.BootstrapResult(
            confidence_interval=None, bootstrap_distribution=draws, standard_error=None
        ),
    )
    found = bca_interval(np.mean(sample) ** 2, draws, left_out, np.ones(80))
    assert found == pytest.approx(tuple(given.confidence_interval), abs=1e-12)


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "weighted_f1"])
def test_paired_bootstrap_is_scipys(metric):
    """The same interval as scipy's own paired BCa bootstrap on posts, up to the luck of the draws."""
    generator = np.random.default_rng(1)
    truth = generator.integers(0, 3, 200)
    first, second = answers(generator, truth, 0.6, 2), answers(generator, truth, 0.7, 3)

    def difference(rows):
        rows = rows.astype(int)
        matrices = np.zeros((5, 3, 3))
        for number, run in enumerate([*first, *second]):
            np.add.at(matrices[number], (truth[rows], run[rows]), 1)
        found = scores(matrices)[metric]
        return found[2:].mean() - found[:2].mean()

    theirs = stats.bootstrap(
        (np.arange(200),), difference, vectorized=False, n_resamples=4000, method="BCa", random_state=0
    )
    ours = paired_bootstrap(truth, first, second, 3, metric, resamples=40_000)
    assert ours.value == pytest.approx(difference(np.arange(200)), abs=1e-12)
    assert ours.ci95 == pytest.approx(tuple(theirs.confidence_interval), abs=0.006)
    assert ours.draws.std() == pytest.approx(theirs.standard_error, rel=0.05)


def test_difference_is_scikit_learns():
    generator = np.random.default_rng(2)
    truth = generator.integers(0, 3, 300)
    first, second = answers(generator, truth, 0.6), answers(generator, truth, 0.7)
    expected = f1_score(truth, second[0], average="macro") - f1_score(truth, first[0], average="macro")
    assert paired_bootstrap(truth, first, second, 3, "macro_f1", 100).value == pytest.approx(expected, abs=1e-12)


def test_equal_systems_differ_by_nothing():
    truth = np.array([0, 1] * 20)
    run = answers(np.random.default_rng(3), truth, 0.7, classes=2)
    found = paired_bootstrap(truth, run, run, 2, "accuracy", 500)
    assert (found.value, found.ci95) == (0, (0, 0))
    assert bootstrap_p(found.draws) == 1


@pytest.mark.parametrize(("discordant", "expected"), [(0.05, 0.55), (0.10, 0.31), (0.15, 0.24)])
def test_known_power(discordant, expected):
    assert mcnemar_power(2409, 0.01, discordant) == pytest.approx(expected, abs=0.015)


def test_power_of_two_points():
    assert mcnemar_power(2409, 0.02, 0.10) == pytest.approx(0.87, abs=0.015)
    size = detectable_accuracy(2409, 0.10)
    assert size is not None
    assert mcnemar_power(2409, size, 0.10) == pytest.approx(0.8, abs=0.005)
    assert detectable_accuracy(20, 0.05) is None
    assert mcnemar_power(500, 0.0, 0.1) <= 0.05


def test_power_is_how_often_the_test_rejects():
    generator = np.random.default_rng(4)
    rejected = 0
    for _ in range(400):
        kinds = generator.choice(3, size=300, p=[0.8, 0.14, 0.06])  # 20 % discordant, 8 points
        truth = np.zeros(300, dtype=int)
        rejected += mcnemar(truth, (kinds == 2).astype(int), (kinds == 1).astype(int))[2] <= 0.05
    assert rejected / 400 == pytest.approx(mcnemar_power(300, 0.08, 0.2), abs=0.06)


def test_detectable_difference():
    draws = np.random.default_rng(5).normal(0, 0.01, 20_000)
    assert detectable_difference(draws) == pytest.approx((1.959964 + 0.841621) * 0.01, rel=0.03)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5]) == [0.5]
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@pytest.mark.parametrize("seed", range(8))
def test_aso_is_deepsigs(seed):
    from deepsig import aso

    generator = np.random.default_rng(seed)
    better, worse = generator.normal(0.02 * seed, 0.06, 5 + seed), generator.normal(0, 0.05, 6)
    expected = aso(better, worse, confidence_level=0.95, num_bootstrap_iterations=4000, show_progress=False, seed=0)
    assert almost_stochastic_order(better, worse, resamples=4000) == pytest.approx(expected, abs=0.05)


def test_aso_at_its_ends():
    assert almost_stochastic_order(np.array([3.0, 4, 5]), np.array([0.0, 1, 2])) == 0
    assert almost_stochastic_order(np.array([0.0, 1, 2]), np.array([3.0, 4, 5])) == 1
    assert almost_stochastic_order(np.ones(4), np.ones(4)) == 0.5


@pytest.mark.slow
def test_coverage_of_the_interval():
    """A 95 % interval holds the true difference in 93-97 % of 1,000 simulations."""
    generator = np.random.default_rng(6)
    inside = 0
    for number in range(1000):
        truth = generator.integers(0, 2, 400)
        first, second = (answers(generator, truth, accuracy, classes=2) for accuracy in (0.75, 0.80))
        low, high = paired_bootstrap(truth, first, second, 2, "accuracy", 1000, seed=number).ci95
        inside += low - 1e-9 <= 0.05 <= high + 1e-9  # bounds are multiples of 1 / 400
    assert 0.93 <= inside / 1000 <= 0.97


def test_system_difference_by_hand():
    """Without a part from posts it is Student's t test, paired or Welch's."""
    first, second = np.array([0.61, 0.64, 0.60, 0.66, 0.63]), np.array([0.66, 0.65, 0.67, 0.70, 0.64])
    sides = [Runs(values, np.tile(values, (100, 1))) for values in (first, second)]
    difference = Paired((second - first).mean(), (0.0, 0.0), *sides)
    paired = system_difference(difference, paired=True)
    expected = stats.ttest_rel(second, first)
    assert paired.p == pytest.approx(expected.pvalue)
    assert paired.ci95 == pytest.approx(tuple(expected.confidence_interval()))
    apart = system_difference(difference, paired=False)
    expected = stats.ttest_ind(second, first, equal_var=False)
    assert apart.p == pytest.approx(expected.pvalue)
    assert apart.ci95 == pytest.approx(tuple(expected.confidence_interval()))


def simulated(
    generator, posts: int, runs: int, quality: float, gain: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and predictions of two systems: runs differ in quality, posts in difficulty, alike for both; `gain` is the
    second system's true lead in accuracy, at 0.70."""
    labels = np.arange(posts) % 2
    difficulty, scale = generator.normal(size=posts), (2 + quality**2) ** 0.5
    sides = []
    for accuracy in (0.7, 0.7 + gain):
        own = quality * generator.normal(size=(runs, 1)) + generator.normal(size=(runs, posts))
        right = stats.norm.ppf(accuracy) * scale + difficulty + own > 0
        sides.append(np.where(right, labels, 1 - labels))
    return labels, *sides


@pytest.mark.slow
@pytest.mark.parametrize(("runs", "quality"), [(1, 0.0), (5, 0.0), (5, 0.06)])
def test_power_and_level_of_the_rule(runs, quality):
    """The one rule claims 4-6 % of differences that are none, and at least 75 % of those of the size that it prints as
    detectable (with 80 % power). The scatter of runs cannot be seen in one run, so its verdict is about the runs."""
    generator = np.random.default_rng([runs, int(100 * quality)])

    def claimed(gain: float, count: int) -> tuple[float, float]:
        claims, detectable = 0, []
        for _ in range(count):
            labels, first, second = simulated(generator, 500, runs, quality, gain)
            gap = gap_of(labels, first, second, 2, "accuracy", paired=True, resamples=500)
            claims += is_claim(gap.difference, gap.p)
            detectable.append(gap.detectable)
        return claims / count, float(np.median(detectable))

    level, detectable = claimed(0.0, 2500)
    assert 0.04 <= level <= 0.06
    power, _ = claimed(detectable, 400)
    assert power >= 0.75


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.0, 0.02])
def test_type_one_error_over_five_seeds(spread):
    """Equal systems whose runs scatter are called different in at most 6 % of 500 simulations."""
    generator = np.random.default_rng(8)
    rejected = 0
    for number in range(500):
        truth = generator.integers(0, 2, 500)
        first, second = (
            np.concatenate([answers(generator, truth, 0.7 + spread * generator.normal(), classes=2) for _ in range(5)])
            for _ in range(2)
        )
        found = paired_bootstrap(truth, first, second, 2, "accuracy", 300, seed=number)
        rejected += system_difference(found, paired=True).p <= 0.05
    assert rejected / 500 <= 0.06


@pytest.mark.slow
def test_type_one_error():
    """Systems that are equally good are called different in at most 6 % of 1,000 simulations, by either test."""
    generator = np.random.default_rng(7)
    by_interval = by_mcnemar = 0
    for number in range(1000):
        truth = generator.integers(0, 3, 400)
        first, second = (answers(generator, truth, 0.7) for _ in range(2))
        low, high = paired_bootstrap(truth, first, second, 3, "macro_f1", 1000, seed=number).ci95
        by_interval += low > 0 or high < 0
        by_mcnemar += mcnemar(truth, first[0], second[0])[2] <= 0.05
    assert by_interval / 1000 <= 0.06
    assert by_mcnemar / 1000 <= 0.06


@pytest.mark.parametrize(
    ("low", "high", "p", "expected"),
    [
        (-0.01, 0.05, 0.2, False),
        (-0.01, 0.05, 0.01, False),
        (0.01, 0.05, 0.01, True),
        (0.001, 0.041, 0.049, True),  # below what is found with 80 % power, and found all the same
        (0.01, 0.05, 0.06, False),
        (-0.05, -0.01, 0.05, True),
        (0.0, 0.0, 0.0, False),
    ],
)
def test_the_one_rule(low, high, p, expected):
    """A difference is claimed if its interval excludes 0 and p (Holm) is at most 0.05; nothing else is asked."""
    assert is_claim(Score((low + high) / 2, low, high), p) is expected


def test_verdicts_in_words():
    def gap(value: float, low: float, high: float, p: float) -> Gap:
        score = Score(value, low, high)
        return Gap(score, "posts", [low, high], p, p, 0.05, is_claim(score, p))

    better = gap(0.03, 0.01, 0.05, 0.01)
    assert verdict("a", "b", "macro_f1", better, 5) == "a is better than b: +3.0 [+1.0, +5.0] points of macro F1."
    few = (
        "in these runs a is better than b: +3.0 [+1.0, +5.0] points of macro F1; a claim about the systems needs 5 runs"
    )
    assert verdict("a", "b", "macro_f1", better, 2).startswith(few)
    assert verdict("a", "b", "accuracy", gap(-0.03, -0.05, -0.01, 0.01), 5).startswith("a is worse than b: -3.0")
    unclear = verdict("a", "b", "accuracy", gap(0.02, -0.01, 0.05, 0.3), 5)
    assert unclear.startswith(
        "cannot tell a from b: +2.0 [-1.0, +5.0] points of accuracy; the test could see 5.0 points"
    )


def test_nll_tells_two_models_apart():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 400)
    sure = np.log(np.where(np.eye(3)[labels] > 0, 0.8, 0.1))
    unsure = np.log(generator.dirichlet([5, 5, 5], 400))
    difference, p = nll_difference(labels, unsure, sure)
    places = np.arange(400)
    assert difference.value == pytest.approx((unsure[places, labels] - np.log(0.8)).mean())
    assert difference.low < difference.value < difference.high < 0
    test = stats.ttest_1samp((unsure - sure)[places, labels], 0)
    assert p == pytest.approx(test.pvalue)
    assert (difference.low, difference.high) == pytest.approx(tuple(test.confidence_interval(0.95)))
    told = 0
    for _ in range(400):  # two models that are equally bad: claimed in one of twenty
        first, second = (np.log(generator.dirichlet([5, 5, 5], 100)) for _ in range(2))
        told += nll_difference(labels[:100], first, second)[1] <= 0.05
    assert 0.02 <= told / 400 <= 0.09
