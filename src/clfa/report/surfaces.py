"""Figures of the dial: surfaces of gain, accuracy by weight, estimates against the truth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

from clfa.metrics import Score
from clfa.report.figures import BLUE, DARK, GREY, ORANGE, PALE, Figure, pyplot


@dataclass(frozen=True)
class Panel:
    """A surface of differences."""

    title: str
    columns: Sequence[str]
    below: str
    """What the columns are."""
    differences: Sequence[Sequence[Score]]
    """(R, K)."""
    claimed: Sequence[Sequence[bool]]
    """(R, K)."""


def surfaces(panels: Sequence[Panel], rows: Sequence[str], across: int, title: str, unit: str) -> Figure:
    """Panels of differences in points, as coloured cells on one scale centred on 0; those that are claimed are bold and
    framed.

    Args:
        panels: from the upper left, row by row.
        rows: names of the R rows of each.
        across: panels side by side.
        title: what it shows.
        unit: what the colours are.
    """
    down = -(-len(panels) // across)
    size = (2.6 + 2.2 * across, 1.0 + (0.36 * len(rows) + 0.8) * down)
    figure, axes = pyplot.subplots(down, across, figsize=size, squeeze=False, layout="constrained")
    reach = max(abs(100 * score.value) for panel in panels for row in panel.differences for score in row)
    image: Any = None
    for number, panel in enumerate(panels):
        place = axes[number // across][number % across]
        values = [[100 * score.value for score in row] for row in panel.differences]
        image = place.imshow(values, cmap="RdBu", vmin=-reach, vmax=reach, aspect="auto")
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                strong = abs(value) > 0.6 * reach
                told = panel.claimed[i][j]
                place.text(
                    j,
                    i,
                    f"{value:+.1f}",
                    ha="center",
                    va="center",
                    fontsize=9,
                    color="white" if strong else DARK if told else GREY,
                    weight="bold" if told else "normal",
                )
                if told:
                    frame = Rectangle((j - 0.46, i - 0.44), 0.92, 0.88, fill=False, edgecolor=DARK, linewidth=1.2)
                    place.add_patch(frame)
        place.set_title(panel.title, fontsize=9)
        place.set_xticks(range(len(panel.columns)), panel.columns)
        if number // across == down - 1:
            place.set_xlabel(panel.below, fontsize=9)
        place.set_yticks(range(len(rows)), rows if number % across == 0 else [""] * len(rows))
        place.tick_params(length=0, labelsize=9)
        place.spines[:].set_visible(False)
    figure.suptitle(title, fontsize=11)
    figure.colorbar(image, ax=axes, label=unit, shrink=0.8)
    return figure


def weight_curves(
    panels: Mapping[str, Mapping[str, Sequence[Score]]], weights: Sequence[float], title: str, label: str
) -> Figure:
    """Panels of lines over the alignment weight, with 95 % intervals; the weights stand at equal distances.

    Args:
        panels: title -> name of a line -> a score for each weight.
        weights: of the x axis.
        title: what it shows.
        label: of the y axis.
    """
    figure, axes = pyplot.subplots(1, len(panels), figsize=(3.1 * len(panels), 3.7), sharey=True, layout="constrained")
    colours = (BLUE, "#6fa8dc", ORANGE, "#e6b17e", GREY)
    for place, (panel, lines) in zip(np.atleast_1d(axes), panels.items()):
        for (name, scores), colour in zip(lines.items(), cycle(colours)):
            middle = [100 * score.value for score in scores]
            below = [100 * (score.value - (score.low or 0)) for score in scores]
            above = [100 * ((score.high or 0) - score.value) for score in scores]
            place.errorbar(range(len(weights)), middle, [below, above], color=colour, label=name, marker="o", capsize=2)
        place.set_xticks(range(len(weights)), [f"{weight:g}" for weight in weights])
        place.set_title(panel, fontsize=10)
        place.set_xlabel("alignment weight α")
        place.spines[["top", "right"]].set_visible(False)
        place.grid(axis="y", color=PALE)
        place.set_axisbelow(True)
    figure.suptitle(title, fontsize=11)
    np.atleast_1d(axes)[0].set_ylabel(label)
    handles, names = np.atleast_1d(axes)[0].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, fontsize=9, loc="outside lower center", ncols=3)
    return figure


def scatter(
    panels: Mapping[str, Mapping[str, Sequence[tuple[float, Score]]]],
    x_label: str,
    y_label: str,
    factor: float = 1.0,
    diagonal: bool = False,
) -> Figure:
    """Panels of scores with 95 % intervals against a number.

    Args:
        panels: title -> name of a series -> its (number, score).
        x_label: of the numbers.
        y_label: of the scores.
        factor: that scores are multiplied by, 100 for percent.
        diagonal: draw where both are equal, else where the score is 0.
    """
    size = (4.8 if len(panels) == 1 else 3.9 * len(panels), 3.7)
    figure, axes = pyplot.subplots(1, len(panels), figsize=size, sharey=True, layout="constrained")
    for place, (title, series) in zip(np.atleast_1d(axes), panels.items()):
        numbers = [number for points in series.values() for number, _ in points]
        ends = [min(numbers), max(numbers)]
        place.plot(ends, ends if diagonal else [0, 0], color=GREY, linestyle=":", label="equal" if diagonal else None)
        apart = 0.005 * (ends[1] - ends[0])
        for (name, points), colour, marker, shift in zip(series.items(), (BLUE, ORANGE), "os", (-apart, apart)):
            middle = [factor * score.value for _, score in points]
            below = [factor * (score.value - (score.low or 0)) for _, score in points]
            above = [factor * ((score.high or 0) - score.value) for _, score in points]
            drawn = {"color": colour, "fmt": marker, "capsize": 2, "markersize": 5, "linewidth": 1, "label": name}
            place.errorbar([number + shift for number, _ in points], middle, [below, above], **drawn)
        place.set_title(title, fontsize=10)
        place.spines[["top", "right"]].set_visible(False)
        place.grid(axis="y", color=PALE)
        place.set_axisbelow(True)
    first = np.atleast_1d(axes)[0]
    first.set_ylabel(y_label)
    figure.supxlabel(x_label, fontsize=10)
    first.legend(frameon=False, fontsize=9)
    return figure
