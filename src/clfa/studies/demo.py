"""The main job on the generated set "congruity", end to end and without network (`clfa demo`).

Captioned drawings -> a small teacher; a few hundred labelled posts -> text only, image only, no alignment and CLFA,
several seeds each, and what `fit` makes of them, all through the same `train_teacher`, `sweep` and `fit` as any other data.
"""

import io
import logging
import os
import time
from pathlib import Path

from clfa.config import (
    CaptionSource,
    DataConfig,
    FusionConfig,
    ModalityConfig,
    ModelConfig,
    RunConfig,
    SweepConfig,
    TeacherConfig,
    TrainConfig,
)
from clfa.data import congruity
from clfa.data.atomic import read_json
from clfa.data.images import open_image
from clfa.data.records import Record
from clfa.data.rows import load_split
from clfa.data.writing import write_dataset
from clfa.errors import UserError
from clfa.evidence.results import Demo, Example, Illustrations, write_result
from clfa.model.heatmap import alignment_heatmap
from clfa.model.pipeline import Pipeline
from clfa.report.page import write_demo
from clfa.studies.fit import fit
from clfa.studies.sweep import sweep
from clfa.studies.tiny import small_configs, word_tokenizer, write_encoder
from clfa.training.teacher import train_teacher

DRAWINGS = 2_200
HELD_OUT = 200
VALIDATION, TEST = 120, 600
DIM, PIXELS = 128, 48
LABELS = ["not_sarcastic", "sarcastic"]
FIT_MINUTES = 1.3
ABOUT = ("topic", "state", "tone")
"""What is known of a generated post, kept as columns."""

log = logging.getLogger(__name__)


def demo(out: Path, seeds: int = 3, posts: int = 400) -> Demo:
    """Run the whole demo; write `OUT/results.json` and `OUT/report.html`. A demo that was stopped in OUT goes on.

    Raises:
        UserError: `posts`, those to train on, is not a multiple of 20.
    """
    started = time.monotonic()
    if posts % 20 or posts < 20:
        raise UserError(f"posts = {posts}: must be a positive multiple of 20, so that the set stays balanced")
    out.mkdir(parents=True, exist_ok=True)
    write_encoders(out / "encoders")
    if not (out / "data" / "dataset.json").is_file():
        log.info("drawing %s posts and %s captioned scenes", f"{posts + VALIDATION + TEST:,}", f"{DRAWINGS:,}")
        write_posts(out / "data", posts)
    if not (out / "captions" / "captions.txt").is_file():
        write_captions(out / "captions")
    if not (out / "teacher" / "config.json").is_file():
        train_teacher(teacher_config(out))
    shared = run_config(out)
    jobs = min(4, os.cpu_count() or 1)
    table = sweep(SweepConfig(shared, SYSTEMS, str(out / "runs"), seeds, jobs=jobs, compare_to="no_alignment"))
    by_name = {row.system: row for row in table.systems}
    log.info("clfa fit on the same posts")
    text, image = (str(out / "encoders" / kind) for kind in ("text", "image"))
    asked = {"text_encoder": text, "image_encoder": image, "metric": "accuracy", "teacher": str(out / "teacher")}
    fitted = fit(out / "data", out / "fit", FIT_MINUTES, **asked)  # type: ignore[arg-type]
    result = Demo(
        systems=[by_name[name] for name in ("majority", "teacher_svm", *SYSTEMS)],
        differences=table.differences,
        teacher=read_json(out / "teacher" / "report.json")["retrieval"],
        drawings=DRAWINGS - HELD_OUT,
        held_out=HELD_OUT,
        train_posts=posts,
        test_posts=TEST,
        seconds=round(time.monotonic() - started, 1),
        fit=fitted,
        illustrations=_illustrations(out),
    )
    write_result(out / "results.json", result)
    write_demo(result, out)
    log.info("wrote %s and %s", out / "results.json", out / "report.html")
    return result


