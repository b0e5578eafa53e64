"""What a test could have found at all: power, and the smallest difference that is found with 80 % power."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


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
