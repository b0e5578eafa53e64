"""Averaged weights: validated, chosen and saved in place of those that the optimizer works on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from clfa.training.sharded import own_parts


def start_average(model: nn.Module) -> dict[str, Tensor]:
    """Name -> a copy of each trained parameter; frozen ones do not change."""
    return {name: own.detach().clone() for name, own in model.named_parameters() if own.requires_grad}


def update_average(average: dict[str, Tensor], model: nn.Module, step: int, decay: float) -> None:
    """After an optimizer step, 0 … steps-1: a <- d a + (1 - d) w with d = min(decay, (1 + step) / (10 + step)).

    The smaller d of the first steps forgets where training began, as TensorFlow's `ExponentialMovingAverage` does with
    `num_updates`. Without averages nothing is done.
    """
    if average:
        weights = dict(model.named_parameters())
        decay = min(decay, (1 + step) / (10 + step))
        own = own_parts({name: weights[name].detach() for name in average})
        get_ema_multi_avg_fn(decay)(list(own_parts(average).values()), list(own.values()), step)


@contextmanager
def averaged(model: nn.Module, average: dict[str, Tensor]) -> Iterator[None]:
    """For a while the model has the averaged weights; without averages its own. Buffers, which batch norm averages itself,
    are those of the model, as in PyTorch's `AveragedModel`."""
    weights = dict(model.named_parameters())
    _swap(weights, average)
    try:
        yield
    finally:
        _swap(weights, average)


@torch.no_grad()
def _swap(weights: dict[str, nn.Parameter], average: dict[str, Tensor]) -> None:
    for name, own in average.items():
        kept = own.clone()
        own.copy_(weights[name])
        weights[name].copy_(kept)
