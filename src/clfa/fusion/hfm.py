"""Hierarchical fusion of text, image and attribute words."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from clfa.config import FusionConfig
from clfa.errors import UserError
from clfa.fusion.base import AttentionPooling, Fusion, Tokens, masked_softmax, weighted_sum
from clfa.fusion.graphs import run_lstm


class HFM(Fusion):
    """Early fusion in the LSTM, representation fusion by attention guided by all modalities, modality fusion by weights.

        v_attributes = sum_i a_i e_i (attention pooling);
        text states h = BiLSTM(t), its first states h_0 and c_0 = ReLU(W v_attributes + b);
        for modality m with tokens x_i and each guide g, the mean of each modality (v_attributes for the attributes):
        alpha^mg = softmax_i( w2 tanh(W1 [x_i; g] + b1) ),   u_m = sum_i mean_g(alpha_i^mg) x_i;
        z_m = tanh(W_m u_m + b),   beta = softmax_m( w_m z_m ),   f = sum_m beta_m tanh(W'_m u_m + b');   h = ReLU(W f + b).

    Source: Cai, Cai, Wan 2019, Multi-Modal Sarcasm Detection in Twitter with Hierarchical Fusion Model, section 3; their
    released code agrees. The first context is the image, every further one is read like the attributes; without attributes
    the LSTM begins at 0. A missing modality is neither guide nor in the sum (the original always has all three, and
    does not mask padding).
    """

    def __init__(self, dim: int, contexts: Sequence[str], config: FusionConfig, pooling: str):
        super().__init__(dim, contexts, config, pooling)
        if dim % 2:
            raise UserError(f"model.dim = {dim}: the fusion hfm needs an even number")
        modalities, attributes = range(1 + len(contexts)), contexts[1:]
        self.lstm = nn.LSTM(dim, dim // 2, batch_first=True, bidirectional=True)
        self.attributes = nn.ModuleList(AttentionPooling(dim) for _ in attributes)
        self.begin = nn.ModuleList(nn.Linear(dim, 2 * dim) for _ in attributes)
        self.scores: Any = nn.ModuleList(nn.ModuleList(GuidedScore(dim) for _ in modalities) for _ in modalities)
        self.weigh = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, 1, bias=False)) for _ in modalities
        )
        self.maps = nn.ModuleList(nn.Sequential(nn.Linear(dim, dim), nn.Tanh()) for _ in modalities)
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Sequential(nn.Linear(dim, dim), nn.ReLU())

    def forward(self, query: Tokens, contexts: dict[str, Tokens]) -> Float[Tensor, "batch dim"]:
        _, *others = self.modalities(query, contexts)
        images, attributes = others[:1], others[1:]
        words = [pooling(one.states, one.mask) for pooling, one in zip(self.attributes, attributes)]
        begin = query.states.new_zeros(len(query.states), 2 * query.states.shape[2])
        for vector, to_state, one in zip(words, self.begin, attributes):
            begin = begin + torch.relu(to_state(vector)) * one.present[:, None]
        text = replace(query, states=run_lstm(self.lstm, query.states, query.mask, begin))

        modalities = [text, *others]
        guides = [text.pool("mean"), *(image.pool("mean") for image in images), *words]
        present = torch.stack([one.present for one in modalities], 1)
        vectors = [self._weighted(one, guides, present, scores) for one, scores in zip(modalities, self.scores)]
        beta = masked_softmax(torch.cat([weigh(vector) for weigh, vector in zip(self.weigh, vectors)], 1), present)
        mapped = torch.stack([to_map(vector) for to_map, vector in zip(self.maps, vectors)], 1)
        return self.out(self.dropout(weighted_sum(beta, mapped)))

    def _weighted(
        self, tokens: Tokens, guides: list[Tensor], present: Bool[Tensor, "batch guides"], scores: nn.ModuleList
    ) -> Float[Tensor, "batch dim"]:
        """u_m: the tokens of one modality, weighted by the mean of what the guides that are there think of them."""
        total = torch.zeros_like(tokens.states[..., 0])
        for number, (guide, score) in enumerate(zip(guides, scores)):
            total = total + masked_softmax(score(tokens.states, guide), tokens.mask) * present[:, [number]]
        return weighted_sum(total / present.sum(1, keepdim=True).clamp(min=1), tokens.states)


class GuidedScore(nn.Module):
    """w2 tanh(W1 [x_i; g] + b1), with W1 [x; g] = W_x x + W_g g."""

    def __init__(self, dim: int):
        super().__init__()
        self.token, self.guide = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False)
        self.score = nn.Linear(dim, 1, bias=False)

    def forward(self, states: Tensor, guide: Tensor) -> Tensor:
        """(B, L, D) and (B, D) -> (B, L)."""
        return self.score(torch.tanh(self.token(states) + self.guide(guide)[:, None])).squeeze(-1)
