"""Each kind of guidance by hand, in its limits, by a naive loop, and with a gradient to the student alone."""

import math

import pytest
import torch
import torch.nn.functional as F

from clfa.config import LossConfig, ModalityConfig, ModelConfig
from clfa.losses import (
    GUIDANCES,
    affinity_loss,
    alignment_loss,
    confidence,
    decoupled_info_nce,
    info_nce,
    info_nce_among_all,
    mimicry,
    sigmoid_loss,
)
from clfa.model.batch import Batch, Inputs
from clfa.model.classifier import Output
from clfa.training.objective import AllEmbeds, objective

TAU = 0.1
TWO = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
"""Two orthogonal posts; with tau 1 their similarities are 1 on the diagonal and 0 elsewhere."""


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def similarity(one, other, k, j, tau=TAU):
    return float(F.cosine_similarity(one[k], other[j], dim=0)) / tau


def decoupled_by_loops(ours, theirs, same):
    total = 0.0
    for one, other in ((ours, theirs), (theirs, ours)):
        for k in range(len(ours)):
            others = [math.exp(similarity(one, other, k, j)) for j in range(len(ours)) if j != k and not same[k][j]]
            total += math.log(sum(others)) - similarity(one, other, k, k)
    return total / (2 * len(ours))


def sigmoid_by_loops(ours, theirs, same):
    total = 0.0
    for k in range(len(ours)):
        for j in range(len(ours)):
            z = 1 if k == j else -1
            if k == j or not same[k][j]:
                total += math.log(1 + math.exp(-z * (similarity(ours, theirs, k, j) - 1 / TAU)))
    return total / len(ours)


def mimicry_by_loops(ours, theirs, same):
    distances = [ours[k] / ours[k].norm() - theirs[k] / theirs[k].norm() for k in range(len(ours))]
    return sum(float((each**2).sum()) for each in distances) / len(ours)


LOOPS = {"decoupled": decoupled_by_loops, "sigmoid": sigmoid_by_loops, "mimicry": mimicry_by_loops}


@pytest.mark.parametrize("kind", LOOPS)
def test_equal_to_a_naive_loop(kind):
    ours, theirs = drawn(5, 7), drawn(5, 7, seed=1)
    theirs[3] = theirs[0]
    same = [[k == j or {k, j} == {0, 3} for j in range(5)] for k in range(5)]
    found = alignment_loss(ours, theirs, torch.ones(5, dtype=torch.bool), TAU, kind)
    assert found.item() == pytest.approx(LOOPS[kind](ours, theirs, same), abs=1e-5)


def test_by_hand():
    # orthogonal pairs, tau 1: a pair has similarity 1, the other 0
    assert decoupled_info_nce(TWO, TWO, 1.0).item() == pytest.approx(-1)  # log e^0 - 1
    assert sigmoid_loss(TWO, TWO, 1.0).item() == pytest.approx(
        math.log(2) + math.log(1 + math.exp(-1))
    )  # s - 1 = 0, -1
    assert mimicry(TWO, TWO.flip(0), 1.0).item() == pytest.approx(2)  # a right angle
    assert mimicry(TWO, -TWO, 1.0).item() == pytest.approx(4)
    # the teacher is sure (e, 1), we are not (1, 1): KL = sum p log 2p, p = e / (1 + e)
    p = math.e / (1 + math.e)
    expected = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    ones = torch.ones(2, 2)
    assert affinity_loss(ones, ones, TWO, TWO, 1.0).item() == pytest.approx(expected)
    # one post among three contents: softmax(1, 0, 0)
    everyone = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    found = info_nce_among_all(everyone[:1], everyone, torch.tensor([0]), 1.0).item()
    assert found == pytest.approx(math.log(1 + 2 * math.exp(-1)))
    assert confidence(TWO, TWO, 1.0).tolist() == pytest.approx([p, p])


