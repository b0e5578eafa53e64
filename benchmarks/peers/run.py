"""clfa beside AutoGluon MultiModal and Ludwig: the same posts, the same encoders, the same epochs, one run after the other.

    python benchmarks/peers/prepare.py --image ../shared/models/efficientnet_lite2 --mvsa data/mvsa_single --out TABLES
    python3 -m venv AUTOGLUON && AUTOGLUON/bin/pip install autogluon.multimodal==1.6.3 'torch<2.13'
    python3.12 -m venv LUDWIG && LUDWIG/bin/pip install ludwig==0.17.10 timm
    python3 -m venv CLFA && CLFA/bin/pip install -c constraints.txt '.[train]'
    taskset -c 1 python benchmarks/peers/run.py --tables TABLES --clfa CLFA --autogluon AUTOGLUON --ludwig LUDWIG --out OUT

An environment that is not named is not run, and the report says so. Results that lie in OUT are kept, so a stopped
comparison goes on; with `--report-only` nothing is run. The systems take turns, seed by seed, in another order each time, so
that what else the machine does hits all alike. Needs the standard library alone, and no network (`HF_HUB_OFFLINE=1`).
"""

import argparse
import csv
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from datetime import date
from pathlib import Path

import measure

HERE = Path(__file__).parent
SYSTEMS = {
    "clfa_train": ("clfa", "clfa_peer.py", "train", "clfa train"),
    "clfa_fit": ("clfa", "clfa_peer.py", "fit", "clfa fit"),
    "autogluon": ("autogluon", "autogluon_peer.py", "autogluon_peer", "AutoGluon MultiModal"),
    "ludwig": ("ludwig", "ludwig_peer.py", "ludwig_peer", "Ludwig"),
}
"""Name -> environment, script, mark of its user code, name in the report."""
TABLES = {"generated": "Generated posts (`clfa demo`)", "mvsa": "MVSA-Single, some training posts of a published fold"}
PACKAGES = {"clfa": "clfa", "autogluon": "autogluon.multimodal", "ludwig": "ludwig"}
HEAVY = ("torch", "nvidia", "triton", "functorch", "cuda", "torchgen")
"""Folders of PyTorch and its CUDA libraries, which depend on the build that was chosen, not on the system."""
INSIDE = """
import importlib.metadata as m, json, platform, sys
names = sys.argv[1:]
print(json.dumps({"python": platform.python_version(), "packages": len({d.name for d in m.distributions()}),
    **{name: m.version(name) for name in names}}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, required=True, help="folder that prepare.py has written")
    for name in PACKAGES:
        parser.add_argument(f"--{name}", type=Path, help=f"environment with {PACKAGES[name]}")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=2.0, help="of `clfa fit`")
    parser.add_argument("--timeout", type=float, default=1_200, help="seconds after which a run is ended")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--report", type=Path, help="by default peers_N_cores_DATE.md beside this script")
    parser.add_argument("--report-only", action="store_true")
    parser.add_argument("--note", action="append", default=[], help="a sentence for the report; may be repeated")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    tables = [name for name in TABLES if (options.tables / name / "posts.csv").is_file()]
    write_about(options, tables)
    for seed in [] if options.report_only else range(options.seeds):
        for place, table in enumerate(reversed(tables)):
            names = list(SYSTEMS)
            shift = (seed + place) % len(names)
            for name in names[shift:] + names[:shift]:
                if getattr(options, SYSTEMS[name][0]):
                    run(options, table, name, seed)
                    write_report(options, tables)
    write_report(options, tables)


def run(options: argparse.Namespace, table: str, name: str, seed: int) -> None:
    """One run of one system, unless it is there already: OUT/TABLE/NAME-SEED.json, and the log beside it."""
    out = options.out.resolve() / table / f"{name}-{seed}.json"
    if out.is_file():
        return
    out.parent.mkdir(exist_ok=True)
    environment, script, way, _ = SYSTEMS[name]
    encoders = options.tables.resolve() / "encoders"
    work = out.with_suffix("")
    shutil.rmtree(work, ignore_errors=True)
    python = getattr(options, environment).absolute() / "bin" / "python"
    image = encoders / ("image" if environment == "clfa" else "image_timm")
    command = [
        python,
        HERE.resolve() / script,
        "--text",
        encoders / "text",
        "--image",
        image,
        "--epochs",
        options.epochs,
    ]
    command += ["--batch", options.batch, "--seed", seed, "--work", work, "--out", out]
    command += ["--way", way, "--minutes", options.minutes] if environment == "clfa" else []
    print(time.strftime("%H:%M:%S"), table, name, seed, flush=True)
    busy = busy_seconds()
    with out.with_suffix(".log").open("w") as log:
        process = subprocess.Popen(
            list(map(str, command)),
            cwd=options.tables / table,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONNOUSERSITE": "1"},
            start_new_session=True,
        )
        try:
            code = process.wait(options.timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
    busy = busy_seconds() - busy
    found = (
        json.loads(out.read_text()) if out.is_file() else {"error": last_lines(out.with_suffix(".log")), "code": code}
    )
    found["machine_cpu_seconds"] = busy
    out.write_text(json.dumps(found, indent=1))
    shutil.rmtree(work, ignore_errors=True)
    print(json.dumps(found), flush=True)


def busy_seconds() -> float:
    """CPU seconds of all processes since the machine was started."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return sum(int(fields[place]) for place in (0, 1, 2, 5, 6)) / os.sysconf("SC_CLK_TCK")


