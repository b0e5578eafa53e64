"""What docs/when-alignment-helps.md says and shows, from docs/results/dial.json; part of make_docs.py."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from clfa.evidence.results import from_dict
from clfa.metrics import Score, holm, is_claim
from clfa.report import figures, surfaces
from clfa.studies import dial

STORED = Path(__file__).resolve().parent / "results"
WEIGHT = 1.0
"""The paper's alignment weight."""
PLACES = {
    (0.0, "unique"): "unique",
    (0.5, "unique"): "half unique, half redundant",
    (1.0, "unique"): "redundant",
    (0.5, "synergy"): "half redundant, half synergy",
    (0.0, "synergy"): "synergy",
}
"""Places of the dial as people read them: redundancy, what the rest is."""
TEACHERS = {"all": "knows what matters", "shared": "knows what is shared"}
"""What the teachers know."""
NAMES = {"logistic_regression": "logistic regression", "svm": "support vector machine"}


def measured(found: dict[str, Any], part: str) -> list[dial.Measured]:
    """The `points` of the surface, or the `more` beside it."""
    return [from_dict(dial.Measured, each) for each in found[part]]


def middle(found: dict[str, Any]) -> int:
    """The number of labels at which all further points are measured."""
    return sorted({each["point"]["labels"] for each in found["points"]})[1]


def qualities(found: dict[str, Any]) -> list[float]:
    """Of the teachers."""
    return sorted({each["point"]["quality"] for each in found["points"]})


def gain_of(found: dict[str, Any], alpha: float | None) -> dict[dial.Point, dial.Gain]:
    """Point -> gain with a weight, or with the chosen one; p corrected over the surface, and over the points beside it."""
    gains = dial.gains(measured(found, "points"), alpha)
    return {
        each.point: each for each in gains + (dial.gains(measured(found, "more"), alpha) if alpha == WEIGHT else [])
    }


def dial_values(found: dict[str, Any]) -> dict[str, Any]:
    """What the page on the dial says."""
    surface = [each.point for each in measured(found, "points")]
    by_weight = {alpha: gain_of(found, alpha) for alpha in (*dial.ALPHAS[1:], None)}

    def gain(
        redundancy: float,
        rest: str,
        knows: str = "all",
        quality: float = 1.0,
        alpha: float | None = WEIGHT,
        labels: int = middle(found),
        steps: int = dial.STEPS,
    ) -> str:
        point = dial.Point(redundancy, rest, labels, quality, knows, steps)
        return by_weight[alpha][point].difference.text(signed=True)

    def claims(alpha: float | None, sign: int, knows: str = "", quality: float | None = None) -> int:
        """How many points of the surface have a claimed gain (loss, if the sign is -1), with these teachers."""
        return sum(
            by_weight[alpha][point].is_claim and sign * by_weight[alpha][point].difference.value > 0
            for point in surface
            if knows in ("", point.knows) and quality in (None, point.quality)
        )

    def accuracy(redundancy: float, rest: str, knows: str, alpha: float, steps: int = dial.STEPS) -> str:
        wanted = dial.Point(redundancy, rest, middle(found), 1.0, knows, steps)
        each = next(each for each in measured(found, "points") + measured(found, "more") if each.point == wanted)
        return t_score(each.accuracy[each.alphas.index(alpha)]).text()

    worst = min((by_weight[None][point] for point in surface), key=lambda each: each.difference.value)
    told = {tuple(each["place"]): each["told"] for each in found["places"]}
    last = next(
        each for each in measured(found, "points") if each.point == dial.Point(0.0, "synergy", middle(found), 1.0)
    )
    without_choice = np.array(last.last[last.alphas.index(WEIGHT)]) - np.array(last.last[0])
    values = {
        "gain": gain,
        "claims": claims,
        "accuracy": accuracy,
        "labels": sorted({point.labels for point in surface}),
        "middle": middle(found),
        "weight": WEIGHT,
        "alphas": dial.ALPHAS,
        "places": list(PLACES),
        "names": PLACES,
        "times": sorted({each.point.steps for each in measured(found, "more")} | {dial.STEPS}),
        "count": len(surface),
        "seeds": dial.SEEDS,
        "temperature": dial.TEMPERATURE,
        "validation": dial.VALIDATION,
        "test": dial.TEST,
        "steps": dial.STEPS,
        "qualities": qualities(found),
        "unselected": t_score(without_choice.tolist()).text(signed=True),
        "worst": worst.difference.text(signed=True),
        "worst_at": f"{PLACES[worst.point.redundancy, worst.point.rest]}, {worst.point.labels} labels, teacher "
        f"{TEACHERS[worst.point.knows]}, of quality {worst.point.quality:g}",
        "told": lambda place, kind, what: from_dict(Score, told[place][kind][what]).text("", signed=what == "overlap"),
        "bit": f"{np.log(2):.3f}",
        "predicted": predicted(found),
        "kinds": kinds(found),
        "mixtures": len(found["places"]),
        "real": {name: {"posts": each["posts"]} | _texts(each["told"]) for name, each in found["real"].items()},
    }
    return {"dial": values}


