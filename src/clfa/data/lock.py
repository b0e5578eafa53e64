"""One process at a time where something is written."""

import json
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from clfa.errors import UserError

log = logging.getLogger(__name__)
ORPHANS = 15
"""Seconds that the children of a process that was killed, such as data loaders, may take to notice it."""


@contextmanager
def only_one(written: Path, inside: bool = False) -> Iterator[None]:
    """A second process that comes here to write the same is refused; what a process that died has left does not count.

    The file `WRITTEN.lock`, or `WRITTEN/.lock`, names the process that has it; the operating system lets go of it with the
    process.

    Args:
        written: file or folder that is written in this block.
        inside: whether it is a folder, in which the file may be.

    Raises:
        UserError: another process is at work here (its number and its host).
    """
    path = written / ".lock" if inside else written.with_name(f"{written.name}.lock")
    was_there = path.parent.is_dir()
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        try:
            if _is_alive(_holder(path)):
                raise
            log.info("%s: waiting for what a process that was killed has left at work", written)
            lock.acquire(timeout=ORPHANS)
        except Timeout:
            holder = _holder(path)
            name = f"process {holder['pid']} on {holder['host']}" if holder else "another process"
            if not _is_alive(holder):
                name = f"a process that {name} has left"
            raise UserError(
                f"{written}: {name} is at work here: wait for it, or end it, or choose another place"
            ) from None
    try:
        path.write_text(json.dumps({"pid": os.getpid(), "host": platform.node()}), encoding="utf-8")
        yield
    finally:
        path.unlink(missing_ok=True)  # whoever has opened it meanwhile sees that it is gone, and begins anew
        lock.release()
        if not was_there:
            with suppress(OSError):  # nothing came of it
                path.parent.rmdir()


def _holder(path: Path) -> dict[str, Any] | None:
    """Number and host of a process; `None` if it comes or goes at this moment."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _is_alive(holder: dict[str, Any] | None) -> bool:
    """Whether it may be at work; not if it died on this machine, and only children of it are left."""
    if holder is None or holder["host"] != platform.node():
        return True
    try:
        os.kill(holder["pid"], 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True
