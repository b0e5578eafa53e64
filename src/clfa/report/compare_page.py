"""A comparison as Markdown, CSV, LaTeX and HTML, all from the content of `comparison.json`."""

from pathlib import Path
from typing import Any

from clfa.report.formats import difference_cell, latex, markdown, score_cell, write_csv
from clfa.report.page import BLUE, GREY, figure_source, plain_axes, render


def write_comparison(result: dict[str, Any], out: Path) -> None:
    """Write `comparison.md`, `.csv`, `.tex` and `.html` to the folder `out`."""
    names = [n for n in ("accuracy", "macro_f1", "weighted_f1", "binary_f1") if n in result["systems"][0]]
    titles = [name.replace("_", " ").replace("f1", "F1") for name in names]
    systems = [["system", "runs", *titles]]
    systems += [[row["system"], str(row["runs"]), *(score_cell(row[n]) for n in names)] for row in result["systems"]]
    metric = result["metric"].replace("_", " ").replace("f1", "F1")
    tests = [["system", "minus", f"{metric}, points", "detectable", "p", "p (Holm)", "McNemar p", "ASO ε", "verdict"]]
    for row in result["comparisons"]:
        tests.append(
            [
                row["system"],
                row["minus"],
                difference_cell({"mean": row["difference"], "ci95": row["ci95"]}),
                f"{100 * row['detectable']:.1f}",
                f"{row['p']:.4f}",
                f"{row['p_holm']:.4f}",
                f"{row['mcnemar']['p']:.4f}" if row["mcnemar"] else "–",
                f"{row['aso']['epsilon_min']:.2f}" if row["aso"] else "–",
                ("better" if row["difference"] > 0 else "worse") if row["told"] else "cannot tell",
            ]
        )
    verdicts = [row["verdict"] for row in result["comparisons"]]
    note = (
        f"{result['posts']:,} posts of {result['split']}. Percent: mean ± standard deviation over runs [95 % interval over "
        "runs and posts]; differences in points, paired. Detectable: the smallest true difference that a 5 % test finds "
        "with 80 % power. ASO: ε ≤ 0.2 is dominance."
    )
    text = "\n\n".join([*verdicts, markdown(systems), markdown(tests), note])
    (out / "comparison.md").write_text(text + "\n", encoding="utf-8")
    (out / "comparison.tex").write_text(latex(systems) + "\n\n" + latex(tests) + "\n", encoding="utf-8")
    head = [
        "system",
        "minus",
        "metric",
        "difference",
        "low",
        "high",
        "detectable",
        "p",
        "p_holm",
        "mcnemar_p",
        "aso_epsilon",
    ]
    write_csv(
        [
            head,
            *(
                [
                    row["system"],
                    row["minus"],
                    result["metric"],
                    row["difference"],
                    *row["ci95"],
                    row["detectable"],
                    row["p"],
                    row["p_holm"],
                    row["mcnemar"]["p"] if row["mcnemar"] else "",
                    row["aso"]["epsilon_min"] if row["aso"] else "",
                ]
                for row in result["comparisons"]
            ),
        ],
        out / "comparison.csv",
    )
    figure = {"source": figure_source(_forest(result)), "caption": f"Differences in {metric} from {result['base']}."}
    sections: list[dict[str, Any]] = [
        {"title": "Verdict", "text": verdicts, "figures": [figure]},
        {"title": "Systems", "text": [note], "table": {"head": systems[0], "rows": systems[1:]}},
        {"title": "Tests", "table": {"head": tests[0], "rows": tests[1:]}},
    ]
    render(out / "comparison.html", f"Comparison with {result['base']}", f"split {result['split']}, {metric}", sections)


def _forest(result: dict[str, Any]) -> Any:
    rows = result["comparisons"][::-1]
    figure, axes = plain_axes(7.2, 1.2 + 0.45 * len(rows))
    for place, row in enumerate(rows):
        low, high = (100 * bound for bound in row["ci95"])
        detectable = 100 * row["detectable"]
        axes.plot([-detectable, detectable], [place, place], color=GREY, alpha=0.3, linewidth=9, solid_capstyle="butt")
        axes.plot([low, high], [place, place], color=BLUE)
        axes.plot(100 * row["difference"], place, "o", color=BLUE)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_yticks(range(len(rows)), [row["system"] for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel("points; grey: under the minimum detectable effect (80 % power)")
    axes.grid(axis="x", color="#e8e8e8")
    return figure
