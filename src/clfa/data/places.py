"""Files on this machine, and in object storage: `s3://bucket/posts.csv` is read in a stream, and written whole.

Addresses and keys are those of the storage's own client, by its environment variables and files. Nothing is fetched from
the web: other addresses are refused, and those in the cells of a table are, too (`clfa.data.images`).
"""

import hashlib
import os
import stat
import tempfile
from glob import glob
from pathlib import Path
from typing import Any

from clfa.errors import UserError

STORAGES = ("s3", "gs", "az")
Place = Any
"""A `pathlib.Path`, or a `upath.UPath` of object storage, which is used like one and is none."""


def place(name: str | Path) -> Place:
    """A path of this machine or of object storage.

    Raises:
        UserError: an address of something else, what reads it is not installed, or it does not answer.
    """
    scheme, behind, _ = str(name).partition("://")
    if not behind:
        return Path(name)
    if scheme not in STORAGES:
        raise UserError(f"{name}: nothing is fetched from {scheme}://; give a path, or one of {', '.join(STORAGES)}://")
    try:
        from upath import UPath

        path = UPath(name)
        path.exists()
    except ImportError as error:
        raise UserError(f"{name}: {error}; pip install 'clfa[cloud]' reads s3://, gs:// also needs gcsfs") from None
    except Exception as error:  # each client has its own; what it says is what helps
        raise UserError(f"{name} cannot be read: {str(error).splitlines()[0]}") from None
    return path


def is_remote(path: Place) -> bool:
    """Whether a path is one of object storage."""
    return not isinstance(path, Path)


def list_places(pattern: str) -> list[Place]:
    """The files that a pattern such as `days/*.csv` names, by their names."""
    if "://" not in pattern:
        return sorted(Path(name) for name in glob(pattern, recursive=True))
    path = place(pattern)
    return sorted((place(f"{path.protocol}://{name}") for name in path.fs.glob(path.path)), key=str)


def version(path: Place) -> list[Any]:
    """What changes when the file does."""
    state = path.stat()
    return [str(path), state.st_size, state.st_mtime_ns]


def staged(output: Place) -> Path:
    """Where what becomes `output` is written first: there, or, for object storage, in a folder of this machine and user,
    which is the same for the same output.

    Raises:
        UserError: that folder is somebody else's.
    """
    if not is_remote(output):
        return output
    address = hashlib.sha256(str(output).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir(), f"clfa-{os.getuid() if hasattr(os, 'getuid') else ''}-{address}")
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    mine = not hasattr(os, "getuid") or (state.st_uid == os.getuid() and not stat.S_IMODE(state.st_mode) & 0o077)
    if folder.is_symlink() or not mine:
        raise UserError(f"{folder}, where {output} is written first, is open to others: set TMPDIR to another folder")
    return folder / output.name


def deliver(written: Path, output: Place) -> None:
    """Bring what was written to its place. An object appears whole; if the upload fails, the file stays.

    Raises:
        UserError: the storage does not take it.
    """
    if not is_remote(output):
        return
    try:
        output.fs.put_file(str(written), output.path)
    except Exception as error:  # each client has its own
        raise UserError(
            f"{output} could not be written ({str(error).splitlines()[0]}); the same command goes on with the upload"
        ) from None
    written.unlink()
