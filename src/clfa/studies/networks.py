"""The networks of `clfa fit`, trained where the budget holds them: the text encoder fine-tuned, and a fusion with as much
alignment as validation asks for."""

import logging
import math
import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from jaxtyping import Float
from numpy.typing import NDArray

from clfa.config import DataConfig, FusionConfig, LossConfig, ModalityConfig, ModelConfig, RunConfig, TrainConfig
from clfa.data.rows import Rows
from clfa.data.splits import load_rows
from clfa.errors import TimeUp
from clfa.metrics import fit_temperature
from clfa.model.encoders import Encoder, load_encoder
from clfa.model.layers import find_layers
from clfa.model.pipeline import Pipeline
from clfa.model.teacher import load_teacher
from clfa.runs import Run
from clfa.training.train import train

EPOCHS, BATCH = 3, 32
SMALL = 40_000_000
"""Parameters below which an encoder gets the larger learning rate."""
TIMED = 64
"""Texts that the encoder is timed on."""
MARGIN = 1.25
"""Steps take longer than their share of forward passes: the optimizer, batches, validation."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trained:
    """A trained network on the validation posts."""

    name: str
    run: Run
    modalities: tuple[str, ...]
    temperature: float
    """Fitted on validation; already in the log probabilities."""
    log_probabilities: Float[NDArray, "posts classes"]
    seconds: float


def fine_tune(
    data: DataConfig,
    modalities: Mapping[str, ModalityConfig],
    fused: tuple[str, ...],
    folder: Path,
    deadline: float,
    seconds_a_text: float,
) -> Trained:
    """Fine-tune the text encoder, with the mean image feature beside it where `fused` names the image, if that ends before
    the `deadline` (on the clock of `time.monotonic`); a run that was stopped goes on.

    All layers are trained where that fits, else as many of the last ones as do, on cached states of those below; each choice
    has a folder of its own below `folder`, and one that was trained to its end before is taken whatever the time. The loss
    is the classification loss; three epochs, and the one with the best NLL on validation, after a temperature, is taken. How
    long that takes is told from the `seconds_a_text` (see `seconds_of_a_text`) of the encoder.

    Raises:
        TimeUp: not even the last layer can be trained in time, or it took longer than expected.
    """
    encoder = load_encoder(modalities["text"].encoder, "text")
    layers = len(find_layers(encoder.backbone) or [])
    choices = [None, *range(layers // 2, 0, -1)]
    places = {trained: folder / f"{'-'.join(fused)}-{trained or 'all'}" for trained in choices}
    finished = [trained for trained, place in places.items() if Run(place).is_finished]
    seconds = deadline - time.monotonic()
    trained, expected = (
        (finished[0], 0.0)
        if finished
        else _affordable(choices, layers, seconds_a_text, len(load_rows(data, "train")), seconds)
    )
    if not finished and expected > seconds:
        raise TimeUp(
            f"the text encoder fine-tuned: it would take about {expected:.0f} seconds, and {max(0, seconds):.0f} were left; "
            f"--minutes {math.ceil(expected / 60 + 10)} leaves enough"
        )
    what = f"last {trained} of {layers} layers" if trained else "all layers"
    name = f"{' and '.join(fused)}, text encoder fine-tuned ({what})"
    log.info("%s: %s", name, "trained before" if finished else f"about {expected / 60:.0f} minutes")
    started = time.monotonic()
    text = replace(modalities["text"], frozen=False, trained_layers=trained)
    others = {other: replace(modalities[other], averaged=True) for other in fused if other != "text"}
    size = sum(parameter.numel() for parameter in encoder.parameters())
    config = RunConfig(
        data,
        ModelConfig(
            {"text": text, **others},
            dim=encoder.width,
            projection_hidden=0,
            fusion=FusionConfig("concat" if others else "pool"),
        ),
        str(places[trained]),
        loss=LossConfig(alignment_weight=0),
        train=TrainConfig(
            epochs=EPOCHS,
            batch_size=BATCH,
            encoder_learning_rate=1e-4 if size < SMALL else 3e-5,
            head_learning_rate=1e-3,
            layer_decay=0.9,
            warmup=0.1,
            monitor="calibrated_nll",
        ),
    )
    try:
        run = Run(train(config, resume=True, deadline=deadline))
    except TimeUp:
        raise TimeUp(f"{name}: it took longer than expected; a fit with more --minutes goes on with it") from None
    return _trained(name, run, data, ("text", *others), started)


def seconds_of_a_text(encoder: Encoder, rows: Rows) -> float:
    """That a forward pass takes, in batches of similar length, after one batch to warm up."""
    texts = sorted(rows.texts[:: max(1, len(rows) // TIMED)][:TIMED], key=len)
    encoder.encode(texts[:BATCH])
    started = time.monotonic()
    for start in range(0, len(texts), BATCH):
        encoder.encode(texts[start : start + BATCH])
    return (time.monotonic() - started) / len(texts)


def fuse(
    data: DataConfig,
    modalities: Mapping[str, ModalityConfig],
    fresh: Set[str],
    teacher: str,
    folder: Path,
    deadline: float,
) -> Trained:
    """Train CLFA: two layers of cross-attention on the token states of text and image, the `teacher` pulling as much as
    validation asks for (`alignment_weight: auto`), until the `deadline`. Encoders stay frozen, but for those with `fresh`
    weights, which are trained.

    Raises:
        TimeUp: it could not be trained in time.
    """
    dim = load_teacher(teacher).embed("text", ["a"]).shape[1]
    name = f"{' and '.join(modalities)} fused, alignment chosen"
    log.info("%s: until %.1f minutes from now, or its end", name, max(0.0, deadline - time.monotonic()) / 60)
    started = time.monotonic()
    own = {kind: replace(one, frozen=kind not in fresh) for kind, one in modalities.items()}
    fusion = FusionConfig(layers=2, heads=4, feedforward=2 * dim)
    config = RunConfig(
        data,
        ModelConfig(own, dim=dim, projection_hidden=2 * dim, fusion=fusion),
        str(folder),
        teacher=teacher,
        loss=LossConfig(alignment_weight="auto"),
        train=TrainConfig(
            epochs=8 if fresh else 10,
            batch_size=16 if fresh else BATCH,
            encoder_learning_rate=1e-3,
            head_learning_rate=1e-3,
            monitor="calibrated_nll",
            patience=8 if fresh else 5,
        ),
    )
    try:
        run = Run(train(config, resume=True, deadline=deadline))
    except TimeUp:
        raise TimeUp(f"{name}: it took longer than there was; a fit with more --minutes goes on with it") from None
    return _trained(f"{name}: {run.metrics()['training']['alignment']}", run, data, tuple(own), started)


def _trained(name: str, run: Run, data: DataConfig, modalities: tuple[str, ...], started: float) -> Trained:
    """What it says on validation, with a temperature that is fitted there."""
    validation = load_rows(data, "validation")
    pipeline = Pipeline.load(run.path)
    pipeline.cache(Path(data.path), list(dict.fromkeys(validation.splits)))
    logits = pipeline.logits(validation, "predicting validation").double()
    temperature = fit_temperature(logits.softmax(1).numpy(), validation.labels)
    scaled = (logits / temperature).log_softmax(1).numpy()
    return Trained(name, run, modalities, temperature, scaled, time.monotonic() - started)


def _affordable(
    choices: Sequence[int | None], layers: int, per_post: float, posts: int, seconds: float
) -> tuple[int | None, float]:
    """How many of the last layers to train, the first of the choices that fits (`None`: all of them), else the last one; and
    the seconds that it takes: a backward pass costs two forward passes, layers below the trained ones run once."""
    for trained in choices:
        share = 1.0 if trained is None else trained / layers
        expected = posts * per_post * ((1 - share) + MARGIN * 3 * EPOCHS * share)
        if expected <= seconds:
            break
    return trained, expected
