"""Results of commands as text for people; `--json` prints them as they are."""

import json
from typing import Any


def readable(result: dict[str, Any]) -> str:
    """A result for people: systems as a table, metrics with intervals as lines, anything else as `name: value`."""
    if "floors" in result and "rows" in result and "table" in result:
        return _reproduced(result)
    if "comparisons" in result:
        return "\n".join(row["verdict"] for row in result["comparisons"])
    if "systems" in result:
        return _systems_table(result)
    if "findings" in result:
        return _audit_text(result)
    if "verdict" in result:
        return f"{result['run']}, {result['split']}, {result['posts']:,} posts: {result['verdict']}"
    lines: list[str] = []
    for name, value in result.items():
        if name == "metrics":
            lines += [
                f"  {metric:<20} {100 * found['value']:5.1f}  [{100 * found['ci95'][0]:.1f}, {100 * found['ci95'][1]:.1f}]"
                for metric, found in value.items()
            ]
        elif name == "floors":
            lines += [
                f"floor {floor}: accuracy {100 * found['accuracy']['value']:.1f}, "
                f"macro F1 {100 * found['macro_f1']['value']:.1f}"
                for floor, found in value.items()
            ]
        elif name in ("deduplicated", "neutralised") and value["metrics"]:
            what = (
                f"on the {value['rows']:,} posts that train does not hold"
                if name == "deduplicated"
                else f"with cues of form neutralised ({value['changed']:,} posts change)"
            )
            lines.append(
                f"{what}: accuracy {100 * value['metrics']['accuracy']['value']:.1f}, "
                f"macro F1 {100 * value['metrics']['macro_f1']['value']:.1f}"
            )
        elif name == "flips":
            lines += [
                f"predictions that flip by {change}: {found['flipped']:,} of {found['posts']:,}"
                for change, found in value.items()
            ]
        elif name == "calibration":
            errors = [f"{100 * value[side]['ece']['value']:.1f}" for side in ("before", "after") if value[side]]
            after = f", {errors[1]} at temperature {value['temperature']:.2f}" if len(errors) > 1 else ""
            lines.append(f"calibration error {errors[0]} points{after}")
        elif name == "groups":
            lines.append(f"groups: {len(value)}, see report.html")
        elif isinstance(value, dict):
            lines += [
                f"{name}:",
                *(f"  {key}: {json.dumps(found, ensure_ascii=False)}" for key, found in value.items()),
            ]
        elif name not in ("confusion", "config"):
            lines.append(f"{name}: {value}")
    return "\n".join([*lines, *_below_floors(result)])


def _below_floors(result: dict[str, Any]) -> list[str]:
    """A line for each floor that is at least as good."""
    if "floors" not in result or "metrics" not in result:
        return []
    ours = {metric: result["metrics"][metric]["value"] for metric in ("accuracy", "macro_f1")}
    return [
        f"NOT ABOVE THE FLOOR {name}: {metric.replace('_f1', ' F1')} {100 * found[metric]['value']:.1f} "
        f"against {100 * ours[metric]:.1f} of this run"
        for name, found in result["floors"].items()
        for metric in ours
        if found[metric]["value"] >= ours[metric]
    ]


def _audit_text(result: dict[str, Any]) -> str:
    """The twelve most harmful findings, then the floors."""
    shown = [finding for finding in result["findings"] if finding["harm"] > 0][:12]
    told = "affected posts in %, for a cue (+) the points of accuracy that it alone gains over the majority class:"
    lines = [told] if shown else []
    lines += [
        f"{'+' if finding['kind'].startswith('cue') else ' '}{100 * finding['harm']:5.1f}  {finding['text']}"
        for finding in shown
    ]
    lines += [""] if shown else ["nothing that touches the evaluated split was found", ""]
    lines += [
        f"floor {name}: accuracy {100 * found['accuracy']:.1f}, macro F1 {100 * found['macro_f1']:.1f}"
        for name, found in result["floors"].items()
    ]
    return "\n".join(lines)


def _reproduced(result: dict[str, Any]) -> str:
    """The short table in columns, then why each row has its verdict."""
    from clfa.report.reproduce_page import footnotes, table_rows

    rows = table_rows(result)
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([*lines, "", *footnotes(result)])


def _systems_table(result: dict[str, Any]) -> str:
    """The systems of a sweep or of the demo, aligned; then the paired differences."""
    from clfa.report.formats import difference_cell, score_cell

    rows = [["system", "seeds", "accuracy, %", "macro F1, %"]]
    for row in result["systems"]:
        rows.append([row["system"], str(len(row["seeds"])), score_cell(row["accuracy"]), score_cell(row["macro_f1"])])
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    lines += ["", "mean ± standard deviation over seeds [95 % interval over seeds and test posts]"]
    lines += [
        f"{row['system']} minus {row['minus']}: accuracy {difference_cell(row['accuracy'])}, "
        f"macro F1 {difference_cell(row['macro_f1'])} points"
        for row in result["differences"]
    ]
    return "\n".join(lines)
