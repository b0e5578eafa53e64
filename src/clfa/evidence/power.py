"""What a test could have found at all: power, and the smallest difference that is found with 80 % power."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


LEVEL, POWER = 0.05, 0.8


def mcnemar_power(posts: int, difference: float, discordant: float) -> float:
    """Power of the exact McNemar test for a true difference in accuracy, 0 … `discordant`, where `discordant` is the share
    of posts that exactly one system has right."""
    from scipy.stats import binom

    counts = np.arange(posts + 1)
    weight = binom.pmf(counts, posts, discordant)
    likely = counts[(weight > 1e-12) & (counts > 0)]
    # largest k with P(X <= k) <= LEVEL / 2 under fairness: rejected is k and below, and the mirror image
    critical = binom.ppf(LEVEL / 2, likely, 0.5)
    critical -= binom.cdf(critical, likely, 0.5) > LEVEL / 2
    better = (discordant + difference) / (2 * discordant)
    rejected = binom.cdf(critical, likely, better) + binom.sf(likely - critical - 1, likely, better)
    return float(weight[likely] @ rejected)


def detectable_accuracy(posts: int, discordant: float) -> float | None:
    """Smallest difference in accuracy that the exact McNemar test finds with 80 % power; `None` if there is none."""
    from scipy.optimize import brentq

    if discordant <= 0 or mcnemar_power(posts, discordant, discordant) < POWER:
        return None
    return float(brentq(lambda size: mcnemar_power(posts, size, discordant) - POWER, 1e-9, discordant, xtol=1e-5))


def detectable_difference(draws: Array) -> float:
    """Smallest difference that a two-sided test finds with 80 % power: (z_0.975 + z_0.8) standard errors."""
    from scipy.special import ndtri

    return float((ndtri(1 - LEVEL / 2) + ndtri(POWER)) * draws.std(ddof=1))
