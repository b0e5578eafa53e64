"""Several systems under one trainer, several seeds or folds of each -> one table with intervals. Skips finished runs."""

import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clfa.config import RunConfig, SweepConfig, build_config, override, save_config
from clfa.data.records import load_manifest
from clfa.data.splits import load_rows
from clfa.errors import UserError
from clfa.evidence.evaluate import read_table
from clfa.evidence.significance import paired_bootstrap, system_difference
from clfa.fusion import check_fusion
from clfa.metrics import confusion, mcnemar, over_runs, scores
from clfa.report.formats import latex, markdown, score_cell, write_csv

Say = Callable[[str], None]
TABLE_METRICS = ("accuracy", "macro_f1", "weighted_f1")


def sweep(config: SweepConfig, say: Say = print) -> dict[str, Any]:
    """Train and evaluate every system with every seed (and fold); write `sweep.json` and `table.{md,csv,tex}`.

    Run directories are `OUTPUT/<system>/seed-<k>[-fold-<j>]`; finished ones are kept, unfinished ones resumed, so a
    sweep that was stopped goes on when it is started again.

    Args:
        config: what to run.
        say: where progress lines go.

    Returns:
        The content of `sweep.json`: `{"systems": [{"system", "seeds", "accuracy": {"mean", "sd", "ci95", "values"}, …}],
        "differences": […], "split", "folds", "rows"}`. Intervals of scores resample seeds
        and rows; those of differences are `clfa.evidence.significance.system_difference`, paired by seed and row.

    Raises:
        UserError: a system's configuration is wrong (before anything runs), or runs failed (after all others ended).
    """
    output = Path(config.output)
    plan = _plan(config)
    from clfa.training.train import refuse_other_run

    for run in plan:
        refuse_other_run(Path(run.output), run)
    output.mkdir(parents=True, exist_ok=True)
    if is_first_process():
        save_config(config, output / "config.yaml")
    failed = run_all(plan, config.split, config.jobs, say)
    if failed:
        listed = "\n".join(f"{run}: {error}" for run, error in list(failed.items())[:5])
        raise UserError(f"{len(failed)} of {len(plan)} runs failed:\n{listed}")
    if not is_first_process():
        return {"process": int(os.environ["RANK"]), "output": str(output)}
    result = summarise(config)
    (output / "sweep.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    write_tables(result, output)
    return result


def run_all(plan: list[RunConfig], split: str, jobs: int, say: Say) -> dict[str, str]:
    """Train and evaluate runs, several at a time; finished ones are kept, unfinished ones resumed.

    Started by `torchrun` on several machines or devices with a shared file system, each process takes its share of the runs
    (run by run, not within a run) and all wait for each other at the end.

    Args:
        plan: the runs.
        split: to evaluate on.
        jobs: processes at the same time, on each machine.
        say: where progress lines go.

    Returns:
        Output of a run -> why it failed, for those that did.
    """
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    own = plan[rank::processes]  # before finished ones are left out, so that all processes agree on who does what
    todo = [run for run in own if not _is_done(Path(run.output), split)]
    say(f"{len(own)} runs, {len(own) - len(todo)} finished before, {jobs} at a time")
    if processes > 1:
        say(f"process {rank} of {processes}: {len(todo)} runs")
    threads = int(os.environ.get("OMP_NUM_THREADS", 0)) or max(1, (os.cpu_count() or 1) // jobs)
    failed: dict[str, str] = {}
    waiting, deaths = todo, dict.fromkeys((run.output for run in todo), 0)
    while waiting:
        died = _run_some(waiting, split, jobs, threads, failed, say)
        # a process died (killed, out of memory) and took the pool along: the runs that may have been in it are tried once
        # more, all others begin anew
        for run in died[:jobs]:
            deaths[run.output] += 1
            if deaths[run.output] > 1:
                failed[run.output] = "its process was killed twice (out of memory?)"
                say(f"{run.output}: failed, {failed[run.output]}")
        waiting = [run for run in died if run.output not in failed]
    if processes > 1:
        failed = _gather(failed)
    return failed


def _run_some(
    runs: list[RunConfig], split: str, jobs: int, threads: int, failed: dict[str, str], say: Say
) -> list[RunConfig]:
    """Run them in a pool of processes; the runs, in their order, that were lost because a process died."""
    lost: list[RunConfig] = []
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(_run_one, run, split, threads): run for run in runs}
        try:
            for number, future in enumerate(as_completed(futures), 1):
                run = futures[future]
                try:
                    score = future.result()
                    say(f"[{number}/{len(runs)}] {run.output}: {split} macro F1 {100 * score:.1f}")
                except BrokenProcessPool:
                    lost.append(run)
                except Exception as error:  # one run's failure is told at the end, after all others
                    failed[run.output] = str(error) or type(error).__name__
                    say(f"[{number}/{len(runs)}] {run.output}: failed")
        except BaseException:  # interrupted: do not start what waits; what runs can be resumed
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [run for run in runs if run in lost]


def _gather(failed: dict[str, str]) -> dict[str, str]:
    """Wait for all processes of torchrun; what failed in any of them."""
    from datetime import timedelta

    from torch import distributed

    distributed.init_process_group("gloo", timeout=timedelta(days=30))
    everyone: list[dict[str, str]] = [{}] * distributed.get_world_size()
    distributed.all_gather_object(everyone, failed)
    distributed.destroy_process_group()
    return {run: error for each in everyone for run, error in each.items()}


def is_first_process() -> bool:
    """Whether this process writes the tables (the others have trained their share)."""
    return int(os.environ.get("RANK", 0)) == 0


def summarise(config: SweepConfig) -> dict[str, Any]:
    """What the finished runs of a sweep say: each system's scores over seeds, and paired differences."""
    labels = load_manifest(config.run.data.path)["labels"]
    ids, pooled = {}, {}
    for system in config.systems:
        ids[system], *pooled[system] = _pooled(config, system)
    floors, truth = _floors(config, len(labels))
    systems = [
        {"system": name, "seeds": [0], **over_runs(truth, found[None], len(labels))} for name, found in floors.items()
    ]
    systems += [
        {"system": name, "seeds": list(range(config.seeds)), **over_runs(labels_of, found, len(labels))}
        for name, (labels_of, found) in pooled.items()
    ]
    differences = []
    if config.compare_to:
        _, base = pooled[config.compare_to]
        for name, (labels_of, found) in pooled.items():
            if name != config.compare_to:
                if ids[name] != ids[config.compare_to]:
                    raise UserError(
                        f"{name} and {config.compare_to} were evaluated on different posts: nothing to compare"
                    )
                differences.append(_difference(name, config.compare_to, labels_of, found, base, len(labels)))
    return {
        "systems": systems,
        "differences": differences,
        "split": f"{config.folds} folds" if config.folds else config.split,
        "folds": config.folds,
        "rows": len(truth),
    }


def write_tables(result: dict[str, Any], output: Path) -> None:
    """`table.md`, `table.csv` and `table.tex` from the content of `sweep.json`."""
    head = ["system", "seeds", *(f"{name}{part}" for name in TABLE_METRICS for part in ("", " sd", " low", " high"))]
    rows = []
    for system in result["systems"]:
        cells = [system["system"], len(system["seeds"])]
        for name in TABLE_METRICS:
            found = system[name]
            cells += [f"{100 * value:.2f}" for value in (found["mean"], found["sd"], *found["ci95"])]
        rows.append(cells)
    write_csv([head, *rows], output / "table.csv")
    short = [["system", "seeds", *(name.replace("_", " ").replace("f1", "F1") for name in TABLE_METRICS)]]
    for system in result["systems"]:
        short.append([system["system"], str(len(system["seeds"])), *(score_cell(system[n]) for n in TABLE_METRICS)])
    (output / "table.md").write_text(markdown(short) + "\n", encoding="utf-8")
    (output / "table.tex").write_text(latex(short) + "\n", encoding="utf-8")


def _plan(config: SweepConfig) -> list[RunConfig]:
    if config.compare_to and config.compare_to not in config.systems:
        raise UserError(f"compare_to = {config.compare_to!r} is not among the systems {', '.join(config.systems)}")
    runs = []
    for seed in range(config.seeds):
        for system, changes in config.systems.items():
            for fold in range(max(1, config.folds)):
                own = {"seed": seed, "output": str(_folder(config, system, seed, fold))}
                if config.folds:
                    own |= {"data.folds": config.folds, "data.fold": fold}
                try:
                    runs.append(build_config(RunConfig, override(asdict(config.run), changes | own)))
                    check_fusion(runs[-1].model.fusion.name)
                except UserError as error:
                    raise UserError(f"system {system!r}: {error}") from None
    return runs


def _folder(config: SweepConfig, system: str, seed: int, fold: int) -> Path:
    name = f"seed-{seed}-fold-{fold}" if config.folds else f"seed-{seed}"
    return Path(config.output) / system / name


def _is_done(run: Path, split: str) -> bool:
    return (run / "metrics.json").is_file() and (run / "predictions" / f"{split}.parquet").is_file()


def _run_one(config: RunConfig, split: str, threads: int) -> float:
    # a run is for itself, on the device of its process: accelerate must not take it for a part of a larger one
    if "LOCAL_RANK" in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = own_device(os.environ)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
    import torch

    from clfa.evidence.evaluate import evaluate
    from clfa.training.train import train

    torch.set_num_threads(threads)
    run = train(config, resume=True, say=_silent)
    return evaluate(run, split, report=False, say=_silent)["metrics"]["macro_f1"]["value"]


def own_device(environment: Mapping[str, str]) -> str:
    """The one of the visible devices that this process of torchrun takes."""
    rank = int(environment["LOCAL_RANK"])
    visible = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return visible[rank % len(visible)] if visible else str(rank)


def _silent(line: str) -> None:
    """Runs of a sweep do not report their epochs."""


def _pooled(config: SweepConfig, system: str) -> tuple[list[str], NDArray, NDArray]:
    """Ids, (N,) labels and (seeds, N) predictions; with folds, of all folds one after the other."""
    ids: list[str] = []
    truth, predictions = np.empty(0), []
    for seed in range(config.seeds):
        parts = [
            read_table(_folder(config, system, seed, fold) / "predictions" / f"{config.split}.parquet")
            for fold in range(max(1, config.folds))
        ]
        ids = [id for part in parts for id in part[0]]
        truth = np.concatenate([part[1] for part in parts])
        predictions.append(np.concatenate([part[2] for part in parts]))
    return ids, truth, np.stack(predictions)


def _floors(config: SweepConfig, classes: int) -> tuple[dict[str, NDArray], NDArray]:
    from clfa.evidence.floors import floor_predictions

    found: dict[str, list[NDArray]] = {}
    truth = []
    for fold in range(max(1, config.folds)):
        data = replace(config.run.data, folds=config.folds, fold=fold)
        train, rows = load_rows(data, "train"), load_rows(data, config.split)
        truth.append(np.array(rows["label"]))
        for name, predicted in floor_predictions(train, rows, classes).items():
            found.setdefault(name, []).append(predicted)
    return {name: np.concatenate(parts) for name, parts in found.items()}, np.concatenate(truth)


def _difference(
    name: str, base_name: str, truth: NDArray, found: NDArray, base: NDArray, classes: int
) -> dict[str, Any]:
    """Paired difference of two systems on the same rows and seeds; with one seed over rows, and McNemar's exact test."""
    row: dict[str, Any] = {"system": name, "minus": base_name}
    ours, theirs = (scores(np.stack([confusion(truth, run, classes) for run in runs])) for runs in (found, base))
    for metric in TABLE_METRICS:
        paired = paired_bootstrap(truth, base, found, classes, metric)
        bounds = paired.ci95
        if len(found) > 1:
            bounds = system_difference(paired, theirs[metric], ours[metric], paired=True).ci95
        row[metric] = {"mean": paired.value, "ci95": list(bounds)}
    if len(found) == 1:
        only, only_base, p = mcnemar(truth, found[0], base[0])
        row["mcnemar"] = {"only_system_right": only, "only_base_right": only_base, "p": p}
    return row
