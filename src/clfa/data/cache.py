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
from clfa.data.seen import Seen

SHARD_BYTES, SHARD_SECONDS = 4_000_000, 30  # a shard is written when it is full, or old; three times as much in memory
SOUGHT = 100_000  # keys that are compared with as many others, at least
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
    """Read side of a folder of shards; values stay on disk. An entry is the number of a content, in the order of the files.

    In memory are 4 bytes an entry where its length is not always the same. To find some by their keys takes an index of 20
    bytes an entry, which is made when it is asked for; to find very many needs none (`find_all`).

    Args:
        folder: the folder; it may be empty or missing.
    """

    def __init__(self, folder: Path):
        self.shards: list[_Shard] = []
        self.broken: list[Path] = []
        """Files that cannot be read: they are computed again, see `fill`."""
        for path in sorted(folder.glob("*.safetensors")):
            opened = _open_shard(path)
            if opened is None:
                self.broken.append(path)
            else:
                self.shards.append(opened)
        self.ends = np.cumsum([shard.entries for shard in self.shards])
        self._index: tuple[Keys, NDArray[np.int32]] | None = None

    def __len__(self) -> int:
        return int(self.ends[-1]) if self.shards else 0

    @property
    def width(self) -> int:
        """D; 0 for an empty cache."""
        return self.shards[0].width if self.shards else 0

    def keys(self) -> Keys:
        """(N,) keys of all entries, in their order."""
        keys = np.empty(len(self), dtype="S16")
        for shard, end in zip(self.shards, self.ends):
            keys[end - shard.entries : end] = shard.keys()
        return keys

    def find(self, keys: Keys) -> NDArray[np.int32]:
        """(N,) entry of each key, -1 where there is none."""
        if not len(self):
            return np.full(len(keys), -1, dtype=np.int32)
        known, entries = self._sorted()
        places = np.searchsorted(known, keys).clip(max=len(known) - 1)
        return np.where(known[places] == keys, entries[places], np.int32(-1))

    def find_all(self, keys: Keys) -> NDArray[np.int32]:
        """The same for so many that an index of all would take more memory than they do: some shards at a time."""
        entries = np.full(len(keys), -1, dtype=np.int32)
        number = first = 0
        while number < len(self.shards):
            some: list[Keys] = []
            while number < len(self.shards) and sum(map(len, some)) < SOUGHT:
                some.append(self.shards[number].keys())
                number += 1
            own = np.concatenate(some)
            order = np.argsort(own, kind="stable").astype(np.int32)
            known = own[order]
            for start in range(0, len(keys), SOUGHT):
                asked = keys[start : start + SOUGHT]
                places = np.searchsorted(known, asked).clip(max=len(known) - 1)
                there = known[places] == asked
                entries[start : start + SOUGHT][there] = first + order[places[there]]
            first += len(own)
        return entries

    def get(self, key: bytes) -> Tensor | None:
        """(length, D) rows of one content, see `read`; `None` if it is not here."""
        entry = int(self.find(np.array([key], dtype="S16"))[0])
        return None if entry < 0 else self.read(entry)

    def read(self, entry: int) -> Tensor:
        """(length, D) rows of one entry in float32, or integers as they were stored."""
        number = int(np.searchsorted(self.ends, entry, side="right"))
        shard = self.shards[number]
        return shard.read(entry - (int(self.ends[number - 1]) if number else 0))

    def _sorted(self) -> tuple[Keys, NDArray[np.int32]]:
        """Keys in their order, and the entry of each."""
        if self._index is None:
            keys = self.keys()
            order = np.argsort(keys, kind="stable").astype(np.int32)
            self._index = keys[order], order
        return self._index


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
        for path in [*known.broken, *folder.glob("[0-9]*.partial")]:  # the latter of a fill that was killed
            path.unlink(missing_ok=True)
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
    seen = Seen(known.keys())
    for window in _windows(contents):
        keys = [content_key(kind, value) for value in window]
        missing = [(key, value) for key, value, there in zip(keys, window, seen.add(keys)) if not there]
        # neighbours of similar length share a batch, so little is computed on padding
        missing.sort(key=lambda pair: len(pair[1]))
        bar.add(len(window) - len(missing))
        if missing:
            yield missing


