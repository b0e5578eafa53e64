"""Posts that lack a modality, made of posts that have all: so training sees what use will bring."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from clfa.data.rows import Rows
from clfa.fusion import Tokens
from clfa.model.batch import Batch
from clfa.model.classifier import Classifier, Output
from clfa.model.pipeline import Pipeline


def forward(model: Classifier, batch: Batch, hide: bool) -> tuple[Output, list[Output]]:
    """The model's output for a batch; and, to `hide`, once more for each fused modality, as if the posts lacked it.

    Posts are encoded and projected once. Hidden are modalities from the fusion alone: states, masks and embeds, which
    alignment reads, stay. The last modality of a post is never hidden.
    """
    tokens = model.project(batch)
    whole = model.fuse(tokens)
    fused = (model.query, *model.contexts) if hide and model.contexts else ()
    count = sum((tokens[name].present.int() for name in fused), torch.zeros(()))
    lacking = [model.fuse(tokens | {name: _hidden(tokens[name], count > 1)}) for name in fused]
    return whole, [replace(whole, logits=output.logits, fused=output.fused) for output in lacking]


def expected_terms(
    terms: dict[str, Tensor], lacking: Sequence[Float[Tensor, ""]], rate: float
) -> dict[str, Float[Tensor, ""]]:
    """The terms of the loss with L_ce = (1 - p) L_ce(whole) + p mean_m L_ce(without m), p the `rate`.

    It is the expectation of modality dropout, which hides one modality of a post at random with probability p (ModDrop,
    Neverova et al. 2016), at the price of one more pass of the fusion for each modality. Drawn at random with the same p,
    runs of a few epochs left posts without a text four points of macro F1 further behind (MVSA-Single, concat and
    cross-attention).

    Args:
        terms: of whole posts, see `clfa.losses.total_loss`.
        lacking: classification loss without each of the fused modalities.
        rate: p.
    """
    change = rate * (torch.stack(list(lacking)).mean() - terms["classification_loss"])
    return terms | {name: terms[name] + change for name in ("loss", "classification_loss")}


@torch.no_grad()
def probabilities_without(pipeline: Pipeline, rows: Rows) -> list[Float[NDArray, "posts classes"]]:
    """Of all rows as if they lacked each fused modality in turn, see `forward`; in the order of query and contexts."""
    found: list[list[Tensor]] = []
    for start in range(0, len(rows), pipeline.batch_size):
        chunk = [rows[number] for number in range(start, min(len(rows), start + pipeline.batch_size))]
        _, lacking = forward(pipeline.model.eval(), pipeline.collate(chunk).to(pipeline.device), hide=True)
        found.append([output.logits.double().softmax(1).cpu() for output in lacking])
    return [torch.cat(blocks).numpy() for blocks in zip(*found)]


def expected_score(whole: float, lacking: Sequence[float], rate: float) -> float:
    """A score with the same weights as the loss (see `expected_terms`): what chooses the epoch must not be blind to posts
    that lack a modality, whose part of the model takes longer to train."""
    return (1 - rate) * whole + rate * sum(lacking) / len(lacking) if lacking else whole


def _hidden(tokens: Tokens, where: Tensor) -> Tokens:
    return replace(tokens, mask=tokens.mask & ~where[:, None])
