"""A table of posts in, the best model that its data supports out: what `clfa fit` does, as a story.

Simple models on frozen encoders are compared out of fold on the training and validation posts, and the simplest that cannot
be told from the best is taken. Where the budget holds it, the text encoder is fine-tuned, and takes its place if it is told
to be better on validation. The test split is opened once, at the end.
"""

import json
import logging
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray

from clfa.config import DataConfig, LossConfig, ModalityConfig, ModelConfig, ProbeConfig, RunConfig, dump_config
from clfa.data.atomic import read_json, write_json, write_text
from clfa.data.records import load_manifest, write_dataset
from clfa.data.rows import Rows
from clfa.data.splits import load_rows, source_splits
from clfa.data.tables import guess_columns, read_table
from clfa.errors import UserError
from clfa.evidence.compare import gap_of
from clfa.evidence.evaluate import evaluate
from clfa.evidence.results import Fit, Scores, Tried, read_result, write_result
from clfa.metrics import METRICS, Score, all_scores, confusion, measure, metric_names, scores
from clfa.model.classifier import Classifier, build_classifier
from clfa.model.pipeline import Pipeline
from clfa.report.page import write_evaluation
from clfa.runs import Run
from clfa.studies.fine_tune import Tuned, better_by_nll, fine_tune
from clfa.training.probe import Array, fit_probe, groups_of, read_features
from clfa.training.train import train

