"""InfoNCE by hand, by loops, and against CLIP's own loss; what the total is made of."""

import math

import pytest
import torch
import torch.nn.functional as F

from clfa.config import LossConfig, ModelConfig
from clfa.losses import alignment_loss, classification_loss, info_nce
from clfa.model.batch import Batch, Inputs
from clfa.model.classifier import Output
from clfa.training.objective import objective


def test_info_nce_by_hand():
    # two orthogonal pairs, tau 1: each row is softmax(1, 0), so the loss is log(1 + e^-1)
    embeds = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    assert info_nce(embeds, embeds, 1.0).item() == pytest.approx(math.log(1 + math.exp(-1)), abs=1e-7)


def test_info_nce_by_loops():
    torch.manual_seed(0)
    ours, theirs, tau = torch.randn(5, 7), torch.randn(5, 7), 0.1
    rows = columns = 0.0
    for k in range(5):
        s = [float(F.cosine_similarity(ours[k], theirs[j], dim=0)) / tau for j in range(5)]
        t = [float(F.cosine_similarity(theirs[k], ours[j], dim=0)) / tau for j in range(5)]
        rows -= math.log(math.exp(s[k]) / sum(math.exp(v) for v in s)) / 5
        columns -= math.log(math.exp(t[k]) / sum(math.exp(v) for v in t)) / 5
    assert info_nce(ours, theirs, tau).item() == pytest.approx((rows + columns) / 2, abs=1e-5)


def test_info_nce_is_clips_loss():
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss

    torch.manual_seed(0)
    text, image = F.normalize(torch.randn(6, 8), dim=-1), F.normalize(torch.randn(6, 8), dim=-1)
    expected = image_text_contrastive_loss(text @ image.T / 0.07)
    assert info_nce(text, image, 0.07).item() == pytest.approx(expected.item(), abs=1e-6)


def test_info_nce_limits():
    equal = torch.ones(8, 4)
    assert info_nce(equal, equal, 0.1).item() == pytest.approx(math.log(8), abs=1e-6)  # nothing to tell apart
    assert info_nce(equal[:1], equal[:1], 0.1).item() == 0  # a single pair


def test_info_nce_is_computed_in_fp32():
    torch.manual_seed(0)
    ours, theirs = torch.randn(4, 8).bfloat16(), torch.randn(4, 8).bfloat16()
    loss = info_nce(ours, theirs, 0.01)
    assert loss.dtype == torch.float32
    assert loss.item() == info_nce(ours.float(), theirs.float(), 0.01).item()


def test_a_text_posted_twice_is_no_negative_of_itself():
    """By loops: posts 0 and 2 have one teacher embedding; each keeps its own pair and the negatives 1 and 3."""
    torch.manual_seed(0)
    ours, theirs, tau = torch.randn(4, 6), torch.randn(4, 6), 0.1
    theirs[2] = theirs[0]
    others = {0: [0, 1, 3], 1: [0, 1, 2, 3], 2: [1, 2, 3], 3: [0, 1, 2, 3]}
    expected = 0.0
    for k, kept in others.items():
        for one, two in ((ours, theirs), (theirs, ours)):
            s = {j: float(F.cosine_similarity(one[k], two[j], dim=0)) / tau for j in kept}
            expected -= (s[k] - math.log(sum(math.exp(v) for v in s.values()))) / 8
    everyone = torch.ones(4, dtype=torch.bool)
    assert alignment_loss(ours, theirs, everyone, tau).item() == pytest.approx(expected, abs=1e-5)
    # a batch of one text has nothing to tell apart, and nothing to learn from
    alone = ours.clone().requires_grad_()
    loss = alignment_loss(alone, theirs[:1].expand(4, 6), everyone, tau)
    loss.backward()
    assert loss == 0
    assert (alone.grad == 0).all()


def test_no_gradient_reaches_the_teacher():
    ours, theirs = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    alignment_loss(ours, theirs, torch.ones(4, dtype=torch.bool), 0.1).backward()
    assert theirs.grad is None
    assert ours.grad.abs().sum() > 0


def test_alignment_skips_posts_without_the_modality():
    ours, theirs = torch.randn(5, 8), torch.randn(5, 8)
    mask = torch.tensor([True, False, True, True, False])
    assert alignment_loss(ours, theirs, mask, 0.1) == info_nce(ours[mask], theirs[mask], 0.1)
    assert alignment_loss(ours, theirs, ~mask & mask, 0.1) == 0


def test_classification_loss_is_weighted_as_torch_does():
    logits, labels, weights = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 0]), torch.tensor([1.0, 2.0, 3.0])
    expected = F.cross_entropy(logits, labels, weights, label_smoothing=0.1)
    assert classification_loss(logits, labels, weights, 0.1) == expected


def test_total_is_alpha_times_alignment_plus_classification():
    torch.manual_seed(0)
    embeds = {name: torch.randn(4, 8) for name in ("text", "image", "knowledge")}
    ones = torch.ones(4, dtype=torch.bool)
    output = Output(torch.randn(4, 2), {}, {}, embeds, torch.randn(4, 8))
    teacher = {"text": torch.randn(4, 8), "image": torch.randn(4, 8), "knowledge": None}  # knowledge is not aligned
    inputs = {name: Inputs(ones, teacher_embeds=found) for name, found in teacher.items()}
    batch, model = Batch(inputs, torch.tensor([0, 1, 0, 1])), ModelConfig({})
    terms = objective(output, batch, LossConfig(alignment_weight=0.5), model)
    assert set(terms) == {"loss", "classification_loss", "alignment_loss_text", "alignment_loss_image"}
    expected = terms["classification_loss"] + 0.5 * (terms["alignment_loss_text"] + terms["alignment_loss_image"])
    assert terms["loss"].item() == pytest.approx(expected.item(), abs=1e-6)
    without = objective(output, batch, LossConfig(alignment_weight=0), model)
    assert set(without) == {"loss", "classification_loss"}
