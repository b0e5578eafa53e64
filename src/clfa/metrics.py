"""Arrays in, numbers out. Every average is named; every number here is a function of the confusion matrix.

Rows of a confusion matrix are labels, columns predictions. All functions work on stacks (…, C, C), so a bootstrap is one
call: drawing n test rows with replacement is drawing the counts of the confusion matrix from a multinomial.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def confusion(labels: NDArray, predictions: NDArray, classes: int) -> NDArray[np.int64]:
    """(N,) class numbers, (N,) class numbers -> (C, C) counts."""
    return np.bincount(labels * classes + predictions, minlength=classes * classes).reshape(classes, classes)


def scores(matrix: NDArray) -> dict[str, Array]:
    """Accuracy, and precision, recall and F1 as macro and weighted means and, with two classes, of class 1 (binary).

    A class that never occurs or is never predicted has precision, recall and F1 of 0, as in scikit-learn with
    `zero_division=0`, to which these agree within 1e-12.

    Args:
        matrix: (…, C, C) confusion counts.

    Returns:
        name -> (…) array.
    """
    matrix = np.asarray(matrix, dtype=float)
    right = np.diagonal(matrix, axis1=-2, axis2=-1)
    support, predicted = matrix.sum(-1), matrix.sum(-2)
    total = support.sum(-1)
    per_class = {
        "precision": _divide(right, predicted),
        "recall": _divide(right, support),
        "f1": _divide(2 * right, support + predicted),
    }
    # classes that are neither in the labels nor in the predictions do not count in a mean, as in scikit-learn
    present = ((support + predicted) > 0).astype(float)
    result = {"accuracy": right.sum(-1) / total}
    for name, values in per_class.items():
        result[f"macro_{name}"] = (values * present).sum(-1) / present.sum(-1)
        result[f"weighted_{name}"] = (values * support).sum(-1) / total
        if matrix.shape[-1] == 2:
            result[f"binary_{name}"] = values[..., 1]
    return result


def bootstrap(matrix: NDArray, resamples: int = 10_000, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of all `scores` over resampled test rows.

    Args:
        matrix: (C, C) confusion counts of one run.
        resamples: number of draws.
        seed: of the draws.
    """
    matrix = np.asarray(matrix)
    generator = np.random.default_rng(seed)
    count = int(matrix.sum())
    drawn = generator.multinomial(count, (matrix / count).ravel(), size=resamples).reshape(-1, *matrix.shape)
    return {name: interval(values) for name, values in scores(drawn).items()}


def bootstrap_seeds(
    labels: NDArray, predictions: NDArray, classes: int, resamples: int = 2_000, seed: int = 0
) -> dict[str, Array]:
    """Draws of the mean over runs of every metric: each draw resamples the runs (seeds) and the test rows.

    Args:
        labels: (N,) class numbers.
        predictions: (runs, N) class numbers.
        classes: C.
        resamples: number of draws.
        seed: of the draws; two systems compared with the same seed and N see the same rows, so differences are paired.

    Returns:
        metric -> (resamples,) values.
    """
    rows_generator, runs_generator = (np.random.default_rng([seed, part]) for part in (0, 1))
    codes = labels[None] * classes + predictions
    counts = np.empty((resamples, len(codes), classes * classes), dtype=np.int64)
    for number in range(resamples):
        drawn = codes[:, rows_generator.integers(len(labels), size=len(labels))]
        runs = runs_generator.integers(len(codes), size=len(codes))
        for place, run in enumerate(runs):
            counts[number, place] = np.bincount(drawn[run], minlength=classes * classes)
    found = scores(counts.reshape(resamples, len(codes), classes, classes))
    return {name: values.mean(1) for name, values in found.items()}


def over_runs(labels: NDArray, predictions: NDArray, classes: int) -> dict[str, dict[str, Any]]:
    """Every metric over the runs of one system: mean, standard deviation, 95 % interval over runs and posts, values.

    Args:
        labels: (N,) class numbers.
        predictions: (runs, N) class numbers.
        classes: C.

    Returns:
        metric -> `{"mean", "sd", "ci95", "values"}`.
    """
    by_run = scores(np.stack([confusion(labels, found, classes) for found in predictions]))
    draws = bootstrap_seeds(labels, predictions, classes)
    return {
        metric: {
            "mean": float(values.mean()),
            "sd": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
            "ci95": list(interval(draws[metric])),
            "values": values.tolist(),
        }
        for metric, values in by_run.items()
    }


def interval(draws: Array) -> tuple[float, float]:
    """The middle 95 % of bootstrap draws."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def mcnemar(labels: NDArray, first: NDArray, second: NDArray) -> tuple[int, int, float]:
    """Exact McNemar test of two classifiers on the same rows.

    Returns:
        Rows only the first has right, rows only the second has right, two-sided p.
    """
    from scipy.stats import binomtest

    only_first = int(((first == labels) & (second != labels)).sum())
    only_second = int(((first != labels) & (second == labels)).sum())
    if only_first + only_second == 0:
        return 0, 0, 1.0
    return only_first, only_second, float(binomtest(only_first, only_first + only_second).pvalue)


def _divide(numerator: Array, denominator: Array) -> Array:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
