"""Work on a Ray cluster: the shards of a prediction or of a cache, which actors that hold the model write on whichever
machine; the runs of a sweep; what `clfa fit` tries.

A shard is written whole, under a number that its rows follow from, so one that is computed twice (a machine died behind its
last byte) is the same file. All machines see the same file system.
"""

import logging
import os
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from clfa.errors import UserError

log = logging.getLogger(__name__)

ADDRESS = "RAY_ADDRESS"
"""Where a cluster is, in the environment, as for all of Ray."""
Work = Callable[[int, Any], Any]
"""Number and contents of a job -> its result, when it is done: chunks of a shard -> its rows; a run -> its score."""
REACHED, READY, RETRIES = 10, 300, 3
"""Seconds within which it answers, and a first worker is ready; how often a job is tried again whose worker died."""
PULSE = 10
"""Seconds between two calls of `waiting`."""
STARTS, ANSWERS = 3, 90
"""How often a cluster of this machine's own is begun, and seconds within which it does a first piece of work: on a busy
machine its node may die while it starts (https://github.com/ray-project/ray/issues/65983)."""


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
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
            _begin(address)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"no Ray cluster at {address or 'this machine'}: {str(error).splitlines()[0]}") from None
    try:
        have = ray.cluster_resources()
        cores, gpus = int(have.get("CPU", 1)), int(have.get("GPU", 0))
        yield max(1, min(cores, gpus) if gpus else cores)
    finally:
        if own:
            ray.shutdown()


def _begin(address: str) -> None:
    """Connect to the cluster there, or begin one: without an address Ray would join whatever runs on this machine."""
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    if address:
        ray.init(**quiet)
        return
    for start in range(1, STARTS + 1):
        try:
            ray.init("local", **quiet, include_dashboard=False)
            ray.get(ray.remote(num_cpus=0)(lambda: None).remote(), timeout=ANSWERS)
            return
        except Exception as error:  # a node that times out has no class of its own
            problem = (str(error) or type(error).__name__).splitlines()[0]
            ray.shutdown()
            if start == STARTS:
                raise RuntimeError(problem) from None
            log.warning("the cluster of this machine did not start, and is begun again: %s", problem)


def spread(
    jobs: Iterable[tuple[int, Any]],
    workers: int,
    begin: Callable[..., Work],
    *given: Any,
    waiting: Callable[[], None] = lambda: None,
    lost: Callable[[Any, UserError], Any] | None = None,
) -> Iterator[Any]:
    """Jobs done by actors, in any order; those of an actor that dies are done by its successor.

    An actor is begun when a job has none, until there are as many as `workers`; it gets one when its model is loaded.

    Args:
        jobs: number and contents of each, such as the chunks of rows of a shard; read as far ahead as there are actors.
        workers: how many, at most.
        begin: what an actor begins with, in the folder where this process is; gives what does a job.
        given: its arguments.
        waiting: called now and then while nothing ends.
        lost: contents of a job whose worker died too often, and what is to be said -> its result; without it all ends there.

    Returns:
        The result of each job, as it is done.

    Raises:
        UserError: what a job raised; an actor died `RETRIES` times over a job; none was ready within `READY` seconds.
    """
    crew = _Crew(workers, [ray.put((os.getcwd(), begin, given))], waiting, lost)
    for job in jobs:
        while not crew.idle:
            crew.grow()
            yield from crew.results()
        crew.give(job)
    while crew.busy:
        yield from crew.results()


class _Crew:
    """Actors: those that wait for a job, those that start, and those that have one."""

    def __init__(
        self,
        workers: int,
        shared: list[Any],
        waiting: Callable[[], None],
        lost: Callable[[Any, UserError], Any] | None,
    ):
        self.workers, self.shared, self.waiting, self.lost = workers, shared, waiting, lost
        gpus = 1 if ray.cluster_resources().get("GPU", 0) >= 1 else 0
        self.remote: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=-1, max_task_retries=RETRIES)(_Worker)
        self.idle: list[Any] = []
        self.starting: dict[Any, Any] = {}
        self.busy: dict[Any, tuple[Any, Any, int]] = {}
        """Reference of a result -> actor, job, and how often it was asked for again."""
        self.failures = 0
        """Of actors that died before they were ready."""

    def grow(self) -> None:
        """Begin another actor, if there may be one."""
        if len(self.busy) + len(self.starting) < self.workers:
            actor = self.remote.remote()
            self.starting[actor.ready.remote(self.shared)] = actor

    def give(self, job: tuple[int, Any], actor: Any = None, tries: int = 0) -> None:
        """A job to an actor that waits for one, or once more to the one that has it."""
        actor = self.idle.pop() if actor is None else actor
        self.busy[actor.work.remote(self.shared, *job)] = actor, job, tries

    def results(self) -> Iterator[Any]:
        """What is done when one is: a job, or the start of an actor, which has no result."""
        for reference in self._changed():
            if reference in self.starting:
                self._started(reference)
                continue
            actor, job, tries = self.busy.pop(reference)
            try:
                result = _result(reference)
            except ActorUnavailableError:  # a machine that is busy, or has just died
                if tries < RETRIES:
                    self.give(job, actor, tries + 1)
                    continue
                error = _Lost("a worker of the cluster does not answer: `ray status` says what is left")
            except _Lost as of_worker:
                error = of_worker
            else:
                self.idle.append(actor)
                yield result
                continue
            if self.lost is None:
                raise error from None
            yield self.lost(job[1], error)

    def _changed(self) -> list[Any]:
        since, changed = time.monotonic(), list[Any]()
        while not changed and (self.busy or time.monotonic() - since < READY):
            changed, _ = ray.wait([*self.busy, *self.starting], num_returns=1, timeout=PULSE)
            if not changed:
                self.waiting()
        if not changed:
            raise UserError(
                f"no worker of the cluster was ready within {READY} seconds: `ray status` says what is free"
            )
        return changed

    def _started(self, reference: Any) -> None:
        actor = self.starting.pop(reference)
        try:
            _result(reference)
        except (ActorUnavailableError, _Lost) as failure:  # on a busy machine
            self.failures += 1
            if self.failures > RETRIES:
                raise _Lost(f"no worker of the cluster stays alive: {failure}") from None
            log.warning("a worker did not start, and another takes its place: %s", failure)
        else:
            self.idle.append(actor)


def _result(reference: Any) -> Any:
    """Of an actor's work; what went wrong there, in a sentence."""
    try:
        return ray.get(reference)
    except ActorUnavailableError:
        raise
    except RayTaskError as error:
        raise error.cause if isinstance(error.cause, UserError) else error from None
    except RayError as error:
        said = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines()
        reason = [line for line in said if not line.startswith("The actor never ran")][-1]  # what Ray ends with
        raise _Lost(f"a worker of the cluster gave up: {reason}") from None


class _Lost(UserError):
    """A worker died, and so did its successors."""


class _Worker:
    """A model in memory, on one core or one GPU."""

    do: Work | None = None

    def ready(self, shared: list[Any]) -> int:
        """It answers when the model is loaded: for the first job, or again in the place of one that died."""
        self._begun(shared)
        return 0

    def work(self, shared: list[Any], number: int, contents: Any) -> Any:
        """Do a job."""
        return self._begun(shared)(number, contents)

    def _begun(self, shared: list[Any]) -> Work:
        if self.do is None:
            folder, begin, given = ray.get(shared[0])
            os.chdir(folder)
            self.do = begin(*given)
        return self.do
