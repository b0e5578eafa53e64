"""Prediction: a run directory -> probabilities for new posts, one or a file of them."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from clfa.data.columns import as_text
from clfa.data.images import open_image, to_rgb
from clfa.data.records import normalise_text
from clfa.errors import UserError
from clfa.model.batch import Collator
from clfa.model.classifier import Classifier


@torch.no_grad()
def compute_logits(model: Classifier, rows: Any, collator: Collator, batch_size: int) -> Float[Tensor, "rows classes"]:
    """Logits of all rows in their order, in fp32 and evaluation mode; posts of similar length share a batch."""
    model.eval()
    device = next(model.parameters()).device
    texts = rows["text"] if hasattr(rows, "column_names") else [row["text"] for row in rows]
    order = sorted(range(len(texts)), key=lambda number: len(texts[number] or ""))
    logits = torch.empty(len(order), len(model.labels))
    for start in range(0, len(order), batch_size):
        chunk = order[start : start + batch_size]
        batch = collator([rows[number] for number in chunk])
        logits[chunk] = model({name: value.to(device) for name, value in batch.items()}).logits.float().cpu()
    return logits


@dataclass(frozen=True)
class Prediction:
    """The answer for one post."""

    predicted: str
    """Name of the most probable class."""
    probabilities: dict[str, float]
    """Class name -> probability."""


class Predictor:
    """A trained run, callable on posts.

    >>> predictor = Predictor("runs/demo/clfa/seed-0")                      # doctest: +SKIP
    >>> predictor([{"text": "what a lovely day", "image": "storm.jpg"}])    # doctest: +SKIP
    [Prediction(predicted='sarcastic', probabilities={'not_sarcastic': 0.03, 'sarcastic': 0.97})]

    Args:
        run: run directory, or any folder written by `Classifier.save_pretrained`.
        batch_size: posts per forward pass.

    Raises:
        UserError: the folder holds no trained model.
    """

    def __init__(self, run: str | Path, batch_size: int = 32):
        self.model = Classifier.from_pretrained(run)
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.batch_size = batch_size
        modalities = self.model.config.modalities
        self.collator = Collator(
            modalities, {name: self.model.encoders[m.shares or name].preparer for name, m in modalities.items()}
        )

    @property
    def labels(self) -> list[str]:
        """Class names."""
        return self.model.labels

    def __call__(self, posts: Sequence[dict[str, Any]]) -> list[Prediction]:
        """Predict posts with the keys `text`, `image` (path, bytes, PIL image or None) and optionally `knowledge`.

        A post without an image is predicted from its text, with the image masked.

        Raises:
            UserError: an image is missing on disk or unreadable.
        """
        rows = [self.prepare(post) for post in posts]
        if not rows:
            return []
        logits = compute_logits(self.model, rows, self.collator, self.batch_size)
        return [self._prediction(row) for row in logits.softmax(1)]

    def prepare(self, post: dict[str, Any]) -> dict[str, Any]:
        """A post as a row: text cleaned as in training, image as checked bytes."""
        clean = normalise_text if self.model.text == "normalised" else str
        row = {**post, "text": clean(as_text(post.get("text"))), "image": _image_bytes(post.get("image"))}
        if post.get("knowledge") is not None:
            row["knowledge"] = clean(as_text(post["knowledge"]))
        return {key: value for key, value in row.items() if key != "label"}

    def _prediction(self, probabilities: Tensor) -> Prediction:
        named = dict(zip(self.labels, (round(value, 6) for value in probabilities.tolist())))
        return Prediction(max(named, key=named.__getitem__), named)


def _image_bytes(image: Any) -> dict[str, Any] | None:
    """The image column of a row from whatever the caller has; checked, so that a bad image is an error here."""
    if image is None or image == "":
        return None
    if isinstance(image, dict):
        return _image_bytes(image.get("bytes") or image.get("path"))
    if isinstance(image, Image.Image):
        buffer = io.BytesIO()
        to_rgb(ImageOps.exif_transpose(image)).save(buffer, "PNG")
        return {"bytes": buffer.getvalue()}
    if isinstance(image, (str, Path)):
        if not Path(image).is_file():
            raise UserError(f"no such file: {image}")
        data, name = Path(image).read_bytes(), Path(image).name
    else:
        data, name = bytes(image), "image"
    open_image(data, name)
    return {"bytes": data}
