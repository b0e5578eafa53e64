"""Rows of cells as Markdown, LaTeX and CSV, and results as text for a terminal."""

import csv
from functools import singledispatch
from pathlib import Path

from clfa.data.atomic import replacing
from clfa.evidence.results import Audit, Comparison, Demo, Evaluation, Probe, Reproduction, Scores, Slice, Sweep
from clfa.metrics import METRICS
from clfa.report.tables import Rows, cell, footnotes, name_of, reproduction_rows, system_rows

PAIR = ("accuracy", "macro_f1")
FINDINGS = 12
SHARE_DONE = "this process of torchrun has trained its share; the first one writes the tables"

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "−": "$-$",
    "ε": r"$\varepsilon$",
    "–": "--",
}


def markdown(rows: Rows) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def latex(rows: Rows) -> str:
    """A LaTeX `tabular` in the style of booktabs."""
    lines = [" & ".join("".join(_LATEX.get(sign, sign) for sign in cell) for cell in row) + r" \\" for row in rows]
    columns = "l" + "r" * (len(rows[0]) - 1)
    head = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule"]
    return "\n".join([*head, *lines[1:], r"\bottomrule", r"\end{tabular}"])


def aligned(rows: Rows) -> str:
    """Columns for a terminal."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def write_csv(rows: Rows, path: Path) -> None:
    """A CSV file."""
    with replacing(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


@singledispatch
def terminal(result: object) -> str:
    """A result as text."""
    return str(result)


@terminal.register
def _evaluation(result: Evaluation) -> str:
    lines = [f"{result.run}, {result.split}, {result.rows:,} posts"]
    lines += [f"  {METRICS[name].title:<20} {cell(score, name)}" for name, score in result.metrics.items()]
    if result.calibration and result.calibration.after:
        errors = [result.calibration.before.metrics["ece"], result.calibration.after.metrics["ece"]]
        before, after = (f"{100 * error.value:.1f}" for error in errors)
        scaled = f"{after} at temperature {result.calibration.temperature:.2f}"
        lines.append(f"calibration error {before} points, {scaled}")
    else:
        lines.append(f"calibration error {100 * result.ece:.1f} points")
    lines += [f"floor {name_of(name)}: {_pair(scores)}" for name, scores in result.floors.items()]
    for found, what in (
        (result.deduplicated, "on the {0.rows:,} posts not in the training set"),
        (result.neutralised, "with formatting cues neutralised ({0.changed:,} posts change)"),
    ):
        if isinstance(found, Slice) and found.metrics:
            lines.append(f"{what.format(found)}: {_pair(found.metrics)}")
    lines += [
        f"predictions that flip by {change}: {flip.flipped:,} of {flip.posts:,}"
        for change, flip in result.flips.items()
    ]
    if result.groups:
        lines.append(f"groups: {len(result.groups)}, see report-{result.split}.html")
    return "\n".join([*lines, *_below_floors(result)])


def _pair(scores: Scores) -> str:
    return ", ".join(f"{METRICS[name].title} {100 * scores[name].value:.1f}" for name in PAIR)


def _below_floors(result: Evaluation) -> list[str]:
    """A line for each floor that is at least as good."""
    return [
        f"NOT ABOVE THE FLOOR {name_of(floor)}: {METRICS[name].title} {100 * scores[name].value:.1f} against "
        f"{100 * result.metrics[name].value:.1f} of this run"
        for floor, scores in result.floors.items()
        for name in PAIR
        if scores[name].value >= result.metrics[name].value
    ]


@terminal.register
def _audit(result: Audit) -> str:
    """The twelve most harmful findings, then the floors."""
    harmful = [finding for finding in result.findings if finding.harm > 0][:FINDINGS]
    lines = ["nothing that touches the evaluated split was found"]
    if harmful:
        lines = [
            "affected posts in %, for a cue (+) the points of accuracy that it alone gains over the majority class:"
        ]
    for finding in harmful:
        sign = "+" if finding.kind.startswith("cue") else " "
        lines.append(f"{sign}{100 * finding.harm:5.1f}  {finding.text}")
    return "\n".join([*lines, "", *(f"floor {name_of(name)}: {_pair(found)}" for name, found in result.floors.items())])


@terminal.register
def _comparison(result: Comparison) -> str:
    return "\n".join(row.verdict for row in result.comparisons)


@terminal.register
def _probe(result: Probe) -> str:
    return f"{result.run}, {result.split}, {result.posts:,} posts: {result.verdict}"


@terminal.register
def _reproduction(result: Reproduction) -> str:
    """The short table in columns, then why each row has its verdict."""
    if not result.rows:
        return SHARE_DONE
    return "\n".join([aligned(reproduction_rows(result)), "", *footnotes(result.rows)])


@terminal.register(Sweep)
@terminal.register(Demo)
def _systems(result: Sweep | Demo) -> str:
    """The systems, aligned; then the paired differences."""
    if not result.systems:
        return SHARE_DONE
    lines = [aligned(system_rows(result.systems, PAIR)), ""]
    lines.append("percent: mean ± standard deviation over seeds [95 % interval over seeds and test posts]")
    for row in result.differences:
        gaps = (f"{METRICS[name].title} {cell(row.metrics[name].difference, name, signed=True)}" for name in PAIR)
        lines.append(f"{row.system} minus {row.minus}: {', '.join(gaps)} points")
    return "\n".join(lines)