SYSTEMS: dict[str, dict] = {
    "text_only": {"model.modalities.image": None, "loss.alignment_weight": 0},
    "image_only": {"model.modalities.text": None, "loss.alignment_weight": 0},
    "no_alignment": {"loss.alignment_weight": 0},
    "clfa": {},
}


def run_config(out: Path) -> RunConfig:
    """The run that all systems of the demo share: CLFA with small encoders trained from scratch."""
    modalities = {
        kind: ModalityConfig(kind=kind, encoder=str(out / "encoders" / kind), pretrained=False, max_length=32)
        for kind in ("text", "image")
    }
    fusion = FusionConfig(layers=2, heads=4, feedforward=2 * DIM)
    return RunConfig(
        data=DataConfig(str(out / "data")),
        model=ModelConfig(modalities, DIM, projection_hidden=2 * DIM, fusion=fusion),
        output="",
        teacher=str(out / "teacher"),
        train=TrainConfig(
            epochs=9,
            batch_size=16,
            encoder_learning_rate=1e-3,
            head_learning_rate=1e-3,
            monitor="accuracy",
            patience=9,
        ),
    )


def teacher_config(out: Path) -> TeacherConfig:
    """A teacher from captioned drawings, both encoders from fresh weights."""
    return TeacherConfig(
        sources=[CaptionSource(images=str(out / "captions"), captions=str(out / "captions" / "captions.txt"))],
        text_encoder=str(out / "encoders" / "text"),
        image_encoder=str(out / "encoders" / "image"),
        output=str(out / "teacher"),
        pretrained=False,
        frozen=False,
        dim=DIM,
        projection_hidden=2 * DIM,
        temperature=0.1,
        epochs=7,
        batch_size=100,
        learning_rate=1e-3,
        held_out=HELD_OUT,
        max_length=32,
    )


def write_encoders(folder: Path) -> None:
    """Two small untrained encoders as Hugging Face folders: a BERT over whole words and a ResNet over 48x48 pixels."""
    tokenizer = word_tokenizer(congruity.words())
    configs = small_configs(len(tokenizer), DIM, PIXELS)
    for kind, name in (("text", "bert"), ("image", "resnet")):
        write_encoder(folder / kind, configs[name], tokenizer, PIXELS, weights=False)


def write_posts(folder: Path, train: int) -> None:
    """The labelled posts as a dataset directory."""

    def rows():
        for split, count, seed in (("train", train, 1), ("validation", VALIDATION, 2), ("test", TEST, 3)):
            for post in congruity.posts(count, seed):
                id = f"{split}-{post['id']}"  # unique over the splits, as in any real data set
                known = {key: post[key] for key in ABOUT}
                yield split, Record(id, post["text"], _png(post["image"]), post["label"], known)

    about = {"reader": "congruity", "name": "congruity", "filters": [], "columns": dict.fromkeys(ABOUT, "string")}
    write_dataset(rows(), folder, LABELS, about)


def write_captions(folder: Path) -> None:
    """Captioned drawings as a folder of images with a captions file, the form that `clfa teacher train` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (image, caption) in enumerate(congruity.captioned_drawings(DRAWINGS, seed=4)):
        (folder / f"{number:05d}.png").write_bytes(_png(image))
        lines.append(f"{number:05d}.png\t{caption}")
    (folder / "captions.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _illustrations(out: Path) -> Illustrations:
    """The first eight test posts, and the alignment in a short sarcastic one."""
    rows = load_split(out / "data", "test")
    images = [open_image(row["image"]["bytes"]).resize((192, 192)) for row in rows[:8]]
    examples = [Example(row["id"], row["text"], image, LABELS[row["label"]]) for row, image in zip(rows, images)]
    shown = next(row for row in rows if 4 <= len(row["text"].split()) <= 11 and row["label"] == 1)
    pipeline = Pipeline.load(out / "runs" / "clfa" / "seed-0")
    return Illustrations(examples, alignment_heatmap(pipeline, shown), f"{shown['id']}: {LABELS[1]}")


def _png(image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
