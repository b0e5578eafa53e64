"""Hierarchical congruity with knowledge."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from clfa.config import FusionConfig
from clfa.errors import UserError
from clfa.fusion.base import AttentionPooling, Fusion, Tokens, masked_softmax, weighted_sum
from clfa.fusion.cross_attention import CrossAttentionLayer
from clfa.fusion.graphs import GraphConvolution, edges_of

PLACES = 1024  # most tokens of a context; each has its own weights in the last layer


class HKE(Fusion):
    """Congruity of words with the tokens of a context (image, caption), and of phrases with regions.

        t = LN(T), v = LN(V);
        atomic:       T~ = cross-attention of the words t over v;  q_j = sum_i p_i (T~_i · v_j) / sqrt(d);
        composition:  T', V' = two graph attentions from T~ and v over the dependency graph and over the patches' grid;
                      q'_j = sum_i p'_i (T'_i · V'_j) / sqrt(d);      p, p' = softmax_i of a linear score of T~_i, T'_i;
        importance:   w_j = softmax_j of a linear score of v_j;
        h = sum over contexts of sqrt(n) sum_j w_j (q_j W_j + q'_j W'_j), n the number of tokens of the context.

    Source: Liu, Wang, Li 2022, Towards Multi-Modal Sarcasm Detection via Hierarchical Congruity Modeling with Knowledge
    Enhancement, section 3, and its released code. Differences from that code: w_j is about 1 / n and makes what enters its
    last layer tiny; sqrt(n) and a start of W_j, W'_j with variance 1/2 make h as large as the scores, for any n. There the
    last layer gives logits, for the image through a hidden layer if there is a caption; here it gives h. There the words
    see the image before the caption, and the caption sees the words; here each context begins from t. There p' also
    weighs a node for the sentence, a weighted sum of T~. Here graph attentions have one head and no dropout, there two heads
    with it; the feed-forward has GELU, there ReLU; texts are word pieces and special tokens, there words or noun phrases.
    """

    reads_edges = reads_bias = True

    def __init__(self, dim: int, contexts: Sequence[str], config: FusionConfig, pooling: str):
        super().__init__(dim, contexts, config, pooling)
        self.congruities = nn.ModuleList(Congruity(dim, config) for _ in contexts)
        self.alone = AttentionPooling(dim) if not contexts else None

    def forward(self, query: Tokens, contexts: dict[str, Tokens]) -> Float[Tensor, "batch dim"]:
        if self.alone is not None:
            return self.alone(query.states, query.mask)
        _, *others = self.modalities(query, contexts)
        return torch.stack([congruity(query, context) for congruity, context in zip(self.congruities, others)]).sum(0)


class Congruity(nn.Module):
    """Both levels of congruity of the words with one context."""

    def __init__(self, dim: int, config: FusionConfig):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.cross = nn.ModuleList(
            CrossAttentionLayer(dim, 1, config, self_attention=False) for _ in range(config.layers)
        )
        self.text_graph = nn.ModuleList(GraphConvolution(dim, attention=True) for _ in range(2))
        self.context_graph = nn.ModuleList(GraphConvolution(dim, attention=True) for _ in range(2))
        self.graph_norm = nn.LayerNorm(dim)
        self.importances = nn.ModuleList(nn.Linear(dim, 1, bias=False) for _ in range(3))
        self.places = nn.Parameter(torch.empty(2, PLACES, dim).normal_(std=0.5**0.5))

    def forward(self, query: Tokens, context: Tokens) -> Float[Tensor, "batch dim"]:
        """(B, D), 0 for posts without the context.

        Raises:
            UserError: the context has more than `PLACES` tokens.
        """
        length = context.mask.shape[1]
        if length > PLACES:
            raise UserError(f"a context has {length} tokens, the fusion hke reads at most {PLACES}")
        words, tokens = (replace(one, states=norm(one.states)) for norm, one in zip(self.norms, (query, context)))
        for layer in self.cross:
            words = layer(words, [tokens])
        phrases, regions = words.states, tokens.states
        for convolution in self.text_graph:
            phrases = self.graph_norm(convolution(phrases, edges_of(query)))
        for convolution in self.context_graph:
            regions = self.graph_norm(convolution(regions, edges_of(context)))
        levels = ((words.states, tokens.states), (phrases, regions))
        *of_text, of_context = self.importances
        weight = weights(of_context, tokens.states, context.mask) * context.mask.sum(1, keepdim=True) ** 0.5
        fused = torch.zeros_like(query.states[:, 0])
        for score, (text, other), places in zip(of_text, levels, self.places):
            summary = weighted_sum(weights(score, text, query.mask), text)
            congruity = (other @ summary[:, :, None]).squeeze(-1) / other.shape[2] ** 0.5
            fused = fused + (weight * congruity) @ places[:length].to(fused.dtype)
        return fused


def weights(
    score: nn.Module, states: Float[Tensor, "batch tokens dim"], mask: Bool[Tensor, "batch tokens"]
) -> Float[Tensor, "batch tokens"]:
    """How much each token counts: the softmax of its score."""
    return masked_softmax(score(states).squeeze(-1), mask)
