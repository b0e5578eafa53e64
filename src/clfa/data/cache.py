"""Tensors computed once per content: teacher embeddings and the states of frozen encoders.

A cache file belongs to one split and one model, `FOLDER/<split>.safetensors`, and holds for each different content
(a text, the bytes of an image) its key and its rows: `keys` (N,16) uint8, `lengths` (N), `values` (sum of lengths, D).
Changing one post recomputes one post; posts that share a text or an image share its entry.
"""

import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor


def content_key(value: str | bytes) -> bytes:
    """16 bytes that name a text or an image by its content."""
    return hashlib.blake2b(value.encode() if isinstance(value, str) else value, digest_size=16).digest()


class Cache:
    """Read side: content key -> tensor, over the files of several splits. Values stay on disk (memory-mapped)."""

    def __init__(self, paths: Iterable[Path]):
        self.files: list[np.memmap] = []
        self.index: dict[bytes, tuple[int, int, int]] = {}
        for path in paths:
            with safe_open(path, "pt") as file:
                keys, lengths = file.get_tensor("keys").numpy(), file.get_tensor("lengths").tolist()
            # numpy's own mapping of the block of values: a slice is then a view, with nothing opened or copied
            values, start = _map_values(path), 0
            for key, length in zip(keys, lengths):
                self.index[key.tobytes()] = (len(self.files), start, length)
                start += length
            self.files.append(values)

    def __getitem__(self, key: bytes) -> Tensor:
        """The rows of one content, (length, D) float32."""
        number, start, length = self.index[key]
        return torch.from_numpy(self.files[number][start : start + length].copy())

    def __contains__(self, key: bytes) -> bool:
        return key in self.index


def fill(
    path: Path,
    values: Iterable[str | bytes],
    compute: Callable[[list], list[Tensor]],
    batch_size: int = 32,
    known: Cache | None = None,
) -> int:
    """Make sure that `path` holds the tensors of all `values`; compute only those that are missing.

    Args:
        path: cache file of one split.
        values: texts (str) and images (undecoded bytes) of the split, in any order.
        compute: a batch of texts, or of image bytes -> one (length, D) tensor each.
        batch_size: contents per call of `compute`.
        known: caches of the same model for other splits, to copy from.

    Returns:
        The number of contents computed.
    """
    wanted = {content_key(value): value for value in values}
    path.parent.mkdir(parents=True, exist_ok=True)
    # of two runs that start at once, the second waits and then finds everything there
    with FileLock(f"{path}.lock"):
        return _fill(path, wanted, compute, batch_size, known)


def _fill(path: Path, wanted: dict[bytes, str | bytes], compute: Callable, batch_size: int, known: Cache | None) -> int:
    old = _read_old(path)
    if wanted.keys() <= old.keys():
        return 0
    found = {key: old[key] for key in wanted if key in old}
    if known is not None:
        found |= {key: known[key] for key in wanted if key not in found and key in known}
    missing = [key for key in wanted if key not in found]
    for kind in (str, bytes):
        group = [key for key in missing if isinstance(wanted[key], kind)]
        # neighbours of similar length share a batch, so little is computed on padding
        group.sort(key=lambda key: len(wanted[key]))
        for start in range(0, len(group), batch_size):
            batch = group[start : start + batch_size]
            found |= dict(zip(batch, compute([wanted[key] for key in batch])))
    ordered = [found[key] for key in wanted]
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    save_file(
        {
            "keys": torch.frombuffer(bytearray(b"".join(wanted)), dtype=torch.uint8).view(-1, 16),
            "lengths": torch.tensor([len(value) for value in ordered]),
            "values": torch.cat(ordered).float().contiguous(),
        },
        partial,
    )
    os.replace(partial, path)
    return len(missing)


def _read_old(path: Path) -> dict[bytes, Tensor]:
    if not path.is_file():
        return {}
    try:
        old = load_file(path)
    except SafetensorError:  # a cache that was cut off is worth nothing: compute it again
        return {}
    keys = [row.tobytes() for row in old["keys"].numpy()]
    return dict(zip(keys, old["values"].split(old["lengths"].tolist())))


def _map_values(path: Path):
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        entry = json.loads(file.read(size))["values"]
    offset = 8 + size + entry["data_offsets"][0]
    return np.memmap(path, dtype=np.float32, mode="r", offset=offset, shape=tuple(entry["shape"]))
