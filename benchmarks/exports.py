"""What an exported model costs: size of its install, memory, first answer of a fresh process, each further one.

python benchmarks/exports.py EXPORT [EXPORT …] --posts POSTS.csv --json docs/results/onnx.json

In a fresh virtual environment with `clfa[onnx]` alone, on one core. POSTS.csv has the columns text and image (a path).
"""

import argparse
import csv
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 5
"""Fresh processes, the first of which is not counted, as its files are read from the disk."""
CHILD = """
import json, os, resource, sys, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from clfa import Predictor
predictor = Predictor(sys.argv[1], batch_size=1)
posts = json.loads(sys.argv[2])
print(predictor.one(posts[0]).predicted, flush=True)  # how long it took until here is what the caller measures
times = []
for post in posts[1:]:
    start = time.perf_counter()
    predictor.one(post)
    times.append(1000 * (time.perf_counter() - start))
heavy = [name for name in ("torch", "transformers") if name in sys.modules]
print(json.dumps([times, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, heavy]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exports", nargs="+", type=Path)
    parser.add_argument("--posts", required=True, type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with open(options.posts, newline="", encoding="utf-8") as file:
        posts = [{"text": row["text"], "image": row["image"]} for row in csv.DictReader(file)]
    with tempfile.TemporaryDirectory() as folder:
        python = Path(folder, "venv", "bin", "python")
        subprocess.run([sys.executable, "-m", "venv", python.parent.parent], check=True)
        wanted = [f"{ROOT}[onnx]", "--constraint", str(ROOT / "constraints.txt")]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True, stderr=subprocess.DEVNULL)
        packages = next(python.parent.parent.glob("lib/python*/site-packages"))
        tools = {
            path
            for path in packages.rglob("*")
            if path.relative_to(packages).parts[0].startswith(("pip", "setuptools"))
        }
        megabytes = (
            sum(path.stat().st_size for path in packages.rglob("*") if path.is_file() and path not in tools) / 1e6
        )
        result = {
            "date": date.today().isoformat(),
            "machine": f"{platform.machine()}, one core",
            "install_megabytes": round(megabytes, 1),
            "exports": {
                export.parent.name or str(export): _measured(python, export, posts) for export in options.exports
            },
        }
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _measured(python: Path, export: Path, posts: list[dict]) -> dict:
    cold, warm, memory = [], [], []
    for number in range(ROUNDS):
        start = time.perf_counter()
        child = subprocess.Popen([python, "-c", CHILD, export, json.dumps(posts)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        child.stdout.readline()
        first = time.perf_counter() - start
        times, size, heavy = json.loads(child.stdout.read())
        assert child.wait() == 0
        assert not heavy
        if number:
            cold.append(first)
            warm += times
            memory.append(size)
    return {
        "files_megabytes": round(sum(path.stat().st_size for path in export.rglob("*")) / 1e6, 1),
        "first_answer_seconds": round(statistics.median(cold), 2),
        "further_answer_milliseconds": round(statistics.median(warm), 1),
        "further_answer_milliseconds_p95": round(sorted(warm)[int(0.95 * len(warm))], 1),
        "memory_megabytes": round(statistics.median(memory)),
    }


if __name__ == "__main__":
    main()