PRESETS = {
    "small": {"text": "sentence-transformers/all-MiniLM-L6-v2", "image": "google/mobilenet_v2_1.0_224"},
    "strong": {"text": "sentence-transformers/all-mpnet-base-v2", "image": "google/efficientnet-b2"},
    "clip": {"text": "openai/clip-vit-base-patch32", "image": "openai/clip-vit-base-patch32"},
}
"""Encoders by hub name."""
SHIFTS = np.linspace(0, 1, 11)
ROUNDS = 2
RESAMPLES = 2_000

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A simple model, before and after it was tried."""

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


PROBES = {
    "logistic_regression": "logistic regression",
    "svm": "support vector machine",
    "mlp": "multi-layer perceptron",
}
"""Simplest first."""


def fit(
    source: str | Path,
    out: str | Path,
    minutes: float = 10.0,
    text_encoder: str | None = None,
    image_encoder: str | None = None,
    preset: str = "small",
    metric: str = "macro_f1",
    columns: Mapping[str, str] | None = None,
    folds: int = 0,
    fold: int = 0,
) -> Fit:
    """Find, fit, calibrate and test the best model within a budget; write a run directory with `leaderboard.json`.

    Features of the encoders are cached beside the data: a fit that was stopped goes on from them when it is started again,
    and one that is finished is not done again.

    Args:
        source: a dataset directory, or a CSV, TSV, JSONL or Parquet file that is imported into `OUT/data`.
        out: run directory to write.
        minutes: the budget, from the start on. Features are not cut short; of the models those that fit in are tried.
        text_encoder: local folder, hub name or `package:`; that of the preset by default.
        image_encoder: the same for images.
        preset: encoders by hub name, see `PRESETS`.
        metric: what the model is chosen by, on posts out of fold.
        columns: our name -> column name where a table's columns are to be named; others are guessed, and said.
        folds: cross-validate the whole fit over all splits: number of folds, and …
        fold: … the one that is held out as test.

    Raises:
        UserError: the source cannot be read, an encoder cannot be loaded, or there is no such metric or preset.
    """
    started = time.monotonic()
    run = Run(out)
    dataset = _dataset(Path(source), run, columns or {})
    data = DataConfig(str(dataset), train_splits=["train", "validation"], folds=folds, fold=fold)
    class_names = load_manifest(dataset)["labels"]
    _check(metric, preset, len(class_names))
    asked = _asked(metric, text_encoder, image_encoder, preset, data, dataset)
    if run.is_finished and run.leaderboard_file.is_file():
        result = read_result(Fit, run.leaderboard_file)
        if result.asked != asked:
            raise UserError(f"{run} holds another fit: choose another --out, or delete it")
        log.info("%s: already finished", run)
        return result
    rows = load_rows(data, "train")
    encoders = {"text": text_encoder or PRESETS[preset]["text"], "image": image_encoder or PRESETS[preset]["image"]}
    modalities = _modalities(rows, encoders)
    log.info("%s posts, %s; features of %s", f"{len(rows):,}", f"{len(class_names)} classes", ", ".join(modalities))
    features = _features(data, modalities, class_names, rows)
    tried = _try(features, rows, len(class_names), metric, started + 60 * minutes)
    tried, chosen = _choose(tried, rows, len(class_names), metric)
    alone = replace(data, train_splits=["train"])
    left = started + 60 * minutes - time.monotonic() - 3 * chosen.seconds
    tuned = fine_tune(alone, modalities, chosen.candidate.modalities, run.path / "candidates" / "fine_tuned", left)
    table, shift = _against(chosen, tuned, load_rows(data, "validation"), len(class_names), metric)
    offsets = _offsets(rows.labels, len(class_names), shift)
    run.metrics_file.unlink(missing_ok=True)  # of a fit that was stopped behind this point
    run.config_file.unlink(missing_ok=True)
    if tuned and table[-1].chosen:
        _take_over(run, tuned, offsets)
    else:
        _fit_probe(run, data, modalities, chosen.candidate, offsets)
    evaluation = evaluate(run.path, "test")
    write_evaluation(run, evaluation)
    result = Fit(
        asked=asked,
        metric=metric,
        posts=len(rows),
        test_posts=evaluation.rows,
        tried=[each.result(each is chosen) for each in tried],
        on_validation=table,
        test=evaluation.metrics,
        test_floors=evaluation.floors,
        seconds=round(time.monotonic() - started, 1),
        advice=_advice(rows, modalities, tried, chosen, metric),
    )
    write_result(run.leaderboard_file, result)
    return result


@dataclass(frozen=True)
class _Trial:
    """What a candidate says of posts that it has not seen."""

    candidate: Candidate
    log_probabilities: Float[NDArray, "posts classes"]
    shift: float
    predicted: NDArray[np.int64]
    metrics: Scores
    seconds: float
    verdict: str = ""

    def result(self, chosen: bool) -> Tried:
        return Tried(
            self.candidate.name,
            list(self.candidate.modalities),
            asdict(self.candidate.probe),
            self.shift,
            self.metrics,
            round(self.seconds, 1),
            chosen,
            self.verdict,
        )


def _check(metric: str, preset: str, classes: int) -> None:
    allowed = [name for name in metric_names(classes) if name not in ("auroc", "brier", "nll")]
    if metric not in allowed:
        raise UserError(f"metric {metric!r}: allowed are {', '.join(allowed)}")
    if preset not in PRESETS:
        raise UserError(f"preset {preset!r}: allowed are {', '.join(PRESETS)}")


def _asked(
    metric: str, text: str | None, image: str | None, preset: str, data: DataConfig, dataset: Path
) -> dict[str, str]:
    """What was asked for: another answer is not written over it."""
    encoders = PRESETS[preset]
    hashes = {name: split["sha256"][:16] for name, split in load_manifest(dataset)["splits"].items()}
    return {
        "metric": metric,
        "text_encoder": text or encoders["text"],
        "image_encoder": image or encoders["image"],
        "splits": json.dumps(hashes),
        "folds": f"{data.fold} of {data.folds}" if data.folds else "none",
    }


def _dataset(source: Path, run: Run, columns: Mapping[str, str]) -> Path:
    """The dataset directory: the source, or what the table is imported to."""
    if (source / "dataset.json").is_file():
        return source
    target = run.path / "data"
    if (target / "dataset.json").is_file():
        return target
    guessed = guess_columns(str(source), columns)
    has_images = "image" in guessed
    images = "" if has_images else "; no images"
    log.info("columns: %s%s", ", ".join(f"{name} = {column}" for name, column in guessed.items()), images)
    rows, class_names, described = read_table(str(source), None, {"image": "image", **guessed}, embed=has_images)
    stored = "embedded" if has_images else "none"
    write_dataset(rows, str(target), class_names, {"reader": "table", **described}, "normalised", stored, "fail")
    return target


def _modalities(rows: Rows, encoders: Mapping[str, str]) -> dict[str, ModalityConfig]:
    """A frozen encoder for each side that the posts have."""
    return {name: ModalityConfig(name, encoder, frozen=True) for name, encoder in encoders.items() if _says(rows, name)}


def _says(rows: Rows, kind: str) -> bool:
    """Whether any post holds more than nothing in this column."""
    return any(rows["text"]) if kind == "text" else rows.has(kind)


def _features(
    data: DataConfig, modalities: dict[str, ModalityConfig], class_names: Sequence[str], rows: Rows
) -> dict[str, Array]:
    """Modality -> (N, H), computed where they are not cached; the test split is not opened, but with folds."""
    if not modalities:
        raise UserError(f"{data.path} has posts with neither texts nor images")
    model = build_classifier(ModelConfig(modalities, probe=ProbeConfig()), list(class_names))
    pipeline = Pipeline(model)
    pipeline.cache(Path(data.path), source_splits(data, ["train"]))
    return read_features(pipeline, rows)


def _try(features: dict[str, Array], rows: Rows, classes: int, metric: str, deadline: float) -> list[_Trial]:
    """First every kind, then other settings around the best so far, as long as the time is enough."""
    tried: dict[str, _Trial] = {}
    groups = groups_of(rows)
    for _ in range(1 + ROUNDS):
        for candidate in _around(_best(tried.values(), metric).candidate) if tried else _first(list(features)):
            if candidate.name in tried:
                continue
            # a last fit on all posts, and the test, take about as long as a candidate
            slowest = max((each.seconds for each in tried.values()), default=0.0)
            if tried and time.monotonic() + 2 * slowest > deadline:
                log.info("the time is up: %s was not tried", candidate.name)
                return list(tried.values())
            own = {name: features[name] for name in candidate.modalities}
            fitted = fit_probe(candidate.probe, own, rows.labels, classes, groups)
            trial = _trial(candidate, fitted.out_of_fold, rows.labels, metric, fitted.seconds)
            log.info("%s: %s %.1f", candidate.name, METRICS[metric].title, 100 * trial.metrics[metric].value)
            tried[candidate.name] = trial
    return list(tried.values())


def _best(tried: Iterable[_Trial], metric: str) -> _Trial:
    return max(tried, key=lambda each: each.metrics[metric].value)


def _first(modalities: list[str]) -> list[Candidate]:
    """Each modality alone and all of them, by a linear model and by one with a kernel."""
    sides = [(name,) for name in modalities] + ([tuple(modalities)] if len(modalities) > 1 else [])
    return [Candidate(side, ProbeConfig("logistic_regression", 1.0)) for side in sides] + [
        Candidate(side, ProbeConfig("svm", 3.0)) for side in sides
    ]


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


def _trial(candidate: Candidate, out_of_fold: NDArray, labels: NDArray, metric: str, seconds: float) -> _Trial:
    classes = out_of_fold.shape[1]
    shift = _shift(out_of_fold, labels, metric)
    predicted = (out_of_fold + _offsets(labels, classes, shift)).argmax(1)
    return _Trial(candidate, out_of_fold, shift, predicted, _scores(out_of_fold, labels, predicted), seconds)


def _scores(log_probabilities: NDArray, labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> Scores:
    scored = measure(labels, predicted, log_probabilities.shape[1])
    return scored | {"nll": Score(all_scores(labels, np.exp(log_probabilities))["nll"])}


def _shift(log_probabilities: NDArray, labels: NDArray[np.int64], metric: str) -> float:
    """The decision rule that is best for the metric: log p - shift * log prior, one number for all classes."""
    classes = log_probabilities.shape[1]
    decided = [(log_probabilities + _offsets(labels, classes, shift)).argmax(1) for shift in SHIFTS]
    values = [float(scores(confusion(labels, predicted, classes))[metric]) for predicted in decided]
    return float(SHIFTS[int(np.argmax(values))])


def _offsets(labels: NDArray[np.int64], classes: int, shift: float) -> NDArray[np.float64]:
    """(C,) - shift * log prior (Menon et al. 2021): 0 decides for the most probable class, 1 as if all were as frequent."""
    counts = np.bincount(labels, minlength=classes)
    return -shift * np.log(counts.clip(min=1) / counts.sum())


def _choose(tried: list[_Trial], rows: Rows, classes: int, metric: str) -> tuple[list[_Trial], _Trial]:
    """The trials, best first, each with its verdict against the best; and the simplest that cannot be told from it, of
    several as simple ones the best."""
    best = _best(tried, metric)
    ordered = sorted(tried, key=lambda each: -each.metrics[metric].value)
    judged, equals = [], []
    for each in ordered:
        if each is best:
            judged.append(replace(each, verdict="the best"))
            equals.append(judged[-1])
            continue
        gap = gap_of(rows.labels, best.predicted[None], each.predicted[None], classes, metric, True, RESAMPLES)
        size = f"{gap.difference.text(METRICS[metric].unit, signed=True)}"
        judged.append(replace(each, verdict=f"{'worse' if gap.is_claim else 'cannot tell'}: {size}"))
        if not gap.is_claim:
            equals.append(judged[-1])
    return judged, min(equals, key=lambda each: (each.candidate.complexity, -each.metrics[metric].value))


def _against(
    chosen: _Trial, tuned: Tuned | None, validation: Rows, classes: int, metric: str
) -> tuple[list[Tried], float]:
    """The simple model and the fine-tuned one on the validation posts, and the shift of the one that is taken.

    The simple one stays unless the other has the better metric, and is told to be better in it or in NLL, which few posts
    tell sooner.
    """
    labels, count = validation.labels, len(validation)
    simple = chosen.log_probabilities[-count:]  # validation stands behind train
    predicted = chosen.predicted[-count:]
    first = replace(
        chosen, predicted=predicted, metrics=_scores(simple, labels, predicted), verdict="the simple one, out of fold"
    )
    if tuned is None:
        return [], chosen.shift
    shift = _shift(tuned.log_probabilities, labels, metric)
    predicted = (tuned.log_probabilities + _offsets(labels, classes, shift)).argmax(1)
    metrics = _scores(tuned.log_probabilities, labels, predicted)
    gap = gap_of(labels, first.predicted[None], predicted[None], classes, metric, True, RESAMPLES)
    nll, low, high = better_by_nll(labels, tuned.log_probabilities, simple)
    better = gap.difference.value > 0 and (gap.is_claim or high < 0)
    size = gap.difference.text(METRICS[metric].unit, signed=True)
    verdict = f"{'better' if better else 'cannot tell or worse'}: {size}, NLL {nll:+.3f} [{low:+.3f}, {high:+.3f}]"
    other = Tried(tuned.name, list(tuned.modalities), {}, shift, metrics, round(tuned.seconds, 1), better, verdict)
    return [first.result(not better), other], shift if better else chosen.shift


def _fit_probe(
    run: Run, data: DataConfig, modalities: Mapping[str, ModalityConfig], chosen: Candidate, offsets: NDArray
) -> None:
    """The probe, on train and validation, becomes the run."""
    log.info("fitting %s on train and validation", chosen.name)
    model = ModelConfig({name: modalities[name] for name in chosen.modalities}, probe=chosen.probe)
    train(RunConfig(data, model, str(run.path), loss=LossConfig(alignment_weight=0)))
    write_json(run.model_file, read_json(run.model_file) | {"offsets": offsets.tolist()})


def _take_over(run: Run, tuned: Tuned, offsets: NDArray) -> None:
    """The fine-tuned candidate, with its temperature and decision rule, becomes the run."""
    model = Classifier.from_pretrained(tuned.run.path)
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.div_(tuned.temperature)
    model.offsets = offsets.tolist()
    model.save_pretrained(run.path)
    config = replace(tuned.run.config(), output=str(run.path))
    write_text(run.config_file, dump_config(config))
    write_json(run.dataset_file, tuned.run.manifest())
    write_json(run.environment_file, read_json(tuned.run.environment_file))
    write_text(run.log_file, tuned.run.log_file.read_text(encoding="utf-8"))
    run.finish(tuned.run.metrics()["training"])
    shutil.rmtree(tuned.run.checkpoints, ignore_errors=True)


def _advice(
    rows: Rows, modalities: Mapping[str, ModalityConfig], tried: list[_Trial], chosen: _Trial, metric: str
) -> list[str]:
    """What to try next, from what was seen."""
    alone = {
        each.candidate.modalities[0]: each.metrics[metric].value
        for each in reversed(tried)
        if len(each.candidate.modalities) == 1
    }
    lines = []
    if len(modalities) > 1 and len(chosen.candidate.modalities) == 1:
        other = next(name for name in modalities if name not in chosen.candidate.modalities)
        lines.append(f"the {other} adds nothing that {len(rows):,} posts can tell: a stronger {other} encoder may")
    for name, value in alone.items():
        if value < max(alone.values()) - 0.1:
            lines.append(f"the {name} alone reaches {100 * value:.1f}: most of the signal is elsewhere")
    counts = np.bincount(rows.labels)
    if counts.min() < 50:
        lines.append(f"the rarest class has {counts.min()} posts: more of them are worth more than another model")
    lines.append(
        "train an encoder or a fusion on these posts with `clfa train`, and set it beside this one with `clfa compare`"
    )
    return lines
