"""What a run is trained with: posts, a new model with its caches, batches, optimizer."""

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from clfa.config import ModelConfig, RunConfig
from clfa.data.cache import Cache, Engine, kept
from clfa.data.progress import track
from clfa.data.records import load_manifest
from clfa.data.rows import Rows
from clfa.data.splits import load_rows, load_unlabelled, source_splits
from clfa.errors import UserError
from clfa.metrics import metric_names
from clfa.model.arithmetic import products
from clfa.model.batch import Batch, Collator
from clfa.model.classifier import Classifier, build_classifier
from clfa.model.knowledge import with_graphs
from clfa.model.modalities import kind_of
from clfa.model.pipeline import Pipeline
from clfa.model.reading import misreadings
from clfa.model.teacher import embed_dataset
from clfa.model.word_vectors import training_texts
from clfa.training.average import start_average
from clfa.training.objective import AllEmbeds
from clfa.training.optimizer import parameter_groups
from clfa.training.processes import Passes, Processes, Share, distributed
from clfa.training.sampler import Beside, LengthBuckets, WithUnlabelled

LOOKED_AT = 20_000
"""Training texts among which those are drawn that a tokenizer is tried with."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setup:
    """What a run is trained with."""

    pipeline: Pipeline
    """The model in use: validation goes through it."""
    rows: Rows
    """Training posts."""
    validation: Rows
    """Posts that choose the epoch."""
    batches: DataLoader
    """Batches of an epoch."""
    sampler: LengthBuckets
    """Their order."""
    optimizer: torch.optim.Optimizer
    """AdamW."""
    class_weights: Tensor
    """(C,), of the classification loss."""
    everyone: dict[str, AllEmbeds]
    """Modality -> the teacher's embeddings of all training posts, for `loss.negatives: all`."""
    passes: nn.Module
    """The passes of the model in training, whose gradients are those of all processes."""
    processes: Processes
    """Those that train the run."""
    average: dict[str, Tensor]
    """Name -> average of a trained parameter; empty without averaging."""

    @property
    def share(self) -> Share:
        """What hands the batches out."""
        return cast(Share, self.batches.batch_sampler)

    @property
    def model(self) -> Classifier:
        """The classifier."""
        return self.pipeline.model


def set_up(config: RunConfig, processes: Processes = Processes()) -> Setup:  # noqa: B008  # it cannot be changed
    """Posts, a new model with its caches, and what optimises it.

    Raises:
        UserError: data, teacher and configuration do not fit each other.
    """
    settings, class_names = config.train, load_manifest(Path(config.data.path))["labels"]
    allowed = metric_names(len(class_names))
    if settings.monitor not in allowed:
        raise UserError(f"train.monitor = {settings.monitor!r}: allowed are {', '.join(allowed)}")
    rows, validation = load_rows(config.data, "train", config.seed), load_rows(config.data, "validation")
    unlabelled = load_unlabelled(config.data)
    pipeline, teacher = _with_caches(config, rows)
    model = pipeline.model
    sampler = LengthBuckets(rows.lengths("text"), settings.batch_size, config.seed)
    every = sampler if unlabelled is None else Beside(sampler, len(rows), len(unlabelled))
    batches: DataLoader = DataLoader(
        rows if unlabelled is None else WithUnlabelled(rows, unlabelled),  # type: ignore[arg-type]  # sequences are data sets
        batch_sampler=Share(every, processes),
        collate_fn=Collator(model.config, pipeline.preparers, pipeline.caches, teacher, pipeline.compact),
        num_workers=settings.workers,
        generator=torch.Generator().manual_seed(config.seed),
    )
    if settings.gradient_checkpointing:
        _checkpoint_gradients(model)
    passes = distributed(Passes(model, settings.modality_dropout > 0), processes, settings.sharded)
    if settings.workers:  # what is read once is read here, and handed down to all of them
        batches.collate_fn([cast(Any, batches.dataset)[0]])
    optimizer = torch.optim.AdamW(parameter_groups(model, settings), betas=(0.9, 0.999), fused=True)
    weights = _class_weights(rows.labels, len(class_names), config).to(pipeline.device)
    aligned = [rows] if unlabelled is None else [rows, unlabelled]
    everyone = _everyone(config, aligned, teacher, pipeline.device) if config.loss.negatives == "all" else {}
    average = start_average(model) if settings.average else {}
    return Setup(pipeline, rows, validation, batches, sampler, optimizer, weights, everyone, passes, processes, average)


