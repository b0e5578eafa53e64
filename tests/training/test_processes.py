"""One run by several processes: the loss and the gradients of one."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing
from conftest import make_dataset, picture, text
from safetensors.torch import load_file

from clfa.config import dump_config
from clfa.data.records import Record

pytestmark = pytest.mark.slow


@pytest.fixture
def posts(tmp_path):
    """A dataset directory with texts and images that are posted twice, and posts without an image."""

    def post(split, number):
        image = None if number % 5 == 0 else picture(number % 7)
        return Record(f"{split}-{number}", text(number % 9, 3 + number % 5), image, ["no", "yes"][number % 2], {})

    return make_dataset(tmp_path / "posts", {"train": 29, "validation": 11, "test": 8}, post)


@pytest.fixture
def without_chance(run_config, posts, encoders, tmp_path):
    """`without_chance(**changes)`: a configuration without dropout."""
    for name in ("bert", "vit"):
        path = encoders / name / "config.json"
        config = json.loads(path.read_text())
        config |= dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
        target = tmp_path / "encoders" / name
        target.mkdir(parents=True, exist_ok=True)
        for file in (encoders / name).iterdir():
            (target / file.name).write_bytes(file.read_bytes())
        (target / "config.json").write_text(json.dumps(config))
    own = {
        f"model__modalities__{modality}__encoder": str(tmp_path / "encoders" / name)
        for modality, name in (("text", "bert"), ("image", "vit"))
    }
    return partial(run_config, data__path=str(posts), model__dropout=0, model__fusion__dropout=0, **own)


SETTINGS = {
    "info_nce": {},
    "decoupled": {"loss__guidance": "decoupled"},
    "all negatives": {"loss__negatives": "all"},
    "class weights, smoothing": {"loss__class_weights": "balanced", "loss__label_smoothing": 0.1},
    "a missing modality": {"train__modality_dropout": 0.3},
    "no alignment": {"loss__alignment_weight": 0},
    "a penalty": {"model__fusion__name": "dr_net"},
    "a frozen encoder": {"model__modalities__image__frozen": True},
    "frozen encoders": {f"model__modalities__{name}__frozen": True for name in ("text", "image")},
    "last layers": {"model__modalities__text__trained_layers": 1},
    "less kept for the gradient": {"train__gradient_checkpointing": True},
    "a shared encoder": {"model__modalities__again": {"kind": "text", "shares": "text", "column": "text"}},
}
POSTS = {2: 13, 3: 2}
"""Posts of a batch for so many processes: uneven shares; a process without a post."""


SHARDED = (
    "info_nce",
    "all negatives",
    "a missing modality",
    "no alignment",
    "a frozen encoder",
    "frozen encoders",
    "last layers",
)
SHARDED += ("less kept for the gradient", "a shared encoder")
"""Settings that are tried with encoders that are spread over the processes, too."""


def gradients(rank, count, port, configs, folder):
    """Losses and gradients of a step for each configuration and number of posts, written by the first process."""
    from clfa.training.processes import processes

    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    made = {}
    with processes() as several:
        assert several.count == count
        for name, config in configs.items():
            for posts in POSTS.values() if count == 1 else [POSTS[count]]:
                made[name, posts] = step(config, several, list(range(posts)))
    if rank == 0:
        torch.save(made, folder / f"{count}.pt")


def step(config, several, places):
    from clfa.training.processes import without_exchange
    from clfa.training.setup import set_up
    from clfa.training.train import loss_terms

    torch.manual_seed(0)
    setup = set_up(config, several)
    setup.model.train()
    shares = [places[number :: several.count] for number in range(several.count)]
    batch = setup.batches.collate_fn([setup.rows[place] for place in shares[several.rank] or places[:1]])
    with without_exchange(setup.passes, True):
        terms = loss_terms(setup, config, batch, 0.5, [len(share) for share in shares])
        (terms["loss"] * several.count).backward()
    losses = several.all({name: value.item() for name, value in terms.items()})
    return losses, whole_gradients(setup, several)


def whole_gradients(setup, several):
    """Those of all processes, and their norm."""
    from clfa.training.processes import clipped
    from clfa.training.sharded import put_together

    norm = clipped(setup.passes, 1e9, several)
    own = {name: put_together(one.grad) for name, one in setup.model.named_parameters() if one.grad is not None}
    assert torch.stack([one.norm() for one in own.values()]).norm() == pytest.approx(norm.item(), rel=1e-4)
    return own | {"norm": norm.detach().reshape(1)}


@pytest.mark.timeout(600)
def test_losses_and_gradients_are_those_of_one_process(without_chance, tmp_path):
    configs = {name: without_chance(**changes) for name, changes in SETTINGS.items()}
    configs |= {f"{name}, sharded": without_chance(**SETTINGS[name], train__sharded=True) for name in SHARDED}
    for count in (1, *POSTS):
        multiprocessing.spawn(gradients, (count, free_port(), configs, tmp_path), nprocs=count)
    alone = torch.load(tmp_path / "1.pt", weights_only=True)
    for count in POSTS:
        for which, (losses, own) in torch.load(tmp_path / f"{count}.pt", weights_only=True).items():
            ((one,), expected) = alone[which]
            assert len(losses) == count
            for own_losses in losses:
                assert own_losses.keys() == one.keys()
                assert max(abs(own_losses[name] - one[name]) for name in one) <= 1e-6 * max(1, one["loss"]), which
            assert expected.keys() <= own.keys()
            for name, gradient in own.items():
                there = expected.get(name, torch.zeros_like(gradient))  # what has no part in the loss
                assert (gradient - there).abs().max() <= 1e-5, (which, name)
            assert max(gradient.abs().max() for gradient in expected.values()) > 1e-3


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture
def start():
    """`start(count, config, …)`: `clfa train` by so many processes; `program`: in place of `-m clfa`."""
    children = []

    def begin(count, path, *more, program=("-m", "clfa")):
        several = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(count)] if count > 1 else []
        command = [sys.executable, *several, *program, "train", "--config", str(path), *more]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True)
        children.append(child)
        return child

    yield begin
    for child in children:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()


def wait_for_checkpoint(child, run):
    while not list((run / "checkpoints").glob("step-*")):
        assert child.poll() is None, child.communicate()[1][-3000:]
        time.sleep(0.05)


def finished(child, code=0):
    said = child.communicate(timeout=300)[1]
    assert child.returncode == code, said[:6000]  # of several processes, torchrun speaks last
    return said


def read_log(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.mark.timeout(600)
def test_two_processes_train_what_one_trains_and_go_on_where_the_other_stopped(without_chance, start, tmp_path):
    runs = {}
    settings = {"train__epochs": 4, "train__accumulation": 2, "train__batch_size": 5, "train__average": 0.5}
    for name in ("one", "two", "changed", "sharded"):
        runs[name] = tmp_path / name
        config = without_chance(output=str(runs[name]), train__sharded=name in ("changed", "sharded"), **settings)
        (tmp_path / f"{name}.yaml").write_text(dump_config(config))
    finished(start(1, tmp_path / "one.yaml"))
    said = finished(start(2, tmp_path / "two.yaml"))
    assert said.count("epoch  4/4") == 1  # one of them speaks
    child = start(2, tmp_path / "changed.yaml")
    wait_for_checkpoint(child, runs["changed"])
    os.killpg(child.pid, signal.SIGTERM)
    child.communicate(timeout=60)
    assert child.returncode != 0
    finished(start(1, tmp_path / "changed.yaml", "--resume"))
    child = start(1, tmp_path / "sharded.yaml")
    wait_for_checkpoint(child, runs["sharded"])
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=60)
    finished(start(2, tmp_path / "sharded.yaml", "--resume"))
    expected = read_log(runs["one"])
    for name in ("two", "changed", "sharded"):
        lines = read_log(runs[name])
        assert len(lines) == 4
        for line, other in zip(lines, expected):
            assert line["loss"] == pytest.approx(other["loss"], abs=1e-4)
            assert line["validation"]["nll"] == pytest.approx(other["validation"]["nll"], abs=1e-4)
        weights, others = (load_file(run / "model.safetensors") for run in (runs[name], runs["one"]))
        assert max(np.abs(weights[key] - others[key]).max() for key in others) < 1e-3
        assert not (runs[name] / "checkpoints").exists()


def test_a_probe_is_trained_by_one_process(run_config, start, tmp_path):
    frozen = {f"model__modalities__{name}__frozen": True for name in ("text", "image")}
    config = run_config(model__probe={"name": "svm"}, loss__alignment_weight=0, **frozen)
    (tmp_path / "run.yaml").write_text(dump_config(config))
    assert "start `clfa train` without torchrun" in finished(start(2, tmp_path / "run.yaml"), code=1)


def test_processes_that_see_different_checkpoints_are_refused(run_config, monkeypatch):
    """As on machines that do not share the folder of the run."""
    import clfa.training.train as training
    from clfa.errors import UserError
    from clfa.training.processes import Processes

    monkeypatch.setattr(
        Processes, "all", lambda self, value: [value, (3, 12, 0)] if isinstance(value, tuple) else [value]
    )
    with pytest.raises(UserError, match="not all processes find the same checkpoint"):
        training.train(run_config(loss__alignment_weight=0))


def test_adapters_and_batch_norm_of_encoders_that_are_spread(run_config, encoders, start, tmp_path):
    from transformers import MobileNetV2Config

    from clfa.model.classifier import Classifier
    from clfa.studies.tiny import word_tokenizer, write_encoder

    write_encoder(
        tmp_path / "mobile", MobileNetV2Config(depth_multiplier=0.35, image_size=32), word_tokenizer(["a"]), 32
    )
    own = {"model__modalities__text__lora": 2, "model__modalities__image__encoder": str(tmp_path / "mobile")}
    runs = {count: tmp_path / f"run{count}" for count in (1, 2)}
    for count, run in runs.items():
        config = run_config(train__sharded=True, train__epochs=1, output=str(run), **own)
        (tmp_path / "run.yaml").write_text(dump_config(config))
        finished(start(count, tmp_path / "run.yaml"))
    one, two = (Classifier.from_pretrained(run) for run in runs.values())
    assert two.config.modalities["text"].lora is None
    expected = one.state_dict()
    assert {name: value.shape for name, value in two.state_dict().items()} == {
        name: value.shape for name, value in expected.items()
    }
    fresh = load_file(encoders / "bert" / "model.safetensors")
    names = [name for name in fresh if f"encoders.text.backbone.{name}" in expected]  # no pooling head
    changed = {name for name in names if not torch.equal(fresh[name], expected[f"encoders.text.backbone.{name}"])}
    assert 0 < len(changed) < len(names)
    for name in names:
        same = torch.equal(fresh[name], two.state_dict()[f"encoders.text.backbone.{name}"])
        assert same == (name not in changed), name


ABORTS = """
import atexit, os
if os.environ["RANK"] == "1":
    atexit.register(os.abort)
