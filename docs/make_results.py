"""Write docs/results.md and the table of the README from finished runs; no number in them is typed.

python docs/make_results.py runs         copy the results of the runs to docs/results/*.json, then write the pages
python docs/make_results.py              write the pages again from docs/results/*.json
"""

import json
import re
import sys
from pathlib import Path

from clfa.evidence.significance import holm
from clfa.report.formats import difference_cell, markdown, score_cell
from clfa.report.reproduce_page import explanation, footnotes, table_rows

DOCS = Path(__file__).resolve().parent
SOURCES = {
    "table": "mvsa_single/table/sweep.json",
    "folds": "mvsa_single/folds/sweep.json",
    "curve": "mvsa_single/curve/sweep.json",
    "fine_tune": "mvsa_single/fine_tune/sweep.json",
    "tune": "mvsa_single/tune/sweep.json",
    "teacher": "teachers/flickr8k/report.json",
    "teacher_posts": "teachers/flickr8k_mvsa_single/report.json",
    "demo": "demo/results.json",
    "grid": "mvsa_single/grid/sweep.json",
    "reproduce_mmsd": "reproduce/mmsd/reproduce.json",
    "reproduce_mmsd2": "reproduce/mmsd2/reproduce.json",
    "reproduce_mvsa": "reproduce/mvsa/reproduce.json",
}
GRID = {
    "concat": "concat",
    "co_attention": "co-attention",
    "cross_attention": "cross attention",
    "hfm": "HFM",
    "in_cross_graphs": "InCrossMGs",
    "cmgcn": "CMGCN",
    "hke": "HKE",
}
NAMES = {
    "majority": "majority class",
    "format_only": "format counts only, no words",
    "tfidf_logistic_regression": "TF-IDF + logistic regression",
    "text_only": "text only",
    "image_only": "image only",
    "no_alignment": "no alignment",
    "clfa": "CLFA",
    "clfa_lr3e-4": "CLFA, learning rate 3e-4",
    "clfa_teacher_saw_posts": "CLFA, teacher saw the training posts",
}
METRICS = ("accuracy", "macro_f1", "weighted_f1")


def main() -> None:
    if len(sys.argv) > 1:
        collect(Path(sys.argv[1]))
    found = {path.stem: json.loads(path.read_text()) for path in sorted((DOCS / "results").glob("*.json"))}
    (DOCS / "results.md").write_text(page(found), encoding="utf-8")
    draw_grid(found, DOCS / "results" / "grid.png")
    draw_curve(found, DOCS / "results" / "curve.png")
    readme = DOCS.parent / "README.md"
    readme.write_text(with_tables(readme.read_text(encoding="utf-8"), found), encoding="utf-8")


