"""What docs/results.md says of docs/results/selection.json: ways to choose the posts that are labelled next."""

from typing import Any

import numpy as np
from scipy import stats

METRICS = {"accuracy": "accuracy", "macro_f1": "macro F1"}
SHOWN = (0, 2, 4, 8)
"""Rounds."""
RESAMPLES = 10_000


def selection_values(found: dict[str, Any]) -> dict[str, Any]:
    """Tables of the draws that all ways were tried on, and what the fresh draws say of the one that was taken."""
    return {
        "selection_rows": tried_rows(found),
        "selection_fresh": fresh_rows(found),
        "selection_draws": [len(found[part]["random"]) for part in ("curves", "fresh")],
    }


def tried_rows(found: dict[str, Any]) -> list[list[str]]:
    """Each way: means after some rounds, and its difference to random posts in the mean over all rounds."""
    head = ["posts chosen by"]
    head += [f"{title}, {found['labels'][r]} labels" for title in METRICS.values() for r in SHOWN]
    rows = [[*head, *(f"{title} - random, all rounds" for title in METRICS.values())]]
    base = {metric: values(found["curves"]["random"], metric) for metric in METRICS}
    for way, curves in found["curves"].items():
        own = {metric: values(curves, metric) for metric in METRICS}
        means = [f"{one[:, r].mean():.1f}" for one in own.values() for r in SHOWN]
        gains = ["" if way == "random" else gain((own[metric] - base[metric])[:, 1:].mean(1)) for metric in METRICS]
        rows.append([way, *means, *gains])
    return rows


def fresh_rows(found: dict[str, Any]) -> list[list[str]]:
    """Of the way that was taken, on draws that did not choose it: difference, interval, p, and labels for the same score."""
    (taken,) = [way for way in found["fresh"] if way != "random"]
    rows = [
        [
            "metric",
            "difference in the mean over all rounds",
            "p",
            f"labels for what {found['labels'][-1]} random ones give",
        ]
    ]
    for metric, title in METRICS.items():
        own, base = values(found["fresh"][taken], metric), values(found["fresh"]["random"], metric)
        differences = (own - base)[:, 1:].mean(1)
        p = stats.ttest_1samp(differences, 0).pvalue
        rows.append([title, gain(differences), f"{p:.3f}", needed(own, base, found["labels"])])
    return rows


def values(curves: list[list[dict[str, float]]], metric: str) -> np.ndarray:
    """(draws, rounds), in percent."""
    return np.array([[100 * one[metric] for one in curve] for curve in curves])


def gain(differences: np.ndarray) -> str:
    """Their mean with its t interval."""
    low, high = stats.t.interval(0.95, len(differences) - 1, differences.mean(), stats.sem(differences))
    return f"{differences.mean():+.1f} [{low:+.1f}, {high:+.1f}]"


def needed(own: np.ndarray, base: np.ndarray, labels: list[int]) -> str:
    """Labels with which the mean curve first has the last mean of the base, and a bootstrap interval over draws."""

    def at(some: np.ndarray) -> float:
        curve, goal = own[some].mean(0), base[some].mean(0)[-1]
        above = np.flatnonzero(curve >= goal)
        if not len(above):
            return np.inf
        first = int(above[0])
        if first == 0:
            return labels[0]
        share = (goal - curve[first - 1]) / (curve[first] - curve[first - 1])
        return labels[first - 1] + share * (labels[first] - labels[first - 1])

    generator = np.random.default_rng(0)
    draws = [at(generator.integers(0, len(own), len(own))) for _ in range(RESAMPLES)]
    low, high = np.quantile(draws, [0.025, 0.975], method="closest_observation")
    return f"{_labels(at(np.arange(len(own))), labels)} [{_labels(low, labels)}, {_labels(high, labels)}]"


def _labels(number: float, labels: list[int]) -> str:
    return f"{number:.0f}" if np.isfinite(number) else f"over {labels[-1]}"
