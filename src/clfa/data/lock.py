"""One process at a time where something is written."""

import fcntl
import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clfa.errors import UserError


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
    descriptor = _locked(path, written)
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, json.dumps({"pid": os.getpid(), "host": platform.node()}).encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)
        if not was_there:
            with suppress(OSError):  # nothing came of it
                path.parent.rmdir()


def _locked(path: Path, written: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise UserError(
                f"{written}: {_holder(path)} is at work here: wait for it, or end it, or choose another place"
            ) from None
        try:
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)  # its holder has removed it in between


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # it comes or goes at this moment
        return "another process"
    return f"process {holder['pid']} on {holder['host']}"
