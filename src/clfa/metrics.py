"""Arrays in, numbers out. Every average is named; one list of metrics, one kind of score, one way to write it.

Scores of classes are functions of the confusion matrix. Its rows are labels, its columns predictions. All functions work
on stacks (…, C, C), so a bootstrap is one call: drawing n test rows with replacement is drawing the counts of the
confusion matrix from a multinomial.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """How a metric is called and written, and which way is better."""

    title: str
    unit: str = "%"
    """`%`: a fraction, written in percent with one decimal; anything else: written as it is with three."""
    higher_is_better: bool = True
    """Direction, for choosing an epoch."""


METRICS: dict[str, Metric] = {
    "accuracy": Metric("accuracy"),
    "macro_f1": Metric("macro F1"),
    "weighted_f1": Metric("weighted F1"),
    "binary_f1": Metric("binary F1"),
    "macro_precision": Metric("macro precision"),
    "macro_recall": Metric("macro recall"),
    "weighted_precision": Metric("weighted precision"),
    "weighted_recall": Metric("weighted recall"),
    "binary_precision": Metric("binary precision"),
    "binary_recall": Metric("binary recall"),
    "auroc": Metric("AUROC"),
    "ece": Metric("ECE", higher_is_better=False),
    "adaptive_ece": Metric("adaptive ECE", higher_is_better=False),
    "brier": Metric("Brier score", "", higher_is_better=False),
    "nll": Metric("NLL, nats", "nats", higher_is_better=False),
    "calibrated_nll": Metric("calibrated NLL, nats", "nats", higher_is_better=False),
}
LEVEL = 0.05
"""Of the one rule for claims."""
OF_PROBABILITIES = ("auroc", "brier", "nll", "calibrated_nll")
"""Metrics of probabilities, not of decisions."""
SHOWN = ("accuracy", "macro_f1", "weighted_f1", "binary_f1")
"""Metrics of every table, in this order; binary F1 where there are two classes."""


def metric_names(classes: int) -> list[str]:
    """The metrics that predictions in this many classes have, calibration errors aside."""
    names = [name for name in METRICS if name not in ("ece", "adaptive_ece")]
    return [name for name in names if classes == 2 or not name.startswith("binary")]


@dataclass(frozen=True)
class Score:
    """A number with its uncertainty, in fractions: a metric of a system, or a difference of two."""

    value: float
    """The number; over several runs their mean."""
    low: float | None = None
    """Lower end of the 95 % interval; `None` where there is no interval."""
    high: float | None = None
    sd: float | None = None
    """Standard deviation over runs; `None` where there is one run."""
    n: int = 1
    """Number of runs."""

    def text(self, unit: str = "%", signed: bool = False) -> str:
        """The one way to write a score: `66.8 ± 1.6 [62.5, 70.9]`, a difference (`signed`) `-0.6 [-5.5, +4.2]`."""
        factor, digits = (100, 1) if unit == "%" else (1, 3)

        def number(value: float) -> str:
            return f"{round(factor * value, digits) + 0.0:{'+' if signed else ''}.{digits}f}"  # no "-0.0"

        spread = "" if self.sd is None else f" ± {factor * self.sd:.{digits}f}"
        interval = "" if self.low is None or self.high is None else f" [{number(self.low)}, {number(self.high)}]"
        return number(self.value) + spread + interval


def confusion(labels: NDArray, predictions: NDArray, classes: int) -> NDArray[np.int64]:
    """(N,) class numbers, (N,) class numbers -> (C, C) counts."""
    return np.bincount(labels * classes + predictions, minlength=classes * classes).reshape(classes, classes)


def scores(matrix: NDArray) -> dict[str, Array]:
    """(…, C, C) confusion counts -> name -> (…) scores.

    Accuracy, and precision, recall and F1 as macro and weighted means and, with two classes, of class 1 (binary). A class
    that never occurs or is never predicted has precision, recall and F1 of 0, as in scikit-learn with `zero_division=0`,
    with which these agree within 1e-12. Without any post (a split of one, less that one) all are 0.
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
    result = {"accuracy": _divide(right.sum(-1), total)}
    for name, values in per_class.items():
        result[f"macro_{name}"] = _divide((values * present).sum(-1), present.sum(-1))
        result[f"weighted_{name}"] = _divide((values * support).sum(-1), total)
        if matrix.shape[-1] == 2:
            result[f"binary_{name}"] = values[..., 1]
    return {name: np.asarray(values) for name, values in result.items()}


