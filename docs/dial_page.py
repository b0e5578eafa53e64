"""What docs/when-alignment-helps.md says and shows, from docs/results/dial.json; part of make_docs.py."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from clfa.evidence.results import from_dict
from clfa.metrics import Score
from clfa.report import figures, surfaces
from clfa.studies import dial

STORED = Path(__file__).resolve().parent / "results"
PLACES = {
    (0.0, "unique"): "unique",
    (0.5, "unique"): "half unique, half redundant",
    (1.0, "unique"): "redundant",
    (0.5, "synergy"): "half redundant, half synergy",
    (0.0, "synergy"): "synergy",
}
"""Places of the dial as people read them: redundancy, what the rest is."""


def dial_values(found: dict[str, Any]) -> dict[str, Any]:
    """What the page on the dial says."""
    measured = [from_dict(dial.Measured, each) for each in found["points"]]
    labels, strong = sorted({each.point.labels for each in measured}), dial.ALPHAS[-2]
    one, chosen = dial.gains(measured, 1.0), dial.gains(measured, None)

    def gain(alpha: float, redundancy: float, rest: str, knows: str) -> str:
        """At each number of labels, with a clean teacher."""
        by_point = {each.point: each.difference for each in dial.gains(measured, alpha)}
        found = [by_point[dial.Point(redundancy, rest, size, 1.0, knows)].text(signed=True) for size in labels]
        return ", ".join(found)

    def errors(redundancy: float) -> str:
        """Without alignment and with the paper's, teacher of what is shared."""
        wanted = dial.Point(redundancy, "unique", labels[1], 1.0, "shared")
        accuracy = next(each.accuracy for each in measured if each.point == wanted)
        without, aligned = (100 * (1 - float(np.mean(accuracy[dial.ALPHAS.index(alpha)]))) for alpha in (0.0, strong))
        return f"{without:.1f} to {aligned:.1f}"

    def told(gains: list[dial.Gain], sign: int) -> int:
        return sum(each.is_claim and sign * each.difference.value > 0 for each in gains)

    ordered = sorted(chosen, key=lambda each: each.difference.value)
    worst, best = ordered[0], ordered[-1]
    only_synergy = next(each["told"] for each in found["places"] if each["shares"].get("synergy") == 1)
    only_unique = next(each["told"] for each in found["places"] if each["shares"].get("unique_text") == 0.5)
    return {
        "alphas": dial.ALPHAS,
        "labels": labels,
        "count": len(measured),
        "seeds": dial.SEEDS,
        "temperature": dial.TEMPERATURE,
        "validation": dial.VALIDATION,
        "test": dial.TEST,
        "worst_shared": gain(strong, 0.0, "unique", "shared"),
        "full_errors": errors(1.0),
        "own_errors": errors(0.0),
        "redundant": gain(strong, 1.0, "unique", "all"),
        "synergy": gain(dial.ALPHAS[-1], 0.0, "synergy", "all"),
        "synergy_shared": gain(dial.ALPHAS[-1], 0.0, "synergy", "shared"),
        "helps": told(one, 1),
        "hurts": told(one, -1),
        "chosen_helps": told(chosen, 1),
        "chosen_hurts": told(chosen, -1),
        "chosen_worst": worst.difference.text(signed=True),
        "chosen_worst_at": f"{PLACES[worst.point.redundancy, worst.point.rest]}, {worst.point.labels} labels, teacher of "
        f"quality {worst.point.quality:g} that knows {worst.point.knows}",
        "chosen_best": best.difference.text(signed=True),
        "linear_synergy": from_dict(Score, only_synergy["logistic_regression"]["both"]).text(""),
        "svm_synergy": from_dict(Score, only_synergy["svm"]["both"]).text(""),
        "linear_unique": from_dict(Score, only_unique["logistic_regression"]["overlap"]).text("", signed=True),
        "svm_unique": from_dict(Score, only_unique["svm"]["overlap"]).text("", signed=True),
        "bit": f"{np.log(2):.3f}",
        "real": {name: {"posts": each["posts"]} | _texts(each["told"]) for name, each in found["real"].items()},
    }


def _texts(told: dict[str, Any]) -> dict[str, str]:
    linear = told["logistic_regression"]
    texts = {name: from_dict(Score, value).text("") for name, value in linear.items() if name != "label"}
    return texts | {"label": f"{linear['label']:.3f}"}


def draw_dial(found: dict[str, Any]) -> None:
    """Surfaces of gain, accuracy by weight, estimates against the truth."""
    measured = [from_dict(dial.Measured, each) for each in found["points"]]
    labels = sorted({each.point.labels for each in measured})
    panels = []
    for alpha, title in ((1.0, "α = 1"), (None, "α chosen")):
        by_point = {each.point: each for each in dial.gains(measured, alpha)}
        for knows, quality in product(
            ("all", "shared"), sorted({each.point.quality for each in measured}, reverse=True)
        ):
            cells = [[by_point[dial.Point(*place, size, quality, knows)] for size in labels] for place in PLACES]
            named = (
                f"{title}, teacher knows\n{'what matters' if knows == 'all' else 'what is shared'}, quality {quality:g}"
            )
            scores = [[cell.difference for cell in row] for row in cells]
            panels.append((named, scores, [[cell.is_claim for cell in row] for row in cells]))
    across = len(panels) // 2
    sizes, unit = [str(size) for size in labels], "gain in accuracy, points"
    figure = surfaces.surfaces(panels, list(PLACES.values()), sizes, across, "labelled posts", unit)
    figures.save(figure, STORED / "dial_gain.png", 110)
    curves: dict[str, dict[str, list[Score]]] = {}
    for knows, title in (("all", "teacher knows what matters"), ("shared", "teacher knows what is shared")):
        of_place = {each.point: each.accuracy for each in measured}
        curves[title] = {
            name: [t_score(row) for row in of_place[dial.Point(*place, labels[1], 1.0, knows)]]
            for place, name in PLACES.items()
        }
    figures.save(surfaces.weight_curves(curves, dial.ALPHAS, "test accuracy, %"), STORED / "dial_alpha.png", 110)
    names = {"logistic_regression": "logistic regression", "svm": "support vector machine"}
    estimates = {
        name: [
            (
                float(np.log(2)) * (each["shares"].get("redundancy", 0) - each["shares"].get("synergy", 0)),
                from_dict(Score, each["told"][kind]["overlap"]),
            )
            for each in found["places"]
        ]
        for kind, name in names.items()
    }
    figure = surfaces.against_truth(estimates, "redundancy − synergy, nats", "estimated overlap, nats")
    figures.save(figure, STORED / "dial_estimate.png", 110)


def t_score(values: list[float]) -> Score:
    """Mean over seeds with a t interval."""
    mean, n = float(np.mean(values)), len(values)
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return Score(mean, mean - half, mean + half, n=n)
