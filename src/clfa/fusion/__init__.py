"""Fusions: the query modality reads its contexts and becomes one vector a post.

One architecture a file, each a subclass of `clfa.fusion.base.Fusion`; a configuration names it by its key in `FUSIONS`.
"""

import functools
import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from clfa.config import FusionConfig
from clfa.errors import UserError
from clfa.fusion.att_bert import AttBERT
from clfa.fusion.base import AttentionPooling, Fusion, Tokens, join, masked_softmax, pool, weighted_sum
from clfa.fusion.cmgcn import CMGCN
from clfa.fusion.co_attention import CoAttention
from clfa.fusion.cross_attention import CrossAttention, CrossAttentionLayer
from clfa.fusion.dr_net import DRNet
from clfa.fusion.graphs import GraphConvolution, grid_edges, retrieve, window_edges
from clfa.fusion.hfm import HFM
from clfa.fusion.hke import HKE
from clfa.fusion.in_cross_graphs import InCrossGraphs
from clfa.fusion.multi_view import MultiView
from clfa.fusion.pooled import Concat, Pool

AnyClass = TypeVar("AnyClass", bound=type)

FUSIONS: dict[str, type[Fusion]] = {
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


def register(name: str) -> Callable[[AnyClass], AnyClass]:
    """Class decorator: `@register("gated")` makes a fusion of your own a name for `model.fusion.name`.

    The file that holds it is named in the environment, `CLFA_FUSIONS=gated.py clfa train …`, see docs/add-a-system.md. It is
    never named by a configuration or a trained run: those may come from others, and must not run code.

    Raises:
        UserError: the name is taken.
    """

    def add(fusion: AnyClass) -> AnyClass:
        if name in FUSIONS:
            raise UserError(f"the fusion name {name!r} is taken; choose another")
        FUSIONS[name] = fusion
        return fusion

    return add


def build_fusion(dim: int, contexts: Sequence[str], config: FusionConfig, pooling: str) -> Fusion:
    """The fusion named in the configuration; the arguments are those of `Fusion`.

    Raises:
        UserError: unknown name, no subclass of Fusion, or sizes that do not fit.
    """
    check_fusion(config.name)
    try:
        return FUSIONS[config.name](dim, contexts, config, pooling)
    except TypeError as error:  # of a fusion of the user's own
        raise UserError(
            f"the fusion {config.name!r} cannot be built as Fusion(dim, contexts, config, pooling): {error}"
        ) from None


def check_fusion(name: str) -> None:
    """Whether there is such a fusion, here or in the files of CLFA_FUSIONS.

    Raises:
        UserError: there is none (the names are listed), or it does not derive from `Fusion`.
    """
    read_own_fusions()
    if name not in FUSIONS:
        raise UserError(
            f"unknown fusion {name!r}; allowed: {', '.join(FUSIONS)}; for one of your own set "
            "CLFA_FUSIONS=its_file.py (docs/add-a-system.md)"
        )
    fusion = FUSIONS[name]
    if not (isinstance(fusion, type) and issubclass(fusion, Fusion)):
        raise UserError(
            f"the fusion {name!r} does not derive from clfa.fusion.Fusion: write `class {fusion.__name__}(Fusion)` "
            "(docs/add-a-system.md)"
        )


def read_own_fusions() -> None:
    """Run the files named in CLFA_FUSIONS, which register their fusions; each once.

    Raises:
        UserError: a name that is no Python file, or a file that fails.
    """
    for path in filter(None, os.environ.get("CLFA_FUSIONS", "").split(os.pathsep)):
        _read_fusions(path)


@functools.cache
def _read_fusions(path: str) -> None:
    spec = importlib.util.spec_from_file_location(f"clfa_own_fusions_{Path(path).stem}", path)
    if not path.endswith(".py") or not Path(path).is_file() or spec is None or spec.loader is None:
        raise UserError(f"CLFA_FUSIONS names {path!r}, which is no Python file")
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except UserError:
        raise
    except Exception as error:  # whatever is wrong with the user's file
        raise UserError(f"CLFA_FUSIONS: {path} fails: {type(error).__name__}: {error}") from None


__all__ = [
    "FUSIONS",
    "AttentionPooling",
    "CrossAttentionLayer",
    "Fusion",
    "GraphConvolution",
    "Tokens",
    "build_fusion",
    "check_fusion",
    "grid_edges",
    "join",
    "masked_softmax",
    "pool",
    "read_own_fusions",
    "register",
    "retrieve",
    "weighted_sum",
    "window_edges",
]
