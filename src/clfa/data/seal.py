"""What a folder holds by size and SHA-256: written with it, and compared before anything in it is believed."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from clfa.data.atomic import read_json, write_text
from clfa.errors import UserError

LAYOUT = 1
MANIFEST = "manifest.json"


def seal(folder: Path, files: Iterable[Path], made_with: Mapping[str, Any] | None = None) -> None:
    """Write `manifest.json`: size and SHA-256 of these files of the folder, the version of this layout, and the versions of
    what it was made with."""
    own = [path for path in sorted(files) if path != folder / MANIFEST]
    described = {path.relative_to(folder).as_posix(): _described(path) for path in own}
    more = {"made_with": dict(made_with)} if made_with else {}
    write_text(folder / MANIFEST, json.dumps({"layout": LAYOUT, "files": described} | more, indent=1) + "\n")


def problem_of(folder: Path, alone: bool = False) -> str:
    """The first thing in a sealed folder that is not what its manifest says; empty if all is.

    Args:
        folder: with a `manifest.json`.
        alone: whether there may be no other file directly in it.
    """
    try:
        manifest = read_json(folder / MANIFEST) or {}
        layout, files = manifest.get("layout"), manifest.get("files")
    except (OSError, ValueError, AttributeError):
        return f"{MANIFEST} cannot be read"
    if layout != LAYOUT or not isinstance(files, dict):
        return f"{MANIFEST} is missing, or of another version"
    found = {path.name for path in folder.iterdir()} - {MANIFEST}
    if alone and found != set(files):
        return f"files that differ from {MANIFEST}: {', '.join(sorted(found ^ set(files)))}"
    for name, expected in files.items():
        try:
            actual = _described(folder / name)
        except OSError as error:
            return str(error)
        if actual != expected:
            return f"{name}: {actual}, written was {expected}"
    return ""


def refuse_changed(folder: Path) -> None:
    """A model that is not what was written is not loaded.

    Raises:
        UserError: which names the file.
    """
    problem = problem_of(folder)
    if problem:
        raise UserError(
            f"{folder}: the model is not what was written ({problem}): restore the file from where it came, or train again"
        )


def sha256(path: Path) -> str:
    """Of a file, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _described(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}
