"""Rows of cells as Markdown, LaTeX and CSV, and results as text for a terminal."""

import csv
from collections.abc import Mapping
from functools import singledispatch
from pathlib import Path

from clfa.data.atomic import replacing
from clfa.data.check import Check
from clfa.data.problems import PROBLEMS
from clfa.data.records import Manifest
from clfa.evidence.results import Audit, Comparison, Demo, Evaluation, Export, Fit, Probe, Reproduction, Scores, Sweep
from clfa.metrics import METRICS
from clfa.report.tables import Rows, cell, footnotes, name_of, reproduction_rows, system_rows, tried_rows

PAIR = ("accuracy", "macro_f1")
FINDINGS = 12
SHARE_DONE = "this process of torchrun has trained its share; the first one writes the tables"

_LATEX = str.maketrans(
    {sign: "\\" + sign for sign in "&%$#_{}"}
    | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "±": r"$\pm$",
        "−": "$-$",
        "ε": r"$\varepsilon$",
        "–": "--",
        "≤": r"$\leq$",
        "≥": r"$\geq$",
        "×": r"$\times$",
        "→": r"$\to$",
        "…": r"\dots{}",
        "↓": r"$\downarrow$",
    }
)


def markdown(rows: Rows) -> str:
    """A Markdown table."""
    head, *lines = ("| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *lines])


def latex(rows: Rows) -> str:
    """A LaTeX `tabular` (needs the package booktabs)."""
    escaped = ([cell.translate(_LATEX) for cell in row] for row in rows)
    head, *lines = (" & ".join(row) + r" \\" for row in escaped)
    columns = "l" + "r" * (len(rows[0]) - 1)
    begin = ["% needs \\usepackage{booktabs}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule"]
    return "\n".join([*begin, *lines, r"\bottomrule", r"\end{tabular}"])


def latex_text(text: str) -> str:
    """A note below a table."""
    return rf"\par\noindent{{\footnotesize {text.translate(_LATEX)}}}"


def aligned(rows: Rows) -> str:
    """Columns for a terminal."""
    widths = [max(map(len, column)) for column in zip(*rows)]
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
def _dataset(manifest: Manifest) -> str:
    rows = [["", "posts", "without image", "dropped", "classes"]]
    for split, counts in manifest["splits"].items():
        numbers = [f"{counts[key]:,}" for key in ("rows", "without_image", "dropped")]
        rows.append([f"  {split}", *numbers, _listed(counts["labels"])])
    how = [manifest["split"]] if manifest.get("split") else []
    return "\n".join(
        [f"{manifest['name']}: {len(manifest['labels'])} classes", aligned(rows), *how, *manifest["filters"]]
    )


@terminal.register
def _check(result: Check) -> str:
    """Each code with what it means, its first places and what helps."""
    total = f"{result.errors:,} errors, {result.warnings:,} warnings" if result.counts else "no problems"
    lines = [f"{result.source}: {result.posts:,} posts, {total}; {result.seconds:g} s"]
    for code in sorted(result.counts, key=lambda code: PROBLEMS[code].severity):
        kind, count = PROBLEMS[code], result.counts[code]
        lines += ["", f"{kind.severity}: {code}, {count:,} times. {kind.what} {kind.fix}"]
        shown = [each for each in result.first if each.code == code]
        for each in shown:
            of = f" ({each.id})" if each.id else ""
            what = each.message or repr(each.value)
            lines.append(f"  {what if what.startswith(each.where) else f'{each.where}{of}: {what}'}")
        if count > len(shown):
            lines.append(f"  … and {count - len(shown):,} more in {result.file}")
    return "\n".join(lines)


@terminal.register
def _export(result: Export) -> str:
    lines = [
        f"{result.output}: {result.megabytes:.1f} MB",
        f"equal to the run on {result.compared:,} posts ({result.posts_of}): labels, prepared inputs, and logits within "
        f"{result.largest_difference:.1g}",
    ]
    if result.int8 is not None:
        cost = result.int8
        gaps = [
            f"{METRICS[name].title} {gap.text(METRICS[name].unit, signed=True)}"
            for name, gap in cost.differences.items()
        ]
        lines.append(f"8 bit integers change {cost.changed:,} of {cost.rows:,} labels on validation: {', '.join(gaps)}")
    return "\n".join(lines)


def _listed(counts: Mapping[str, int], most: int = 6) -> str:
    """Classes with their posts, the largest first."""
    ordered = sorted(counts.items(), key=lambda pair: -pair[1])
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(f"{name} {count:,}" for name, count in ordered[:most]) + more


@terminal.register
def _evaluation(result: Evaluation) -> str:
    lines = [f"{result.run}, {result.split}, {result.rows:,} posts"]
    lines += [f"  {METRICS[name].title:<20} {cell(score, name)}" for name, score in result.metrics.items()]
    calibration = result.calibration
    if calibration and calibration.after:
        before, after = (100 * errors.metrics["ece"].value for errors in (calibration.before, calibration.after))
        lines.append(f"calibration error {before:.1f} points, {after:.1f} at temperature {calibration.temperature:.2f}")
    else:
        lines.append(f"calibration error {100 * result.ece:.1f} points")
    lines += _floors(result)
    unseen, neutral = result.deduplicated, result.neutralised
    if unseen and unseen.metrics:
        lines.append(f"on the {unseen.rows:,} posts not in the training set: {_pair(unseen.metrics)}")
    if neutral:
        lines.append(f"with formatting cues neutralised ({neutral.changed:,} posts change): {_pair(neutral.metrics)}")
    lines += [
        f"predictions that flip by {change}: {flip.flipped:,} of {flip.posts:,}"
        for change, flip in result.flips.items()
    ]
    if result.groups:
        lines.append(f"groups: {len(result.groups)}, see report-{result.split}.html")
    return "\n".join([*lines, *_below_floors(result)])


def _pair(scores: Scores) -> str:
    return ", ".join(f"{METRICS[name].title} {100 * scores[name].value:.1f}" for name in PAIR)


def _floors(result: Audit | Evaluation | Fit) -> list[str]:
    return [f"floor {name_of(name)}: {_pair(scores)}" for name, scores in result.floors.items()]


def _below_floors(result: Evaluation | Fit) -> list[str]:
    """A line that names the floors that are at least as good in accuracy or macro F1."""
    weak = {
        name_of(floor): [METRICS[name].title for name in PAIR if scores[name].value >= result.metrics[name].value]
        for floor, scores in result.floors.items()
    }
    listed = [f"{floor} ({', '.join(titles)})" for floor, titles in weak.items() if titles]
    return [f"NOT ABOVE THESE FLOORS: {'; '.join(listed)}"] if listed else []


@terminal.register
def _audit(result: Audit) -> str:
    """The twelve most harmful findings, then the floors."""
    harmful = [finding for finding in result.findings if finding.harm > 0][:FINDINGS]
    lines = ["affected posts in %, for a cue (+) the points of accuracy that it alone gains over the majority class:"]
    for finding in harmful:
        sign = "+" if finding.kind.startswith("cue") else " "
        lines.append(f"{sign}{100 * finding.harm:5.1f}  {finding.text}")
    more = sum(finding.harm > 0 for finding in result.findings) - len(harmful)
    lines += [f"… and {more} more in audit.html"] if more else []
    if not harmful:
        lines = ["nothing that touches the evaluated split was found"]
    return "\n".join([*lines, "", *_floors(result)])


@terminal.register
def _fit(result: Fit) -> str:
    """What was tried, what was taken, what it is worth on test, what to try next."""
    lines = [aligned(tried_rows(result.tried, result.metric, "out of fold")), ""]
    if result.on_validation:
        lines += [aligned(tried_rows(result.on_validation, result.metric, "validation")), ""]
    scored = ", ".join(
        f"{METRICS[name].title} {cell(result.metrics[name], name)}" for name in dict.fromkeys([result.metric, *PAIR])
    )
    opened = "once" if result.openings == 1 else f"{result.openings} times"
    lines.append(f"test, {result.test_posts:,} posts, opened {opened}: {scored}")
    lines += _floors(result)
    lines += _below_floors(result)
    if result.left_out:
        lines += [
            "",
            f"left out for lack of time ({result.minutes:g} minutes):",
            *(f"  {each}" for each in result.left_out),
        ]
    return "\n".join([*lines, "", "next:", *(f"  {advice}" for advice in result.advice)])


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
