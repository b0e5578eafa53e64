"""Is a difference between systems more than luck? The words about it, and its statistics: paired bootstrap (BCa), t, ASO.

Several runs of a system (seeds) are rows of one array; a metric of a system is then the mean over its runs.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clfa.evidence.results import Gap
from clfa.metrics import METRICS, Runs, Score, by_run, kinds_of, t_error

Array = NDArray[np.float64]
ENOUGH_RUNS = 5
"""Runs of each side from which on a verdict speaks of systems, not of runs."""
PUBLISHED_METRICS = ("accuracy", "macro_f1", "binary_f1")
PUBLISHED_RUNS = 3
WIDE = 0.06
"""An interval over 6 points wide holds too much to say "reproduced"."""


def verdict(system: str, minus: str, metric: str, gap: Gap, runs: int, same_answers: bool = False) -> str:
    """The sentence about a gap in a metric between two systems, of which each has at least so many runs."""
    if same_answers:
        return f"{system} and {minus} give the same answers on all posts."
    described = METRICS[metric]
    size = f"{gap.difference.text(described.unit, signed=True)} points of {described.title}"
    if not gap.is_claim:
        return (
            f"cannot tell {system} from {minus}: {size}; the test could see {100 * gap.detectable:.1f} points, the "
            "smallest true difference found with 80 % power."
        )
    word = "better" if gap.difference.value > 0 else "worse"
    if runs >= ENOUGH_RUNS:
        return f"{system} is {word} than {minus}: {size}."
    return (
        f"in these runs {system} is {word} than {minus}: {size}; a claim about the systems needs {ENOUGH_RUNS} runs of "
        f"each, there are {runs}."
    )


def published_verdict(
    ours: dict[str, Score], published: dict[str, float], runs: int, stand_ins: list[str]
) -> tuple[str, str]:
    """The verdict about a published figure, which has no interval of its own, and why.

    Compared are `ours`, metric -> score with the interval of one run, and `published`, metric -> fraction; `stand_ins` are
    what differs from the published system.

    Accuracy, which every row of the tables has, decides about "lower" and "higher", so that one test is made for a row.
    The interval holds the choice of posts although the published figure is of the same posts: "reproduced" is generous,
    "lower" and "higher" are careful.

    Returns:
        "lower", "higher": our whole interval lies below or above the published accuracy. "reproduced": published
        accuracy, macro F1 and binary F1, where there are any, lie in our intervals, none of them wider than 6 points.
        "cannot tell" otherwise, with fewer than three runs, with stand-ins, or without a published figure.
    """
    shared = [name for name in PUBLISHED_METRICS if name in published and name in ours]
    if "accuracy" not in shared:
        return "cannot tell", "no published figure"
    if stand_ins:
        return "cannot tell", "not the published system: " + "; ".join(stand_ins)
    if runs < PUBLISHED_RUNS:
        return "cannot tell", f"{runs} of at least {PUBLISHED_RUNS} runs"
    bounds = {name: (ours[name].low or 0.0, ours[name].high or 0.0) for name in shared}
    low, high = bounds["accuracy"]
    if not low <= published["accuracy"] <= high:
        return ("lower" if high < published["accuracy"] else "higher"), "in accuracy"
    outside = [name for name in shared if not bounds[name][0] <= published[name] <= bounds[name][1]]
    if outside:
        return "cannot tell", f"accuracy agrees, {_titles(outside)} does not"
    wide = [name for name in shared if bounds[name][1] - bounds[name][0] > WIDE + 1e-9]
    if wide:
        return "cannot tell", f"inside, but the interval of {_titles(wide)} is over 6 points wide"
    return "reproduced", f"published {_titles(shared)} inside the 95 % interval of one run"


def _titles(names: list[str]) -> str:
    return ", ".join(METRICS[name].title for name in names)


class Paired(NamedTuple):
    """Second system minus first."""

    value: float
    """Mean of the metric over the runs of the second minus that of the first."""
    ci95: tuple[float, float]
    """Interval over posts, for these runs."""
    first: Runs
    second: Runs

    @property
    def draws(self) -> Array:
        """(D,) bootstrap draws of the difference."""
        return self.second.draws.mean(1) - self.first.draws.mean(1)


def paired_bootstrap(
    labels: NDArray,
    first: NDArray,
    second: NDArray,
    classes: int,
    metric: str,
    resamples: int = 10_000,
    seed: int = 0,
) -> Paired:
    """(N,) labels, (R, N) predictions of the first system, (Q, N) of the second -> difference of a metric
    (`clfa.metrics.scores`) with a bias-corrected and accelerated 95 % interval (BCa, Efron 1987).

    Leaving out one post gives one value for each kind of posts (`clfa.metrics.Kinds`). Equal to `scipy.stats.bootstrap` on
    the same draws within 1e-12.
    """
    kinds, runs = kinds_of(labels, np.concatenate([first, second]), classes), len(first)
    values = kinds.scores(kinds.counts[None])[metric][0]
    draws = np.concatenate([block[metric] for block in kinds.draws(resamples, seed)])
    blocks = np.array_split(np.eye(len(kinds.counts)), max(1, len(kinds.counts) // 500))  # in blocks, for memory
    by_run = np.concatenate([kinds.scores(kinds.counts - block)[metric] for block in blocks])
    left_out = by_run[:, runs:].mean(1) - by_run[:, :runs].mean(1)
    sides = Runs(values[:runs], draws[:, :runs]), Runs(values[runs:], draws[:, runs:])
    difference = Paired(float(values[runs:].mean() - values[:runs].mean()), (0.0, 0.0), *sides)
    return difference._replace(ci95=bca_interval(difference.value, difference.draws, left_out, kinds.counts))


class SystemDifference(NamedTuple):
    """How sure the mean difference of two systems is, from several runs of each."""

    ci95: tuple[float, float]
    """t interval over runs and posts."""
    p: float
    """Two-sided p of “no difference”."""
    detectable: float
    """Smallest true difference that this test finds with 80 % power."""


def system_difference(difference: Paired, paired: bool) -> SystemDifference:
    """Is one system better than the other, beyond these runs and posts? t over runs and posts (`clfa.metrics.t_error`).

    Args:
        difference: `paired_bootstrap` of two runs or more of each side.
        paired: whether run r of both has the same seed (then R = Q): the runs' differences are what varies.
    """
    from scipy.stats import chi2, t

    (first, of_first), (second, of_second) = difference.first, difference.second
    sides = [Runs(second - first, of_second - of_first)] if paired else [difference.first, difference.second]
    error, freedom = t_error(difference.draws, sides)
    value, half = difference.value, float(t.ppf(0.975, freedom)) * error
    # an estimated variance is more often too small than too large: half of them are below this one
    middle = error * (freedom / float(chi2.median(freedom))) ** 0.5
    return SystemDifference(
        (value - half, value + half),
        float(2 * t.sf(abs(value) / error, freedom)) if error else float(value == 0),
        float(t.ppf(0.975, freedom) + t.ppf(0.8, freedom)) * middle,
    )


def run_interval(labels: NDArray, predictions: NDArray, classes: int, metric: str) -> tuple[float, float]:
    """(N,) labels, (R, N) predictions of R ≥ 2 runs -> where the true score of one more run of the system would lie, that on
    endless posts like these: 95 % t interval.

    t over runs and posts (`clfa.metrics.t_error`), its variance of the runs s^2 (1 + 1 / R): their spread, and that their
    mean is known from R runs only.
    """
    from scipy.stats import t

    values = by_run(labels, predictions, classes)[metric]
    draws = np.concatenate([block[metric] for block in kinds_of(labels, predictions, classes).draws(10_000)])
    error, freedom = t_error(draws.mean(1), [Runs(values, draws)], further=1)
    half = float(t.ppf(0.975, freedom)) * error
    return float(values.mean()) - half, float(values.mean()) + half


def bca_interval(value: float, draws: Array, left_out: Array, counts: NDArray) -> tuple[float, float]:
    """95 % BCa interval of a statistic from its value, its (D,) bootstrap draws, and, for K kinds of posts, its (K,) values
    without one post of each and the (K,) counts of posts."""
    from scipy.special import ndtr, ndtri

    share = ((draws < value).mean() + (draws <= value).mean()) / 2
    influence = (counts @ left_out) / counts.sum() - left_out
    spread = counts @ influence**2
    if not 0 < share < 1 or spread <= 0:  # every draw alike: there is nothing to estimate an interval from
        return float(draws.min()), float(draws.max())
    acceleration = (counts @ influence**3) / (6 * spread**1.5)
    bias = ndtri(share)
    tails = bias + ndtri([0.025, 0.975])
    low, high = np.quantile(draws, ndtr(bias + tails / (1 - acceleration * tails)))
    return float(low), float(high)


def mcnemar(labels: NDArray, first: NDArray, second: NDArray) -> tuple[int, int, float]:
    """Exact McNemar test on the same rows: rows only the first has right, rows only the second has right, two-sided p."""
    from scipy.stats import binomtest

    only_first = int(((first == labels) & (second != labels)).sum())
    only_second = int(((first != labels) & (second == labels)).sum())
    if only_first + only_second == 0:
        return 0, 0, 1.0
    return only_first, only_second, float(binomtest(only_first, only_first + only_second).pvalue)


def bootstrap_p(draws: Array) -> float:
    """Two-sided p of “no difference” from bootstrap draws: twice the smaller share on one side of 0, at least 1 / draws."""
    return float(min(1.0, max(2 * min((draws <= 0).mean(), (draws >= 0).mean()), 1 / len(draws))))


def almost_stochastic_order(better: Array, worse: Array, level: float = 0.05, resamples: int = 1_000) -> float:
    """ε_min of “`better`, (n,) scores of runs, is almost stochastically larger than `worse`, (m,)” (ASO; Dror et al. 2019):
    below 0.5 it is, at most 0.2 is the usual demand (Ulmer et al. 2022).

    ε = ∫ (Q_w - Q_b)²₊ dt / ∫ (Q_w - Q_b)² dt over the quantile functions Q of both samples, and ε_min its upper
    confidence bound, ε + sqrt((n + m) / nm) σ z_{1-level}, σ from a bootstrap.
    """
    from scipy.special import ndtri

    grid = np.arange(0.0025, 1, 0.005)

    def quantiles(sample: Array) -> Array:
        ordered = np.sort(sample, axis=-1)
        places = np.clip(np.ceil(grid * ordered.shape[-1]).astype(int) - 1, 0, None)
        return ordered[..., places]

    def violation(first: Array, second: Array) -> Array:
        gap = quantiles(second) - quantiles(first)
        total = (gap**2).sum(-1)
        against = np.where(gap > 0, gap, 0) ** 2
        return np.divide(against.sum(-1), total, out=np.full(total.shape, 0.5), where=total > 0)

    n, m = len(better), len(worse)
    scale = np.sqrt(n * m / (n + m))
    generator = np.random.default_rng(0)
    drawn_better = better[generator.integers(n, size=(resamples, n))]
    drawn_worse = worse[generator.integers(m, size=(resamples, m))]
    value = violation(better, worse)
    sigma = float((scale * (violation(drawn_better, drawn_worse) - value)).std())
    return float(np.clip(value + ndtri(1 - level) * sigma / scale, 0, 1))
