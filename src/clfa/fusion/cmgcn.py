"""Cross-modal graph convolutional network."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from clfa.config import FusionConfig
from clfa.errors import UserError
from clfa.fusion.context import Context
from clfa.fusion.graphs import GraphConvolution, retrieve, run_lstm, window_edges
from clfa.fusion.in_cross_graphs import cross_edges


class CMGCN(nn.Module):
    """One graph of all words and image regions, graph convolutions, attention pooling.

        F = [BiLSTM(t); v];   between words A_ij = 1 for an edge of the dependency tree;   between word i and region j
        A_ij = 1 + Sim(i, j) + psi(i, j);   A_ii = 1;   X_l+1 = ReLU(Â X_l W_l + b_l);   h = retrieve(F, X_L).

    psi(i, j) = |s_i - s_j| e^(-s_i s_j), from the polarities of the word and of the region's words, comes as the context's
    `bias` (modality with `polarity`); the paper's base is 3 instead of e in the released code. Sim is the path similarity of
    WordNet in the original, here max(0, cos) of the states. Regions are not linked with each other.

    Source: Liang et al. 2022, Multi-Modal Sarcasm Detection via Cross-Modal Graph Convolutional Network, section 3, and its
    released code (two layers). Stand-in: patches instead of detected regions; the words of regions, where there is a
    column `regions`, are a further context.
    """

    reads_bias = True

    def __init__(self, dim: int, contexts: int, config: FusionConfig, pooling: str):
        super().__init__()
        if dim % 2:
            raise UserError(f"model.dim = {dim}: the fusion cmgcn needs an even number")
        self.lstm = nn.LSTM(dim, dim // 2, batch_first=True, bidirectional=True)
        self.layers = nn.ModuleList(GraphConvolution(dim) for _ in range(config.layers))
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
            contexts: the image and further contexts.
            edges: graph of the words; by default neighbours within 2.
        """
        text = run_lstm(self.lstm, query, query_mask)
        graph = cross_edges(query, query_mask, contexts)
        words = window_edges(query_mask) if edges is None else edges
        graph[:, : query.shape[1], : query.shape[1]] = words
        states = torch.cat([text, *(context.states for context in contexts)], 1)
        mask = torch.cat([query_mask, *(context.mask for context in contexts)], 1)
        first = states
        for layer in self.layers:
            states = layer(self.dropout(states), graph)
        return retrieve(first, states, mask)
