"""How far probabilities can be believed: calibration errors with intervals, and temperature scaling.

All errors are means over posts of something, or over bins of means, so a bootstrap draws weights of posts.
"""

import numpy as np
from numpy.typing import NDArray

from clfa.evidence.results import Bin, CalibrationErrors
from clfa.metrics import Score, proper_terms

BINS = 15
Array = NDArray[np.float64]


def reliability(probabilities: Array, labels: NDArray) -> list[Bin]:
    """(N, C) probabilities, (N,) labels -> the non-empty ones of 15 equal-width bins of the largest probability."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    places = _equal_width(confidence)
    masks = [places == place for place in np.unique(places)]
    return [Bin(float(confidence[mask].mean()), float(right[mask].mean()), int(mask.sum())) for mask in masks]


def expected_error(bins: list[Bin]) -> float:
    """The ECE: sum over bins of their share of posts times |accuracy - confidence|."""
    return sum(each.posts * abs(each.accuracy - each.confidence) for each in bins) / sum(each.posts for each in bins)


def calibration(probabilities: Array, labels: NDArray, resamples: int = 2_000) -> CalibrationErrors:
    """(N, C) probabilities, (N,) labels -> calibration errors with 95 % bootstrap intervals over posts, cut at 0.

    Binned errors are too large on few posts, in the sample and once more in each draw. The bias, mean of the draws minus
    value, is taken off, and as it is itself a guess, it may be half as large or half as large again: the interval is from
    value - 3/2 bias - 1.96 sd to value - 1/2 bias + 1.96 sd. `if_calibrated` is the upper end of what chance alone gives:
    the 95 % quantile of the error of labels drawn from the probabilities themselves. Up to there the interval begins at 0.

    `ece`: sum_b n_b / N |accuracy_b - confidence_b| over 15 equal-width bins of the largest probability (Guo et al. 2017,
    equation 3). `adaptive_ece`: the same over 15 bins of equal count, whose edges are those of the whole sample in each
    draw (Nixon et al. 2019, for the largest probability). `brier`, `nll`: means of `clfa.metrics.proper_terms`.
    """
    count = len(labels)
    confidence = probabilities.max(1)
    gap = (probabilities.argmax(1) == labels) - confidence
    terms = proper_terms(labels, probabilities)
    ranks = np.argsort(np.argsort(confidence, kind="stable"), kind="stable")
    bins = {"ece": _equal_width(confidence), "adaptive_ece": ranks * BINS // count}
    generator = np.random.default_rng(0)
    draws: dict[str, list[float]] = {name: [] for name in (*bins, *terms)}
    weights = np.ones(count)
    for number in range(resamples + 1):  # the first is the sample itself
        if number:
            weights = np.bincount(generator.integers(count, size=count), minlength=count).astype(float)
        for name, places in bins.items():
            draws[name].append(_binned_error(places, weights * gap))
        for name, values in terms.items():
            draws[name].append(float(weights @ values) / count)
    chance = _chance_errors(confidence, bins, generator)
    scores: dict[str, Score] = {}
    for name, (value, *drawn) in draws.items():
        bias, half = float(np.mean(drawn)) - value, 1.96 * float(np.std(drawn))
        low, high = max(0.0, value - 1.5 * bias - half), max(0.0, value - 0.5 * bias + half)
        scores[name] = Score(value, 0.0 if value <= chance.get(name, -1.0) else low, high)
    return CalibrationErrors(scores, chance)


def _chance_errors(confidence: Array, bins: dict[str, NDArray], generator: np.random.Generator) -> dict[str, float]:
    """95 % quantile of each binned error when the probabilities are right, over 500 draws."""
    errors: dict[str, list[float]] = {name: [] for name in bins}
    for _ in range(500):
        gap = (generator.random(len(confidence)) < confidence) - confidence
        for name, places in bins.items():
            errors[name].append(_binned_error(places, gap))
    return {name: float(np.quantile(values, 0.95)) for name, values in errors.items()}


def _binned_error(places: NDArray, gap: Array) -> float:
    """(N,) bin of each post, (N,) correctness minus confidence -> sum_b |sum of the gaps in b| / N."""
    return float(np.abs(np.bincount(places, gap, minlength=BINS)).sum() / len(gap))


def _equal_width(confidence: Array) -> NDArray[np.int64]:
    return np.minimum((confidence * BINS).astype(int), BINS - 1)
