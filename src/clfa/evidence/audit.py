"""What a data set is worth before anything is trained on it: leaks, cues, floors. `clfa audit DATASET`."""

import io
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import clfa
from clfa.data.records import load_manifest, load_split
from clfa.evidence.cues import Cue, find_cues
from clfa.evidence.floors import floor_predictions, frozen_floor_predictions
from clfa.evidence.language import language_of
from clfa.evidence.leakage import KINDS, Traces, conflicts, image_hashes, matches, traces
from clfa.metrics import bootstrap, confusion, scores
from clfa.model.batch import column_values

EXAMPLES = 10
Say = Callable[[str], None]


def audit(
    dataset: str | Path,
    out: str | Path | None = None,
    text_encoder: str | None = None,
    image_encoder: str | None = None,
    teacher: str | None = None,
    say: Say = print,
) -> dict[str, Any]:
    """Audit a dataset directory; write `audit.json` and `audit.html`.

    Args:
        dataset: dataset directory.
        out: folder for the two files; by default the dataset directory itself.
        text_encoder: for the floor `text_only` (see `clfa.evidence.floors.frozen_floor_predictions`).
        image_encoder: for the floor `image_only`; with both also `late_fusion`.
        teacher: for the floor `teacher_probe`.
        say: where progress lines go.

    Returns:
        The content of `audit.json`. `findings`: what was found, most harmful first, each with its count, examples by id
        and what to do; harm is the share of posts of the evaluated split that are affected, or for a cue the accuracy
        it alone gains over the majority class there. `cues` (largest z first; `accuracy` is on train, `splits` has each
        split), `leakage`, `conflicting_labels`, `floors` (on the evaluated split), `labels`, `disagreement`,
        `languages`, `images`.
    """
    started = time.monotonic()
    dataset = Path(dataset)
    manifest = load_manifest(dataset)
    labels, splits = manifest["labels"], list(manifest["splits"])
    rows = {split: load_split(dataset, split) for split in splits}
    evaluated = "test" if "test" in splits else "validation"

    say(f"{dataset}: looking for posts that splits share")
    hashes = image_hashes(dataset, splits)
    found_traces = {split: traces(rows[split], hashes) for split in splits}
    say(f"{dataset}: looking for cues")
    truth = {split: np.array(rows[split]["label"]) for split in splits}
    texts = {split: [text or "" for text in rows[split]["text"]] for split in splits}
    cues = [_describe_cue(cue, texts, truth, labels) for cue in find_cues(texts["train"], truth["train"], len(labels))]
    say(f"{dataset}: fitting floors")
    predictions = floor_predictions(rows["train"], rows[evaluated], len(labels))
    predictions |= frozen_floor_predictions(dataset, evaluated, len(labels), text_encoder, image_encoder, teacher)
    say(f"{dataset}: languages and images")
    result: dict[str, Any] = {
        "dataset": manifest.get("name", dataset.name),
        "filters": manifest.get("filters", []),
        "text": manifest["text"],
        "evaluated": evaluated,
        "findings": [],
        "cues": cues,
        "leakage": {kind: _leakage(kind, found_traces) for kind in KINDS},
        "conflicting_labels": _conflicts(found_traces),
        "floors": {name: _floor_scores(truth[evaluated], found, len(labels)) for name, found in predictions.items()},
        "labels": {
            split: dict(zip(labels, np.bincount(truth[split], minlength=len(labels)).tolist())) for split in splits
        },
        "disagreement": _disagreement(rows, labels),
        "languages": {split: dict(Counter(map(language_of, texts[split])).most_common()) for split in splits},
        "images": {split: _image_sizes(rows[split]) for split in splits},
        "splits": {
            split: {"rows": len(rows[split]), "sha256": manifest["splits"][split]["sha256"]} for split in splits
        },
        "clfa_version": clfa.__version__,
    }
    result["findings"] = _findings(result)
    result["seconds"] = round(time.monotonic() - started, 1)
    target = Path(out) if out else dataset
    target.mkdir(parents=True, exist_ok=True)
    (target / "audit.json").write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    from clfa.report.audit_page import write_audit_page

    write_audit_page(result, target / "audit.html")
    return result


