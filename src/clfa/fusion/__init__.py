"""Fusions: the query modality reads its contexts and becomes one vector a post.

A fusion is a module `fusion(query, query_mask, contexts) -> (B, D)`, built as `Fusion(dim, contexts, config, pooling)`. With
no context a fusion is what its query alone gives, which makes single-modality systems a configuration, not a class. A
context whose mask is 0 everywhere for a post is the same as no context for that post.
"""

from torch import nn

from clfa.config import FusionConfig
from clfa.errors import UserError
from clfa.fusion.att_bert import AttBERT
from clfa.fusion.cmgcn import CMGCN
from clfa.fusion.co_attention import CoAttention
from clfa.fusion.context import AttentionPooling, Context, masked_softmax, pool
from clfa.fusion.cross_attention import CrossAttention, CrossAttentionLayer
from clfa.fusion.dr_net import DRNet
from clfa.fusion.graphs import GraphConvolution, grid_edges, retrieve, window_edges
from clfa.fusion.hfm import HFM
from clfa.fusion.hke import HKE
from clfa.fusion.in_cross_graphs import InCrossGraphs
from clfa.fusion.multi_view import MultiView
from clfa.fusion.pooled import Concat, Pool

FUSIONS: dict[str, type[nn.Module]] = {
    "cross_attention": CrossAttention,
    "co_attention": CoAttention,
    "concat": Concat,
    "pool": Pool,
    "hfm": HFM,
    "dr_net": DRNet,
    "att_bert": AttBERT,
    "in_cross_graphs": InCrossGraphs,
    "cmgcn": CMGCN,
    "hke": HKE,
    "multi_view": MultiView,
}


def build_fusion(dim: int, contexts: int, config: FusionConfig, pooling: str) -> nn.Module:
    """The fusion named in the configuration.

    Raises:
        UserError: unknown name, or sizes that do not fit.
    """
    if config.name not in FUSIONS:
        raise UserError(f"unknown fusion {config.name!r}; allowed: {', '.join(FUSIONS)}")
    return FUSIONS[config.name](dim, contexts, config, pooling)


__all__ = [
    "FUSIONS",
    "AttentionPooling",
    "Context",
    "CrossAttentionLayer",
    "GraphConvolution",
    "build_fusion",
    "grid_edges",
    "masked_softmax",
    "pool",
    "retrieve",
    "window_edges",
]
