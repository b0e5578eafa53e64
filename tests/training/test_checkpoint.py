"""Checkpoints: killed at any point, damaged in any way, what is loaded is what was written."""

import contextlib
import json
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from clfa.data.seal import problem_of
from clfa.errors import UserError
from clfa.training import checkpoint
from clfa.training.checkpoint import (
    KEPT,
    load_best,
    load_checkpoint,
    newest_whole,
    save_best,
    save_checkpoint,
)


class Loop:
    """A small model whose steps are drawn: what a training run saves and restores."""

    def __init__(self, folder):
        torch.manual_seed(0)
        self.folder, self.model = folder, nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        self.model[0].bias.requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.average = {"0.weight": self.model[0].weight.detach().clone()}
        self.step = 0

    def resume(self):
        saved = load_checkpoint(self.folder, self.model, self.optimizer, self.average)
        self.step = saved["step"] if saved else 0
        return self

    def run(self, steps, best=(2, 5)):
        while self.step < steps:
            loss = self.model(torch.randn(8, 4)).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.average["0.weight"].lerp_(self.model[0].weight.detach(), 0.1)
            self.step += 1
            if self.step in best:
                save_best(self.folder, self.model)
            save_checkpoint(self.folder, self.model, self.optimizer, {"step": self.step}, self.average)
        return self

    def state(self):
        """Everything, as bytes."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.items()}
        for number, entry in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": value for name, value in entry.items()}
        best = Loop(self.folder).model
        load_best(self.folder, best)
        tensors |= {f"best.{name}": value for name, value in best.state_dict().items()}
        tensors["random"] = torch.get_rng_state()
        return {name: value.numpy().tobytes() for name, value in tensors.items()}


@pytest.fixture
def unbroken(tmp_path):
    return Loop(tmp_path / "unbroken").run(6).state()


class Killed(BaseException):
    """Nobody catches it, as nobody catches SIGKILL."""


PHASES = [
    ("save_file", 0),
    ("save_file", 1),
    ("save_file", 3),
    ("seal", 0),
    ("_sync", 0),
    ("_sync", 5),
    ("problem_of", 0),
    ("os.replace", 0),  # of the manifest
    ("os.replace", 1),  # of the whole
    ("after os.replace", 0),
    ("after os.replace", 1),
    ("_clear", 0),
    ("shutil.rmtree", 0),
    ("_link", 0),
]


@pytest.mark.parametrize(("phase", "after"), PHASES)
@pytest.mark.parametrize("step", [1, 2, 4, 5])
def test_killed_inside_of_each_phase_of_a_write(tmp_path, unbroken, phase, after, step, monkeypatch):
    """What the process leaves is as it was at that moment: nothing is tidied up."""
    loop = Loop(tmp_path / "killed").run(step - 1)
    name = phase.removeprefix("after ")
    owner, attribute = (
        (checkpoint, name) if "." not in name else (getattr(checkpoint, name.split(".")[0]), name.split(".")[1])
    )
    real, calls = getattr(owner, attribute), []

    def dies(*arguments, **options):
        calls.append(1)
        if len(calls) > after:
            if phase.startswith("after") or (attribute == "save_file" and after == 1):
                real(*arguments, **options)
            raise Killed
        return real(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, attribute, dies)
        patch.setattr(checkpoint.shutil, "rmtree", dies if attribute == "rmtree" else lambda *_, **__: None)
        with pytest.raises(Killed):
            loop.run(6)
    assert Loop(tmp_path / "killed").resume().run(6).state() == unbroken
    assert len(list((tmp_path / "killed").iterdir())) == KEPT


@pytest.mark.parametrize(("phase", "after"), PHASES)
def test_killed_while_the_same_step_is_saved_again(tmp_path, phase, after):
    """As after an interrupted validation: the first of them, which may be all there is, stays until the second is whole."""
    loop = Loop(tmp_path / "killed").run(1, best=(1,))
    expected = loop.state()
    owner, attribute = (checkpoint, phase.removeprefix("after ").split(".")[-1])
    if "." in phase:
        owner = getattr(checkpoint, phase.removeprefix("after ").split(".")[0])
    real, calls = getattr(owner, attribute), []

    def dies(*arguments, **options):
        calls.append(1)
        if len(calls) > after:
            raise Killed
        return real(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, attribute, dies)
        with contextlib.suppress(Killed):
            save_checkpoint(loop.folder, loop.model, loop.optimizer, {"step": 1, "again": True}, loop.average)
    again = Loop(tmp_path / "killed").resume()
    assert again.step == 1
    assert again.state() == expected


def test_of_one_step_the_last_is_the_newest(tmp_path):
    loop = Loop(tmp_path / "run").run(1)
    for number in range(12):
        save_checkpoint(loop.folder, loop.model, loop.optimizer, {"step": 1, "number": number}, loop.average)
    saved = load_checkpoint(loop.folder, loop.model, loop.optimizer, loop.average)
    assert saved == {"step": 1, "number": 11}
    assert len(list(loop.folder.iterdir())) == KEPT


def test_what_is_left_out_is_noticed(tmp_path, unbroken, monkeypatch):
    """The control: a loop that forgets one piece of its state does not end with the same bytes."""
    real = checkpoint.load_file
    for piece in ("optimizer", "random", "average", "model"):
        Loop(tmp_path / piece).run(3)
        fresh = Loop(tmp_path / piece)
        at_start = {
            "optimizer": {},
            "random": {"cpu": torch.manual_seed(0).get_state()},
            "average": dict(fresh.average),
            "model": checkpoint.trained_state(fresh.model),
        }[piece]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                checkpoint, "load_file", lambda path, p=piece, v=at_start: v if path.stem == p else real(path)
            )
            fresh.resume()
        assert fresh.run(6).state() != unbroken, piece


def damage(folder, generator):
    """One random corruption of a checkpoint; what it did."""
    files = sorted(path for path in folder.iterdir())
    path = files[generator.integers(len(files))]
    content = bytearray(path.read_bytes())
    kind = ["flip", "truncate", "drop", "delete", "empty", "add"][generator.integers(6)]
    os.unlink(path)  # the best weights have several names
    if kind == "flip":
        content[generator.integers(len(content))] ^= 1 << int(generator.integers(8))
        path.write_bytes(content)
    elif kind == "truncate":
        path.write_bytes(content[: generator.integers(len(content))])
    elif kind == "drop":
        path.write_bytes(content)
        path = folder / "model.safetensors"
        tensors = load_file(path)
        tensors.pop(sorted(tensors)[generator.integers(len(tensors))])
        save_file(tensors, path)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "add":
        path.write_bytes(content)
        (folder / "other.safetensors").write_bytes(content)
    return f"{kind} {path.name}"


def test_random_corruptions_are_all_refused_or_healed(tmp_path, unbroken, caplog, record_property):
    """Of the newest checkpoint: the one before is taken, and the end is the same. 100 here, 1,000 with `make faults`."""
    Loop(tmp_path / "whole").run(4)
    generator, count = np.random.default_rng(0), int(os.environ.get("CLFA_FAULTS", "100"))
    for number in range(count):
        folder = tmp_path / f"damaged-{number}"
        shutil.copytree(tmp_path / "whole", folder)
        newest = sorted(folder.iterdir())[-1]
        what = damage(newest, generator)
        caplog.clear()
        if problem_of(newest, alone=True):
            assert newest_whole(folder).name == "step-00000003", what
            assert "is damaged" in caplog.text
        else:  # white space of the manifest, and the like
            assert what == "flip manifest.json", what
        assert Loop(folder).resume().run(6).state() == unbroken, what
        shutil.rmtree(folder)
    record_property("corruptions", count)


def test_nothing_whole_is_an_error_and_nothing_at_all_a_start(tmp_path):
    folder = tmp_path / "run"
    assert Loop(folder).resume().step == 0
    Loop(folder).run(2)
    for path in folder.iterdir():
        (path / "optimizer.safetensors").unlink()
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole: step-00000002: files that differ .* optimizer"):
        Loop(folder).resume()


def test_another_model_is_refused_by_name(tmp_path):
    Loop(tmp_path / "run").run(1)
    other = Loop(tmp_path / "run")
    other.model.append(nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"model\.safetensors is not of this model: 3\.bias, 3\.weight differ"):
        other.resume()
    wider = Loop(tmp_path / "run")
    wider.model[2] = nn.Linear(8, 3)
    with pytest.raises(UserError, match=r"is not of this model: size mismatch for 2\.bias"):
        wider.resume()


def test_a_full_disk_leaves_what_was_there(tmp_path, unbroken, monkeypatch):
    loop = Loop(tmp_path / "full").run(3)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_sync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(UserError, match=r"the disk is full: this needs \d+\.\d MB, .* go on with --resume"):
            loop.run(4)
    assert not (tmp_path / "full" / "partial").exists()
    assert Loop(tmp_path / "full").resume().run(6).state() == unbroken


def test_a_model_is_on_the_disk_before_its_checkpoints_go(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(checkpoint, "_sync", lambda path: done.append(path))
    monkeypatch.setattr(checkpoint, "_clear", lambda folder: done.append("cleared"))
    (tmp_path / "checkpoints" / "step-1").mkdir(parents=True)
    (tmp_path / "text").mkdir()
    for name in ("model.safetensors", "metrics.json", "text/config.json", "checkpoints/step-1/model.safetensors"):
        (tmp_path / name).touch()
    checkpoint.clear_checkpoints(tmp_path / "checkpoints")
    assert done[-1] == "cleared"
    own = {tmp_path / name for name in ("model.safetensors", "metrics.json", "text/config.json", "text")}
    assert set(done[:-1]) == own | {tmp_path}


def test_moments_come_back_in_the_layout_of_their_weights(tmp_path):
    """Or else a fused update refuses them on a GPU, and rounds otherwise on a CPU."""

    def loop():
        one = Loop(tmp_path)
        one.model[2].weight.data = one.model[2].weight.data.T.contiguous().T
        one.optimizer = torch.optim.AdamW(one.model.parameters(), lr=0.01, fused=True)
        return one

    whole = loop().run(6).state()
    shutil.rmtree(tmp_path)
    loop().run(3)
    resumed = loop().resume()
    assert {m.stride() for p in resumed.optimizer.state for m in resumed.optimizer.state[p].values() if m.ndim > 1} == {
        p.stride() for p in resumed.model.parameters() if p.ndim > 1
    }
    assert resumed.run(6).state() == whole


def test_the_manifest_names_every_file(tmp_path):
    Loop(tmp_path / "run").run(2)
    newest = newest_whole(tmp_path / "run")
    described = json.loads((newest / "manifest.json").read_text())
    assert set(described["files"]) == {path.name for path in newest.iterdir()} - {"manifest.json"}
    assert described["files"]["best.safetensors"]["bytes"] == (newest / "best.safetensors").stat().st_size
    assert "0.bias" not in load_file(newest / "model.safetensors"), "what is frozen does not change"
