"""What training minimises: the terms of the loss, from what the model made of a batch."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clfa.config import LossConfig, ModelConfig
from clfa.losses import (
    alignment_loss,
    classification_loss,
    info_nce_among_all,
    pair_loss,
    total_loss,
)
from clfa.model.batch import Batch
from clfa.model.classifier import Output


class AllEmbeds(NamedTuple):
    """The teacher's embeddings of one modality for the whole training set, each content once."""

    embeds: Float[Tensor, "all dim"]
    entries: Int[Tensor, " all"]
    """Their numbers in the teacher's cache, rising."""


FIRST = 1 / 3
"""Share of the steps that `alignment_schedule: first` aligns in."""


def objective(
    output: Output,
    batch: Batch,
    config: LossConfig,
    model: ModelConfig,
    class_weights: Tensor | None = None,
    done: float = 0.0,
    everyone: Mapping[str, AllEmbeds] | None = None,
) -> dict[str, Tensor]:
    """The terms of the loss by name; `loss` is their sum, the one to call `backward` on (see `clfa.losses.total_loss`).

    Args:
        output: of the model for this batch.
        batch: with labels, and with the teacher's embeddings of each aligned modality.
        config: weight and temperature. With an `alignment_target` other than the teacher, the aligned modalities about the
            image are pulled to the embedding of that modality (its caption) of the same post, and no teacher is read.
        model: the modalities.
        class_weights: (C,), see `clfa.losses.classification_loss`.
        done: share of the optimizer steps that are done, for the schedule of the alignment weight.
        everyone: modality -> the teacher's embeddings of all training posts, for `negatives: all`.
    """
    assert batch.labels is not None, "training needs labels"
    assert config.alignment_weight != "auto"
    classification = classification_loss(output.logits, batch.labels, class_weights, config.label_smoothing)
    weight = config.alignment_weight
    if aligns_alone(config, done):
        classification = classification * 0
    elif config.alignment_schedule == "first":
        weight = 0.0
    alignments = _alignments(output, batch, config, model, everyone or {}) if weight > 0 else {}
    return total_loss(classification, alignments, weight, output.penalty)


def aligns_alone(config: LossConfig, done: float) -> bool:
    """Whether nothing but alignment is trained when this share of the steps is done."""
    return config.alignment_schedule == "first" and config.alignment_weight != 0 and done <= FIRST


def _alignments(
    output: Output, batch: Batch, config: LossConfig, model: ModelConfig, everyone: Mapping[str, AllEmbeds]
) -> dict[str, Tensor]:
    if config.alignment_target != "teacher":
        return _to_another_modality(output, batch, config, model)
    terms = {}
    for name, inputs in batch.modalities.items():
        present, entries = inputs.present, inputs.teacher_entries
        if entries is not None and name in everyone and present.any():
            places = torch.searchsorted(everyone[name].entries, entries[present])
            embeds = output.embeds[name][present]
            terms[name] = info_nce_among_all(embeds, everyone[name].embeds, places, config.temperature)
        elif inputs.teacher_embeds is not None:
            terms[name] = alignment_loss(
                output.embeds[name], inputs.teacher_embeds, present, config.temperature, config.guidance
            )
    return terms


def _to_another_modality(output: Output, batch: Batch, config: LossConfig, model: ModelConfig) -> dict[str, Tensor]:
    terms = {}
    for name, embeds in output.embeds.items():
        if name != config.alignment_target and model.modalities[name].align and model.side(name) == "image":
            both = batch.modalities[name].present & batch.modalities[config.alignment_target].present
            terms[name] = pair_loss(embeds, output.embeds[config.alignment_target], both, config.temperature)
    return terms