KIND_NAMES = {
    "info_nce": "InfoNCE, the paper's",
    "decoupled": "decoupled InfoNCE (Yeh et al. 2022)",
    "all_negatives": "InfoNCE, negatives from all training posts",
    "first": "InfoNCE first, then classification",
    "sigmoid": "sigmoid (SigLIP)",
    "mimicry": "mimicry of features (CLIP-KD)",
    "affinity": "affinity across modalities (TinyCLIP)",
    "confidence_gate": "InfoNCE, weighted by the teacher's confidence",
    "decay": "InfoNCE, its weight decaying to 0",
}
"""Kinds of guidance as people read them; those that `clfa.studies.dial.KINDS` lacks are deleted."""


def kinds(found: dict[str, Any]) -> dict[str, Any]:
    """A row for each kind of guidance: its gain at each point, its weight chosen on validation; bold: told from InfoNCE."""
    by_kind: dict[str, dict[dial.Point, dial.Measured]] = {}
    for each in measured(found, "kinds"):
        by_kind.setdefault(each.point.guidance, {})[replace(each.point, guidance="info_nce")] = each
    usual = by_kind["info_nce"]
    alphas = next(iter(usual.values())).alphas
    against = {
        (kind, point): dial.paired(each.chosen(alphas), usual[point].chosen(alphas))
        for kind, own in by_kind.items()
        for point, each in own.items()
        if kind != "info_nce"
    }
    corrected = dict(zip(against, holm([p for _, p in against.values()])))
    rows = [["", *(f"{p.rest}, {_teacher_of(p)}, batch {p.batch}" for p in usual)]]
    for kind, name in KIND_NAMES.items():
        cells = []
        for point in usual:
            gain = dial.paired(by_kind[kind][point].chosen(alphas), usual[point].accuracy[0])[0].text(signed=True)
            told = kind != "info_nce" and is_claim(against[kind, point][0], corrected[kind, point])
            cells.append(f"**{gain}**" if told else gain)
        rows.append([name if kind in dial.KINDS else f"{name}; deleted", *cells])
    return {
        "rows": rows,
        "compared": len(against),
        "alphas": alphas,
        "against": lambda kind, rest, batch: next(
            gap.text(signed=True)
            for (own, p), (gap, _) in against.items()
            if (own, p.rest, p.batch, p.quality, p.knows) == (kind, rest, batch, 1.0, "all")
        ),
        "batches": sorted({p.batch for p in usual}),
    }


def _teacher_of(point: dial.Point) -> str:
    quality = "" if point.quality == 1 else f" with quality {point.quality:g}"
    return f"teacher {TEACHERS[point.knows]}{quality}"


def mixtures(found: dict[str, Any], knows: str) -> list[tuple[dict[str, Any], dial.Measured, dial.Gain]]:
    """What probes say, what was measured, and the gain with the paper's weight, at each mixture; a clean teacher."""
    gains = gain_of(found, WEIGHT)
    by_point = {each.point: each for part in ("points", "more") for each in measured(found, part)}
    points = [dial.Point(*each["place"], middle(found), 1.0, knows) for each in found["places"]]
    return [(each, by_point[point], gains[point]) for each, point in zip(found["places"], points)]


def predicted(found: dict[str, Any]) -> list[list[str]]:
    """How much of the spread of gains over mixtures each number predicts, as a table."""
    estimates = {
        "true redundancy − synergy": lambda place, _: truth(place),
        "overlap, logistic regression": lambda place, _: place["told"]["logistic_regression"]["overlap"]["value"],
        "overlap, support vector machine": lambda place, _: place["told"]["svm"]["overlap"]["value"],
        "what both tell, support vector machine": lambda place, _: place["told"]["svm"]["both"]["value"],
        "accuracy without alignment": lambda _, each: float(np.mean(each.accuracy[0])),
        "what the teacher tells": lambda place, each: place["teacher"][each.point.knows]["value"],
        "what the teacher tells − what both tell": lambda place, each: (
            place["teacher"][each.point.knows]["value"] - place["told"]["svm"]["both"]["value"]
        ),
    }
    teachers: dict[str, tuple[str, ...]] = {f"teacher {TEACHERS[knows]}": (knows,) for knows in ("all", "shared")}
    teachers["both"] = ("all", "shared")
    rows = [["predictor", *teachers]]
    for name, estimate in estimates.items():
        cells = []
        for kinds in teachers.values():
            drawn = [each for knows in kinds for each in mixtures(found, knows)]
            gains = np.array([gain.difference.value for _, _, gain in drawn])
            cells.append(f"{dial.explained(np.array([estimate(place, each) for place, each, _ in drawn]), gains):.2f}")
        rows.append([name, *cells])
    return rows


