"""Simple classifiers on the features of frozen encoders: fitted by scikit-learn, calibrated out of fold, kept as tensors."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from joblib import Parallel, delayed
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from clfa.config import ProbeConfig, RunConfig
from clfa.data.drawing import text_form
from clfa.data.records import load_manifest
from clfa.data.rows import Rows
from clfa.data.splits import load_rows, source_splits
from clfa.model.classifier import build_classifier
from clfa.model.pipeline import Pipeline
from clfa.model.probe import Probe
from clfa.runs import Run

FOLDS = 5
MOST = 10_000
"""Posts that an SVM is fitted on: of more a sample, as its kernel is a matrix of posts by posts."""
HIDDEN = 512

log = logging.getLogger(__name__)
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Fitted:
    """A fitted probe, and what it says of the posts that it was fitted on when it had not seen them."""

    probe: Probe
    out_of_fold: Float[NDArray, "posts classes"]
    """Log probabilities of each post by the probe of the folds without it; those of the probe itself where a class has too
    few posts for folds."""
    seconds: float


def train_probe(config: RunConfig, run: Run) -> None:
    """Fit the probe of a run that has begun, on its training posts; write its model and finish it."""
    assert config.model.probe
    manifest = load_manifest(config.data.path)
    rows = load_rows(config.data, "train", config.seed)
    pipeline = Pipeline(build_classifier(config.model, manifest["labels"], manifest["text"]))
    pipeline.cache(Path(config.data.path), source_splits(config.data, ["train"]))
    log.info("%s: fitting %s on %s posts", run, config.model.probe.name, f"{len(rows):,}")
    balanced, classes = config.loss.class_weights == "balanced", len(manifest["labels"])
    features = read_features(pipeline, rows)
    keep_probe(fit_probe(config.model.probe, features, rows.labels, classes, groups_of(rows), balanced), pipeline, run)


def keep_probe(fitted: Fitted, pipeline: Pipeline, run: Run, offsets: Sequence[float] = ()) -> None:
    """Write the model of a run that has begun, of the pipeline's encoders and a fitted probe, and finish the run.

    `offsets` are those of `Classifier.decide`; 0 by default.
    """
    pipeline.model.probe = fitted.probe
    pipeline.model.offsets = list(offsets) or pipeline.model.offsets
    pipeline.model.save_pretrained(run.path)
    run.finish({"seconds": fitted.seconds, "train_rows": len(fitted.out_of_fold)})


def read_features(pipeline: Pipeline, rows: Rows) -> dict[str, Array]:
    """Modality -> (N, H) mean token states of frozen encoders in the order of the probe; NaN where a post lacks it."""
    embeds = pipeline.embeds(rows)
    return {name: embeds[name] for name in (pipeline.config.query(), *pipeline.config.contexts())}


def groups_of(rows: Rows) -> list[str]:
    """The same string for posts with equal texts, which are never on two sides of a fold."""
    return [text_form(text) or f"\0{number}" for number, text in enumerate(rows.texts)]


def fit_probe(
    settings: ProbeConfig,
    features: dict[str, Array],
    labels: NDArray[np.int64],
    classes: int,
    groups: Sequence[str] | None = None,
    balanced: bool = False,
    distances: dict[str, Array] | None = None,
    threads: int = -1,
) -> Fitted:
    """Fit and calibrate.

    Features z are standardised by modality and divided by the root of their number, so that a modality has weight `scales`
    whatever its width, and the SVM's gamma is 1 / sum of scales^2; an MLP reads them standardised only. Calibration is a
    logistic regression on the scores of posts out of fold: Platt scaling for any number of classes. Of an SVM it reads the
    scores of all pairs of classes, and takes the place of their vote.

    Args:
        settings: which one.
        features: modality -> (N, H), rows of NaN where a post lacks it.
        labels: (N,).
        classes: C.
        groups: (N,), posts of one group are never on two sides of a fold; each for itself by default.
        balanced: whether each class has the same weight.
        distances: kept between calls with the same features: an SVM puts the squared distances (N, N) of each modality
            there, from which the kernel of any scales follows.
        threads: folds that are fitted at the same time; all cores by default.
    """
    started = time.monotonic()
    joined = np.concatenate(list(features.values()), 1)
    arrays = _standardisation(settings, features)
    if settings.name == "svm":
        total = sum(settings.scales.get(name, 1.0) ** 2 for name in features)
        arrays["gamma"] = torch.tensor(1.0 / max(total, 1e-12))
    head = _Head(settings, arrays, classes, balanced)
    kernel = None
    if settings.name == "svm" and len(labels) <= MOST:
        kernel = _kernel(settings, features, float(arrays["gamma"]), {} if distances is None else distances)
    folds, everyone = inner_folds(labels, groups), np.arange(len(labels))
    # the solvers leave Python's lock, so threads do; each of them computes on one core
    with threadpool_limits(1):
        (final, scores), *of_folds = Parallel(threads, prefer="threads")(
            delayed(_fit_and_score)(head, joined, labels, places, scored, kernel)
            for places, scored in ((everyone, everyone), *folds)
        )
    for (_, own), (_, held_out) in zip(of_folds, folds):
        scores[held_out] = own
    weight, bias = _calibration(scores, labels, classes)
    logits = torch.from_numpy(scores @ weight.T + bias)
    return Fitted(_calibrated(final, weight, bias), logits.log_softmax(1).numpy(), time.monotonic() - started)


def _kernel(
    settings: ProbeConfig, features: dict[str, Array], gamma: float, distances: dict[str, Array]
) -> Float[NDArray, "posts posts"]:
    """exp(-gamma sum_m scale_m^2 |z_m - z'_m|^2) of standardised features; the distances are computed once."""
    plain = replace(settings, scales={})
    total = np.zeros((), dtype=np.float32)
    for name, values in features.items():
        if name not in distances:
            z = Probe(_standardisation(plain, {name: values})).hidden(torch.from_numpy(values)).float()
            squares = (z**2).sum(1)
            distances[name] = (squares[:, None] + squares[None] - 2 * z @ z.T).clamp(min=0).fill_diagonal_(0).numpy()
        total = total + settings.scales.get(name, 1.0) ** 2 * distances[name]
    return np.exp(-gamma * total)


def _fit_and_score(
    head: "_Head",
    features: Array,
    labels: NDArray[np.int64],
    places: NDArray,
    scored: NDArray,
    kernel: Float[NDArray, "posts posts"] | None,
) -> tuple[Probe, NDArray[np.float64]]:
    """The head fitted on the posts at some places, and its scores (see `_scores_of`) of those at others."""
    if kernel is None:
        probe = head.fit(features[places], labels[places])
        return probe, _scores_of(probe, features[scored])
    support, weight, bias = head.solve(kernel[np.ix_(places, places)], labels[places])
    scores = kernel[np.ix_(scored, places[support])] @ weight.T + bias
    rows = torch.from_numpy(head.standardised(features[places[support]]))
    return Probe(
        head.arrays | {"support": rows, "weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)}
    ), scores


def _scores_of(probe: Probe, features: Array) -> NDArray[np.float64]:
    """(N, S): of a probe before its calibration, a score for each class or each pair of classes."""
    return probe(torch.from_numpy(features)).double().numpy()


def _calibrated(probe: Probe, weight: NDArray, bias: NDArray) -> Probe:
    """The same with (C, S) and (C,) of `_calibration` folded into its last map."""
    arrays = dict(probe.named_buffers())
    own, shift = (arrays[name].double().numpy() for name in ("weight", "bias"))
    return Probe(arrays | {"weight": torch.from_numpy(weight @ own), "bias": torch.from_numpy(weight @ shift + bias)})


class _Head:
    """How one of the three is fitted on features (N, D)."""

    def __init__(self, settings: ProbeConfig, arrays: dict[str, torch.Tensor], classes: int, balanced: bool):
        self.settings, self.arrays, self.classes = settings, arrays, classes
        self.weights = "balanced" if balanced else None
        self.scores = classes * (classes - 1) // 2 if settings.name == "svm" else classes

    def fit(self, features: Array, labels: NDArray[np.int64]) -> Probe:
        standardised = self.standardised(features)
        fitted = {"svm": self._svm, "logistic_regression": self._regression, "mlp": self._mlp}[self.settings.name]
        return Probe(self.arrays | fitted(standardised, labels))

    def standardised(self, features: Array) -> Array:
        rest = {name: value for name, value in self.arrays.items() if name in ("mean", "scale")}
        return Probe(rest).hidden(torch.from_numpy(features)).float().numpy()

    def _regression(self, features: Array, labels: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        from sklearn.linear_model import LogisticRegression

        model = LogisticRegression(C=self.settings.strength, class_weight=self.weights, max_iter=1_000)
        model.fit(features, labels)
        return self._rows(model.coef_, model.intercept_, model.classes_)

    def _svm(self, features: Array, labels: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        from sklearn.metrics.pairwise import rbf_kernel

        if len(labels) > MOST:
            chosen = np.sort(np.random.default_rng(0).choice(len(labels), MOST, replace=False))
            features, labels = features[chosen], labels[chosen]
        support, weight, bias = self.solve(rbf_kernel(features, gamma=float(self.arrays["gamma"])), labels)
        rows = torch.from_numpy(features[support])
        return {"support": rows, "weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)}

    def solve(self, kernel: NDArray, labels: NDArray[np.int64]) -> tuple[NDArray, NDArray, NDArray]:
        """An SVM on a kernel (N, N) -> places (S,) of its support vectors, weights (pairs, S), biases (pairs,)."""
        from sklearn.svm import SVC

        model = SVC(C=self.settings.strength, kernel="precomputed", class_weight=self.weights, cache_size=1_000)
        model.fit(kernel, labels)
        weight = np.zeros((self.scores, len(model.support_)))
        bias = np.zeros(self.scores)
        ends = np.cumsum(model.n_support_)
        own = [slice(end - count, end) for end, count in zip(ends, model.n_support_)]
        pairs = [(i, j) for i in range(len(model.classes_)) for j in range(i + 1, len(model.classes_))]
        # the layout of libsvm: coefficients against the other classes, in their order
        for number, (i, j) in enumerate(pairs):
            place = _pair(int(model.classes_[i]), int(model.classes_[j]), self.classes)
            weight[place, own[i]] = model.dual_coef_[j - 1, own[i]]
            weight[place, own[j]] = model.dual_coef_[i, own[j]]
            bias[place] = model.intercept_[number]
        return model.support_, weight, bias

    def _mlp(self, features: Array, labels: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        from sklearn.neural_network import MLPClassifier

        # the two layers are fitted on nine tenths, until the rest gets no better
        alone = len(labels) >= 100 and np.bincount(labels)[np.unique(labels)].min() >= 10
        model = MLPClassifier(
            (HIDDEN,), alpha=1 / self.settings.strength, early_stopping=alone, max_iter=1_000, random_state=0
        )
        weights = None
        if self.weights:
            counts = np.bincount(labels, minlength=self.classes).clip(min=1)
            weights = (len(labels) / (len(np.unique(labels)) * counts))[labels]
        model.fit(features, labels, sample_weight=weights)
        (hidden, last), (hidden_bias, last_bias) = model.coefs_, model.intercepts_
        return {
            "hidden_weight": torch.from_numpy(hidden.T),
            "hidden_bias": torch.from_numpy(hidden_bias),
            **self._rows(last.T, last_bias, model.classes_),
        }

    def _rows(self, weight: NDArray, bias: NDArray, known: NDArray) -> dict[str, torch.Tensor]:
        full, shift = _row_a_class(weight, bias, known, self.classes)
        return {"weight": torch.from_numpy(full), "bias": torch.from_numpy(shift)}


def _row_a_class(weight: NDArray, bias: NDArray, known: NDArray, classes: int) -> tuple[NDArray, NDArray]:
    """scikit-learn's (K, S) and (K,) for the K `known` classes -> (C, S) and (C,): of two classes it has one row, for the
    second; a class without a post never wins."""
    if len(weight) == 1:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    full, shift = np.zeros((classes, weight.shape[1])), np.full(classes, -30.0)
    full[known], shift[known] = weight, bias
    return full, shift


def _pair(first: int, second: int, classes: int) -> int:
    """Number of a pair of classes among all, first < second."""
    return first * classes - first * (first + 1) // 2 + second - first - 1


def _standardisation(settings: ProbeConfig, features: dict[str, Array]) -> dict[str, torch.Tensor]:
    means, scales = [], []
    for name, values in features.items():
        there = values[~np.isnan(values[:, 0])] if values.size else values
        mean = there.mean(0) if len(there) else np.zeros(values.shape[1])
        spread = there.std(0) if len(there) else np.ones(values.shape[1])
        root = 1.0 if settings.name == "mlp" else np.sqrt(values.shape[1])
        means.append(mean)
        scales.append(np.where(spread > 1e-8, settings.scales.get(name, 1.0) / (np.maximum(spread, 1e-8) * root), 0.0))
    return {"mean": torch.from_numpy(np.concatenate(means)), "scale": torch.from_numpy(np.concatenate(scales))}


def inner_folds(labels: NDArray[np.int64], groups: Sequence[str] | None) -> list[tuple[NDArray, NDArray]]:
    """Places of the posts to fit and to hold out, stratified, groups on one side; no fold where a class is too small."""
    from sklearn.model_selection import StratifiedGroupKFold

    counts = np.bincount(labels)
    count = min(FOLDS, int(counts[counts > 0].min()))
    if count < 2:
        return []
    own = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    found = list(StratifiedGroupKFold(count, shuffle=True, random_state=0).split(labels, labels, own))
    everywhere = all(len(np.unique(labels[train])) == (counts > 0).sum() for train, _ in found)
    return found if everywhere else []


def _calibration(scores: NDArray, labels: NDArray[np.int64], classes: int) -> tuple[NDArray, NDArray]:
    """(C, S) and (C,): scores -> logits."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=10.0, max_iter=1_000).fit(scores, labels)
    return _row_a_class(model.coef_, model.intercept_, model.classes_, classes)
