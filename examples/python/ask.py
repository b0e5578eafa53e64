"""Posts to a service (`clfa serve`), with nothing but Python's own library: many in a request, and one.

python examples/python/ask.py http://127.0.0.1:8000 posts.csv
"""

import base64
import csv
import json
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

TOGETHER = 32  # posts a request, at most


def main(service: str, table: str) -> None:
    wait_for(service)
    with open(table, encoding="utf-8", newline="") as file:
        posts = [
            {"text": row["text"], "image": coded(Path(table).parent / row["image"])} for row in csv.DictReader(file)
        ]
    for start in range(0, len(posts), TOGETHER):
        for answer in ask(f"{service}/predict", {"posts": posts[start : start + TOGETHER]})["predictions"]:
            print(answer["predicted"], answer["problem"])
    print(ask(f"{service}/predict/one", posts[0]))


def coded(path: Path) -> str | None:
    return base64.b64encode(path.read_bytes()).decode() if path.is_file() else None


def ask(address: str, content: dict) -> dict:
    request = Request(address, json.dumps(content).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=60) as answer:
        return json.load(answer)


def wait_for(service: str) -> None:
    """Until the model is loaded."""
    for _ in range(120):
        try:
            with urlopen(f"{service}/health/ready", timeout=5):
                return
        except URLError:
            time.sleep(0.5)
    raise SystemExit(f"{service} is not ready")


if __name__ == "__main__":
    main(*sys.argv[1:])
