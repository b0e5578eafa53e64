"""What predictions of very many posts cost: `clfa predict` of one process on one core, through PyTorch and ONNX.

    python benchmarks/cost.py RUN --posts POSTS.csv --price 0.05 --json docs/results/cost.json

RUN is exported twice, once with 8 bit integers. Each way answers all posts (a table with paths of images) in a process of
its own that may use one core only, in turns; a second, short table shows what begins and ends a process, which is
subtracted. Costs are those of the time the core worked, at a price of a core and hour that you know (`--price`, in dollars).
"""

import argparse
import csv
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

SHORT = 64
COMMAND = "import os, sys; os.sched_setaffinity(0, {0}); from clfa.cli import run; sys.argv[0] = 'clfa'; run()"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--posts", required=True, type=Path, help="CSV with the columns text and image")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--price", type=float, default=0.05, help="of a core and hour, in dollars")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.posts.parent) as name:
        folder = Path(name)
        ways = {"PyTorch": options.run, "ONNX": folder / "onnx", "ONNX, int8": folder / "int8"}
        for way, more in (("ONNX", []), ("ONNX, int8", ["--int8"])):
            clfa("export", options.run, "--out", ways[way], *more)
        count = cut(options.posts, folder / "short.csv")
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for number in range(options.rounds):
            for way in sorted(ways, reverse=number % 2 == 1):
                whole, start = (
                    predict(ways[way], table, folder / "out.csv", options.posts.parent)
                    for table in (options.posts, folder / "short.csv")
                )
                seconds[way].append((whole - start) / (count - SHORT))
                print(f"{way}: {1 / seconds[way][-1]:.1f} posts a second and core", flush=True)
    found = {
        "date": date.today().isoformat(),
        "machine": f"{platform.machine()}, one of {os.cpu_count()} cores",
        "posts": count,
        "price": options.price,
        "ways": {
            way: {
                "posts_a_second": [round(1 / one, 1) for one in sorted(each)],
                "core_hours_a_million": round(sorted(each)[len(each) // 2] * 1e6 / 3_600, 2),
            }
            for way, each in seconds.items()
        },
    }
    print(json.dumps(found, indent=1))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def cut(posts: Path, short: Path) -> int:
    """Write the first posts as a table of their own; the number of all."""
    with open(posts, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with open(short, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows[:SHORT])
    return len(rows)


def predict(run: Path, table: Path, output: Path, images: Path) -> float:
    """CPU seconds of a process that predicts a table."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    clfa("predict", run, "--input", table, "--output", output, "--image-dir", images, "--on-bad", "mask")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    output.unlink()
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def clfa(*arguments: object) -> None:
    done = subprocess.run([sys.executable, "-c", COMMAND, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)


if __name__ == "__main__":
    main()
