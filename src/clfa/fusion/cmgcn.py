"""Cross-modal graph convolutional network."""

from collections.abc import Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor, nn

from clfa.config import FusionConfig
from clfa.errors import UserError
from clfa.fusion.base import Fusion, Tokens, join
from clfa.fusion.graphs import GraphConvolution, cross_edges, edges_of, retrieve, run_lstm


class CMGCN(Fusion):
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

    reads_edges = reads_bias = True

    def __init__(self, dim: int, contexts: Sequence[str], config: FusionConfig, pooling: str):
        super().__init__(dim, contexts, config, pooling)
        if dim % 2:
            raise UserError(f"model.dim = {dim}: the fusion cmgcn needs an even number")
        self.lstm = nn.LSTM(dim, dim // 2, batch_first=True, bidirectional=True)
        self.layers = nn.ModuleList(GraphConvolution(dim) for _ in range(config.layers))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, query: Tokens, contexts: dict[str, Tokens]) -> Float[Tensor, "batch dim"]:
        _, *others = self.modalities(query, contexts)
        words = query.mask.shape[1]
        graph = cross_edges(query, others)
        graph[:, :words, :words] = edges_of(query)
        nodes = join([replace(query, states=run_lstm(self.lstm, query.states, query.mask)), *others])
        states = nodes.states
        for layer in self.layers:
            states = layer(self.dropout(states), graph)
        return retrieve(nodes.states, states, nodes.mask)
