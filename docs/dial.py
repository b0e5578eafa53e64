"""Measure the dial of docs/when-alignment-helps.md: python docs/dial.py OUT (about 20 minutes on one CPU core).

Points are added to OUT/dial.jsonl as they are measured; a script that was stopped goes on. At its end it writes
docs/results/dial.json, from which `python docs/make_docs.py` makes the page.
"""

import logging
import sys
from dataclasses import asdict
from itertools import product
from pathlib import Path

from clfa.data.atomic import write_json
from clfa.studies.dial import Point, measure_points

LABELS = (200, 50, 800)
QUALITIES = (1.0, 0.3)
PLACES = ((0.0, "unique"), (0.5, "unique"), (0.0, "synergy"), (0.5, "synergy"), (1.0, "unique"))
"""Redundancy, and what the rest is; with a redundancy of 1 there is no rest."""


def points() -> list[Point]:
    """All points, the most telling first."""
    return [
        Point(redundancy, rest, labels, quality, knows)
        for quality, labels, knows, (redundancy, rest) in product(QUALITIES, LABELS, ("all", "shared"), PLACES)
    ]


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    measured = measure_points(points(), Path(sys.argv[1]) / "dial.jsonl")
    write_json(Path(__file__).parent / "results" / "dial.json", [asdict(each) for each in measured])
