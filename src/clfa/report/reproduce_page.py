"""A reproduced table as Markdown, CSV, LaTeX and HTML, all from the content of `reproduce.json`."""

from pathlib import Path
from typing import Any

from clfa.report.formats import latex, markdown, write_csv
from clfa.report.page import BLUE, GREY, ORANGE, figure_source, plain_axes, render

FLOORS = {
    "majority": "majority class",
    "format_only": "format counts only, no words",
    "tfidf_logistic_regression": "TF-IDF + logistic regression",
}
METRICS = {"accuracy": "accuracy", "macro_f1": "macro F1", "binary_f1": "binary F1"}


def write_pages(result: dict[str, Any], out: Path) -> None:
    """Write `table.md`, `table.csv`, `table.tex` and `table.html` to the folder `out`."""
    rows = table_rows(result)
    notes = footnotes(result)
    told = explanation(result)
    (out / "table.md").write_text("\n\n".join([told, markdown(rows), *notes]) + "\n", encoding="utf-8")
    (out / "table.tex").write_text(latex(rows) + "\n", encoding="utf-8")
    head = [
        "system",
        "runs",
        "metric",
        "ours",
        "sd",
        "low",
        "high",
        "published",
        "verdict",
        "why",
        "stand_ins",
        "notes",
    ]
    write_csv([head, *_long_rows(result)], out / "table.csv")
    sections: list[dict[str, Any]] = [
        {"title": "Ours and the published figures", "text": [told], "table": {"head": rows[0], "rows": rows[1:]}},
        {"title": "Notes", "text": notes},
    ]
    if any(row["accuracy"] is not None for row in result["rows"]):
        caption = "Dots: mean of our runs; lines: the true score of one more run (95 %); diamonds: published."
        sections.insert(
            1, {"title": "Accuracy", "figures": [{"source": figure_source(_forest(result)), "caption": caption}]}
        )
    title = f"{result['table'].upper().replace('_', '-')}: published and reproduced"
    subtitle = f"{result['dataset']['test']:,} test posts of {result['dataset']['name']}. Published: {result['source']}"
    render(out / "table.html", title, subtitle, sections)


def table_rows(result: dict[str, Any]) -> list[list[str]]:
    """The short table, its head first: floors, then systems; `*` after a name marks stand-ins.

    Binary F1 is shown where figures of it were published, each published figure behind ours.
    """
    shown = ["accuracy", "macro_f1"]
    if any("binary_f1" in row["published"] for row in result["rows"]):
        shown.append("binary_f1")
    head = ["system", "verdict", "runs"]
    for metric in shown:
        head += [METRICS[metric], "published"]
    rows = [head]
    for floor in result["floors"]:
        cells = [FLOORS.get(floor["system"], floor["system"]), "floor", ""]
        for metric in shown:
            cells += [f"{floor[metric]:.1f}" if metric in floor else "–", ""]
        rows.append(cells)
    for row in result["rows"]:
        cells = [row["name"] + ("*" if row["stand_ins"] else ""), row["verdict"], str(row["seeds"] or "–")]
        for metric in shown:
            published = row["published"].get(metric)
            cells += [_cell(row, metric), "–" if published is None else f"{published:.2f}"]
        rows.append(cells)
    return rows


def explanation(result: dict[str, Any]) -> str:
    """What the numbers are, in a paragraph."""
    tiny = (
        "Random tiny models on generated posts: this shows that every system runs, and nothing else. "
        if result["tiny"]
        else ""
    )
    return (
        f"{tiny}All in percent: mean ± standard deviation over runs, and an interval for the true score of one run (95 %; "
        "over runs and posts, for a single run over posts alone). The epoch is chosen on validation, test is read once a "
        "run. Lower, higher: the whole interval of accuracy lies below or above the published accuracy. Reproduced: "
        "published accuracy, macro F1 and binary F1 lie in our intervals, none over 6 points wide. Cannot tell: neither, or "
        "fewer than three runs, or stand-ins (*, see the notes). As both sides were tested on nearly the same posts, the "
        "intervals are rather too wide than too narrow."
    )


def footnotes(result: dict[str, Any]) -> list[str]:
    """Why each row has its verdict, what stands in, what to know."""
    lines = []
    for row in result["rows"]:
        parts = [f"{row['verdict']}, {row['why']}" if row["why"] else row["verdict"]]
        missing = [text for text in row["stand_ins"] if text not in row["why"]]
        parts += ["Stand-ins: " + "; ".join(missing)] if missing else []
        parts += [note[:1].upper() + note[1:] for note in row["notes"]]
        lines.append(f"{row['name']}: " + ". ".join(part.rstrip(".") for part in parts) + ".")
    return lines


def _cell(row: dict[str, Any], metric: str) -> str:
    if row.get(metric) is None:
        return "–"
    found = row["intervals"][metric]
    low, high = found["one_run"]
    spread = f" ± {found['sd']:.1f}" if row["seeds"] > 1 else ""
    return f"{row[metric]:.1f}{spread} [{low:.1f}, {high:.1f}]"


def _long_rows(result: dict[str, Any]) -> list[list]:
    rows = []
    for row in result["rows"]:
        said = [row["verdict"], row["why"], "; ".join(row["stand_ins"]), "; ".join(row["notes"])]
        metrics = list(row["intervals"]) or ["accuracy", "macro_f1"]
        for metric in metrics:
            found = row["intervals"].get(metric, {"sd": "", "one_run": ["", ""]})
            ours = "" if row[metric] is None else row[metric]
            published = row["published"].get(metric, "")
            rows.append([row["system"], row["seeds"], metric, ours, found["sd"], *found["one_run"], published, *said])
    return rows


def _forest(result: dict[str, Any]) -> Any:
    rows = [row for row in result["rows"] if row["accuracy"] is not None][::-1]
    figure, axes = plain_axes(7.2, 1.3 + 0.34 * len(rows))
    best = max(result["floors"], key=lambda floor: floor["accuracy"])
    axes.axvline(best["accuracy"], color=GREY, linewidth=1, linestyle="--")
    for place, row in enumerate(rows):
        low, high = row["intervals"]["accuracy"]["one_run"]
        axes.plot([low, high], [place, place], color=BLUE)
        axes.plot(row["accuracy"], place, "o", color=BLUE)
        if "accuracy" in row["published"]:
            axes.plot(row["published"]["accuracy"], place, "D", color=ORANGE)
    axes.set_yticks(range(len(rows)), [row["name"] + ("*" if row["stand_ins"] else "") for row in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(f"accuracy in percent; dashed: {FLOORS.get(best['system'], best['system'])}")
    axes.grid(axis="x", color="#e8e8e8")
    return figure
