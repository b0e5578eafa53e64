"""How training computes: precision, and operations that can be repeated."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from clfa.config import TrainConfig


def precision(config: TrainConfig, device: torch.device) -> AbstractContextManager:
    """The forward pass in `train.precision`; fp32 where the device has no instructions for bf16."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16" and has_bf16(device))


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bf16; a CPU without instructions for it emulates them, many times slower than fp32."""
    return device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """For a while PyTorch refuses operations whose results differ when they are repeated."""
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # as cuBLAS asks for
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
