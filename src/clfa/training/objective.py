"""What training minimises: the terms of the loss, from what the model made of a batch."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clfa.config import LossConfig, ModelConfig
from clfa.losses import (
    affinity_loss,
    alignment_loss,
    classification_loss,
    confidence,
    info_nce_among_all,
    pair_loss,
    total_loss,
)
from clfa.model.batch import Batch, Inputs
from clfa.model.classifier import Output


class AllEmbeds(NamedTuple):
    """The teacher's embeddings of one modality for the whole training set, each content once."""

    embeds: Float[Tensor, "all dim"]
    entries: Int[Tensor, " all"]
    """Their numbers in the teacher's cache, rising."""


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
    weight = (
        config.alignment_weight
        * {"constant": 1.0, "decay": 1.0 - done, "first": float(done < FIRST)}[config.alignment_schedule]
    )
    alignments = _alignments(output, batch, config, model, everyone or {}) if weight > 0 else {}
    if config.alignment_schedule == "first" and weight > 0:
        classification = classification * 0
    return total_loss(classification, alignments, weight, output.penalty)


FIRST = 1 / 3
"""Share of the steps that `alignment_schedule: first` aligns in."""


def _alignments(
    output: Output, batch: Batch, config: LossConfig, model: ModelConfig, everyone: Mapping[str, AllEmbeds]
) -> dict[str, Tensor]:
    if config.alignment_target != "teacher":
        return _to_another_modality(output, batch, config, model)
    if config.guidance == "affinity":
        pair = _pair(batch, model)
        if pair is None:
            return {}
        text, image, both = pair
        ours, theirs = output.embeds, batch.modalities
        loss = affinity_loss(
            ours[text][both],
            ours[image][both],
            _teacher(theirs[text])[both],
            _teacher(theirs[image])[both],
            config.temperature,
        )
        return {"affinity": loss}
    weights = _confidence(batch, _pair(batch, model), config.temperature) if config.confidence_gate else None
    terms = {}
    for name, inputs in batch.modalities.items():
        present, entries = inputs.present, inputs.teacher_entries
        if entries is not None and name in everyone and present.any():
            places = torch.searchsorted(everyone[name].entries, entries[present])
            own = None if weights is None else weights[present]
            embeds = output.embeds[name][present]
            terms[name] = info_nce_among_all(embeds, everyone[name].embeds, places, config.temperature, own)
        elif inputs.teacher_embeds is not None:
            embeds, kind = output.embeds[name], config.guidance
            terms[name] = alignment_loss(embeds, inputs.teacher_embeds, present, config.temperature, kind, weights)
    return terms


def _pair(batch: Batch, model: ModelConfig) -> tuple[str, str, Tensor] | None:
    """The first guided modality about the text and the first about the image, and which posts (B,) have both; `None` where
    none has."""
    guided = [name for name, inputs in batch.modalities.items() if inputs.teacher_embeds is not None]
    sides = {model.side(name): name for name in reversed(guided)}
    if not {"text", "image"} <= sides.keys():
        return None
    both = batch.modalities[sides["text"]].present & batch.modalities[sides["image"]].present
    return (sides["text"], sides["image"], both) if both.any() else None


def _confidence(batch: Batch, pair: tuple[str, str, Tensor] | None, temperature: float) -> Tensor | None:
    """(B,) weights by `clfa.losses.confidence`; 1 for posts that lack a side."""
    if pair is None:
        return None
    text, image, both = pair
    weights = torch.ones(len(both), device=both.device)
    of_text, of_image = (_teacher(batch.modalities[name])[both] for name in (text, image))
    weights[both] = confidence(of_text, of_image, temperature)
    return weights


def _teacher(inputs: Inputs) -> Tensor:
    assert inputs.teacher_embeds is not None
    return inputs.teacher_embeds


def _to_another_modality(output: Output, batch: Batch, config: LossConfig, model: ModelConfig) -> dict[str, Tensor]:
    terms = {}
    for name, embeds in output.embeds.items():
        if name != config.alignment_target and model.modalities[name].align and model.side(name) == "image":
            both = batch.modalities[name].present & batch.modalities[config.alignment_target].present
            terms[name] = pair_loss(embeds, output.embeds[config.alignment_target], both, config.temperature)
    return terms
