"""Several systems under one trainer, several seeds or folds of each -> one table with intervals. Skips finished runs."""

import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from itertools import product
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from threading import Thread

import numpy as np
from numpy.typing import NDArray

from clfa.config import RunConfig, SweepConfig, build_config, dump_config, override
from clfa.data.atomic import write_text
from clfa.data.cache import Engine
from clfa.data.splits import load_rows
from clfa.errors import UserError
from clfa.evidence.compare import differences, system_scores
from clfa.evidence.floors import floor_predictions, teacher_floor_predictions
from clfa.evidence.results import Difference, Sweep, SystemScores, write_result
from clfa.evidence.systems import System, pool_runs
from clfa.fusion import check_fusion
from clfa.metrics import over_runs
from clfa.report.page import write_card, write_sweep
from clfa.runs import Run

METRIC = "macro_f1"
"""Of the verdicts."""
PULSE = 10
"""Seconds between two lines about the runs in work."""

stopped: list[str] = []
"""Of a process that trains: the run that a signal has ended. The pool has one more ready for it, which is not begun."""

log = logging.getLogger(__name__)


def sweep(config: SweepConfig) -> Sweep:
    """Train and evaluate every system with every seed (and fold); write `sweep.json` and `table.{md,csv,tex,html}`.

    Run directories are `OUTPUT/<system>/seed-<k>[-fold-<j>]`; finished ones are kept, unfinished ones resumed, so a
    sweep that was stopped goes on when it is started again. Scores and differences are those of `clfa compare`: over seeds
    and posts, differences paired by both.

    Returns:
        The tables; empty in all but the first process of torchrun.

    Raises:
        UserError: a system's configuration is wrong (before anything runs), or runs failed (after all others ended).
    """
    output = Path(config.output)
    runs = _plan(config)
    plan = [run for same in zip(*runs.values()) for run in same]  # the first run of every system, then the second …
    for run in plan:
        Run(run.output).refuse_other(run)
    output.mkdir(parents=True, exist_ok=True)
    if is_first_process():
        write_text(output / "config.yaml", dump_config(config))
    failed = run_all(plan, config.split, config.jobs, config.engine)
    if failed:
        listed = "\n".join(f"{run}: {error}" for run, error in list(failed.items())[:5])
        raise UserError(f"{len(failed)} of {len(plan)} runs failed:\n{listed}")
    if not is_first_process():
        return Sweep(config.split, config.folds, 0, [], [])
    systems = [pool_runs(name, [Run(run.output) for run in own], config.split) for name, own in runs.items()]
    result = Sweep(
        split=f"{config.folds} folds" if config.folds else config.split,
        folds=config.folds,
        rows=len(systems[0].ids),
        systems=[*_floors(config, systems[0]), *map(system_scores, systems)],
        differences=_differences(config.compare_to, systems) if config.compare_to else [],
    )
    write_result(output / "sweep.json", result)
    write_sweep(result, output)
    return result


