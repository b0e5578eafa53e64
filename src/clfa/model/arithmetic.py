"""How a model computes: in single precision, in single precision by products in bf16, or in bf16."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any, get_args

import torch
from torch import nn

from clfa.config import Precision
from clfa.errors import UserError

log = logging.getLogger(__name__)

EXACT = 1e-6
"""Largest relative error of a product of matrices that counts as single precision."""


@contextmanager
def arithmetic(precision: Precision, device: torch.device) -> Iterator[None]:
    """A forward pass in this precision: `products`, and with `bf16` PyTorch's autocast; fp32 where the device has no
    instructions for bf16.

    Raises:
        UserError: see `products`.
    """
    bf16 = precision == "bf16" and has_bf16(device)
    with products(precision), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        yield


def precisions(device: torch.device) -> list[Precision]:
    """Those that the device has."""
    has = {"fp32": True, "fp32_by_bf16": error_by_bf16() <= EXACT, "bf16": has_bf16(device)}
    return [known for known in get_args(Precision) if has[known]]


def available(precision: str, device: torch.device) -> Precision:
    """The precision itself, or fp32, with a warning, where the device has no instructions for bf16.

    Raises:
        UserError: there is no such precision; `fp32_by_bf16` is none here.
    """
    for known in get_args(Precision):
        if precision == known:
            if known == "bf16" and not has_bf16(device):
                log.warning("this CPU has no instructions for bf16, with which it would be many times slower: fp32")
                return "fp32"
            with products(known):
                return known
    raise UserError(f"precision {precision!r}: allowed are {', '.join(get_args(Precision))}")


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bf16; a CPU without instructions for it emulates them, many times slower than fp32."""
    return device.type != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


@contextmanager
def products(precision: Precision) -> Iterator[None]:
    """With `fp32_by_bf16`, oneDNN multiplies matrices on a CPU as sums of products in bf16, which some CPUs do faster
    than in fp32, and some more slowly (`clfa bench --suite train`); of all threads.

    Raises:
        UserError: what this CPU computes is not single precision.
    """
    if precision != "fp32_by_bf16":
        yield
        return
    if (error := error_by_bf16()) > EXACT:
        raise UserError(
            f"fp32_by_bf16 has a relative error of {error:.0e} on this CPU, which is no single precision: use fp32, or bf16"
        )
    with _by_bf16():
        yield


def products_in_use() -> Precision:
    """What `products` surrounds this call with, for processes that are to compute as this one does."""
    return "fp32_by_bf16" if _Users.count else "fp32"


def by_products(precision: Precision, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, each call of it within `products(precision)`."""

    def call(*given: Any) -> Any:
        with products(precision):
            return function(*given)

    return call


@cache
def error_by_bf16() -> float:
    """Relative error (Frobenius norm) of a product of two matrices, and of a linear map's gradient, against float64."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(size, generator=generator) for size in ((256, 512), (512, 256)))
    errors = []
    for one, other in ((left, right), (left.T, left)):
        exact = one.double() @ other.double()
        with _by_bf16():
            errors.append(float(((one @ other).double() - exact).norm() / exact.norm()))
    return max(errors)


class _Users:
    """Who multiplies so: the setting is one of the process, and some threads may overlap."""

    lock, count, before = Lock(), 0, "none"


@contextmanager
def _by_bf16() -> Iterator[None]:
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    with _Users.lock:
        if not _Users.count:
            _Users.before = settings.fp32_precision
            settings.fp32_precision = "bf16"
        _Users.count += 1
    try:
        yield
    finally:
        with _Users.lock:
            _Users.count -= 1
            if not _Users.count:
                settings.fp32_precision = _Users.before


def keep_in_bf16(model: nn.Module) -> None:
    """Weights of linear maps and convolutions in bf16, as autocast would make them in each pass: the answers are the same,
    and those weights take half the memory. The model computes within `arithmetic("bf16", …)` alone from then on."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.to(torch.bfloat16)
