"""What changes of posts cost a model: other predictions of the same posts against its own, and corruptions."""

import io
import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clfa.data.images import open_image
from clfa.data.rows import Row, Rows
from clfa.evidence.corruptions import IMAGE_CORRUPTIONS, SEVERITIES, TEXT_CORRUPTIONS
from clfa.evidence.results import Change, Corruption, Corruptions, Scores
from clfa.evidence.significance import paired_bootstrap
from clfa.metrics import Score, by_run
from clfa.model.pipeline import Pipeline

LONGEST_SIDE = 512
METRICS = ("accuracy", "macro_f1")

log = logging.getLogger(__name__)


class Judge:
    """Compares other predictions of the same N posts with (N,) `predicted`, those of the model."""

    def __init__(self, labels: NDArray, predicted: NDArray, classes: int):
        self.labels, self.predicted, self.classes = labels, predicted, classes

    def scores(self, predictions: NDArray) -> Scores:
        """Scores of (N,) or (runs, N) predictions, means over runs without intervals."""
        values = by_run(self.labels, np.atleast_2d(predictions), self.classes)
        return {name: Score(float(values[name].mean())) for name in METRICS}

    def loss(self, predictions: NDArray) -> Scores:
        """Scores of the model minus those of (N,) or (runs, N) predictions, with paired intervals."""
        others, own = np.atleast_2d(predictions), self.predicted[None]
        result = {}
        for name in METRICS:
            paired = paired_bootstrap(self.labels, others, own, self.classes, name, resamples=2_000)
            result[name] = Score(paired.value, *paired.ci95)
        return result

    def change(self, predictions: NDArray, share: float = 1.0) -> Change:
        """What a change of the posts does."""
        return Change(self.scores(predictions), self.loss(predictions), share)

    def of(self, numbers: NDArray) -> "Judge":
        """The same for some posts."""
        return Judge(self.labels[numbers], self.predicted[numbers], self.classes)


def corrupted_scores(pipeline: Pipeline, rows: Rows, seed: int) -> Corruptions:
    """Accuracy on these posts with bad images and bad texts; `seed` is of all that is drawn."""
    posts: list[Row] = [_bounded(row) for row in rows]
    judge = Judge(rows.labels, _predict(pipeline, posts, "posts as they are"), len(pipeline.class_names))
    clean = judge.scores(judge.predicted)["accuracy"].value

    def suite(side: str, corruptions: Mapping[str, Any], change: Callable[..., Row]) -> dict[str, Corruption]:
        def predict(name: str, severity: int) -> NDArray[np.int64]:
            generators = (np.random.default_rng([seed, number, severity]) for number in range(len(posts)))
            bad = [change(post, corruptions[name], severity, own) for post, own in zip(posts, generators)]
            return _predict(pipeline, bad, f"{name}, severity {severity}")

        result = {}
        for name in corruptions:
            log.info("corruption of the %s: %s", side, name)
            predictions = np.stack([predict(name, severity) for severity in SEVERITIES])
            drop, scale = judge.loss(predictions)["accuracy"], max(clean, 1e-9)
            result[name] = Corruption(
                [judge.scores(of_severity)["accuracy"].value for of_severity in predictions],
                Score(drop.value / scale, (drop.low or 0.0) / scale, (drop.high or 0.0) / scale),
            )
        return result

    images, texts = suite("image", IMAGE_CORRUPTIONS, _with_bad_image), suite("text", TEXT_CORRUPTIONS, _with_bad_text)
    return Corruptions(len(posts), clean, images, texts)


def _predict(pipeline: Pipeline, posts: list[Row], what: str) -> NDArray[np.int64]:
    return pipeline.decide(pipeline.logits(posts, what).numpy())


def _bounded(post: Row) -> Row:
    """Large images shrunk to 512 pixels, before corruption and in what it is compared with."""
    if not post.get("image"):
        return post
    image = open_image(post["image"]["bytes"])
    if max(image.size) <= LONGEST_SIDE:
        return post
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return post.replace(image=_stored(image))


def _stored(image: Image.Image) -> dict[str, Any]:
    buffer = io.BytesIO()
    image.save(buffer, "BMP")
    return {"bytes": buffer.getvalue(), "path": None}


def _with_bad_image(
    post: Row, corrupt: Callable[..., Image.Image], severity: int, generator: np.random.Generator
) -> Row:
    if not post.get("image"):
        return post
    return post.replace(image=_stored(corrupt(open_image(post["image"]["bytes"]), severity, generator)))


def _with_bad_text(post: Row, corrupt: Callable[..., str], severity: int, generator: np.random.Generator) -> Row:
    text = corrupt(post["text"] or "", severity / 10, generator)
    return post.replace(text=text, dependencies=None)  # those were of its words
