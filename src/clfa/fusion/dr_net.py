"""Decomposition and relation network."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from clfa.config import FusionConfig
from clfa.fusion.context import AttentionPooling, Context, masked_softmax, pool


class DRNet(nn.Module):
    """What text and image share and what each has alone; and what the words have to do with the image's concepts.

        decomposition, for the pooled text and image m:  s_m = tanh(W_shared m + b),  p_m = tanh(W_m m + b);
        relation, for each concept j of the image over the words t_i:  a_j = softmax_i( k_j W t_i / sqrt(d) ),
        c = sum_j w_j sum_i a_ji t_i, w by attention pooling over the concepts;   h = ReLU(W [s_t; s_v; p_t; p_v; c] + b).

    Added to the loss (`penalty`): 0.1 d sum_m ||W_shared^T W_m||^2 / (||W_shared||^2 ||W_m||^2), Frobenius norms, so
    that the two parts are different.

    Source: Xu, Zeng, Mao 2020, Reasoning with Multimodal Sarcastic Tweets via Modeling Cross-Modality Contrast and Semantic
    Association. There is no public code; the orthogonality on the weights, its factor and the concatenation are our reading.
    Contexts: the image, then the adjective–noun pairs (column `attributes`); without them the image's regions are the
    concepts.
    """

    def __init__(self, dim: int, contexts: int, config: FusionConfig, pooling: str):
        super().__init__()
        self.shared: nn.Linear = nn.Linear(dim, dim)
        self.private = nn.ModuleList(nn.Linear(dim, dim) for _ in range(1 + min(contexts, 1)))
        self.ask = nn.Linear(dim, dim, bias=False) if contexts else None
        self.concepts = AttentionPooling(dim) if contexts else None
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Sequential(nn.Linear(dim * (5 if contexts else 2), dim), nn.ReLU())
        self.pooling = pooling

    def forward(
        self,
        query: Float[Tensor, "batch queries dim"],
        query_mask: Bool[Tensor, "batch queries"],
        contexts: list[Context],
    ) -> Float[Tensor, "batch dim"]:
        """Fused vector of each post."""
        sides = [(query, query_mask), *((context.states, context.mask) for context in contexts[:1])]
        parts = []
        for (states, mask), private in zip(sides, self.private):
            pooled, present = pool(states, mask, self.pooling), mask.any(1, keepdim=True)
            parts += [torch.tanh(self.shared(pooled)) * present, torch.tanh(private(pooled)) * present]
        if self.ask is not None and self.concepts is not None:
            states, mask, *_ = contexts[-1]
            scores = self.ask(states) @ query.transpose(1, 2) / query.shape[2] ** 0.5
            answers = masked_softmax(scores, query_mask[:, None].expand_as(scores)) @ query
            weights = self.concepts.weights(states, mask)
            parts.append((weights[:, :, None] * answers).sum(1))
        return self.out(self.dropout(torch.cat(parts, 1)))

    def penalty(self) -> Float[Tensor, ""]:
        """How much the shared and the private maps overlap; about 0.1 each when they begin, 0 when they are orthogonal."""
        with torch.autocast(self.shared.weight.device.type, enabled=False):
            shared, total = self.shared.weight, self.shared.weight.new_zeros(())
            for private in self.private.parameters():
                if private.ndim > 1:
                    total = total + (shared.T @ private).square().sum() / (
                        shared.square().sum() * private.square().sum()
                    )
            return 0.1 * len(shared) * total
