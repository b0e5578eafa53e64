"""Measure the dial of docs/when-alignment-helps.md.

    python docs/dial.py OUT                                               about 40 minutes on one CPU core
    python docs/dial.py OUT DATASET TEXT_ENCODER IMAGE_ENCODER            and what probes say of real posts

Points are added to OUT/dial.jsonl as they are measured; a script that was stopped goes on. At its end it writes
docs/results/dial.json, from which `python docs/make_docs.py` makes the page.
"""

import logging
import sys
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clfa.config import DataConfig, ModalityConfig, ModelConfig, ProbeConfig
from clfa.data.atomic import read_json, write_json
from clfa.data.factors import generate
from clfa.data.records import load_manifest
from clfa.data.splits import load_rows, source_splits
from clfa.evidence.redundancy import information
from clfa.metrics import Score
from clfa.model.classifier import build_classifier
from clfa.model.pipeline import Pipeline
from clfa.studies.dial import ALPHAS, KINDS, KNOWN, STEPS, Point, measure_points
from clfa.training.probe import fit_probe, groups_of, read_features

LABELS, QUALITIES = (200, 50, 800), (0.3,)
"""Labels, the first in the middle of the dial; qualities of the teacher below 1."""
WEIGHT, CURVE = 1.0, (0.0, 0.3, 1.0, 3.0)
"""The paper's alignment weight; the weights in the middle of the dial."""
PLACES = ((0.0, "unique"), (0.5, "unique"), (0.0, "synergy"), (0.5, "synergy"), (1.0, "unique"))
"""Redundancy, and what the rest is; with a redundancy of 1 there is no rest."""
FURTHER = ((0.75, "unique"), (0.75, "synergy"), (0.5, "mixed"), (0.0, "unique_text"))
"""More places, for what the estimate predicts."""
PROBES = {"logistic_regression": ProbeConfig("logistic_regression", 1.0), "svm": ProbeConfig("svm", 3.0)}
SMALL_BATCH = 8
TIMES = (STEPS // 8, 2 * STEPS)
POSTS = 1_500
"""That the information is estimated from."""
STORED = Path(__file__).parent / "results" / "dial.json"


def surface() -> dict[tuple[float, ...], list[Point]]:
    """Weights -> the points that they are measured at."""
    middle = [Point(*place, LABELS[0], 1.0, knows) for knows in ("all", "shared") for place in PLACES]
    other_labels = [
        Point(*place, size, 1.0, knows) for knows, size, place in product(("all", "shared"), LABELS[1:], PLACES)
    ]
    noisy = [Point(*place, LABELS[0], quality, "all") for quality, place in product(QUALITIES, PLACES)]
    return {CURVE: middle, ALPHAS: [*other_labels, *noisy]}


def more() -> list[Point]:
    """With one weight, in the middle of the dial: a teacher in whose space nothing can be compared, training that is shorter
    and longer, further mixtures."""
    apart = Point(0.0, "synergy", LABELS[0], 1.0, "apart")
    timed = [Point(0.0, rest, LABELS[0], 1.0, "all", steps) for steps in TIMES for rest in ("unique", "synergy")]
    mixtures = [Point(*place, LABELS[0], 1.0, knows) for knows in ("all", "shared") for place in FURTHER]
    return [apart, *timed, *mixtures]


def kinds() -> list[Point]:
    """Each kind of guidance where the teacher knows what decides, where it is noisy, and where it knows something else; and
    with batches that hold few negatives."""
    places = [
        Point(0.0, "synergy", LABELS[0], 1.0, "all"),
        Point(0.0, "unique", LABELS[0], 1.0, "all"),
        Point(0.0, "unique", LABELS[0], QUALITIES[0], "all"),
        Point(0.0, "unique", LABELS[0], 1.0, "shared"),
    ]
    points = [*places, *(replace(place, batch=SMALL_BATCH) for place in places[:2])]
    return [replace(point, guidance=kind) for kind in KINDS for point in points]


def told(features: dict[str, NDArray], labels: NDArray[np.int64], groups: list[str] | None = None) -> dict[str, Any]:
    """Kind of probe -> what it says of redundancy, in nats."""
    classes = int(labels.max()) + 1
    sides = {"text": ("text",), "image": ("image",), "both": ("text", "image")}
    return {
        name: asdict(
            information(
                labels,
                {
                    side: fit_probe(probe, {one: features[one] for one in own}, labels, classes, groups).out_of_fold
                    for side, own in sides.items()
                },
            )
        )
        for name, probe in PROBES.items()
    }


def of_places() -> list[dict[str, Any]]:
    """What probes say of generated posts at each place of the dial, and at the further ones."""
    found = []
    for redundancy, rest in (*PLACES, *FURTHER):
        shares = Point(redundancy, rest, POSTS, 1.0).shares
        posts = generate(shares, POSTS, 0)
        features = {name: values.astype(np.float32) for name, values in posts.features.items()}
        teacher = {knows: asdict(of_teacher(shares, knows)) for knows in ("all", "shared")}
        found.append(
            {"place": [redundancy, rest], "shares": shares, "told": told(features, posts.labels), "teacher": teacher}
        )
    return found


def of_teacher(shares: dict[str, float], knows: str) -> Score:
    """What a support vector machine finds in a noiseless teacher's embeddings of both modalities, in nats."""
    posts = generate(shares, POSTS, 0, 1.0, KNOWN[knows])
    embeds = {name: values.astype(np.float32) for name, values in posts.teacher.items()}
    said = fit_probe(PROBES["svm"], embeds, posts.labels, 2).out_of_fold
    return information(posts.labels, dict.fromkeys(("text", "image", "both"), said)).both


def of_posts(dataset: str, text: str, image: str) -> dict[str, Any]:
    """What probes say of a data set, train and validation."""
    data = DataConfig(dataset, train_splits=["train", "validation"])
    rows, manifest = load_rows(data, "train"), load_manifest(dataset)
    modalities = {
        "text": ModalityConfig("text", text, frozen=True),
        "image": ModalityConfig("image", image, frozen=True),
    }
    model = build_classifier(ModelConfig(modalities, probe=ProbeConfig()), manifest["labels"], manifest["text"])
    pipeline = Pipeline(model)
    pipeline.cache(Path(dataset), source_splits(data, ["train"]))
    return {"posts": len(rows), "told": told(read_features(pipeline, rows), rows.labels, groups_of(rows))}


def main() -> None:
    """Everything, in the order of the file."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    path = Path(sys.argv[1]) / "dial.jsonl"
    measured = [each for weights, points in surface().items() for each in measure_points(points, path, weights)]
    further = measure_points(more(), path, (0.0, WEIGHT))
    of_kinds = measure_points(kinds(), path, CURVE)
    before = read_json(STORED) or {}
    result = {
        "points": [asdict(each) for each in measured],
        "more": [asdict(each) for each in further],
        "kinds": [asdict(each) for each in of_kinds],
        "places": of_places(),
        "real": before.get("real", {}),
    }
    if len(sys.argv) > 2:
        result["real"] |= {Path(sys.argv[2]).name: of_posts(*sys.argv[2:5])}
    write_json(STORED, result)


if __name__ == "__main__":
    main()
