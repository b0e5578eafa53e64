"""What every system is measured by: one JSON file for each run. Needs the standard library alone."""

import argparse
import json
import os
import resource
from collections.abc import Sequence
from pathlib import Path

BEGIN, END = "# user code begins", "# user code ends"


def options(doc: str) -> argparse.ArgumentParser:
    """The options that all scripts of this folder share; the table is `posts.csv` in the folder where they are started."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", required=True, help="folder of the text encoder")
    parser.add_argument("--image", required=True, help="folder of the image encoder, in the form that the system reads")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True, help="new folder for what the system writes")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    return parser


def record(out: Path, version: str, true: Sequence[str], predicted: Sequence[str], **more) -> None:
    """Write the scores of one run, and what the process has used since it was started, children included."""
    times = os.times()
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    found = {
        "version": version,
        **scores(true, predicted),
        "wall_seconds": seconds_since_start(),
        "cpu_seconds": times.user + times.system + times.children_user + times.children_system,
        "peak_bytes": 1024 * max(peaks),
        **more,
    }
    out.write_text(json.dumps(found, indent=1))


def scores(true: Sequence[str], predicted: Sequence[str]) -> dict[str, float]:
    """Accuracy, and the mean over the classes of the truth of F1, both in 0 … 1."""
    if len(true) != len(predicted):
        raise ValueError(f"{len(predicted)} predictions for {len(true)} posts")
    pairs = list(zip(map(str, true), map(str, predicted)))
    f1 = []
    for name in sorted({one for one, _ in pairs}):
        hits = sum(one == other == name for one, other in pairs)
        named = sum(one == name for one, _ in pairs) + sum(other == name for _, other in pairs)
        f1.append(2 * hits / named)
    return {
        "accuracy": sum(one == other for one, other in pairs) / len(pairs),
        "macro_f1": sum(f1) / len(f1),
        "test_posts": len(pairs),
    }


def seconds_since_start() -> float:
    """Seconds since this process was started, importing included."""
    ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    return float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")


def user_lines(script: Path) -> dict[str, int]:
    """Lines between the marks of a script, but blank ones, comments and quotes, by the name after the first mark."""
    found: dict[str, int] = {}
    name = None
    for line in map(str.strip, script.read_text().splitlines()):
        if line.startswith(BEGIN):
            name = line.removeprefix(BEGIN).strip(": ") or script.stem
            found[name] = 0
        elif line.startswith(END):
            name = None
        elif name and line and not line.startswith("#") and not line.endswith('"""'):
            found[name] += 1
    return found
