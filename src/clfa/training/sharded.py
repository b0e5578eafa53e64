"""Trained encoders whose weights, gradients and moments are spread over the processes of a run (`train.sharded`).

PyTorch's `fully_shard` (ZeRO stage 3, Rajbhandari et al. 2020): each process holds 1 / P of each tensor; the weights of a
layer are put together for its pass, and dropped behind it. Of a model of w weights a process then has about 16 w / P bytes
instead of 16 w. Frozen encoders, projections, fusion and classifier are whole in each process.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from clfa.model.classifier import Classifier
from clfa.model.layers import find_layers


def shard_encoders(model: Classifier, count: int, device: str) -> bool:
    """Leave each of `count` processes its share of the encoders that are trained. Before an optimizer is made.

    Gradients are summed over the processes in each backward pass, also of several in one step: whole ones would not fit.

    Returns:
        Whether there are any.
    """
    # imported here, as this takes most of a second
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    trained = [one for one in model.encoders.values() if any(p.requires_grad for p in one.parameters())]
    mesh = init_device_mesh(device, (count,)) if trained else None
    for encoder in trained:
        encoder.to(memory_format=torch.contiguous_format)  # the only layout that can be shared out
        for layer in find_layers(encoder.backbone) or []:
            fully_shard(layer, mesh=mesh)
        fully_shard(encoder, mesh=mesh)
    return bool(trained)


def is_share(value: Tensor) -> bool:
    """Whether this is a share of a tensor: PyTorch's `DTensor`, which takes half a second to import."""
    return hasattr(value, "full_tensor")


def clip_gradients(model: nn.Module, most: float, count: int) -> Tensor:
    """The mean of the gradients of all processes, and its norm, scaled to at most `most`; the norm before that."""
    shares: list[Any] = []
    whole: list[nn.Parameter] = []
    for parameter in model.parameters():
        if is_share(parameter):
            shares += [] if parameter.grad is None else [parameter.grad]
        elif parameter.requires_grad:
            if parameter.grad is None:  # no loss reads it in this process, perhaps one does in another
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= count
            whole.append(parameter)
    norms = [get_total_norm(shares), get_total_norm([one.grad for one in whole if one.grad is not None])]
    norm = torch.stack([put_together(one).to(parameter.device) for one in norms]).norm()
    clip_grads_with_norm_(whole, most, norm)
    factor = (most / (norm + 1e-6)).clamp(max=1.0)  # as `clip_grads_with_norm_` has it
    for gradient in shares:
        gradient.to_local().mul_(factor)
    return norm


def put_together(value: Tensor) -> Tensor:
    """A tensor from the shares of all processes, each of which must ask for it; others are as they are."""
    return value.full_tensor() if is_share(value) else value  # type: ignore[attr-defined]


def all_put_together(values: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """Each of them, one at a time, on the CPU where there were shares of it; none where they are not to be kept."""
    kept = {}
    for name, value in values.items():
        whole = put_together(value)
        if keep:
            kept[name] = (whole if whole is value else whole.cpu()).contiguous()
    return kept


def share_of(value: Tensor, like: Tensor) -> Tensor:
    """What this process holds of a whole tensor, spread as another one is."""
    if not is_share(like):
        return value
    from torch.distributed.tensor import distribute_tensor

    share: Any = like
    value = value.to(device=like.device, dtype=like.dtype)
    return distribute_tensor(value, share.device_mesh, share.placements, src_data_rank=None)


def own_parts(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What this process holds of each, as plain tensors that share its memory."""
    return {name: value.to_local() if is_share(value) else value for name, value in values.items()}  # type: ignore[attr-defined]
