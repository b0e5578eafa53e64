"""The simple models that `clfa fit` tries: scored out of fold, each with the decision rule that is best for the metric."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from clfa.config import ProbeConfig
from clfa.data.cache import Engine
from clfa.evidence.compare import gap_of
from clfa.evidence.results import Scores, Tried
from clfa.metrics import METRICS, Score, all_scores, confusion, holm, is_claim, measure, nll_difference, scores
from clfa.training.probe import Array, Fitted, fit_probe

PROBES = {
    "logistic_regression": "logistic regression",
    "svm": "support vector machine",
    "mlp": "multi-layer perceptron",
}
"""As people read them, the simplest first."""
SHIFTS = np.linspace(0, 1, 11)
ROUNDS = 2
RESAMPLES = 2_000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A simple model before it is fitted."""

    modalities: tuple[str, ...]
    probe: ProbeConfig

    @property
    def name(self) -> str:
        """As people read it."""
        scales = [f"{name} × {scale:.2g}" for name, scale in self.probe.scales.items() if f"{scale:.2g}" != "1"]
        described = ", ".join([f"strength {self.probe.strength:.2g}", *scales])
        return f"{PROBES[self.probe.name]} on {' and '.join(self.modalities)} ({described})"

    @property
    def complexity(self) -> tuple[int, int]:
        """Simpler is less: fewer modalities, then the kind of model."""
        return len(self.modalities), list(PROBES).index(self.probe.name)


@dataclass(frozen=True)
class Decided:
    """What a model says of N labelled posts that it has not seen, and how it decides."""

    log_probabilities: Float[NDArray, "posts classes"]
    shift: float
    """See `offsets_of`."""
    predicted: NDArray[np.int64]
    metrics: Scores


@dataclass(frozen=True)
class Trial:
    """A candidate that was tried."""

    candidate: Candidate
    fitted: Fitted
    decided: Decided
    verdict: str = ""
    """Against the best."""

    def result(self, chosen: bool) -> Tried:
        """For the leaderboard."""
        return Tried(
            self.candidate.name,
            list(self.candidate.modalities),
            asdict(self.candidate.probe),
            self.decided.shift,
            self.decided.metrics,
            round(self.fitted.seconds, 1),
            chosen,
            self.verdict,
        )


def try_candidates(
    features: dict[str, Array],
    labels: NDArray[np.int64],
    classes: int,
    groups: list[str],
    metric: str,
    deadline: float,
    engine: Engine = "plain",
) -> tuple[list[Trial], list[str]]:
    """First both kinds, then other settings around the best so far, as long as the time is enough -> the trials, the best
    first, and a sentence on what was left out, if anything was.

    Args:
        features: modality -> (N, H), rows of NaN where a post lacks it.
        labels: (N,).
        classes: C.
        groups: (N,), see `clfa.training.probe.fit_probe`.
        metric: what is compared.
        deadline: on the clock of `time.monotonic`.
        engine: `ray` fits those of a round at the same time, on a cluster.
    """
    tried: dict[str, Trial] = {}
    fit = open_fitter(features, labels, classes, groups)
    for _ in range(1 + ROUNDS):
        around = _around(_ordered(tried.values(), metric)[0].candidate) if tried else _first(list(features))
        new = [candidate for candidate in around if candidate.name not in tried]
        for some in [new] if engine == "ray" else [[candidate] for candidate in new]:
            slowest = max((each.fitted.seconds for each in tried.values()), default=0.0)
            if tried and some and time.monotonic() + slowest > deadline:
                left_out = f"{some[0].name}, and other settings: the time of simple models was up"
                log.info("left out: %s", left_out)
                return _ordered(tried.values(), metric), [left_out]
            if engine == "ray":
                done = _on_cluster(some, features, labels, classes, groups)
            else:
                done = [fit(number, candidate)[1] for number, candidate in enumerate(some)]
            for candidate, fitted in zip(some, done):
                trial = Trial(candidate, fitted, decide(fitted.out_of_fold, labels, metric))
                log.info(
                    "%s: %s %.1f", candidate.name, METRICS[metric].title, 100 * trial.decided.metrics[metric].value
                )
                tried[candidate.name] = trial
    return _ordered(tried.values(), metric), []


def open_fitter(
    features: dict[str, Array], labels: NDArray[np.int64], classes: int, groups: list[str], threads: int = -1
) -> Callable[[int, Candidate], tuple[int, Fitted]]:
    """What fits a candidate, here with all cores, or in a worker of a cluster with one; of SVMs, each has the distances of
    posts in memory."""
    distances: dict[str, Array] = {}

    def fit(number: int, candidate: Candidate) -> tuple[int, Fitted]:
        own = {name: features[name] for name in candidate.modalities}
        return number, fit_probe(candidate.probe, own, labels, classes, groups, distances=distances, threads=threads)

    return fit


def _on_cluster(candidates: list[Candidate], *given: Any) -> list[Fitted]:
    from clfa.data.cluster import cluster, spread

    with cluster() as workers:
        done = dict(spread(enumerate(candidates), workers, open_fitter, *given, 1))
    return [done[number] for number in range(len(candidates))]


