"""Labels that people gave in Label Studio (its export as JSON), filled into the table that the posts came from.

python examples/annotation/take.py table.csv export.json labelled.csv

Then again: clfa fit labelled.csv, choose.sh for the next posts … Keep labelled.csv in the folder of the table: its images
are relative to it.
"""

import csv
import json
import sys
from pathlib import Path


def main(table: str, export: str, out: str) -> None:
    given = {}
    for task in json.loads(Path(export).read_text(encoding="utf-8")):
        for one in task["annotations"]:  # of several the last one counts
            if not one.get("was_cancelled") and one["result"]:
                given[task["data"]["id"]] = one["result"][0]["value"]["choices"][0]
    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with open(out, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(row | {"label": given.get(row["id"], row["label"])} for row in rows)
    known = sum(bool(row["label"]) for row in rows)
    print(f"{known} posts had a label, {len(given)} labels are new: {out}")


if __name__ == "__main__":
    main(*sys.argv[1:])
