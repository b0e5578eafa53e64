"""Which posts share a batch."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray

from clfa.data.rows import Row, Rows


class LengthBuckets:
    """Batch sampler: shuffled, but posts of similar length share a batch, so little is computed on padding.

    The order of an epoch is a function of (seed, epoch) alone, which makes resuming exact.
    """

    def __init__(self, lengths: Sequence[int] | NDArray, batch_size: int, seed: int, bucket: int = 50):
        self.lengths = np.asarray(lengths, dtype=np.int32)
        self.batch_size, self.seed = batch_size, seed
        self.epoch = self.done = 0
        self.bucket = bucket * batch_size

    def set_epoch(self, epoch: int, done: int = 0) -> None:
        """The epoch that comes, without its first batches, which are `done`."""
        self.epoch, self.done = epoch, done

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.all_batches()[self.done :]:
            yield batch.tolist()

    def all_batches(self) -> list[Int[NDArray, " batch"]]:
        """Places of the posts of each batch of the epoch, those that are done among them; parts of one array of the epoch's
        order, 4 bytes a post."""
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        order = torch.randperm(len(self.lengths), generator=generator, dtype=torch.int32).numpy()
        batches: list[NDArray] = []
        for start in range(0, len(order), self.bucket):
            rows = order[start : start + self.bucket]
            rows[:] = rows[self.lengths[rows].argsort(kind="stable")]
            batches += [rows[at : at + self.batch_size] for at in range(0, len(rows), self.batch_size)]
        return [batches[number] for number in torch.randperm(len(batches), generator=generator).tolist()]


class Beside:
    """Batch sampler: behind each batch of another sampler as many posts without labels, by their places in `WithUnlabelled`.

    They come in a random order, all of them before one comes again; as the batches, it depends on (seed, epoch) alone.
    """

    def __init__(self, batches: LengthBuckets, labelled: int, unlabelled: int):
        self.batches, self.labelled, self.unlabelled = batches, labelled, unlabelled

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        places = self._places()
        for number, batch in enumerate(self.batches.all_batches()):
            beside = [next(places) for _ in batch]
            if number >= self.batches.done:
                yield batch.tolist() + beside

    def _places(self) -> Iterator[int]:
        # not the generator of the batches, whose epochs begin with a permutation too
        generator = torch.Generator().manual_seed((self.batches.seed + 1) * 1_000_003 + self.batches.epoch)
        while True:
            for place in torch.randperm(self.unlabelled, generator=generator).tolist():
                yield self.labelled + place


class WithUnlabelled(Sequence[Row]):
    """Training posts, behind them posts without labels; labels that these have are not read."""

    def __init__(self, rows: Rows, unlabelled: Rows):
        self.rows, self.unlabelled = rows, unlabelled

    def __len__(self) -> int:
        return len(self.rows) + len(self.unlabelled)

    def __getitem__(self, place: Any) -> Any:
        """A row by its place."""
        if place < len(self.rows):
            return self.rows[place]
        return self.unlabelled[place - len(self.rows)].replace(label=None)
