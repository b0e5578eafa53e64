"""Many runs, and one table."""

import logging
from pathlib import Path
from typing import Literal

import clfa
from clfa.config import SweepConfig

log = logging.getLogger(__name__)


def sweep(config: SweepConfig) -> object:
    """Train several systems with several seeds or folds under one trainer; finished runs are kept.

    Examples:
        clfa sweep --config configs/mvsa_single/table.yaml --seeds 5
        clfa sweep --config configs/mvsa_single/folds.yaml --folds 5 --seeds 1
        clfa sweep --config configs/mvsa_single/table.yaml --engine ray
    """
    result = clfa.sweep(config)
    if result.systems:  # the first process of torchrun
        log.info("wrote %s/sweep.json, table.md, .csv, .tex and .html", config.output)
    return result


def reproduce(
    table: Literal["mmsd", "mmsd2", "mvsa", "mvsa_multiple"],
    *,
    dataset: str | None = None,
    out: str | None = None,
    configs: str | None = None,
    systems: str = "all",
    seeds: int = 5,
    jobs: int = 1,
    tiny: bool = False,
    engine: Literal["plain", "ray"] = "plain",
) -> object:
    """Train every system of the paper's table and set it beside the published figures, with a verdict for each row.

    Rows that cannot be run say why (no images, an encoder that is not here); rows with stand-ins are marked. Finished runs
    are kept, so the command goes on where it stopped.

    Args:
        table: Which table; mvsa is MVSA-Single.
        dataset: Dataset directory; data/mmsd, data/mmsd2, data/mvsa_single or data/mvsa_multiple by default.
        out: Folder for runs, reproduce.json and table.md, .csv, .tex, .html; runs/reproduce/TABLE by default.
        configs: Folder of YAML files that replace those of src/clfa/systems by the same names (other encoders).
        systems: `all`, or names with commas; the rows of other systems that are in OUT already stay in the table.
        seeds: Seeds of each system; a verdict needs three.
        jobs: Runs at the same time.
        tiny: Random tiny models on generated posts: shows in minutes that every system runs.
        engine: `ray` trains on the cluster of RAY_ADDRESS, or on the cores of this machine where there is none.

    Examples:
        clfa reproduce mmsd --tiny --seeds 1 --out runs/tiny
        clfa reproduce mmsd --systems bilstm
        clfa reproduce mmsd --systems bert --configs configs/laptop --seeds 1
        clfa reproduce mvsa --dataset data/mvsa_single --seeds 3
        torchrun --standalone --nproc_per_node 4 -m clfa reproduce mmsd
    """
    from clfa.studies.reproduce import reproduce as reproduce_table

    folder = Path(out or f"runs/reproduce/{table}{'_tiny' if tiny else ''}")
    result = reproduce_table(table, dataset, folder, configs, systems, seeds, jobs, tiny, engine)
    if result.rows:  # the first process of torchrun
        log.info("wrote %s/reproduce.json, table.md, .csv, .tex and .html", folder)
    return result


def bench(
    *,
    suite: Literal["train", "infer", "teacher", "image", "loss", "curves"],
    rounds: int = 5,
    threads: int = 1,
    layers: int = 12,
    reference: str | None = None,
    out: str | None = None,
) -> object:
    """Measure speed on this machine, as ratios within one run.

    Training and inference of the paper's full-size model (random weights) are set beside the loop of Hugging Face models
    that one writes first; the parts beside simpler ways.

    Args:
        suite: What to measure; `train` takes about a minute a round. `curves` are milliseconds a step, by its size.
        rounds: How often each way is measured, in turns.
        threads: Threads of PyTorch and ONNX Runtime.
        layers: Layers of each encoder; 12 are the paper's, fewer are quicker.
        reference: Folder with other code to time in `train`: its step.py has a function step(texts, images, labels) that
            trains once on these texts, RGB images and class numbers.
        out: Markdown file to write.

    Examples:
        clfa bench --suite train --rounds 3 --json
        clfa bench --suite infer --layers 2 --out infer.md
    """
    from clfa.studies.bench import bench as measure

    result = measure(suite, rounds, threads, layers, reference)
    command = f"clfa bench --suite {suite} --rounds {rounds} --threads {threads} --layers {layers}"
    if out:
        Path(out).write_text(f"# {suite}\n\n`{command}`\n\n{result}\n", encoding="utf-8")
        log.info("wrote %s", out)
    return result


def demo(*, out: str = "runs/demo", seeds: int = 3, posts: int = 400) -> object:
    """The main job on a generated data set, without network: floors, no alignment, CLFA, over seeds.

    Args:
        out: Folder to write: results.json, report.html and all run directories.
        seeds: Seeds of each system.
        posts: Labelled posts to train on.

    Examples:
        clfa demo --out runs/demo
    """
    from clfa.studies.demo import demo as run_demo

    return run_demo(Path(out), seeds, posts)