def _written(writer: "_Writer", job: Job, compute: Compute, batch_size: int) -> Iterator[int]:
    """The sizes of the batches of a job, each when it is with the writer."""
    for start in range(0, len(job), batch_size):
        batch = job[start : start + batch_size]
        writer.add([key for key, _ in batch], compute([value for _, value in batch]))
        yield len(batch)


def _next(folder: Path) -> int:
    """The number of a new shard."""
    return max((int(path.stem) for path in folder.glob("[0-9]*.safetensors")), default=-1) + 1


class _Shard(NamedTuple):
    """One file; its values are read by place, so that nothing but what is asked for comes into memory."""

    path: Path
    entries: int
    """How many."""
    starts: NDArray[np.int32] | None
    """(entries + 1,) first row of each entry; `None` where each has one row."""
    offset: int
    width: int
    dtype: np.dtype

    def keys(self) -> Keys:
        with safe_open(self.path, "np") as file:
            return np.ascontiguousarray(file.get_tensor("keys")).view("S16").ravel()

    def read(self, entry: int) -> Tensor:
        start, end = (entry, entry + 1) if self.starts is None else self.starts[entry : entry + 2].tolist()
        row = self.width * self.dtype.itemsize
        with open(self.path, "rb", buffering=0) as file:
            data = os.pread(file.fileno(), (end - start) * row, self.offset + start * row)
        values = np.frombuffer(data, self.dtype).reshape(end - start, self.width)
        return torch.from_numpy(values.astype(np.float32) if self.dtype.kind == "f" else values.copy())


class _Writer:
    """Collects entries and writes a shard whenever there are enough of them, or, with a `number`, the one of that number."""

    def __init__(self, folder: Path, number: int | None = None):
        self.folder, self.number = folder, _next(folder) if number is None else number
        self.only = number is not None
        self.keys, self.lengths, self.values, self.size = bytearray(), list[int](), list[Tensor](), 0
        self.written = time.monotonic()

    def add(self, keys: Sequence[bytes], several: Sequence[Tensor]) -> None:
        """A batch, in one piece: a tensor for each small content would take more memory than what is in it."""
        if len(keys) != len(several):
            raise ValueError(f"{len(several)} tensors were computed of {len(keys)} contents")
        values = torch.cat([one.detach() for one in several]).cpu()
        if values.is_floating_point():
            values = values.half() if _fits_half(values) else values.float()
        self.keys += b"".join(keys)
        self.lengths += map(len, several)
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
            "keys": torch.frombuffer(self.keys, dtype=torch.uint8).view(-1, 16),
            "lengths": torch.tensor(self.lengths),
            "values": torch.cat([values.float() if wide else values for values in self.values]),
        }
        with replacing(self.folder / f"{self.number:06d}.safetensors") as partial:
            save_file(tensors, partial)
        self.number += 1
        self.keys, self.lengths, self.values, self.size = bytearray(), [], [], 0


_DTYPES = {name: np.dtype(kind) for name, kind in (("F16", "f2"), ("F32", "f4"), ("U8", "u1"), ("I32", "i4"))}
"""Names of safetensors."""


def _fits_half(values: Tensor) -> bool:
    return not values.numel() or bool(values.abs().max() <= torch.finfo(torch.float16).max)


def _open_shard(path: Path) -> _Shard | None:
    try:
        with safe_open(path, "np") as file:
            lengths = file.get_tensor("lengths")
            if len(lengths) != file.get_slice("keys").get_shape()[0]:
                return None
    except (SafetensorError, OSError):
        return None
    with open(path, "rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        entry = json.loads(file.read(size))["values"]
    starts = None if (lengths == 1).all() else np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    offset = 8 + size + entry["data_offsets"][0]
    return _Shard(path, len(lengths), starts, offset, entry["shape"][1], _DTYPES[entry["dtype"]])


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
