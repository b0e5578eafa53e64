"""Hierarchical congruity with knowledge."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clfa.config import FusionConfig
from clfa.errors import UserError
from clfa.fusion.base import AttentionPooling, Fusion, Tokens
from clfa.fusion.cross_attention import CrossAttentionLayer
from clfa.fusion.graphs import GraphConvolution, edges_of

PLACES = 1024  # most tokens of a context; each has its own weights in the last layer


class HKE(Fusion):
    """Congruity of words with the tokens of a context (image, caption), and of phrases with regions.

        atomic:       T~ = cross-attention of the words over the context;  q_j = sum_i p_i (T~_i · v_j) / sqrt(d);
        composition:  T', V' = two graph attentions over the dependency graph and over the patches' grid;
                      q'_j = sum_i p'_i (T'_i · V'_j) / sqrt(d);      p, p' = softmax_i of a linear score;
        importance:   w_j = softmax_j of a score of v_j;      h = sum over contexts of sum_j w_j (q_j W_j + q'_j W'_j).

    Source: Liu, Wang, Li 2022, Towards Multi-Modal Sarcasm Detection via Hierarchical Congruity Modeling with Knowledge
    Enhancement, section 3, and its released code. Differences: the sentence node that stands in for short dependency trees
    is left out (a tree always has its self-loops), every context has the same last layer, scores are divided by sqrt(d)
    alone, and importances use one hidden layer. The knowledge is a caption in the column `knowledge`.
    """

    reads_edges = reads_bias = True

    def __init__(self, dim: int, contexts: Sequence[str], config: FusionConfig, pooling: str):
        super().__init__(dim, contexts, config, pooling)
        self.congruities = nn.ModuleList(Congruity(dim, config) for _ in contexts)
        self.alone = AttentionPooling(dim) if not contexts else None

    def forward(self, query: Tokens, contexts: dict[str, Tokens]) -> Float[Tensor, "batch dim"]:
        if self.alone is not None:
            return self.alone(query.states, query.mask)
        _, *others = self.modalities(query, contexts)
        return torch.stack([congruity(query, context) for congruity, context in zip(self.congruities, others)]).sum(0)


class Congruity(nn.Module):
    """Both levels of congruity of the words with one context."""

    def __init__(self, dim: int, config: FusionConfig):
        super().__init__()
        self.cross = nn.ModuleList(
            CrossAttentionLayer(dim, 1, config, self_attention=False) for _ in range(config.layers)
        )
        self.text_graph = nn.ModuleList(GraphConvolution(dim, attention=True) for _ in range(2))
        self.context_graph = nn.ModuleList(GraphConvolution(dim, attention=True) for _ in range(2))
        self.importances: Any = nn.ModuleList(AttentionPooling(dim) for _ in range(3))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(4))
        self.places = nn.Parameter(torch.empty(2, PLACES, dim))
        nn.init.normal_(self.places, std=dim**-0.5)

    def forward(self, query: Tokens, context: Tokens) -> Float[Tensor, "batch dim"]:
        """(B, D), 0 for posts without the context.

        Raises:
            UserError: the context has more than `PLACES` tokens.
        """
        length = context.mask.shape[1]
        if length > PLACES:
            raise UserError(f"a context has {length} tokens, the fusion hke reads at most {PLACES}")
        atomic = query
        for layer in self.cross:
            atomic = layer(atomic, [context])
        phrases, regions = query.states, context.states
        words, grid = edges_of(query), edges_of(context)
        for number in (0, 1):
            phrases = self.norms[number](self.text_graph[number](phrases, words))
            regions = self.norms[2 + number](self.context_graph[number](regions, grid))
        weight = self.importances[2].weights(context.states, context.mask)
        fused = torch.zeros_like(query.states[:, 0])
        for level, (text, other) in enumerate(((atomic.states, context.states), (phrases, regions))):
            summary = self.importances[level](text, query.mask)
            scores = (other @ summary[:, :, None]).squeeze(-1) / other.shape[2] ** 0.5
            fused = fused + (weight * scores) @ self.places[level, :length].to(fused.dtype)
        return fused
