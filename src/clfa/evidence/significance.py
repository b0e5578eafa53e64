"""Is a difference between systems more than luck? Paired bootstrap (BCa), McNemar's power, ASO, Holm.

Several runs of a system (seeds) are rows of one array; a metric of a system is then the mean over its runs.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from clfa.metrics import confusion, scores

Array = NDArray[np.float64]


class Difference(NamedTuple):
    """Second system minus first."""

    value: float
    """Mean of the metric over the runs of the second minus that of the first."""
    ci95: tuple[float, float]
    """Interval over posts, for these runs."""
    draws: Array
    """Bootstrap draws of the difference."""


def paired_bootstrap(
    labels: NDArray,
    first: NDArray,
    second: NDArray,
    classes: int,
    metric: str,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> Difference:
    """Difference of a metric on the same posts with a bias-corrected and accelerated interval (BCa, Efron 1987).

    Posts that got the same answers from all runs are alike: drawing posts is drawing how many there are of each kind from a
    multinomial, and leaving one post out gives one value for each kind. Equal to `scipy.stats.bootstrap` on the same
    draws within 1e-12.

    Args:
        labels: (N,) class numbers.
        first: (runs, N) predictions of the first system.
        second: (runs, N) predictions of the second.
        classes: C.
        metric: name in `clfa.metrics.scores`.
        resamples: number of draws.
        seed: of the draws.
        level: of the interval.
    """
    answers = np.concatenate([labels[None], first, second])
    kinds, counts = np.unique(answers, axis=1, return_counts=True)
    cells = kinds[0] * classes + kinds[1:]
    hits = np.eye(classes * classes)[cells]  # (runs of both, kinds, C*C)

    def difference(weights: NDArray) -> Array:
        """(draws, kinds) counts -> (draws,) differences."""
        matrices = np.einsum("dk,rkc->drc", weights, hits, optimize=True)
        found = scores(matrices.reshape(*matrices.shape[:2], classes, classes))[metric]
        return found[:, len(first) :].mean(1) - found[:, : len(first)].mean(1)

    generator = np.random.default_rng(seed)
    total = int(counts.sum())
    draws = np.concatenate(
        [
            difference(generator.multinomial(total, counts / total, size=min(500, resamples - start)))
            for start in range(0, resamples, 500)
        ]
    )
    value = float(difference(counts[None])[0])
    left_out = np.concatenate(
        [difference(counts - block) for block in np.array_split(np.eye(len(counts)), max(1, len(counts) // 500))]
    )
    return Difference(value, bca_interval(value, draws, left_out, counts, level), draws)


class SystemDifference(NamedTuple):
    """Mean difference of two systems, from several runs of each."""

    value: float
    ci95: tuple[float, float]
    """t interval over runs and posts."""
    p: float
    """Two-sided p of “no difference”."""
    detectable: float
    """Smallest true difference that this test finds with 80 % power."""


def system_difference(difference: Difference, first: Array, second: Array, paired: bool) -> SystemDifference:
    """Is one system better than the other, beyond the runs and posts at hand?

    The variance of a mean difference has a part from the posts, here that of the bootstrap draws for these runs, and a part
    from the runs, s^2 / R (paired runs: of their differences; otherwise of each side). The interval is t, with
    Satterthwaite's degrees of freedom: resampling a handful of runs instead would understate their part by (R - 1) / R.

    Args:
        difference: `paired_bootstrap` of all runs of both.
        first: (R,) scores of the first system, one a run, R ≥ 2.
        second: (Q,) scores of the second, Q ≥ 2.
        paired: whether run r of both has the same seed (then R = Q).
    """
    from scipy.stats import t

    posts = float(difference.draws.var(ddof=1))
    sides = [second - first] if paired else [first, second]
    parts = [(float(side.var(ddof=1)) / len(side), len(side) - 1) for side in sides]
    variance = posts + sum(part for part, _ in parts)
    if variance == 0:
        return SystemDifference(
            difference.value, (difference.value, difference.value), float(difference.value == 0), 0.0
        )
    freedom = variance**2 / max(sum(part**2 / degrees for part, degrees in parts), 1e-30 * variance**2)
    error = variance**0.5
    half = float(t.ppf(0.975, freedom)) * error
    return SystemDifference(
        difference.value,
        (difference.value - half, difference.value + half),
        float(2 * t.sf(abs(difference.value) / error, freedom)),
        half + float(t.ppf(0.8, freedom)) * error,
    )


def run_interval(labels: NDArray, predictions: NDArray, classes: int, metric: str) -> tuple[float, float]:
    """Where the true score of one more run of a system would lie, that on endless posts like these: 95 % t interval.

    The variance has a part from the posts (bootstrap) and one from the runs, s^2 (1 + 1 / R): their spread, and that their
    mean is known from R runs only. Degrees of freedom after Satterthwaite.

    Args:
        labels: (N,) class numbers.
        predictions: (R, N) predictions of R ≥ 2 runs.
        classes: C.
        metric: name in `clfa.metrics.scores`.
    """
    from scipy.stats import t

    # against answers that are always right, whose score is 1 in every draw
    found = paired_bootstrap(labels, labels[None], predictions, classes, metric)
    values = scores(np.stack([confusion(labels, run, classes) for run in predictions]))[metric]
    posts, runs = float(found.draws.var(ddof=1)), float(values.var(ddof=1)) * (1 + 1 / len(values))
    if posts + runs == 0:
        return float(values[0]), float(values[0])
    freedom = (posts + runs) ** 2 / max(runs**2 / (len(values) - 1), 1e-30)
    half = float(t.ppf(0.975, freedom)) * (posts + runs) ** 0.5
    return float(values.mean()) - half, float(values.mean()) + half


def bca_interval(
    value: float, draws: Array, left_out: Array, counts: NDArray, level: float = 0.95
) -> tuple[float, float]:
    """BCa interval of a statistic.

    Args:
        value: the statistic on the sample.
        draws: (resamples,) its bootstrap draws.
        left_out: (kinds,) its value without one post of each kind.
        counts: (kinds,) how many posts of each kind there are.
        level: of the interval.
    """
    from scipy.special import ndtr, ndtri

    share = ((draws < value).mean() + (draws <= value).mean()) / 2
    influence = (counts @ left_out) / counts.sum() - left_out
    spread = counts @ influence**2
    if not 0 < share < 1 or spread <= 0:  # every draw alike: there is nothing to estimate an interval from
        return float(draws.min()), float(draws.max())
    acceleration = (counts @ influence**3) / (6 * spread**1.5)
    bias = ndtri(share)
    tails = bias + ndtri([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(draws, ndtr(bias + tails / (1 - acceleration * tails)))
    return float(low), float(high)


def bootstrap_p(draws: Array) -> float:
    """Two-sided p of “no difference” from bootstrap draws: twice the smaller share on one side of 0, at least 1 / draws."""
    return float(min(1.0, max(2 * min((draws <= 0).mean(), (draws >= 0).mean()), 1 / len(draws))))


def holm(p_values: list[float]) -> list[float]:
    """p values adjusted for several comparisons (Holm 1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.maximum.accumulate(np.array(p_values)[order] * np.arange(len(order), 0, -1)).clip(max=1)
    result = np.empty(len(order))
    result[order] = adjusted
    return result.tolist()


def mcnemar_power(posts: int, difference: float, discordant: float, level: float = 0.05) -> float:
    """Power of the exact McNemar test.

    Args:
        posts: number of test posts.
        difference: true difference in accuracy, 0 … discordant.
        discordant: share of posts that exactly one system has right.
        level: of the test.
    """
    from scipy.stats import binom

    counts = np.arange(posts + 1)
    weight = binom.pmf(counts, posts, discordant)
    likely = counts[(weight > 1e-12) & (counts > 0)]
    # largest k with P(X <= k) <= level / 2 under fairness: rejected is k and below, and the mirror image
    critical = binom.ppf(level / 2, likely, 0.5)
    critical -= binom.cdf(critical, likely, 0.5) > level / 2
    better = (discordant + difference) / (2 * discordant)
    rejected = binom.cdf(critical, likely, better) + binom.sf(likely - critical - 1, likely, better)
    return float(weight[likely] @ rejected)


def detectable_accuracy(posts: int, discordant: float, power: float = 0.8) -> float | None:
    """Smallest difference in accuracy that the exact McNemar test finds with this power; `None` if there is none."""
    from scipy.optimize import brentq

    if discordant <= 0 or mcnemar_power(posts, discordant, discordant) < power:
        return None
    return float(brentq(lambda size: mcnemar_power(posts, size, discordant) - power, 1e-9, discordant, xtol=1e-5))


def detectable_difference(draws: Array, power: float = 0.8, level: float = 0.05) -> float:
    """Smallest difference that a two-sided test finds with this power: (z_{1-level/2} + z_power) standard errors."""
    from scipy.special import ndtri

    return float((ndtri(1 - level / 2) + ndtri(power)) * draws.std(ddof=1))


def almost_stochastic_order(
    better: Array, worse: Array, level: float = 0.05, resamples: int = 1_000, seed: int = 0
) -> float:
    """ε_min of “`better` is almost stochastically larger than `worse`” (ASO; Dror et al. 2019): below 0.5 it is, at most
    0.2 is the usual demand (Ulmer et al. 2022).

    ε = ∫ (Q_w - Q_b)²₊ dt / ∫ (Q_w - Q_b)² dt over the quantile functions Q of both samples, and ε_min its upper
    confidence bound, ε + sqrt((n + m) / nm) σ z_{1-level}, σ from a bootstrap.

    Args:
        better: (n,) scores, one a run.
        worse: (m,) scores.
        level: 1 - confidence.
        resamples: number of draws.
        seed: of the draws.
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
        found = np.where(gap > 0, gap, 0) ** 2
        return np.divide(found.sum(-1), total, out=np.full(total.shape, 0.5), where=total > 0)

    n, m = len(better), len(worse)
    scale = np.sqrt(n * m / (n + m))
    generator = np.random.default_rng(seed)
    drawn = violation(
        better[generator.integers(n, size=(resamples, n))], worse[generator.integers(m, size=(resamples, m))]
    )
    value = violation(better, worse)
    sigma = float((scale * (drawn - value)).std())
    return float(np.clip(value + ndtri(1 - level) * sigma / scale, 0, 1))