def _checkpoint_gradients(model: Classifier) -> None:
    for name, encoder in model.encoders.items():
        if any(parameter.requires_grad for parameter in encoder.parameters()):
            try:
                encoder.backbone.activation_checkpointing_enable({"use_reentrant": False})
            except ValueError:
                raise UserError(
                    f"train.gradient_checkpointing: the encoder of {name} ({encoder.backbone.config.model_type}) has none; "
                    "leave it out, or set frozen"
                ) from None


def fill_caches(config: RunConfig, engine: Engine = "plain") -> dict[str, int]:
    """What the frozen encoders and the teacher of a run compute of each post, so that its training finds it.

    Returns:
        Modality, or `teacher`, -> the number of contents that its cache holds.

    Raises:
        UserError: data, teacher and configuration do not fit each other; there is no cluster.
    """
    torch.manual_seed(config.seed)  # as the training does: encoders without weights draw the same ones
    with kept(engine), products(config.train.precision):
        pipeline, teacher = _with_caches(config, load_rows(config.data, "train", config.seed), engine)
    caches = dict(pipeline.caches)
    for cache in teacher.values():  # one for all modalities
        caches["teacher"] = cache
    return {name: len(cache) for name, cache in caches.items()}


def _with_caches(config: RunConfig, rows: Rows, engine: Engine = "plain") -> tuple[Pipeline, dict[str, Cache]]:
    """A new model that reads the states of its frozen encoders from caches, and the teacher's embeddings."""
    dataset, manifest = Path(config.data.path), load_manifest(Path(config.data.path))
    unlabelled = load_unlabelled(config.data)
    splits = source_splits(config.data, ["train", "validation"])
    splits += [split for split in (unlabelled.splits if unlabelled else []) if split not in splits]
    _check_modalities(config, rows)
    check_alignment(config)  # before anything is encoded
    model_config = with_graphs(config.model, rows)
    _log_graphs(model_config, rows)
    texts = {name: training_texts(rows, config.model, name) for name, m in config.model.modalities.items() if m.words}
    model = build_classifier(model_config, manifest["labels"], manifest["text"], texts)
    pipeline = Pipeline(model, config.train.batch_size * 4)
    _log_misreadings(pipeline, rows)
    pipeline.cache(dataset, splits, engine)
    pipeline.cache_inputs(dataset, splits, again=config.train.epochs > 1)
    return pipeline, _teacher_embeds(config, splits, engine)


@contextmanager
def one_pass(batches: DataLoader) -> Iterator[Iterator[Batch]]:
    """The batches of an epoch, and whatever ends this block, the end of the processes that make them.

    A terminal sends its signals to these, too. They are begun while signals wait, and never get any: the training decides
    when they end.
    """
    signals = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals) if hasattr(signal, "pthread_sigmask") else None
    try:
        made = iter(batches)
    finally:
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield made
    finally:
        # else Python would wait for them at its exit, where they are asked to end by a signal
        if hasattr(made, "_shutdown_workers"):
            made._shutdown_workers()


def _check_modalities(config: RunConfig, rows: Rows) -> None:
    for name in config.model.modalities:
        column = config.model.column(name)
        if not rows.has(column):
            raise UserError(
                f"no training post of {config.data.path} has a {column!r}: import it with the data set, name another "
                f"column with model.modalities.{name}.column, or take the modality {name!r} out"
            )


def _log_graphs(config: ModelConfig, rows: Rows) -> None:
    for name, modality in config.modalities.items():
        if modality.graph:
            without = sum(not cell for cell in rows["dependencies"]) if modality.graph == "dependencies" else 0
            more = f"; {without:,} of {len(rows):,} training posts have none: neighbouring words" if without else ""
            log.info("word graph of %s: %s%s", name, modality.graph, more)