def _describe_cue(
    cue: Cue, texts: dict[str, list[str]], truth: dict[str, NDArray], labels: list[str]
) -> dict[str, Any]:
    splits = {}
    for split in texts:
        present = cue.present(texts[split])
        predicted = np.where(present, cue.label, cue.otherwise)
        splits[split] = {
            "with_label": int((present & (truth[split] == cue.label)).sum()),
            "count": int(present.sum()),
            "label_count": int((truth[split] == cue.label).sum()),
            "accuracy": float((predicted == truth[split]).mean()),
        }
    return {
        "cue": cue.cue,
        "kind": cue.kind,
        "label": labels[cue.label],
        "with_label": cue.with_label,
        "count": cue.count,
        "p_label_given_cue": cue.with_label / cue.count,
        "p_cue_given_label": cue.with_label / cue.label_count,
        "z": cue.z,
        "p_bonferroni": cue.p,
        "accuracy": splits["train"]["accuracy"],
        "splits": splits,
    }


def _leakage(kind: str, found: dict[str, Traces]) -> dict[str, Any]:
    """Counts of posts of one split that repeat a post of another, of repeats inside each, and examples by id."""
    column = {"id": "ids", "exact_text": "texts", "image_bytes": "image_keys", "image_hash": "image_hashes"}
    result: dict[str, Any] = {}
    examples: dict[str, list[list[str]]] = {}
    reached: dict[tuple[str, str], NDArray] = {}
    pairs = [("validation", "train"), ("test", "train"), ("test", "validation")]
    for ours, theirs in [*pairs, *((split, split) for split in found)]:
        if ours not in found or theirs not in found:
            continue
        name = f"within_{ours}" if ours == theirs else f"{ours}_in_{theirs}"
        places = matches(kind, found[ours], None if ours == theirs else found[theirs])
        reached[ours, theirs] = places >= 0
        result[name] = int((places >= 0).sum())
        hit = np.flatnonzero(places >= 0)
        if ours != theirs:
            other = found[ours].labels[hit] != found[theirs].labels[places[hit]]
            result[f"{name}_other_label"] = int(other.sum())
        examples[name] = [[found[ours].ids[number], found[theirs].ids[places[number]]] for number in hit[:EXAMPLES]]
    if "test" in found:
        both = reached["test", "train"] | reached["test", "validation"]
        result["test_in_train_or_validation"] = int(both.sum())
    evaluated = found["test" if "test" in found else "validation"]
    values = getattr(evaluated, column.get(kind, "normal"))
    result["checked"] = sum(value is not None for value in values)
    result["examples"] = {name: pairs for name, pairs in examples.items() if pairs}
    return result


