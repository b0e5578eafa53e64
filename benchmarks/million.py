"""A table that does not fit into memory: imported, cached, trained with frozen encoders and with one that is not, predicted.

    OMP_NUM_THREADS=1 python benchmarks/million.py --out /somewhere/with/12/GB --json docs/results/million.json

Generated posts in a Parquet file, with images of 24 x 24 pixels inside, all different, and the small encoders of the demo.
Each step is a process of its own; its peak is the largest resident set that the kernel has seen (`ru_maxrss`), the median
of `--rounds`; what is done is not repeated. Goal (P6): at most a tenth more memory with 1,000,000 posts than with 10,000,
and at most 10 KiB a post in all.
"""

import argparse
import io
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

GROUP = 2_000
TRAIN = (
    "import sys; from clfa.config import RunConfig, build_config, read_yaml; from clfa import train; "
    "train(build_config(RunConfig, read_yaml(sys.argv[1])))"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", nargs="+", choices=list(MADE), default=list(MADE), help="those that are done")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    run("encoders", [sys.executable, "-c", ENCODERS, options.out / "encoders"])
    found = json.loads(options.json.read_text()) if options.json.is_file() else {"steps": {}}
    found |= {"date": date.today().isoformat(), "machine": f"{platform.machine()}, one of {os.cpu_count()} cores"}
    for rows in options.rows:
        done = found["steps"].setdefault(str(rows), {})
        for step, command in steps(options.out / str(rows), options.out / "encoders", rows).items():
            while step in options.steps and len(peaks := done.get(step, {}).get("peaks_mb", [])) < options.rounds:
                for name in MADE[step]:
                    shutil.rmtree(options.out / str(rows) / name, ignore_errors=True)
                one = run(step, command)
                peaks = sorted([*peaks, one["peak_mb"]])
                done[step] = one | {"peak_mb": round(statistics.median(peaks)), "peaks_mb": peaks}
                options.json.write_text(json.dumps(found, indent=1) + "\n")
                print(rows, step, json.dumps(done[step]), flush=True)


MADE = {
    "import": ["data"],
    "cache": ["data/features", "data/keys"],
    "train, encoders frozen": ["frozen"],
    "train, text encoder too": ["text", "data/inputs"],
    "predict": ["predicted.parquet.shards"],
}
"""Folders of each step, without which it begins anew; `predict` writes its file anew anyway."""
ENCODERS = "import sys, pathlib, clfa.studies.demo as demo; demo.write_encoders(pathlib.Path(sys.argv[1]))"


def steps(folder: Path, encoders: Path, rows: int) -> dict[str, list]:
    """Name -> command of each step."""
    folder.mkdir(exist_ok=True)
    if not (folder / "posts.parquet").is_file():
        write_posts(folder / "posts.parquet", rows)
    clfa, python = [sys.executable, "-m", "clfa"], [sys.executable, "-c", TRAIN]
    for name, frozen in (("frozen", True), ("text", False)):
        (folder / f"{name}.yaml").write_text(json.dumps(run_config(folder, encoders, name, frozen)))
    predict = [
        "predict",
        folder / "frozen",
        "--input",
        folder / "posts.parquet",
        "--output",
        folder / "predicted.parquet",
    ]
    return {
        "import": [*clfa, "import", "table", folder / "posts.parquet", "--out", folder / "data"],
        "cache": [*clfa, "cache", "--config", folder / "frozen.yaml"],
        "train, encoders frozen": [*python, folder / "frozen.yaml"],
        "train, text encoder too": [*python, folder / "text.yaml"],
        "predict": [*clfa, *predict],
    }


def run_config(folder: Path, encoders: Path, name: str, frozen: bool) -> dict:
    of_both = {"pretrained": False, "max_length": 32, "averaged": True}
    return {
        "data": {"path": str(folder / "data")},
        "output": str(folder / name),
        "model": {
            "modalities": {
                "text": {"kind": "text", "encoder": str(encoders / "text"), "frozen": frozen, **of_both},
                "image": {"kind": "image", "encoder": str(encoders / "image"), "frozen": True, **of_both},
            },
            "dim": 64,
            "projection_hidden": 64,
            "fusion": {"name": "concat"},
        },
        "loss": {"alignment_weight": 0},
        "train": {"epochs": 1, "batch_size": 256, "head_learning_rate": 1e-3},
    }


def run(step: str, command: list) -> dict[str, float]:
    """Peak resident set in MB, wall and CPU seconds of one process."""
    started = time.monotonic()
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{step} failed")
    return {
        "peak_mb": round(usage.ru_maxrss / 1_000),
        "seconds": round(time.monotonic() - started),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime),
    }


def write_posts(path: Path, rows: int) -> None:
    """Comments of the generated set, and a drawing of noise of each post's own."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    from clfa.data.congruity import TONES, TOPICS, comment

    generator = np.random.default_rng(0)
    schema = pa.schema([("id", pa.string()), ("text", pa.string()), ("image", pa.binary()), ("label", pa.string())])
    with pq.ParquetWriter(path.with_suffix(".partial"), schema) as writer:
        for start in range(0, rows, GROUP):
            columns: dict[str, list] = {name: [] for name in schema.names}
            for number in range(start, min(rows, start + GROUP)):
                buffer = io.BytesIO()
                Image.fromarray(generator.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(
                    buffer, "PNG", compress_level=1
                )
                tone = number % 2
                values = (
                    str(number),
                    comment(TOPICS[number % 5], TONES[tone], generator),
                    buffer.getvalue(),
                    ["no", "yes"][tone],
                )
                for name, value in zip(columns, values):
                    columns[name].append(value)
            writer.write_table(pa.table(columns, schema))
    path.with_suffix(".partial").rename(path)


if __name__ == "__main__":
    main()
