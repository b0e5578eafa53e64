"""How training computes: precision, and operations that can be repeated."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from clfa.config import TrainConfig
from clfa.errors import UserError

EXACT = 1e-6
"""Largest relative error of a product of matrices that counts as single precision."""


def precision(config: TrainConfig, device: torch.device) -> AbstractContextManager:
    """The forward pass in `train.precision`; fp32 where the device has no instructions for bf16."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16" and has_bf16(device))


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bf16; a CPU without instructions for it emulates them, many times slower than fp32."""
    return device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


@contextmanager
def products(config: TrainConfig) -> Iterator[None]:
    """With `train.precision: fp32_by_bf16`, oneDNN multiplies matrices on a CPU as sums of products in bf16, which some
    CPUs do faster than in fp32, and some more slowly (`clfa bench --suite train`).

    Raises:
        UserError: what this CPU computes is not single precision.
    """
    if config.precision != "fp32_by_bf16":
        yield
        return
    before = torch.backends.mkldnn.matmul.fp32_precision  # type: ignore[attr-defined]
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # type: ignore[attr-defined]
    try:
        if (error := error_of_products()) > EXACT:
            raise UserError(
                f"train.precision: fp32_by_bf16 has a relative error of {error:.0e} on this CPU, which is no single "
                "precision: use fp32, or bf16"
            )
        yield
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before  # type: ignore[attr-defined]


def error_of_products() -> float:
    """Relative error (Frobenius norm) of a product of two matrices, and of a linear map's gradient, against float64."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, generator=generator) for size in ((256, 512), (512, 256)))
    errors = []
    for one, other in ((left, right), (left.T, left)):
        exact = one.double() @ other.double()
        errors.append(float(((one @ other).double() - exact).norm() / exact.norm()))
    return max(errors)


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
