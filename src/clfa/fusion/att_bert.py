"""Inter-modality and intra-modality attention."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from clfa.config import FusionConfig
from clfa.fusion.context import Context, masked_softmax, pool
from clfa.fusion.cross_attention import CrossAttentionLayer


class AttBERT(nn.Module):
    """Words look at the image's regions; the text looks at its own hashtags.

        inter: X_0 = T, X_l+1 = Layer(queries X_l, keys and values V), r_inter = tanh(W pool(X_L) + b);
        intra: C = tanh(T W_b G^T),  a = softmax_j( max_i C_ij ),  r_intra = sum_j a_j g_j;   h = W [r_inter; r_intra] + b.

    Source: Pan, Lin, Fu, Qi, Wang 2020, Modeling Intra and Inter-modality Incongruity for Multi-Modal Sarcasm Detection;
    their released code agrees (three layers, the class token as pooling, a second BERT for the hashtags: here the encoder
    of the text). Contexts: the image, then the hashtags (modality with `part: hashtags`).
    """

    def __init__(self, dim: int, contexts: int, config: FusionConfig, pooling: str):
        super().__init__()
        self.layers = nn.ModuleList(
            CrossAttentionLayer(dim, min(contexts, 1), config, self_attention=False) for _ in range(config.layers)
        )
        self.inter = nn.Sequential(nn.Linear(dim, dim), nn.Tanh())
        self.affinities = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(contexts - 1))
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Linear(dim * max(1, contexts), dim)
        self.pooling = pooling

    def forward(
        self,
        query: Float[Tensor, "batch queries dim"],
        query_mask: Bool[Tensor, "batch queries"],
        contexts: list[Context],
    ) -> Float[Tensor, "batch dim"]:
        """Fused vector of each post."""
        hidden = query
        for layer in self.layers:
            hidden = layer(hidden, query_mask, contexts[:1])
        parts = [self.inter(pool(hidden, query_mask, self.pooling))]
        for (states, mask, *_), affinity in zip(contexts[1:], self.affinities):
            pairs = torch.tanh(query @ affinity(states).transpose(1, 2))
            best = pairs.masked_fill(~query_mask[:, :, None], -1).amax(1)  # tanh is never below -1
            parts.append((masked_softmax(best, mask)[:, :, None] * states).sum(1))
        return self.out(self.dropout(torch.cat(parts, 1)))
