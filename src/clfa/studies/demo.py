"""The main job on the generated set "congruity", end to end and without network (`clfa demo`).

Captioned drawings -> a small teacher; a few hundred labelled posts -> text only, image only, no alignment and CLFA,
several seeds each, all through the same `train_teacher` and `sweep` as any other data.
"""

import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from clfa.config import (
    CaptionSource,
    DataConfig,
    FusionConfig,
    LossConfig,
    ModalityConfig,
    ModelConfig,
    RunConfig,
    SweepConfig,
    TeacherConfig,
    TrainConfig,
)
from clfa.data import congruity
from clfa.data.images import open_image
from clfa.data.records import Record, load_split, write_dataset
from clfa.errors import UserError
from clfa.report.formats import score_cell
from clfa.studies.sweep import sweep
from clfa.studies.tiny import word_tokenizer
from clfa.training.teacher import train_teacher

DRAWINGS = 3_000
HELD_OUT = 200
VALIDATION, TEST = 120, 600
DIM = 128
EPOCHS = {100: 40, 200: 30, 400: 20}  # fewer posts, more passes: about the same time for each point of the curve
LABELS = ["not_sarcastic", "sarcastic"]

Say = Callable[[str], None]


def run_demo(out: Path, seeds: int = 3, posts: int = 400, say: Say = print) -> dict[str, Any]:
    """Run the whole demo.

    Args:
        out: folder to write; a demo that was stopped there goes on.
        seeds: seeds of each system.
        posts: labelled posts to train on, a multiple of 20.
        say: where progress lines go.

    Returns:
        The content of `out/results.json`: `{"systems": [{"system", "seeds", "accuracy": {"mean", "sd", "ci95"},
        "macro_f1": …}], "curve": …, "teacher": …, "seconds": …}` for majority, text_only, image_only, no_alignment, clfa.

    Raises:
        UserError: `posts` is not a multiple of 20.
    """
    started = time.monotonic()
    if posts % 20 or posts < 20:
        raise UserError(f"posts = {posts}: must be a positive multiple of 20, so that the set stays balanced")
    out.mkdir(parents=True, exist_ok=True)
    most = max(posts, *EPOCHS)
    write_encoders(out / "encoders")
    if not (out / "data" / "dataset.json").is_file():
        say(f"drawing {most + VALIDATION + TEST:,} posts and {DRAWINGS:,} captioned scenes")
        write_posts(out / "data", most)
    if not (out / "captions" / "captions.txt").is_file():
        write_captions(out / "captions")
    if not (out / "teacher" / "config.json").is_file():
        train_teacher(teacher_config(out), say)
    report = json.loads((out / "teacher" / "report.json").read_text(encoding="utf-8"))

    jobs = max(1, min(4, os.cpu_count() or 1))
    systems = SYSTEMS | _curve_systems(posts)
    found = sweep(
        SweepConfig(run_config(out, posts), systems, str(out / "runs"), seeds, jobs=jobs, compare_to="no_alignment"),
        say,
    )
    rows = {row["system"]: row for row in found["systems"]}
    result = {
        "systems": [rows[name] for name in ("majority", *SYSTEMS)],
        "differences": [row for row in found["differences"] if row["system"] in SYSTEMS],
        "curve": _curve(posts, rows),
        "teacher": report["retrieval"],
        "train_posts": posts,
        "test_posts": TEST,
        "seconds": round(time.monotonic() - started, 1),
    }
    (out / "results.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write_demo_report(out, result)
    say(f"wrote {out / 'results.json'} and {out / 'report.html'}")
    return result


SYSTEMS: dict[str, dict] = {
    "text_only": {"model.modalities.image": None, "loss.alignment_weight": 0},
    "image_only": {"model.modalities.text": None, "loss.alignment_weight": 0},
    "no_alignment": {"loss.alignment_weight": 0},
    "clfa": {},
}


def run_config(out: Path, posts: int) -> RunConfig:
    """The run that all systems of the demo share: CLFA with small encoders trained from scratch."""
    modalities = {
        kind: ModalityConfig(kind=kind, encoder=str(out / "encoders" / kind), pretrained=False, max_length=32)
        for kind in ("text", "image")
    }
    return RunConfig(
        data=DataConfig(str(out / "data"), train_rows=posts),
        model=ModelConfig(
            modalities, DIM, projection_hidden=2 * DIM, fusion=FusionConfig(layers=2, heads=4, feedforward=2 * DIM)
        ),
        output="",
        teacher=str(out / "teacher"),
        loss=LossConfig(alignment_weight=1.0, temperature=0.1),
        train=TrainConfig(
            epochs=EPOCHS.get(posts, 20),
            batch_size=40,
            encoder_learning_rate=1e-3,
            head_learning_rate=1e-3,
            monitor="accuracy",
            patience=10,
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
    """Two small untrained encoders as Hugging Face folders: a BERT over whole words and a ResNet over 64x64 pixels."""
    from transformers import BertConfig, ResNetConfig, ViTImageProcessorPil

    tokenizer = word_tokenizer(congruity.words())
    tokenizer.save_pretrained(folder / "text")
    BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=DIM,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=2 * DIM,
        max_position_embeddings=64,
    ).save_pretrained(folder / "text")
    ResNetConfig(
        embedding_size=32, hidden_sizes=[32, 64, DIM], depths=[1, 1, 1], layer_type="basic", hidden_act="relu"
    ).save_pretrained(folder / "image")
    ViTImageProcessorPil(
        do_resize=True, size={"height": 64, "width": 64}, image_mean=[0.5] * 3, image_std=[0.25] * 3
    ).save_pretrained(folder / "image")


def write_posts(folder: Path, train: int) -> None:
    """The labelled posts as a dataset directory."""

    def rows():
        for split, count, seed in (("train", train, 1), ("validation", VALIDATION, 2), ("test", TEST, 3)):
            for post in congruity.posts(count, seed):
                # ids are unique over the splits, as in any real data set
                yield (
                    split,
                    Record(
                        f"{split}-{post['id']}",
                        post["text"],
                        _png(post["image"]),
                        post["label"],
                        extra={key: post[key] for key in ("topic", "state", "tone")},
                    ),
                )

    write_dataset(rows(), folder, LABELS, {"reader": "congruity", "name": "congruity", "filters": []})


def write_captions(folder: Path) -> None:
    """Captioned drawings as a folder of pictures with a captions file, the form that `clfa teacher train` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (image, caption) in enumerate(congruity.captioned_drawings(DRAWINGS, seed=4)):
        (folder / f"{number:05d}.png").write_bytes(_png(image))
        lines.append(f"{number:05d}.png\t{caption}")
    (folder / "captions.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_demo_report(out: Path, result: dict[str, Any]) -> None:
    """`out/report.html`: the set, the systems with intervals, accuracy against labels, an alignment heatmap."""
    from clfa.evidence.alignment import alignment_heatmap, draw_heatmap
    from clfa.report.page import figure_source, picture_source, render
    from clfa.serving.predictor import Predictor

    rows = load_split(out / "data", "test")
    examples = [rows[number] for number in range(8)]
    seeds = len(result["systems"][-1]["seeds"])
    shown = next(row for row in rows if 4 <= len(row["text"].split()) <= 11 and row["label"] == 1)
    heatmap = draw_heatmap(alignment_heatmap(Predictor(out / "runs" / "clfa" / "seed-0"), shown))
    table = [["system", "accuracy", "macro F1"]]
    table += [
        [row["system"].replace("_", " "), score_cell(row["accuracy"]), score_cell(row["macro_f1"])]
        for row in result["systems"]
    ]
    difference = next(row["accuracy"] for row in result["differences"] if row["system"] == "clfa")
    low, high = (100 * bound for bound in difference["ci95"])
    sections: list[dict[str, Any]] = [
        {
            "title": "The task",
            "text": [
                "Drawn scenes in a good or a bad state, with posts that praise or complain. A post is sarcastic when the "
                "two do not fit. The set is balanced, so that neither the text nor the picture says anything alone."
            ],
            "cards": [
                {
                    "source": picture_source(open_image(row["image"]["bytes"]).resize((192, 192))),
                    "text": row["text"],
                    "note": LABELS[row["label"]].replace("_", " "),
                }
                for row in examples
            ],
        },
        {
            "title": f"Systems, {result['train_posts']} labelled posts, {seeds} seeds",
            "text": [
                f"Alignment adds {100 * difference['mean']:.1f} points of accuracy [{low:.1f}, {high:.1f}]. Mean ± standard "
                f"deviation over seeds; brackets are 95 % bootstrap intervals over seeds and {result['test_posts']:,} test "
                f"posts. With {seeds} seeds they say little about seeds that were not tried."
            ],
            "table": {"head": table[0], "rows": table[1:], "strong": ["clfa"]},
            "figures": [
                {
                    "source": figure_source(_draw_curve(result["curve"])),
                    "caption": "Accuracy against the number of labelled posts. Means over seeds, 95 % intervals.",
                }
            ],
        },
        {
            "title": "What alignment does",
            "text": ["Cosine between each word and each image patch in the space that the teacher pulled both into."],
            "figures": [
                {"source": figure_source(heatmap), "caption": f"Test post {shown['id']}: {LABELS[shown['label']]}."}
            ],
        },
        {
            "title": "The teacher",
            "text": [
                f"Trained on {DRAWINGS - HELD_OUT:,} captioned drawings without labels; retrieval on {HELD_OUT} "
                "others. Many captions fit many drawings, so the first hit is often another drawing of the same scene."
            ],
            "table": {
                "head": ["direction", "R@1", "R@5", "R@10"],
                "rows": [
                    [name.replace("_", " "), *(f"{value:.1f} %" for value in found.values())]
                    for name, found in result["teacher"].items()
                ],
            },
        },
    ]
    render(out / "report.html", "clfa demo: congruity", f"clfa demo --out {out}", sections)


def _draw_curve(curve: list[dict[str, Any]]):
    from clfa.report.page import BLUE, GREY, ORANGE, plain_axes

    figure, axes = plain_axes(6.4, 3.8)
    for name, colour in (("no_alignment", ORANGE), ("clfa", BLUE)):
        points = [point for point in curve if point["system"] == name]
        mean = np.array([100 * point["accuracy"]["mean"] for point in points])
        bounds = 100 * np.array([point["accuracy"]["ci95"] for point in points])
        axes.errorbar(
            [point["posts"] for point in points],
            mean,
            np.abs(bounds.T - mean),
            color=colour,
            marker="o",
            capsize=3,
            label=name.replace("_", " "),
        )
    axes.axhline(50, color=GREY, linestyle=":", label="chance")
    sizes = sorted({point["posts"] for point in curve})
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.set(xlabel="labelled posts", ylabel="test accuracy, %", ylim=(40, 101))
    axes.legend(frameon=False, loc="center right")
    return figure


def _png(image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def _curve_systems(posts: int) -> dict[str, dict]:
    """The two systems of the curve at the other sizes."""
    return {
        f"{name}-{size}": {**SYSTEMS[name], "data.train_rows": size, "train.epochs": epochs}
        for size, epochs in EPOCHS.items()
        for name in ("no_alignment", "clfa")
        if size != posts
    }


def _curve(posts: int, rows: dict[str, Any]) -> list[dict[str, Any]]:
    sizes = sorted({*EPOCHS, posts})
    return [
        {"system": name, "posts": size, "accuracy": rows[name if size == posts else f"{name}-{size}"]["accuracy"]}
        for name in ("no_alignment", "clfa")
        for size in sizes
    ]
