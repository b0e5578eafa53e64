"""A run and a split -> predictions table -> metrics with intervals, floors -> report.

Everything after the predictions table reads the table, never the model.
"""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clfa.config import RunConfig
from clfa.configure import load_config
from clfa.data.collate import Collator
from clfa.data.records import load_manifest
from clfa.data.splits import dataset_path, load_rows, source_splits
from clfa.errors import UserError
from clfa.floors import floor_predictions
from clfa.frozen import cache_states
from clfa.metrics import bootstrap, calibration, confusion, scores
from clfa.model import Classifier
from clfa.predict import compute_logits


def evaluate(
    run: str | Path,
    split: str,
    dataset: str | None = None,
    report: bool = True,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Evaluate a trained run on one split.

    Writes `RUN/predictions/<split>.parquet` (`id, label, predicted, probability_<class>…, split, run`), the entry
    `<split>` of `RUN/metrics.json`, and `RUN/report.html`. With `dataset` they are called `<split>@<dataset>`.

    Args:
        run: run directory.
        split: `train`, `validation` or `test`.
        dataset: another dataset directory with the same labels; by default the one of the run.
        report: whether to compute the floors and write the report (a sweep does so once, not for each run).
        say: where progress lines go.

    Returns:
        `{"split", "rows", "metrics": {name: {"value", "ci95"}}, "ece", "confusion", "labels", "floors"}`; intervals are
        95 % percentile bootstraps over rows.

    Raises:
        UserError: not a finished run, or labels that differ.
    """
    run = Path(run)
    if not (run / "metrics.json").is_file():
        raise UserError(f"{run} is not a finished run (no metrics.json): train it with `clfa train`")
    config = load_config(RunConfig, run / "config.yaml")
    if dataset:
        config = replace(config, data=replace(config.data, path=dataset, folds=0, train_rows=None))
    labels = load_manifest(dataset_path(config.data))["labels"]
    rows = load_rows(config.data, split, config.seed)
    name = f"{split}@{Path(dataset).name}" if dataset else split  # never in the place of the run's own results
    model = Classifier.from_pretrained(run)
    if labels != model.labels:
        raise UserError(f"{config.data.path} has the labels {labels}, the model was trained on {model.labels}")
    probabilities = predict_split(model, config, rows, split)
    path = write_table(run, name, rows["id"], labels, np.array(rows["label"]), probabilities)
    result = {"split": name, **measure(*read_table(path)[1:], labels)}
    if report:
        say(f"{run}: fitting floors")
        train = load_rows(config.data, "train", config.seed)
        truth = np.array(rows["label"])
        floors = floor_predictions(train, rows, len(labels))
        result["floors"] = {name: measure(truth, found, None, labels)["metrics"] for name, found in floors.items()}
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    metrics[name] = result
    partial = run / "metrics.json.partial"
    partial.write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, run / "metrics.json")
    if report:
        from clfa.report import write_run_report

        write_run_report(run, name, rows)
    return result


def predict_split(model: Classifier, config: RunConfig, rows: Any, split: str) -> NDArray[np.float64]:
    """(N, C) probabilities of all rows; states of frozen encoders are read from their cache."""
    import torch

    model.to("cuda" if torch.cuda.is_available() else "cpu")
    states = cache_states(model, dataset_path(config.data), source_splits(config.data, [split]))
    preparers = {name: model.encoders[m.shares or name].preparer for name, m in model.config.modalities.items()}
    logits = compute_logits(model, rows, Collator(model.config.modalities, preparers, states), 64)
    return logits.double().softmax(1).numpy()


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
        result["ece"] = calibration(probabilities, truth)[0]
    return result
