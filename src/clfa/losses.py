"""The losses, as pure functions of tensors. Everything is computed in fp32 whatever comes in."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def info_nce(
    embeds: Float[Tensor, "batch dim"],
    teacher_embeds: Float[Tensor, "batch dim"],
    temperature: float,
    same: Bool[Tensor, "batch batch"] | None = None,
) -> Float[Tensor, ""]:
    """Symmetric InfoNCE between two sets of embeddings, such as ours and the teacher's.

    With s_kj = cos(F'_k, C_j) / tau:  L = 1/2 (L_xc + L_cx),
        L_xc = -1/B sum_k log( exp s_kk / sum_j exp s_kj ),   L_cx = -1/B sum_k log( exp s_kk / sum_j exp s_jk ).

    F' are the pooled and projected `embeds` (need not be normalised), C the teacher's of the same posts in the same order,
    tau the temperature. Pairs of posts that are the `same` are left out of the sums over j: they are no negatives of each
    other. In nats; log B where nothing is learnt, 0 for a single pair.

    Source: CLFA (Zhang, Chang, Wu 2024), L_ic and L_ci (L_tc and L_ct for texts). The paper adds the two directions, its
    released code halves the sum, as here and as in CLIP. Equal to CLIP's loss for logit scale 1 / temperature.
    """
    embeds = F.normalize(embeds.float(), dim=-1)
    teacher_embeds = F.normalize(teacher_embeds.float(), dim=-1)
    logits = embeds @ teacher_embeds.T / temperature
    if same is not None:
        itself = torch.eye(len(same), dtype=torch.bool, device=same.device)
        logits = logits.masked_fill(same & ~itself, float("-inf"))
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def alignment_loss(
    embeds: Float[Tensor, "batch dim"],
    teacher_embeds: Float[Tensor, "batch dim"],
    mask: Bool[Tensor, " batch"],
    temperature: float,
) -> Float[Tensor, ""]:
    """`info_nce` over the posts that have the modality (`mask`); 0 where none has it. No gradient reaches the teacher.

    Posts with equal teacher embeddings (a text or an image that is posted twice) are no negatives of each other; the paper
    and its released code do not say so.
    """
    if not mask.any():
        return embeds.float().sum() * 0
    teacher_embeds = teacher_embeds.detach().float()[mask]
    same = torch.cdist(teacher_embeds, teacher_embeds, p=float("inf")) == 0
    return info_nce(embeds[mask], teacher_embeds, temperature, same)


def pair_loss(
    embeds: Float[Tensor, "batch dim"],
    others: Float[Tensor, "batch dim"],
    mask: Bool[Tensor, " batch"],
    temperature: float,
) -> Float[Tensor, ""]:
    """`info_nce` between two modalities of ours, such as the image and its caption, over the posts that have both (`mask`);
    0 where none has. Both are pulled.
    """
    if not mask.any():
        return embeds.float().sum() * 0
    return info_nce(embeds[mask], others[mask], temperature)


def classification_loss(
    logits: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    class_weights: Float[Tensor, " classes"] | None = None,
    label_smoothing: float = 0.0,
) -> Float[Tensor, ""]:
    """Cross entropy, L_ce of the paper, in nats. With class weights: the weighted mean."""
    return F.cross_entropy(logits.float(), labels, weight=class_weights, label_smoothing=label_smoothing)


def total_loss(
    classification: Float[Tensor, ""],
    alignments: Mapping[str, Float[Tensor, ""]],
    alignment_weight: float,
    penalty: Float[Tensor, ""] | None = None,
) -> dict[str, Float[Tensor, ""]]:
    """L = alpha * L_con + L_ce (paper, section 3.4), L_con the sum of `alignment_loss` over the aligned modalities and alpha
    the `alignment_weight`; plus a fusion's penalty, if it has one.

    Returns:
        `{"loss", "classification_loss", "alignment_loss_<modality>" …, "penalty"}`; `loss` is the one to call `backward` on.
    """
    terms = {"classification_loss": classification}
    loss = classification
    for name, term in alignments.items():
        terms[f"alignment_loss_{name}"] = term
        loss = loss + alignment_weight * term
    if penalty is not None:
        terms["penalty"] = penalty
        loss = loss + penalty
    return {"loss": loss, **terms}
