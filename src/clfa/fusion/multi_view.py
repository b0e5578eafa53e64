"""Multi-view CLIP: text, image and their interaction."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clfa.config import FusionConfig
from clfa.fusion.base import Fusion, Tokens, join, masked_softmax, pool, weighted_sum
from clfa.fusion.cross_attention import CrossAttentionLayer


class MultiView(Fusion):
    """Three views of a post, whose classifiers add up.

        y_m = GELU(W_m pool(X_m) + b) for text and image;   [T~; V~] = Transformer([T; V]);
        f = sum_m a_m pool(X~_m), a = softmax_m( w · pool(X~_m) );   h = W [y_t; y_v; f] + b.

    A linear classifier on h is the sum of a linear classifier of each view. A missing modality has y_m = 0 and no part in f.

    Source: Qin et al. 2023, MMSD2.0: Towards a Reliable Multi-modal Sarcasm Detection System, section 3, and its released
    code. Differences from that code: it trains three classifiers with a cross entropy each and sums their probabilities;
    here one cross entropy trains the sum of their logits, so that no view has to be right alone. There y_m reads the towers'
    own pooled outputs (class token, end of text) before CLIP's projections; here pooled projected tokens. There X are
    tokens under CLIP's own pretrained projections; here under new ones. There f weighs the class token and the end of
    the text; here pooled tokens.
    """

    def __init__(self, dim: int, contexts: Sequence[str], config: FusionConfig, pooling: str):
        super().__init__(dim, contexts, config, pooling)
        modalities = 1 + len(contexts)
        self.views = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, dim), nn.Dropout(config.dropout), nn.GELU()) for _ in range(modalities)
        )
        self.layers = nn.ModuleList(CrossAttentionLayer(dim, 0, config) for _ in range(config.layers))
        self.weigh = nn.Linear(dim, 1, bias=False)
        self.out = nn.Linear(dim * (1 + modalities), dim)

    def forward(self, query: Tokens, contexts: dict[str, Tokens]) -> Float[Tensor, "batch dim"]:
        tokens = self.modalities(query, contexts)
        views = [view(one.pool(self.pooling)) * one.present[:, None] for view, one in zip(self.views, tokens)]
        hidden = join(tokens)
        for layer in self.layers:
            hidden = layer(hidden)
        apart = hidden.states.split([one.states.shape[1] for one in tokens], 1)
        pooled = torch.stack([pool(states, one.mask, self.pooling) for states, one in zip(apart, tokens)], 1)
        present = torch.stack([one.present for one in tokens], 1)
        weights = masked_softmax(self.weigh(pooled).squeeze(-1), present)
        return self.out(torch.cat([*views, weighted_sum(weights, pooled)], 1))
