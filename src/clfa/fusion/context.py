"""What a fusion is given, and how tokens become one vector."""

from typing import NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor, nn


class Context(NamedTuple):
    """Token states of one context modality."""

    states: Float[Tensor, "batch keys dim"]
    mask: Bool[Tensor, "batch keys"]
    bias: Float[Tensor, "batch queries keys"] | None = None
    """Knowledge about pairs of tokens (see `clfa.model.knowledge.polarity_bias`), added to attention scores."""
    edges: Float[Tensor, "batch keys keys"] | None = None
    """Graph of the tokens, 1 between neighbours; for fusions that read graphs."""


def pool(
    states: Float[Tensor, "batch tokens dim"], mask: Bool[Tensor, "batch tokens"], how: str
) -> Float[Tensor, "batch dim"]:
    """Token states -> one vector: masked `mean`, masked `max`, or `cls` (the first token). All-masked rows give 0."""
    weight = mask.unsqueeze(-1).to(states.dtype)
    if how == "cls":
        return states[:, 0] * weight[:, 0]
    if how == "max":
        largest = states.masked_fill(~mask.unsqueeze(-1), float("-inf")).amax(dim=1)
        return largest.masked_fill(~mask.any(dim=1, keepdim=True), 0)
    return (states * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


def masked_softmax(
    scores: Float[Tensor, "*batch tokens"], mask: Bool[Tensor, "*batch tokens"]
) -> Float[Tensor, "*batch tokens"]:
    """Softmax over the last dimension among the places of the mask; rows without any place are 0 everywhere."""
    scores = scores.masked_fill(~mask, float("-inf")).masked_fill(~mask.any(-1, keepdim=True), 0)
    return scores.softmax(-1) * mask


class AttentionPooling(nn.Module):
    """Tokens -> one vector by learned weights: softmax_i( w2 tanh(W1 x_i + b1) ) over the tokens that are there.

    Rows without any token give 0.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.score = nn.Sequential(nn.Linear(dim, dim), nn.Tanh(), nn.Linear(dim, 1, bias=False))

    def weights(
        self, states: Float[Tensor, "batch tokens dim"], mask: Bool[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch tokens"]:
        """The weight of each token; they sum to 1."""
        return masked_softmax(self.score(states).squeeze(-1), mask)

    def forward(
        self, states: Float[Tensor, "batch tokens dim"], mask: Bool[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch dim"]:
        """The weighted sum."""
        return (self.weights(states, mask).unsqueeze(-1) * states).sum(1)
