"""Signals: the first one asks to stop at the next good moment, a second one stops at once."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AFTER = 2
"""Seconds in which a signal of the other kind is no second one: what a terminal sends to all, a sweep passes on."""

log = logging.getLogger(__name__)


class Stop:
    """Whether a signal has asked to stop."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.since = 0.0
        self.waits = True

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """In this block a signal does not wait: it raises what `now` does."""
        self.waits = False
        try:
            self.now()
            yield
        finally:
            self.waits = True

    def __bool__(self) -> bool:
        return self.signal is not None

    def now(self) -> None:
        """End as the signal wants: `KeyboardInterrupt` for SIGINT (exit code 130), else `SystemExit` (SIGTERM: 143)."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise SystemExit(128 + self.signal)


@contextmanager
def stoppable(how: str) -> Iterator[Stop]:
    """SIGINT and SIGTERM wait for the work in this block, which looks at the `Stop` where it can be stopped; `how` that will
    be is said when the first one comes. The second one ends the process. Other threads than the main one get no signals.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, _: FrameType | None) -> None:
        if stop and (number == stop.signal or time.monotonic() - stop.since > AFTER):
            os._exit(128 + number)
        if stop:
            return
        stop.signal, stop.since = number, time.monotonic()
        if not stop.waits:
            stop.now()
        log.warning("%s; once more to stop at once", how)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