def test_limits():
    equal, everyone = torch.ones(8, 4), torch.ones(8, dtype=torch.bool)
    # nothing to tell apart
    assert decoupled_info_nce(equal, equal, TAU).item() == pytest.approx(math.log(7), abs=1e-5)
    assert mimicry(equal, equal).item() == pytest.approx(0, abs=1e-6)
    assert affinity_loss(equal, equal, equal, equal, TAU).item() == pytest.approx(0, abs=1e-6)
    assert confidence(equal, equal, TAU).tolist() == pytest.approx([1 / 8] * 8)
    # the same content eight times, and no other: no negatives
    assert alignment_loss(equal, equal, everyone, TAU, "decoupled") == 0
    assert alignment_loss(equal, equal, everyone, TAU, "sigmoid").item() == pytest.approx(math.log(2))
    for kind in GUIDANCES:
        one = drawn(1, 4)
        single = alignment_loss(one, one, torch.ones(1, dtype=torch.bool), TAU, kind).item()
        assert single == pytest.approx(math.log(2) if kind == "sigmoid" else 0, abs=1e-6)
        assert alignment_loss(equal, equal, ~everyone, TAU, kind) == 0, "no pairs"
    assert affinity_loss(equal[:1], equal[:1], equal[:1], equal[:1], TAU) == 0
    assert confidence(equal[:1], equal[:1], TAU) == 1
    assert info_nce_among_all(equal[:1], equal[:1], torch.tensor([0]), TAU) == 0


@pytest.mark.parametrize("kind", GUIDANCES)
def test_gradient_reaches_the_student_only(kind):
    ours, theirs = drawn(6, 5).requires_grad_(), drawn(6, 5, seed=1).requires_grad_()
    alignment_loss(ours, theirs, torch.ones(6, dtype=torch.bool), TAU, kind).backward()
    assert theirs.grad is None
    assert (ours.grad.abs().sum(1) > 0).all()


def test_gradient_of_affinity_and_of_all_reaches_the_student_only():
    text, image, of_text, of_image = (drawn(6, 5, seed=seed).requires_grad_() for seed in range(4))
    affinity_loss(text, image, of_text, of_image, TAU).backward()
    assert of_text.grad is None
    assert of_image.grad is None
    assert text.grad.abs().sum() > 0 < image.grad.abs().sum()
    ours, everyone = drawn(3, 5).requires_grad_(), drawn(9, 5, seed=1).requires_grad_()
    info_nce_among_all(ours, everyone, torch.tensor([4, 0, 8]), TAU).backward()
    assert everyone.grad is None
    assert (ours.grad.abs().sum(1) > 0).all()
    assert not confidence(of_text, of_image, TAU).requires_grad


def test_affinity_by_loops_and_turned_as_a_whole():
    text, image, of_text, of_image = (drawn(4, 6, seed=seed) for seed in range(4))

    def softmax(values):
        return [math.exp(value) / sum(map(math.exp, values)) for value in values]

    total = 0.0
    for one, other, first, second in ((text, image, of_text, of_image), (image, text, of_image, of_text)):
        for k in range(4):
            wanted = softmax([similarity(first, second, k, j) for j in range(4)])
            found = softmax([similarity(one, other, k, j) for j in range(4)])
            total += sum(p * math.log(p / q) for p, q in zip(wanted, found)) / 8
    assert affinity_loss(text, image, of_text, of_image, TAU).item() == pytest.approx(total, abs=1e-5)
    turned = torch.linalg.qr(drawn(6, 6))[0]
    assert affinity_loss(of_text @ turned, of_image @ turned, of_text, of_image, TAU).item() == pytest.approx(
        0, abs=1e-5
    )


def test_among_all_is_info_nce_in_one_direction_when_the_batch_is_everyone():
    ours, theirs = drawn(7, 5), drawn(7, 5, seed=1)
    one = info_nce_among_all(ours, theirs, torch.arange(7), TAU)
    other = info_nce_among_all(theirs, ours, torch.arange(7), TAU)
    assert ((one + other) / 2).item() == pytest.approx(info_nce(ours, theirs, TAU).item(), abs=1e-6)


