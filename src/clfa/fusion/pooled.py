"""The two fusions without attention: pooling everything together, and pooling each modality for itself."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clfa.config import FusionConfig
from clfa.fusion.base import Fusion, Tokens, join


class Pool(Fusion):
    """All tokens of the query and of the contexts pooled together; nothing is learnt here.

    With `mean`: h = 1/(n+m) (sum_i t_i + sum_j c_j). Without contexts it is the plain pooled encoder of the single-modality
    rows (BERT, BiLSTM, ViT, ResNet); with regions of a ResNet as context and `mean` it is ResBERT (Pan et al. 2020).
    """

    def forward(self, query: Tokens, contexts: dict[str, Tokens]) -> Float[Tensor, "batch dim"]:
        return join(self.modalities(query, contexts)).pool(self.pooling)


class Concat(Fusion):
    """Pooled query and pooled contexts side by side, through one hidden layer: h = ReLU(W [t; c_1; …] + b)."""

    def __init__(self, dim: int, contexts: Sequence[str], config: FusionConfig, pooling: str):
        super().__init__(dim, contexts, config, pooling)
        self.mix = nn.Sequential(nn.Linear(dim * (1 + len(contexts)), dim), nn.ReLU())

    def forward(self, query: Tokens, contexts: dict[str, Tokens]) -> Float[Tensor, "batch dim"]:
        return self.mix(torch.cat([one.pool(self.pooling) for one in self.modalities(query, contexts)], -1))
