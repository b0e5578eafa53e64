"""Are posts that lack their text or image predicted as well as by a model of the other alone? 5 folds -> a JSON file.

    python docs/missing.py configs/mvsa_single/clfa.yaml docs/results/missing.json runs/missing

For two fusions and each of `SYSTEMS` five folds are trained (mean features of frozen encoders, no alignment, one seed), and
the posts left out are predicted three times: whole, without their image, and with an empty text. Kept are the scores of each
system on what was left, and what each model of both modalities gains over the model of the modality that was left, with
intervals and p over the posts of these runs. Time: 10 minutes on one CPU core, once the features are cached.
"""

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clfa.config import RunConfig, build_config, override, read_yaml
from clfa.data.splits import load_rows, source_splits
from clfa.evidence.compare import gap_of
from clfa.evidence.results import write_result
from clfa.metrics import measure
from clfa.model.pipeline import Pipeline
from clfa.training.train import train

FOLDS = 5
LEFT: dict[str, dict[str, Any]] = {"both": {}, "text": {"image": None}, "image": {"text": ""}}
"""What is left of the posts -> the columns that are taken away."""
CHANGES = {
    "loss.alignment_weight": 0,
    "model.modalities.text.averaged": True,
    "model.modalities.image.averaged": True,
    "train.precision": "fp32",
    "train.monitor": "nll",
    "data.folds": FOLDS,
}
SYSTEMS: dict[str, dict[str, Any]] = {
    "text": {"model.modalities.image": None},
    "image": {"model.modalities.text": None},
    "masked": {},
    "token, dropout 0.67": {"model.missing": "token", "train.modality_dropout": 0.67},
}
METRICS = ("accuracy", "macro_f1")

log = logging.getLogger(__name__)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    source, target, runs = map(Path, sys.argv[1:4])
    found: dict[str, Any] = {}
    for fusion in ("concat", "cross_attention"):
        predicted: dict[str, dict[str, NDArray[np.int64]]] = {}
        for system, changes in SYSTEMS.items():
            own = CHANGES | changes | {"model.fusion.name": fusion}
            labels, predicted[system] = cross_validate(override(read_yaml(source), own), runs / fusion / system)
        found[fusion] = compared(labels, predicted)
    write_result(target, found)


def cross_validate(values: dict[str, Any], runs: Path) -> tuple[NDArray, dict[str, NDArray[np.int64]]]:
    """Labels of the posts left out, fold after fold; what was left of the posts -> predicted classes."""
    labels, predicted = [], {left: [] for left in LEFT}
    for fold in range(FOLDS):
        changes = {"data.fold": fold, "output": str(runs / f"fold-{fold}")}
        config = build_config(RunConfig, override(values, changes))
        pipeline = Pipeline.load(train(config), batch_size=256)
        rows = load_rows(config.data, "test")
        pipeline.cache(Path(config.data.path), source_splits(config.data, ["test"]))
        labels.append(rows.labels)
        for left, gone in LEFT.items():
            logits = pipeline.logits([row.replace(**gone) for row in rows])
            predicted[left].append(pipeline.decide(logits.numpy()))
        log.info("%s, fold %s", runs, fold)
    return np.concatenate(labels), {left: np.concatenate(folds) for left, folds in predicted.items()}


def compared(labels: NDArray, predicted: dict[str, dict[str, NDArray[np.int64]]]) -> dict[str, Any]:
    """The scores of each system on what was left of the posts, and its gain over the system of that modality alone."""
    classes = int(labels.max()) + 1
    systems: dict[str, Any] = {}
    for system, by_left in predicted.items():
        scores, gains = {}, {}
        for left, answers in by_left.items():
            measured = measure(labels, answers, classes)
            scores[left] = {metric: measured[metric] for metric in METRICS}
            if left in predicted and system not in LEFT:
                pair = (labels, predicted[left][left][None], answers[None], classes)
                gains[left] = {metric: gap_of(*pair, metric, paired=True) for metric in METRICS}
        systems[system] = {"scores": scores, "gains": gains}
    return systems


if __name__ == "__main__":
    main()
