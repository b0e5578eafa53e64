"""`audit.html`: what an audit found, for people."""

from pathlib import Path
from typing import Any

from clfa.report.page import BLUE, GREY, ORANGE, figure_source, percent, plain_axes, render

FINDINGS, CUES = 12, 40


def write_audit_page(result: dict[str, Any], path: Path) -> None:
    """Write the page of the content of `audit.json`."""
    evaluated = result["evaluated"]
    sections = [
        _findings(result),
        {
            "title": "What any model must beat",
            "text": [f"Fitted on train, scored on {evaluated}; brackets are 95 % bootstrap intervals over posts."],
            "table": _floors(result),
        },
        *_cues(result),
        *_leaks(result),
        {"title": "Labels", "table": _labels(result)},
        *_disagreement(result),
        *_languages(result),
        *_images(result),
    ]
    rows = ", ".join(f"{split} {entry['rows']:,}" for split, entry in result["splits"].items())
    filters = "; ".join(result["filters"]) or "none"
    render(
        path,
        f"Audit of {result['dataset']}",
        f"{rows} posts · text as stored: {result['text']} · filters: {filters} · clfa {result['clfa_version']}",
        sections,
    )


def _findings(result: dict[str, Any]) -> dict[str, Any]:
    shown = [finding for finding in result["findings"] if finding["harm"] > 0][:FINDINGS]
    if not shown:
        return {"title": "What was found", "text": ["Nothing that touches the evaluated split was found."]}
    left = len(result["findings"]) - len(shown)
    return {
        "title": "What was found, most harmful first",
        "text": [
            f"The number is the share of {result['evaluated']} posts affected; for a cue, the points of accuracy that it "
            "alone gains over the majority class."
            + (f" {left:,} findings with less or no effect are in audit.json." if left else "")
        ],
        "points": [
            {
                "number": f"{100 * finding['harm']:.1f} %",
                "text": finding["text"],
                "advice": finding["advice"],
                "note": "for example " + ", ".join(finding["examples"][:5]) if finding["examples"] else "",
            }
            for finding in shown
        ],
    }


def _floors(result: dict[str, Any]) -> dict[str, Any]:
    names = [n for n in ("accuracy", "macro_f1", "weighted_f1", "binary_f1") if n in result["floors"]["majority"]]
    return {
        "head": ["floor", *(name.replace("_", " ").replace("f1", "F1") for name in names)],
        "rows": [
            [floor.replace("_", " "), *(percent(found[name], found["ci95"][name]) for name in names)]
            for floor, found in result["floors"].items()
        ],
    }


def _cues(result: dict[str, Any]) -> list[dict[str, Any]]:
    cues = result["cues"]
    if not cues:
        return [{"title": "Cues", "text": ["No word and no matter of form predicts a label more often than chance."]}]
    shown = cues[:CUES]
    return [
        {
            "title": "Cues that give the label away",
            "text": [
                f"{len(cues):,} words and format features predict a label on train after Bonferroni's correction; the "
                f"{len(shown)} with the largest z. z compares P(label | cue) with the label's share. “Rule alone” "
                f"predicts the label where the cue is and the most frequent answer elsewhere, on {result['evaluated']}."
            ],
            "figures": [{"source": figure_source(_cue_chart(cues)), "caption": "Each dot is a cue on train."}],
            "table": {
                "head": ["cue", "label", "P(label | cue)", "P(cue | label)", "z", "rule alone"],
                "rows": [
                    [
                        cue["cue"],
                        cue["label"],
                        f"{cue['with_label']:,}/{cue['count']:,} = {100 * cue['p_label_given_cue']:.1f} %",
                        f"{100 * cue['p_cue_given_label']:.1f} %",
                        f"{cue['z']:.1f}",
                        f"{100 * cue['splits'][result['evaluated']]['accuracy']:.1f} %",
                    ]
                    for cue in shown
                ],
            },
        }
    ]


