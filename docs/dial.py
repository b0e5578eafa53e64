"""Measure the dial of docs/when-alignment-helps.md.

    python docs/dial.py OUT                                               about 20 minutes on one CPU core
    python docs/dial.py OUT DATASET TEXT_ENCODER IMAGE_ENCODER            and what probes say of real posts

Points are added to OUT/dial.jsonl as they are measured; a script that was stopped goes on. At its end it writes
docs/results/dial.json, from which `python docs/make_docs.py` makes the page.
"""

import logging
import sys
from dataclasses import asdict
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
from clfa.model.classifier import build_classifier
from clfa.model.pipeline import Pipeline
from clfa.studies.dial import Point, measure_points
from clfa.training.probe import fit_probe, groups_of, read_features

LABELS = (200, 50, 800)
QUALITIES = (1.0, 0.3)
PLACES = ((0.0, "unique"), (0.5, "unique"), (0.0, "synergy"), (0.5, "synergy"), (1.0, "unique"))
"""Redundancy, and what the rest is; with a redundancy of 1 there is no rest."""
PROBES = {"logistic_regression": ProbeConfig("logistic_regression", 1.0), "svm": ProbeConfig("svm", 3.0)}
POSTS = 1_500
"""That the information is estimated from."""
STORED = Path(__file__).parent / "results" / "dial.json"


def points() -> list[Point]:
    """All points, the most telling first."""
    return [
        Point(redundancy, rest, labels, quality, knows)
        for quality, labels, knows, (redundancy, rest) in product(QUALITIES, LABELS, ("all", "shared"), PLACES)
    ]


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
    """What probes say of generated posts at each place of the dial."""
    found = []
    for redundancy, rest in PLACES:
        shares = Point(redundancy, rest, POSTS, 1.0).shares
        posts = generate(shares, POSTS, 0)
        features = {name: values.astype(np.float32) for name, values in posts.features.items()}
        found.append({"shares": shares, "told": told(features, posts.labels)})
    return found


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
    measured = measure_points(points(), Path(sys.argv[1]) / "dial.jsonl")
    before = read_json(STORED) or {}
    result = {"points": [asdict(each) for each in measured], "places": of_places(), "real": before.get("real", {})}
    if len(sys.argv) > 2:
        result["real"] |= {Path(sys.argv[2]).name: of_posts(*sys.argv[2:5])}
    write_json(STORED, result)


if __name__ == "__main__":
    main()
