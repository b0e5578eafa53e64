"""Posts that lack a modality, made of posts that have all: so training sees what use will bring."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from clfa.fusion import Tokens
from clfa.model.batch import Batch
from clfa.model.classifier import Classifier, Output


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


def _hidden(tokens: Tokens, where: Tensor) -> Tokens:
    return replace(tokens, mask=tokens.mask & ~where[:, None])