def bootstrap(matrix: NDArray, resamples: int = 10_000, seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of all `scores` of one run, (C, C) confusion counts, over resampled test rows."""
    matrix = np.asarray(matrix)
    generator = np.random.default_rng(seed)
    count = int(matrix.sum())
    drawn = generator.multinomial(count, (matrix / count).ravel(), size=resamples).reshape(-1, *matrix.shape)
    return {name: interval(values) for name, values in scores(drawn).items()}


class Kinds(NamedTuple):
    """Posts that have the same label and got the same answers from all of R runs are alike: K kinds of posts."""

    counts: NDArray[np.int64]
    """(K,) posts of each kind."""
    cells: NDArray[np.float64]
    """(R, K, C * C) the cell of a run's confusion matrix in which a kind is: 1 there, 0 elsewhere."""

    def scores(self, counts: NDArray) -> dict[str, Array]:
        """Every score of each run, (D, R), for D other counts (D, K) of the kinds."""
        classes = math.isqrt(self.cells.shape[-1])
        matrices = np.einsum("dk,rkc->drc", counts, self.cells, optimize=True)
        return scores(matrices.reshape(*matrices.shape[:2], classes, classes))

    def draws(self, resamples: int, seed: int = 0) -> Iterator[dict[str, Array]]:
        """`scores` of posts drawn with replacement, in blocks of at most 500 draws: how many of each kind are drawn is
        multinomial."""
        generator, total = np.random.default_rng(seed), int(self.counts.sum())
        for start in range(0, resamples, 500):
            size = min(500, resamples - start)
            yield self.scores(generator.multinomial(total, self.counts / total, size=size))


def kinds_of(labels: NDArray, predictions: NDArray, classes: int) -> Kinds:
    """(N,) labels, (R, N) predictions of R runs -> the kinds of posts that there are."""
    answers, counts = np.unique(np.concatenate([labels[None], predictions]), axis=1, return_counts=True)
    return Kinds(counts, np.eye(classes * classes)[answers[0] * classes + answers[1:]])


class Runs(NamedTuple):
    """One score of the R runs of a system."""

    values: Array
    """(R,) the score of each run."""
    draws: Array
    """(D, R) the same for drawn posts (`Kinds.draws`)."""


def t_error(of_posts: Array, sides: Sequence[Runs], further: int = 0) -> tuple[float, float]:
    """Standard error of a mean over runs, and the degrees of freedom of its t distribution.

    Its variance is what all runs share of the posts' luck, plus s^2 / R, which holds what each run has of its own: its luck
    with the posts and its quality. Resampling a handful of runs instead would understate the second by (R - 1) / R, and
    take the tails of the normal distribution. The degrees of freedom are Satterthwaite's (1946), with s^2 taken
    (R + 1) / (R - 1) times as large: a small s^2 by luck would else also claim to be known well. By simulation 94-96 % of
    intervals then hold the truth for 3 runs and more, whatever the share of the posts (92-95 % without).

    Args:
        of_posts: (D,) the mean for drawn posts.
        sides: what has runs of its own: a system, the paired difference of two, or both of two.
        further: 1 for the score of one more run instead of the mean.
    """
    shared, own, cautious, noise = float(of_posts.var(ddof=1)), 0.0, 0.0, 0.0
    for values, draws in sides:
        runs, share = len(values), float(values.var(ddof=1)) * (further + 1 / len(values))
        shared -= float((draws - draws.mean(1, keepdims=True)).var(0, ddof=1).sum()) / (runs * (runs - 1))
        own += share
        cautious += share * (runs + 1) / (runs - 1)
        noise += (share * (runs + 1) / (runs - 1)) ** 2 / (runs - 1)
    shared = max(0.0, shared)
    freedom = (shared + cautious) ** 2 / noise if noise else 1e6
    return (shared + own) ** 0.5, freedom


def measure(labels: NDArray, predictions: NDArray, classes: int) -> dict[str, Score]:
    """(N,) labels, (N,) predictions -> every score of one run, with 95 % percentile bootstrap intervals over posts."""
    matrix = confusion(labels, predictions, classes)
    bounds = bootstrap(matrix)
    return {
        name: Score(float(value), *_never_a_point(float(value), *bounds[name], len(labels)))
        for name, value in scores(matrix).items()
    }


def over_runs(labels: NDArray, predictions: NDArray, classes: int, resamples: int = 2_000) -> dict[str, Score]:
    """(N,) labels, (R, N) predictions of one system -> every score: mean, standard deviation over runs, 95 % interval.

    With several runs the interval is for endless runs and posts like these: t over runs and posts (`t_error`), the variance
    over posts from a bootstrap. With one run it is the percentile interval of `measure`, for this run.
    """
    if len(predictions) == 1:
        return measure(labels, predictions[0], classes)
    from scipy.stats import t

    drawn = list(kinds_of(labels, predictions, classes).draws(resamples))
    result = {}
    for name, values in by_run(labels, predictions, classes).items():
        draws = np.concatenate([block[name] for block in drawn])
        error, freedom = t_error(draws.mean(1), [Runs(values, draws)])
        value, half = float(values.mean()), float(t.ppf(0.975, freedom)) * error
        low, high = _never_a_point(value, max(0.0, value - half), min(1.0, value + half), len(labels))
        result[name] = Score(value, low, high, sd=float(values.std(ddof=1)), n=len(values))
    return result


def by_run(labels: NDArray, predictions: NDArray, classes: int) -> dict[str, Array]:
    """(R,) values of every score, one for each run of (R, N) predictions."""
    return scores(np.stack([confusion(labels, run, classes) for run in predictions]))


def all_scores(labels: NDArray, probabilities: Array) -> dict[str, float]:
    """(N,) labels, (N, C) probabilities -> all `metric_names`, without intervals: what an epoch can be chosen by."""
    matrix = confusion(labels, probabilities.argmax(1), probabilities.shape[1])
    values = {name: float(value) for name, value in scores(matrix).items()}
    values["auroc"] = auroc(labels, probabilities)
    values |= {name: float(terms.mean()) for name, terms in proper_terms(labels, probabilities).items()}
    scaled = rescale(probabilities, fit_temperature(probabilities, labels))
    return values | {"calibrated_nll": float(proper_terms(labels, scaled)["nll"].mean())}


def proper_terms(labels: NDArray, probabilities: Array) -> dict[str, Array]:
    """(N,) terms of the proper scoring rules, whose means over posts they are.

    `brier`: sum_c (p_c - 1[c = label])^2, 0 … 2 (Brier 1950). `nll`: -log p_label, in nats.
    """
    truth = np.eye(probabilities.shape[1])[labels]
    return {
        "brier": ((probabilities - truth) ** 2).sum(1),
        "nll": -np.log(np.clip(probabilities[np.arange(len(labels)), labels], 1e-12, None)),
    }


def fit_temperature(probabilities: Array, labels: NDArray) -> float:
    """T that minimises the NLL of softmax(log p / T), between 0.05 and 20 (Guo et al. 2017, section 4.2).

    (N, C) probabilities and (N,) labels are of validation posts, never of the posts that are reported on. The NLL that it
    leaves, `calibrated_nll`, is what an epoch is chosen by where a temperature is fitted afterwards in any case: a network
    that goes on learning while it grows too sure of itself is not stopped for that.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        scaled = rescale(probabilities, float(np.exp(log_temperature)))
        return float(proper_terms(labels, scaled)["nll"].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


def rescale(probabilities: Array, temperature: float) -> Array:
    """softmax(log p / T): the same predictions, softer (T > 1) or harder (T < 1)."""
    from scipy.special import softmax

    return softmax(np.log(np.clip(probabilities, 1e-30, None)) / temperature, axis=1)


def auroc(labels: NDArray, probabilities: Array) -> float:
    """(N,) labels, (N, C) probabilities -> area under the ROC curve, of class 1 with two classes, else the mean over
    classes (each against the rest).

    Ties count half. Classes without a post, or with all of them, do not count; 0.5 if none is left.
    """
    from scipy.stats import rankdata

    areas = []
    for k in [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1]):
        positive = labels == k
        inside, outside = int(positive.sum()), int((~positive).sum())
        if inside and outside:
            ranks = rankdata(probabilities[:, k])[positive].sum()
            areas.append((ranks - inside * (inside + 1) / 2) / (inside * outside))
    return float(np.mean(areas)) if areas else 0.5


def interval(draws: Array) -> tuple[float, float]:
    """The middle 95 % of bootstrap draws."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _never_a_point(value: float, low: float, high: float, posts: int) -> tuple[float, float]:
    """Where all posts are right, or none, no draw differs: the exact binomial (Clopper-Pearson) end then, 0.025^(1/N)."""
    if low == high == value == 1:
        return 0.025 ** (1 / posts), 1.0
    if low == high == value == 0:
        return 0.0, 1 - 0.025 ** (1 / posts)
    return low, high


def _divide(numerator: Array | np.float64, denominator: Array | np.float64) -> Array:
    """0 where the denominator is 0."""
    zeros = np.zeros(np.shape(numerator))
    return np.divide(numerator, denominator, out=zeros, where=np.asarray(denominator) > 0)


def mean_nll(labels: NDArray[np.int64], log_probabilities: Array) -> float:
    """(N,) labels, (N, C) log probabilities -> NLL in nats."""
    return -float(log_probabilities[np.arange(len(labels)), labels].mean())


def is_claim(difference: Score, p_holm: float) -> bool:
    """The one rule: a difference is claimed if its 95 % interval excludes 0 and its p (two-sided, corrected for all
    comparisons made after Holm) is at most 0.05."""
    excludes_zero = difference.low is not None and difference.high is not None and difference.low * difference.high > 0
    return excludes_zero and p_holm <= LEVEL


def holm(p_values: list[float]) -> list[float]:
    """p values adjusted for several comparisons (Holm 1979), in the order given."""
    order = np.argsort(p_values, kind="stable")
    adjusted = np.maximum.accumulate(np.array(p_values)[order] * np.arange(len(order), 0, -1)).clip(max=1)
    result = np.empty(len(order))
    result[order] = adjusted
    return result.tolist()


def nll_difference(labels: NDArray[np.int64], first: Array, second: Array) -> tuple[Score, float]:
    """(N,) labels, (N, C) log probabilities of two models on the same posts -> NLL of the second minus the first in nats,
    with its 95 % interval over posts, and its two-sided p, by the paired t test.

    It needs fewer posts than a metric of decisions to tell two models apart.
    """
    from scipy.special import stdtr, stdtrit

    places, freedom = np.arange(len(labels)), len(labels) - 1
    losses = first[places, labels] - second[places, labels]
    value, error = float(losses.mean()), float(max(losses.std(ddof=1) / np.sqrt(len(labels)), 1e-12))
    half = float(stdtrit(freedom, 0.975)) * error
    return Score(value, value - half, value + half), 2 * float(stdtr(freedom, -abs(value) / error))