def last_lines(path: Path, count: int = 5) -> str:
    """The end of a log."""
    return "\n".join(path.read_text(errors="replace").strip().splitlines()[-count:])[-1_000:]


def write_about(options: argparse.Namespace, tables: list[str]) -> None:
    """OUT/about.json: the machine, the environments, the settings and the posts; kept if it is there already."""
    path = options.out / "about.json"
    about = json.loads(path.read_text()) if path.is_file() else {}
    about.setdefault("date", date.today().isoformat())
    about.setdefault("machine", machine())
    about.setdefault("settings", {name: getattr(options, name) for name in ("epochs", "batch", "minutes")})
    about.setdefault("posts", {name: posts(options.tables / name / "posts.csv") for name in tables})
    about["notes"] = list(dict.fromkeys([*about.get("notes", []), *options.note]))
    known = about.setdefault("environments", {})
    for name in PACKAGES:
        if getattr(options, name) and name not in known:
            known[name] = environment(getattr(options, name), PACKAGES[name])
    path.write_text(json.dumps(about, indent=1))


def machine() -> dict:
    """Processor, cores and memory."""
    info = Path("/proc/cpuinfo").read_text()
    names = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "used": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.platform(),
    }


def environment(folder: Path, package: str) -> dict:
    """Versions and size on disk, all of it and without PyTorch and CUDA."""
    names = [package, "torch", "transformers"]
    made = subprocess.run([folder / "bin" / "python", "-c", INSIDE, *names], check=True, capture_output=True, text=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    heavy = [one for one in packages.iterdir() if one.name.split("-")[0] in HEAVY]
    found = json.loads(made.stdout)
    return {
        **{name: found[name] for name in ("python", "packages", "torch", "transformers")},
        "version": found[package],
        "bytes": size(folder),
        "bytes_without_torch": size(folder) - sum(map(size, heavy)),
    }


def size(path: Path) -> int:
    """Bytes on disk, as `du` counts them."""
    return 1024 * int(subprocess.run(["du", "-sk", path], check=True, capture_output=True, text=True).stdout.split()[0])


def posts(path: Path) -> dict[str, dict[str, int]]:
    """Split -> class -> number of posts."""
    found: dict[str, Counter] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["split"], Counter())[row["label"]] += 1
    return {split: dict(counts) for split, counts in found.items()}


def write_report(options: argparse.Namespace, tables: list[str]) -> None:
    """The report from what lies in OUT."""
    about = json.loads((options.out / "about.json").read_text())
    made, settings = about["machine"], about["settings"]
    path = options.report or HERE / f"peers_{made['cores']}_cores_{about['date']}.md"
    lines = [
        "# clfa beside AutoGluon MultiModal and Ludwig",
        "",
        f"Generated by `python benchmarks/peers/run.py` on {about['date']}. Each system reads the same table, fine-tunes",
        f"MiniLM and EfficientNet-Lite2 (images at 96 x 96) for {settings['epochs']} epochs in batches of",
        f"{settings['batch']}, and predicts the test split; `clfa fit` decides itself in {settings['minutes']:g} minutes.",
        f"Machine: {made['processor']}, {made['cores']} cores, {made['memory_gib']} GiB, no GPU; each run had",
        f"{made['used']} core, shared with other work: {others(options, about, tables)}",
        "Wall and CPU seconds are from the start of the process to the last prediction: imports, reading the table,",
        "training, validation and, for clfa, its evaluation with floors and report.",
        "Memory is the peak of the largest process. ± is the standard deviation over runs.",
    ]
    for table in tables:
        lines += table_lines(options, about, table)
    lines += environment_lines(about)
    lines += ["", "## What is not alike", "", *DIFFERENCES, *(f"- {note}" for note in about["notes"])]
    lines += failed_lines(options, about, tables)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def others(options: argparse.Namespace, about: dict, tables: list[str]) -> str:
    """How busy the machine was with something else."""
    runs = [one for table in tables for name in SYSTEMS for one in results(options, table, name) if "error" not in one]
    if not runs:
        return "nothing was run yet."
    wall, own, all_of_it = (
        sum(one[key] for one in runs) for key in ("wall_seconds", "cpu_seconds", "machine_cpu_seconds")
    )
    share = 100 * (all_of_it - own) / (wall * about["machine"]["cores"])
    return f"{share:.0f} % of the machine's time. So CPU seconds say more than wall seconds."


