"""Parameter groups and the schedule of the learning rate."""

import math
from typing import Any

from torch import nn

from clfa.config import TrainConfig
from clfa.model.encoders import Encoder
from clfa.model.layers import find_layers


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """Groups by peak learning rate, those of the head last; biases and norms (all vectors) without decay.

    With a `layer_decay` d, the last layer of an encoder has its learning rate r, the one below r d, then r d^2 …; what is
    below all layers (word vectors) has the next factor, what is above them r.
    """
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    depths = layer_depths(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            depth = depths.get(name, 0) if name.startswith("encoders.") else -1
            groups.setdefault((depth, parameter.ndim > 1), []).append(parameter)

    def peak(depth: int) -> float:
        return config.head_learning_rate if depth < 0 else config.encoder_learning_rate * config.layer_decay**depth

    return [
        {
            "params": parameters,
            "peak": peak(depth),
            "lr": peak(depth),
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for (depth, decays), parameters in sorted(groups.items(), key=lambda group: -group[0][0])
    ]


def layer_depths(model: nn.Module) -> dict[str, int]:
    """Names of the parameters in or below the layers of an encoder -> layers above them: 0 in the last one."""
    depths = {}
    for path, module in model.named_modules():
        if isinstance(module, Encoder) and (every := find_layers(module.backbone)) is not None:
            place = {id(p): len(every) - 1 - number for number, one in enumerate(every) for p in one.parameters()}
            before = True
            for name, parameter in module.backbone.named_parameters():
                before = before and id(parameter) not in place
                depth = place.get(id(parameter), len(every) if before else 0)
                depths[f"{path}.backbone.{name}"] = depth
    return depths


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """Factor on the peak learning rate at an optimizer step, 0 … steps-1: linear warm-up, then the schedule."""
    warm = round(config.warmup * steps)
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return {"linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done)), "constant": 1.0}[config.schedule]