def run_all(plan: list[RunConfig], split: str, jobs: int, engine: Engine = "plain") -> dict[str, str]:
    """Train runs, `jobs` at a time on each machine, and evaluate them; finished ones are kept, unfinished ones resumed.

    With the engine `ray` a cluster trains them, a worker one at a time; one whose worker dies is resumed by another.

    Started by `torchrun` on several machines or devices with a shared file system, each process takes its share of the runs
    (run by run, not within a run) and all wait for each other at the end.

    Returns:
        Output of a run -> why it failed, for those that did.
    """
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    own = plan[rank::processes]  # before finished ones are left out, so that all processes agree on who does what
    todo = [run for run in own if not _is_done(Run(run.output), split)]
    if engine == "ray":
        if processes > 1:
            raise UserError("engine: ray finds its workers itself: start it without torchrun")
        return _run_on_cluster(todo, split)
    log.info("%s runs, %s finished before, %s at a time", len(own), len(own) - len(todo), jobs)
    if processes > 1:
        log.info("process %s of %s: %s runs", rank, processes, len(todo))
    threads = int(os.environ.get("OMP_NUM_THREADS", 0)) or max(1, (os.cpu_count() or 1) // jobs)
    failed: dict[str, str] = {}
    suspects: set[str] = set()
    while todo:
        lost = _run_some(todo, split, jobs, threads, failed)
        # a process died (killed, out of memory) and took the pool along: the runs that may have been in it are tried once
        # more, all others begin anew
        for run in lost[:jobs]:
            if run.output in suspects:
                failed[run.output] = "its process was killed twice (out of memory?)"
                log.info("%s: failed, %s", run.output, failed[run.output])
            suspects.add(run.output)
        todo = [run for run in lost if run.output not in failed]
    return _gather(failed) if processes > 1 else failed


def _run_some(runs: list[RunConfig], split: str, jobs: int, threads: int, failed: dict[str, str]) -> list[RunConfig]:
    """Run them in a pool of processes; the runs, in their order, that were lost because a process died."""
    lost: list[RunConfig] = []
    others = set(active_children())
    with ProcessPoolExecutor(jobs, get_context("spawn"), _end_with_parent) as pool:
        futures = {pool.submit(_run_one, run, split, threads): run for run in runs}
        try:
            for number, future in enumerate(_as_completed(futures, jobs), 1):
                run = futures[future]
                try:
                    score = future.result()
                    log.info("[%s/%s] %s: %s macro F1 %.1f", number, len(runs), run.output, split, 100 * score)
                except BrokenProcessPool:
                    lost.append(run)
                except Exception as error:  # one run's failure is reported at the end, after all others
                    failed[run.output] = str(error) or type(error).__name__
                    log.info("[%s/%s] %s: failed", number, len(runs), run.output)
        except BaseException:  # interrupted: do not start what waits; what runs stops after its step and can be resumed
            pool.shutdown(wait=False, cancel_futures=True)
            children = set(active_children()) - others
            for process in children:
                process.terminate()
            for process in children:
                process.join()
            raise
    return [run for run in runs if run in lost]


def _run_on_cluster(runs: list[RunConfig], split: str) -> dict[str, str]:
    """Output of a run -> why it failed, for those that did."""
    from clfa.data.cluster import cluster, spread

    failed: dict[str, str] = {}
    left = {run.output: run for run in runs}

    def say() -> None:
        begun = [run for run in left.values() if Path(run.output).exists()]
        log.info("in work: %s", ", ".join(f"{run.output}, {_epochs_done(run)}" for run in begun) or "none yet")

    with cluster() as workers:
        log.info("%s runs on a cluster of %s workers", len(runs), workers)
        done = spread(enumerate(runs), workers, open_runner, split, waiting=say, lost=_lost)
        for number, (output, score, error) in enumerate(done, 1):
            del left[output]
            said = f"{split} macro F1 {100 * score:.1f}" if error is None else "failed"
            log.info("[%s/%s] %s: %s", number, len(runs), output, said)
            failed |= {} if error is None else {output: error}
    return failed


def _lost(run: RunConfig, error: UserError) -> tuple[str, float, str | None]:
    return run.output, 0.0, f"{error} (out of memory?)"


def open_runner(split: str) -> Callable[[int, RunConfig], tuple[str, float, str | None]]:
    """What trains and evaluates a run in a worker of a cluster: its output, its score, or what went wrong."""
    from torch import get_num_threads

    def run(_: int, config: RunConfig) -> tuple[str, float, str | None]:
        try:
            return config.output, _run_one(config, split, get_num_threads()), None
        except Exception as error:  # reported at the end, after all others
            return config.output, 0.0, str(error) or type(error).__name__

    return run


def _as_completed(futures: dict[Future, RunConfig], jobs: int) -> Iterator[Future]:
    """The futures as they end; while none does, a line now and then about those that run."""
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, timeout=PULSE, return_when=FIRST_COMPLETED)
        yield from done
        if not done:
            running = [run for future, run in futures.items() if future.running()][:jobs]
            log.info("in work: %s", ", ".join(f"{run.output}, {_epochs_done(run)}" for run in running))


def _epochs_done(run: RunConfig) -> str:
    path = Run(run.output).log_file
    done = len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0
    return f"{done} of at most {run.train.epochs} epochs"


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


