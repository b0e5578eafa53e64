"""The shards of a prediction on a Ray cluster: actors that hold the model write them, on whichever machine they are.

A shard is written whole, under a number that its rows follow from, so one that is computed twice (a machine died behind its
last byte) is the same file. All machines see the same file system.
"""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from clfa.errors import UserError

ADDRESS = "RAY_ADDRESS"
"""Where a cluster is, in the environment, as for all of Ray."""
Write = Callable[[int, Any], int]
"""Number and chunks of a shard -> its rows, when it is written."""
REACHED = 10
"""Seconds within which it is."""


@contextmanager
def cluster() -> Iterator[int]:
    """Connect to the cluster of `RAY_ADDRESS`, or to one of this machine's own that ends with the block -> its workers: one
    for each GPU, or each CPU core where there is none.

    Raises:
        UserError: there is no cluster at that address.
    """
    own = not ray.is_initialized()
    address = os.environ.get(ADDRESS, "")
    try:
        if own and address not in ("", "auto", "local"):  # Ray itself would try for minutes
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=REACHED).close()
        if own:
            ray.init(log_to_driver=False, configure_logging=False, include_dashboard=None if address else False)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"no Ray cluster at {address or 'this machine'}: {str(error).splitlines()[0]}") from None
    try:
        have = ray.cluster_resources()
        yield max(1, int(have.get("GPU") or have.get("CPU") or 1))
    finally:
        if own:
            ray.shutdown()


def spread(jobs: Iterator[tuple[int, Any]], workers: int, begin: Callable[..., Write], *given: Any) -> Iterator[int]:
    """Shards written by as many actors, in any order; those of an actor that dies are written by its successor.

    Args:
        jobs: number and chunks of rows of each shard; read as far ahead as there are actors.
        workers: how many.
        begin: what an actor begins with, in the folder where this process is; gives what writes a shard.
        given: its arguments.

    Returns:
        The number of rows of each shard, as it is done.

    Raises:
        UserError: what a shard raised, or that no actor can be had.
    """
    gpus = 1 if "GPU" in ray.cluster_resources() else 0
    remote: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=-1, max_task_retries=-1)(_Worker)
    idle: list[Any] = [remote.remote(os.getcwd(), begin, given) for _ in range(workers)]
    running: dict[Any, Any] = {}

    def done() -> Iterator[int]:
        for ready in ray.wait(list(running), num_returns=1)[0]:
            idle.append(running.pop(ready))
            try:
                yield ray.get(ready)
            except RayTaskError as error:
                raise error.cause if isinstance(error.cause, UserError) else error from None
            except RayError as error:
                raise UserError(f"the cluster gave a shard up: {str(error).splitlines()[0]}") from None

    for job in jobs:
        if not idle:
            yield from done()
        actor = idle.pop()
        running[actor.shard.remote(*job)] = actor
    while running:
        yield from done()


class _Worker:
    """A model in memory, on one core or one GPU."""

    def __init__(self, folder: str, begin: Callable[..., Write], given: tuple[Any, ...]):
        os.chdir(folder)
        self.write = begin(*given)

    def shard(self, number: int, chunks: Any) -> int:
        """Write it; its rows."""
        return self.write(number, chunks)
