"""Speed, as ratios within one run: what training, inference and their parts cost, beside what one would write first.

The clock of the process is what counts on a CPU (time in which another process had the core does not), that on the wall on
a GPU. Ways that are compared do the same posts, in turns (A B C, C B A …), after a round that does not count.
"""

import os
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import torch

from clfa.errors import UserError
from clfa.studies.bench.curves import curve_suite
from clfa.studies.bench.measure import Suite
from clfa.studies.bench.parts import image_suite, loss_suite, teacher_suite
from clfa.studies.bench.whole import infer_suite, train_suite

SUITES: dict[str, Callable[..., Suite]] = {
    "train": train_suite,
    "infer": infer_suite,
    "teacher": teacher_suite,
    "image": image_suite,
    "loss": loss_suite,
    "curves": curve_suite,
}


@dataclass(frozen=True)
class Bench:
    """The result of a suite; stored and printed as JSON."""

    suite: str
    ratios: dict[str, float]
    """Name -> sum of the times of the slower way in all rounds, by that of the faster one."""
    goals: dict[str, float]
    """Name -> the ratio that is wanted."""
    noise: float
    """Largest spread of a ratio over the rounds: the range of its middle half, by its median."""
    verdict: str
    """`steady`, or `too noisy` where that is over 15 %; empty without ratios."""
    rounds: list[dict[str, float]]
    """Milliseconds a post of each way, a round each."""
    further: dict[str, Any] = field(default_factory=dict)
    """What else was measured: differences of logits, shares of the floor, curves."""
    environment: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """As Markdown."""
        lines = ["| ratio | measured | goal |", "|---|---|---|"]
        for name, value in self.ratios.items():
            goal = self.goals.get(name)
            said = "" if goal is None else f"{goal:g}" + ("" if value >= goal else ", missed")
            lines.append(f"| {name} | {value:.2f} | {said} |")
        lines = lines + [""] if self.ratios else []
        unit = "step" if self.suite == "curves" else "post"
        lines += [f"| way | ms a {unit}, median of the rounds | least | most |", "|---|---|---|---|"]
        for way in self.rounds[0]:
            times = sorted(one[way] for one in self.rounds)
            lines.append(f"| {way} | {times[len(times) // 2]:.2f} | {times[0]:.2f} | {times[-1]:.2f} |")
        for name, value in self.further.items():
            lines += ["", f"{name}: {_said(value)}"]
        about = ", ".join(f"{name} {_said(value)}" for name, value in self.environment.items())
        verdict = f"{self.verdict} (spread of a ratio {self.noise:.0%}); " if self.verdict else ""
        return "\n".join([*lines, "", verdict + about])


def bench(suite: str, rounds: int = 5, threads: int = 1, layers: int = 12, reference: str | None = None) -> Bench:
    """Measure a suite.

    Args:
        suite: a key of `SUITES`.
        rounds: how often each way is measured.
        threads: of PyTorch and ONNX Runtime.
        layers: of each encoder (12 are the paper's); fewer to try it.
        reference: folder with the authors' released code, to be timed in the suite `train`.

    Raises:
        UserError: there is no such suite; the reference holds no code that can be timed.
    """
    if suite not in SUITES:
        raise UserError(f"no suite {suite!r}; there are {', '.join(SUITES)}")
    if reference and suite != "train":
        raise UserError("--reference is timed in --suite train")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    try:
        more = {"reference": Path(reference)} if reference else {}
        measured = SUITES[suite](rounds, layers, **more)
    finally:
        torch.set_num_threads(before)
    noise = max(measured.spreads().values(), default=0.0)
    if torch.cuda.is_available():
        measured.further["peak memory, GB"] = torch.cuda.max_memory_allocated() / 1e9
    return Bench(
        suite,
        measured.ratios(),
        measured.goals,
        noise,
        "" if not measured.pairs else "too noisy" if noise > 0.15 else "steady",
        measured.rounds(),
        measured.further,
        environment(threads, layers),
    )


def environment(threads: int, layers: int) -> dict[str, Any]:
    """Machine and versions."""
    gpu = torch.cuda.is_available()
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").is_file() else ""
    return {
        "date": date.today().isoformat(),
        "device": torch.cuda.get_device_name() if gpu else _cpu(flags),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "flags": [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {flag} " in flags],
        "threads": threads,
        "layers": layers,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "seed": 0,
    }


def _cpu(described: str) -> str:
    names = [line.split(":", 1)[1].strip() for line in described.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name} {_said(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_said, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
