"""A teacher from captioned images: sources -> pairs -> features (once, where encoders are frozen) -> epochs -> report."""

import csv
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from clfa.config import CaptionSource, TeacherConfig
from clfa.data.atomic import read_json, write_json
from clfa.data.cache import Cache, content_key, fill
from clfa.data.lock import only_one
from clfa.data.records import load_manifest, normalise_text
from clfa.data.rows import Row, load_split
from clfa.errors import UserError
from clfa.losses import info_nce
from clfa.model.encoders import load_encoder
from clfa.model.modalities import KINDS
from clfa.model.teacher import DualEncoder
from clfa.training.checkpoint import load_checkpoint, save_checkpoint
from clfa.training.stopping import stoppable

CHECKPOINT_SECONDS = 300
"""Between checkpoints inside of an epoch; at its end there always is one."""

log = logging.getLogger(__name__)


class Pairs:
    """Images and their captions; images are read when they are needed.

    Args:
        sources: where they come from.

    Raises:
        UserError: a source is missing or incomplete.
    """

    def __init__(self, sources: list[CaptionSource]):
        images, captions, counts = [], [], []
        self.first = 0
        """How many images the first source gave: held-out ones are drawn from these."""
        for source in sources:
            for image, texts in _read_source(source):
                images.append(image)
                captions += texts
                counts.append(len(texts))
            self.first = self.first or len(images)
        self.contents: dict[str, Sequence] = {"image": _Images(images), "text": captions}
        """Kind -> undecoded images, or captions, in the order of the images."""
        self.starts = np.cumsum([0, *counts])
        """Image -> the number of its first caption."""

    def __len__(self) -> int:
        return len(self.contents["image"])

    def captions(self, number: int) -> range:
        """The numbers of the captions of an image."""
        return range(int(self.starts[number]), int(self.starts[number + 1]))


class _Images(Sequence):
    """Bytes of images in files or in rows of a dataset directory, read one by one."""

    def __init__(self, places: list[Path | Row]):
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: Any) -> bytes:
        place = self.places[number]
        return place.read_bytes() if isinstance(place, Path) else place["image"]["bytes"]


def train_teacher(config: TeacherConfig) -> dict[str, Any]:
    """Train a dual encoder with symmetric InfoNCE on captioned images; report retrieval on held-out images.

    Frozen encoders are run once over everything and only the projections are trained; otherwise both encoders are
    trained end to end. The weights of the last epoch are kept; the held-out images choose nothing.
    A training that was stopped goes on from `OUTPUT.checkpoints` when the same command is given again, to the same bytes.

    Args:
        config: sources, encoders, sizes.

    Returns:
        The content of `OUTPUT/report.json`: pairs, retrieval `{"image_to_text": {"R@1" …}, "text_to_image": …}`
        in percent, seconds.

    Raises:
        UserError: the output exists, a source is missing or too small.
    """
    output = Path(config.output)
    if output.exists() and any(output.iterdir()):
        raise UserError(f"{output} already holds a teacher or other files: delete it, or choose another output")
    with only_one(output):
        return _train_teacher(config, output)


def _train_teacher(config: TeacherConfig, output: Path) -> dict[str, Any]:
    started = time.monotonic()
    torch.manual_seed(config.seed)
    generator = np.random.default_rng(config.seed)
    pairs = Pairs(config.sources)
    if pairs.first - config.held_out < 2:
        raise UserError(
            f"{config.held_out} held-out images leave fewer than 2 of the {pairs.first} in the first source"
        )
    held_out = generator.permutation(pairs.first)[: config.held_out]
    training = np.setdiff1d(np.arange(len(pairs)), held_out)
    if config.train_images is not None:
        training = np.sort(generator.permutation(training)[: config.train_images])
    text = load_encoder(config.text_encoder, "text", config.pretrained)
    image = load_encoder(config.image_encoder, "image", config.pretrained)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = DualEncoder(text, image, config).to(device)
    model.encoders.requires_grad_(not config.frozen)
    log.info("teacher: %s images to train on, %s held out, on %s", f"{len(training):,}", f"{len(held_out):,}", device)
    embed = _embedder(model, pairs, device)
    checkpoints = output.with_name(f"{output.name}.checkpoints")
    _refuse_other(checkpoints, config, len(pairs))
    _fit(model, embed, pairs, training, generator, checkpoints)
    report = {
        "images": len(training),
        "captions": sum(len(pairs.captions(number)) for number in training.tolist()),
        "held_out_images": len(held_out),
        "retrieval": _retrieval(embed, pairs, held_out),
        "seconds": round(time.monotonic() - started, 1),
        "config": asdict(config),
    }
    _save(model, report, output)
    shutil.rmtree(checkpoints)
    return report


