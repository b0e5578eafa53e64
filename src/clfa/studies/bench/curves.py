"""How a training step grows by batch, text length, image tokens and classes: its time, and what it keeps for gradients."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import BertConfig, ViTConfig

from clfa.config import FusionConfig, ModalityConfig, ModelConfig
from clfa.model.batch import Batch, Inputs
from clfa.model.classifier import Classifier, build_classifier
from clfa.studies.bench.measure import Suite, alternate
from clfa.studies.tiny import word_tokenizer, write_encoder

WIDTH, PATCH = 256, 32


class Size(NamedTuple):
    """Of a step."""

    batch: int = 8
    length: int = 24
    tokens: int = 50
    """Of an image, with its summary: 1 + (side / 32)^2."""
    classes: int = 2


AXES = {
    "batch": (4, 8, 16, 32),
    "length": (12, 24, 48, 96),
    "tokens": (10, 26, 50, 101),
    "classes": (2, 30, 300, 3_000),
}


def curve_suite(rounds: int, layers: int) -> Suite:
    """Milliseconds a step (not a post), and lines fitted to them: a + b x, by least squares."""
    with TemporaryDirectory() as name:
        steps = {
            f"{axis} {value}": _Step(Path(name), Size()._replace(**{axis: value}), layers)
            for axis, values in AXES.items()
            for value in values
        }
        times = alternate({way: partial(step.run, 1) for way, step in steps.items()}, rounds)
        further: dict[str, Any] = {}
        for axis, values in AXES.items():
            middle = [float(np.median(times[f"{axis} {value}"])) for value in values]
            kept = [steps[f"{axis} {value}"].kept() / 1e6 for value in values]
            further[f"by {axis}"] = {"ms": _line(values, middle), "MB kept for the gradient": _line(values, kept)}
    return Suite(times, {}, {}, further)


def _line(values: tuple[int, ...], measured: list[float]) -> str:
    x, y = np.array(values, dtype=float), np.array(measured)
    slope, start = np.polyfit(x, y, 1)
    explained = 1 - ((y - start - slope * x) ** 2).sum() / max(float(((y - y.mean()) ** 2).sum()), 1e-12)
    return f"{start:.3g} + {slope:.3g} x (R² {explained:.3f})"


class _Step:
    """A model, a batch of that size, and the step of one on the other."""

    def __init__(self, folder: Path, size: Size, layers: int):
        side = PATCH * round((size.tokens - 1) ** 0.5)
        self.model, self.size = _model(folder, side, size.classes, layers), size
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6, fused=True)
        present = torch.ones(size.batch, dtype=torch.bool)
        ids = torch.randint(10, 900, (size.batch, size.length))
        text = Inputs(present, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        image = Inputs(present, {"pixel_values": torch.randn(size.batch, 3, side, side)})
        self.batch = Batch({"text": text, "image": image}, torch.randint(0, size.classes, (size.batch,)))

    def run(self, posts: int) -> int:
        """A step; it counts as so many posts."""
        assert self.batch.labels is not None
        cross_entropy(self.model.train()(self.batch).logits, self.batch.labels).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return posts

    def kept(self) -> int:
        """Bytes that the forward pass keeps for the backward one, weights not counted."""
        with _saved(self.model) as sizes:
            self.model(self.batch)
        return sum(sizes.values())


@contextmanager
def _saved(model: Classifier) -> Iterator[dict[int, int]]:
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    sizes: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield sizes


def _model(folder: Path, side: int, classes: int, layers: int) -> Classifier:
    tokenizer = word_tokenizer([f"w{number}" for number in range(1_000)])
    sizes: dict[str, Any] = {"hidden_size": WIDTH, "num_hidden_layers": layers, "num_attention_heads": 4}
    sizes["intermediate_size"] = 4 * WIDTH
    text = BertConfig(vocab_size=len(tokenizer), **sizes)
    image = ViTConfig(image_size=side, patch_size=PATCH, **sizes)
    for name, backbone in {"text": text, "image": image}.items():
        write_encoder(folder / f"{name}-{side}", backbone, tokenizer, side, weights=False)
    modalities = {
        name: ModalityConfig(name, str(folder / f"{name}-{side}"), pretrained=False) for name in ("text", "image")
    }
    config = ModelConfig(modalities, WIDTH, WIDTH, FusionConfig(layers=3, heads=4, feedforward=4 * WIDTH))
    return build_classifier(config, [str(number) for number in range(classes)], "normalised")
