"""Systems on the same posts: paired intervals, tests, what could have been seen at all, a verdict in words."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clfa.config import RunConfig, load_config, read_yaml
from clfa.errors import UserError
from clfa.evidence.evaluate import read_table
from clfa.evidence.significance import (
    almost_stochastic_order,
    bootstrap_p,
    detectable_accuracy,
    detectable_difference,
    holm,
    paired_bootstrap,
    system_difference,
)
from clfa.metrics import confusion, mcnemar, over_runs, scores
from clfa.report.compare_page import write_comparison
from clfa.report.formats import difference_cell

LEVEL, TAU, ENOUGH_RUNS = 0.05, 0.2, 5


@dataclass(frozen=True)
class System:
    """The runs of one system on one split, posts in the order of their ids."""

    name: str
    ids: list[str]
    labels: list[str]
    truth: NDArray
    predictions: NDArray
    """(runs, N) class numbers; a run is a seed, its folds one after the other."""
    seeds: list[int]
    """Seed of each run."""


def compare_runs(paths: list[Path], split: str, metric: str, out: Path) -> dict[str, Any]:
    """Compare systems with the first of them; write `comparison.{json,md,csv,tex,html}` to `out`.

    A difference is claimed if its interval excludes 0, its p is at most 0.05 after Holm's correction over all
    comparisons, and it is at least the minimum detectable effect (80 % power); the verdict is “cannot tell” otherwise.
    Where both systems have several runs, interval and p are over runs and posts (`system_difference`); otherwise they are
    over posts and speak of these runs: BCa, and the p of the bootstrap, of McNemar's exact test for the accuracy of one run
    each. Below five runs a side the verdict speaks of the runs, not of the systems.

    Args:
        paths: run directories, or folders of run directories of one system (seeds, folds).
        split: split that all were evaluated on.
        metric: metric of the verdicts, see `clfa.metrics.scores`.
        out: folder to write.

    Returns:
        `{"split", "metric", "posts", "base", "systems": [{"system", "runs", <metric>: {"mean", "sd", "ci95", "values"}}],
        "comparisons": [{"system", "minus", "metrics": {<metric>: {"value", "ci95"}}, "difference", "ci95", "ci95_posts",
        "detectable", "p", "p_holm", "mcnemar", "aso", "verdict", "told"}]}`.

    Raises:
        UserError: fewer than two systems, no predictions, or other test rows.
    """
    if len(paths) < 2:
        raise UserError("give two or more runs to compare")
    systems = [load_system(path, split) for path in paths]
    names = _short_names(paths)
    systems = [replace(system, name=name) for name, system in zip(names, systems)]
    base, *others = systems
    for other in others:
        _refuse_other_posts(base, other, split)
    allowed = sorted(scores(np.eye(len(base.labels))))
    if metric not in allowed:
        raise UserError(f"metric {metric!r}: allowed are {', '.join(allowed)}")
    result: dict[str, Any] = {
        "split": split,
        "metric": metric,
        "posts": len(base.ids),
        "base": base.name,
        "systems": [
            {"system": system.name, "runs": len(system.predictions)}
            | over_runs(system.truth, system.predictions, len(system.labels))
            for system in systems
        ],
        "comparisons": [_compare(base, other, metric) for other in others],
    }
    adjusted = holm([found["p"] for found in result["comparisons"]])
    for found, p in zip(result["comparisons"], adjusted):
        found["p_holm"] = p
    _aso(base, others, metric, result["comparisons"])
    for found in result["comparisons"]:
        found["told"], found["verdict"] = _verdict(found, metric)
    out.mkdir(parents=True, exist_ok=True)
    (out / "comparison.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_comparison(result, out)
    return result


def load_system(path: Path, split: str) -> System:
    """The runs of a run directory, or of a folder of run directories.

    Raises:
        UserError: no runs, no predictions, seeds on different posts, missing folds.
    """
    if not path.is_dir():
        raise UserError(f"{path} is not a folder: give a run directory, or a folder of run directories of one system")
    runs = [path] if (path / "metrics.json").is_file() else sorted(file.parent for file in path.glob("*/metrics.json"))
    if not runs:
        raise UserError(f"{path} holds no finished run: train one with `clfa train` or `clfa sweep`")
    _refuse_several_systems(path, runs)
    labels: list[str] = json.loads((runs[0] / "model.json").read_text(encoding="utf-8"))["labels"]
    by_seed: dict[int, dict[int, Path]] = {}
    folds = 1
    for run in runs:
        config = read_yaml(run / "config.yaml")
        data = config["data"]
        folds = max(folds, data.get("folds", 0))
        by_seed.setdefault(config["seed"], {})[data.get("fold", 0) if data.get("folds") else 0] = run
    tables = []
    for seed, of_fold in by_seed.items():
        if len(of_fold) < folds and len(runs) > 1:
            raise UserError(f"{path}: seed {seed} has {len(of_fold)} of {folds} folds; run the sweep to its end")
        parts = [read_table(of_fold[fold] / "predictions" / f"{split}.parquet") for fold in sorted(of_fold)]
        ids = np.concatenate([np.array(part[0]) for part in parts])
        truth, predicted = (np.concatenate([part[place] for part in parts]) for place in (1, 2))
        order = np.argsort(ids, kind="stable")
        tables.append((ids[order].tolist(), truth[order], predicted[order]))
    if any(table[0] != tables[0][0] for table in tables):
        raise UserError(f"{path}: its runs were evaluated on different posts")
    predictions = np.stack([table[2] for table in tables])
    return System(path.name, tables[0][0], labels, tables[0][1], predictions, list(by_seed))


def _refuse_several_systems(path: Path, runs: list[Path]) -> None:
    """Runs of one system differ in seed, fold and output, and in nothing else; none counts twice."""
    seen: dict[tuple, Path] = {}
    first: dict[str, Any] | None = None
    for run in runs:
        config = asdict(load_config(RunConfig, run / "config.yaml"))  # with the defaults of fields that came later
        place = (config.pop("seed"), config["data"].pop("fold", 0))
        config.pop("output", None)
        if first is None:
            first = config
        if config != first:
            changed = sorted(key for key in config.keys() | first.keys() if config.get(key) != first.get(key))
            raise UserError(
                f"{path} holds runs of several systems ({run.name} and {runs[0].name} differ in {', '.join(changed)}): "
                "give each system, or each run, on its own"
            )
        if place in seen:
            raise UserError(f"{path}: {run.name} and {seen[place].name} have the same seed and fold; give one of them")
        seen[place] = run


def _short_names(paths: list[Path]) -> list[str]:
    """The last parts of the paths that tell them apart."""
    parts = [path.resolve().parts for path in paths]
    for length in range(1, max(len(part) for part in parts) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError("the same run was given twice")


def _refuse_other_posts(base: System, other: System, split: str) -> None:
    if base.labels != other.labels:
        raise UserError(f"{base.name} has the labels {base.labels}, {other.name} {other.labels}: nothing to compare")
    if base.ids != other.ids:
        shared = len(set(base.ids) & set(other.ids))
        raise UserError(
            f"{base.name} and {other.name} were evaluated on different posts of {split}: {len(base.ids):,} and "
            f"{len(other.ids):,}, {shared:,} in common. Evaluate both on the same data set and split"
        )
    if (base.truth != other.truth).any():
        count = int((base.truth != other.truth).sum())
        raise UserError(f"{base.name} and {other.name} have different labels for {count:,} of the same posts")


def _compare(base: System, other: System, metric: str) -> dict[str, Any]:
    classes = len(base.labels)
    pair = (base.truth, base.predictions, other.predictions, classes)
    found = paired_bootstrap(*pair, metric)
    bounds, p, detectable = found.ci95, bootstrap_p(found.draws), detectable_difference(found.draws)
    several = min(len(base.predictions), len(other.predictions)) > 1
    if several:
        values = [
            scores(np.stack([confusion(base.truth, run, classes) for run in system.predictions]))[metric]
            for system in (base, other)
        ]
        _, bounds, p, detectable = system_difference(found, values[0], values[1], base.seeds == other.seeds)
    row: dict[str, Any] = {
        "system": other.name,
        "minus": base.name,
        "difference": found.value,
        "ci95": list(bounds),
        "ci95_over": "runs and posts" if several else "posts",
        "ci95_posts": list(found.ci95),
        "detectable": detectable,
        "runs": min(len(base.predictions), len(other.predictions)),
        "same_answers": bool(np.array_equal(base.predictions, other.predictions)),
        "p": p,
        "metrics": {
            name: {"value": each.value, "ci95": list(each.ci95)}
            for name in ("accuracy", "macro_f1", "weighted_f1", *(["binary_f1"] if classes == 2 else []))
            for each in [found if name == metric else paired_bootstrap(*pair, name)]
        },
        "mcnemar": None,
    }
    if len(base.predictions) == len(other.predictions) == 1:
        only_base, only_other, p = mcnemar(base.truth, base.predictions[0], other.predictions[0])
        discordant = (only_base + only_other) / len(base.truth)
        row["mcnemar"] = {
            "only_system_right": only_other,
            "only_base_right": only_base,
            "p": p,
            "detectable_accuracy": detectable_accuracy(len(base.truth), discordant),
        }
        if metric == "accuracy":
            row["p"] = p
    return row


def _aso(base: System, others: list[System], metric: str, rows: list[dict[str, Any]]) -> None:
    """ε_min of each system over the first, at Holm's levels: the smallest at 0.05 / k, the next at 0.05 / (k - 1) …"""
    classes = len(base.labels)
    values = [
        scores(np.stack([confusion(system.truth, found, classes) for found in system.predictions]))[metric]
        for system in (base, *others)
    ]
    enough = [place for place in range(len(others)) if min(len(values[0]), len(values[place + 1])) > 1]
    plain = {place: almost_stochastic_order(values[place + 1], values[0]) for place in enough}
    open_still = True
    for rank, place in enumerate(sorted(enough, key=lambda number: plain[number])):
        epsilon = almost_stochastic_order(values[place + 1], values[0], LEVEL / (len(enough) - rank))
        open_still = open_still and epsilon <= TAU
        rows[place]["aso"] = {"epsilon_min": epsilon, "tau": TAU, "dominates": open_still}
    for row in rows:
        row.setdefault("aso", None)