def truth(place: dict[str, Any]) -> float:
    """Redundancy minus synergy, in nats."""
    return float(np.log(2)) * (place["shares"].get("redundancy", 0) - place["shares"].get("synergy", 0))


def _texts(told: dict[str, Any]) -> dict[str, Any]:
    return {
        kind: {name: value if name == "label" else from_dict(Score, value).text("") for name, value in of_kind.items()}
        for kind, of_kind in told.items()
    }


def draw_dial(found: dict[str, Any]) -> None:
    """Surfaces of gain, accuracy by weight, estimates against the truth and against the gain."""
    labels = sorted({each.point.labels for each in measured(found, "points")})
    columns = {
        ("shared", "labelled posts"): [(size, 1.0) for size in labels],
        ("all", "labelled posts"): [(size, 1.0) for size in labels],
        ("all", f"quality of the teacher ({middle(found)} posts)"): [
            (middle(found), each) for each in qualities(found)
        ],
    }
    panels = []
    for alpha, title in ((WEIGHT, f"α = {WEIGHT:g}"), (None, "α chosen on validation")):
        gains = gain_of(found, alpha)
        for (knows, below), places in columns.items():
            rows = [[gains[dial.Point(*place, *column, knows)] for column in places] for place in PLACES]
            heads = [f"{size if below == 'labelled posts' else quality:g}" for size, quality in places]
            scores, claimed = [
                [[getattr(cell, name) for cell in row] for row in rows] for name in ("difference", "is_claim")
            ]
            panels.append(surfaces.Panel(f"teacher {TEACHERS[knows]}\n{title}", heads, below, scores, claimed))
    text = "Alignment helps where the teacher knows what decides the label, and hurts where it does not"
    figure = surfaces.surfaces(panels, list(PLACES.values()), len(columns), text, "gain in accuracy, points")
    figures.save(figure, STORED / "dial_gain.png", 110)

    by_point = {each.point: each for each in measured(found, "points")}
    weights = max((each.alphas for each in by_point.values()), key=len)
    curves = {
        f"teacher {teacher}": {
            name: [t_score(row) for row in by_point[dial.Point(*place, middle(found), 1.0, knows)].accuracy]
            for place, name in PLACES.items()
        }
        for knows, teacher in TEACHERS.items()
    }
    text = "The stronger the pull, the more it counts what the teacher knows"
    figures.save(surfaces.weight_curves(curves, weights, text, "test accuracy, %"), STORED / "dial_alpha.png", 110)

    estimates = {
        name: [(truth(each), from_dict(Score, each["told"][kind]["overlap"])) for each in found["places"]]
        for kind, name in NAMES.items()
    }
    axes = ("true redundancy − synergy, nats", "estimated overlap, nats")
    figure = surfaces.scatter({"Probes see redundancy, and little of synergy": estimates}, *axes, diagonal=True)
    figures.save(figure, STORED / "dial_estimate.png", 110)

    against = {}
    for knows in ("all", "shared"):
        series: dict[str, list[tuple[float, Score]]] = {"without synergy": [], "with synergy": []}
        for place, _, gain in mixtures(found, knows):
            estimate = place["told"]["svm"]["overlap"]["value"]
            kind = "with synergy" if place["shares"].get("synergy") else "without synergy"
            series[kind].append((estimate, gain.difference))
        against[f"teacher {TEACHERS[knows]}"] = series
    axes = ("estimated overlap (support vector machine), nats", f"gain at α = {WEIGHT:g}, points")
    figures.save(surfaces.scatter(against, *axes, factor=100), STORED / "dial_predicts.png", 110)


def t_score(values: Sequence[float]) -> Score:
    """Mean over seeds with a t interval."""
    mean, n = float(np.mean(values)), len(values)
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n))
    return Score(mean, mean - half, mean + half, n=n)
