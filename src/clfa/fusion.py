"""Fusions: the query modality reads its contexts and becomes one vector a post.

A fusion is a module `fusion(query, query_mask, contexts) -> (B, D)`. With no context a fusion is what its query alone
gives, which makes single-modality systems a configuration, not a class. A context whose mask is 0 everywhere for a post
is the same as no context for that post.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from clfa.config import FusionConfig
from clfa.errors import UserError


class Context(NamedTuple):
    """Token states of one context modality."""

    states: Float[Tensor, "batch keys dim"]
    mask: Bool[Tensor, "batch keys"]
    bias: Float[Tensor, "batch queries keys"] | None = None
    """Added to the attention scores before the softmax."""


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


class CrossAttentionLayer(nn.Module):
    """Self-attention of the query, attention to each context in turn, feed-forward; residual, then norm, after each.

    h = LN(x + SelfAttn(x)); h = LN(h + Attn(W_q h, W_k c, W_v c)) for each context c; LN(h + FFN(h)),
    Attn(Q,K,V) = softmax(Q K^T / sqrt(d_k) + bias) V; FFN with GELU.

    Source: CLFA, section 3.3 (one context: the image); released code (second context: knowledge text). With one
    context, no bias and full masks this is `nn.TransformerDecoderLayer` (post-norm, GELU, eps 1e-12).
    """

    def __init__(self, dim: int, contexts: int, config: FusionConfig):
        super().__init__()
        self.heads = config.heads
        self.attentions = nn.ModuleList(
            nn.MultiheadAttention(dim, config.heads, config.dropout, batch_first=True) for _ in range(1 + contexts)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-12) for _ in range(2 + contexts))
        self.feedforward = nn.Sequential(
            nn.Linear(dim, config.feedforward),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.feedforward, dim),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, query: Tensor, query_mask: Tensor, contexts: list[Context]) -> Tensor:
        """(B, Lq, D), (B, Lq), contexts -> (B, Lq, D)."""
        sources = [Context(query, query_mask), *contexts]
        for attention, norm, (states, mask, bias) in zip(self.attentions, self.norms, sources):
            present = mask.any(dim=1)
            # a row of -inf would give NaN: rows without any key look everywhere, and the result is not used
            hidden = ~(mask | ~present[:, None])
            attended, _ = attention(
                query,
                states,
                states,
                key_padding_mask=torch.zeros_like(mask, dtype=query.dtype).masked_fill(hidden, float("-inf")),
                attn_mask=None if bias is None else bias.to(query.dtype).repeat_interleave(self.heads, dim=0),
                need_weights=False,
            )
            query = torch.where(present[:, None, None], norm(query + self.dropout(attended)), query)
        return self.norms[-1](query + self.dropout(self.feedforward(query)))


class CrossAttention(nn.Module):
    """A stack of `CrossAttentionLayer`s, then pooling over the query's tokens (the paper's fusion, three layers)."""

    def __init__(self, dim: int, contexts: int, config: FusionConfig, pooling: str):
        super().__init__()
        if dim % config.heads:
            raise UserError(f"model.fusion.heads = {config.heads} must divide model.dim = {dim}")
        self.layers = nn.ModuleList(CrossAttentionLayer(dim, contexts, config) for _ in range(config.layers))
        self.pooling = pooling

    def forward(
        self,
        query: Float[Tensor, "batch queries dim"],
        query_mask: Bool[Tensor, "batch queries"],
        contexts: list[Context],
    ) -> Float[Tensor, "batch dim"]:
        """Fused vector of each post."""
        for layer in self.layers:
            query = layer(query, query_mask, contexts)
        return pool(query, query_mask, self.pooling)


class Concat(nn.Module):
    """Pooled query and pooled contexts side by side, through one linear layer back to D (late fusion)."""

    def __init__(self, dim: int, contexts: int, config: FusionConfig, pooling: str):
        super().__init__()
        self.mix = nn.Sequential(nn.Linear(dim * (1 + contexts), dim), nn.ReLU())
        self.pooling = pooling

    def forward(self, query: Tensor, query_mask: Tensor, contexts: list[Context]) -> Tensor:
        """(B, Lq, D), (B, Lq), contexts -> (B, D)."""
        parts = [pool(query, query_mask, self.pooling)]
        parts += [pool(states, mask, self.pooling) for states, mask, _ in contexts]
        return self.mix(torch.cat(parts, dim=-1))


FUSIONS: dict[str, type[nn.Module]] = {"cross_attention": CrossAttention, "concat": Concat}


def build_fusion(dim: int, contexts: int, config: FusionConfig, pooling: str) -> nn.Module:
    """The fusion named in the configuration.

    Raises:
        UserError: unknown name, or sizes that do not fit.
    """
    if config.name not in FUSIONS:
        raise UserError(f"unknown fusion {config.name!r}; allowed: {', '.join(FUSIONS)}")
    return FUSIONS[config.name](dim, contexts, config, pooling)
