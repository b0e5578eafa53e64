"""Which contents have come before, of millions: 16 bytes each, where a set of Python needs a hundred."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class Seen:
    """Keys of 16 bytes, in sorted arrays each of which is at least twice as long as the next.

    Args:
        keys: of `S16`, which have come already; the array is sorted in its place.
    """

    def __init__(self, keys: NDArray | None = None) -> None:
        self.arrays: list[NDArray] = []
        if keys is not None and len(keys):
            keys.sort()
            self.arrays.append(keys)

    def add(self, keys: Sequence[bytes]) -> list[bool]:
        """Some more, and whether each has come before, among these or earlier."""
        several = np.array(keys, dtype="S16")
        before = np.zeros(len(keys), dtype=bool)
        for array in self.arrays:
            before |= array[np.searchsorted(array, several).clip(max=len(array) - 1)] == several
        new, first = np.unique(several, return_index=True)
        repeated = np.ones(len(keys), dtype=bool)
        repeated[first] = False
        result = (before | repeated).tolist()
        fresh = new[~before[first]]
        while len(fresh) and self.arrays and len(self.arrays[-1]) < 2 * len(fresh):
            fresh = np.concatenate([self.arrays.pop(), fresh])
            fresh.sort()
        if len(fresh):
            self.arrays.append(fresh)
        return result
