"""Cross-attention: the fusion of CLFA."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clfa.config import FusionConfig
from clfa.errors import UserError
from clfa.fusion.base import Fusion, Tokens


class CrossAttentionLayer(nn.Module):
    """Self-attention of the query, attention to each context in turn, feed-forward; residual, then norm, after each.

    h = LN(x + SelfAttn(x)); h = LN(h + Attn(W_q h, W_k c, W_v c)) for each context c; LN(h + FFN(h)),
    Attn(Q,K,V) = softmax(Q K^T / sqrt(d_k) + bias) V, with the bias of the query in SelfAttn and that of c in Attn; FFN with
    GELU.

    Source: CLFA, section 3.3 (one context: the image); released code (second context: knowledge text). With one
    context, no bias and full masks this is `nn.TransformerDecoderLayer` (post-norm, GELU, eps 1e-12). Without
    `self_attention` the first step is left out. `contexts` is how many there are.
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

    def forward(self, query: Tokens, contexts: Sequence[Tokens] = ()) -> Tokens:
        """The query with new states (B, L, D)."""
        states = query.states
        sources = [query, *contexts] if self.self_attention else contexts
        for attention, norm, source in zip(self.attentions, self.norms, sources):
            bias, present = source.bias, source.present[:, None]
            # a row of -inf would give NaN: rows without any key look everywhere, and the result is not used
            hidden = ~(source.mask | ~present)
            attended, _ = attention(
                states,
                source.states,
                source.states,
                key_padding_mask=torch.zeros_like(source.mask, dtype=states.dtype).masked_fill(hidden, float("-inf")),
                attn_mask=None if bias is None else bias.to(states.dtype).repeat_interleave(self.heads, dim=0),
                need_weights=False,
            )
            states = torch.where(present[:, :, None], norm(states + self.dropout(attended)), states)
        return replace(query, states=self.norms[-1](states + self.dropout(self.feedforward(states))))


class CrossAttention(Fusion):
    """A stack of `CrossAttentionLayer`s, then pooling over the query's tokens (the paper's fusion, three layers)."""

    reads_bias = reads_own_bias = True

    def __init__(self, dim: int, contexts: Sequence[str], config: FusionConfig, pooling: str):
        super().__init__(dim, contexts, config, pooling)
        self.layers = nn.ModuleList(CrossAttentionLayer(dim, len(contexts), config) for _ in range(config.layers))

    def forward(self, query: Tokens, contexts: dict[str, Tokens]) -> Float[Tensor, "batch dim"]:
        query, *others = self.modalities(query, contexts)
        for layer in self.layers:
            query = layer(query, others)
        return query.pool(self.pooling)
