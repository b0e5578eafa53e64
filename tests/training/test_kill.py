"""Training processes killed at random moments: what the last one leaves is what an unbroken one leaves, to the byte."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict

import numpy as np
import pytest
import yaml

from clfa.runs import Run
from clfa.training.checkpoint import newest_whole

SCRIPT = """
import sys, time
import clfa.training.train as training
training.CHECKPOINT_SECONDS = 0.0  # after each step
step = training._forward
training._forward = lambda *arguments: (time.sleep(0.01), step(*arguments))[1]  # moments to be killed in
{change}
from clfa.cli import run
run()
"""


def command(config, change="pass"):
    path = f"{config.output}.yaml"
    with open(path, "w") as file:
        yaml.safe_dump(asdict(config), file)
    return [sys.executable, "-c", SCRIPT.format(change=change), "train", "--config", path, "--resume"]


def start(arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


def left(run):
    """Everything that a run leaves and that does not tell the time."""
    lines = [{k: v for k, v in line.items() if k != "examples_per_second"} for line in Run(run).log()]
    newest = newest_whole(Run(run).checkpoints)
    files = {path.name: path.read_bytes() for path in newest.iterdir() if path.suffix == ".safetensors"}
    return lines, files, (Run(run).path / "model.safetensors").read_bytes()


CHANGES = {
    "train__epochs": 3,
    "train__accumulation": 2,
    "train__average": 0.9,
    "train__batch_size": 2,
    "loss__alignment_weight": 0.0,
    "model__modalities__image__frozen": True,
}


@pytest.fixture
def config(run_config, tmp_path):
    return lambda name, **more: run_config(**CHANGES | more, output=str(tmp_path / name))


def seconds_of(process):
    started = time.monotonic()
    _, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    return time.monotonic() - started


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_random_moments(config):
    """Each process gets up to as long as an unbroken one takes; 8 kills here, 200 with `make faults`."""
    seconds = seconds_of(start(command(config("whole"))))
    generator, kills = np.random.default_rng(0), 0
    wanted = int(os.environ.get("CLFA_KILLS", "8"))
    round_ = 0
    while kills < wanted:
        own, round_ = config(f"killed-{round_}"), round_ + 1
        while not Run(own.output).is_finished:
            process = start(command(own))
            try:
                _, error = process.communicate(timeout=seconds * generator.uniform(0.3, 1.5))
                assert process.returncode == 0, error
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                kills += 1
        assert left(own.output) == left(config("whole").output)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_stops_after_the_step_and_nothing_is_lost(config, name, code):
    seconds_of(start(command(config("whole"))))
    own = config("stopped")
    process = start(
        command(own, "training.CHECKPOINT_SECONDS = 1e9")
    )  # nothing but the signal saves inside of an epoch
    while not Run(own.output).log_file.is_file():
        time.sleep(0.01)
    time.sleep(0.15)
    process.send_signal(getattr(signal, name))
    _, error = process.communicate(timeout=60)
    assert process.returncode == code
    assert "stopping after this step: the same command with --resume goes on from there" in error
    progress = json.loads((newest_whole(Run(own.output).checkpoints) / "progress.json").read_text())
    assert progress["step"] > 0
    seconds_of(start(command(own)))
    assert left(own.output) == left(config("whole").output)


@pytest.mark.slow
def test_the_control_is_noticed(config):
    """A build that does not save where in the epoch it stands ends with other bytes."""
    seconds_of(start(command(config("whole"))))
    own = config("forgets")
    change = "State = training.State; training.State = lambda **saved: State(**saved | {'batch': 0, 'sums': {}})"
    dies = (
        "save = training.save_checkpoint; training.save_checkpoint = lambda *a: (save(*a), a[3]['step'] < 4 or exit(9))"
    )
    process = start(command(own, f"{change}\n{dies}"))
    process.communicate(timeout=240)
    assert process.returncode == 9
    assert json.loads((newest_whole(Run(own.output).checkpoints) / "progress.json").read_text())["batch"] > 0
    seconds_of(start(command(own, change)))
    assert left(own.output) != left(config("whole").output)
