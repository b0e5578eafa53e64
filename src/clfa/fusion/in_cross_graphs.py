"""Interactive in-modal and cross-modal graphs."""

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from clfa.config import FusionConfig
from clfa.fusion.context import Context
from clfa.fusion.graphs import Edges, GraphConvolution, retrieve, window_edges


class InCrossGraphs(nn.Module):
    """Graph convolutions inside each modality and between them, by turns; then attention pooling over all nodes.

        layer: X_m <- GCN_in(X_m, A_m) for each modality m;   X <- GCN_cross([X_t; X_v], A_cross);
        A_m: dependency tree of the text, grid of the patches;
        A_cross,ij = 1 + max(0, cos(t_i, v_j)) + bias_ij between a word and a patch, 1 for a node and itself;
        h = retrieve(X_0, X_L).

    Source: Liang et al. 2021, Multi-Modal Sarcasm Detection with Interactive In-Modal and Cross-Modal Graphs (InCrossMGs).
    There is no public code; the weight of the cross edges is our reading, as in CMGCN of the same authors. `layers` is the
    number of turns.
    """

    reads_bias = True

    def __init__(self, dim: int, contexts: int, config: FusionConfig, pooling: str):
        super().__init__()
        self.inside: Any = nn.ModuleList(
            nn.ModuleList(GraphConvolution(dim) for _ in range(1 + contexts)) for _ in range(config.layers)
        )
        self.across = nn.ModuleList(GraphConvolution(dim) for _ in range(config.layers))
        self.dropout = nn.Dropout(config.dropout)

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
            contexts: the image and further contexts, with their own edges.
            edges: graph of the words; by default neighbours within 2.
        """
        states = torch.cat([query, *(context.states for context in contexts)], 1)
        mask = torch.cat([query_mask, *(context.mask for context in contexts)], 1)
        lengths = [query.shape[1], *(context.states.shape[1] for context in contexts)]
        inside = [window_edges(query_mask) if edges is None else edges]
        inside += [window_edges(c.mask) if c.edges is None else c.edges for c in contexts]
        across = cross_edges(query, query_mask, contexts)
        first = states
        for convolutions, convolution in zip(self.inside, self.across):
            parts = zip(convolutions, states.split(lengths, 1), inside)
            states = torch.cat([inner(part, graph) for inner, part, graph in parts], 1)
            states = convolution(self.dropout(states), across)
        return retrieve(first, states, mask)


def cross_edges(query: Tensor, query_mask: Tensor, contexts: list[Context]) -> Edges:
    """Weights between words and the tokens of the contexts, 1 + max(0, cos) + bias, and 1 from each node to itself."""
    nodes = query.shape[1] + sum(context.states.shape[1] for context in contexts)
    mask = torch.cat([query_mask, *(context.mask for context in contexts)], 1)
    edges = torch.eye(nodes, device=query.device).expand(len(query), nodes, nodes) * mask[:, None]
    start, unit = query.shape[1], normalize(query, dim=-1)
    for states, there, bias, _ in contexts:
        weights = 1 + (unit @ normalize(states, dim=-1).transpose(1, 2)).clamp(min=0)
        weights = weights if bias is None else weights + bias
        weights = (weights * (query_mask[:, :, None] & there[:, None])).float()
        end = start + states.shape[1]
        edges[:, : query.shape[1], start:end] = weights
        edges[:, start:end, : query.shape[1]] = weights.transpose(1, 2)
        start = end
    return edges
