"""What docs/results.md says of alignment with the stronger teacher, from docs/results/*.json; part of make_docs.py."""

from pathlib import Path
from typing import Any

import numpy as np

from clfa.evidence.compare import corrected
from clfa.evidence.results import Comparison, Gap
from clfa.metrics import METRICS as TITLES
from clfa.report import figures, surfaces
from clfa.report.tables import p_text, verdict_word

STORED = Path(__file__).resolve().parent / "results"
SIZES = {"100": "100", "300": "300", "1000": "1,000", "all": "all"}
TEACHERS = {"flickr8k_strong_100": "100", "flickr8k_strong_1000": "1,000", "flickr8k_strong": "7,091"}
"""Teacher -> the pictures that it was trained on."""
METRICS = ("accuracy", "macro_f1")


def gaps(pairs: dict[str, Comparison]) -> dict[str, dict[str, Gap]]:
    """Pair -> metric -> what alignment adds, with Holm's correction over all pairs."""
    found: dict[str, dict[str, Gap]] = {name: {} for name in pairs}
    for metric in METRICS:
        rows = corrected([pair.comparisons[0] for pair in pairs.values()], metric)
        for name, row in zip(pairs, rows):
            found[name][metric] = row.metrics[metric]
    return found


def cells(gap: Gap) -> list[str]:
    """Difference, detectable effect, p after the correction, verdict."""
    found = [gap.difference.text(signed=True), f"{100 * gap.detectable:.1f}", p_text(gap.p_holm)]
    return [*found, verdict_word(gap, "helps", "hurts")]


HEADS = ["difference, points", "detectable", "p (Holm)", "verdict"]


def chosen_rows(pairs: dict[str, Comparison]) -> list[list[str]]:
    """Chosen alignment against none, by the number of labels."""
    rows = [["labels", "metric", "no alignment", "alignment chosen", *HEADS]]
    for size, by_metric in gaps(pairs).items():
        for metric, gap in by_metric.items():
            scored = [system.metrics[metric].text() for system in pairs[size].systems]
            rows.append([SIZES[size], TITLES[metric].title, *scored, *cells(gap)])
    return rows


def quality_rows(pairs: dict[str, Comparison], teachers: dict[str, Any]) -> list[list[str]]:
    """A fixed weight with teachers of rising quality, against none."""
    rows = [["teacher's pictures", "R@1/5/10 of its held-out pictures", "labels", "metric", *HEADS]]
    for name, by_metric in gaps(pairs).items():
        teacher, _, size = name.rpartition("-")
        recalls = "/".join(f"{value:.1f}" for value in recall_of(teachers[teacher]))
        for metric, gap in by_metric.items():
            rows.append([TEACHERS[teacher], recalls, SIZES[size], TITLES[metric].title, *cells(gap)])
    return rows


def recall_of(retrieval: dict[str, dict[str, float]]) -> list[float]:
    """R@1, R@5, R@10, in percent, the mean of both directions."""
    return np.mean([list(recalls.values()) for recalls in retrieval.values()], axis=0).tolist()


def draw_quality(pairs: dict[str, Comparison], teachers: dict[str, Any]) -> None:
    """Gain against the quality of the teacher."""
    found = gaps(pairs)
    panels = {
        TITLES[metric].title: {
            f"{SIZES[size]} labels": [
                (recall_of(teachers[teacher])[2], found[f"{teacher}-{size}"][metric].difference) for teacher in TEACHERS
            ]
            for size in ("300", "all")
        }
        for metric in METRICS
    }
    axes = ("R@10 of the teacher on held-out pictures, %", "aligned − not aligned, points")
    figures.save(surfaces.scatter(panels, *axes, factor=100), STORED / "teacher_quality.png", 110)
