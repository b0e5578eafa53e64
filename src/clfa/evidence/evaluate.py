"""A run and a split -> predictions table -> metrics with intervals, floors, evidence. The model is loaded once."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clfa.config import DataConfig
from clfa.data.cache import Engine
from clfa.data.records import load_manifest
from clfa.data.rows import Rows
from clfa.data.splits import load_rows, source_splits
from clfa.errors import UserError
from clfa.evidence.alignment import illustrate
from clfa.evidence.calibration import calibration, expected_error, reliability
from clfa.evidence.cues import FLIPS, neutralise
from clfa.evidence.floors import floor_scores, teacher_floor_predictions
from clfa.evidence.results import Calibration, Evaluation, Flip, Slice, as_dict
from clfa.evidence.slices import groups, seen_in_train
from clfa.evidence.training_cues import training_cues
from clfa.metrics import Score, confusion, fit_temperature, measure, rescale
from clfa.model.pipeline import Pipeline
from clfa.runs import Predictions, Run

log = logging.getLogger(__name__)


def evaluate(
    run: str | Path,
    split: str,
    dataset: str | None = None,
    evidence: bool = True,
    normalise_format: bool = True,
    engine: Engine = "plain",
) -> Evaluation:
    """Evaluate a trained run on one split.

    Writes `RUN/predictions/<split>.parquet` and the entry `<split>` of `RUN/metrics.json`; with evidence also
    `RUN/cues.json`, if the training posts are still there. With `dataset` the split is called `<split>@<dataset>`. Each time
    the test split is opened, a line is added to `RUN/test_ledger.jsonl`.

    Args:
        run: run directory.
        split: `train`, `validation` or `test`.
        dataset: another dataset directory with the same classes; by default the one of the run.
        evidence: whether to add floors and evidence (a sweep fits floors once, not for each run).
        normalise_format: whether to predict again without formatting cues, for `neutralised` and `flips`.
        engine: `ray` computes the states of frozen encoders on a cluster.

    Raises:
        UserError: not a finished run, classes that differ, or a data set that changed since the run was trained.
    """
    opened = Run(run).require_finished()
    own_data = opened.config().data
    data = replace(own_data, path=dataset, folds=0, train_rows=None) if dataset else own_data
    class_names = load_manifest(data.path)["labels"]
    pipeline = Pipeline.load(opened.path)
    if class_names != pipeline.class_names:
        raise UserError(f"{data.path} has the labels {class_names}, the model was trained on {pipeline.class_names}")
    name = f"{split}@{Path(dataset).name}" if dataset else split  # never in the place of the run's own results
    rows = opened.open_split(data, split, "evaluate")
    predictions = _predict(pipeline, data, split, rows, engine)
    opened.write_predictions(name, predictions)
    bins = reliability(predictions.probabilities, predictions.labels)
    counts = confusion(predictions.labels, predictions.predicted, len(class_names)).tolist()
    result = Evaluation(
        run=str(run),
        split=name,
        rows=len(rows),
        class_names=class_names,
        metrics=measure(predictions.labels, predictions.predicted, len(class_names)),
        confusion=counts,
        ece=expected_error(bins),
        reliability=bins,
    )
    if evidence:
        result = _with_evidence(result, opened, pipeline, data, split, rows, predictions)
        if normalise_format:
            log.info("%s: predicting without formatting cues", opened)
            neutralised, flips = _without_form(pipeline, rows, predictions)
            result = replace(result, neutralised=neutralised, flips=flips)
        result = replace(result, illustrations=illustrate(pipeline, rows, predictions))
    opened.add_metrics(name, as_dict(result))
    return result


def _predict(pipeline: Pipeline, data: DataConfig, split: str, rows: Rows, engine: Engine) -> Predictions:
    """Predictions of all rows; states of frozen encoders are read from their cache."""
    pipeline.cache(Path(data.path), source_splits(data, [split]), engine)
    logits = pipeline.logits(rows).double()
    predicted = pipeline.decide(logits.numpy())
    return Predictions(list(rows["id"]), pipeline.class_names, rows.labels, logits.softmax(1).numpy(), predicted)


def _with_evidence(
    result: Evaluation, run: Run, pipeline: Pipeline, data: DataConfig, split: str, rows: Rows, predictions: Predictions
) -> Evaluation:
    """Floors, posts not in the training set, calibration, groups of posts."""
    config = run.config()
    log.info("%s: fitting floors", run)
    train = load_rows(data, "train", config.seed)
    of_teacher = teacher_floor_predictions(data, config.teacher, train, rows)
    floors = floor_scores(train, rows, len(predictions.class_names), of_teacher)
    log.info("%s: posts in the training set, calibration, groups", run)
    by_group = {name: _slice(predictions, mask) for name, mask in groups(rows).items()}
    result = replace(result, floors=floors, floors_fitted_on=data.path, groups=by_group)
    if run.changed_splits(config.data):  # with another data set, the run's own may be gone or another by now
        log.info("%s is not what %s was trained on: no score on posts not in it, no calibration", config.data.path, run)
        return result
    own = load_rows(config.data, "train", config.seed)
    if own.has("text") and "text" in pipeline.config.columns():
        run.write_cues(training_cues(own.texts, own.labels, predictions.class_names))
    seen = seen_in_train(rows, own)
    if "validation" in config.data.train_splits:  # nothing can be fitted on posts that were trained on
        errors = calibration(predictions.probabilities, predictions.labels)
        calibrated = Calibration(None, errors, None)
    else:
        calibrated = _calibration(run, config.data, pipeline, split, predictions)
    return replace(result, deduplicated=_slice(predictions, ~seen), calibration=calibrated)


def _without_form(pipeline: Pipeline, rows: Rows, predictions: Predictions) -> tuple[Slice, dict[str, Flip]]:
    """What is left of a score without formatting cues, and how often a prediction flips when one of them is changed.

    Returns:
        All posts with white space, `<num>`, hashtags, emoji and ellipses neutralised at once; change -> flips.
    """
    from scipy.stats import binomtest

    texts, own = rows.texts, predictions.predicted

    def predict(changed: list[str], what: str) -> tuple[list[int], NDArray[np.int64]]:
        """Row numbers of the texts that differ, and the predictions of all rows."""
        numbers = [number for number, (old, new) in enumerate(zip(texts, changed)) if old != new]
        predicted = own.copy()
        if numbers:
            # dependencies are of the words that were there: other texts get the window of neighbouring words
            posts = [rows[number].replace(text=changed[number], dependencies=None) for number in numbers]
            predicted[numbers] = pipeline.decide(pipeline.logits(posts, f"predicting without {what}").numpy())
        return numbers, predicted

    flips: dict[str, Flip] = {}
    for name, change in FLIPS.items():
        numbers, predicted = predict([change(text) for text in texts], name)
        if numbers:
            test = binomtest(int((predicted != own).sum()), len(numbers))
            bounds = test.proportion_ci(method="wilson")
            rate = Score(test.k / len(numbers), float(bounds.low), float(bounds.high))
            flips[name] = Flip(len(numbers), int(test.k), rate)
    numbers, predicted = predict(neutralise(texts), "all of them")
    neutral = Slice(
        len(texts), measure(predictions.labels, predicted, len(predictions.class_names)), changed=len(numbers)
    )
    return neutral, flips


def _slice(predictions: Predictions, mask: NDArray[np.bool_]) -> Slice:
    """Scores of some of the posts; none where no post is left."""
    kept, classes = int(mask.sum()), len(predictions.class_names)
    metrics = measure(predictions.labels[mask], predictions.predicted[mask], classes) if kept else {}
    return Slice(kept, metrics, left_out=len(mask) - kept)


def _calibration(run: Run, data: DataConfig, pipeline: Pipeline, split: str, predictions: Predictions) -> Calibration:
    """Calibration errors before and after temperature scaling; the temperature is fitted on validation."""
    if not run.predictions_file("validation").is_file():
        rows = load_rows(data, "validation")
        run.write_predictions("validation", _predict(pipeline, data, "validation", rows, "plain"))
    validation = run.predictions("validation")
    temperature = fit_temperature(validation.probabilities, validation.labels)
    scaled = rescale(predictions.probabilities, temperature)
    before = calibration(predictions.probabilities, predictions.labels)
    after = None if split == "validation" else calibration(scaled, predictions.labels)
    return Calibration(temperature, before, after)
