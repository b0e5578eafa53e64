"""Multi-view CLIP: text, image and their interaction."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from clfa.config import FusionConfig
from clfa.fusion.context import Context, masked_softmax, pool
from clfa.fusion.cross_attention import CrossAttentionLayer


class MultiView(nn.Module):
    """Three views of a post, whose classifiers add up.

        y_m = GELU(W_m pool(X_m) + b) for text and image;   [T~; V~] = Transformer([T; V]);
        f = sum_m a_m pool(X~_m), a = softmax_m( w · pool(X~_m) );   h = W [y_t; y_v; f] + b.

    A linear classifier on h is the sum of a linear classifier of each view.

    Source: Qin et al. 2023, MMSD2.0: Towards a Reliable Multi-modal Sarcasm Detection System, section 3, and its released
    code. Differences: that sums the three classifiers' probabilities and trains each with its own cross entropy, here
    their logits are summed under one; its views are the two towers' pooled outputs, here pooled projected tokens.
    """

    def __init__(self, dim: int, contexts: int, config: FusionConfig, pooling: str):
        super().__init__()
        self.views = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, dim), nn.Dropout(config.dropout), nn.GELU()) for _ in range(1 + contexts)
        )
        self.layers = nn.ModuleList(CrossAttentionLayer(dim, 0, config) for _ in range(config.layers))
        self.weigh = nn.Linear(dim, 1, bias=False)
        self.out = nn.Linear(dim * (2 + contexts), dim)
        self.pooling = pooling

    def forward(
        self,
        query: Float[Tensor, "batch queries dim"],
        query_mask: Bool[Tensor, "batch queries"],
        contexts: list[Context],
    ) -> Float[Tensor, "batch dim"]:
        """Fused vector of each post."""
        tokens = [query, *(context.states for context in contexts)]
        masks = [query_mask, *(context.mask for context in contexts)]
        present = torch.stack([mask.any(1) for mask in masks], 1)
        views = [
            view(pool(states, mask, self.pooling)) * present[:, [number]]
            for number, (view, states, mask) in enumerate(zip(self.views, tokens, masks))
        ]
        hidden, mask = torch.cat(tokens, 1), torch.cat(masks, 1)
        for layer in self.layers:
            hidden = layer(hidden, mask, [])
        parts = hidden.split([states.shape[1] for states in tokens], 1)
        pooled = torch.stack([pool(part, there, self.pooling) for part, there in zip(parts, masks)], 1)
        weights = masked_softmax(self.weigh(pooled).squeeze(-1), present)
        return self.out(torch.cat([*views, (weights[:, :, None] * pooled).sum(1)], 1))
