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

    Regions are not linked with each other. psi(i, j) = |s_i - s_j| e^(-s_i s_j), from the polarities of the word and of
    the region's words, comes as the context's `bias` (modality with `polarity`).

    Source: Liang et al. 2022, Multi-Modal Sarcasm Detection via Cross-Modal Graph Convolutional Network, section 3, and its
    released code (two layers; there, too, A_jj = 1 is a region's only edge to a region). Differences from that code: nodes
    are patches, not ten detected boxes; the words of boxes (column `regions`) are nodes of their own, there they only
    weigh the edges of their box. Sim is max(0, cos) of the states, there WordNet's path similarity, and 0 where WordNet
    lacks a word. psi has the base e, there 3; its public graph builder looks psi up by synsets instead of words, finds
    none, and adds 0. Its trainer adds a graph of the words' polarities, which that builder does not write: none here. The
    special tokens of the text are linked with regions, there with themselves alone. Dropout before each layer, there none;
    W_l begins as nn.Linear does, there by Xavier. `retrieve` differs too, see `clfa.fusion.graphs`.
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
