"""Peak memory of import, cache, train (frozen, also with a graph of words), evaluate and predict, by the number of posts.

    python benchmarks/memory.py --rows 2000 10000 50000 --out /somewhere/with/6/GB

Generated posts with images of about 30 KB and the small untrained encoders of the demo, frozen. Each step is a command of
its own; its peak is the largest resident set that the kernel has seen (`ru_maxrss`), everything included. Printed is a
table, kept are the figures in OUT/memory.json. Goal: from the fewest to the most posts at most 10 % more, and an index of
at most 200 bytes a post. `train` also evaluates on validation, with floors and a report, as the command does.
"""

import argparse
import csv
import io
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

STEPS = ("import", "cache and train", "train", "train with a word graph", "evaluate", "predict")
WORD_GRAPH = ("--model.modalities.text.graph", "window", "--model.fusion.name", "cmgcn")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[2_000, 10_000, 50_000])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    write_encoders(options.out / "encoders")
    found = {}
    for rows in options.rows:
        found[rows] = measure(rows, options.out)
        (options.out / "memory.json").write_text(json.dumps(found, indent=1))
        print(table(found), flush=True)


def measure(rows: int, out: Path) -> dict[str, dict[str, float]]:
    """Step -> peak in bytes and seconds, for this many posts. Files of the posts are removed afterwards."""
    folder = out / str(rows)
    shutil.rmtree(folder, ignore_errors=True)
    write_posts(folder, rows)
    config = folder / "run.yaml"
    config.write_text(json.dumps(run_config(folder, out / "encoders")))
    commands = {
        "import": ["import", "table", folder / "posts.csv", "--out", folder / "data"],
        "cache and train": ["train", "--config", config, "--output", folder / "first"],
        "train": ["train", "--config", config, "--output", folder / "second"],
        "train with a word graph": ["train", "--config", config, "--output", folder / "third", *WORD_GRAPH],
        "evaluate": ["evaluate", folder / "second", "--split", "test"],
        "predict": ["predict", folder / "second", "--input", folder / "posts.csv", "--output", folder / "out.csv"],
    }
    found = {step: run(list(map(str, command))) for step, command in commands.items()}
    shutil.rmtree(folder)
    return found


def run(command: list[str]) -> dict[str, float]:
    """Peak resident set in bytes and wall seconds of one `clfa` command."""
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "clfa", *command, "--json"], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"clfa {' '.join(command)} failed")
    return {"peak": usage.ru_maxrss * 1024, "seconds": round(time.monotonic() - started, 1)}


def table(found: dict[int, dict[str, dict[str, float]]]) -> str:
    """Markdown: a step a row, a size a column, then growth against the goal."""
    sizes = sorted(found)
    lines = ["| step | " + " | ".join(f"{size:,} posts" for size in sizes) + " | growth | allowed |"]
    lines.append("|---|" + "---|" * (len(sizes) + 2))
    for step in STEPS:
        peaks = [found[size][step]["peak"] for size in sizes]
        cells = [f"{peak / 1e6:.0f} MB, {found[size][step]['seconds']:.0f} s" for size, peak in zip(sizes, peaks)]
        allowed = 0.1 * peaks[0] + 200 * (sizes[-1] - sizes[0])
        lines.append(
            f"| {step} | {' | '.join(cells)} | {(peaks[-1] - peaks[0]) / 1e6:+.0f} MB | {allowed / 1e6:.0f} MB |"
        )
    return "\n".join(lines)


def run_config(folder: Path, encoders: Path) -> dict:
    modalities = {
        kind: {"kind": kind, "encoder": str(encoders / kind), "pretrained": False, "frozen": True, "max_length": 32}
        for kind in ("text", "image")
    }
    return {
        "data": {"path": str(folder / "data")},
        "output": str(folder / "run"),
        "model": {
            "modalities": modalities,
            "dim": 64,
            "projection_hidden": 64,
            "fusion": {"layers": 1, "heads": 4, "feedforward": 64},
        },
        "loss": {"alignment_weight": 0},
        "train": {"epochs": 1, "batch_size": 64, "head_learning_rate": 1e-3},
    }


def write_encoders(folder: Path) -> None:
    """In a process of its own: a process forked from one that holds torch would begin with its peak."""
    code = "import sys, pathlib, clfa.studies.demo as demo; demo.write_encoders(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)


def write_posts(folder: Path, rows: int) -> None:
    """`posts.csv` with comments of the generated set and noisy JPEGs of about 30 KB, all different."""
    import numpy as np
    from PIL import Image

    from clfa.data.congruity import TONES, TOPICS, comment

    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    with open(folder / "posts.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "image", "label"])
        for number in range(rows):
            place = folder / "images" / f"{number // 1000}" / f"{number}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            Image.fromarray(generator.integers(0, 256, (180, 180, 3), dtype=np.uint8)).save(buffer, "JPEG", quality=90)
            place.write_bytes(buffer.getvalue())
            text = comment(TOPICS[number % 5], TONES[number % 2], generator)
            writer.writerow([number, text, place.relative_to(folder), ["no", "yes"][number % 2]])


if __name__ == "__main__":
    main()
