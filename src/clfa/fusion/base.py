"""What a fusion is: what it is given, what it returns, and how tokens become one vector."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from clfa.config import FusionConfig


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of one modality for a batch of posts."""

    states: Float[Tensor, "batch tokens dim"]
    """Projected states."""
    mask: Bool[Tensor, "batch tokens"]
    """Which tokens are there; none, where a post lacks the modality."""
    edges: Float[Tensor, "batch tokens tokens"] | None = None
    """Graph of the tokens, 1 between neighbours; only for fusions with `reads_edges`."""
    bias: Float[Tensor, "batch queries tokens"] | None = None
    """Knowledge about pairs of the query's tokens and these (see `clfa.model.knowledge.polarity_bias`), added to attention
    scores; only for fusions with `reads_bias`."""

    @property
    def present(self) -> Bool[Tensor, " batch"]:
        """Which posts have the modality."""
        return self.mask.any(1)

    def pool(self, how: str) -> Float[Tensor, "batch dim"]:
        """One vector a post, see `pool`."""
        return pool(self.states, self.mask, how)


class Fusion(nn.Module):
    """Base of all fusions: the query reads its contexts and becomes one vector a post.

    With no context a fusion is what its query alone gives, which makes single-modality systems a configuration, not a
    class. A context whose mask is 0 everywhere for a post is the same as no context for that post.

    Args:
        dim: width D of states and result.
        contexts: names of the context modalities, in the order of the configuration.
        config: layers, heads, widths, dropout.
        pooling: how tokens become one vector, see `pool`.
    """

    reads_edges: bool = False
    """Whether the graphs of the tokens are read; they are computed for such fusions only."""
    reads_bias: bool = False
    """Whether knowledge about pairs of a query's and a context's token is read; other fusions refuse such a context."""
    reads_own_bias: bool = False
    """The same for pairs of the query's own tokens."""

    def __init__(self, dim: int, contexts: Sequence[str], config: FusionConfig, pooling: str):
        super().__init__()
        self.contexts, self.pooling = tuple(contexts), pooling

    def forward(self, query: Tokens, contexts: dict[str, Tokens]) -> Float[Tensor, "batch dim"]:
        """The fused vector of each post, from the tokens of the query and of each context by its name."""
        raise NotImplementedError(f"{type(self).__name__} has no forward(query, contexts)")

    def penalty(self) -> Float[Tensor, ""] | None:
        """A term that is added to the loss, for fusions that have one."""
        return None

    def modalities(self, query: Tokens, contexts: dict[str, Tokens]) -> list[Tokens]:
        """The query, then each context in the order of the configuration."""
        return [query, *(contexts[name] for name in self.contexts)]


def join(modalities: Sequence[Tokens]) -> Tokens:
    """The tokens of several modalities behind each other."""
    return Tokens(torch.cat([one.states for one in modalities], 1), torch.cat([one.mask for one in modalities], 1))


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


def weighted_sum(
    weights: Float[Tensor, "batch tokens"], states: Float[Tensor, "batch tokens dim"]
) -> Float[Tensor, "batch dim"]:
    """sum_i w_i x_i."""
    return (weights[:, :, None] * states).sum(1)


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
        return weighted_sum(self.weights(states, mask), states)
