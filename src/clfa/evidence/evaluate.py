"""A run and a split -> predictions table -> metrics with intervals, floors, evidence.

The model is loaded once; everything that can be told from the predictions is.
"""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clfa.config import DataConfig, RunConfig
from clfa.data.records import load_manifest
from clfa.data.rows import Rows
from clfa.data.splits import load_rows, source_splits
from clfa.errors import UserError
from clfa.evidence.alignment import illustrate
from clfa.evidence.calibration import calibration, expected_error, fit_temperature, reliability, rescale
from clfa.evidence.cues import FLIPS, neutralise
from clfa.evidence.floors import floor_scores
from clfa.evidence.results import Calibration, Evaluation, Flip, Slice, as_dict
from clfa.evidence.slices import groups, seen_in_train
from clfa.metrics import Score, confusion, measure
from clfa.model.pipeline import Pipeline
from clfa.runs import Predictions, Run

log = logging.getLogger(__name__)


def evaluate(
    run: str | Path,
    split: str,
    dataset: str | None = None,
    evidence: bool = True,
    normalise_format: bool = True,
) -> Evaluation:
    """Evaluate a trained run on one split.

    Writes `RUN/predictions/<split>.parquet` and the entry `<split>` of `RUN/metrics.json`. With `dataset` the split is
    called `<split>@<dataset>`. Each time the test split is opened, a line is added to `RUN/test_ledger.jsonl`.

    Args:
        run: run directory.
        split: `train`, `validation` or `test`.
        dataset: another dataset directory with the same classes; by default the one of the run.
        evidence: whether to add floors and evidence (a sweep fits floors once, not for each run).
        normalise_format: whether to predict again without formatting cues, for `neutralised` and `flips`.

    Raises:
        UserError: not a finished run, classes that differ, or a data set that changed since the run was trained.
    """
    opened = Run(run).require_finished()
    trained = opened.config()
    data = replace(trained.data, path=dataset, folds=0, train_rows=None) if dataset else trained.data
    class_names = load_manifest(data.path)["labels"]
    pipeline = Pipeline.load(opened.path)
    if class_names != pipeline.class_names:
        raise UserError(f"{data.path} has the labels {class_names}, the model was trained on {pipeline.class_names}")
    name = f"{split}@{Path(dataset).name}" if dataset else split  # never in the place of the run's own results
    rows = opened.open_split(data, split, "evaluate")
    found = _predict(pipeline, data, split, rows)
    opened.write_predictions(name, found)
    result = _scores(str(run), name, found)
    if evidence:
        result = _with_evidence(result, opened, trained, pipeline, data, split, rows, found)
        if normalise_format:
            log.info("%s: predicting without formatting cues", opened)
            neutralised, flips = _without_form(pipeline, rows, found)
            result = replace(result, neutralised=neutralised, flips=flips)
        result = replace(result, illustrations=illustrate(pipeline, rows, found))
    opened.add_metrics(name, as_dict(result))
    return result


def _predict(pipeline: Pipeline, data: DataConfig, split: str, rows: Rows) -> Predictions:
    """Predictions of all rows; states of frozen encoders are read from their cache."""
    pipeline.cache(Path(data.path), source_splits(data, [split]))
    return Predictions(list(rows["id"]), pipeline.class_names, rows.labels, pipeline.probabilities(rows))


def _scores(run: str, split: str, found: Predictions) -> Evaluation:
    classes, bins = len(found.class_names), reliability(found.probabilities, found.labels)
    return Evaluation(
        run=run,
        split=split,
        rows=len(found.ids),
        class_names=found.class_names,
        metrics=measure(found.labels, found.predicted, classes),
        confusion=confusion(found.labels, found.predicted, classes).tolist(),
        ece=expected_error(bins),
        reliability=bins,
    )


def _with_evidence(
    result: Evaluation,
    run: Run,
    trained: RunConfig,
    pipeline: Pipeline,
    data: DataConfig,
    split: str,
    rows: Rows,
    found: Predictions,
) -> Evaluation:
    """Floors, posts not in the training set, calibration, groups of posts."""
    log.info("%s: fitting floors", run)
    floors = floor_scores(load_rows(data, "train", trained.seed), rows, len(found.class_names))
    log.info("%s: posts in the training set, calibration, groups", run)
    of_groups = {name: _slice(found, mask) for name, mask in groups(rows).items()}
    result = replace(result, floors=floors, floors_fitted_on=data.path, groups=of_groups)
    if run.changed_splits(trained.data):  # with another data set, the run's own may be gone or another by now
        log.info(
            "%s is not what %s was trained on: no score on posts not in it, no calibration", trained.data.path, run
        )
        return result
    seen = seen_in_train(rows, load_rows(trained.data, "train", trained.seed))
    return replace(
        result,
        deduplicated=_slice(found, ~seen),
        calibration=_calibration(run, trained, pipeline, split, found),
    )


def _without_form(pipeline: Pipeline, rows: Rows, found: Predictions) -> tuple[Slice, dict[str, Flip]]:
    """What is left of a score without formatting cues, and how often a prediction flips when one of them is changed.

    Returns:
        All posts with white space, `<num>`, hashtags, emoji and ellipses neutralised at once; change -> flips.
    """
    from scipy.stats import binomtest

    texts = rows.texts

    def predict(changed: list[str], what: str) -> tuple[list[int], NDArray[np.int64]]:
        """Row numbers of the texts that differ, and the predictions of all rows."""
        numbers = [number for number, (old, new) in enumerate(zip(texts, changed)) if old != new]
        predicted = found.predicted.copy()
        if numbers:
            # dependencies are of the words that were there: other texts get the window of neighbouring words
            posts = [rows[number].replace(text=changed[number], dependencies=None) for number in numbers]
            predicted[numbers] = pipeline.probabilities(posts, f"predicting without {what}").argmax(1)
        return numbers, predicted

    flips: dict[str, Flip] = {}
    for name, change in FLIPS.items():
        numbers, predicted = predict([change(text) for text in texts], name)
        if numbers:
            test = binomtest(int((predicted != found.predicted).sum()), len(numbers))
            bounds = test.proportion_ci(method="wilson")
            rate = Score(test.k / len(numbers), float(bounds.low), float(bounds.high))
            flips[name] = Flip(len(numbers), int(test.k), rate)
    numbers, predicted = predict(neutralise(texts), "all of them")
    neutral = Slice(len(texts), measure(found.labels, predicted, len(found.class_names)), changed=len(numbers))
    return neutral, flips


def _slice(found: Predictions, mask: NDArray[np.bool_]) -> Slice:
    """Scores of some of the posts; none where no post is left."""
    kept, classes = int(mask.sum()), len(found.class_names)
    metrics = measure(found.labels[mask], found.predicted[mask], classes) if kept else {}
    return Slice(kept, metrics, left_out=len(mask) - kept)


def _calibration(run: Run, trained: RunConfig, pipeline: Pipeline, split: str, found: Predictions) -> Calibration:
    """Calibration errors before and after temperature scaling; the temperature is fitted on validation."""
    if not run.predictions_file("validation").is_file():
        rows = load_rows(trained.data, "validation")
        run.write_predictions("validation", _predict(pipeline, trained.data, "validation", rows))
    fitted_on = run.predictions("validation")
    temperature = fit_temperature(fitted_on.probabilities, fitted_on.labels)
    scaled = rescale(found.probabilities, temperature)
    return Calibration(
        temperature,
        before=calibration(found.probabilities, found.labels),
        after=None if split == "validation" else calibration(scaled, found.labels),
    )