@pytest.mark.parametrize("kind", GUIDANCES)
def test_weights_leave_posts_out(kind):
    ours, theirs = drawn(5, 7), drawn(5, 7, seed=1)
    each = [GUIDANCES[kind](ours, theirs, TAU, None, torch.eye(5)[k]).item() for k in range(5)]
    weights = torch.tensor([0.5, 0, 1, 0, 0.5])
    expected = (0.5 * each[0] + each[2] + 0.5 * each[4]) / 2
    assert GUIDANCES[kind](ours, theirs, TAU, None, weights).item() == pytest.approx(expected, abs=1e-5)
    assert GUIDANCES[kind](ours, theirs, TAU).item() == pytest.approx(sum(each) / 5, abs=1e-5)


def guided(present=(True,) * 4):
    """Output and batch of four posts with a guided text and image; the last `present` are of the image."""
    embeds = {"text": drawn(4, 8, seed=2), "image": drawn(4, 8, seed=3)}
    teacher = {"text": drawn(4, 8, seed=4), "image": drawn(4, 8, seed=5)}
    there = {"text": torch.ones(4, dtype=torch.bool), "image": torch.tensor(present)}
    inputs = {
        name: Inputs(there[name], teacher_embeds=teacher[name], teacher_entries=torch.tensor([3, 5, 3, 9]))
        for name in embeds
    }
    output = Output(drawn(4, 2), {}, {}, embeds, drawn(4, 8))
    model = ModelConfig({name: ModalityConfig(name) for name in embeds})
    return output, Batch(inputs, torch.tensor([0, 1, 0, 1])), model, teacher


def test_objective_reads_the_kind():
    output, batch, model, teacher = guided((True, False, True, True))
    terms = objective(output, batch, LossConfig(guidance="affinity"), model)
    kept = torch.tensor([0, 2, 3])
    expected = affinity_loss(
        *(output.embeds[name][kept] for name in ("text", "image")), *(teacher[name][kept] for name in teacher), TAU
    )
    assert terms["alignment_loss_affinity"] == expected
    assert terms["loss"] == terms["classification_loss"] + expected
    terms = objective(output, batch, LossConfig(guidance="mimicry"), model)
    assert terms["alignment_loss_text"] == mimicry(output.embeds["text"], teacher["text"])
    none = objective(*guided((False,) * 4)[:2], LossConfig(guidance="affinity"), model)
    assert set(none) == {"loss", "classification_loss"}


def test_objective_gates_by_confidence():
    output, batch, model, teacher = guided((True, False, True, True))
    terms = objective(output, batch, LossConfig(confidence_gate=True), model)
    kept = torch.tensor([0, 2, 3])
    weights = torch.ones(4)
    weights[kept] = confidence(teacher["text"][kept], teacher["image"][kept], TAU)
    everyone = torch.ones(4, dtype=torch.bool)
    expected = alignment_loss(output.embeds["text"], teacher["text"], everyone, TAU, weights=weights)
    assert terms["alignment_loss_text"] == expected
    assert terms["alignment_loss_text"] != objective(output, batch, LossConfig(), model)["alignment_loss_text"]


def test_objective_looks_up_all_embeds():
    output, batch, model, _ = guided()
    everyone = {name: AllEmbeds(drawn(4, 8, seed=6), torch.tensor([3, 4, 5, 9])) for name in ("text", "image")}
    terms = objective(output, batch, LossConfig(negatives="all"), model, everyone=everyone)
    places = torch.tensor([0, 2, 0, 3])
    for name, found in everyone.items():
        expected = info_nce_among_all(output.embeds[name], found.embeds, places, TAU)
        assert terms[f"alignment_loss_{name}"] == expected


def test_schedules():
    output, batch, model, _ = guided()
    plain = objective(output, batch, LossConfig(), model)
    aligned = plain["alignment_loss_text"] + plain["alignment_loss_image"]

    def loss(schedule, done):
        return objective(output, batch, LossConfig(alignment_schedule=schedule), model, done=done)["loss"]

    assert loss("constant", 0.9) == plain["loss"]
    assert loss("decay", 0.0) == plain["loss"]
    assert loss("decay", 0.75).item() == pytest.approx((plain["classification_loss"] + aligned / 4).item())
    assert loss("first", 0.3).item() == pytest.approx(aligned.item())
    assert loss("first", 0.34) == plain["classification_loss"]
