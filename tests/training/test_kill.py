"""Training processes killed at random moments: what the last one leaves is what an unbroken one leaves, to the byte."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import asdict

import numpy as np
import pytest
import yaml
from nursery import Nursery

from clfa.runs import Run
from clfa.studies import demo
from clfa.training.checkpoint import newest_whole
from clfa.training.teacher import train_teacher

EACH_STEP = "import clfa.training.train as training; training.CHECKPOINT_SECONDS = 0.0"
EACH_STEP += "; training.clear_checkpoints = lambda folder: None"  # so that the last moments can be compared, too


@pytest.fixture(scope="module")
def posts(tmp_path_factory):
    """The demo's posts, encoders and teacher, fewer of them."""
    out = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("DRAWINGS", 300), ("HELD_OUT", 50), ("VALIDATION", 40), ("TEST", 40)):
            patch.setattr(demo, name, value)
        demo.write_encoders(out / "encoders")
        demo.write_posts(out / "data", 160)
        demo.write_captions(out / "captions")
        train_teacher(dataclasses.replace(demo.teacher_config(out), epochs=1))
    return out


@pytest.fixture(scope="module")
def mother(tmp_path_factory):
    mother = Nursery(tmp_path_factory.mktemp("nursery") / "said.txt", EACH_STEP)
    yield mother
    mother.close()


@pytest.fixture
def nursery(mother):
    mother.log.unlink(missing_ok=True)
    return mother


@pytest.fixture
def command(posts, tmp_path):
    """`command(name, **changes of train)`: arguments that train the demo's CLFA in that folder, or go on."""

    def build(name, **changes):
        config = demo.run_config(posts)
        changes = {"epochs": 3, "average": 0.9, "modality_dropout": 0.1} | changes
        train = dataclasses.replace(config.train, **changes)
        config = dataclasses.replace(config, train=train, output=str(tmp_path / name / "run"))
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(asdict(config)))
        return ["train", "--config", str(path), "--resume"]

    return build