def _cue_chart(cues: list[dict[str, Any]]) -> Any:
    figure, axes = plain_axes(8.4, 3.6)
    names = list(dict.fromkeys(cue["label"] for cue in cues))
    colours = {
        name: (ORANGE, BLUE, GREY, *(f"C{number}" for number in range(10)))[n % 13] for n, name in enumerate(names)
    }
    for name in names:
        of_label = [cue for cue in cues if cue["label"] == name]
        axes.scatter(
            [cue["count"] for cue in of_label],
            [100 * cue["p_label_given_cue"] for cue in of_label],
            s=18,
            color=colours[name],
            alpha=0.7,
            label=f"speaks for {name}",
        )
    for cue in cues[:6]:
        text = cue["cue"][:24]
        place = (cue["count"], 100 * cue["p_label_given_cue"])
        axes.annotate(text, place, xytext=(5, 4), textcoords="offset points", fontsize=9)
    axes.set_xscale("log")
    axes.set(xlabel="training posts with the cue", ylabel="share with the label, %")
    axes.legend(frameon=False, fontsize=9)
    axes.margins(x=0.12, y=0.12)
    return figure


def _leaks(result: dict[str, Any]) -> list[dict[str, Any]]:
    names = [
        n for n in ("validation_in_train", "test_in_validation", "test_in_train", "within_train") if n in _any(result)
    ]
    rows = [
        [kind.replace("_", " "), *(f"{counts[name]:,}" for name in names)] for kind, counts in result["leakage"].items()
    ]
    text = (
        "Posts of the first split that repeat a post of the second, one way each; near text: ≥ 5 different words, at "
    )
    return [
        {
            "title": "Posts that splits share",
            "text": [
                text + "least 80 % of the words of both shared; image hash: perceptual hashes ≤ 4 of 64 bits apart."
            ],
            "table": {"head": ["equal in", *(name.replace("_", " ") for name in names)], "rows": rows},
        }
    ]


def _any(result: dict[str, Any]) -> dict[str, Any]:
    return next(iter(result["leakage"].values()))


def _labels(result: dict[str, Any]) -> dict[str, Any]:
    labels = list(next(iter(result["labels"].values())))
    rows = []
    for split, counts in result["labels"].items():
        total = sum(counts.values())
        rows.append([split, *(f"{counts[name]:,} ({100 * counts[name] / max(1, total):.1f} %)" for name in labels)])
    return {"head": ["split", *labels], "rows": rows}


def _disagreement(result: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [
        [column, split, f"{entry['differ']:,} of {entry['posts']:,}", f"{100 * entry['differ'] / entry['posts']:.1f} %"]
        for column, by_split in result["disagreement"].items()
        for split, entry in by_split.items()
    ]
    head = ["second label", "split", "differs on", "share"]
    return [{"title": "Where two labels disagree", "table": {"head": head, "rows": rows}}] if rows else []


def _languages(result: dict[str, Any]) -> list[dict[str, Any]]:
    total: dict[str, int] = {}
    for counts in result["languages"].values():
        for name, count in counts.items():
            total[name] = total.get(name, 0) + count
    top = sorted(total, key=lambda name: -total[name])[:8]
    rows = [
        [split, *(f"{100 * counts.get(name, 0) / max(1, sum(counts.values())):.1f} %" for name in top)]
        for split, counts in result["languages"].items()
    ]
    told = "Guessed by py3langid; “short” has fewer than four words. Guesses on short posts are often wrong."
    return [{"title": "Languages", "text": [told], "table": {"head": ["split", *top], "rows": rows}}]


def _images(result: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for split, found in result["images"].items():
        if found["images"]:
            sizes = [
                "{:,.0f} / {:,.0f} / {:,.0f}".format(*(found[side][q] for q in ("min", "median", "max")))
                for side in ("width", "height")
            ]
            formats = ", ".join(f"{name} {count:,}" for name, count in found["formats"].items())
            rows.append([split, f"{found['images']:,}", f"{found['missing']:,}", *sizes, formats])
    if not rows:
        return [{"title": "Pictures", "text": ["The data set was imported without pictures."]}]
    head = ["split", "pictures", "missing", "width min / median / max", "height min / median / max", "formats"]
    return [{"title": "Pictures", "table": {"head": head, "rows": rows}}]
