"""Posts to try clfa with, drawn and written by clfa itself: a table, images, and two small encoders without training.

    python examples/tutorial/write_posts.py posts

Meals, weather and the like, good or dreadful, with a comment; the label is what a post is about.
"""

import csv
import sys
from pathlib import Path

from clfa.data.congruity import posts
from clfa.studies.demo import write_encoders


def main(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    write_encoders(folder / "encoders")
    for name, count, seed in (("posts", 400, 1), ("new", 40, 2)):
        with open(folder / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "text", "image", "label"][: 4 if name == "posts" else 3])
            for post in posts(count, seed):
                path = f"images/{name}-{post['id']}.png"
                post["image"].save(folder / path)
                writer.writerow([post["id"], post["text"], path, post["topic"]][: 4 if name == "posts" else 3])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
