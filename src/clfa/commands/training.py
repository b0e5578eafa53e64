"""Models, teachers and their caches."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import clfa
from clfa.commands.evidence import evaluate
from clfa.commands.options import DatasetDir, further_columns
from clfa.config import RunConfig, TeacherConfig

log = logging.getLogger(__name__)


def fit(
    source: str,
    *,
    out: Annotated[str, "Run directory to write."],
    minutes: float = 10,
    text_encoder: str | None = None,
    image_encoder: str | None = None,
    teacher: str | None = None,
    preset: Literal["small", "strong", "clip"] = "small",
    metric: str = "macro_f1",
    column: Sequence[str] = (),
    folds: int = 0,
    fold: int = 0,
    engine: Literal["plain", "ray"] = "plain",
) -> object:
    """A table of posts in, the best model that it supports out: import, choice out of fold, calibration, test once.

    Linear models and support vector machines on frozen encoders, on the text, the image and both, are compared out of fold;
    the simplest one that cannot be told from the best is taken. Where the budget holds it, the text encoder is fine-tuned;
    it, or its blend with the simple model, is taken if it is told to be better on validation. The test split is opened once,
    at the end. Features that a stopped fit has cached are not computed again.

    Args:
        source: CSV, TSV, JSONL or Parquet file, or a dataset directory of `clfa import`.
        minutes: Budget of time; computing features is not cut short.
        text_encoder: Folder, hub name or package: name; that of the preset by default.
        image_encoder: The same for images.
        teacher: A CLIP-like dual encoder (folder or hub name): with it a fusion is trained, too, with as much alignment as
            validation asks for.
        preset: Encoders by hub name: small (MiniLM, MobileNetV2), strong (mpnet, EfficientNet) or clip.
        metric: What the model is chosen by: accuracy, macro_f1, weighted_f1, binary_f1 (two classes), precision, recall.
        column: NAME=COLUMN names a column of the table that is not guessed right: text, image, label, id or split.
        folds: Cross-validate the whole fit over all posts, with this many folds; one call for each …
        fold: … that is held out as test, 0 to folds-1. `clfa compare` takes a folder of them as one system.
        engine: `ray` computes features and fits simple models on the cluster of RAY_ADDRESS, or on the cores of this machine
            where there is none; a network is trained here.

    Examples:
        clfa fit posts.csv --out runs/posts
        clfa fit data/posts --out runs/posts --metric accuracy --text-encoder models/mpnet --image-encoder models/vit
        clfa fit posts.csv --out runs/posts --column label=sentiment --column image=photo
    """
    log.info("loading PyTorch and the encoders")
    result = clfa.fit(
        source,
        out,
        minutes,
        text_encoder=text_encoder,
        image_encoder=image_encoder,
        teacher=teacher,
        preset=preset,
        metric=metric,
        columns=further_columns(column),
        folds=folds,
        fold=fold,
        engine=engine,
    )
    log.info("wrote %s: leaderboard.json, report-test.html, README.md (the model card)", out)
    return result


def teacher_train(config: TeacherConfig) -> object:
    """Train a dual encoder from captioned images, on any two Hugging Face encoders; reports retrieval R@1/5/10.

    Examples:
        clfa teacher train --config configs/teacher/flickr8k.yaml
        clfa teacher train --config configs/teacher/flickr8k.yaml --frozen false --learning_rate 1e-5
    """
    from clfa.training.teacher import train_teacher

    return train_teacher(config)


def teacher_embed(
    dataset: DatasetDir,
    *,
    teacher: str,
    splits: str = "all",
    engine: Literal["plain", "ray"] = "plain",
    precision: Literal["fp32", "fp32_by_bf16"] = "fp32",
) -> object:
    """Cache a teacher's embeddings next to a dataset directory, keyed by the teacher and by each post's content.

    Args:
        teacher: Folder or hub name of a CLIP-like dual encoder.
        splits: `all`, or some of train,validation,test with commas.
        engine: `ray` uses the cluster of RAY_ADDRESS, or the cores of this machine where there is none.
        precision: `fp32_by_bf16` is faster on some CPUs (`clfa bench --suite teacher`); the embeddings are the same before
            they are rounded to half precision.

    Examples:
        clfa teacher embed data/posts --teacher openai/clip-vit-base-patch32
        clfa teacher embed data/posts --teacher runs/teachers/flickr8k --splits train,validation
    """
    from clfa.data.cache import kept
    from clfa.data.records import load_manifest
    from clfa.model.arithmetic import products
    from clfa.model.teacher import embed_dataset, teacher_key

    all_splits = list(load_manifest(dataset)["splits"])
    chosen = all_splits if splits == "all" else splits.split(",")
    with kept(engine), products(precision):
        _, computed = embed_dataset(Path(dataset), teacher, chosen, engine=engine)
    return {"teacher": teacher, "key": teacher_key(teacher), "computed": computed}


def cache(config: RunConfig, *, engine: Literal["plain", "ray"] = "plain") -> object:
    """Fill the caches of a run: what its frozen encoders and its teacher make of each post.

    `clfa train` does so, too, where something is missing. The test split is not opened.

    Args:
        engine: `ray` uses the cluster of RAY_ADDRESS, or the cores of this machine where there is none.

    Examples:
        clfa cache --config runs/posts/config.yaml --engine ray
    """
    from clfa.training.setup import fill_caches

    return fill_caches(config, engine)


def train(config: RunConfig, *, resume: bool = False) -> object:
    """Train one run and evaluate it on validation, which also chooses the epoch; the test split is never opened.

    Several processes of torchrun share each batch, and train what one would.

    Args:
        resume: Go on from the last checkpoint of OUTPUT, by as many processes as you like.

    Examples:
        clfa train --config run.yaml
        clfa train --config run.yaml --loss.alignment_weight 0 --output runs/no_alignment
        clfa train --config run.yaml --resume
        torchrun --standalone --nproc_per_node 4 -m clfa train --config run.yaml
    """
    leads = os.environ.get("RANK", "0") == "0"
    if leads:
        log.info("loading PyTorch and the encoders")
    run = str(clfa.train(config, resume))
    if not leads:
        # nothing is left to do; at the end of Python a thread of the group may abort the process, and with it all others
        # (https://github.com/pytorch/pytorch/issues/190489)
        os._exit(0)
    return evaluate(run, split="validation")
