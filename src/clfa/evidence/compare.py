"""Systems on the same posts: paired intervals, tests, what could have been seen at all, a verdict in words."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clfa.errors import UserError
from clfa.evidence.power import detectable_accuracy, detectable_difference
from clfa.evidence.results import Comparison, Difference, Dominance, Fit, Gap, McNemar, SystemScores, read_result
from clfa.evidence.significance import (
    almost_stochastic_order,
    bootstrap_p,
    mcnemar,
    paired_bootstrap,
    system_difference,
    verdict,
)
from clfa.evidence.systems import System, pool_runs, read_system
from clfa.metrics import LEVEL, OF_PROBABILITIES, SHOWN, Score, by_run, holm, is_claim, metric_names, over_runs
from clfa.runs import Run

TAU = 0.2
"""ASO's usual demand (Ulmer et al. 2022)."""


def compare(paths: list[Path], split: str = "test", metric: str = "macro_f1") -> Comparison:
    """Compare systems with the first of them.

    Where both systems have several runs, interval and p are over runs and posts (`system_difference`); otherwise they are
    over posts and speak of these runs: BCa, and the p of the bootstrap, of McNemar's exact test for the accuracy of one run
    each. What is claimed is decided by `clfa.evidence.significance.is_claim`; below five runs a side the verdict speaks of
    the runs, not of the systems.

    Args:
        paths: run directories, folders of run directories of one system (seeds, folds), or stored predictions (Parquet).
        split: split that all were evaluated on.
        metric: metric of the verdicts, one of `clfa.metrics.scores`.

    Raises:
        UserError: fewer than two systems, no predictions, other posts or labels, or no such metric.
    """
    if len(paths) < 2:
        raise UserError("give two or more runs to compare")
    loaded = [load_system(path, split) for path in paths]
    systems = [replace(system, name=name) for name, system in zip(_short_names(paths), loaded)]
    base, *others = systems
    for other in others:
        _refuse_other_posts(base, other, split)
    allowed = [name for name in metric_names(len(base.class_names)) if name not in OF_PROBABILITIES]
    if metric not in allowed:
        raise UserError(f"metric {metric!r}: allowed are {', '.join(sorted(allowed))}")
    scores = [system_scores(system) for system in systems]
    return Comparison(split, metric, len(base.ids), base.name, scores, differences(base, others, metric))


def system_scores(system: System) -> SystemScores:
    """Every metric of a system over its runs."""
    of = (system.labels, system.predictions, len(system.class_names))
    values = {name: of_runs.tolist() for name, of_runs in by_run(*of).items()}
    return SystemScores(system.name, system.seeds, over_runs(*of), values)


def differences(base: System, others: list[System], metric: str) -> list[Difference]:
    """Each of the others, on the same posts in the same order, minus the base, in all metrics of tables.

    Tests are corrected over the others (Holm); verdicts and ASO are of `metric`.
    """
    dominance = _dominance(base, others, metric)
    family = [_difference(base, other, metric, dominance.get(place)) for place, other in enumerate(others)]
    return corrected(family, metric)


def corrected(family: list[Difference], metric: str) -> list[Difference]:
    """The same differences, corrected for being one family of comparisons, about which one statement is made (Holm), with
    the claims, and verdicts in this metric, that follow."""
    result = []
    for place, row in enumerate(family):
        gaps = {}
        for name, gap in row.metrics.items():
            p = holm([other.metrics[name].p for other in family])[place]
            gaps[name] = replace(gap, p_holm=p, is_claim=is_claim(gap.difference, p))
        words = verdict(row.system, row.minus, metric, gaps[metric], row.runs, row.same_answers)
        result.append(replace(row, metrics=gaps, is_claim=gaps[metric].is_claim, verdict=words))
    return result


def load_system(path: Path, split: str) -> System:
    """The runs of a run directory, or of a folder of run directories, posts in the order of their ids; or the stored
    predictions of a system (Parquet), whatever split they are of.

    Raises:
        UserError: no runs, no predictions, several systems, a seed twice, seeds on different posts, missing folds.
    """
    if path.suffix == ".parquet" and path.is_file():
        return _by_id(read_system(path))
    if not path.is_dir():
        raise UserError(
            f"{path} is not a folder: give a run directory, a folder of run directories of one system, or the Parquet file "
            "that `clfa compare --save` wrote of one"
        )
    single = Run(path)
    runs = [single] if single.is_finished else [run for run in map(Run, sorted(path.iterdir())) if run.is_finished]
    if not runs:
        raise UserError(f"{path} holds no finished run: train one with `clfa train` or `clfa sweep`")
    _refuse_several_systems(path, runs)
    return _by_id(pool_runs(path.name, runs, split))


def _by_id(system: System) -> System:
    """The same with the posts in the order of their ids."""
    order = np.argsort(np.array(system.ids), kind="stable")
    ids = [system.ids[number] for number in order]
    return replace(system, ids=ids, labels=system.labels[order], predictions=system.predictions[:, order])


