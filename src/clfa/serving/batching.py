"""Posts of many requests, predicted together: one queue, one thread that computes."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

LARGEST, BATCH = 32, 8
"""Posts of a request, at most; posts that are computed together: of more, a processor computes no more a second, and they
take memory (benchmarks/service.py). A request with more is computed by itself."""
DELAY = 0.004
"""Seconds that a first post waits for others, where nothing is being computed."""
WAITING = 128
"""Posts that may wait; more are refused."""


class Full(Exception):
    """So many posts wait that no more are taken."""


@dataclass(eq=False)
class _Asked:
    posts: Sequence[Any]
    answer: asyncio.Future
    work: Callable[[list], list] | None = None
    """Another computation than `predict`."""


class Batcher:
    """`await ask(posts)` gives their answers, in their order; posts of several requests share a call of `predict`.

    Args:
        predict: posts -> one answer each; called in one thread, one call at a time.
        computed: told the number of posts of each batch.
    """

    def __init__(self, predict: Callable[[list], list], computed: Callable[[int], object] = lambda posts: None):
        self.predict, self.computed = predict, computed
        self.queue: deque[_Asked] = deque()
        self.waiting = 0
        """Posts in the queue."""
        self.there = asyncio.Event()
        self.thread = ThreadPoolExecutor(1, "predict")

    async def ask(self, posts: Sequence[Any], work: Callable[[list], list] | None = None) -> list:
        """Answers of at most `LARGEST` posts. Who no longer waits for them has them taken out of the queue.

        Args:
            posts: of one request.
            work: what is computed in the place of `predict`, for these posts by themselves.

        Raises:
            Full: too many wait.
        """
        if self.waiting + len(posts) > WAITING:
            raise Full
        asked = _Asked(posts, asyncio.get_running_loop().create_future(), work)
        self.queue.append(asked)
        self.waiting += len(posts)
        self.there.set()
        try:
            return await asked.answer
        finally:
            if asked in self.queue:  # given up
                self.queue.remove(asked)
                self.waiting -= len(posts)

    async def run(self) -> None:
        """Answer what is asked, until this is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            await self.there.wait()
            if self.waiting < BATCH:
                await asyncio.sleep(DELAY)
            batch = self._take()
            posts = [post for asked in batch for post in asked.posts]
            if not posts:
                continue
            self.computed(len(posts))
            try:
                work = batch[0].work or self.predict
                answers = iter(await loop.run_in_executor(self.thread, work, posts))
                for asked in batch:
                    own = [next(answers) for _ in asked.posts]
                    if not asked.answer.done():
                        asked.answer.set_result(own)
            except Exception as error:
                for asked in batch:
                    if not asked.answer.done():
                        asked.answer.set_exception(error)

    def _take(self) -> list[_Asked]:
        """The next requests, as many as fit into a batch; one with work of its own is alone."""
        batch: list[_Asked] = []
        size = 0
        while self.queue and (not batch or self._joins(batch[0], size)):
            asked = self.queue.popleft()
            size += len(asked.posts)
            batch.append(asked)
        self.waiting -= size
        if not self.queue:
            self.there.clear()
        return batch

    def _joins(self, first: _Asked, size: int) -> bool:
        """Whether the next request is computed with the first of a batch that has so many posts."""
        following = self.queue[0]
        return not (first.work or following.work) and size + len(following.posts) <= BATCH
