"""Cross-attention: the fusion of CLFA."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from clfa.config import FusionConfig
from clfa.errors import UserError
from clfa.fusion.context import Context, pool


class CrossAttentionLayer(nn.Module):
    """Self-attention of the query, attention to each context in turn, feed-forward; residual, then norm, after each.

    h = LN(x + SelfAttn(x)); h = LN(h + Attn(W_q h, W_k c, W_v c)) for each context c; LN(h + FFN(h)),
    Attn(Q,K,V) = softmax(Q K^T / sqrt(d_k) + bias) V; FFN with GELU.

    Source: CLFA, section 3.3 (one context: the image); released code (second context: knowledge text). With one
    context, no bias and full masks this is `nn.TransformerDecoderLayer` (post-norm, GELU, eps 1e-12). Without
    `self_attention` the first step is left out.
    """

    def __init__(self, dim: int, contexts: int, config: FusionConfig, self_attention: bool = True):
        super().__init__()
        if dim % config.heads:
            raise UserError(f"model.fusion.heads = {config.heads} must divide model.dim = {dim}")
        self.heads, self.self_attention = config.heads, self_attention
        sources = contexts + self_attention
        self.attentions = nn.ModuleList(
            nn.MultiheadAttention(dim, config.heads, config.dropout, batch_first=True) for _ in range(sources)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-12) for _ in range(1 + sources))
        self.feedforward = nn.Sequential(
            nn.Linear(dim, config.feedforward),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.feedforward, dim),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, query: Tensor, query_mask: Tensor, contexts: list[Context]) -> Tensor:
        """(B, Lq, D), (B, Lq), contexts -> (B, Lq, D)."""
        sources = [Context(query, query_mask), *contexts] if self.self_attention else contexts
        for attention, norm, (states, mask, bias, _) in zip(self.attentions, self.norms, sources):
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

    reads_bias = True

    def __init__(self, dim: int, contexts: int, config: FusionConfig, pooling: str):
        super().__init__()
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