DIFFERENCES = [
    "- All share weights, splits, epochs, batch size, and the mean of the token states, for which MiniLM was trained (the",
    "  default is the first token in AutoGluon, the sum in Ludwig). The learning rate of the encoders is 1e-4, AutoGluon's",
    "  default, with warm-up and decay; that of the heads, too, but for clfa's, 1e-3. AutoGluon and clfa lower it from",
    "  layer to layer.",
    "- AutoGluon augments the images (TrivialAugment), validates twice an epoch, and averages the weights of its best",
    "  checkpoints; Ludwig standardises images by ImageNet's mean. These are their defaults.",
    "- The copy of EfficientNet that clfa reads has a batch norm momentum of 0.1, as timm's. transformers would read the",
    "  0.99 of the published configuration, meant for TensorFlow, as the share of the newest batch.",
    "- `clfa train` keeps the epoch with the best NLL on validation, Ludwig and AutoGluon that with their own metrics.",
    "- `clfa fit` chooses out of fold, by macro F1, on train and validation together, and is fitted on both: it learns from",
    "  more posts than the others. It has no seed: its runs differ by what the minutes hold.",
    "- PyTorch is the CPU build for clfa and a CUDA build for the others: they need torchvision, which cannot be",
    "  imported beside the CPU build on this machine. So sizes are also given without PyTorch and CUDA.",
    "- In the generated posts text and image are each at chance alone and must be compared. `clfa demo` trains on them",
    "  with a teacher from captioned drawings; no system has one here.",
    "- With so few seeds, differences of accuracy between systems are not tested.",
]


def table_lines(options: argparse.Namespace, about: dict, table: str) -> list[str]:
    """A table of posts: one row for each system."""
    counts = about["posts"][table]
    test = counts["test"]
    floor = max(test.values()) / sum(test.values())
    split = ", ".join(f"{sum(classes.values()):,} {name}" for name, classes in counts.items())
    lines = ["", f"## {TABLES[table]}: {split}, {len(test)} classes", ""]
    lines += [
        "| system | runs | wall, s | CPU, s | memory, GB | accuracy, % | macro F1, % |",
        "|---|---|---|---|---|---|---|",
    ]
    f1 = 100 * 2 * floor / (1 + floor) / len(test)
    lines.append(f"| majority class | | | | | {100 * floor:.1f} | {f1:.1f} |")
    for name, (*_, title) in SYSTEMS.items():
        found = [one for one in results(options, table, name) if "error" not in one]
        if found:
            cells = [
                spread([one["wall_seconds"] for one in found], 0),
                spread([one["cpu_seconds"] for one in found], 0),
                spread([one["peak_bytes"] / 1e9 for one in found], 2),
                spread([100 * one["accuracy"] for one in found], 1),
                spread([100 * one["macro_f1"] for one in found], 1),
            ]
            lines.append(f"| {title} | {len(found)} | {' | '.join(cells)} |")
    return lines


def environment_lines(about: dict) -> list[str]:
    """What each environment weighs, and how much a user writes."""
    lines = ["", "## What is installed and written", ""]
    lines += [
        "| system | version | Python | PyTorch | transformers | packages | size, GB | without PyTorch, GB | lines written |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, script, mark, title in SYSTEMS.values():
        if name in about["environments"]:
            known = about["environments"][name]
            cells = [known[key] for key in ("version", "python", "torch", "transformers", "packages")]
            cells += [f"{known[key] / 1e9:.1f}" for key in ("bytes", "bytes_without_torch")]
            written = measure.user_lines(HERE / script)[mark]
            lines.append(f"| {title} | {' | '.join(map(str, cells))} | {written} |")
    return lines


def failed_lines(options: argparse.Namespace, about: dict, tables: list[str]) -> list[str]:
    """What was not run, and why."""
    lines = []
    for name, (needed, _, _, title) in SYSTEMS.items():
        if needed not in about["environments"]:
            lines.append(f"- {title}: no environment was given")
        for table in tables:
            found = results(options, table, name)
            if needed in about["environments"] and len(found) < options.seeds:
                lines.append(f"- {title}, {table}: {len(found)} of {options.seeds} runs, for lack of time")
            for one in found:
                if "error" in one:
                    lines += [f"- {title}, {table}: exit status {one['code']}", "", "```", one["error"], "```", ""]
    return ["", "## What could not be run", "", *(lines or ["Nothing: all runs ended and predicted each test post."])]


def results(options: argparse.Namespace, table: str, name: str) -> list[dict]:
    """The results of a system, by seed."""
    return [json.loads(path.read_text()) for path in sorted((options.out / table).glob(f"{name}-*.json"))]


def spread(values: list[float], digits: int) -> str:
    """`mean ± standard deviation`."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else mean


if __name__ == "__main__":
    sys.exit(main())