def collect(runs: Path) -> None:
    """Copy what the pages need, without paths and configurations."""
    for name, source in SOURCES.items():
        if (runs / source).is_file():
            values = json.loads((runs / source).read_text())
            kept = {key: value for key, value in values.items() if key != "config"}
            (DOCS / "results" / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    pairs = {}
    for fusion in GRID:  # clfa compare runs/mvsa_single/grid/F runs/mvsa_single/grid/F_aligned --out …/grid_compared/F
        path = runs / "mvsa_single" / "grid_compared" / fusion / "comparison.json"
        if path.is_file():
            found = json.loads(path.read_text())
            pairs[fusion] = found["comparisons"][0] | {"systems": found["systems"], "posts": found["posts"]}
    if pairs:
        path = DOCS / "results" / "grid_pairs.json"
        path.write_text(json.dumps(pairs, indent=1) + "\n", encoding="utf-8")


def page(found: dict) -> str:
    """The text of docs/results.md."""
    parts = [
        "# Results",
        "Written by `docs/make_results.py` from the runs of the committed configurations; no number here is typed. "
        "Epochs and learning rates were chosen on validation alone. Brackets are 95 % percentile bootstrap intervals "
        "over seeds and test posts, ± is the standard deviation over seeds, all in percent. F1 is named by its average. "
        "Differences are paired: the same posts and the same seeds on both sides; their intervals are t over seeds and posts, "
        "BCa bootstraps over posts where there is one seed. Those of the learning curve are over its samples alone.",
        "## What alignment does on real posts",
        findings(found),
    ]
    if "table" in found:
        parts += [
            "## MVSA-Single, published fold",
            f"{found['table']['rows']} test posts; all systems under one trainer with MiniLM and MobileNetV2, both "
            "frozen, a two-layer cross-attention fusion of width 128. "
            "`clfa sweep --config configs/mvsa_single/table.yaml --seeds 5`",
            table(found["table"]["systems"]),
            "Differences from no alignment, in points:",
            differences(found["table"]),
        ]
    if "folds" in found:
        parts += [
            "## MVSA-Single, 5-fold cross-validation",
            f"All {found['folds']['rows']:,} posts, each predicted once by a model that did not see it; stratified, posts "
            "with equal text never on two sides. The Flickr8k teacher and the settings above, each system "
            "with the learning rate that tuning chose for it (3e-4 and 1e-3, one seed, on validation); intervals cover "
            "posts, not seeds. "
            "`clfa sweep --config configs/mvsa_single/folds.yaml --folds 5`",
            table(found["folds"]["systems"]),
            "Differences from no alignment, in points:",
            differences(found["folds"]),
        ]
    if "grid_pairs" in found:
        parts += grid_section(found["grid_pairs"])
    if "reproduce_mmsd" in found:
        parts += [
            "## The paper's tables",
            explanation(found["reproduce_mmsd"]),
            "The tokenizers of both text rows (words, WordPiece) do not see white space, so raw and normalised texts of MMSD are "
            "the same to them and give one row (`tests/test_words.py` holds it). Neither row was tuned.",
        ]
    bert = "BERT by `--systems bert --configs configs/laptop --seeds 1`"
    for name, title, how in (
        ("reproduce_mmsd", "MMSD", bert),
        ("reproduce_mmsd2", "MMSD2.0", bert),
        (
            "reproduce_mvsa",
            "MVSA-Single",
            "CLFA by `--systems clfa --configs configs/mvsa_single`, the runs of the first table",
        ),
    ):
        if name in found:
            parts += reproduce_section(found[name], title, f"`clfa reproduce {name.removeprefix('reproduce_')}`; {how}")
    if "curve" in found:
        parts += [
            "## Learning curve",
            "Test scores on the published fold when only some training posts have labels; each seed draws its own sample. "
            "`clfa sweep --config configs/mvsa_single/curve.yaml`",
            "![Macro F1 against labelled posts](results/curve.png)",
            table(curve_rows(found)),
        ]
    if "fine_tune" in found:
        seeds = len(found["fine_tune"]["systems"][-1]["seeds"])
        parts += [
            "## Text encoder fine-tuned",
            f"As in the main table, but with 1,000 labels and MiniLM trained too (at most 3 epochs, seeds: {seeds}); "
            "MobileNetV2 stays frozen. "
            "`clfa sweep --config configs/mvsa_single/fine_tune.yaml`",
            table(found["fine_tune"]["systems"]),
            "Differences from no alignment, in points:",
            differences(found["fine_tune"]),
        ]
    if "teacher" in found:
        rows = [["teacher", "training images", "image → text R@1 / 5 / 10", "text → image R@1 / 5 / 10"]]
        for name, title in (("teacher", "Flickr8k"), ("teacher_posts", "Flickr8k + MVSA-Single train, no labels")):
            if name in found:
                retrieval = found[name]["retrieval"]
                rows.append(
                    [
                        title,
                        f"{found[name]['images']:,}",
                        *(
                            " / ".join(f"{value:.1f}" for value in retrieval[way].values())
                            for way in ("image_to_text", "text_to_image")
                        ),
                    ]
                )
        parts += [
            "## Teachers",
            "Projections over frozen MiniLM and MobileNetV2 features; retrieval in percent on the same 1,000 held-out "
            "photos of Flickr8k with five captions each. `clfa teacher train --config configs/teacher/flickr8k.yaml`",
            markdown(rows),
        ]
    if "tune" in found:
        parts += [
            "## Tuning",
            "On validation alone, one seed. `clfa sweep --config configs/mvsa_single/tune.yaml`",
            table(found["tune"]["systems"]),
        ]
    if "demo" in found:
        parts += [
            "## The generated set",
            "`clfa demo`",
            demo_text(found["demo"]),
            table(found["demo"]["systems"], METRICS[:2]),
        ]
    return "\n\n".join(parts) + "\n"


def grid_section(pairs: dict) -> list[str]:
    """Does alignment help each fusion: the pairs of the grid, each by `clfa compare`, Holm over all of them."""
    first = next(iter(pairs.values()))
    seeds = first["systems"][0]["runs"]
    adjusted = holm([pair["p"] for pair in pairs.values()])
    rows = [
        [
            "fusion",
            "no alignment, macro F1",
            "aligned, macro F1",
            "difference, points",
            "detectable",
            "p (Holm)",
            "McNemar p",
            "accuracy, points",
        ]
    ]
    for (name, pair), p in zip(pairs.items(), adjusted):
        gap = {"mean": pair["difference"], "ci95": pair["ci95"]}
        accuracy = pair["metrics"]["accuracy"]
        rows.append(
            [
                GRID[name],
                *(score_cell(system["macro_f1"]) for system in pair["systems"]),
                difference_cell(gap),
                f"{100 * pair['detectable']:.1f}",
                f"{pair['p']:.4f} ({p:.4f})",
                f"{pair['mcnemar']['p']:.4f}" if pair["mcnemar"] else "–",
                difference_cell({"mean": accuracy["value"], "ci95": accuracy["ci95"]}),
            ]
        )
    return [
        "## Does alignment help each fusion?",
        grid_summary(pairs),
        f"Seven fusions without and with alignment, 5-fold cross-validation over all {first['posts']:,} posts of MVSA-Single, paired "
        f"by post and fold, seeds: {seeds}. Both sides of a pair differ in the alignment weight alone; all have the learning "
        "rate 1e-3, which was chosen for CLFA, and was not tuned for each fusion. MiniLM and MobileNetV2, frozen, and the "
        "Flickr8k teacher stand in for BERT, ViT and CLIP; neighbouring words for dependency trees; patches for detected "
        "regions; no attribute words, no captions. Detectable: the smallest true difference found with 80 % power. "
        "`clfa sweep --config configs/mvsa_single/grid.yaml`, then for each fusion `clfa compare "
        "runs/mvsa_single/grid/hfm runs/mvsa_single/grid/hfm_aligned`",
        "![Difference in macro F1 for each fusion](results/grid.png)",
        markdown(rows),
        "The scores' intervals are over posts"
        + (
            " and seeds." if seeds > 1 else " alone: with one seed, whether a fusion would keep its place is not known."
        ),
    ]


def grid_summary(pairs: dict) -> str:
    """What the grid says, by the rule of `clfa compare` with Holm's correction over all pairs."""
    adjusted = holm([pair["p"] for pair in pairs.values()])
    told = [
        name
        for (name, pair), p in zip(pairs.items(), adjusted)
        if not pair["ci95"][0] <= 0 <= pair["ci95"][1] and p <= 0.05 and abs(pair["difference"]) >= pair["detectable"]
    ]
    helps, hurts = ([name for name in told if (pairs[name]["difference"] > 0) == up] for up in (True, False))
    below = sum(pair["difference"] < 0 for pair in pairs.values())
    seeds = next(iter(pairs.values()))["systems"][0]["runs"]
    only = "in these runs (one seed) " if seeds == 1 else ""
    lines = [
        f"With alignment {below} of {len(pairs)} fusions have a lower macro F1, {len(pairs) - below} a higher one. By the rule of "
        f"`clfa compare`, with Holm's correction over all of them, {only}alignment hurts {len(hurts)} and helps {len(helps)}; for the "
        f"other {len(pairs) - len(told)}: cannot tell."
    ]
    for name in told:
        before, after = (100 * system["macro_f1"]["mean"] for system in pairs[name]["systems"])
        least = min(100 * pair["systems"][0]["macro_f1"]["mean"] for other, pair in pairs.items() if other != name)
        weak = f", and stays below every other fusion without alignment ({least:.1f} and more)" if after < least else ""
        lines.append(f"{GRID[name]} goes from {before:.1f} to {after:.1f}{weak}.")
    return " ".join(lines)


def draw_grid(found: dict, path: Path) -> None:
    """What alignment adds to each fusion, with intervals, as a picture."""
    pairs = found.get("grid_pairs")
    if not pairs:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.4), layout="constrained")
    for place, (name, pair) in enumerate(reversed(pairs.items())):
        low, high = (100 * bound for bound in pair["ci95"])
        detectable = 100 * pair["detectable"]
        axes.plot(
            [-detectable, detectable], [place, place], color="#8a8f98", alpha=0.3, linewidth=9, solid_capstyle="butt"
        )
        axes.plot([low, high], [place, place], color="#2563a8")
        axes.plot(100 * pair["difference"], place, "o", color="#2563a8")
    axes.axvline(0, color="#8a8f98", linewidth=1)
    axes.set_yticks(range(len(pairs)), [GRID[name] for name in reversed(pairs)])
    axes.set_xlabel("aligned − not aligned, points of macro F1; grey: under the detectable effect")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="#e8e8e8")
    axes.set_axisbelow(True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def reproduce_section(result: dict, title: str, how: str) -> list[str]:
    """The rows of a paper's table that could be run here, beside the published ones."""
    ran = {**result, "rows": [row for row in result["rows"] if row["verdict"] != "not run"]}
    absent = [row for row in result["rows"] if row["verdict"] == "not run"]
    parts = [
        f"### {title}",
        f"{result['dataset']['test']:,} test posts. Published: {result['source']}. {how}.",
        markdown(table_rows(ran)),
        "\n".join(f"- {line}" for line in footnotes(ran)),
    ]
    reasons: dict[str, list[str]] = {}
    for row in absent:
        reasons.setdefault(row["why"], []).append(row["name"])
    parts += [f"Not run: {', '.join(names)} ({why})." for why, names in reasons.items()]
    return parts


def findings(found: dict) -> str:
    """One sentence per comparison, those that show nothing first."""
    lines: list[tuple[bool, str]] = []
    for name, title in (
        ("table", "Published fold, all labels, frozen encoders"),
        ("folds", "Cross-validation over all posts, frozen encoders"),
        ("fine_tune", "Published fold, 1,000 labels, text encoder fine-tuned"),
    ):
        for row in found.get(name, {}).get("differences", []):
            if row["system"].startswith("clfa"):
                also = "".join(f", {name}" for name in NAMES[row["system"]].split(", ")[1:])
                alone = " (one seed)" if "mcnemar" in row else ""
                lines.append(verdict(f"{title}{also}{alone}", row["macro_f1"]))
    for size in curve_sizes(found):
        low, high, mean = curve_difference(found, size)
        lines.append(verdict(f"Published fold, {size:,} labels, frozen encoders", {"mean": mean, "ci95": [low, high]}))
    if "audits" in found and "table" in found:  # what needs no fusion at all
        floors = found["audits"]["mvsa_single"]["floors"]
        told = ", ".join(
            f"{title} {100 * floors[name]['accuracy']:.1f} accuracy and {100 * floors[name]['macro_f1']:.1f} macro F1"
            for name, title in (("late_fusion", "late fusion"), ("teacher_probe", "on the teacher's embeddings"))
        )
        trained = [row for row in found["table"]["systems"] if row["system"] in ("no_alignment", "clfa")]
        best = {name: max(100 * row[name]["mean"] for row in trained) for name in ("accuracy", "macro_f1")}
        told += f"; the best trained fusion of the same table has {best['accuracy']:.1f} and {best['macro_f1']:.1f}"
        lines.append(
            (False, f"Published fold, logistic regressions on the same frozen features, nothing fused: {told}.")
        )
    if "grid_pairs" in found:
        lines.append(
            (False, f"Seven fusions by cross-validation, frozen encoders: {grid_summary(found['grid_pairs'])}")
        )
    lines.sort(key=lambda line: line[0])
    return "\n".join(f"- {text}" for _, text in lines)


def verdict(title: str, found: dict) -> tuple[bool, str]:
    """The sentence about a difference, and whether it says anything: by the rule of `clfa compare`, the interval must
    exclude 0 and the difference be at least the minimum detectable effect, (1.96 + 0.84) / 1.96 half-widths."""
    low, high = found["ci95"]
    told = (low > 0 or high < 0) and abs(found["mean"]) >= (high - low) / 2 * 2.802 / 1.96
    words = "cannot tell"
    if told:
        words = "alignment helps" if low > 0 else "alignment hurts"
    elif low > 0 or high < 0:
        words = "no claim: the interval excludes 0, the difference is under the minimum detectable effect"
    mean = 100 * found["mean"]
    return (
        told,
        f"{title}: CLFA − no alignment, macro F1 {mean:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]: {words}.",
    )


def curve_sizes(found: dict) -> list[int]:
    """The training sizes of the learning curve."""
    names = [row["system"] for row in found.get("curve", {}).get("systems", [])]
    return sorted({int(name.rsplit("-", 1)[1]) for name in names if name.startswith("clfa-")})


def curve_difference(found: dict, size: int) -> tuple[float, float, float]:
    """CLFA minus no alignment at one size over the paired samples: t interval of the mean over seeds."""
    import numpy as np
    from scipy import stats

    by_name = {row["system"]: row["macro_f1"]["values"] for row in found["curve"]["systems"]}
    paired = np.array(by_name[f"clfa-{size}"]) - np.array(by_name[f"no_alignment-{size}"])
    half = stats.t.ppf(0.975, len(paired) - 1) * paired.std(ddof=1) / len(paired) ** 0.5
    return paired.mean() - half, paired.mean() + half, paired.mean()


def curve_rows(found: dict) -> list[dict]:
    """Rows of the curve by size, ending with all labels."""
    rows = []
    for size in curve_sizes(found):
        rows += [row for row in found["curve"]["systems"] if row["system"].endswith(f"-{size}")]
    return rows + [
        {**row, "system": f"{row['system']}-all"}
        for row in found.get("table", {}).get("systems", [])
        if row["system"] in ("no_alignment", "clfa")
    ]


def draw_curve(found: dict, path: Path) -> None:
    """The learning curve as a picture."""
    if "curve" not in found:
        return
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.8), layout="constrained")
    for name, colour in (("no_alignment", "#d9822b"), ("clfa", "#2563a8")):
        rows = [row for row in curve_rows(found) if row["system"].rsplit("-", 1)[0] == name]
        sizes = [int(row["system"].rsplit("-", 1)[1].replace("all", "3611")) for row in rows]
        mean = [100 * row["macro_f1"]["mean"] for row in rows]
        low, high = ([100 * row["macro_f1"]["ci95"][side] for row in rows] for side in (0, 1))
        axes.errorbar(
            sizes,
            mean,
            [[m - b for m, b in zip(mean, low)], [b - m for m, b in zip(mean, high)]],
            color=colour,
            marker="o",
            capsize=3,
            label=NAMES[name],
        )
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set(xlabel="labelled posts", ylabel="test macro F1, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e8e8e8")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def demo_text(demo: dict) -> str:
    """What the demo measured, in a sentence."""
    row = next(row for row in demo["differences"] if row["system"] == "clfa")["accuracy"]
    return (
        f"{demo['train_posts']} labelled posts, {demo['test_posts']} test posts: alignment adds "
        f"{difference_cell(row)} points of accuracy."
    )


