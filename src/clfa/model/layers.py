"""Training only the last layers of a transformer: what is below is frozen, and its states are computed once.

Any Hugging Face backbone whose layers stand in one `ModuleList` (BERT, MPNet, RoBERTa, ViT …) can be cut between two of
them: for a while the list is replaced by a shorter one, everything else runs as it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clfa.errors import UserError


def layers(backbone: nn.Module) -> nn.ModuleList:
    """The list of layers of a backbone.

    Raises:
        UserError: it has none, like a convolutional network.
    """
    found = find_layers(backbone)
    if found is None:
        raise UserError("trained_layers, lora: this encoder has no list of layers; set frozen, or train all of it")
    return found


def find_layers(backbone: nn.Module) -> nn.ModuleList | None:
    """The same, `None` where there is none."""
    path = _path(backbone)
    return None if path is None else backbone.get_submodule(path)  # type: ignore[return-value]


def freeze_lower(backbone: nn.Module, trained: int) -> None:
    """Freeze all weights but those of the last `trained` layers.

    Raises:
        UserError: the backbone has no list of layers, or no more than these.
    """
    every = layers(backbone)
    if not 0 < trained < len(every):
        raise UserError(
            f"trained_layers = {trained}: the encoder has {len(every)} layers, allowed are 1 to {len(every) - 1}; "
            "leave it out to train all of them, or set frozen to true to train none"
        )
    backbone.requires_grad_(False)
    for layer in every[-trained:]:
        layer.requires_grad_(True)


@torch.no_grad()
def lower(backbone: nn.Module, trained: int, inputs: dict[str, Tensor]) -> Float[Tensor, "batch tokens width"]:
    """What the last `trained` layers read: the states below them, in evaluation mode."""
    training = backbone.training
    every = layers(backbone.eval())
    caught: list[Tensor] = []
    handle = every[-trained].register_forward_pre_hook(lambda _, arguments: caught.append(arguments[0]))
    try:
        with _only(backbone, list(every[: len(every) - trained + 1])):
            backbone(**inputs)
    finally:
        handle.remove()
        backbone.train(training)
    return caught[0]


def upper(backbone: nn.Module, trained: int, states: Float[Tensor, "batch tokens width"], inputs: dict) -> Any:
    """The backbone's output for states that `lower` computed, of the same inputs or of others of the same shape and mask."""
    above = list(layers(backbone)[-trained:])
    handle = above[0].register_forward_pre_hook(lambda _, arguments: (states, *arguments[1:]))
    try:
        with _only(backbone, above):
            return backbone(**inputs)
    finally:
        handle.remove()


@contextmanager
def _only(backbone: nn.Module, chosen: list[nn.Module]) -> Iterator[None]:
    path = _path(backbone)
    assert path is not None
    place, _, name = path.rpartition(".")
    parent = backbone.get_submodule(place)
    every = getattr(parent, name)
    setattr(parent, name, nn.ModuleList(chosen))
    try:
        yield
    finally:
        setattr(parent, name, every)


def _path(backbone: nn.Module) -> str | None:
    """Where the longest list of layers of one class stands; blocks of convolutions are none, they read maps, not tokens."""
    lists = {
        path: len(module)
        for path, module in backbone.named_modules()
        if isinstance(module, nn.ModuleList) and len({type(layer) for layer in module}) == 1 and len(module) > 1
        if not any(isinstance(part, nn.Conv2d) for part in module.modules())
    }
    return max(lists, key=lambda path: lists[path]) if lists else None
