"""Predictions of very many posts, with memory, kills and every row counted.

    python benchmarks/batch.py --rows 1000000 --ray-rows 100000 --out /somewhere --json docs/results/batch.json

Generated posts with images of 48 x 48 pixels (2,000 files, used again and again) and the demo's small model. `clfa predict`
of one process is killed (SIGKILL) at random moments and begun again until it ends; so is the driver of `--engine ray`, and
now and then one of its workers. At the end each row is there once. Memory is the resident set of the process (with ray: of
each of its workers) when a tenth of the rows is done, and at the end; the table it reads and writes is CSV.
"""

import argparse
import csv
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
import psutil

from clfa.data.congruity import posts as drawn
from clfa.studies.demo import run_config, write_encoders, write_posts

IMAGES = 2_000
KILLS = {"plain": 5, "ray": 2}
WORKER_KILLS = 2
SHARD = 4_096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--ray-rows", type=int, default=100_000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    prepare(options.out)
    found = {"date": date.today().isoformat(), "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    for engine, rows in (("plain", options.rows), ("ray", options.ray_rows)):
        if rows:
            found[engine] = measure(options.out, engine, rows)
            print(json.dumps(found[engine]), flush=True)
            if options.json:
                options.json.write_text(json.dumps(found, indent=1) + "\n")


def prepare(out: Path) -> None:
    """Images, and a model that is trained for an epoch."""
    from dataclasses import replace

    from clfa.training.train import train

    if (out / "run" / "metrics.json").exists():
        return
    write_encoders(out / "encoders")
    write_posts(out / "data", 400)
    config = run_config(out)
    loss, settings = replace(config.loss, alignment_weight=0.0), replace(config.train, epochs=1)
    train(replace(config, output=str(out / "run"), teacher=None, loss=loss, train=settings), resume=True)
    (out / "images").mkdir(exist_ok=True)
    with open(out / "texts.txt", "w", encoding="utf-8") as texts:
        for number, post in enumerate(drawn(IMAGES, 5)):
            post["image"].resize((48, 48)).save(out / "images" / f"{number}.png")
            texts.write(post["text"] + "\n")


def measure(out: Path, engine: str, rows: int) -> dict:
    """Write the table, predict it through all kills, and look at what is there."""
    source, output = out / f"{engine}.csv", out / f"{engine}-predicted.csv"
    texts = (out / "texts.txt").read_text(encoding="utf-8").splitlines()
    with open(source, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "image"])
        for number in range(rows):
            writer.writerow(
                [number, texts[number * 7 % IMAGES], f"images/{number % IMAGES}.png" if number % 10 else ""]
            )
    output.unlink(missing_ok=True)
    shutil.rmtree(output.with_name(output.name + ".shards"), ignore_errors=True)
    generator = np.random.default_rng(0)
    shards = -(-rows // SHARD)
    moments = sorted(generator.uniform(0.05, 0.9, KILLS[engine]) * shards)
    workers = sorted(generator.uniform(0.1, 0.95, WORKER_KILLS) * shards) if engine == "ray" else []
    began, killed, memory, starts = time.monotonic(), {"driver": 0, "worker": 0}, {}, 0
    command = [sys.executable, "-m", "clfa", "predict", out / "run", "--input", source, "--output", output]
    command += ["--on-bad", "mask", "--engine", engine]
    while True:
        starts += 1
        with open(out / "said.txt", "w") as said:
            child = subprocess.Popen(list(map(str, command)), stderr=said, stdout=subprocess.DEVNULL)
            code = watch(child, output, engine, moments, workers, killed, memory, shards)
        if code == 0:
            break
        assert code == -9, (out / "said.txt").read_text()[-2_000:]
    seconds = time.monotonic() - began
    return {
        "rows": rows,
        "rows_once_in_order": in_order(output, rows),
        "killed": killed,
        "starts": starts,
        "seconds": round(seconds),
        "posts_a_second": round(rows / seconds),
        "memory_mb_at_a_tenth": memory["tenth"],
        "memory_mb_at_the_end": memory["end"],
    }


def watch(child, output, engine, moments, workers, killed, memory, shards) -> int:
    """Until it ends or is killed; its exit code."""
    folder, process = output.with_name(output.name + ".shards"), psutil.Process(child.pid)
    while child.poll() is None:
        time.sleep(0.2)
        done = len(list(folder.glob("*.json"))) - 1 if folder.is_dir() else 0
        try:
            resident = resident_mb(process, engine)
        except psutil.NoSuchProcess:
            continue
        if resident and done >= shards / 10:
            memory.setdefault("tenth", resident)
            memory["end"] = resident
        if workers and done >= workers[0] and (own := workers_of(process)):
            own[0].kill()
            workers.pop(0)
            killed["worker"] += 1
        if moments and done >= moments[0]:
            child.kill()
            moments.pop(0)
            killed["driver"] += 1
    return child.wait()


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    return [one for one in process.children(recursive=True) if "_Worker" in " ".join(one.cmdline())]


def resident_mb(process: psutil.Process, engine: str) -> float:
    """Of the process, or with ray of its largest worker; 0 while there is none."""
    each = [process] if engine == "plain" else workers_of(process)
    return round(max((one.memory_info().rss / 1e6 for one in each), default=0.0), 1)


def in_order(output: Path, rows: int) -> bool:
    """Whether the ids are 0, 1, 2 …, and each row has an answer."""
    with open(output, encoding="utf-8", newline="") as file:
        found = 0
        for row in csv.DictReader(file):
            if row["id"] != str(found) or not row["predicted"]:
                return False
            found += 1
    return found == rows


if __name__ == "__main__":
    main()
