"""Figures of the dial: surfaces of gain, accuracy by weight, estimates against the truth."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np

from clfa.metrics import Score
from clfa.report.figures import BLUE, DARK, GREY, ORANGE, PALE, Figure, plain_axes, pyplot


def surfaces(
    panels: Sequence[tuple[str, Sequence[Sequence[Score]], Sequence[Sequence[bool]]]],
    rows: Sequence[str],
    columns: Sequence[str],
    across: int,
    below: str,
    unit: str,
) -> Figure:
    """Panels of differences in points, as coloured cells on one scale centred on 0; those that are claimed are bold.

    Args:
        panels: title, (R, K) differences, (R, K) which are claimed.
        rows: names of the R rows.
        columns: names of the K columns.
        across: panels side by side.
        below: name of the columns.
        unit: what the colours are.
    """
    down = -(-len(panels) // across)
    size = (1.5 + 1.95 * across, 1.0 + 0.36 * len(rows) * down + 0.5 * down)
    figure, axes = pyplot.subplots(down, across, figsize=size, squeeze=False, layout="constrained")
    reach = max(abs(100 * score.value) for _, differences, _ in panels for row in differences for score in row)
    image: Any = None
    for number, (title, differences, claimed) in enumerate(panels):
        place = axes[number // across][number % across]
        values = [[100 * score.value for score in row] for row in differences]
        image = place.imshow(values, cmap="RdBu", vmin=-reach, vmax=reach, aspect="auto")
        for i, row in enumerate(values):
            for j, value in enumerate(row):
                strong = abs(value) > 0.6 * reach
                told = claimed[i][j]
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
        place.set_title(title, fontsize=9)
        place.set_xticks(range(len(columns)), columns if number // across == down - 1 else [""] * len(columns))
        place.set_yticks(range(len(rows)), rows if number % across == 0 else [""] * len(rows))
        place.tick_params(length=0, labelsize=9)
        place.spines[:].set_visible(False)
    figure.supxlabel(below, fontsize=9)
    figure.colorbar(image, ax=axes, label=unit, shrink=0.8)
    return figure


def weight_curves(panels: Mapping[str, Mapping[str, Sequence[Score]]], weights: Sequence[float], label: str) -> Figure:
    """Panels of lines over the alignment weight, with 95 % intervals; the weights stand at equal distances.

    Args:
        panels: title -> name of a line -> a score for each weight.
        weights: of the x axis.
        label: of the y axis.
    """
    figure, axes = pyplot.subplots(1, len(panels), figsize=(3.7 * len(panels), 3.4), sharey=True, layout="constrained")
    colours = (BLUE, "#6fa8dc", ORANGE, "#e6b17e", GREY)
    for place, (title, lines) in zip(np.atleast_1d(axes), panels.items()):
        for (name, scores), colour in zip(lines.items(), cycle(colours)):
            middle = [100 * score.value for score in scores]
            below = [100 * (score.value - (score.low or 0)) for score in scores]
            above = [100 * ((score.high or 0) - score.value) for score in scores]
            place.errorbar(range(len(weights)), middle, [below, above], color=colour, label=name, marker="o", capsize=2)
        place.set_xticks(range(len(weights)), [f"{weight:g}" for weight in weights])
        place.set(title=title, xlabel="alignment weight α")
        place.spines[["top", "right"]].set_visible(False)
        place.grid(axis="y", color=PALE)
        place.set_axisbelow(True)
    np.atleast_1d(axes)[0].set_ylabel(label)
    handles, names = np.atleast_1d(axes)[0].get_legend_handles_labels()
    figure.legend(handles, names, frameon=False, fontsize=9, loc="outside lower center", ncols=3)
    return figure


def against_truth(points: Mapping[str, Sequence[tuple[float, Score]]], x_label: str, y_label: str) -> Figure:
    """Estimates with intervals against what is true, by kind; on the line they are right."""
    figure, axes = plain_axes(4.6, 3.6)
    ends = [value for each in points.values() for value, _ in each]
    low, high = min(ends), max(ends)
    axes.plot([low, high], [low, high], color=GREY, linestyle=":", label="right")
    for (name, each), colour, shift in zip(points.items(), (BLUE, ORANGE), (-0.012, 0.012)):
        middle = [score.value for _, score in each]
        errors = [[s.value - (s.low or 0) for _, s in each], [(s.high or 0) - s.value for _, s in each]]
        axes.errorbar(
            [value + shift for value, _ in each], middle, errors, color=colour, fmt="o", capsize=2, label=name
        )
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.legend(frameon=False, fontsize=9)
    return figure
