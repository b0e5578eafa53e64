"""Decomposition and relation network."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clfa.config import FusionConfig
from clfa.fusion.base import AttentionPooling, Fusion, Tokens, masked_softmax, weighted_sum


class DRNet(Fusion):
    """What text and image share and what each has alone; and what the words have to do with the image's concepts.

        decomposition, for the pooled text and image m:  s_m = tanh(W_shared m + b),  p_m = tanh(W_m m + b);
        relation, for each concept j of the image over the words t_i:  a_j = softmax_i( k_j W t_i / sqrt(d) ),
        c = sum_j w_j sum_i a_ji t_i, w by attention pooling over the concepts;   h = ReLU(W [s_t; s_v; p_t; p_v; c] + b).

    Added to the loss (`penalty`): 0.1 d sum_m ||W_shared^T W_m||^2 / (||W_shared||^2 ||W_m||^2), Frobenius norms, so
    that the two maps are different.

    Source: Xu, Zeng, Mao 2020, Reasoning with Multimodal Sarcastic Tweets via Modeling Cross-Modality Contrast and Semantic
    Association. There is no public code; the orthogonality on the weights, its factor and the concatenation are our reading.
    The first context is the image, the last one the adjective–noun pairs (column `attributes`); with one context its tokens
    are the concepts.
    """

    def __init__(self, dim: int, contexts: Sequence[str], config: FusionConfig, pooling: str):
        super().__init__(dim, contexts, config, pooling)
        self.shared: nn.Linear = nn.Linear(dim, dim)
        self.private: Any = nn.ModuleList(nn.Linear(dim, dim) for _ in ("query", *contexts[:1]))
        self.ask = nn.Linear(dim, dim, bias=False) if contexts else None
        self.concepts = AttentionPooling(dim) if contexts else None
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Sequential(nn.Linear(dim * (5 if contexts else 2), dim), nn.ReLU())

    def forward(self, query: Tokens, contexts: dict[str, Tokens]) -> Float[Tensor, "batch dim"]:
        modalities = self.modalities(query, contexts)
        vectors = []
        for side, private in zip(modalities, self.private):
            pooled, present = side.pool(self.pooling), side.present[:, None]
            vectors += [torch.tanh(self.shared(pooled)) * present, torch.tanh(private(pooled)) * present]
        if self.ask is not None and self.concepts is not None:
            concepts = modalities[-1]
            scores = self.ask(concepts.states) @ query.states.transpose(1, 2) / query.states.shape[2] ** 0.5
            answers = masked_softmax(scores, query.mask[:, None].expand_as(scores)) @ query.states
            vectors.append(weighted_sum(self.concepts.weights(concepts.states, concepts.mask), answers))
        return self.out(self.dropout(torch.cat(vectors, 1)))

    def penalty(self) -> Float[Tensor, ""]:
        """How much the shared and the private maps overlap; about 0.1 each when they begin, 0 when they are orthogonal."""
        with torch.autocast(self.shared.weight.device.type, enabled=False):
            shared, total = self.shared.weight, self.shared.weight.new_zeros(())
            for layer in self.private:
                private = layer.weight
                overlap = (shared.T @ private).square().sum()
                total = total + overlap / (shared.square().sum() * private.square().sum())
            return 0.1 * len(shared) * total
