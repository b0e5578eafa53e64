"""Inter-modality and intra-modality attention."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clfa.config import FusionConfig
from clfa.fusion.base import Fusion, Tokens, masked_softmax, weighted_sum
from clfa.fusion.cross_attention import CrossAttentionLayer


class AttBERT(Fusion):
    """Words look at the image's regions; the text looks at its own hashtags.

        inter: X_0 = T, X_l+1 = Layer(queries X_l, keys and values V), r_inter = tanh(W pool(X_L) + b);
        intra: C = tanh(T W_b G^T),  a = softmax_j( max_i C_ij ),  r_intra = sum_j a_j g_j;   h = W [r_inter; r_intra] + b.

    Source: Pan, Lin, Fu, Qi, Wang 2020, Modeling Intra and Inter-modality Incongruity for Multi-Modal Sarcasm Detection,
    and its released code (three layers, the class token as pooling, V = a linear map of ResNet-152 regions, hashtags taken
    out of T: modality with `part: without_hashtags`). The first context is the image, every further one is read like the
    hashtags (`part: hashtags`). Differences from that code: its hashtags have a BERT of their own, here G comes from the
    encoder of the text; a post without hashtags has r_intra = 0, there the word "None" is its hashtag; padding is left out
    of the maximum and of a, there it counts; its classifier reads [r_inter; r_intra] itself.
    """

    def __init__(self, dim: int, contexts: Sequence[str], config: FusionConfig, pooling: str):
        super().__init__(dim, contexts, config, pooling)
        images = len(contexts[:1])
        self.layers = nn.ModuleList(
            CrossAttentionLayer(dim, images, config, self_attention=False) for _ in range(config.layers)
        )
        self.inter = nn.Sequential(nn.Linear(dim, dim), nn.Tanh())
        self.affinities = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in contexts[1:])
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Linear(dim * max(1, len(contexts)), dim)

    def forward(self, query: Tokens, contexts: dict[str, Tokens]) -> Float[Tensor, "batch dim"]:
        _, *others = self.modalities(query, contexts)
        hidden = query
        for layer in self.layers:
            hidden = layer(hidden, others[:1])
        vectors = [self.inter(hidden.pool(self.pooling))]
        for context, affinity in zip(others[1:], self.affinities):
            pairs = torch.tanh(query.states @ affinity(context.states).transpose(1, 2))
            best = pairs.masked_fill(~query.mask[:, :, None], -1).amax(1)  # tanh is never below -1
            vectors.append(weighted_sum(masked_softmax(best, context.mask), context.states))
        return self.out(self.dropout(torch.cat(vectors, 1)))
