"""Posts that lack a modality, made of posts that have all: so training sees what use will bring."""

from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor

from clfa.fusion import Tokens
from clfa.model.batch import Batch
from clfa.model.classifier import Classifier, Output


def forward(model: Classifier, batch: Batch, rate: float) -> Output:
    """The model's output in training: with probability `rate` the fusion does not see one of a post's modalities.

    States, masks and embeds are those of all tokens, so alignment pulls on what the fusion does not see as well.
    """
    if rate == 0:
        return model(batch)
    tokens = model.project(batch)
    fused = (model.query, *model.contexts)
    hidden = draw_hidden(torch.stack([tokens[name].present for name in fused], 1), rate)
    seen = {name: _without(tokens[name], hidden[:, place]) for place, name in enumerate(fused)}
    return replace(
        model.fuse(tokens | seen),
        masks={name: one.mask for name, one in tokens.items()},
        embeds={name: one.pool("mean") for name, one in tokens.items()},
    )


def draw_hidden(present: Bool[Tensor, "batch modalities"], rate: float) -> Bool[Tensor, "batch modalities"]:
    """With probability `rate` one of the modalities that are there, each as likely, is hidden; never the last one of a post.

    Drawn on the CPU, whose generator is the run's, whatever the device.
    """
    chosen = torch.rand(present.shape).masked_fill(~present.cpu(), -1).argmax(1)
    hides = (torch.rand(len(present)) < rate) & (present.sum(1) > 1).cpu()
    return (torch.nn.functional.one_hot(chosen, present.shape[1]).bool() & hides[:, None]).to(present.device)


def _without(tokens: Tokens, hidden: Bool[Tensor, " batch"]) -> Tokens:
    return replace(tokens, mask=tokens.mask & ~hidden[:, None])