def differences(result: dict) -> str:
    """The paired differences of a sweep as a table."""
    rows = [
        [
            "system",
            *(name.replace("_", " ").replace("f1", "F1") for name in METRICS),
            "McNemar p (only it / only the other right)",
        ]
    ]
    for row in result["differences"]:
        cells = [difference_cell(row[name]) for name in METRICS]
        test = row.get("mcnemar")
        p = f"{test['p']:.2f} ({test['only_system_right']} / {test['only_base_right']})" if test else "–"
        rows.append([NAMES.get(row["system"], row["system"]), *cells, p])
    return markdown(rows)


def table(systems: list[dict], metrics: tuple[str, ...] = METRICS) -> str:
    """Systems with their scores as a table."""
    rows = [["system", "seeds", *(name.replace("_", " ").replace("f1", "F1") for name in metrics)]]
    for row in systems:
        name, _, size = row["system"].rpartition("-")
        if name not in NAMES or not (size.isdigit() or size == "all"):
            name, size = row["system"], ""
        title = NAMES.get(name, name) + (f", {size} labels" if size else "")
        rows.append([title, str(len(row["seeds"])), *(score_cell(row[metric]) for metric in metrics)])
    return markdown(rows)


def with_tables(readme: str, found: dict) -> str:
    """The README with what stands between its markers replaced."""
    tables = {}
    if "table" in found:
        tables["mvsa_single"] = table(found["table"]["systems"], METRICS[:2]) + "\n\n" + findings(found)
    if "demo" in found:
        tables["demo"] = demo_text(found["demo"]) + "\n\n" + table(found["demo"]["systems"], METRICS[:2])
    if "reproduce_mmsd" in found:
        ran = {**found["reproduce_mmsd"]}
        ran["rows"] = [row for row in ran["rows"] if row["verdict"] != "not run"]
        tables["reproduce"] = markdown(table_rows(ran))
        tables["reproduce"] += "\n\n" + "\n".join(f"- {line}" for line in footnotes(ran))
    for name, text in tables.items():
        readme = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)",
            lambda match, text=text: match[1] + text + "\n" + match[2],
            readme,
            flags=re.DOTALL,
        )
    return readme


if __name__ == "__main__":
    main()