def left(folder):
    """Everything that a run leaves and that does not tell the time."""
    run = folder / "run"
    lines = [{k: v for k, v in line.items() if k != "examples_per_second"} for line in Run(run).log()]
    newest = newest_whole(Run(run).checkpoints)
    files = {path.name: path.read_bytes() for path in newest.iterdir() if path.suffix == ".safetensors"}
    predictions = {path.name: path.read_bytes() for path in (Run(run).path / "predictions").iterdir()}
    return lines, files, predictions, (Run(run).path / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_killed_at_random_moments(nursery, command, tmp_path, workers, accumulation, record_property):
    """17 kills for each of the four (and the two signals that ask to stop, each a third as often), 50 with `make faults`;
    the unbroken run has no workers."""
    child, begun = nursery.start(*command("whole", accumulation=accumulation)), time.monotonic()
    assert nursery.end(child) == 0, nursery.said()[-2000:]
    seconds = time.monotonic() - begun
    whole = left(tmp_path / "whole")
    generator, count = np.random.default_rng(workers + accumulation), dict.fromkeys(("KILL", "TERM", "INT"), 0)
    wanted, codes, rounds = (
        int(os.environ.get("CLFA_KILLS", "40")) / 4,
        {"KILL": (-9,), "TERM": (143, -15), "INT": (130, -2)},
        0,
    )
    while count["KILL"] < wanted or count["TERM"] < wanted / 3 or count["INT"] < wanted / 3:
        own, rounds = f"killed-{rounds}", rounds + 1
        code, attempts = None, 0
        while code != 0:
            attempts += 1
            name = str(generator.choice(["KILL", "TERM", "INT"], p=[0.6, 0.2, 0.2]))
            child = nursery.start(*command(own, accumulation=accumulation, workers=workers))
            after = generator.uniform(0, seconds / 2) if attempts % 8 else None  # then to its end
            code = nursery.end(child, after, getattr(signal, f"SIG{name}"))
            assert code in (0, *codes[name]), nursery.said()[-2000:]
            count[name] += code != 0
        assert left(tmp_path / own) == whole
    for name, times in count.items():
        record_property(f"SIG{name}", times)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_stops_after_the_step_and_nothing_is_lost(nursery, command, tmp_path, name, code):
    assert nursery.end(nursery.start(*command("whole"))) == 0
    # nothing but the signal saves inside of an epoch
    child = nursery.start(*command("stopped"), change="training.CHECKPOINT_SECONDS = 1e9")
    while not Run(tmp_path / "stopped" / "run").log_file.is_file():
        time.sleep(0.01)
    assert nursery.end(child, 0.5, getattr(signal, name)) == code
    assert "stopping after this step: the same command with --resume goes on from there" in nursery.said()
    progress = json.loads((newest_whole(Run(tmp_path / "stopped" / "run").checkpoints) / "progress.json").read_text())
    assert progress["step"] > 0
    assert nursery.end(nursery.start(*command("stopped"))) == 0
    assert left(tmp_path / "stopped") == left(tmp_path / "whole")


@pytest.mark.slow
def test_the_control_is_noticed(nursery, command, tmp_path):
    """A build that does not save where in the epoch it stands ends with other bytes."""
    assert nursery.end(nursery.start(*command("whole"))) == 0
    change = "State = training.State; training.State = lambda **saved: State(**saved | {'batch': 0, 'sums': {}})"
    dies = (
        "save = training.save_checkpoint; training.save_checkpoint = lambda *a: (save(*a), a[3]['step'] < 4 or exit(9))"
    )
    assert nursery.end(nursery.start(*command("forgets"), change=f"{change}\n{dies}")) == 9
    assert (
        json.loads((newest_whole(Run(tmp_path / "forgets" / "run").checkpoints) / "progress.json").read_text())["batch"]
        > 0
    )
    assert nursery.end(nursery.start(*command("forgets"), change=change)) == 0
    assert left(tmp_path / "forgets") != left(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_stops_a_long_validation(nursery, command, tmp_path, name, code):
    """Without a step done twice, whose weights would differ: nothing else saves inside of an epoch."""
    assert nursery.end(nursery.start(*command("whole"))) == 0
    change = (
        "training.CHECKPOINT_SECONDS = 1e9; import time; from clfa.model.pipeline import Pipeline as P; logits = P.logits\n"
        "P.logits = lambda *a: (open('{}', 'w').close(), time.sleep(600)) if a[2] == 'validating' else logits(*a)"
    )
    child = nursery.start(*command("stopped"), change=change.format(tmp_path / "validates"))
    while not (tmp_path / "validates").is_file():
        time.sleep(0.01)
    begun = time.monotonic()
    assert nursery.end(child, 0.0, getattr(signal, name)) == code
    assert time.monotonic() - begun < 60
    progress = json.loads((newest_whole(Run(tmp_path / "stopped" / "run").checkpoints) / "progress.json").read_text())
    assert (progress["epoch"], progress["batch"]) == (0, 10)
    assert nursery.end(nursery.start(*command("stopped"))) == 0
    assert left(tmp_path / "stopped") == left(tmp_path / "whole")


@pytest.mark.slow
def test_memory_exhausted_says_what_fits_and_that_fits(nursery, command, posts, tmp_path):
    """A limit of the operating system, 1.1 GB above what the imports take; 960 posts need more."""
    demo.write_posts(posts / "many", 960)
    change = (
        "import resource; size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + 1_100_000_000,) * 2)\n"
    )
    asked = [*command("limited", batch_size=960, epochs=1), "--data.path", str(posts / "many")]
    assert nursery.end(nursery.start(*asked, change=change)) == 2
    assert "Traceback" not in nursery.said()
    advice = re.search(
        r"memory exhausted by a batch of 960 posts, of which (\d+) fit: with train.batch_size (\d+) and train.accumulation "
        r"(\d+) a step has the same 960 posts",
        nursery.said(),
    )
    size, again, times = map(int, advice.groups())
    assert size == again
    assert size * times == 960
    smaller = [*command("smaller", batch_size=size, accumulation=times, epochs=1), "--data.path", str(posts / "many")]
    assert nursery.end(nursery.start(*smaller, change=change)) == 0


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 150 MB."""
    folder = tmp_path / "full"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=150m", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no right to mount a small file system here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_is_told_and_what_was_saved_goes_on(nursery, command, tmp_path, small_disk):
    assert nursery.end(nursery.start(*command("whole"))) == 0
    slowly = (
        "import time; forward = training.loss_terms; training.loss_terms = lambda *a: (time.sleep(0.1), forward(*a))[1]"
    )
    child = nursery.start(*command("full"), change=slowly)
    while not list((small_disk / "run" / "checkpoints").glob("step-*")):
        time.sleep(0.01)
    with open(small_disk / "ballast", "wb") as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(1_000_000))
    assert nursery.end(child) == 2
    assert re.search(r"the disk is full: this needs \d+\.\d MB, \d+\.\d MB are free", nursery.said())
    assert "Traceback" not in nursery.said()
    assert not (small_disk / "run" / "checkpoints" / "partial").exists()
    (small_disk / "ballast").unlink()
    assert nursery.end(nursery.start(*command("full"))) == 0
    assert left(small_disk) == left(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_signals_reach_no_loader_and_a_lost_one_ends_the_training(nursery, command, tmp_path, name, code):
    """A terminal sends its signals to all processes, also at the moment at which those that load data begin."""
    change = (
        "import torch.utils.data._utils.worker as w; own = w._worker_loop; import time, os\n"
        "from torch.utils.data import dataloader\n"
        "def slow(*a): (open('{}', 'w').close(), time.sleep(1), own(*a))\n"
        "dataloader._utils.worker._worker_loop = slow"
    ).format(tmp_path / "begins")
    child = nursery.start(*command("stopped", workers=2), change=change)
    while not (tmp_path / "begins").is_file():
        time.sleep(0.01)
    assert nursery.end(child, 0.0, getattr(signal, name)) == code
    assert "exited unexpectedly" not in nursery.said()
    # one that the operating system kills: an error, and an end, although the others never heard of it
    kills = "from clfa.model.batch import Collator as C; made = C.__call__; import os, torch.utils.data as d\n" + (
        "C.__call__ = lambda *a: os._exit(9) if (i := d.get_worker_info()) and i.id else made(*a)"
    )
    begun = time.monotonic()
    assert nursery.end(nursery.start(*command("lost", workers=2), change=kills)) == 1
    assert "exited unexpectedly" in nursery.said()
    assert time.monotonic() - begun < 120
