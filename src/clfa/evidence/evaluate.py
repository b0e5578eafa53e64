"""A run and a split -> predictions table -> metrics with intervals, floors, evidence -> report and model card.

Everything after the predictions table reads the table, never the model.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import clfa
from clfa.config import RunConfig, load_config
from clfa.data.records import load_manifest
from clfa.data.splits import changed_splits, dataset_path, load_rows, source_splits
from clfa.errors import UserError
from clfa.evidence.calibration import calibration, fit_temperature, reliability, rescale
from clfa.evidence.cues import FLIPS, neutralise
from clfa.evidence.floors import floor_predictions
from clfa.evidence.slices import groups, seen_in_train
from clfa.metrics import bootstrap, confusion, scores
from clfa.model.batch import Collator
from clfa.model.classifier import Classifier
from clfa.model.frozen import cache_states
from clfa.report.card import write_card
from clfa.serving.predictor import compute_logits

Say = Callable[[str], None]


def evaluate(
    run: str | Path,
    split: str,
    dataset: str | None = None,
    report: bool = True,
    normalise_format: bool = True,
    say: Say = print,
) -> dict[str, Any]:
    """Evaluate a trained run on one split.

    Writes `RUN/predictions/<split>.parquet` (`id, label, predicted, probability_<class>…, split, run`), the entry
    `<split>` of `RUN/metrics.json`, `RUN/report.html` and the model card `RUN/README.md`. With `dataset` the split is called
    `<split>@<dataset>`. Each time the test split is opened, a line is added to `RUN/test_ledger.jsonl`.

    Args:
        run: run directory.
        split: `train`, `validation` or `test`.
        dataset: another dataset directory with the same labels; by default the one of the run.
        report: whether to compute floors and evidence and write the report (a sweep does so once, not for each run).
        normalise_format: whether to predict again without cues of form, for `neutralised` and `flips`.
        say: where progress lines go.

    Returns:
        `{"split", "rows", "metrics": {name: {"value", "ci95"}}, "ece", "confusion", "labels"}`, and with `report`
        `floors`, `deduplicated` (posts that train does not hold), `neutralised` and `flips` (see `without_form`),
        `calibration` (before and after a temperature fitted on validation) and `groups`; intervals are 95 % percentile
        bootstraps over posts.

    Raises:
        UserError: not a finished run, labels that differ, or a data set that changed since the run was trained.
    """
    run = Path(run)
    if not (run / "metrics.json").is_file():
        raise UserError(f"{run} is not a finished run (no metrics.json): train it with `clfa train`")
    trained = load_config(RunConfig, run / "config.yaml")
    config = trained
    if dataset:
        config = replace(config, data=replace(config.data, path=dataset, folds=0, train_rows=None))
    labels = load_manifest(dataset_path(config.data))["labels"]
    model = Classifier.from_pretrained(run)
    if labels != model.labels:
        raise UserError(f"{config.data.path} has the labels {labels}, the model was trained on {model.labels}")
    name = f"{split}@{Path(dataset).name}" if dataset else split  # never in the place of the run's own results
    rows = open_split(run, config, split, "evaluate")
    path = write_table(
        run, name, rows["id"], labels, np.array(rows["label"]), predict_split(model, config, rows, split)
    )
    _, truth, predicted, probabilities = read_table(path)
    result = {"split": name, **measure(truth, predicted, probabilities, labels)}
    if report:
        say(f"{run}: fitting floors")
        floors = floor_predictions(load_rows(config.data, "train", config.seed), rows, len(labels))
        result["floors"] = {name: measure(truth, found, None, labels)["metrics"] for name, found in floors.items()}
        say(f"{run}: posts that train holds, calibration, groups")
        result["floors_fitted_on"] = config.data.path
        own = not changed_splits(run, trained.data)  # with `dataset`, the run's own data may be gone or another by now
        if own:
            train = load_rows(trained.data, "train", trained.seed)
            files = [source_splits(data.data, [which]) for data, which in ((config, split), (trained, "train"))]
            seen = seen_in_train(Path(config.data.path), rows, Path(trained.data.path), train, *files)
            result["deduplicated"] = {"left_out": int(seen.sum()), **_part(truth, predicted, ~seen, labels)}
            result["calibration"] = _calibrated(run, model, trained, truth, probabilities, split)
        else:
            say(
                f"{trained.data.path} is not what {run} was trained on any more: no de-duplicated score, no calibration"
            )
        result["groups"] = {group: _part(truth, predicted, mask, labels) for group, mask in groups(rows).items()}
        if normalise_format:
            say(f"{run}: predicting without cues of form")
            result |= without_form(model, config, rows, split, truth, probabilities)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    metrics[name] = result
    partial = run / "metrics.json.partial"
    partial.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, run / "metrics.json")
    write_card(run)
    if report:
        from clfa.report.run_page import write_run_report

        write_run_report(run, name, rows)
    return result


def open_split(run: Path, config: RunConfig, split: str, purpose: str) -> Any:
    """The rows of a split for judging a run; opening `test` leaves a line in `RUN/test_ledger.jsonl`.

    Raises:
        UserError: the data set at this path is no longer the one that the run was trained on.
    """
    manifest = load_manifest(config.data.path)
    changed = (
        changed_splits(run, config.data) if load_config(RunConfig, run / "config.yaml").data == config.data else []
    )
    if changed:
        raise UserError(
            f"{config.data.path} is not what {run} was trained on ({', '.join(changed)} differ from {run}/dataset.json): "
            "restore it or train again; to judge the run on new posts, import these to another folder and give --dataset"
        )
    rows = load_rows(config.data, split, config.seed)
    if split == "test":
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "purpose": purpose,
            "dataset": config.data.path,
            "fold": config.data.fold if config.data.folds else None,
            "rows": len(rows),
            "sha256": {name: manifest["splits"][name]["sha256"] for name in source_splits(config.data, ["test"])},
            "clfa_version": clfa.__version__,
        }
        with open(run / "test_ledger.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
    return rows


def predict_split(
    model: Classifier, config: RunConfig, rows: Any, split: str, texts: Sequence[str] | None = None
) -> NDArray[np.float64]:
    """(N, C) probabilities of all rows; states of frozen encoders are read from their cache.

    Args:
        model: the trained classifier.
        config: of its run.
        rows: rows of the split.
        split: which files hold them.
        texts: other texts to read in the place of their own; these are encoded anew.
    """
    import torch

    model.to("cuda" if torch.cuda.is_available() else "cpu")
    modalities = model.config.modalities
    states = cache_states(model, dataset_path(config.data), source_splits(config.data, [split]))
    if texts is not None:
        # dependencies are of the words that were there: other texts get the window of neighbouring words
        rows = [{**row, "text": text, "dependencies": None} for row, text in zip(rows, texts)]
        states = {name: cache for name, cache in states.items() if (modalities[name].column or name) != "text"}
    preparers = {name: model.encoders[m.shares or name].preparer for name, m in modalities.items()}
    logits = compute_logits(model, rows, Collator(modalities, preparers, states), 64)
    return logits.double().softmax(1).numpy()


def without_form(
    model: Classifier, config: RunConfig, rows: Any, split: str, truth: NDArray, probabilities: NDArray[np.float64]
) -> dict[str, Any]:
    """What is left of a score without cues of form, and how often a prediction flips when one of them is changed.

    Returns:
        `{"neutralised": metrics with white space, `<num>`, hashtags, emoji and ellipses all neutralised at once,
        "flips": {change: {"posts": texts it changes, "flipped", "rate", "ci95" (Wilson)}}}`.
    """
    from scipy.stats import binomtest

    texts = [text or "" for text in rows["text"]]
    predicted = probabilities.argmax(1)

    def predict(changed: list[str]) -> tuple[NDArray, NDArray]:
        """Row numbers of the texts that differ, and the predictions of all rows."""
        numbers = np.array([n for n, (old, new) in enumerate(zip(texts, changed)) if old != new], dtype=int)
        found = predicted.copy()
        if len(numbers):
            some = [changed[number] for number in numbers]
            found[numbers] = predict_split(model, config, rows.select(numbers), split, some).argmax(1)
        return numbers, found

    flips: dict[str, Any] = {}
    for name, change in FLIPS.items():
        numbers, found = predict([change(text) for text in texts])
        if len(numbers):
            test = binomtest(int((found != predicted).sum()), len(numbers))
            bounds = test.proportion_ci(method="wilson")
            flips[name] = {
                "posts": len(numbers),
                "flipped": test.k,
                "rate": test.k / len(numbers),
                "ci95": [bounds.low, bounds.high],
            }
    numbers, found = predict(neutralise(texts))
    everything = np.ones(len(texts), dtype=bool)
    return {
        "neutralised": {"changed": len(numbers), **_part(truth, found, everything, model.labels)},
        "flips": flips,
    }


def write_table(
    run: Path, split: str, ids: Any, labels: list[str], truth: NDArray, probabilities: NDArray[np.float64]
) -> Path:
    """Write the predictions table of one run and split."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {"id": list(ids), "label": [labels[number] for number in truth]}
    columns["predicted"] = [labels[number] for number in probabilities.argmax(1)]
    columns |= {f"probability_{name}": probabilities[:, number] for number, name in enumerate(labels)}
    columns |= {"split": [split] * len(truth), "run": [run.name] * len(truth)}
    path = run / "predictions" / f"{split}.parquet"
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def read_table(path: Path) -> tuple[list[str], NDArray, NDArray, NDArray[np.float64]]:
    """Ids, (N,) labels and predictions as class numbers, (N, C) probabilities of a predictions table.

    Raises:
        UserError: there is none.
    """
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UserError(f"{path} not found: make it with `clfa evaluate {path.parent.parent} --split {path.stem}`")
    table = pq.read_table(path).to_pydict()
    names = [name.removeprefix("probability_") for name in table if name.startswith("probability_")]
    number = {name: place for place, name in enumerate(names)}
    truth, predicted = (np.array([number[name] for name in table[column]]) for column in ("label", "predicted"))
    return table["id"], truth, predicted, np.stack([table[f"probability_{name}"] for name in names], axis=1)


