"""The losses, as pure functions of tensors. Everything is computed in fp32 whatever comes in."""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

BLOCK = 65_536
"""Embeddings of a teacher that a batch is compared with at a time."""


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
    logits = _similarity(embeds, teacher_embeds, temperature)
    if same is not None:
        logits = logits.masked_fill(same & ~_itself(same), float("-inf"))
    target = torch.arange(len(logits), device=logits.device)
    rows = F.cross_entropy(logits, target, reduction="none")
    columns = F.cross_entropy(logits.T, target, reduction="none")
    return ((rows + columns) / 2).mean()


def decoupled_info_nce(
    embeds: Float[Tensor, "batch dim"],
    teacher_embeds: Float[Tensor, "batch dim"],
    temperature: float,
    same: Bool[Tensor, "batch batch"] | None = None,
) -> Float[Tensor, ""]:
    """`info_nce` with its own pair left out of the sums over j, so that a pair that is right already is still pulled:

        L_xc = -1/B sum_k ( s_kk - log sum_{j != k} exp s_kj ),   L_cx likewise.

    In nats, without a lower bound of 0; log (B - 1) where nothing is learnt. A post without negatives counts as 0.

    Source: Yeh et al. 2022, Decoupled Contrastive Learning.
    """
    logits = _similarity(embeds, teacher_embeds, temperature)
    left_out = _itself(logits) if same is None else same | _itself(same)
    negatives = logits.masked_fill(left_out, float("-inf"))
    alone = left_out.all(1)
    rows = negatives.masked_fill(alone[:, None], 0).logsumexp(1) - logits.diagonal()
    columns = negatives.masked_fill(alone[None], 0).logsumexp(0) - logits.diagonal()
    return ((rows + columns) / 2).masked_fill(alone, 0).mean()


def info_nce_among_all(
    embeds: Float[Tensor, "batch dim"],
    all_embeds: Float[Tensor, "all dim"],
    places: Int[Tensor, " batch"],
    temperature: float,
) -> Float[Tensor, ""]:
    """InfoNCE with the teacher's embeddings of the whole training set as candidates, in the one direction that has them:

        L = -1/B sum_k log( exp s_k,p(k) / sum_{n=1}^{N} exp s_kn ),   s_kn = cos(F'_k, C_n) / tau.

    The teacher is frozen, so C is computed once. The sum over n is made of blocks of `BLOCK`, each computed again for the
    gradient, so that memory does not grow with N beyond C itself: B x BLOCK logits at a time.

    Args:
        embeds: ours.
        all_embeds: C, each content once (so that no post is its own negative); in half precision where it is kept so.
        places: p(k), the rows of C of these posts.
        temperature: tau.

    Source: a memory bank (Wu et al. 2018, Instance Discrimination) that never grows old.
    """
    own, all_embeds = F.normalize(embeds.float(), dim=-1), all_embeds.detach()

    def log_sum(own: Tensor, block: Tensor) -> Tensor:
        return _similarity(own, block, temperature).logsumexp(dim=1)

    blocks = all_embeds.split(BLOCK)
    sums = [checkpoint(log_sum, own, block, use_reentrant=False) for block in blocks]
    positive = (own * F.normalize(all_embeds[places].float(), dim=-1)).sum(dim=1) / temperature
    return (torch.stack(sums).logsumexp(dim=0) - positive).mean()


def _similarity(one: Tensor, other: Tensor, temperature: float) -> Tensor:
    """cos / tau of all pairs, in fp32."""
    return F.normalize(one.float(), dim=-1) @ F.normalize(other.float(), dim=-1).T / temperature


def _itself(pairs: Tensor) -> Tensor:
    return torch.eye(len(pairs), dtype=torch.bool, device=pairs.device)


GUIDANCES: dict[str, Callable[..., Tensor]] = {"info_nce": info_nce, "decoupled": decoupled_info_nce}
"""Kinds of guidance by a teacher, each `(embeds, teacher_embeds, temperature, same)`."""


def alignment_loss(
    embeds: Float[Tensor, "batch dim"],
    teacher_embeds: Float[Tensor, "batch dim"],
    mask: Bool[Tensor, " batch"],
    temperature: float,
    guidance: str = "info_nce",
) -> Float[Tensor, ""]:
    """A kind of guidance (`GUIDANCES`) over the posts that have the modality (`mask`); 0 where none has it. No gradient
    reaches the teacher.

    Posts with equal teacher embeddings (a text or an image that is posted twice) are no negatives of each other; the paper
    and its released code do not say so.
    """
    if not mask.any():
        return embeds.float().sum() * 0
    teacher_embeds = teacher_embeds.detach().float()[mask]
    same = torch.cdist(teacher_embeds, teacher_embeds, p=float("inf")) == 0
    return GUIDANCES[guidance](embeds[mask], teacher_embeds, temperature, same)


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
