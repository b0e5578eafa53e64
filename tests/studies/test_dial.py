"""The dial: a miniature of the method that reads the teacher only with a weight, and goes on after a stop."""

import json
from dataclasses import replace

import pytest
import torch

from clfa.losses import info_nce
from clfa.studies import dial
from clfa.studies.dial import Measured, Point, Stacked, measure, measure_points

POINT = Point(0.5, "unique", 40, 1.0)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(dial, "STEPS", 40)
    monkeypatch.setattr(dial, "TEST", 200)


def test_only_a_weight_reads_the_teacher():
    good, bad = (measure(replace(POINT, quality=quality), (0.0, 1.0), seeds=2) for quality in (1.0, 0.0))
    assert good.accuracy[0] == bad.accuracy[0]
    assert good.nll[0] == bad.nll[0]
    assert good.nll[1] != bad.nll[1]


def test_many_seeds_at_once_are_each_for_itself():
    """The alignment of three seeds at once is that of each, and a seed's result does not depend on the others."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (torch.randn((3, 5, 4), generator=generator) for _ in range(2))
    at_once = torch.vmap(info_nce, in_dims=(0, 0, None))(ours, theirs, 0.1)
    assert at_once.tolist() == pytest.approx([info_nce(a, b, 0.1).item() for a, b in zip(ours, theirs)], abs=1e-5)
    weights = dial._initial(2)
    batch = Stacked(
        {name: torch.randn((2, 8, dial.WIDTH), generator=generator) for name in ("text", "image")},
        {name: torch.randn((2, 8, dial.SPACE), generator=generator) for name in ("text", "image")},
        torch.randint(0, 2, (2, 8), generator=generator),
    )
    dial._loss(weights, batch, 1.0).backward()
    before = weights["text_in"].grad[0].clone()
    for weight in weights.values():
        weight.grad = None
    other = {name: values.clone() for name, values in batch.features.items()}
    other["text"][1] = 0
    dial._loss(weights, replace(batch, features=other), 1.0).backward()
    assert torch.equal(weights["text_in"].grad[0], before)
    assert weights["text_in"].grad[1].abs().sum() == 0  # its inputs are 0


def test_goes_on_after_a_stop(tmp_path, monkeypatch):
    done = measure_points([POINT], tmp_path / "dial.jsonl")
    asked = []
    monkeypatch.setattr(dial, "measure", lambda point: asked.append(point) or replace(done[0], point=point))
    other = replace(POINT, labels=80)
    assert measure_points([POINT, other], tmp_path / "dial.jsonl")[0] == done[0]
    assert asked == [other]
    assert len((tmp_path / "dial.jsonl").read_text().splitlines()) == 2
    assert json.loads((tmp_path / "dial.jsonl").read_text().splitlines()[0])["point"]["labels"] == 40


def test_validation_chooses_for_each_seed():
    measured = Measured(POINT, [[0.5, 0.6], [0.7, 0.9]], [[0.1, 0.9], [0.2, 0.3]])
    assert measured.chosen() == [0.5, 0.9]