def _log_misreadings(pipeline: Pipeline, rows: Rows) -> None:
    """A warning for each way in which a tokenizer fails the training texts of its modality."""
    for name, modality in pipeline.config.modalities.items():
        tokenizer = pipeline.preparers[name]
        if isinstance(tokenizer, PreTrainedTokenizerBase):
            some = rows.select(np.linspace(0, len(rows) - 1, min(len(rows), LOOKED_AT)).astype(int))
            cells = (kind_of(modality).read(cell, modality) for cell in some[pipeline.config.column(name)])
            fixed = pipeline.config.modalities[pipeline.config.owner(name)].words is None
            for found in misreadings(tokenizer, [str(cell) for cell in cells if cell], modality.max_length, fixed):
                log.warning("modality %s: %s; %s", name, found.text, found.advice)


def check_alignment(config: RunConfig) -> None:
    """Refuse (`UserError`) alignment that has no teacher or target, or none that can be aligned."""
    modalities, target, aligned = config.model.modalities, config.loss.alignment_target, _aligned(config)
    partial = [name for name in aligned if modalities[name].part != "all"]
    if config.loss.negatives == "all" and (config.loss.guidance != "info_nce" or target != "teacher"):
        raise UserError("loss.negatives: all is for guidance: info_nce by a teacher; leave it out, or change the other")
    if aligned and target != "teacher":
        if target not in modalities or not any(
            config.model.side(name) == "image" for name in aligned if name != target
        ):
            raise UserError(
                f"loss.alignment_target = {target!r} needs an aligned modality about the image, and {target}; "
                f"there are {', '.join(modalities)}"
            )
    elif aligned and not config.teacher:
        raise UserError(
            "loss.alignment_weight is above 0 but there is no teacher: name one with `teacher: FOLDER`, or train without "
            "alignment with `loss: {alignment_weight: 0}`"
        )
    elif partial:
        raise UserError(
            f"the modality {partial[0]!r} is a part of a text: set model.modalities.{partial[0]}.align to false"
        )


def _aligned(config: RunConfig) -> list[str]:
    """Names of the modalities that are aligned."""
    weight = config.loss.alignment_weight
    return [name for name, m in config.model.modalities.items() if m.align] if weight == "auto" or weight > 0 else []


def _teacher_embeds(config: RunConfig, splits: list[str], engine: Engine) -> dict[str, Cache]:
    """Modality -> cached teacher embeddings, for the aligned modalities; empty where nothing is pulled to a teacher."""
    aligned = _aligned(config)
    if not aligned or config.loss.alignment_target != "teacher" or not config.teacher:
        return {}
    columns = {config.model.column(name): config.model.modalities[name].kind for name in aligned}
    cache, _ = embed_dataset(Path(config.data.path), config.teacher, splits, columns, engine=engine)
    if cache.width != config.model.dim:
        raise UserError(
            f"the teacher {config.teacher!r} has {cache.width} dimensions, model.dim is {config.model.dim}: "
            f"set model.dim to {cache.width}"
        )
    return dict.fromkeys(aligned, cache)


def _everyone(
    config: RunConfig, aligned: list[Rows], teacher: dict[str, Cache], device: torch.device
) -> dict[str, AllEmbeds]:
    found = {}
    for name, cache in teacher.items():
        column, kind = config.model.column(name), config.model.modalities[name].kind
        entries = np.unique(np.concatenate([rows.entries(cache, column, kind)[rows.numbers] for rows in aligned]))
        entries = entries[entries >= 0]
        embeds = torch.empty(len(entries), cache.width, dtype=torch.float16)
        for place, entry in enumerate(track(entries.tolist(), f"reading the teacher's embeddings of {name}")):
            row = cache.read(entry)
            if embeds.dtype == torch.float16 and not torch.equal(row.half().float(), row):
                embeds = embeds.float()  # a value that does not fit into half
            embeds[place] = row[0]
        found[name] = AllEmbeds(embeds.to(device), torch.from_numpy(entries).to(device))
    return found


def _class_weights(labels: np.ndarray, classes: int, config: RunConfig) -> Tensor:
    if config.loss.class_weights == "none":
        return torch.ones(classes)
    counts = np.bincount(labels, minlength=classes).clip(min=1)
    return torch.tensor(counts.sum() / (classes * counts), dtype=torch.float32)
