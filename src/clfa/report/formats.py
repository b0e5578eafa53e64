"""Cells of scores, and one table in several formats: rows of cells, the first row the head."""

import csv
from pathlib import Path
from typing import Any

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


def score_cell(found: dict[str, Any]) -> str:
    """Mean ± sd [low, high] in percent; no sd where there is one run."""
    low, high = found["ci95"]
    spread = f" ± {100 * found['sd']:.1f}" if len(found["values"]) > 1 else ""
    return f"{100 * found['mean']:.1f}{spread} [{100 * low:.1f}, {100 * high:.1f}]"


def difference_cell(found: dict[str, Any]) -> str:
    """Mean [low, high] of a difference in points, with signs."""
    mean, low, high = (round(100 * value, 1) + 0.0 for value in (found["mean"], *found["ci95"]))  # no "-0.0"
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]"


def markdown(rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def latex(rows: list[list[str]]) -> str:
    """A LaTeX `tabular` in the style of booktabs."""
    lines = [" & ".join("".join(_LATEX.get(sign, sign) for sign in cell) for cell in row) + r" \\" for row in rows]
    columns = "l" + "r" * (len(rows[0]) - 1)
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            lines[0],
            r"\midrule",
            *lines[1:],
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def write_csv(rows: list[list], path: Path) -> None:
    """A CSV file."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
