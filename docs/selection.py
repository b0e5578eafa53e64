"""Fewer labels than at random? Rounds of labelling on posts whose labels are hidden, chosen in several ways -> a table.

    python docs/selection.py data/mvsa_single TEXT_ENCODER IMAGE_ENCODER     -> docs/results/selection.json

All splits together; 1,500 posts are the test of each draw, the others the pool. 100 random posts are labelled, then 100 in
each round; a logistic regression on the mean features of both frozen encoders is fitted anew, calibrated out of fold, and
judged. The ways are those of `clfa select`, whole and in parts, against random posts, paired by draw.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch

from clfa.config import ModalityConfig, ModelConfig, ProbeConfig
from clfa.data.rows import Rows
from clfa.evidence.selection import FACTOR, disagreement, spread, uncertainty
from clfa.metrics import all_scores
from clfa.model.classifier import build_classifier
from clfa.model.pipeline import Pipeline
from clfa.training.probe import fit_probe, read_features

STORED = Path(__file__).parent / "results" / "selection.json"
START, STEP, ROUNDS, TEST, DRAWS = 100, 100, 8, 1_500, 20
METRICS = ("accuracy", "macro_f1", "nll")
WAYS = {
    "random": (None, False),
    "uncertainty": ("u", False),
    "disagreement": ("d", False),
    "both": ("u + d", False),
    "uncertainty, spread": ("u", True),
    "both, spread (clfa select)": ("u + d", True),
}
"""Name -> what is summed, and whether the posts are spread."""


def main(dataset: str, text: str, image: str) -> None:
    modalities = {
        "text": ModalityConfig("text", text, frozen=True),
        "image": ModalityConfig("image", image, frozen=True),
    }
    rows = Rows(Path(dataset), ["train", "validation", "test"])
    config = ModelConfig(modalities, probe=ProbeConfig("logistic_regression", 1.0))
    names = json.loads(Path(dataset, "dataset.json").read_text())["labels"]
    pipeline = Pipeline(build_classifier(config, names, "normalised"))
    pipeline.cache(Path(dataset), ["train", "validation", "test"])
    features = read_features(pipeline, rows)
    curves: dict[str, list] = {way: [] for way in WAYS}
    for draw in range(DRAWS):
        order = np.random.default_rng(draw).permutation(len(rows))
        for way, (what, spreading) in WAYS.items():
            curves[way].append(
                curve(features, rows.labels, order[TEST:], order[:TEST], len(names), what, spreading, draw)
            )
        print(draw, {way: round(100 * own[-1][-1]["macro_f1"], 1) for way, own in curves.items()}, flush=True)
        STORED.write_text(
            json.dumps({"posts": len(rows), "test": TEST, "labels": labels(), "curves": curves}, indent=1)
        )


def labels() -> list[int]:
    return [START + STEP * number for number in range(ROUNDS + 1)]


def curve(features, truth, pool, test, classes, what, spreading, draw) -> list[dict[str, float]]:
    """Scores on test after each round."""
    known, generator, found = list(pool[:START]), np.random.default_rng([draw, 1]), []
    for number in range(ROUNDS + 1):
        own = {name: values[known] for name, values in features.items()}
        probe = fit_probe(ProbeConfig("logistic_regression", 1.0), own, truth[known], classes).probe
        scores = all_scores(truth[test], predict(probe, features, test))
        found.append({name: scores[name] for name in METRICS})
        if number < ROUNDS:
            rest = np.setdiff1d(pool, known)
            known += (
                generator.permutation(rest)[:STEP] if what is None else choose(probe, features, rest, what, spreading)
            ).tolist()
    return found


def choose(probe, features, rest, what, spreading) -> np.ndarray:
    information = np.zeros(len(rest))
    if "u" in what:
        information += uncertainty(predict(probe, features, rest))
    if "d" in what:
        information += disagreement(*(predict(probe, features, rest, hidden) for hidden in ("image", "text")))
    best = np.argsort(-information, kind="stable")
    if not spreading:
        return rest[best[:STEP]]
    best = best[: FACTOR * STEP]
    embeds = np.concatenate([values[rest[best]] for values in features.values()], 1)
    return rest[best[spread(embeds, information[best], STEP)]]


def predict(probe, features, places, hidden: str = "") -> np.ndarray:
    own = [
        np.full_like(values[places], np.nan) if name == hidden else values[places] for name, values in features.items()
    ]
    return probe(torch.from_numpy(np.concatenate(own, 1))).double().softmax(1).numpy()


if __name__ == "__main__":
    main(*sys.argv[1:])
