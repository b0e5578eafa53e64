"""Every command of docs/tutorial.md, in its order, in a fresh folder."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "tutorial.md").read_text(), re.DOTALL)
    for line in block.splitlines()
]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tutorial_from_its_first_to_its_last_command(tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    said, service = {}, None
    try:
        for command in COMMANDS:
            if command.startswith("pip install"):
                continue
            kind = {"shell": True, "cwd": tmp_path, "env": os.environ | {"PATH": path}, "text": True}
            if command.endswith(" &"):
                service = subprocess.Popen(f"exec {command[:-2]}", stderr=subprocess.DEVNULL, **kind)
                continue
            done = subprocess.run(command, capture_output=True, **kind)
            assert done.returncode == 0, (command, done.stderr[-3000:])
            said[command.split()[1]] = done.stdout
    finally:
        if service:
            service.send_signal(signal.SIGTERM)
            assert service.wait(timeout=60) == 0
    assert len(said) == 10
    with (
        open(tmp_path / "predicted.csv", newline="") as file,
        open(tmp_path / "predicted_onnx.csv", newline="") as other,
    ):
        rows, exported = list(csv.DictReader(file)), list(csv.DictReader(other))
    assert [row["predicted"] for row in rows] == [row["predicted"] for row in exported]
    asked = [line.strip() for line in said["examples/python/ask.py"].splitlines()]
    assert asked[:-1] == [row["predicted"] for row in rows]
    board = json.loads((tmp_path / "model" / "leaderboard.json").read_text())
    # it has learnt something that neither the text nor the most frequent class says alone
    assert board["metrics"]["accuracy"]["value"] > board["floors"]["tfidf_logistic_regression"]["accuracy"]["value"]
    assert len(list((tmp_path / "to_label" / "images").iterdir())) == 5