def choose(trials: list[Trial], labels: NDArray[np.int64], classes: int, metric: str) -> tuple[list[Trial], Trial]:
    """Trials, the best first -> the same with verdicts, and the simplest that is not claimed to be worse than the best.

    Of each complexity the best setting is compared with the best of all. Worse is what the one rule for claims says of the
    metric or of the NLL, which tells sooner; corrected over these comparisons. Other settings are shown, and claim nothing.
    """
    best, of_kind = trials[0], dict[tuple[int, int], Trial]()
    for each in trials:
        of_kind.setdefault(each.candidate.complexity, each)
    rivals = [each for each in of_kind.values() if each is not best]
    own = best.decided
    gaps = {
        each.candidate.name: gap_of(
            labels, own.predicted[None], each.decided.predicted[None], classes, metric, True, RESAMPLES
        )
        for each in trials[1:]
    }
    sizes = {name: gap.difference.text(METRICS[metric].unit, signed=True) for name, gap in gaps.items()}
    losses = [nll_difference(labels, own.log_probabilities, each.decided.log_probabilities) for each in rivals]
    p_holm = holm([gaps[each.candidate.name].p for each in rivals] + [p for _, p in losses])
    verdicts = {name: f"another setting: {size}" for name, size in sizes.items()} | {best.candidate.name: "the best"}
    equals = [best.candidate.name]
    for place, (name, (loss, _)) in enumerate(zip([each.candidate.name for each in rivals], losses)):
        if is_claim(gaps[name].difference, p_holm[place]):
            verdicts[name] = f"worse: {sizes[name]}"
        elif loss.value > 0 and is_claim(loss, p_holm[len(rivals) + place]):
            verdicts[name] = f"worse: NLL {loss.text(METRICS['nll'].unit, signed=True)}"
        else:
            verdicts[name] = f"cannot tell: {sizes[name]}"
            equals.append(name)
    judged = [replace(each, verdict=verdicts[each.candidate.name]) for each in trials]
    return judged, min(
        (each for each in judged if each.candidate.name in equals), key=lambda each: each.candidate.complexity
    )


def decide(log_probabilities: Float[NDArray, "posts classes"], labels: NDArray[np.int64], metric: str) -> Decided:
    """With the shift that is best for the metric on these posts: one number for all classes, of eleven."""
    classes = log_probabilities.shape[1]
    decisions = {float(shift): (log_probabilities + offsets_of(labels, classes, shift)).argmax(1) for shift in SHIFTS}
    values = {shift: scores(confusion(labels, own, classes))[metric] for shift, own in decisions.items()}
    shift = max(values, key=lambda each: float(values[each]))
    return Decided(log_probabilities, shift, decisions[shift], _scores(log_probabilities, labels, decisions[shift]))


def with_shift(
    log_probabilities: Float[NDArray, "posts classes"],
    labels: NDArray[np.int64],
    shift: float,
    prior: NDArray[np.int64],
) -> Decided:
    """With a shift that was chosen before, and the classes as frequent as among the labels `prior`."""
    predicted = (log_probabilities + offsets_of(prior, log_probabilities.shape[1], shift)).argmax(1)
    return Decided(log_probabilities, shift, predicted, _scores(log_probabilities, labels, predicted))


def offsets_of(labels: NDArray[np.int64], classes: int, shift: float) -> Float[NDArray, " classes"]:
    """- shift * log prior, added to log probabilities (Menon et al. 2021): 0 decides for the most probable class, 1 as if
    all classes were as frequent."""
    counts = np.bincount(labels, minlength=classes)
    return -shift * np.log(counts.clip(min=1) / counts.sum())


def _scores(log_probabilities: NDArray, labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> Scores:
    scored = measure(labels, predicted, log_probabilities.shape[1])
    return scored | {"nll": Score(all_scores(labels, np.exp(log_probabilities))["nll"])}


def _ordered(trials: Iterable[Trial], metric: str) -> list[Trial]:
    return sorted(trials, key=lambda each: -each.decided.metrics[metric].value)


def _first(modalities: list[str]) -> list[Candidate]:
    """Each modality alone and all of them by a linear model, all of them by one with a kernel."""
    sides = [(name,) for name in modalities] + ([tuple(modalities)] if len(modalities) > 1 else [])
    linear = [Candidate(side, ProbeConfig("logistic_regression", 1.0)) for side in sides]
    return [*linear, Candidate(sides[-1], ProbeConfig("svm", 3.0))]


def _around(best: Candidate) -> list[Candidate]:
    """The neighbours of the best so far: other strengths, and less or more of the last modality."""
    probe = best.probe
    found = [replace(best, probe=replace(probe, strength=probe.strength * factor)) for factor in (1 / 3, 3)]
    if len(best.modalities) > 1:
        last = best.modalities[-1]
        scale = probe.scales.get(last, 1.0)
        found += [replace(best, probe=replace(probe, scales={last: scale * factor})) for factor in (0.7, 1 / 0.7)]
    return [each for each in found if 0.1 < each.probe.strength < 100 and _moderate(each.probe.scales)]


def _moderate(scales: Mapping[str, float]) -> bool:
    return all(0.2 < scale < 5 for scale in scales.values())
