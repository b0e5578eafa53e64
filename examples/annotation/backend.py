"""Asks `clfa serve RUN --label-studio` what Label Studio would ask, and checks the answers by the rules of the project.

python examples/annotation/backend.py http://127.0.0.1:8000 TO_LABEL

TO_LABEL is a folder of `clfa select`. In Label Studio itself: Settings, Model, Connect Model, with the address
http://127.0.0.1:8000/label-studio. It needs `pip install label-studio-sdk httpx`.
"""

import json
import sys
from pathlib import Path

import httpx
from label_studio_sdk.label_interface import LabelInterface


def main(service: str, to_label: str) -> None:
    tasks = json.loads((Path(to_label) / "tasks.json").read_text(encoding="utf-8"))
    config = (Path(to_label) / "label_studio.xml").read_text(encoding="utf-8")
    answer = httpx.post(f"{service}/label-studio/predict", json={"tasks": tasks, "label_config": config}, timeout=120)
    answer.raise_for_status()
    for task, found in zip(tasks, answer.json()["results"]):
        valid = LabelInterface(config).validate_prediction(found)
        choice = found["result"][0]["value"]["choices"][0]
        print(task["data"]["id"], choice, f"{found['score']:.6f}", "valid" if valid else "NOT VALID", sep="\t")


if __name__ == "__main__":
    main(*sys.argv[1:])
