"""A trained run, callable on posts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clfa.model.pipeline import Pipeline


@dataclass(frozen=True)
class Prediction:
    """The answer for one post."""

    predicted: str
    """Name of the most probable class, or of the one that the run decides for (`clfa fit` tunes that)."""
    probabilities: dict[str, float]
    """Class name -> probability."""


class Predictor:
    """A trained run, callable on posts.

    >>> predictor = Predictor("runs/demo/runs/clfa/seed-0")                    # doctest: +SKIP
    >>> predictor([{"text": "what a lovely day", "image": "storm.jpg"}])    # doctest: +SKIP
    [Prediction(predicted='sarcastic', probabilities={'not_sarcastic': 0.03, 'sarcastic': 0.97})]

    Args:
        run: run directory, or any folder written by `Classifier.save_pretrained`.
        batch_size: posts per forward pass.

    Raises:
        UserError: the folder holds no trained model.
    """

    def __init__(self, run: str | Path, batch_size: int = 32):
        self.pipeline = Pipeline.load(run, batch_size)
        self.class_names = self.pipeline.class_names

    def __call__(self, posts: Sequence[Mapping[str, Any]]) -> list[Prediction]:
        """Predict posts with the keys `text`, `image` (path, bytes, PIL image or None) and any column that the run reads.

        A post without an image is predicted from its text, with the image masked.

        Raises:
            UserError: an image is missing on disk or unreadable.
        """
        return self.answer([self.pipeline.prepare(post) for post in posts])

    def answer(self, rows: Sequence[Mapping[str, Any]]) -> list[Prediction]:
        """Predict rows that `Pipeline.prepare` made."""
        if not rows:
            return []
        logits = self.pipeline.logits(rows).double()
        decided = self.pipeline.decide(logits.numpy())
        return [self._prediction(*each) for each in zip(decided.tolist(), logits.softmax(1).tolist())]

    def _prediction(self, decided: int, probabilities: list[float]) -> Prediction:
        named = {name: round(value, 6) for name, value in zip(self.class_names, probabilities)}
        return Prediction(self.class_names[decided], named)
