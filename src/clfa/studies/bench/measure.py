"""Times of ways to do the same, in turns."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from clfa.data.progress import progress

Way = Callable[[], int]
"""Does its work, and says for how many posts."""


@dataclass
class Suite:
    """What was measured."""

    times: dict[str, list[float]]
    """Way -> milliseconds a post, in each round."""
    pairs: dict[str, tuple[str, str]]
    """Ratio -> the way that is its numerator, and the one below."""
    goals: dict[str, float] = field(default_factory=dict)
    further: dict[str, Any] = field(default_factory=dict)

    def ratios(self) -> dict[str, float]:
        """Of the sums over rounds."""
        return {name: sum(self.times[slow]) / sum(self.times[fast]) for name, (slow, fast) in self.pairs.items()}

    def spreads(self) -> dict[str, float]:
        """Ratio -> the range of its middle half over the rounds, by its median."""
        spreads = {}
        for name, (slow, fast) in self.pairs.items():
            each = [one / other for one, other in zip(self.times[slow], self.times[fast])]
            if len(each) > 1:
                low, middle, high = statistics.quantiles(each, n=4, method="inclusive")
                spreads[name] = (high - low) / middle
        return spreads

    def rounds(self) -> list[dict[str, float]]:
        """Way -> milliseconds a post, a round each."""
        return [dict(zip(self.times, each)) for each in zip(*self.times.values())]


def alternate(ways: Mapping[str, Way], rounds: int) -> dict[str, list[float]]:
    """Milliseconds a post of each way in each round; the first round, which is not counted, warms up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    with progress("measuring", (rounds + 1) * len(ways)) as bar:
        for number in range(rounds + 1):
            for name in list(ways)[:: -1 if number % 2 else 1]:
                gc.collect()
                began = now()
                posts = ways[name]()
                if number:
                    times[name].append(1_000 * (now() - began) / posts)
                bar.add()
    return times


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def matmul_rate(dtype: torch.dtype) -> float:
    """FLOPs a second of a product of large matrices: what this device can do at most."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = 8_192 if device == "cuda" else 1_024
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        began = now()
        left @ right
        best = min(best, now() - began)
    return 2 * size**3 / best
