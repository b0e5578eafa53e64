"""Fusions: the query modality reads its contexts and becomes one vector a post.

A fusion is a module `fusion(query, query_mask, contexts) -> (B, D)`, built as `Fusion(dim, contexts, config, pooling)`. With
no context a fusion is what its query alone gives, which makes single-modality systems a configuration, not a class. A
context whose mask is 0 everywhere for a post is the same as no context for that post.
"""

import importlib.util
import os
from collections.abc import Callable

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


def register(name: str) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Class decorator: `@register("gated")` makes a fusion of your own a name for `model.fusion.name`.

    The file that holds it is named in the environment, `CLFA_FUSIONS=gated.py clfa train …`, see docs/add-a-system.md. It is
    never named by a configuration or a trained run: those may come from others, and must not run code.

    Raises:
        UserError: the name is taken.
    """

    def add(fusion: type[nn.Module]) -> type[nn.Module]:
        if name in FUSIONS and FUSIONS[name].__qualname__ != fusion.__qualname__:
            raise UserError(f"the fusion name {name!r} is taken; choose another")
        FUSIONS[name] = fusion
        return fusion

    return add


def build_fusion(dim: int, contexts: int, config: FusionConfig, pooling: str) -> nn.Module:
    """The fusion named in the configuration.

    Raises:
        UserError: unknown name, or sizes that do not fit.
    """
    if config.name not in FUSIONS:
        read_own_fusions()
    if config.name not in FUSIONS:
        raise UserError(
            f"unknown fusion {config.name!r}; allowed: {', '.join(FUSIONS)}; for one of your own set "
            "CLFA_FUSIONS=its_file.py (docs/add-a-system.md)"
        )
    return FUSIONS[config.name](dim, contexts, config, pooling)


def read_own_fusions() -> None:
    """Run the files named in CLFA_FUSIONS, which register their fusions.

    Raises:
        UserError: a name that is no Python file.
    """
    for number, path in enumerate(filter(None, os.environ.get("CLFA_FUSIONS", "").split(os.pathsep))):
        spec = importlib.util.spec_from_file_location(f"clfa_own_fusions_{number}", path)
        if not path.endswith(".py") or not os.path.isfile(path) or spec is None or spec.loader is None:
            raise UserError(f"CLFA_FUSIONS names {path!r}, which is no Python file")
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


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
    "read_own_fusions",
    "register",
    "retrieve",
    "window_edges",
]
