"""Memory exhausted: what would fit is said. The batch is never made smaller in silence, as it is part of the result."""

from collections.abc import Callable

import torch

from clfa.errors import UserError


def is_exhausted(error: BaseException) -> bool:
    """Whether the device, or the operating system, had no memory left for an allocation."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error)


def too_large(batch_size: int, accumulation: int, step: Callable[[int], None]) -> UserError:
    """Find the largest smaller batch that fits and divides the posts of a step, and say it.

    Args:
        batch_size: posts of the batch that did not fit.
        accumulation: batches of a step.
        step: does one with as many of the longest posts.
    """
    posts = batch_size * accumulation
    for size in (size for size in range(batch_size // 2, 0, -1) if posts % size == 0):
        try:
            step(size)
        except (RuntimeError, MemoryError) as error:
            if not is_exhausted(error):
                raise
            continue
        return UserError(
            f"memory exhausted by a batch of {batch_size} posts, of which {size} fit: with train.batch_size {size} and "
            f"train.accumulation {posts // size} a step has the same {posts} posts (but alignment sets each against the "
            f"{size} of its batch; with loss.negatives all against the whole training set)"
        )
    return UserError("memory exhausted by a single post: take smaller encoders, freeze them, or lower max_length")
