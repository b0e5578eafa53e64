"""What the graph fusions share: edges, one graph convolution, one attention pooling; and an LSTM over padded texts."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from clfa.fusion.base import Tokens, join, masked_softmax, weighted_sum

Edges = Float[Tensor, "batch nodes nodes"]


class GraphConvolution(nn.Module):
    """X' = ReLU( Â X W + b ): each node becomes a mean of its neighbours, mapped.

    Plain (Kipf and Welling 2017): Â_ij = A_ij / (sum_j A_ij + 1), the normalisation in the released code of CMGCN. With
    `attention` (Velickovic et al. 2018): Â_ij = softmax_j( LeakyReLU(a_1 W x_i + a_2 W x_j) ) over the neighbours.
    """

    def __init__(self, dim: int, attention: bool = False):
        super().__init__()
        self.map = nn.Linear(dim, dim, bias=False)
        self.bias = nn.Parameter(torch.zeros(dim))
        self.ends = nn.Linear(dim, 2, bias=False) if attention else None

    def forward(self, states: Float[Tensor, "batch nodes dim"], edges: Edges) -> Float[Tensor, "batch nodes dim"]:
        """One step along the edges; nodes without any edge become ReLU(b)."""
        mapped = self.map(states)
        if self.ends is None:
            weights = edges / (edges.sum(-1, keepdim=True) + 1)
        else:
            to, origin = self.ends(mapped).unbind(-1)
            scores = nn.functional.leaky_relu(to[:, :, None] + origin[:, None], 0.2)
            weights = masked_softmax(scores, edges > 0)
        return torch.relu(weights.to(mapped.dtype) @ mapped + self.bias)


def retrieve(
    first: Float[Tensor, "batch nodes dim"],
    last: Float[Tensor, "batch nodes dim"],
    mask: Bool[Tensor, "batch nodes"],
) -> Float[Tensor, "batch dim"]:
    """Attention pooling of InCrossMGs and CMGCN: nodes that agree with what went into the graph count more.

    a = softmax_j( mean_i(f_i · x_j) / sqrt(d) ),  r = sum_j a_j x_j. The released code of CMGCN sums over i, does not divide
    and does not mask padding; its softmax is then all but a maximum.
    """
    mean = (first * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
    weights = masked_softmax((last @ mean[:, :, None]).squeeze(-1) / last.shape[-1] ** 0.5, mask)
    return weighted_sum(weights, last)


def edges_of(tokens: Tokens) -> Edges:
    """The graph that comes with the tokens, or neighbours within 2."""
    return window_edges(tokens.mask) if tokens.edges is None else tokens.edges


def window_edges(mask: Bool[Tensor, "batch nodes"], reach: int = 2) -> Edges:
    """Words at most `reach` apart are neighbours, each also of itself; nothing is linked to padding."""
    places = torch.arange(mask.shape[1], device=mask.device)
    near = (places[:, None] - places[None]).abs() <= reach
    return (near & mask[:, :, None] & mask[:, None]).float()


def grid_edges(mask: Bool[Tensor, "batch nodes"]) -> Edges:
    """Patches of a square grid and their eight neighbours, each also of itself.

    One or two tokens before the grid (class token) are linked to themselves alone; other numbers of tokens give
    `window_edges`.
    """
    side = math.isqrt(mask.shape[1])
    extra = mask.shape[1] - side * side
    if extra > 2:
        return window_edges(mask)
    places = torch.arange(side * side, device=mask.device)
    row, column = places // side, places % side
    near = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    near[extra:, extra:] |= ((row[:, None] - row).abs() <= 1) & ((column[:, None] - column).abs() <= 1)
    return (near & mask[:, :, None] & mask[:, None]).float()


def cross_edges(query: Tokens, contexts: Sequence[Tokens]) -> Edges:
    """Weights between words and the tokens of the contexts, 1 + max(0, cos) + bias, and 1 from each node to itself.

    The nodes are those of `join([query, *contexts])`.
    """
    mask = join([query, *contexts]).mask
    edges = torch.eye(mask.shape[1], device=mask.device).expand(*mask.shape, mask.shape[1]) * mask[:, None]
    words, unit = query.mask.shape[1], normalize(query.states, dim=-1)
    start = words
    for context in contexts:
        weights = 1 + (unit @ normalize(context.states, dim=-1).transpose(1, 2)).clamp(min=0)
        if context.bias is not None:
            weights = weights + context.bias
        weights = (weights * (query.mask[:, :, None] & context.mask[:, None])).float()
        end = start + context.mask.shape[1]
        edges[:, :words, start:end] = weights
        edges[:, start:end, :words] = weights.transpose(1, 2)
        start = end
    return edges


def run_lstm(
    lstm: nn.LSTM,
    states: Float[Tensor, "batch tokens dim"],
    mask: Bool[Tensor, "batch tokens"],
    begin: Float[Tensor, "batch both"] | None = None,
) -> Float[Tensor, "batch tokens out"]:
    """A one-layer bidirectional LSTM over the tokens that are there (`mask`, from the left); the others become 0.

    `begin` (B, 4 H) holds the first hidden and cell states of both directions; zeros by default. Always in fp32: not every
    CPU has an LSTM in bf16.
    """
    lengths = mask.sum(1).clamp(min=1).cpu()
    if begin is None:
        begin = states.new_zeros(len(states), 4 * lstm.hidden_size)
    first = begin.float().view(len(states), 2, 2, lstm.hidden_size).permute(1, 2, 0, 3).contiguous()
    if torch.compiler.is_exporting():  # packed texts have a length that depends on the data
        return torch.ops.clfa.lstm(states.float(), lengths, *onnx_weights(lstm), first[0], first[1]) * mask[:, :, None]
    packed = pack_padded_sequence(states.float(), lengths, batch_first=True, enforce_sorted=False)
    with torch.autocast(states.device.type, enabled=False):
        hidden_states, _ = pad_packed_sequence(
            lstm(packed, (first[0], first[1]))[0], batch_first=True, total_length=states.shape[1]
        )
    return hidden_states * mask[:, :, None]


def onnx_weights(
    lstm: nn.LSTM,
) -> tuple[Float[Tensor, "2 gates width"], Float[Tensor, "2 gates hidden"], Float[Tensor, "2 biases"]]:
    """Weights of input and state, and biases, of both directions as the ONNX operator LSTM takes them: its gates are in the
    order i, o, f, c, those of PyTorch i, f, c, o."""

    def both(name: str) -> Tensor:
        ways = [getattr(lstm, f"{name}_l0{way}").chunk(4) for way in ("", "_reverse")]
        return torch.stack([torch.cat([i, o, f, c]) for i, f, c, o in ways])

    return both("weight_ih"), both("weight_hh"), torch.cat([both("bias_ih"), both("bias_hh")], 1)


_library = torch.library.Library("clfa", "DEF")
_GIVEN = ("states", "lengths", "of_input", "of_state", "biases", "hidden", "cell")
_library.define(f"lstm({', '.join(f'Tensor {name}' for name in _GIVEN)}) -> Tensor")


@torch.library.register_fake("clfa::lstm")
def _shape_of_lstm(states, lengths, of_input, of_state, biases, hidden, cell):
    """What `run_lstm` is in an exported graph: (B, T, 2 H). It is never computed by PyTorch."""
    return states.new_empty(*states.shape[:2], 2 * of_state.shape[2])
