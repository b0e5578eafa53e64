"""Results as rows of cells, the same for every format."""

from collections.abc import Collection, Iterable, Sequence

from clfa.evidence.results import Comparison, Difference, Gap, ReproducedRow, Reproduction, SystemScores, Tried
from clfa.evidence.significance import ENOUGH_RUNS
from clfa.metrics import METRICS, SHOWN, Score

Rows = list[list[str]]
"""Cells; the first row is the head."""

NAMES = {
    "majority": "majority class",
    "format_only": "format counts only, no words",
    "tfidf_logistic_regression": "TF-IDF of words and letters + logistic regression",
    "text_only": "text only",
    "image_only": "image only",
    "late_fusion": "late fusion of the two",
    "teacher_probe": "linear probe on the teacher",
    "teacher_svm": "support vector machine on the teacher",
    "no_alignment": "no alignment",
    "clfa": "CLFA",
}
"""Systems and floors by the names that people read."""


def name_of(system: str) -> str:
    """A system or floor as people read it."""
    return NAMES.get(system, system.replace("_", " "))


def cell(score: Score | None, metric: str = "accuracy", signed: bool = False) -> str:
    """A score in a table, a dash where there is none."""
    return "–" if score is None else score.text(METRICS[metric].unit, signed)


def p_text(p: float) -> str:
    """A p value: three decimals from .001 on; below, that it is below."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def titles(metrics: Iterable[str]) -> list[str]:
    """Heads of the columns of some metrics."""
    return [METRICS[metric].title for metric in metrics]


def shown(metrics: Collection[str]) -> list[str]:
    """Which of the metrics a table shows."""
    return [name for name in SHOWN if name in metrics]


def system_rows(systems: Sequence[SystemScores], metrics: Sequence[str], runs: str = "seeds") -> Rows:
    """Systems with their scores."""
    return [["system", runs, *titles(metrics)]] + [
        [
            NAMES.get(system.system, system.system),
            str(len(system.seeds)),
            *(cell(system.metrics[metric], metric) for metric in metrics),
        ]
        for system in systems
    ]


def tried_rows(tried: Sequence[Tried], metric: str, scored_on: str) -> Rows:
    """What `clfa fit` tried, in its metric and those of every table."""
    metrics = list(dict.fromkeys([metric, "accuracy", "macro_f1"]))
    return [[scored_on, *titles(metrics), "verdict", ""]] + [
        [each.name, *(cell(each.metrics[name], name) for name in metrics), each.verdict, "taken" if each.chosen else ""]
        for each in tried
    ]


def system_values(systems: Sequence[SystemScores], metrics: Sequence[str]) -> Rows:
    """Systems with their scores in percent and one number a cell."""
    rows = [["system", "seeds", *(f"{name}{end}" for name in metrics for end in ("", " sd", " low", " high"))]]
    for system in systems:
        numbers = [number for metric in metrics for number in _numbers(system.metrics[metric])]
        rows.append([system.system, str(len(system.seeds)), *_percents(numbers)])
    return rows


def _numbers(score: Score) -> list[float | None]:
    return [score.value, score.sd, score.low, score.high]


def _percents(fractions: Iterable[float | None]) -> list[str]:
    """In percent, nothing for `None`."""
    return ["" if fraction is None else f"{100 * fraction:.2f}" for fraction in fractions]


def difference_rows(differences: Sequence[Difference], metrics: Sequence[str]) -> Rows:
    """Differences of a sweep."""
    rows = [["system", *titles(metrics), "McNemar p (only it / only the other right)"]]
    for row in differences:
        test = row.mcnemar
        p = f"{p_text(test.p)} ({test.only_system_right} / {test.only_base_right})" if test else "–"
        rows.append([row.system, *(cell(row.metrics[name].difference, name, signed=True) for name in metrics), p])
    return rows


def comparison_rows(comparison: Comparison) -> Rows:
    """The tests of a comparison."""
    metric = comparison.metric
    heads = ["detectable", "p", "p (Holm)", "McNemar p", "ASO ε", "verdict"]
    rows = [["system", "minus", f"{METRICS[metric].title}, points", *heads]]
    for row in comparison.comparisons:
        gap = row.metrics[metric]
        rows.append(
            [
                row.system,
                row.minus,
                cell(gap.difference, metric, signed=True),
                f"{100 * gap.detectable:.1f}",
                p_text(gap.p),
                p_text(gap.p_holm),
                p_text(row.mcnemar.p) if row.mcnemar else "–",
                f"{row.aso.epsilon_min:.2f}" if row.aso else "–",
                verdict_word(gap, "better", "worse"),
            ]
        )
    return rows


def verdict_word(gap: Gap, better: str, worse: str) -> str:
    """A verdict in a few words; with fewer than five runs a claim is about these runs, not about the systems."""
    if not gap.is_claim:
        return "cannot tell"
    few = "" if gap.difference.n >= ENOUGH_RUNS else "in these runs "
    return few + (better if gap.difference.value > 0 else worse)


def comparison_values(comparison: Comparison) -> Rows:
    """The tests of a comparison as plain fractions, one number a cell."""
    heads = ["difference", "low", "high", "detectable", "p", "p_holm", "mcnemar_p", "aso_epsilon"]
    rows = [["system", "minus", "metric", *heads]]
    for row in comparison.comparisons:
        gap = row.metrics[comparison.metric]
        score = gap.difference
        numbers = [score.value, score.low, score.high, gap.detectable, gap.p, gap.p_holm]
        numbers += [row.mcnemar.p if row.mcnemar else None, row.aso.epsilon_min if row.aso else None]
        cells = ["" if number is None else str(number) for number in numbers]
        rows.append([row.system, row.minus, comparison.metric, *cells])
    return rows


def reproduction_rows(result: Reproduction, with_unrun: bool = True) -> Rows:
    """Floors, then systems, each published figure behind ours; `*` after a name marks stand-ins.

    Binary F1 is shown where figures of it were published.
    """
    metrics = ["accuracy", "macro_f1"]
    metrics += ["binary_f1"] if any("binary_f1" in row.published for row in result.rows) else []
    rows = [["system", "verdict", "runs", *(head for title in titles(metrics) for head in (title, "published"))]]
    for floor, scores in result.floors.items():
        values = [f"{100 * scores[metric].value:.1f}" if metric in scores else "–" for metric in metrics]
        rows.append([name_of(floor), "floor", "", *(text for value in values for text in (value, ""))])
    for row in result.rows:
        if row.metrics or with_unrun:
            cells = [row.name + ("*" if row.stand_ins else ""), row.verdict, str(row.runs or "–")]
            for metric in metrics:
                figure = row.published.get(metric)
                cells += [cell(row.metrics.get(metric)), "–" if figure is None else f"{100 * figure:.2f}"]
            rows.append(cells)
    return rows


def reproduction_values(result: Reproduction) -> Rows:
    """The same in percent, a row for each system and metric and one number a cell."""
    heads = ["ours", "sd", "low", "high", "published", "verdict", "why", "stand_ins", "notes"]
    rows = [["system", "runs", "metric", *heads]]
    for row in result.rows:
        words = [row.verdict, row.why, "; ".join(row.stand_ins), "; ".join(row.notes)]
        for metric in row.metrics or ("accuracy", "macro_f1"):
            score = row.metrics.get(metric)
            ours = _numbers(score) if score else [None] * 4
            rows.append([row.system, str(row.runs), metric, *_percents([*ours, row.published.get(metric)]), *words])
    return rows


def footnotes(rows: Iterable[ReproducedRow]) -> list[str]:
    """Why each row of a reproduced table has its verdict, what stands in, what to know."""
    lines = []
    for row in rows:
        notes = [f"{row.verdict}, {row.why}" if row.why else row.verdict]
        missing = [text for text in row.stand_ins if text not in row.why]
        notes += ["Stand-ins: " + "; ".join(missing)] if missing else []
        notes += [note[:1].upper() + note[1:] for note in row.notes]
        lines.append(f"{row.name}: " + ". ".join(note.rstrip(".") for note in notes) + ".")
    return lines
