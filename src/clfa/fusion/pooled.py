"""The two fusions without attention: pooling everything together, and pooling each modality for itself."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from clfa.config import FusionConfig
from clfa.fusion.context import Context, pool


class Pool(nn.Module):
    """All tokens of the query and of the contexts pooled together; nothing is learnt here.

    With `mean`: h = 1/(n+m) (sum_i t_i + sum_j c_j). Without contexts it is the plain pooled encoder of the single-modality
    rows (BERT, BiLSTM, ViT, ResNet); with regions of a ResNet as context and `mean` it is ResBERT (Pan et al. 2020).
    """

    def __init__(self, dim: int, contexts: int, config: FusionConfig, pooling: str):
        super().__init__()
        self.pooling = pooling

    def forward(
        self,
        query: Float[Tensor, "batch queries dim"],
        query_mask: Bool[Tensor, "batch queries"],
        contexts: list[Context],
    ) -> Float[Tensor, "batch dim"]:
        """The pooled tokens of each post."""
        states = torch.cat([query, *(context.states for context in contexts)], dim=1)
        mask = torch.cat([query_mask, *(context.mask for context in contexts)], dim=1)
        return pool(states, mask, self.pooling)


class Concat(nn.Module):
    """Pooled query and pooled contexts side by side, through one hidden layer: h = ReLU(W [t; c_1; …] + b)."""

    def __init__(self, dim: int, contexts: int, config: FusionConfig, pooling: str):
        super().__init__()
        self.mix = nn.Sequential(nn.Linear(dim * (1 + contexts), dim), nn.ReLU())
        self.pooling = pooling

    def forward(
        self,
        query: Float[Tensor, "batch queries dim"],
        query_mask: Bool[Tensor, "batch queries"],
        contexts: list[Context],
    ) -> Float[Tensor, "batch dim"]:
        """Fused vector of each post."""
        parts = [pool(query, query_mask, self.pooling)]
        parts += [pool(context.states, context.mask, self.pooling) for context in contexts]
        return self.mix(torch.cat(parts, dim=-1))
