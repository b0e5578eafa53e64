"""A teacher from captioned images."""

import csv
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from clfa.config import CaptionSource, TeacherConfig
from clfa.data.cache import Cache, content_key, fill
from clfa.data.images import open_image
from clfa.data.records import load_manifest, load_split, normalise_text
from clfa.errors import UserError
from clfa.losses import info_nce
from clfa.model.encoders import fingerprint, load_encoder, settings_of
from clfa.model.teacher import DualEncoder


def train_teacher(config: TeacherConfig, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Train a dual encoder with symmetric InfoNCE on captioned images; report retrieval on held-out images.

    Frozen encoders are run once over everything and only the projections are trained; otherwise both encoders are
    trained end to end. The weights of the last epoch are kept; the held-out images choose nothing.

    Args:
        config: sources, encoders, sizes.
        say: where progress lines go.

    Returns:
        The content of `OUTPUT/report.json`: pairs, retrieval `{"image_to_text": {"R@1" …}, "text_to_image": …}`
        in percent, seconds.

    Raises:
        UserError: the output exists, a source is missing or too small.
    """
    output = Path(config.output)
    if output.exists() and any(output.iterdir()):
        raise UserError(f"{output} already holds a teacher or other files: delete it, or choose another output")
    started = time.monotonic()
    torch.manual_seed(config.seed)
    generator = np.random.default_rng(config.seed)
    images, captions, first = _read_sources(config.sources)
    if first - config.held_out < 2:
        raise UserError(f"{config.held_out} held-out images leave fewer than 2 of the {first} in the first source")
    held_out = generator.permutation(first)[: config.held_out]
    training = np.setdiff1d(np.arange(len(images)), held_out)
    text, image = (
        load_encoder(name, kind, config.pretrained)
        for name, kind in ((config.text_encoder, "text"), (config.image_encoder, "image"))
    )
    model = DualEncoder(text, image, config)
    model.encoders.requires_grad_(not config.frozen)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    say(f"teacher: {len(training):,} images to train on, {len(held_out):,} held out, on {device}")
    if config.frozen:
        features = _frozen_features(model, images, captions, say)

    def embed(kind: str, picks: list) -> Tensor:
        """Embeddings of images (by number) or captions (by image number and caption number)."""
        if config.frozen:
            return model.projections[kind](features(kind, picks).to(device))
        if kind == "image":
            return model.embed(kind, [open_image(images[pick]()) for pick in picks])
        return model.embed(kind, [captions[number][k] for number, k in picks])

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay)
    steps = config.epochs * max(1, len(training) // config.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_cosine(step, steps))
    for epoch in range(config.epochs):
        model.train()
        if config.frozen:
            model.encoders.eval()
        losses = []
        order = generator.permutation(training)
        for batch in np.array_split(order, max(1, len(order) // config.batch_size)):
            pairs = [(int(number), int(generator.integers(len(captions[number])))) for number in batch]
            numbers = [number for number, _ in pairs]
            loss = info_nce(embed("image", numbers), embed("text", pairs), config.temperature)
            if not torch.isfinite(loss):
                raise UserError(f"the teacher's loss is {loss.item()} in epoch {epoch + 1}: lower learning_rate")
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        say(
            f"teacher: epoch {epoch + 1}/{config.epochs}, loss {np.mean(losses):.3f}, {time.monotonic() - started:.0f} s"
        )
    model.eval()
    report: dict[str, Any] = {
        "images": len(training),
        "captions": sum(len(captions[number]) for number in training),
        "held_out_images": len(held_out),
        "retrieval": _retrieval(embed, captions, held_out),
        "seconds": round(time.monotonic() - started, 1),
        "config": asdict(config),
    }
    partial = output.with_name(output.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(partial)
    (partial / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if output.exists():
        output.rmdir()
    os.replace(partial, output)
    for direction, scores in report["retrieval"].items():
        say(f"teacher: {direction} " + ", ".join(f"{name} {value:.1f} %" for name, value in scores.items()))
    return report


def recalls(similarity: Float[np.ndarray, "queries candidates"], right: np.ndarray) -> dict[str, float]:
    """R@1, R@5, R@10 in percent: a query counts when one of its right candidates is among the K most similar.

    Args:
        similarity: scores.
        right: bool of the same shape.
    """
    best = np.where(right, similarity, -np.inf).max(1, keepdims=True)
    rank = (~right & ~(similarity < best)).sum(1)  # ties and NaN count against the query
    return {f"R@{k}": 100 * float((rank < k).mean()) for k in (1, 5, 10)}


def _read_sources(sources: list[CaptionSource]) -> tuple[list[Callable], list[list[str]], int]:
    """Images (callables that read the bytes), the captions of each, and how many of them the first source gave."""
    images: list[Callable] = []
    captions: list[list[str]] = []
    first = 0
    for source in sources:
        if source.dataset:
            found = _read_dataset_source(source.dataset, source.split)
        elif source.images and source.captions:
            found = _read_caption_files(Path(source.images), Path(source.captions))
        else:
            raise UserError("each teacher source needs `dataset`, or `images` and `captions`")
        for image, texts in found:
            images.append(image)
            captions.append(texts)
        first = first or len(images)
    return images, captions, first


def _read_dataset_source(dataset: str, split: str) -> list[tuple[Callable, list[str]]]:
    load_manifest(dataset)
    rows = load_split(dataset, split)
    usable = [
        number for number, (text, image) in enumerate(zip(rows["text"], rows["image"])) if text and image is not None
    ]
    return [(lambda number=number: rows[number]["image"]["bytes"], [rows[number]["text"]]) for number in usable]


def _read_caption_files(folder: Path, path: Path) -> list[tuple[Callable, list[str]]]:
    if not path.is_file():
        raise UserError(f"{path} not found: give lines `image.jpg<TAB>caption`, or a CSV with columns image,caption")
    captions: dict[str, list[str]] = {}
    with open(path, encoding="utf-8-sig", newline="") as file:
        if path.suffix == ".csv":
            table = list(csv.DictReader(file, strict=True))
            if table and not {"image", "caption"} <= table[0].keys():
                raise UserError(f"{path}: columns image and caption expected, found {', '.join(table[0])}")
            pairs = [(row["image"], row["caption"]) for row in table]
        else:
            cells = (line.rstrip("\n").partition("\t") for line in file if "\t" in line)
            pairs = [(name, caption) for name, _, caption in cells]
    for name, caption in pairs:
        captions.setdefault(name.split("#")[0], []).append(normalise_text(caption))
    missing = [name for name in captions if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{len(missing)} captioned images are not in {folder}, the first: {', '.join(missing[:20])}")
    if not captions:
        raise UserError(f"{path} holds no captions; expected lines `image.jpg<TAB>caption`")
    return [((folder / name).read_bytes, texts) for name, texts in captions.items()]


def _frozen_features(
    model: DualEncoder, images: list[Callable[[], bytes]], captions: list[list[str]], say: Callable[[str], None]
) -> Callable[[str, list], Tensor]:
    """Run the frozen encoders once over everything, or read what an earlier teacher on the same sources left.

    Returns:
        (kind, picks) -> (picks, H) features of images (by number) or captions (by image number and caption number).
    """
    config = model.config
    folder = Path(config.features or f"{config.output}.features")
    values: dict[str, list] = {
        "image": [image() for image in images],
        "text": [text for texts in captions for text in texts],
    }
    caches = {}
    for kind, contents in values.items():
        encoder = model.encoders[kind]
        key = fingerprint(encoder.backbone, settings_of(encoder.preparer), str(config.max_length))
        say(f"teacher: features of {len(contents):,} {kind}s")

        def compute(batch: list, kind: str = kind) -> list[Tensor]:
            with torch.no_grad():
                decoded = [open_image(value) for value in batch] if kind == "image" else batch
                return [row[None] for row in model.eval().features(kind, decoded).cpu()]

        known = Cache(folder.glob(f"{key}-*.safetensors"))
        path = folder / f"{key}-{fingerprint(repr(config.sources))}.safetensors"
        fill(path, contents, compute, batch_size=64, known=known)
        caches[kind] = Cache([path])
    image_keys = [content_key(content) for content in values["image"]]
    text_keys = [[content_key(text) for text in texts] for texts in captions]

    def features(kind: str, picks: list) -> Tensor:
        keys = [image_keys[number] for number in picks] if kind == "image" else [text_keys[n][k] for n, k in picks]
        return torch.cat([caches[kind][key] for key in keys])

    return features


@torch.no_grad()
def _retrieval(embed: Callable, captions: list[list[str]], held_out: np.ndarray) -> dict[str, dict[str, float]]:
    numbers = [int(number) for number in held_out]
    texts = [(number, k) for number in numbers for k in range(len(captions[number]))]
    if not numbers:
        return {}

    def unit(kind: str, picks: list) -> np.ndarray:
        parts = [embed(kind, picks[start : start + 128]).float().cpu() for start in range(0, len(picks), 128)]
        return nn.functional.normalize(torch.cat(parts), dim=-1).numpy()

    similarity = unit("image", numbers) @ unit("text", texts).T
    right = np.array(numbers)[:, None] == np.array([number for number, _ in texts])[None]
    return {"image_to_text": recalls(similarity, right), "text_to_image": recalls(similarity.T, right.T)}


def _warm_cosine(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
