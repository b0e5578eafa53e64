"""The dial: a miniature of the method that reads the teacher only with a weight, and goes on after a stop."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from clfa.config import FusionConfig
from clfa.fusion import Tokens, build_fusion
from clfa.losses import alignment_loss, classification_loss, info_nce, total_loss
from clfa.studies import dial
from clfa.studies.dial import Measured, Point, Stacked, explained, gains, measure, measure_points

POINT = Point(0.5, "unique", 80, 1.0, steps=40)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(dial, "TEST", 200)


def test_only_a_weight_reads_the_teacher():
    good, bad = (measure(replace(POINT, quality=quality), (0.0, 1.0), seeds=2) for quality in (1.0, 0.0))
    assert good.accuracy[0] == bad.accuracy[0]
    assert good.nll[0] == bad.nll[0]
    assert good.nll[1] != bad.nll[1]
    again = measure(POINT, (0.0, 1.0), seeds=2)
    assert again == good  # seeds reproduce


def test_what_does_not_depend_on_the_teacher_is_measured_once(tmp_path, monkeypatch):
    trained, train = [], dial.train
    monkeypatch.setattr(
        dial, "train", lambda splits, alpha, *rest: trained.append(alpha) or train(splits, alpha, *rest)
    )
    both = measure_points([POINT, replace(POINT, knows="shared")], tmp_path / "dial.jsonl", (0.0, 1.0), seeds=2)
    assert trained == [0.0, 1.0, 1.0]
    assert both[0].accuracy[0] == both[1].accuracy[0]
    assert both[1] == measure(both[1].point, (0.0, 1.0), seeds=2)


def test_the_miniature_is_the_method():
    """Logits by the project's `concat` fusion and the loss by its `total_loss`, seed by seed, from the same weights."""
    generator = torch.Generator().manual_seed(0)
    names, weights = ("text", "image"), {name: weight.detach() for name, weight in dial._initial(2).items()}
    batch = Stacked(
        {name: torch.randn((2, 8, dial.WIDTH), generator=generator) for name in names},
        {name: torch.randn((2, 8, dial.SPACE), generator=generator) for name in names},
        torch.randint(0, 2, (2, 8), generator=generator),
    )
    at_once = 0.0
    for seed in range(2):
        own = {name: weight[seed] for name, weight in weights.items()}

        def linear(name, values, own=own):
            return values @ own[name] + own[f"{name}_bias"]

        embeds = {
            name: linear(f"{name}_out", linear(f"{name}_in", batch.features[name][seed]).relu()) for name in names
        }
        fusion = build_fusion(dial.SPACE, ["image"], FusionConfig("concat"), "mean")
        fusion.mix[0].weight.data, fusion.mix[0].bias.data = own["fuse"].T, own["fuse_bias"][0]
        there = torch.ones(8, 1, dtype=torch.bool)
        tokens = {name: Tokens(values[:, None], there) for name, values in embeds.items()}
        logits = linear("classify", fusion(tokens["text"], {"image": tokens["image"]}))
        assert torch.allclose(logits, dial._forward(weights, batch.features)[0][seed], atol=1e-4)
        aligned = {
            name: alignment_loss(embeds[name], batch.teacher[name][seed], there[:, 0], dial.TEMPERATURE)
            for name in names
        }
        at_once += total_loss(classification_loss(logits, batch.labels[seed]), aligned, 0.7)["loss"].item()
    assert dial._loss(weights, batch, torch.arange(8), 0.7).item() == pytest.approx(at_once, rel=1e-4)


def test_test_posts_choose_nothing():
    """The same weights are kept whatever the labels of the test posts are: all wrong is the complement of all right."""
    splits = {
        name: dial._stacked([dial.generate(POINT.shares, count, seed) for seed in (1, 2)])
        for name, count in (("train", 80), ("validation", 50), ("test", 100))
    }
    accuracy, nll, last = dial.train(splits, 1.0, 40)
    flipped = splits | {"test": replace(splits["test"], labels=1 - splits["test"].labels)}
    other = dial.train(flipped, 1.0, 40)
    assert other[1].tolist() == nll.tolist()
    assert other[0].tolist() == pytest.approx((1 - accuracy).tolist())
    assert other[2].tolist() == pytest.approx((1 - last).tolist())


def test_gains_are_paired_and_corrected_over_all_points():
    generator = np.random.default_rng(0)
    without, noise = generator.uniform(0.5, 0.9, 20), generator.normal(0, 0.02, (2, 20))
    measured = [
        Measured(
            replace(POINT, labels=size), [0.0, 1.0], [list(without), list(without + shift + each)], [[1.0] * 20] * 2, []
        )
        for size, shift, each in zip((50, 200), (0.05, 0.002), noise)
    ]
    found = gains(measured, 1.0)
    tests = [stats.ttest_rel(each.accuracy[1], each.accuracy[0]) for each in measured]
    assert found[0].difference.low == pytest.approx(tests[0].confidence_interval().low)
    assert found[0].p_holm == pytest.approx(2 * tests[0].pvalue)
    assert [each.is_claim for each in found] == [True, False]
    assert gains(measured, None)[0].difference.value == 0  # equal NLL: validation keeps 0


def test_explained_leaves_each_place_out():
    line = np.arange(6.0)
    assert explained(line, 3 * line - 1) == pytest.approx(1)
    assert explained(np.array([0.0, 1, 2, 3, 4, 50]), np.array([1.0, -1, 1, -1, 1, -1])) < 0  # worse than the mean


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
    dial._loss(weights, batch, torch.arange(8), 1.0).backward()
    before = weights["text_in"].grad[0].clone()
    for weight in weights.values():
        weight.grad = None
    other = {name: values.clone() for name, values in batch.features.items()}
    other["text"][1] = 0
    dial._loss(weights, replace(batch, features=other), torch.arange(8), 1.0).backward()
    assert torch.equal(weights["text_in"].grad[0], before)
    assert weights["text_in"].grad[1].abs().sum() == 0  # its inputs are 0


def test_goes_on_after_a_stop(tmp_path, monkeypatch):
    done = measure_points([POINT], tmp_path / "dial.jsonl", (0.0, 1.0), seeds=2)
    asked = []
    monkeypatch.setattr(dial, "measure", lambda point, *_, **__: asked.append(point) or replace(done[0], point=point))
    other = replace(POINT, labels=160)
    assert measure_points([POINT, other], tmp_path / "dial.jsonl")[0] == done[0]
    assert asked == [other]
    assert len((tmp_path / "dial.jsonl").read_text().splitlines()) == 2
    assert json.loads((tmp_path / "dial.jsonl").read_text().splitlines()[0])["point"]["labels"] == 80


def test_validation_chooses_for_each_seed():
    measured = Measured(POINT, [0.0, 1.0], [[0.5, 0.6], [0.7, 0.9]], [[0.1, 0.9], [0.2, 0.3]], [])
    assert measured.chosen() == [0.5, 0.9]
