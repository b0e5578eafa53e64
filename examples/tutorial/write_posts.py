"""Posts to try clfa with, drawn and written by clfa itself: tables, images, and two small encoders without training.

    python examples/tutorial/write_posts.py posts

Meals, weather and the like, good or dreadful, with a comment; the label is what a post is about. `posts.csv` has labels, and
`new.csv` none; `held_out.csv` has labels to look at what a model says of posts that it has not seen; `pool.csv` has the
posts of the first two, labelled or not.
"""

import csv
import sys
from pathlib import Path

from clfa.data.congruity import posts
from clfa.studies.demo import write_encoders

COLUMNS = ["id", "text", "image", "label"]


def main(folder: Path, count: int = 400) -> None:
    (folder / "images").mkdir(parents=True)
    write_encoders(folder / "encoders")
    known, new, held_out = draw(folder, "posts", count, 1), draw(folder, "new", 40, 2), draw(folder, "held_out", 40, 3)
    write(folder / "posts.csv", known)
    write(folder / "new.csv", new, COLUMNS[:3])
    write(folder / "held_out.csv", held_out)
    write(folder / "pool.csv", known + [row[:3] for row in new])


def draw(folder: Path, name: str, count: int, seed: int) -> list[list[str]]:
    """Rows of a table, the images of which are written."""
    rows = []
    for post in posts(count, seed):
        row = [f"{name}-{post['id']}", post["text"], f"images/{name}-{post['id']}.png", post["topic"]]
        post["image"].save(folder / row[2])
        rows.append(row)
    return rows


def write(path: Path, rows: list[list[str]], columns: list[str] = COLUMNS) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(dict(zip(COLUMNS, row)) for row in rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
