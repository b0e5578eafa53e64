"""What training minimises: the terms of the loss, from what the model made of a batch."""

from torch import Tensor

from clfa.config import LossConfig, ModelConfig
from clfa.losses import alignment_loss, classification_loss, pair_loss, total_loss
from clfa.model.batch import Batch
from clfa.model.classifier import Output


def objective(
    output: Output, batch: Batch, config: LossConfig, model: ModelConfig, class_weights: Tensor | None = None
) -> dict[str, Tensor]:
    """The terms of the loss by name; `loss` is their sum, the one to call `backward` on (see `clfa.losses.total_loss`).

    Args:
        output: of the model for this batch.
        batch: with labels, and with the teacher's embeddings of each aligned modality.
        config: weight and temperature. With an `alignment_target` other than the teacher, the aligned modalities about the
            image are pulled to the embedding of that modality (its caption) of the same post, and no teacher is read.
        model: the modalities.
        class_weights: (C,), see `clfa.losses.classification_loss`.
    """
    assert batch.labels is not None, "training needs labels"
    classification = classification_loss(output.logits, batch.labels, class_weights, config.label_smoothing)
    alignments = _alignments(output, batch, config, model) if config.alignment_weight > 0 else {}
    return total_loss(classification, alignments, config.alignment_weight, output.penalty)


def _alignments(output: Output, batch: Batch, config: LossConfig, model: ModelConfig) -> dict[str, Tensor]:
    terms = {}
    for name, embeds in output.embeds.items():
        inputs = batch.modalities[name]
        if config.alignment_target == "teacher":
            if inputs.teacher_embeds is not None:
                terms[name] = alignment_loss(embeds, inputs.teacher_embeds, inputs.present, config.temperature)
        elif name != config.alignment_target and model.modalities[name].align and model.side(name) == "image":
            both = inputs.present & batch.modalities[config.alignment_target].present
            terms[name] = pair_loss(embeds, output.embeds[config.alignment_target], both, config.temperature)
    return terms