def _refuse_several_systems(path: Path, runs: list[Run]) -> None:
    """Runs of one system differ in seed, fold and output, and in nothing else; none counts twice."""
    seen: dict[tuple[int, int], str] = {}
    first: dict[str, object] | None = None
    for run in runs:
        config = asdict(run.config())  # with the defaults of fields that came later
        place = (config.pop("seed"), config["data"].pop("fold"))
        del config["output"]
        if run.leaderboard_file.is_file():  # fits that were asked for the same are one system, whatever they chose
            asked = read_result(Fit, run.leaderboard_file).asked
            config = {name: value for name, value in asked.items() if name != "fold"}
        first = first or config
        if config != first:
            changed = sorted(key for key in config if config[key] != first[key])
            raise UserError(
                f"{path} holds runs of several systems ({run.path.name} and {runs[0].path.name} differ in "
                f"{', '.join(changed)}): give each system, or each run, on its own"
            )
        if place in seen:
            raise UserError(f"{path}: {run.path.name} and {seen[place]} have the same seed and fold; give one of them")
        seen[place] = run.path.name


def _short_names(paths: list[Path]) -> list[str]:
    """The shortest ends of the paths that are all different."""
    folders = [
        path.with_suffix("").resolve().parts if path.suffix == ".parquet" else path.resolve().parts for path in paths
    ]
    for length in range(1, max(map(len, folders)) + 1):
        names = ["/".join(path[-length:]) for path in folders]
        if len(set(names)) == len(names):
            return names
    raise UserError("the same run was given twice")


def _refuse_other_posts(base: System, other: System, split: str) -> None:
    if base.class_names != other.class_names:
        raise UserError(
            f"{base.name} has the labels {base.class_names}, {other.name} {other.class_names}: nothing to compare"
        )
    if base.ids != other.ids:
        shared = len(set(base.ids) & set(other.ids))
        raise UserError(
            f"{base.name} and {other.name} were evaluated on different posts of {split}: {len(base.ids):,} and "
            f"{len(other.ids):,}, {shared:,} in common. Evaluate both on the same data set and split"
        )
    if (base.labels != other.labels).any():
        count = (base.labels != other.labels).sum()
        raise UserError(f"{base.name} and {other.name} have different labels for {count:,} of the same posts")


def gap_of(
    labels: NDArray,
    first: NDArray,
    second: NDArray,
    classes: int,
    metric: str,
    paired: bool,
    resamples: int = 10_000,
) -> Gap:
    """(N,) labels, (R, N) predictions of a system, (Q, N) of another -> the second minus the first in one metric, as if it
    were the only comparison; `paired` where run r of both has the same seed."""
    difference = paired_bootstrap(labels, first, second, classes, metric, resamples)
    bounds, p, detectable = (
        difference.ci95,
        bootstrap_p(difference.draws),
        detectable_difference(difference.draws),
    )
    runs = min(len(first), len(second))
    if runs > 1:
        bounds, p, detectable = system_difference(difference, paired)
    elif metric == "accuracy" and len(first) == len(second):
        p = mcnemar(labels, first[0], second[0])[2]
    score = Score(difference.value, *bounds, n=runs)
    over = "runs and posts" if runs > 1 else "posts"
    return Gap(score, over, list(difference.ci95), p, p, detectable, is_claim(score, p))


def _difference(base: System, other: System, metric: str, aso: Dominance | None) -> Difference:
    """One system minus the base, as if it were the only comparison."""
    names = [name for name in (*SHOWN, metric) if name in metric_names(len(base.class_names))]
    of = (base.labels, base.predictions, other.predictions, len(base.class_names))
    gaps = {name: gap_of(*of, name, paired=base.seeds == other.seeds) for name in dict.fromkeys(names)}
    runs, test = min(len(base.predictions), len(other.predictions)), None
    if len(base.predictions) == len(other.predictions) == 1:
        only_base, only_other, p = mcnemar(base.labels, base.predictions[0], other.predictions[0])
        posts = len(base.labels)
        test = McNemar(only_other, only_base, p, detectable_accuracy(posts, (only_base + only_other) / posts))
    same = bool(np.array_equal(base.predictions, other.predictions))
    return Difference(other.name, base.name, runs, gaps, test, aso, same, is_claim=False, verdict="")


def _dominance(base: System, others: list[System], metric: str) -> dict[int, Dominance]:
    """ε_min of each system over the base, at Holm's levels: the smallest at 0.05 / k, the next at 0.05 / (k - 1) …

    By the place of the system; only of those that have several runs, as the base must have.
    """
    of_base, *of_others = (
        by_run(system.labels, system.predictions, len(base.class_names))[metric] for system in (base, *others)
    )
    several = {place: values for place, values in enumerate(of_others) if min(len(values), len(of_base)) > 1}
    ordered = sorted(several, key=lambda place: almost_stochastic_order(several[place], of_base))
    result: dict[int, Dominance] = {}
    still_open = True
    for rank, place in enumerate(ordered):
        epsilon = almost_stochastic_order(several[place], of_base, LEVEL / (len(several) - rank))
        still_open = still_open and epsilon <= TAU
        result[place] = Dominance(epsilon, TAU, still_open)
    return result
