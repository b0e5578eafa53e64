"""Self-contained HTML pages: one template, sections as data. Nothing is loaded from anywhere; user text is escaped."""

import base64
import io
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image

matplotlib.use("Agg")
from matplotlib import pyplot  # the backend must be chosen first

matplotlib.rcParams["text.parse_math"] = False  # a $ in a post or a label is a $

BLUE, ORANGE, GREY = "#2563a8", "#d9822b", "#8a8f98"
SHOWN = ("accuracy", "macro_f1", "weighted_f1", "binary_f1")


def render(path: Path, title: str, subtitle: str, sections: list[dict[str, Any]]) -> None:
    """Write a report.

    Args:
        path: HTML file.
        title: heading.
        subtitle: one line under it.
        sections: `{"title", "text": [lines], "points": [{"number", "text", "advice", "note"}], "table": {"head", "rows",
            "strong"}, "figures": [{"source", "caption"}], "cards": [{"source", "text", "note"}]}`, each but the title
            optional; sources are data URIs.
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("clfa", "report/templates"), autoescape=True, trim_blocks=True)
    page = environment.get_template("report.html.j2").render(title=title, subtitle=subtitle, sections=sections)
    path.write_text(page, encoding="utf-8")


def scores_table(systems: dict[str, dict[str, Any]], strong: list[str]) -> dict[str, Any]:
    """Table of `{"value", "ci95"}` metrics by system, in percent."""
    names = [name for name in SHOWN if all(name in found for found in systems.values())]
    rows = [
        [system.replace("_", " "), *(percent(found[name]["value"], found[name]["ci95"]) for name in names)]
        for system, found in systems.items()
    ]
    return {
        "head": ["system", *(name.replace("_", " ").replace("f1", "F1") for name in names)],
        "rows": rows,
        "strong": strong,
    }


def percent(value: float, bounds: Any) -> str:
    """0.731, (0.71, 0.75) -> "73.1 [71.0, 75.0]"."""
    return f"{100 * value:.1f} [{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]"


def picture_source(image: Image.Image, side: int = 320) -> str:
    """A picture as a small JPEG data URI."""
    small = image.copy()
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def figure_source(figure: Any) -> str:
    """A matplotlib figure as a PNG data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    pyplot.close(figure)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def plain_axes(width: float = 5.6, height: float = 3.6) -> tuple[Any, Any]:
    """Figure and axes in the style of the reports."""
    figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e8e8e8")
    axes.set_axisbelow(True)
    return figure, axes