def _conflicts(found: dict[str, Traces]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for split, side in found.items():
        for kind, groups in conflicts(side).items():
            result.setdefault(kind, {})[split] = {
                "count": len(groups),
                "posts": sum(map(len, groups)),
                "examples": [" = ".join(ids[:4]) for ids in groups[:EXAMPLES]],
            }
    return result


def _floor_scores(truth: NDArray, predicted: NDArray, classes: int) -> dict[str, Any]:
    matrix = confusion(truth, predicted, classes)
    values: dict[str, Any] = {name: float(value) for name, value in scores(matrix).items()}
    return values | {"ci95": {name: list(bounds) for name, bounds in bootstrap(matrix).items()}}


def _disagreement(rows: dict[str, Any], labels: list[str]) -> dict[str, Any]:
    """Columns that hold labels too (“hashtag_label`, `text_label` …): on how many posts they differ from the label."""
    result: dict[str, Any] = {}
    for split, found in rows.items():
        truth = [labels[number] for number in found["label"]]
        for column in found.column_names:
            if column.endswith("_label"):
                values = found[column]
                both = [n for n, value in enumerate(values) if value is not None]
                differ = [n for n in both if values[n] != truth[n]]
                if both:
                    result.setdefault(column, {})[split] = {
                        "differ": len(differ),
                        "posts": len(both),
                        "examples": [found[n]["id"] for n in differ[:EXAMPLES]],
                    }
    return result


def _image_sizes(rows: Any) -> dict[str, Any]:
    """Sizes read from the headers, nothing decoded."""
    pictures = [value for value in column_values(rows, "image") if value is not None]
    if not pictures:
        return {"images": 0, "missing": len(rows)}
    sizes = np.array([Image.open(io.BytesIO(data)).size for data in pictures])  # type: ignore[arg-type]
    formats = Counter(str(Image.open(io.BytesIO(data)).format) for data in pictures)  # type: ignore[arg-type]
    return {
        "images": len(pictures),
        "missing": len(rows) - len(pictures),
        "width": dict(zip(("min", "median", "max"), np.quantile(sizes[:, 0], [0, 0.5, 1]).tolist())),
        "height": dict(zip(("min", "median", "max"), np.quantile(sizes[:, 1], [0, 0.5, 1]).tolist())),
        "kilobytes_median": float(np.median([len(data) for data in pictures]) / 1000),
        "formats": dict(formats.most_common()),
    }


ADVICE = {
    "id": "If these are the same posts, remove them from one of the splits; if ids were given anew in each, ignore this.",
    "exact_text": "Report the score without them (“clfa evaluate” prints it), or remove them from train.",
    "normalised_text": "Report the score without them (“clfa evaluate” prints it), or remove them from train.",
    "near_text": "Report the score without them: most words of the test post were seen in training, in one post.",
    "image_bytes": "Report the score without them: the picture was seen in training.",
    "image_hash": "Look at some pairs: pictures that look alike are mostly copies in another size or quality.",
}
LEAK_NAMES = {
    "id": "have the id of a training post",
    "exact_text": "have exactly the text of a training post",
    "normalised_text": "have the text of a training post but for case, links and punctuation",
    "near_text": "have the words of a training post, four fifths or all of them",
    "image_bytes": "have the picture of a training post",
    "image_hash": "have a picture that looks like one of a training post",
}


def _findings(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What was found, most harmful first."""
    evaluated = result["evaluated"]
    posts = result["splits"][evaluated]["rows"]
    found: list[dict[str, Any]] = []
    for kind, counts in result["leakage"].items():
        count = counts[f"{evaluated}_in_train"]
        if count:
            pairs = counts["examples"].get(f"{evaluated}_in_train", [])
            other = counts[f"{evaluated}_in_train_other_label"]
            found.append(
                {
                    "kind": f"leakage:{kind}",
                    "harm": count / posts,
                    "count": count,
                    "text": f"{count:,} of {posts:,} {evaluated} posts {LEAK_NAMES[kind]}"
                    + (f"; {other:,} of them with another label." if other else "."),
                    "advice": ADVICE[kind],
                    "examples": [" = ".join(pair) for pair in pairs],
                }
            )
        inside = counts["within_train"]
        if inside and kind in ("exact_text", "image_bytes", "id"):
            pairs = counts["examples"]["within_train"]
            what = {"exact_text": "text", "image_bytes": "picture", "id": "id"}[kind]
            found.append(
                {
                    "kind": f"duplicate:{kind}",
                    "harm": 0.0,
                    "count": inside,
                    "text": f"{inside:,} training posts repeat the {what} of an earlier training post.",
                    "advice": "Harmless to the score; keep copies on one side when you draw new splits (folds do).",
                    "examples": [" = ".join(pair) for pair in pairs],
                }
            )
    floor = result["floors"]["majority"]["accuracy"]
    for cue in result["cues"]:
        here = cue["splits"][evaluated]
        told = (
            "posts with irregular white space" if cue["cue"] == "irregular_whitespace" else f"posts with “{cue['cue']}”"
        )
        found.append(
            {
                "kind": f"cue:{cue['cue']}",
                "harm": max(0.0, here["accuracy"] - floor),
                "count": cue["count"],
                "text": f"{cue['with_label']:,} of {cue['count']:,} training {told} are {cue['label']} "
                f"(z = {cue['z']:.1f}); this rule alone is right on {100 * here['accuracy']:.1f} % of {evaluated}.",
                "advice": (
                    "Import with normalised white space (the default), or the label can be read off the spaces."
                    if cue["cue"] == "irregular_whitespace"
                    else "Compare with the cue-neutralised score of “clfa evaluate”; drop or mask it if it is an artefact."
                ),
                "examples": [],
            }
        )
    for kind, by_split in result["conflicting_labels"].items():
        count = sum(entry["count"] for entry in by_split.values())
        if count:
            what = "texts" if kind == "normalised_text" else "pictures"
            found.append(
                {
                    "kind": f"conflict:{kind}",
                    "harm": by_split.get(evaluated, {"posts": 0})["posts"] / posts,
                    "count": count,
                    "text": f"{count:,} {what} occur with two labels inside a split.",
                    "advice": "Look at them: the other half of the post may decide, or a label is wrong.",
                    "examples": [id for entry in by_split.values() for id in entry["examples"]][:EXAMPLES],
                }
            )
    for column, by_split in result["disagreement"].items():
        if evaluated in by_split and column not in ("text_label", "image_label"):  # parts of the label, not rivals
            entry = by_split[evaluated]
            if entry["differ"]:
                found.append(
                    {
                        "kind": f"disagreement:{column}",
                        "harm": entry["differ"] / entry["posts"],
                        "count": entry["differ"],
                        "text": f"“{column}” differs from the label on {entry['differ']:,} of {entry['posts']:,} "
                        f"{evaluated} posts.",
                        "advice": "Say which label is meant: no model can be right by both.",
                        "examples": entry["examples"],
                    }
                )
    return sorted(found, key=lambda finding: -finding["harm"])
