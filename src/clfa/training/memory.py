"""The memory of a training is kept from step to step; where it is exhausted, the user is told what would fit. The batch is
never made smaller in silence, as it is part of the result."""

import ctypes
import os
import platform
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from clfa.config import TrainConfig
from clfa.errors import UserError
from clfa.training.stopping import Stop

MAPPED_BLOCKS, MAPPED_FROM, TRIM_FROM = -4, -3, -1
"""Of glibc's `mallopt`: how many blocks are mapped one by one, from how many bytes on; and from how many free bytes on some
are given back."""
USUAL = {MAPPED_BLOCKS: 65_536, TRIM_FROM: 64 * 2**20, MAPPED_FROM: 32 * 2**20}
"""What glibc itself comes to when large blocks are freed."""
EXHAUSTED, OTHER = 3, 4
"""Exit codes of the child."""


@contextmanager
def memory_kept() -> Iterator[None]:
    """Large blocks that are freed stay with this process for the next step.

    Each gradient is one, and glibc gives it back to the system after a step, from which it comes anew page by page: on a CPU
    that was a seventh of a step in bf16. What is free at the end is given back. With another library, or where the
    environment says how glibc is to do it, nothing changes.
    """
    library = _glibc()
    if library is None:
        yield
        return
    library.mallopt(MAPPED_BLOCKS, 0)
    library.mallopt(TRIM_FROM, 2**31 - 1)
    try:
        yield
    finally:
        for parameter, value in USUAL.items():
            library.mallopt(parameter, value)
        library.malloc_trim(0)


def _glibc() -> Any:
    asked = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" and not asked else None


def is_exhausted(error: BaseException) -> bool:
    """Whether the device, or the operating system, had no memory left for an allocation."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "allocate memory" in str(error) or "could not create a " in str(error)  # PyTorch's allocator, oneDNN's


def explained(
    epoch: Callable[[], dict[str, float]],
    trial: Callable[[int], None] | None,
    settings: TrainConfig,
    on_cpu: bool,
    stop: Stop,
) -> dict[str, float]:
    """What the epoch returns; where PyTorch gives up, why and what helps.

    Args:
        epoch: to run.
        trial: some steps with so many posts, as `too_large` takes them; `None` where one process alone cannot take them.
        settings: of the training.
        on_cpu: whether it computes there.
        stop: what signals ask for.

    Raises:
        UserError: memory is exhausted, or an operation has no deterministic form.
    """
    try:
        with memory_kept() if on_cpu else nullcontext():
            return epoch()
    except (RuntimeError, MemoryError) as error:
        if "deterministic" in str(error):
            raise UserError(
                f"train.deterministic: {str(error).split('. ')[0]}; leave train.deterministic out, or train on a CPU"
            ) from None
        if not is_exhausted(error):
            raise
        cause = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        traceback.clear_frames(error.__traceback__)  # they hold the batch
        if library := _glibc():
            library.malloc_trim(0)
    if trial is None:
        raise UserError(
            f"memory exhausted by a batch of {settings.batch_size} posts: lower train.batch_size and raise "
            f"train.accumulation, or start more processes. PyTorch: {cause}"
        )
    with stop.at_once():
        raise too_large(cause, settings.batch_size, settings.accumulation, trial, on_cpu)


def too_large(cause: str, batch_size: int, accumulation: int, steps: Callable[[int], None], on_cpu: bool) -> UserError:
    """Find a smaller batch that fits with room to spare and divides the posts of a step, and say it.

    Args:
        cause: in the words of PyTorch.
        batch_size: posts of the batch that did not fit.
        accumulation: batches of a step.
        steps: does some with so many posts, the longest ones first. A size counts as fitting if twice as many do: memory
            of a long training is in more pieces than that of a few steps (at a limit, a quarter more was too little).
        on_cpu: whether it computes there.
    """
    posts = batch_size * accumulation
    fits = _fits_in_a_child if on_cpu and hasattr(os, "fork") else _fits
    for size in (size for size in range(batch_size - 1, 0, -1) if posts % size == 0):
        if fits(steps, min(2 * size, batch_size - 1)):
            return UserError(
                f"memory exhausted by a batch of {batch_size} posts, of which {size} fit: with train.batch_size {size} and "
                f"train.accumulation {posts // size} a step has the same {posts} posts (but alignment sets each against "
                f"the {size} of its batch; with loss.negatives all against the whole training set). PyTorch: {cause}"
            )
    smaller = "lower train.batch_size and raise train.accumulation, " if batch_size > 1 else ""
    return UserError(
        f"memory exhausted by a batch of {batch_size} posts, and in what is left not one fits: {smaller}take smaller "
        f"encoders, freeze them, or lower max_length. PyTorch: {cause}"
    )


def _fits(steps: Callable[[int], None], size: int) -> bool:
    try:
        steps(size)
    except (RuntimeError, MemoryError) as error:
        if not is_exhausted(error):
            raise
        return False
    return True


def _fits_in_a_child(steps: Callable[[int], None], size: int) -> bool:
    """In a process of its own, as oneDNN's backward pass crashes where it gets no memory."""
    child = os.fork()
    if child:
        try:
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        except BaseException:  # interrupted
            os.kill(child, signal.SIGKILL)
            raise
        if code == OTHER:
            steps(size)  # raises what it is, in this process
        return code == 0
    code = OTHER
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        torch.set_num_threads(1)  # those of the parent are not in the child
        steps(size)
        code = 0
    except BaseException as error:
        code = EXHAUSTED if is_exhausted(error) else OTHER
    finally:
        os._exit(code)