def _plan(config: SweepConfig) -> dict[str, list[RunConfig]]:
    """System -> its runs: the folds of the first seed, of the second …"""
    if config.compare_to and config.compare_to not in config.systems:
        raise UserError(f"compare_to = {config.compare_to!r} is not among the systems {', '.join(config.systems)}")
    runs: dict[str, list[RunConfig]] = {system: [] for system in config.systems}
    for system, changes in config.systems.items():
        for seed, fold in product(range(config.seeds), range(max(1, config.folds))):
            folder = f"seed-{seed}-fold-{fold}" if config.folds else f"seed-{seed}"
            own = {"seed": seed, "output": str(Path(config.output, system, folder))}
            if config.folds:
                own |= {"data.folds": config.folds, "data.fold": fold}
            try:
                run = build_config(RunConfig, override(asdict(config.run), changes | own))
                check_fusion(run.model.fusion.name)
                if run.data.path != config.run.data.path:  # floors are fitted once, and systems are paired by post
                    raise UserError(
                        f"data.path = {run.data.path}, but run.data.path = {config.run.data.path}: all systems of a sweep "
                        "are of the same posts; make a sweep for each data set"
                    )
            except UserError as error:
                raise UserError(f"system {system!r}: {error}") from None
            runs[system].append(run)
    return runs


def _is_done(run: Run, split: str) -> bool:
    return split in run.metrics() and run.predictions_file(split).is_file()


def _run_one(config: RunConfig, split: str, threads: int) -> float:
    # a run is for itself, on the device of its process, and no part of what torchrun started
    if "LOCAL_RANK" in os.environ:
        os.environ["CUDA_VISIBLE_DEVICES"] = own_device(os.environ)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
    import torch

    from clfa.evidence.evaluate import evaluate
    from clfa.training.train import train

    torch.set_num_threads(threads)
    if stopped:
        raise SystemExit
    try:
        run = train(config, resume=True)
        result = evaluate(run, split, evidence=False)
        write_card(Run(run))
    except (KeyboardInterrupt, SystemExit):
        stopped.append(config.output)
        parent = parent_process()
        if parent and not parent.is_alive():  # nobody would tell this process to end
            os._exit(1)
        raise
    return result.metrics[METRIC].value


def _end_with_parent() -> None:
    """A process that trains ends, as by SIGTERM, when the sweep was killed."""
    parent = parent_process()

    def watch() -> None:
        if parent:
            wait_for([parent.sentinel])
            os.kill(os.getpid(), signal.SIGTERM)

    Thread(target=watch, daemon=True).start()


def own_device(environment: Mapping[str, str]) -> str:
    """The one of the visible devices that this process of torchrun takes."""
    rank = int(environment["LOCAL_RANK"])
    visible = [name for name in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return visible[rank % len(visible)] if visible else str(rank)


def _floors(config: SweepConfig, system: System) -> list[SystemScores]:
    """Floors fitted on the same rows as the systems, and scored on the same posts as this one."""
    classes = len(system.class_names)
    predictions: dict[str, list[NDArray]] = {}
    for fold in range(max(1, config.folds)):
        data = replace(config.run.data, folds=config.folds, fold=fold)
        train, rows = load_rows(data, "train"), load_rows(data, config.split)
        of_fold = floor_predictions(train, rows, classes)
        of_fold |= teacher_floor_predictions(data, config.run.teacher, train, rows)
        for name, predicted in of_fold.items():
            predictions.setdefault(name, []).append(predicted)
    return [
        SystemScores(name, [0], over_runs(system.labels, np.concatenate(folds)[None], classes))
        for name, folds in predictions.items()
    ]


def _differences(compare_to: str, systems: list[System]) -> list[Difference]:
    """Every other system minus the one of this name."""
    base = next(system for system in systems if system.name == compare_to)
    others = [system for system in systems if system is not base]
    for other in others:
        if other.ids != base.ids:
            raise UserError(f"{other.name} and {base.name} were evaluated on different posts: nothing to compare")
    return differences(base, others, METRIC)