def _refuse_other(checkpoints: Path, config: TeacherConfig, pairs: int) -> None:
    """Checkpoints of another configuration, or of other pairs, are no start."""
    asked, path = {**asdict(config), "pairs": pairs}, checkpoints / "teacher.json"
    if checkpoints.exists() and read_json(path) != asked:
        raise UserError(
            f"{checkpoints} is of another configuration or of other pairs: delete it, or choose another output"
        )
    checkpoints.mkdir(parents=True, exist_ok=True)
    write_json(path, asked)


def recalls(similarity: Float[np.ndarray, "queries candidates"], right: np.ndarray) -> dict[str, float]:
    """R@1, R@5, R@10 in percent: a query counts when one of its right candidates is among the K most similar.

    Args:
        similarity: scores.
        right: bool of the same shape.
    """
    best = np.where(right, similarity, -np.inf).max(1, keepdims=True)
    rank = (~right & ~(similarity < best)).sum(1)  # ties and NaN count against the query
    return {f"R@{k}": 100 * float((rank < k).mean()) for k in (1, 5, 10)}


Embed = Callable[[str, list[int]], Tensor]
"""Kind and numbers of contents -> (numbers, D)."""


@dataclass
class Progress:
    """Where the training of a teacher stands: what a checkpoint needs beside weights, moments and torch's generator."""

    step: int = 0
    """Steps done."""
    epoch: int = 0
    batch: int = 0
    """Batches of this epoch that are done."""
    loss: float = 0.0
    """Sum over these batches."""
    at_start: dict[str, Any] = field(default_factory=dict)
    """The state of the generator at the start of this epoch, which its order follows from …"""
    generator: dict[str, Any] = field(default_factory=dict)
    """… and as it is now."""


