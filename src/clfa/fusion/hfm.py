"""Hierarchical fusion of text, image and attribute words."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from clfa.config import FusionConfig
from clfa.errors import UserError
from clfa.fusion.context import AttentionPooling, Context, masked_softmax, pool
from clfa.fusion.graphs import run_lstm


class HFM(nn.Module):
    """Early fusion in the LSTM, representation fusion by attention guided by all modalities, modality fusion by weights.

        v_attributes = sum_i a_i e_i (attention pooling);
        text states h = BiLSTM(t), its first states h_0 and c_0 = ReLU(W v_attributes + b);
        for modality m with tokens x_i and each guide g, the mean of each modality (v_attributes for the attributes):
        alpha^mg = softmax_i( w2 tanh(W1 [x_i; g] + b1) ),   u_m = sum_i mean_g(alpha_i^mg) x_i;
        z_m = tanh(W_m u_m + b),   beta = softmax_m( w_m z_m ),   f = sum_m beta_m tanh(W'_m u_m + b');   h = ReLU(W f + b).

    Source: Cai, Cai, Wan 2019, Multi-Modal Sarcasm Detection in Twitter with Hierarchical Fusion Model, section 3; their
    released code agrees. Contexts: the image, then the attributes; without attributes the LSTM begins at 0. A missing
    modality is neither guide nor part of the sum (the original always has all three, and does not mask padding).
    """

    def __init__(self, dim: int, contexts: int, config: FusionConfig, pooling: str):
        super().__init__()
        if dim % 2:
            raise UserError(f"model.dim = {dim}: the fusion hfm needs an even number")
        modalities = 1 + contexts
        self.lstm = nn.LSTM(dim, dim // 2, batch_first=True, bidirectional=True)
        self.attributes = nn.ModuleList(AttentionPooling(dim) for _ in range(contexts - 1))
        self.begin = nn.ModuleList(nn.Linear(dim, 2 * dim) for _ in range(contexts - 1))
        self.scores: Any = nn.ModuleList(
            nn.ModuleList(GuidedScore(dim) for _ in range(modalities)) for _ in range(modalities)
        )
        self.weigh = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, 1, bias=False)) for _ in range(modalities)
        )
        self.maps = nn.ModuleList(nn.Sequential(nn.Linear(dim, dim), nn.Tanh()) for _ in range(modalities))
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Sequential(nn.Linear(dim, dim), nn.ReLU())

    def forward(
        self,
        query: Float[Tensor, "batch queries dim"],
        query_mask: Bool[Tensor, "batch queries"],
        contexts: list[Context],
    ) -> Float[Tensor, "batch dim"]:
        """Fused vector of each post."""
        images, attributes = contexts[:1], contexts[1:]
        words = [pooling(c.states, c.mask) for pooling, c in zip(self.attributes, attributes)]
        begin = query.new_zeros(len(query), 2 * query.shape[2])
        for vector, to_state, context in zip(words, self.begin, attributes):
            begin = begin + torch.relu(to_state(vector)) * context.mask.any(1, keepdim=True)
        text = run_lstm(self.lstm, query, query_mask, begin)

        tokens = [text, *(context.states for context in contexts)]
        masks = [query_mask, *(context.mask for context in contexts)]
        guides = [pool(text, query_mask, "mean"), *(pool(c.states, c.mask, "mean") for c in images), *words]
        present = torch.stack([mask.any(1) for mask in masks], 1)
        vectors = [
            self._weighted(states, mask, guides, present, scores)
            for states, mask, scores in zip(tokens, masks, self.scores)
        ]
        found = torch.cat([weigh(vector) for weigh, vector in zip(self.weigh, vectors)], 1)
        beta = masked_softmax(found, present)
        fused = sum(beta[:, [m]] * to_map(vector) for m, (to_map, vector) in enumerate(zip(self.maps, vectors)))
        return self.out(self.dropout(fused))

    def _weighted(
        self, states: Tensor, mask: Tensor, guides: list[Tensor], present: Tensor, scores: nn.ModuleList
    ) -> Tensor:
        """u_m: the tokens of one modality, weighted by the mean of what the guides that are there think of them."""
        total = torch.zeros_like(states[..., 0])
        for number, (guide, score) in enumerate(zip(guides, scores)):
            total = total + masked_softmax(score(states, guide), mask) * present[:, [number]]
        weights = total / present.sum(1, keepdim=True).clamp(min=1)
        return (weights[:, :, None] * states).sum(1)


class GuidedScore(nn.Module):
    """w2 tanh(W1 [x_i; g] + b1), with W1 [x; g] = W_x x + W_g g."""

    def __init__(self, dim: int):
        super().__init__()
        self.token, self.guide = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False)
        self.score = nn.Linear(dim, 1, bias=False)

    def forward(self, states: Tensor, guide: Tensor) -> Tensor:
        """(B, L, D) and (B, D) -> (B, L)."""
        return self.score(torch.tanh(self.token(states) + self.guide(guide)[:, None])).squeeze(-1)
