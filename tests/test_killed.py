"""Long commands, killed at random moments and begun again until they end: what is left is as if nothing had happened."""

import json
import os
import shutil
import signal
import time
from dataclasses import asdict

import numpy as np
import pytest
import yaml
from conftest import picture, text
from nursery import Nursery

from clfa.config import CaptionSource, SweepConfig, TeacherConfig
from clfa.data import shards
from clfa.training.train import train

TIMES = {"seconds", "examples_per_second", "minutes", "openings"}
"""And how often test was opened: again, where the process was killed while it was."""


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    nursery = Nursery(tmp_path_factory.mktemp("nursery") / "said.txt")
    yield nursery
    nursery.close()


@pytest.fixture
def commands(run_config, dataset, encoders, tmp_path):
    """`commands[name](folder)`: the arguments of a command that reads and writes in that folder."""
    (tmp_path / "images").mkdir()
    for number in range(120):
        (tmp_path / "images" / f"{number}.png").write_bytes(picture(number))
    rows = []
    for number in range(3 * shards.ROWS):
        split = ("train", "train", "validation", "test")[number % 4]
        rows.append(f"{number},{text(number)},images/{number % 120}.png,{['no', 'yes'][number // 4 % 2]},{split}")
    (tmp_path / "posts.csv").write_text("\n".join(["id,text,image,label,split", *rows]) + "\n")
    captions = "\n".join(f"{number}.png\t{text(number)}" for number in range(120))
    (tmp_path / "captions.txt").write_text(captions + "\n")
    names = [f"--text-encoder={encoders / 'bert'}", f"--image-encoder={encoders / 'vit'}"]

    def written(folder, config):
        path = folder.with_name(f"{folder.name}.yaml")
        path.write_text(yaml.safe_dump(asdict(config)))
        return str(path)

    def imported(folder):
        return ["import", "table", str(tmp_path / "posts.csv"), "--out", str(folder / "posts")]

    def teacher(folder):
        sources = [CaptionSource(str(tmp_path / "images"), str(tmp_path / "captions.txt"))]
        towers = (str(encoders / "bert"), str(encoders / "vit"))
        config = TeacherConfig(sources, *towers, str(folder / "teacher"), dim=16, projection_hidden=16, epochs=4)
        config = yaml.safe_load(yaml.safe_dump(asdict(config))) | {"held_out": 20, "batch_size": 10, "frozen": False}
        return ["teacher", "train", "--config", written(folder, TeacherConfig(**config | {"sources": sources}))]

    def sweep(folder):
        run = run_config(output="", train__epochs=2)
        systems = {"no_alignment": {"loss.alignment_weight": 0}, "clfa": {}}
        config = SweepConfig(run, systems, str(folder / "sweep"), 2, jobs=1, compare_to="no_alignment")
        return ["sweep", "--config", written(folder, config)]

    def probe(folder):
        if not (tmp_path / "trained").is_dir():
            train(run_config(output=str(tmp_path / "trained"), train__epochs=1))
        if not (folder / "run").is_dir():
            shutil.copytree(tmp_path / "trained", folder / "run")
        return ["probe", str(folder / "run"), "--posts", "8"]

    return {
        "import": imported,
        "probe": probe,
        "audit": lambda folder: ["audit", str(copy(dataset, folder)), *names, f"--teacher={encoders / 'clip'}"],
        "teacher": teacher,
        "sweep": sweep,
        "reproduce": lambda folder: [
            "reproduce",
            "mmsd",
            "--tiny",
            "--systems=bert,clfa",
            "--seeds=1",
            f"--out={folder / 'table'}",
        ],
        "fit": lambda folder: [
            "fit",
            str(copy(dataset, folder)),
            "--out",
            str(folder / "fit"),
            "--minutes",
            "60",
            *names,
        ],
    }


def copy(dataset, folder):
    """The data set in that folder, where caches are filled."""
    target = folder / "posts"
    if not target.is_dir():
        shutil.copytree(dataset, target)
    return target


def left(folder):
    """What is read later: file -> its content, without what tells the time."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name in ("environment.json", "manifest.json", "test_ledger.jsonl") or "checkpoints" in name:
            continue
        if path.suffix in (".json", ".jsonl"):
            lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
            found[name] = json.dumps([timeless(json.loads(line)) for line in lines]).replace(str(folder), "FOLDER")
        elif path.suffix in (".safetensors", ".csv", ".parquet"):
            found[name] = path.read_bytes().replace(str(folder).encode(), b"FOLDER")
        # a JSON file beside its place was left by a process that was killed; nobody reads it
        assert ".partial" not in name or ".json." in name
    return found


def timeless(value):
    if isinstance(value, dict):
        return {name: timeless(each) for name, each in value.items() if name not in TIMES}
    return [timeless(each) for each in value] if isinstance(value, list) else value


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["import", "audit", "teacher", "sweep", "reproduce", "fit", "probe"])
def test_killed_and_begun_again(nursery, commands, tmp_path, name, record_property):
    """4 kills of each here, 29 with `make faults`."""
    (tmp_path / "whole").mkdir()
    child, begun = nursery.start(*commands[name](tmp_path / "whole")), time.monotonic()
    assert nursery.end(child) == 0, nursery.said()[-2000:]
    seconds, whole = time.monotonic() - begun, left(tmp_path / "whole")
    assert whole
    generator, kills, rounds, attempts = np.random.default_rng(0), 0, 0, 0
    while kills < int(os.environ.get("CLFA_KILLS", "24")) / 7:
        folder, code, rounds = tmp_path / f"killed-{rounds}", None, rounds + 1
        folder.mkdir()
        made = {"import": folder / "posts", "teacher": folder / "teacher"}.get(name)  # whole, or not there
        while code != 0 and not (made and made.is_dir()):
            child = nursery.start(*commands[name](folder))
            undisturbed = attempts % 4 == 3  # so that there is an end to it
            code = nursery.end(child, None if undisturbed else generator.uniform(0, seconds), signal.SIGKILL)
            attempts += 1
            assert code in (0, -9), nursery.said()[-2000:]
            kills += code == -9
        assert left(folder) == whole
    record_property("SIGKILL", kills)
