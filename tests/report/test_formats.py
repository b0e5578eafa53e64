"""Tables in LaTeX, terminal texts: what is shown is plain, explained, and compiles where only ASCII does."""

import numpy as np

from clfa.data.records import Manifest
from clfa.evidence.results import Cue
from clfa.report import figures
from clfa.report.formats import latex, latex_text, terminal
from clfa.report.tables import p_text


def test_latex_is_ascii_and_escaped():
    """pdflatex stops at letters that it does not know."""
    rows = [["system", "macro F1"], ["a_b & 50 % #1 ~ ^ <x> {y} \\", "66.8 ± 1.6 [−1.0, +2.0] ≤ ≥ × … → ε – ↓"]]
    table = latex(rows)
    assert table.isascii()
    assert r"a\_b \& 50 \% \#1" in table
    assert r"$\pm$" in table
    note = latex_text("* stand-ins; ε ≤ 0.2 is dominance, 95 % interval")
    assert note.isascii()
    assert r"95 \% interval" in note


def test_small_p_values_are_not_zero():
    assert [p_text(p) for p in (0.0004, 0.001, 0.0496, 1.0)] == ["< 0.001", "0.001", "0.050", "1.000"]


def test_an_import_in_the_terminal():
    counts = {f"class{number}": 100 - number for number in range(9)}
    splits = {"train": {"rows": 864, "without_image": 2, "dropped": 1, "labels": counts}}
    text = terminal(Manifest(name="posts", labels=list(counts), splits=splits, split="given", filters=["one note"]))
    assert "posts: 9 classes" in text
    assert "class0 100, class1 99" in text
    assert text.splitlines()[2].endswith("class5 95 and 3 more")
    assert text.splitlines()[-2:] == ["given", "one note"]
    assert "sha256" not in text


def cue(name: str, count: int, share: float) -> Cue:
    return Cue(name, "token", "yes", int(count * share), count, share, 0.1, 9.0, 0.01, 0.5, {})


def test_names_in_the_cue_chart_lie_apart():
    """Six cues at nearly one place: no name lies on another; counts are numbers, not TeX; Han letters are left out."""
    cues = [cue(f"a long cue {number}", 1000 + number, 0.9) for number in range(6)]
    figure = figures.cue_chart([cue("漂亮", 1000, 0.9), *cues])
    figure.draw_without_rendering()
    (axes,) = figure.axes
    names = [text for text in axes.texts if text.get_text()]
    assert [text.get_text() for text in names] == [one.cue for one in cues]
    boxes = [text.get_window_extent() for text in names]
    apart = [not one.overlaps(two) for place, one in enumerate(boxes) for two in boxes[:place]]
    assert np.mean(apart) == 1
    assert not any("$" in label.get_text() for label in axes.get_xticklabels())
