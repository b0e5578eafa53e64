"""Whether an exported model answers as its run does: on posts of the run and on hard ones, in batches of many sizes."""

from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clfa.config import ModelConfig
from clfa.data.cells import CELLS
from clfa.data.progress import progress
from clfa.data.rows import load_split
from clfa.errors import UserError
from clfa.model.pipeline import Pipeline
from clfa.runs import Run
from clfa.serving.onnx import OnnxPipeline
from clfa.studies.onnx_graph import inputs_of

CLOSE = 1e-4
"""Largest difference of a logit."""
POSTS, LARGEST_BATCH = 500, 33
"""That are compared, in batches of each size from 1."""


def posts_to_compare(run: Run, config: ModelConfig) -> tuple[list[dict[str, Any]], str]:
    """`POSTS` posts of validation and train, and hard ones; some of them without one or the other column."""
    columns = config.columns()
    own: list[dict[str, Any]] = []
    folder = Path(run.config().data.path) if run.config_file.is_file() else None
    if folder is not None and (folder / "dataset.json").is_file():
        for split in ("validation", "train"):  # never test
            rows = load_split(folder, split)
            own += [{name: row.get(name) for name in columns} for row in islice(rows, POSTS - len(own))]
    posts = list(islice(cycle([*_hard_posts(), *own]), POSTS))
    for place, post in enumerate(posts):
        absent = place % (3 * len(columns))  # a third of the posts lacks a column, each of them in turn
        if absent < len(columns) and len(columns) > 1:
            posts[place] = post | {columns[absent]: None}
    filled = [{"text": "", **post} | {"text": post.get("text") or ""} for post in posts]
    return filled, str(folder) if own else "generated"


def _hard_posts() -> Iterator[dict[str, Any]]:
    """Texts and images of the kinds on which preparers differ."""
    texts = [
        "",
        "[SEP] [CLS] </s> <|endoftext|>",
        "word " * 300,
        "喵 ☃ 👩‍👩‍👧 e\u0301",
        "#one # two",
        "A\tB\n C",
        "ﬁ İ ß",
    ]
    sizes = [(1, 1), (640, 7), (7, 640), (224, 224), (257, 300), (225, 223), (33, 500)]
    generator = np.random.default_rng(0)
    for text, (width, height) in zip(texts, sizes):
        pixels = generator.integers(0, 255, (height, width, 3), dtype=np.uint8)
        yield {"text": text, "image": CELLS["image"].clean(Image.fromarray(pixels), "raw")}


def compare(pipeline: Pipeline, exported: OnnxPipeline, posts: list[dict[str, Any]]) -> float:
    """The largest difference of a logit.

    Raises:
        UserError: inputs, logits or labels differ.
    """
    sizes, places, worst = cycle(range(1, LARGEST_BATCH + 1)), iter(posts), 0.0
    with progress("comparing with the run", len(posts)) as bar:
        while batch := list(islice(places, next(sizes))):
            _same_inputs(inputs_of(pipeline, exported.reads, batch), exported.inputs(batch))
            expected, found = pipeline.output(batch).logits.float().numpy(), exported.output(batch)
            difference = float(np.abs(expected - found).max())
            if not difference <= CLOSE or (pipeline.decide(expected) != exported.decide(found)).any():
                raise UserError(
                    f"the exported model differs from the run by {difference:.2g} in a logit of a batch of {len(batch)} "
                    f"posts, or in a label (allowed is {CLOSE}): nothing was written; please report it with your versions "
                    "of torch, onnx and onnxruntime"
                )
            worst = max(worst, difference)
            bar.add(len(batch))
    return worst


def _same_inputs(expected: dict[str, Tensor], found: dict[str, NDArray]) -> None:
    for name, value in expected.items():
        if value.dtype != torch.from_numpy(found[name]).dtype or not np.array_equal(value.numpy(), found[name]):
            raise UserError(
                f"{name} is not prepared as in training by tokenizers, Pillow and NumPy: the tokenizer or image processor "
                "does something of its own; such a run cannot be exported"
            )
