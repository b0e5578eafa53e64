"""Each kind of guidance by hand, in its limits, by a naive loop, and with a gradient to the student alone."""

import math

import pytest
import torch
import torch.nn.functional as F

from clfa.config import LossConfig, ModalityConfig, ModelConfig
from clfa.losses import (
    GUIDANCES,
    alignment_loss,
    decoupled_info_nce,
    info_nce,
    info_nce_among_all,
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


def info_nce_by_loops(ours, theirs, same):
    total = 0.0
    for one, other in ((ours, theirs), (theirs, ours)):
        for k in range(len(ours)):
            them = [math.exp(similarity(one, other, k, j)) for j in range(len(ours)) if j == k or not same[k][j]]
            total += math.log(sum(them)) - similarity(one, other, k, k)
    return total / (2 * len(ours))


LOOPS = {"info_nce": info_nce_by_loops, "decoupled": decoupled_by_loops}


@pytest.mark.parametrize("kind", GUIDANCES)
def test_equal_to_a_naive_loop(kind):
    ours, theirs = drawn(5, 7), drawn(5, 7, seed=1)
    theirs[3] = theirs[0]
    same = [[k == j or {k, j} == {0, 3} for j in range(5)] for k in range(5)]
    found = alignment_loss(ours, theirs, torch.ones(5, dtype=torch.bool), TAU, kind)
    assert found.item() == pytest.approx(LOOPS[kind](ours, theirs, same), abs=1e-5)


def test_by_hand():
    # orthogonal pairs, tau 1: a pair has similarity 1, the other 0
    assert decoupled_info_nce(TWO, TWO, 1.0).item() == pytest.approx(-1)  # log e^0 - 1
    # one post among three contents: softmax(1, 0, 0)
    everyone = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    found = info_nce_among_all(everyone[:1], everyone, torch.tensor([0]), 1.0).item()
    assert found == pytest.approx(math.log(1 + 2 * math.exp(-1)))


def test_limits():
    equal, everyone = torch.ones(8, 4), torch.ones(8, dtype=torch.bool)
    # nothing to tell apart
    assert decoupled_info_nce(equal, equal, TAU).item() == pytest.approx(math.log(7), abs=1e-5)
    for kind in GUIDANCES:
        one = drawn(1, 4)
        assert alignment_loss(equal, equal, everyone, TAU, kind) == 0, "the same content eight times: no negatives"
        assert alignment_loss(one, one, torch.ones(1, dtype=torch.bool), TAU, kind) == 0, "one pair"
        assert alignment_loss(equal, equal, ~everyone, TAU, kind) == 0, "no pairs"
    assert info_nce_among_all(equal[:1], equal[:1], torch.tensor([0]), TAU) == 0


@pytest.mark.parametrize("kind", GUIDANCES)
def test_gradient_reaches_the_student_only(kind):
    ours, theirs = drawn(6, 5).requires_grad_(), drawn(6, 5, seed=1).requires_grad_()
    alignment_loss(ours, theirs, torch.ones(6, dtype=torch.bool), TAU, kind).backward()
    assert theirs.grad is None
    assert (ours.grad.abs().sum(1) > 0).all()


def test_gradient_of_all_reaches_the_student_only():
    ours, everyone = drawn(3, 5).requires_grad_(), drawn(9, 5, seed=1).requires_grad_()
    info_nce_among_all(ours, everyone, torch.tensor([4, 0, 8]), TAU).backward()
    assert everyone.grad is None
    assert (ours.grad.abs().sum(1) > 0).all()


def test_among_all_is_info_nce_in_one_direction_when_the_batch_is_everyone():
    ours, theirs = drawn(7, 5), drawn(7, 5, seed=1)
    one = info_nce_among_all(ours, theirs, torch.arange(7), TAU)
    other = info_nce_among_all(theirs, ours, torch.arange(7), TAU)
    assert ((one + other) / 2).item() == pytest.approx(info_nce(ours, theirs, TAU).item(), abs=1e-6)


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
    terms = objective(output, batch, LossConfig(guidance="decoupled"), model)
    kept = torch.tensor([0, 2, 3])
    assert terms["alignment_loss_text"] == decoupled_info_nce(output.embeds["text"], teacher["text"], TAU)
    assert terms["alignment_loss_image"] == decoupled_info_nce(
        output.embeds["image"][kept], teacher["image"][kept], TAU
    )


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
    assert loss("first", 0.3).item() == pytest.approx(aligned.item())
    assert loss("first", 0.34) == plain["classification_loss"]
    none = LossConfig(alignment_weight=0.0, alignment_schedule="first")
    assert objective(output, batch, none, model)["loss"] == plain["classification_loss"], "nothing to align"


def test_blocks_of_all_embeddings_give_what_one_product_gives(monkeypatch):
    torch.manual_seed(0)
    everyone, places = torch.randn(50, 6).half(), torch.tensor([3, 49, 20])
    gradients = []
    for size in (1_000, 7):
        monkeypatch.setattr("clfa.losses.BLOCK", size)
        torch.manual_seed(1)
        ours = torch.randn(3, 6, requires_grad=True)
        loss = info_nce_among_all(ours, everyone, places, TAU)
        loss.backward()
        gradients.append((loss.item(), ours.grad))
    logits = F.normalize(ours.detach(), dim=-1) @ F.normalize(everyone.float(), dim=-1).T / TAU
    assert gradients[0][0] == pytest.approx(F.cross_entropy(logits, places).item(), abs=1e-6)
    assert gradients[1][0] == pytest.approx(gradients[0][0], abs=1e-6)
    assert torch.allclose(gradients[0][1], gradients[1][1], atol=1e-6)
