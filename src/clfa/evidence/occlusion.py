"""What a prediction rests on, for any model: each word, and each part of the image, taken away in turn."""

import io
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image

from clfa.data.images import open_image
from clfa.errors import UserError
from clfa.evidence.results import Occlusion
from clfa.model.pipeline import Pipeline

SIDE = 6
"""Parts of the image in each direction."""
WORDS = 60
"""The words that are taken away; of a longer text the first ones."""
LARGEST = 480
"""Longer side in pixels of the image that parts are covered in."""


def occlusion(pipeline: Pipeline, post: Mapping[str, Any]) -> Occlusion:
    """How much the log probability of the predicted class falls without a word, and with a part of the image covered by the
    image's mean colour (occlusion sensitivity: Zeiler and Fergus 2014); below 0 where it rises.

    Needs no gradients and no tokens, so that it works for every run; it cannot show what two parts tell only together.

    Raises:
        UserError: the post has neither a text nor an image that the run reads.
    """
    row, columns = pipeline.prepare(post), pipeline.config.columns()
    words = str(row["text"]).split()[:WORDS] if "text" in columns else []
    image = open_image(row["image"]["bytes"]) if "image" in columns and row.get("image") else None
    if not words and image is None:
        raise UserError(f"the post has none of what the run reads ({', '.join(columns)})")
    variants = [row, *({**row, "text": _without(str(row["text"]), number)} for number in range(len(words)))]
    if image is not None:
        variants += [{**row, "image": {"bytes": part, "path": None}} for part in _covered(image)]
    logits = pipeline.logits(variants, "taking parts away").double()
    decided = int(pipeline.decide(logits[:1].numpy())[0])
    told = logits.log_softmax(1)[:, decided].numpy()
    effects = told[0] - told[1:]
    parts = effects[len(words) :].reshape(SIDE, SIDE) if image is not None else None
    probability = float(np.exp(told[0]))
    return Occlusion(words, effects[: len(words)], parts, image, pipeline.class_names[decided], probability)


def _without(text: str, number: int) -> str:
    words = text.split()
    return " ".join(words[:number] + words[number + 1 :])


def _covered(image: Image.Image) -> list[bytes]:
    """PNGs of the image with one part covered, row by row."""
    small = image.copy()
    small.thumbnail((LARGEST, LARGEST))
    pixels = np.asarray(small)
    mean = pixels.reshape(-1, 3).mean(0).round().astype(np.uint8)
    rows, columns = (np.linspace(0, length, SIDE + 1).round().astype(int) for length in pixels.shape[:2])
    found = []
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            changed = pixels.copy()
            changed[top:bottom, left:right] = mean
            buffer = io.BytesIO()
            Image.fromarray(changed).save(buffer, "PNG", compress_level=1)
            found.append(buffer.getvalue())
    return found
