"""All figures of the reports. Every function returns a matplotlib figure."""

import base64
import functools
import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
from PIL import Image

from clfa.evidence.results import Bin, Corruption, Cue, CurvePoint, Heatmap, Occlusion, Probe, SystemScores
from clfa.metrics import METRICS, Score
from clfa.report.tables import name_of

matplotlib.use("Agg")
from matplotlib import pyplot  # the backend must be chosen first
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.transforms import Bbox

matplotlib.rcParams["text.parse_math"] = False  # a $ in a post or a label is a $

BLUE, ORANGE, GREY, DARK, PALE = "#2563a8", "#d9822b", "#8a8f98", "#22252a", "#e8e8e8"
FOR_AND_AGAINST = LinearSegmentedColormap.from_list("for_and_against", [ORANGE, "#ffffff", BLUE])


def source(figure: Figure) -> str:
    """A figure as a PNG data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    pyplot.close(figure)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def save(figure: Figure, path: Path, dpi: int = 130) -> None:
    """Write a figure as PNG."""
    figure.savefig(path, dpi=dpi)
    pyplot.close(figure)


def image_source(image: Image.Image, side: int = 320) -> str:
    """An image as a small JPEG data URI."""
    small = image.copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def plain_axes(width: float = 5.6, height: float = 3.6, grid: Literal["x", "y"] = "y") -> tuple[Figure, Axes]:
    """Figure and axes in the style of the reports."""
    figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color=PALE)
    axes.set_axisbelow(True)
    return figure, axes


@functools.cache
def _letters() -> frozenset[int]:
    """What the font of the figures can draw."""
    return frozenset(get_font(findfont(FontProperties())).get_charmap())


def drawable(text: str) -> bool:
    """Whether the font of the figures has all letters of a text (it has none of Chinese, Japanese, Korean, Thai)."""
    return all(ord(letter) in _letters() for letter in text)


def heatmap(alignment: Heatmap) -> Figure:
    """The image, and for each word its alignment laid over it; darker = more similar."""
    count = len(alignment.words) + 1
    columns = min(6, count)
    rows = -(-count // columns)
    size = (2.1 * columns, 2.4 * rows + 0.9)
    figure, axes = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    first, *others = axes.flat
    first.imshow(alignment.image)
    first.set_title("the image", fontsize=10, style="italic")
    width, height = alignment.image.size
    grey = np.asarray(alignment.image.convert("L").convert("RGB")) // 2 + 127
    shared_scale = {"vmin": alignment.similarity.min(), "vmax": alignment.similarity.max()}
    over_image = {"extent": (-0.5, width - 0.5, height - 0.5, -0.5), "interpolation": "nearest", "alpha": 0.65}
    for axis, word, similarity in zip(others, alignment.words, alignment.similarity):
        axis.imshow(grey)
        drawn = axis.imshow(similarity, cmap="Blues", **shared_scale, **over_image)
        axis.set_title(word, fontsize=11)
    figure.colorbar(drawn, ax=axes, shrink=0.7, label="cosine of word and patch", location="right")
    figure.suptitle(f"predicted: {alignment.predicted} ({alignment.probability:.0%})", fontsize=11)
    return figure


def occlusion(found: Occlusion) -> Figure:
    """Words as bars, parts of the image as colour over it: blue speaks for the prediction, orange against."""
    columns = bool(found.words) + (found.image is not None)
    height = max(3.4, 0.8 + 0.22 * len(found.words))
    figure, axes = pyplot.subplots(1, columns, figsize=(4.4 * columns, height), squeeze=False, layout="constrained")
    places = list(axes.flat)
    if found.words:
        axis = places.pop(0)
        colours = [BLUE if effect > 0 else ORANGE for effect in found.effects]
        axis.barh(range(len(found.words)), found.effects, color=colours, height=0.7)
        axis.set_yticks(range(len(found.words)), found.words, fontsize=9)
        axis.invert_yaxis()
        axis.axvline(0, color=GREY, linewidth=1)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(left=False)
        axis.set_xlabel("nats that the word adds for the class", fontsize=9)
    if found.image is not None and found.parts is not None:
        axis = places.pop(0)
        width, height = found.image.size
        axis.imshow(np.asarray(found.image.convert("L").convert("RGB")) // 2 + 127)
        reach = max(1e-6, float(np.abs(found.parts).max()))
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        scale = {"cmap": FOR_AND_AGAINST, "vmin": -reach, "vmax": reach}
        drawn = axis.imshow(found.parts, alpha=0.6, extent=extent, interpolation="nearest", **scale)
        axis.set_axis_off()
        figure.colorbar(drawn, ax=axis, shrink=0.7, label="nats that the part adds for the class", location="bottom")
    figure.suptitle(f"predicted: {found.predicted} ({found.probability:.0%})", fontsize=11)
    return figure


def curves(log: Sequence[Mapping[str, Any]], best_epoch: int) -> Figure:
    """Loss terms on train and scores on validation, from the lines of `log.jsonl`."""
    epochs = [line["epoch"] for line in log]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    terms = [name for name in log[0] if name.endswith("_loss") or name.startswith("alignment_loss_")]
    for name in terms:
        left.plot(epochs, [line[name] for line in log], marker=".", label=name.replace("_", " "))
    left.set(xlabel="epoch", title="train: loss in nats")
    for name, colour in (("accuracy", BLUE), ("macro_f1", ORANGE)):
        values = [line["validation"][name] for line in log]
        right.plot(epochs, values, marker=".", color=colour, label=METRICS[name].title)
    right.axvline(best_epoch, color=GREY, linestyle=":", label=f"chosen: {best_epoch}")
    right.set(xlabel="epoch", title="validation")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False, fontsize=9)
    return figure


def confusion(counts: list[list[int]], class_names: list[str]) -> Figure:
    """Counts and shares of labels (rows) by predictions (columns)."""
    matrix = np.array(counts)
    figure, axes = pyplot.subplots(figsize=(4.4, 3.6), layout="constrained")
    share = matrix / matrix.sum(1, keepdims=True).clip(min=1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*matrix.shape):
        colour = "white" if share[row, column] > 0.55 else DARK
        text = f"{matrix[row, column]:,}\n{share[row, column]:.0%}"
        axes.text(column, row, text, ha="center", va="center", color=colour)
    axes.set_xticks(range(len(class_names)), class_names)
    axes.set_yticks(range(len(class_names)), class_names)
    axes.set(xlabel="predicted", ylabel="label", title="confusion")
    return figure


def reliability(bins: list[Bin]) -> Figure:
    """Accuracy against confidence."""
    counts = np.array([each.posts for each in bins])
    figure, axes = plain_axes(4.4, 3.6)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":")
    confidence, accuracy = [each.confidence for each in bins], [each.accuracy for each in bins]
    axes.scatter(confidence, accuracy, s=12 + 300 * counts / counts.max(), color=BLUE, alpha=0.75)
    axes.set(xlim=(0, 1.03), ylim=(0, 1.03), title="calibration (area = posts)")
    axes.set(xlabel="probability of the predicted class", ylabel="share that is right")
    return figure


def cue_chart(cues: list[Cue]) -> Figure:
    """How often the label follows each cue."""
    figure, axes = plain_axes(8.4, 3.6)
    palette = cycle((ORANGE, BLUE, GREY, *(f"C{number}" for number in range(10))))
    for colour, name in zip(palette, dict.fromkeys(cue.label for cue in cues)):
        of_label = [cue for cue in cues if cue.label == name]
        counts, shares = [cue.count for cue in of_label], [100 * cue.p_label_given_cue for cue in of_label]
        axes.scatter(counts, shares, s=18, color=colour, alpha=0.7, label=f"speaks for {name}")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda count, _: f"{count:,.0f}")  # not in TeX
    axes.xaxis.set_minor_formatter(lambda count, _: "")
    axes.set(xlabel="training posts with the cue", ylabel="share with the label, %")
    axes.legend(frameon=False, fontsize=9)
    axes.margins(x=0.12, y=0.12)
    named = [cue for cue in cues if drawable(cue.cue)][:6]
    _label_apart(figure, axes, {cue.cue[:24]: (cue.count, 100 * cue.p_label_given_cue) for cue in named})
    return figure


def _label_apart(figure: Figure, axes: Axes, points: Mapping[str, tuple[float, float]]) -> None:
    """Names beside their points, each lowered until it lies on no other; a line leads from there to its point."""
    figure.draw_without_rendering()  # for the final places
    taken: list[Bbox] = []
    for name, point in points.items():
        left = axes.transAxes.inverted().transform(axes.transData.transform(point))[0] > 0.75
        for lower in range(0, 160, 8):
            text = axes.annotate(
                name,
                point,
                xytext=(-10 if left else 10, 3 - lower),
                textcoords="offset points",
                ha="right" if left else "left",
                fontsize=9,
                arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.6} if lower else None,
            )
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                break
            text.remove()
        taken.append(box)


def forest(
    scores: Mapping[str, Score],
    label: str,
    line: float = 0.0,
    detectable: Sequence[float] = (),
    published: Mapping[str, float] | None = None,
    size: tuple[float, float] = (7.2, 0.45),
) -> Figure:
    """Scores with intervals under each other, the first on top.

    There is a vertical `line`, dashed where it is not 0; `detectable`, the smallest differences that a test would see, are
    drawn in grey around 0; `size` is the width, and the height of a row, in inches.
    """
    figure, axes = plain_axes(size[0], 1.3 + size[1] * len(scores), grid="x")
    axes.axvline(100 * line, color=GREY, linewidth=1, linestyle="--" if line else "-")
    for place, (name, score) in enumerate(scores.items()):
        if detectable:
            reach = 100 * detectable[place]
            axes.plot([-reach, reach], [place, place], color=GREY, alpha=0.3, linewidth=9, solid_capstyle="butt")
        axes.plot([100 * (score.low or 0.0), 100 * (score.high or 0.0)], [place, place], color=BLUE)
        axes.plot(100 * score.value, place, "o", color=BLUE)
        if published and name in published:
            axes.plot(100 * published[name], place, "D", color=ORANGE)
    axes.set_yticks(range(len(scores)), list(scores))
    axes.set_ylim(len(scores) - 0.4, -0.6)
    axes.set_xlabel(label)
    return figure


def missing(probe: Probe) -> Figure:
    """Accuracy by share of posts without a modality."""
    figure, axes = plain_axes(5.6, 3.2)
    for (name, side), colour in zip(probe.modalities.items(), (ORANGE, BLUE)):
        shares = [100 * change.share for change in side.missing]
        values = [100 * change.metrics["accuracy"].value for change in side.missing]
        axes.plot(shares, values, marker="o", color=colour, label=f"no {name}")
    axes.set(xlabel="posts without it, %", ylabel="accuracy, %")
    axes.legend(frameon=False)
    return figure


def drops(corruptions: Mapping[str, Corruption]) -> Figure:
    """Share of the accuracy that each corruption costs."""
    names = sorted(corruptions, key=lambda name: corruptions[name].relative_drop.value)
    figure, axes = plain_axes(5.6, 0.8 + 0.28 * len(names), grid="x")
    for place, name in enumerate(names):
        drop = corruptions[name].relative_drop
        axes.barh(place, 100 * drop.value, color=BLUE, alpha=0.75, height=0.65)
        axes.plot([100 * (drop.low or 0.0), 100 * (drop.high or 0.0)], [place, place], color=DARK, linewidth=1)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("share of the accuracy lost, %")
    return figure


def demo_systems(systems: Sequence[SystemScores]) -> Figure:
    """Accuracy of the systems of the demo, where chance is a half."""
    scores = {name_of(row.system): row.metrics["accuracy"] for row in systems}
    return forest(scores, "test accuracy, %; dashed: chance", line=0.5, size=(6.4, 0.35))


def learning_curve(points: Sequence[CurvePoint], label: str) -> Figure:
    """Scores against the number of labelled posts, a line for each system."""
    figure, axes = plain_axes(6.4, 3.8)
    for name, colour in zip(dict.fromkeys(point.system for point in points), (ORANGE, BLUE)):
        own = [point for point in points if point.system == name]
        mean = np.array([100 * point.score.value for point in own])
        bounds = 100 * np.array([[point.score.low or 0.0, point.score.high or 0.0] for point in own])
        sizes = [point.posts for point in own]
        axes.errorbar(sizes, mean, np.abs(bounds.T - mean), color=colour, marker="o", capsize=3, label=name_of(name))
    sizes = sorted({point.posts for point in points})
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    axes.set(xlabel="labelled posts", ylabel=label)
    axes.legend(frameon=False)
    return figure
