"""The report of a run: scores beside floors, training, calibration, evidence, errors, alignment."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot

from clfa.config import read_yaml
from clfa.data.images import open_image
from clfa.errors import UserError
from clfa.evidence.alignment import alignment_heatmap, draw_heatmap, worst_errors
from clfa.evidence.calibration import reliability
from clfa.evidence.evaluate import read_table
from clfa.report.card import count_openings
from clfa.report.page import (
    BLUE,
    GREY,
    ORANGE,
    figure_source,
    percent,
    picture_source,
    plain_axes,
    render,
    scores_table,
)
from clfa.serving.predictor import Predictor


def write_run_report(run: Path, split: str, rows: Any) -> None:
    """`RUN/report.html` of one evaluated split: scores beside floors, curves, confusion, calibration, errors, heatmap.

    Args:
        run: run directory with the split in `metrics.json`.
        split: the split.
        rows: its rows, for the pictures and texts of the errors.
    """
    result = json.loads((run / "metrics.json").read_text(encoding="utf-8"))[split]
    _, truth, predicted, probabilities = read_table(run / "predictions" / f"{split}.parquet")
    labels = result["labels"]
    systems = dict(result.get("floors", {})) | {"this run": result["metrics"]}
    for name, title in (
        ("deduplicated", "posts that train does not hold"),
        ("neutralised", "cues of form neutralised"),
    ):
        if result.get(name, {}).get("metrics"):
            systems[f"this run, {title}"] = result[name]["metrics"]
    openings = count_openings(run, read_yaml(run / "config.yaml")["data"]["path"])
    opened = (
        f" The test split was opened {openings} time{'s' if openings != 1 else ''} for this run." if openings else ""
    )
    sections: list[dict[str, Any]] = [
        {
            "title": "Scores beside the floors",
            "text": [
                f"{result['rows']:,} posts of the split “{split}”. Brackets are 95 % bootstrap intervals over posts. "
                f"The epoch was chosen on validation.{opened}"
            ],
            "table": scores_table(systems, strong=["this run"]),
        },
        *_flip_section(result),
        *_probe_section(run),
        {
            "title": "Training",
            "figures": [_figure(_curves(run), "Loss terms on train and scores on validation by epoch.")],
        },
        {
            "title": "Where it is right, and how sure",
            "figures": [
                _figure(_confusion(np.array(result["confusion"]), labels), "Rows: labels. Columns: predictions."),
                _figure(
                    _calibration(probabilities, truth),
                    f"Calibration: expected calibration error {100 * result['ece']:.1f} points (15 bins).",
                ),
            ],
            **_calibration_table(result),
        },
        *_group_section(result),
        {
            "title": "The errors it was most sure of",
            "text": ["Wrong predictions with the highest probability: mislabelled posts are often among them."],
            "cards": _error_cards(rows, truth, probabilities, labels),
        },
        *_heatmap_section(run, rows, truth, predicted),
    ]
    page = "report.html" if "@" not in split else f"report-{split}.html"
    render(run / page, "/".join(run.resolve().parts[-2:]), f"{run}, split {split}", sections)


def _flip_section(result: dict[str, Any]) -> list[dict[str, Any]]:
    if not result.get("flips"):
        return []
    rows = [
        [name, f"{found['posts']:,}", f"{found['flipped']:,}", percent(found["rate"], found["ci95"])]
        for name, found in result["flips"].items()
    ]
    told = (
        "A prediction that flips rested on what was changed. Hashtags and emoji go with what they mean. "
        "Brackets are Wilson intervals."
    )
    head = ["change", "posts it changes", "predictions that flip", "share, %"]
    return [{"title": "Cues of form", "text": [told], "table": {"head": head, "rows": rows}}]


def _calibration_table(result: dict[str, Any]) -> dict[str, Any]:
    if "calibration" not in result:
        return {}
    found = result["calibration"]
    sides = [side for side in ("before", "after") if found[side]]
    rows = []
    for name, title in (
        ("ece", "ECE, %"),
        ("adaptive_ece", "adaptive ECE, %"),
        ("brier", "Brier"),
        ("nll", "NLL, nats"),
    ):
        factor, digits = (100, 1) if name.endswith("ece") else (1, 3)
        cells = []
        for side in sides:
            value, (low, high) = found[side][name]["value"], found[side][name]["ci95"]
            cells.append(f"{factor * value:.{digits}f} [{factor * low:.{digits}f}, {factor * high:.{digits}f}]")
        chance = found["before"][name].get("if_calibrated")
        rows.append([title, *cells, f"{factor * chance:.{digits}f}" if chance is not None else ""])
    after = [f"temperature {found['temperature']:.2f}, fitted on validation"] if found["after"] else []
    head = ["calibration", "as trained", *after, "chance alone, up to"]
    return {"table": {"head": head, "rows": rows}}


def _group_section(result: dict[str, Any]) -> list[dict[str, Any]]:
    if not result.get("groups"):
        return []
    rows = [
        [
            name,
            f"{found['rows']:,}",
            *(percent(found["metrics"][m]["value"], found["metrics"][m]["ci95"]) for m in ("accuracy", "macro_f1")),
        ]
        for name, found in result["groups"].items()
    ]
    told = "Groups of at least 20 posts. Many groups are looked at: expect one in twenty to differ by chance."
    head = ["group", "posts", "accuracy", "macro F1"]
    return [{"title": "Groups of posts", "text": [told], "table": {"head": head, "rows": rows}}]


def _probe_section(run: Path) -> list[dict[str, Any]]:
    """What `clfa probe` found, if it was run."""
    if not (run / "probe.json").is_file():
        return []
    from clfa.report.probe_page import probe_sections

    return probe_sections(json.loads((run / "probe.json").read_text(encoding="utf-8")))


def _figure(figure: Any, caption: str) -> dict[str, str]:
    return {"source": figure_source(figure), "caption": caption}


def _curves(run: Path) -> Any:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    epochs = [line["epoch"] for line in lines]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    names = [name for name in lines[0] if name.endswith("_loss") or name.startswith("alignment_loss_")]
    for name in names:
        left.plot(epochs, [line[name] for line in lines], marker=".", label=name.replace("_", " "))
    left.set(xlabel="epoch", title="train: loss in nats")
    for name, colour in (("accuracy", BLUE), ("macro_f1", ORANGE)):
        right.plot(
            epochs,
            [line["validation"][name] for line in lines],
            marker=".",
            color=colour,
            label=name.replace("_", " ").replace("f1", "F1"),
        )
    best = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["training"]["best_epoch"]
    right.axvline(best, color=GREY, linestyle=":", label=f"chosen: {best}")
    right.set(xlabel="epoch", title="validation")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False, fontsize=9)
    return figure


def _confusion(matrix: np.ndarray, labels: list[str]) -> Any:
    figure, axes = pyplot.subplots(figsize=(4.4, 3.6), layout="constrained")
    share = matrix / matrix.sum(1, keepdims=True).clip(min=1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*matrix.shape):
        colour = "white" if share[row, column] > 0.55 else "#22252a"
        axes.text(
            column, row, f"{matrix[row, column]:,}\n{share[row, column]:.0%}", ha="center", va="center", color=colour
        )
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="predicted", ylabel="label", title="confusion")
    return figure


def _calibration(probabilities: np.ndarray, truth: np.ndarray) -> Any:
    bins = reliability(probabilities, truth)
    confidence, accuracy, counts = (np.array(column) for column in zip(*bins))
    figure, axes = plain_axes(4.4, 3.6)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":")
    axes.scatter(confidence, accuracy, s=12 + 300 * counts / counts.max(), color=BLUE, alpha=0.75)
    axes.set(
        xlim=(0, 1.03),
        ylim=(0, 1.03),
        xlabel="probability of the predicted class",
        ylabel="share that is right",
        title="calibration (area = posts)",
    )
    return figure


def _error_cards(rows: Any, truth: np.ndarray, probabilities: np.ndarray, labels: list[str]) -> list[dict[str, str]]:
    cards = []
    for number in worst_errors(truth, probabilities):
        row = rows[number]
        guess = int(probabilities[number].argmax())
        cards.append(
            {
                "source": picture_source(open_image(row["image"]["bytes"])) if row["image"] else "",
                "text": row["text"][:280],
                "note": f"{row['id']}: label {labels[truth[number]]}, predicted {labels[guess]} "
                f"({probabilities[number, guess]:.0%})",
            }
        )
    return cards


def _heatmap_section(run: Path, rows: Any, truth: np.ndarray, predicted: np.ndarray) -> list[dict[str, Any]]:
    """The heatmap of the first rightly predicted post with a picture and at most 16 words."""
    for number in np.flatnonzero(truth == predicted)[:200]:
        row = rows[int(number)]
        if row["image"] and 3 <= len(row["text"].split()) <= 16:
            try:
                figure = draw_heatmap(alignment_heatmap(Predictor(run), row))
            except UserError:  # a run with one modality has no such picture
                return []
            caption = f"Post {row['id']}. Cosine between each word and each image patch; darker = more similar."
            return [{"title": "Alignment of words and picture", "figures": [_figure(figure, caption)]}]
    return []
