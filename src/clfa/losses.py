"""The losses, as pure functions of tensors. Everything is computed in fp32 whatever comes in."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clfa.config import LossConfig
from clfa.model.batch import Batch


def info_nce(
    embeds: Float[Tensor, "batch dim"], teacher_embeds: Float[Tensor, "batch dim"], temperature: float
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE between two sets of embeddings, such as ours and the teacher's.

    With s_kj = cos(F'_k, C_j) / tau:  L = 1/2 (L_xc + L_cx),
        L_xc = -1/B sum_k log( exp s_kk / sum_j exp s_kj ),   L_cx = -1/B sum_k log( exp s_kk / sum_j exp s_jk ).

    Source: CLFA (Zhang, Chang, Wu 2024), L_ic and L_ci (L_tc and L_ct for texts). The paper adds the two directions, its
    released code halves the sum, as here and as in CLIP. Equal to CLIP's loss for logit scale 1 / temperature.

    Args:
        embeds: F', pooled and projected (need not be normalised).
        teacher_embeds: C, of the same posts in the same order.
        temperature: tau; divides the cosine.

    Returns:
        Scalar in nats; log B where nothing is learnt, 0 for a single pair.
    """
    embeds = F.normalize(embeds.float(), dim=-1)
    teacher_embeds = F.normalize(teacher_embeds.float(), dim=-1)
    logits = embeds @ teacher_embeds.T / temperature
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def alignment_loss(
    embeds: Float[Tensor, "batch dim"],
    teacher_embeds: Float[Tensor, "batch dim"],
    mask: Bool[Tensor, " batch"],
    temperature: float,
) -> Float[Tensor, ""]:
    """`info_nce` over the posts that have the modality; 0 where none has it. No gradient reaches the teacher.

    Args:
        embeds: our embeddings of one modality.
        teacher_embeds: the teacher's of the same modality.
        mask: which posts have it.
        temperature: tau.
    """
    if not mask.any():
        return embeds.float().sum() * 0
    return info_nce(embeds[mask], teacher_embeds[mask].detach(), temperature)


def classification_loss(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    class_weights: Float[Tensor, " classes"] | None = None,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Cross entropy, L_ce of the paper, in nats. With class weights: the weighted mean."""
    return F.cross_entropy(logits.float(), labels, weight=class_weights, label_smoothing=label_smoothing)


def total_loss(output, batch: Batch, config: LossConfig, class_weights: Tensor | None = None) -> dict[str, Tensor]:
    """L = alpha * L_con + L_ce (paper, section 3.4), L_con the sum over the aligned modalities.

    Args:
        output: `clfa.model.classifier.Output`.
        batch: with `labels`, and with `teacher_<modality>_embeds` for each aligned modality.
        config: weight and temperature. With an `alignment_target` other than the teacher, the image is pulled to the
            embedding of that modality (its caption) of the same post, and no teacher is read.
        class_weights: see `classification_loss`.

    Returns:
        `{"loss", "classification_loss", "alignment_loss_<modality>" …, "penalty"}`; `loss` is the one to call `backward` on.
    """
    terms = {
        "classification_loss": classification_loss(
            output.logits, batch["labels"], class_weights, config.label_smoothing
        )
    }
    loss = terms["classification_loss"]
    if config.alignment_weight > 0:
        if config.alignment_target == "teacher":
            aligned = [name for name in output.embeds if f"teacher_{name}_embeds" in batch]
            found = {
                name: alignment_loss(
                    output.embeds[name], batch[f"teacher_{name}_embeds"], batch[f"{name}_mask"], config.temperature
                )
                for name in aligned
            }
        else:
            found = {"image": _caption_loss(output, batch, config)}
        for name, term in found.items():
            terms[f"alignment_loss_{name}"] = term
            loss = loss + config.alignment_weight * term
    if output.penalty is not None:
        terms["penalty"] = output.penalty
        loss = loss + output.penalty
    return {"loss": loss, **terms}


def _caption_loss(output, batch: Batch, config: LossConfig) -> Tensor:
    """`info_nce` between the image and the caption of the posts that have both; both are pulled."""
    image, caption = output.embeds["image"], output.embeds[config.alignment_target]
    both = batch["image_mask"] & batch[f"{config.alignment_target}_mask"]
    return info_nce(image[both], caption[both], config.temperature) if both.any() else image.float().sum() * 0