def _verdict(found: dict[str, Any], metric: str) -> tuple[bool, str]:
    low, high = found["ci95"]
    name = metric.replace("_", " ").replace("f1", "F1")
    size = difference_cell({"mean": found["difference"], "ci95": found["ci95"]})
    told = (low > 0 or high < 0) and found["p_holm"] <= LEVEL and abs(found["difference"]) >= found["detectable"]
    if found["same_answers"]:
        return False, f"{found['system']} and {found['minus']} give the same answers on all posts."
    if told:
        word = "better" if found["difference"] > 0 else "worse"
        if found["runs"] >= ENOUGH_RUNS:
            return True, f"{found['system']} is {word} than {found['minus']}: {size} points of {name}."
        return True, (
            f"in these runs {found['system']} is {word} than {found['minus']}: {size} points of {name}; a claim about the "
            f"systems needs {ENOUGH_RUNS} runs of each, there are {found['runs']}."
        )
    power = f"{100 * found['detectable']:.1f} points, the smallest true difference found with 80 % power"
    if low > 0 or high < 0:
        return False, (
            f"cannot tell {found['system']} from {found['minus']}: {size} points of {name}. The interval excludes 0 "
            f"(p = {found['p']:.3f}, {found['p_holm']:.3f} after Holm), but it is below {power}."
        )
    return (
        False,
        f"cannot tell {found['system']} from {found['minus']}: {size} points of {name}; the test could see {power}.",
    )
