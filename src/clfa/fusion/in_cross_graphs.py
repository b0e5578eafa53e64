"""Interactive in-modal and cross-modal graphs."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clfa.config import FusionConfig
from clfa.fusion.base import Fusion, Tokens, join
from clfa.fusion.graphs import GraphConvolution, cross_edges, edges_of, retrieve


class InCrossGraphs(Fusion):
    """Graph convolutions inside each modality and between them, by turns; then attention pooling over all nodes.

        layer: X_m <- GCN_in(X_m, A_m) for each modality m;   X <- GCN_cross([X_t; X_v], A_cross);
        A_m: dependency tree of the text, grid of the patches;
        A_cross,ij = 1 + max(0, cos(t_i, v_j)) + bias_ij between a word and a patch, 1 for a node and itself;
        h = retrieve(X_0, X_L).

    Source: Liang et al. 2021, Multi-Modal Sarcasm Detection with Interactive In-Modal and Cross-Modal Graphs (InCrossMGs).
    There is no public code; the weight of the cross edges is our reading, as in CMGCN of the same authors. `layers` is the
    number of turns.
    """

    reads_edges = reads_bias = True

    def __init__(self, dim: int, contexts: Sequence[str], config: FusionConfig, pooling: str):
        super().__init__(dim, contexts, config, pooling)
        self.inside: Any = nn.ModuleList(
            nn.ModuleList(GraphConvolution(dim) for _ in ("query", *contexts)) for _ in range(config.layers)
        )
        self.across = nn.ModuleList(GraphConvolution(dim) for _ in range(config.layers))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, query: Tokens, contexts: dict[str, Tokens]) -> Float[Tensor, "batch dim"]:
        modalities = self.modalities(query, contexts)
        nodes, across = join(modalities), cross_edges(query, modalities[1:])
        lengths, inside = [one.mask.shape[1] for one in modalities], [edges_of(one) for one in modalities]
        states = nodes.states
        for convolutions, convolution in zip(self.inside, self.across):
            own = zip(convolutions, states.split(lengths, 1), inside)
            states = torch.cat([inner(nodes_of_one, graph) for inner, nodes_of_one, graph in own], 1)
            states = convolution(self.dropout(states), across)
        return retrieve(nodes.states, states, nodes.mask)
