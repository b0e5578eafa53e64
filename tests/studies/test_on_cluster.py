"""`clfa sweep` and `clfa fit` on a Ray cluster: what one process finds."""

import json
import signal
import time
from functools import partial
from pathlib import Path

import psutil
import pytest
import yaml
from conftest import picture, text

from clfa.config import SweepConfig, dump_config
from clfa.evidence.results import Fit, read_result
from clfa.studies.fit import fit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def start(start_process):
    """`start(*arguments)`: clfa with these."""
    return partial(start_process, "-m", "clfa")


def said_by(child, code=0):
    said = child.communicate(timeout=400)[1]
    assert child.returncode == code, said[-3000:]
    return said


def sweep_file(run_config, path, **changes):
    """A sweep of two systems with two seeds each."""
    run = run_config(loss__alignment_weight=0, train__epochs=6, **changes)
    systems = {"both": {}, "text_only": {"model.modalities.image": None}}
    sweep = SweepConfig(run, systems, str(path.with_suffix("")), seeds=2, compare_to="both")
    path.write_text(dump_config(sweep))
    return path


def test_a_sweep_whose_worker_dies_is_that_of_one_process(run_config, start, tmp_path):
    said_by(start("sweep", "--config", sweep_file(run_config, tmp_path / "here.yaml")))
    child = start("sweep", "--config", sweep_file(run_config, tmp_path / "there.yaml"), "--engine", "ray")
    while not (begun := list((tmp_path / "there").glob("*/seed-*/checkpoints/step-*"))):
        assert child.poll() is None, child.stderr.read()[-3000:]
        time.sleep(0.02)
    children = psutil.Process(child.pid).children(recursive=True)
    next(one for one in children if "_Worker" in " ".join(one.cmdline())).kill()
    said = said_by(child)
    assert "4 runs on a cluster of" in said
    assert "[4/4]" in said
    here, there = (json.loads((tmp_path / name / "sweep.json").read_text()) for name in ("here", "there"))
    assert there == here
    assert begun


def test_runs_that_fail_on_a_cluster_are_told_after_all_others(run_config, start, tmp_path):
    path = sweep_file(run_config, tmp_path / "sweep.yaml")
    sweep = yaml.safe_load(path.read_text())
    sweep["systems"]["none"] = {"model.modalities.text.encoder": str(tmp_path / "nowhere")}
    path.write_text(yaml.safe_dump(sweep))
    said = said_by(start("sweep", "--config", path, "--engine", "ray"), code=2)
    assert "2 of 6 runs failed" in said
    assert "nowhere" in said
    assert len(list((tmp_path / "sweep").glob("*/seed-*/metrics.json"))) == 4


def test_a_fit_finds_what_one_process_finds(encoders, start, tmp_path):
    (tmp_path / "photos").mkdir()
    lines = ["text,image,label"]
    for number in range(120):
        (tmp_path / "photos" / f"{number}.png").write_bytes(picture(number))
        told = ["word1 word2", "word11 word12"][number % 2 if number % 7 else 0]
        lines.append(f"{told} {text(number)},photos/{number}.png,{['no', 'yes'][number % 2]}")
    (tmp_path / "posts.csv").write_text("\n".join(lines))
    encoder = {"text_encoder": str(encoders / "bert"), "image_encoder": str(encoders / "mobilenet")}
    here = fit(tmp_path / "posts.csv", tmp_path / "here", 10.0, **encoder)
    options = [f"--{name.replace('_', '-')}={value}" for name, value in encoder.items()]
    said_by(
        start("fit", tmp_path / "posts.csv", "--out", tmp_path / "there", "--minutes", 10, *options, "--engine", "ray")
    )
    there = read_result(Fit, tmp_path / "there" / "leaderboard.json")
    assert [one.name for one in there.tried][:1] == [one.name for one in here.tried][:1]
    names = [{one.name for one in each.tried} for each in (here, there)]
    assert names[0] == names[1]
    assert there.metrics["macro_f1"].value == pytest.approx(here.metrics["macro_f1"].value, abs=0.1)
    assert (Path(tmp_path, "there", "model.safetensors")).is_file()


def test_an_interrupted_sweep_on_a_cluster_goes_on(run_config, start, tmp_path):
    path = sweep_file(run_config, tmp_path / "sweep.yaml")
    child = start("sweep", "--config", path, "--engine", "ray")
    while not list((tmp_path / "sweep").glob("*/seed-*/checkpoints/step-*")):
        assert child.poll() is None, child.stderr.read()[-3000:]
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    assert child.returncode == 130
    said = said_by(start("sweep", "--config", path, "--engine", "ray"))
    assert (tmp_path / "sweep" / "sweep.json").is_file(), said
