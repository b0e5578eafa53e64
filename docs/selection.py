"""Fewer labels than at random? Rounds of labelling on posts whose labels are hidden, chosen in several ways -> a table.

    python docs/selection.py data/mvsa_single TEXT_ENCODER IMAGE_ENCODER     -> docs/results/selection.json

All splits together; 1,500 posts are the test of each draw, the others the pool. 100 random posts are labelled, then 100 in
each round; a logistic regression on the mean features of both frozen encoders is fitted anew, calibrated out of fold, and
judged. The ways are those of `clfa select`, whole and in parts, against random posts, paired by draw.
"""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

from clfa.config import ModalityConfig, ModelConfig, ProbeConfig
from clfa.data.rows import Rows
from clfa.evidence.selection import disagreement, uncertainty
from clfa.metrics import all_scores
from clfa.model.classifier import build_classifier
from clfa.model.pipeline import Pipeline
from clfa.training.probe import fit_probe, read_features

STORED = Path(__file__).parent / "results" / "selection.json"
START, STEP, ROUNDS, TEST = 100, 100, 8, 1_500
DRAWS, FRESH = 20, 40
"""Draws that all ways are tried on, and further ones that what was taken is compared with random posts on."""
TAKEN = "both (clfa select)"
FACTOR = 10
"""Posts among which the ones to label are spread, for each of them: the most informative ones."""
METRICS = ("accuracy", "macro_f1", "nll")
WAYS = {
    "random": (None, False),
    "uncertainty": ("u", False),
    "disagreement": ("d", False),
    "both (clfa select)": ("u + d", False),
    "uncertainty, spread": ("u", True),
    "both, spread": ("u + d", True),
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
    stored = json.loads(STORED.read_text()) if STORED.is_file() else {}
    found = {"posts": len(rows), "test": TEST, "labels": labels(), "curves": {}, "fresh": {}} | stored
    for name, draws, ways in (
        ("curves", range(DRAWS), list(WAYS)),
        ("fresh", range(DRAWS, DRAWS + FRESH), ["random", TAKEN]),
    ):
        for way in ways:
            own = found[name].setdefault(way, [])
            for draw in draws[len(own) :]:
                order = np.random.default_rng(draw).permutation(len(rows))
                own.append(curve(features, rows.labels, order[TEST:], order[:TEST], len(names), *WAYS[way], draw))
                print(name, way, draw, {metric: round(own[-1][-1][metric], 3) for metric in METRICS}, flush=True)
                STORED.write_text(json.dumps(found))


def labels() -> list[int]:
    return [START + STEP * number for number in range(ROUNDS + 1)]


def curve(features, truth, pool, test, classes, what, spreading, draw) -> list[dict[str, float]]:
    """Scores on test after each round."""
    known, generator, found = list(pool[:START]), np.random.default_rng([draw, 1]), []
    for number in range(ROUNDS + 1):
        own = {name: values[known] for name, values in features.items()}
        probe = fit_probe(ProbeConfig("logistic_regression", 1.0), own, truth[known], classes).probe
        scores = all_scores(truth[test], predict(probe, features, test))
        found.append({name: round(scores[name], 5) for name in METRICS})
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


def spread(embeds: np.ndarray, information: np.ndarray, number: int) -> np.ndarray:
    """Places of `number` posts that are informative and unlike each other, the most informative first.

    k-means of the standardised embeddings with the posts weighted by their information, and of each cluster the post next to
    its centre (diverse mini-batch active learning, Zhdanov 2019).

    Args:
        embeds: candidates; NaN, where a modality is missing, is the mean.
        information: weights, at least 0.
        number: how many; all of them where there are fewer.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    if number >= len(information):
        return np.argsort(-information, kind="stable")
    there = ~np.isnan(embeds)
    z = np.where(there, embeds - np.nan_to_num(embeds).sum(0) / np.maximum(there.sum(0), 1), 0)
    deviation = np.sqrt((z**2).sum(0) / np.maximum(there.sum(0), 1))
    z = z / np.where(deviation > 0, deviation, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # posts of which fewer than `number` are different
        clusters = KMeans(number, n_init=1, random_state=0).fit(z, sample_weight=information + 1e-6)
    distances = clusters.transform(z)
    taken: list[int] = []
    for cluster in range(number):  # a post may be next to two centres
        order = np.argsort(distances[:, cluster], kind="stable")
        taken.append(int(next(place for place in order if place not in taken)))
    return np.array(sorted(taken, key=lambda place: -information[place]))


def predict(probe, features, places, hidden: str = "") -> np.ndarray:
    own = [
        np.full_like(values[places], np.nan) if name == hidden else values[places] for name, values in features.items()
    ]
    return probe(torch.from_numpy(np.concatenate(own, 1))).double().softmax(1).numpy()


if __name__ == "__main__":
    main(*sys.argv[1:])