def measure(truth: NDArray, predicted: NDArray, probabilities: NDArray | None, labels: list[str]) -> dict[str, Any]:
    """All metrics of one prediction with 95 % intervals, the confusion matrix and, with probabilities, the ECE."""
    matrix = confusion(truth, predicted, len(labels))
    intervals = bootstrap(matrix)
    result: dict[str, Any] = {
        "rows": len(truth),
        "labels": labels,
        "confusion": matrix.tolist(),
        "metrics": {
            name: {"value": float(value), "ci95": list(intervals[name])} for name, value in scores(matrix).items()
        },
    }
    if probabilities is not None:
        result["ece"] = sum(n * abs(right - sure) for sure, right, n in reliability(probabilities, truth)) / len(truth)
    return result


def _part(truth: NDArray, predicted: NDArray, mask: NDArray, labels: list[str]) -> dict[str, Any]:
    """Rows and metrics of some of the posts; no metrics where none is left."""
    if not mask.any():
        return {"rows": 0, "metrics": None}
    found = measure(truth[mask], predicted[mask], None, labels)
    return {"rows": found["rows"], "metrics": found["metrics"]}


def _calibrated(
    run: Path, model: Classifier, config: RunConfig, truth: NDArray, probabilities: NDArray[np.float64], split: str
) -> dict[str, Any]:
    """Calibration errors before and after temperature scaling; the temperature is fitted on validation, and there is no
    `after` for validation itself."""
    path = run / "predictions" / "validation.parquet"
    if not path.is_file():
        rows = load_rows(config.data, "validation")
        found = predict_split(model, config, rows, "validation")
        write_table(run, "validation", rows["id"], model.labels, np.array(rows["label"]), found)
    _, labels, _, fitted_on = read_table(path)
    temperature = fit_temperature(fitted_on, labels)
    return {
        "temperature": temperature,
        "before": calibration(probabilities, truth),
        "after": None if split == "validation" else calibration(rescale(probabilities, temperature), truth),
    }
