"""Progress of what can take over two seconds: a bar on a terminal, elsewhere a line after two, then each ten."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
ALMOST = 2
"""Seconds left of which nothing is said."""
log = logging.getLogger(__name__)


class Progress:
    """Counts what is done, and shows how far it is, how fast, and how long it will take.

    Args:
        what: the work in a word or two ("encoding images").
        total: number of steps, `None` if it is not known.
    """

    def __init__(self, what: str, total: int | None = None):
        from tqdm import tqdm

        self.what, self.total, self.done = what, total, 0
        self.started = time.monotonic()
        self.next_line = self.started + 2
        # a bar appears only if the work takes longer than two seconds
        terminal = sys.stderr.isatty() and log.isEnabledFor(logging.INFO)
        self.bar = tqdm(desc=what, total=total, delay=2, leave=False, file=sys.stderr) if terminal else None

    def add(self, count: int = 1) -> None:
        """`count` further steps are done."""
        self.done += count
        if self.bar is not None:
            self.bar.update(count)
        elif (now := time.monotonic()) >= self.next_line:
            rate = self.done / (now - self.started)
            of, left = "", ""
            if self.total and rate:
                seconds = (self.total - self.done) / rate
                if seconds < ALMOST:
                    return
                of, left = f" of {self.total:,}", f", {seconds:.0f} s left"
            self.next_line = now + 10
            log.info("%s: %s%s, %.0f a second%s", self.what, f"{self.done:,}", of, rate, left)

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Progress]:
    """`with progress("importing", rows) as bar: … bar.add()`."""
    bar = Progress(what, total)
    try:
        yield bar
    finally:
        bar.close()


def track(
    items: Iterable[T], what: str, total: int | None = None, size: Callable[[T], int] = lambda item: 1
) -> Iterator[T]:
    """The items, with their progress shown; `size` says how many steps an item is (the posts of a batch)."""
    with progress(what, total) as bar:
        for item in items:
            yield item
            bar.add(size(item))