from clfa.cli import run
run()
"""


def test_what_aborts_another_process_when_python_ends_does_not_end_the_run(run_config, start, tmp_path):
    (tmp_path / "aborts.py").write_text(ABORTS)
    (tmp_path / "run.yaml").write_text(dump_config(run_config(train__epochs=1, output=str(tmp_path / "run"))))
    finished(start(2, tmp_path / "run.yaml", program=[str(tmp_path / "aborts.py")]))
    assert (tmp_path / "run" / "report-validation.html").is_file()


def held(rank, count, port, config, folder):
    from clfa.training.processes import processes
    from clfa.training.setup import set_up

    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with processes() as several:
        model = set_up(config, several).model
        parameters = [parameter for encoder in model.encoders.values() for parameter in encoder.parameters()]
        sizes = [parameter.to_local().numel() for parameter in parameters], [one.numel() for one in parameters]
        torch.save([sum(each) for each in sizes], folder / f"{rank}.pt")


def test_each_process_holds_its_share(without_chance, tmp_path):
    config = without_chance(train__sharded=True, loss__alignment_weight=0)
    multiprocessing.spawn(held, (2, free_port(), config, tmp_path), nprocs=2)
    (own, whole), (other, _) = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert own + other == whole
    assert own < 0.6 * whole