def _fit(
    model: DualEncoder, embed: Embed, pairs: Pairs, training: NDArray, generator: np.random.Generator, folder: Path
) -> None:
    """Train it, or go on from the last checkpoint in the folder."""
    config = model.config
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, weight_decay=config.weight_decay)
    steps = config.epochs * max(1, len(training) // config.batch_size)
    saved = load_checkpoint(folder, model, optimizer, {})
    now = Progress(**saved) if saved else Progress()
    if saved:
        generator.bit_generator.state = now.at_start
        log.info("teacher: going on in epoch %s", now.epoch + 1)
    started, saved_at = time.monotonic(), time.monotonic()
    with stoppable("stopping after this step: the same command goes on from there") as stop:
        while now.epoch < config.epochs:
            model.train()
            if config.frozen:
                model.encoders.eval()
            now.at_start = dict(generator.bit_generator.state)
            order = generator.permutation(training)
            if now.batch:
                generator.bit_generator.state = now.generator
            batches = np.array_split(order, max(1, len(order) // config.batch_size))
            for batch in batches[now.batch :]:
                own = [pairs.captions(number) for number in batch.tolist()]
                chosen = [captions[int(generator.integers(len(captions)))] for captions in own]
                loss = info_nce(embed("image", batch.tolist()), embed("text", chosen), config.temperature)
                if not torch.isfinite(loss):
                    raise UserError(
                        f"the teacher's loss is {loss.item()} in epoch {now.epoch + 1}: lower learning_rate"
                    )
                for group in optimizer.param_groups:
                    group["lr"] = config.learning_rate * _warm_cosine(now.step, steps)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                now.step, now.batch, now.loss = now.step + 1, now.batch + 1, now.loss + loss.item()
                now.generator = dict(generator.bit_generator.state)
                last = now.batch == len(batches)
                if stop or last or time.monotonic() - saved_at > CHECKPOINT_SECONDS:
                    save_checkpoint(folder, model, optimizer, asdict(now), {})
                    saved_at = time.monotonic()
                stop.now()
            seconds, mean = time.monotonic() - started, now.loss / len(batches)
            log.info("teacher: epoch %d/%d, loss %.3f, %.0f s", now.epoch + 1, config.epochs, mean, seconds)
            now.epoch, now.batch, now.loss = now.epoch + 1, 0, 0.0
    model.eval()


def _embedder(model: DualEncoder, pairs: Pairs, device: torch.device) -> Embed:
    """How contents of the pairs are embedded: from features computed once, or end to end."""
    if model.config.frozen:
        features = _frozen_features(model, pairs)
        return lambda kind, numbers: model.projections[kind](features(kind, numbers).to(device))
    return lambda kind, numbers: model.embed(
        kind, [KINDS[kind].decode(pairs.contents[kind][number]) for number in numbers]
    )


def _frozen_features(model: DualEncoder, pairs: Pairs) -> Embed:
    """Run the frozen encoders once over everything, or read what an earlier teacher on the same contents left."""
    config = model.config
    folder = Path(config.features or f"{config.output}.features")

    @torch.no_grad()
    def compute(kind: str, batch: list) -> list[Tensor]:
        return [row[None] for row in model.eval().features(kind, [KINDS[kind].decode(value) for value in batch]).cpu()]

    caches, entries = {}, {}
    for kind, contents in pairs.contents.items():
        place = folder / model.encoders[kind].fingerprint(str(config.max_length))
        what = f"teacher: features of {len(contents):,} {kind}s"
        log.info(what)
        fill(place, kind, contents, partial(compute, kind), what, batch_size=64, total=len(contents))
        caches[kind] = Cache(place)
        keys = [content_key(kind, content) for content in contents]
        entries[kind] = caches[kind].find(np.array(keys, dtype="S16"))
    return lambda kind, numbers: torch.cat([caches[kind].read(int(entries[kind][number])) for number in numbers])


@torch.no_grad()
def _retrieval(embed: Embed, pairs: Pairs, held_out: NDArray) -> dict[str, dict[str, float]]:
    numbers = held_out.tolist()
    owners = [(number, caption) for number in numbers for caption in pairs.captions(number)]
    if not numbers:
        return {}

    def unit(kind: str, picks: list[int]) -> NDArray:
        parts = [embed(kind, picks[start : start + 128]).float().cpu() for start in range(0, len(picks), 128)]
        return nn.functional.normalize(torch.cat(parts), dim=-1).numpy()

    similarity = unit("image", numbers) @ unit("text", [caption for _, caption in owners]).T
    right = held_out[:, None] == np.array([number for number, _ in owners])[None]
    return {"image_to_text": recalls(similarity, right), "text_to_image": recalls(similarity.T, right.T)}


def _save(model: DualEncoder, report: dict[str, Any], output: Path) -> None:
    partial_folder = output.with_name(output.name + ".partial")
    shutil.rmtree(partial_folder, ignore_errors=True)  # of a training that was stopped here
    partial_folder.mkdir(parents=True)
    model.save_pretrained(partial_folder)
    write_json(partial_folder / "report.json", report)
    if output.exists():
        output.rmdir()
    os.replace(partial_folder, output)
    for direction, scores in report["retrieval"].items():
        log.info("teacher: %s %s", direction, ", ".join(f"{name} {value:.1f} %" for name, value in scores.items()))


def _warm_cosine(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))


def _read_source(source: CaptionSource) -> list[tuple[Path | Row, list[str]]]:
    if source.dataset:
        load_manifest(source.dataset)
        rows = load_split(source.dataset, source.split)
        if not rows.has("image"):
            raise UserError(f"{source.dataset} holds no images: a teacher needs both")
        usable, texts = rows.keys("image", "image") != b"", rows.texts
        return [(rows[number], [texts[number]]) for number in range(len(rows)) if usable[number] and texts[number]]
    if source.images and source.captions:
        return _read_caption_files(Path(source.images), Path(source.captions))
    raise UserError("each teacher source needs `dataset`, or `images` and `captions`")


def _read_caption_files(folder: Path, path: Path) -> list[tuple[Path | Row, list[str]]]:
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
    return [(folder / name, texts) for name, texts in captions.items()]
