"""Parallel co-attention."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clfa.config import FusionConfig
from clfa.fusion.base import Fusion, Tokens, masked_softmax, weighted_sum


class CoAttention(Fusion):
    """Text and context weigh each other's tokens by their affinity; both weighted sums are added.

        C = tanh(T W_b V^T);   H_t = tanh(T W_t + C (V W_v)),   H_v = tanh(V W_v + C^T (T W_t));
        a_t = softmax(H_t w_t),   a_v = softmax(H_v w_v);   h = tanh(W_h (sum_i a_t,i t_i + sum_j a_v,j v_j)).

    Source: Lu, Yang, Batra, Parikh 2016, Hierarchical Question-Image Co-Attention, equations 3–5, h of equation 7 for one
    level. Differences from the paper and its released code: one level, that of the encoder's tokens, for their three (words,
    phrases, question), each of which adds to the next; no dropout on H_t and H_v. Padding is left out: its C is 0, so that
    it adds nothing to H_t and H_v, and its a is 0. Our additions: a bias of the context is added within the tanh of C; with
    several contexts each has its own weights, and their terms in H_t and in h are added; a text or a context that is
    missing adds nothing to h.
    """

    reads_bias = True

    def __init__(self, dim: int, contexts: Sequence[str], config: FusionConfig, pooling: str):
        super().__init__(dim, contexts, config, pooling)
        self.query_map, self.query_score = nn.Linear(dim, dim), nn.Linear(dim, 1, bias=False)
        self.affinities = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in contexts)
        self.maps = nn.ModuleList(nn.Linear(dim, dim) for _ in contexts)
        self.scores = nn.ModuleList(nn.Linear(dim, 1, bias=False) for _ in contexts)
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Linear(dim, dim)

    def forward(self, query: Tokens, contexts: dict[str, Tokens]) -> Float[Tensor, "batch dim"]:
        _, *others = self.modalities(query, contexts)
        mapped = self.query_map(query.states)
        hidden, total = mapped, torch.zeros_like(query.states[:, 0])
        for context, affinity, to_map, score in zip(others, self.affinities, self.maps, self.scores):
            pairs = query.states @ affinity(context.states).transpose(1, 2)
            pairs = torch.tanh(pairs if context.bias is None else pairs + context.bias)
            pairs = pairs * (query.mask[:, :, None] & context.mask[:, None])
            mapped_context = to_map(context.states)
            scores = score(torch.tanh(mapped_context + pairs.transpose(1, 2) @ mapped)).squeeze(-1)
            total = total + weighted_sum(masked_softmax(scores, context.mask), context.states)
            hidden = hidden + pairs @ mapped_context
        weights = masked_softmax(self.query_score(torch.tanh(hidden)).squeeze(-1), query.mask)
        return torch.tanh(self.out(self.dropout(total + weighted_sum(weights, query.states))))
