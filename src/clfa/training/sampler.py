"""Which posts share a batch."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


class LengthBuckets:
    """Batch sampler: shuffled, but posts of similar length share a batch, so little is computed on padding.

    The order of an epoch is a function of (seed, epoch) alone, which makes resuming exact.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, bucket: int = 50):
        self.lengths, self.batch_size, self.seed, self.epoch = torch.tensor(lengths), batch_size, seed, 0
        self.bucket = bucket * batch_size

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        batches: list[Tensor] = []
        for rows in torch.randperm(len(self.lengths), generator=generator).split(self.bucket):
            rows = rows[self.lengths[rows].argsort(stable=True)]
            batches += rows.split(self.batch_size)
        for number in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[number].tolist()
