"""Tensors computed once per content: teacher embeddings, states of frozen encoders, inputs of others, perceptual hashes.

A cache is a folder of shards, `<number>.safetensors`, each written whole: `keys` (N,16) uint8, `lengths` (N), `values`
(sum of lengths, D) in half precision, or integers as they are. A fill that is killed keeps its shards and goes on behind
them. A content is a text or the bytes of an image together with its kind; posts that share one share its entry, and
changing one post computes one entry.
"""

import hashlib
import json
import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from clfa.data.atomic import replacing
from clfa.data.progress import Progress, progress

SHARD_BYTES, SHARD_SECONDS = 16_000_000, 30  # a shard is written when it is full, or old
WINDOW = 1_024  # contents that are sorted by length together
WINDOW_BYTES = 16_000_000

Content = str | bytes
Compute = Callable[[list], Sequence[Tensor]]
"""Some contents -> a (length, D) tensor each."""
Engine = Literal["plain", "ray"]
"""Where something is computed: in this process, or on a cluster (see `clfa.data.cluster`)."""
Keys = NDArray[Any]
"""(N,) of `S16`: 16 bytes a content."""


def content_key(kind: str, value: Content) -> bytes:
    """16 bytes that name a text or an image by its kind and content."""
    data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    return hashlib.blake2b(data, digest_size=16, person=kind.encode()).digest()


class Cache:
    """Read side of a folder of shards. In memory is an index of 28 bytes a content, values stay on disk.

    Args:
        folder: the folder; it may be empty or missing.
    """

    def __init__(self, folder: Path):
        self.shards: list[_Shard] = []
        self.broken: list[Path] = []
        """Files that cannot be read: they are computed again, see `fill`."""
        keys, places = [], []
        for path in sorted(folder.glob("*.safetensors")):
            opened = _open_shard(path)
            if opened is None:
                self.broken.append(path)
                continue
            shard, names, lengths = opened
            starts = np.cumsum(lengths) - lengths
            where = np.empty(len(names), dtype=_PLACE)
            where["shard"], where["start"], where["length"] = len(self.shards), starts, lengths
            self.shards.append(shard)
            keys.append(names)
            places.append(where)
        all_keys = np.concatenate(keys) if keys else np.empty(0, dtype="S16")
        order = np.argsort(all_keys, kind="stable")
        self.keys: Keys = all_keys[order]
        self.places = (np.concatenate(places) if places else np.empty(0, dtype=_PLACE))[order]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def width(self) -> int:
        """D; 0 for an empty cache."""
        return self.shards[0].width if self.shards else 0

    def find(self, keys: Keys) -> NDArray[np.int64]:
        """(N,) entry number of each key, -1 where there is none."""
        if not len(self.keys):
            return np.full(len(keys), -1)
        places = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return np.where(self.keys[places] == keys, places, -1)

    def get(self, key: bytes) -> Tensor | None:
        """(length, D) rows of one content, see `read`; `None` if it is not here."""
        entry = int(self.find(np.array([key], dtype="S16"))[0])
        return None if entry < 0 else self.read(entry)

    def read(self, entry: int) -> Tensor:
        """(length, D) rows of one entry in float32, or integers as they were stored."""
        place = self.places[entry]
        return self.shards[int(place["shard"])].read(int(place["start"]), int(place["length"]))


