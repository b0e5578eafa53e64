"""Parameter groups and the schedule of the learning rate."""

import math
from typing import Any

from torch import nn

from clfa.config import TrainConfig


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Four groups: encoders and head with their learning rates; biases and norms (all vectors) without decay."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith("encoders."), parameter.ndim > 1), []).append(parameter)
    peak = {True: config.encoder_learning_rate, False: config.head_learning_rate}
    return [
        {
            "params": parameters,
            "peak": peak[encoder],
            "lr": peak[encoder],
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (encoder, decays), parameters in groups.items()
    ]


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Factor on the peak learning rate at an optimizer step, 0 … steps-1: linear warm-up, then the schedule."""
    warm = round(config.warmup * steps)
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return {"linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done)), "constant": 1.0}[config.schedule]
