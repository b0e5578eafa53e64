"""How long to train, when to stop and by what to choose the epoch: 5-fold cross-validation -> a JSON file.

    python docs/stopping.py configs/mvsa_single/clfa.yaml docs/results/stopping.json 0 1 2 3 4

For each schedule (its learning rate falls to 0 at its last epoch) and fold a run is trained once to its end, and all of its
epochs are predicted on the validation posts and on the posts left out. What each rule of stopping and choosing would have
kept is then read off: no rule needs a run of its own. Kept are fold -> rule -> confusion matrix of the posts left out. These
posts choose the defaults of training, so their scores are no results.
"""

import logging
import sys
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from clfa.config import RunConfig, build_config, override, read_yaml
from clfa.data.atomic import read_json, write_json
from clfa.data.splits import load_rows
from clfa.metrics import METRICS, all_scores, confusion
from clfa.training.setup import set_up
from clfa.training.train import State, _train_epoch

FOLDS = 5
SCHEDULES = {30: 14, 10: 10, 5: 5}
"""Epochs of the schedule -> epochs trained; patience 5 has ended every run of 30 by then."""
MONITORS = ("macro_f1", "accuracy", "nll", "auroc")
CHANGES = {"loss.alignment_weight": 0, "train.head_learning_rate": 3e-4, "train.precision": "fp32"}

log = logging.getLogger(__name__)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    source, target, folds = Path(sys.argv[1]), Path(sys.argv[2]), map(int, sys.argv[3:])
    for fold in folds:
        kept = {}
        for epochs, trained in SCHEDULES.items():
            changes = {"train.epochs": epochs, "data.folds": FOLDS, "data.fold": fold, "output": "none"}
            config = build_config(RunConfig, override(read_yaml(source), CHANGES | changes))
            labels, by_epoch = run(config, trained)
            classes = int(labels.max()) + 1
            for name, chosen in rules(by_epoch, epochs).items():
                kept[name] = {
                    "epoch": chosen + 1,
                    "confusion": confusion(labels, by_epoch[chosen]["predicted"], classes).tolist(),
                }
        write_json(target, (read_json(target) or {}) | {str(fold): kept})


def run(config: RunConfig, trained: int) -> tuple[NDArray, list[dict[str, Any]]]:
    """Labels of the posts left out; for each epoch the validation scores and the answers to those posts."""
    torch.manual_seed(config.seed)
    setup, state, result = set_up(config), State(), []
    rows = load_rows(config.data, "test")
    for epoch in range(trained):
        setup.sampler.set_epoch(epoch)
        _train_epoch(setup, config, state, iter(setup.batches), lambda: None)
        state.end_epoch(None, higher_is_better=False)
        validation = all_scores(setup.validation.labels, setup.pipeline.probabilities(setup.validation, "validating"))
        predicted = setup.pipeline.probabilities(rows, "predicting").argmax(1)
        result.append({"validation": validation, "predicted": predicted})
        log.info("fold %s, %s of %s epochs", config.data.fold, epoch + 1, config.train.epochs)
    return rows.labels, result


def rules(epochs: list[dict[str, Any]], schedule: int) -> dict[str, int]:
    """Rule -> the epoch that it keeps, from 0."""
    patience = 5 if schedule > len(epochs) else schedule
    result = {} if schedule > len(epochs) else {f"{schedule} epochs, the last": len(epochs) - 1}
    for monitor in MONITORS:
        sign = 1 if METRICS[monitor].higher_is_better else -1
        best = 0
        for number, epoch in enumerate(epochs):
            if number - best > patience:
                break
            if sign * epoch["validation"][monitor] > sign * epochs[best]["validation"][monitor]:
                best = number
        stop = ", patience 5" if schedule > len(epochs) else ""
        result[f"{schedule} epochs{stop}, best {METRICS[monitor].title}"] = best
    return result


if __name__ == "__main__":
    main()
