"""Hierarchical congruity with knowledge."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from clfa.config import FusionConfig
from clfa.errors import UserError
from clfa.fusion.context import AttentionPooling, Context
from clfa.fusion.cross_attention import CrossAttentionLayer
from clfa.fusion.graphs import Edges, GraphConvolution, window_edges

PLACES = 1024  # most tokens of a context; each has its own weights in the last layer


class HKE(nn.Module):
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

    reads_bias = True

    def __init__(self, dim: int, contexts: int, config: FusionConfig, pooling: str):
        super().__init__()
        self.congruities = nn.ModuleList(Congruity(dim, config) for _ in range(contexts))
        self.alone = AttentionPooling(dim) if not contexts else None

    def forward(
        self,
        query: Float[Tensor, "batch queries dim"],
        query_mask: Bool[Tensor, "batch queries"],
        contexts: list[Context],
        edges: Float[Tensor, "batch queries queries"] | None = None,
    ) -> Float[Tensor, "batch dim"]:
        """Fused vector of each post.

        Args:
            query: words.
            query_mask: which are there.
            contexts: the image and the caption, with their own edges.
            edges: graph of the words; by default neighbours within 2.
        """
        if self.alone is not None:
            return self.alone(query, query_mask)
        words = window_edges(query_mask) if edges is None else edges
        found = [part(query, query_mask, words, context) for part, context in zip(self.congruities, contexts)]
        return torch.stack(found).sum(0)


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

    def forward(self, query: Tensor, query_mask: Tensor, words: Edges, context: Context) -> Float[Tensor, "batch dim"]:
        """(B, D), 0 for posts without the context."""
        states, mask, _, edges = context
        if states.shape[1] > PLACES:
            raise UserError(f"a context has {states.shape[1]} tokens, the fusion hke reads at most {PLACES}")
        atomic = query
        for layer in self.cross:
            atomic = layer(atomic, query_mask, [context])
        phrases, regions = query, states
        grid = window_edges(mask) if edges is None else edges
        for number in (0, 1):
            phrases = self.norms[number](self.text_graph[number](phrases, words))
            regions = self.norms[2 + number](self.context_graph[number](regions, grid))
        weight = self.importances[2].weights(states, mask)
        fused = torch.zeros_like(query[:, 0])
        for level, (text, other) in enumerate(((atomic, states), (phrases, regions))):
            summary = self.importances[level](text, query_mask)
            scores = (other @ summary[:, :, None]).squeeze(-1) / query.shape[2] ** 0.5
            fused = fused + (weight * scores) @ self.places[level, : states.shape[1]].to(fused.dtype)
        return fused