def fill(
    folder: Path,
    kind: str,
    contents: Iterable[Content],
    compute: Compute,
    what: str,
    batch_size: int = 32,
    total: int | None = None,
    on_cluster: "OnCluster | None" = None,
) -> int:
    """Make sure that a cache holds the tensors of all contents; compute only those that are missing.

    Memory does not grow with the number of contents: they are read in windows, and written shard by shard.

    Args:
        folder: the cache.
        kind: kind of the contents, a part of their keys.
        contents: texts, or undecoded images; repeated ones are computed once.
        compute: up to `batch_size` contents of like length -> one (length, D) tensor each.
        what: for the progress ("encoding images").
        batch_size: contents per call of `compute`.
        total: number of contents, if it is known, for the progress.
        on_cluster: what computes them in other processes, perhaps on other machines, instead of `compute`.

    Returns:
        The number of contents computed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # of two runs that start at once, the second waits and then finds everything there
    with FileLock(folder / ".lock"), progress(what, total) as bar:
        known = Cache(folder)
        for path in known.broken:
            path.unlink()
        jobs, computed = _missing(known, kind, contents, bar), 0
        counts = (
            _here(folder, jobs, compute, batch_size)
            if on_cluster is None
            else _elsewhere(folder, jobs, on_cluster, batch_size)
        )
        for count in counts:
            bar.add(count)
            computed += count
    return computed


@contextmanager
def kept(engine: Engine) -> Iterator[None]:
    """All fills in this block share one connection to a cluster, where they use one."""
    if engine == "plain":
        yield
        return
    from clfa.data.cluster import cluster

    with cluster():
        yield


Job = list[tuple[bytes, Content]]
"""Keys and contents."""


class OnCluster(NamedTuple):
    """What computes contents in other processes."""

    begin: Callable[..., Compute]
    """Called once in each of them, such as a function that loads a model."""
    given: tuple[Any, ...]
    """Its arguments."""


def _here(folder: Path, jobs: Iterator[Job], compute: Compute, batch_size: int) -> Iterator[int]:
    with closing(_Writer(folder)) as writer:  # what was computed is kept, whatever ends the fill
        for job in jobs:
            yield from _written(writer, job, compute, batch_size)


def _elsewhere(folder: Path, jobs: Iterator[Job], on_cluster: OnCluster, batch_size: int) -> Iterator[int]:
    from clfa.data.cluster import cluster, spread

    given = (folder.resolve(), *on_cluster, batch_size)
    with cluster() as workers:
        yield from spread(enumerate(jobs, _next(folder)), workers, open_worker, *given)


def open_worker(folder: Path, begin: Callable[..., Compute], given: tuple[Any, ...], batch_size: int) -> Callable:
    """What writes a shard of a given number in another process, and says how many contents it has."""
    compute = begin(*given)

    def write(number: int, job: Job) -> int:
        writer = _Writer(folder, number)
        count = sum(_written(writer, job, compute, batch_size))
        writer.close()
        return count

    return write


def _missing(known: Cache, kind: str, contents: Iterable[Content], bar: Progress) -> Iterator[Job]:
    """What is to be computed, a window at a time."""
    new: set[bytes] = set()
    for window in _windows(contents):
        keys = [content_key(kind, value) for value in window]
        missing = [
            (key, value)
            for key, value, entry in zip(keys, window, known.find(np.array(keys, dtype="S16")))
            if entry < 0 and not (key in new or new.add(key))  # type: ignore[func-returns-value]
        ]
        # neighbours of similar length share a batch, so little is computed on padding
        missing.sort(key=lambda pair: len(pair[1]))
        bar.add(len(window) - len(missing))
        if missing:
            yield missing


def _written(writer: "_Writer", job: Job, compute: Compute, batch_size: int) -> Iterator[int]:
    """The sizes of the batches of a job, each when it is with the writer."""
    for start in range(0, len(job), batch_size):
        batch = job[start : start + batch_size]
        for (key, _), values in zip(batch, compute([value for _, value in batch])):
            writer.add(key, values)
        yield len(batch)


def _next(folder: Path) -> int:
    """The number of a new shard."""
    return max((int(path.stem) for path in folder.glob("[0-9]*.safetensors")), default=-1) + 1


class _Shard(NamedTuple):
    """One file; its values are read by place, so that nothing but what is asked for comes into memory."""

    path: Path
    offset: int
    width: int
    dtype: np.dtype

    def read(self, start: int, length: int) -> Tensor:
        row = self.width * self.dtype.itemsize
        with open(self.path, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), length * row, self.offset + start * row)
        values = np.frombuffer(data, self.dtype).reshape(length, self.width)
        return torch.from_numpy(values.astype(np.float32) if self.dtype.kind == "f" else values.copy())


class _Writer:
    """Collects entries and writes a shard whenever there are enough of them, or, with a `number`, the one of that number."""

    def __init__(self, folder: Path, number: int | None = None):
        self.folder, self.keys, self.values, self.size = folder, [], [], 0  # type: ignore[var-annotated]
        self.written = time.monotonic()
        self.only, self.number = number is not None, _next(folder) if number is None else number

    def add(self, key: bytes, values: Tensor) -> None:
        self.keys.append(key)
        values = values.detach().cpu().contiguous()
        if values.is_floating_point():
            values = values.half() if _fits_half(values) else values.float()
        self.values.append(values)
        self.size += values.nbytes
        full = self.size >= SHARD_BYTES or time.monotonic() - self.written >= SHARD_SECONDS
        if full and not self.only:
            self.close()

    def close(self) -> None:
        """Write what there is; the next entry begins a shard."""
        self.written = time.monotonic()
        if not self.keys:
            return
        # one dtype a shard: single precision only where a value does not fit into half
        wide = any(values.dtype == torch.float32 for values in self.values)
        tensors = {
            "keys": torch.frombuffer(bytearray(b"".join(self.keys)), dtype=torch.uint8).view(-1, 16),
            "lengths": torch.tensor([len(values) for values in self.values]),
            "values": torch.cat([values.float() if wide else values for values in self.values]).contiguous(),
        }
        with replacing(self.folder / f"{self.number:06d}.safetensors") as partial:
            save_file(tensors, partial)
        self.number, self.keys, self.values, self.size = self.number + 1, [], [], 0


_DTYPES = {name: np.dtype(kind) for name, kind in (("F16", "f2"), ("F32", "f4"), ("U8", "u1"), ("I32", "i4"))}
"""Names of safetensors."""
_PLACE = np.dtype([("shard", np.int32), ("start", np.int32), ("length", np.int32)])


def _fits_half(values: Tensor) -> bool:
    return not values.numel() or bool(values.abs().max() <= torch.finfo(torch.float16).max)


def _open_shard(path: Path) -> tuple[_Shard, Keys, NDArray[np.int64]] | None:
    try:
        with safe_open(path, "pt") as file:
            keys, lengths = file.get_tensor("keys").numpy(), file.get_tensor("lengths").numpy()
    except (SafetensorError, OSError):
        return None
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        entry = json.loads(file.read(size))["values"]
    shard = _Shard(path, 8 + size + entry["data_offsets"][0], entry["shape"][1], _DTYPES[entry["dtype"]])
    return shard, np.ascontiguousarray(keys).view("S16").ravel(), lengths


def _windows(contents: Iterable[Content]) -> Iterable[list[Content]]:
    window: list[Content] = []
    size = 0
    for value in contents:
        window.append(value)
        size += len(value)
        if len(window) >= WINDOW or size >= WINDOW_BYTES:
            yield window
            window, size = [], 0
    if window:
        yield window
