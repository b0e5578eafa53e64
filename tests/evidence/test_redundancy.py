"""What probes say of redundancy: by hand, and on posts whose decomposition is known."""

import numpy as np
import pytest

from clfa.config import ProbeConfig
from clfa.data.factors import generate
from clfa.evidence.redundancy import advice, information
from clfa.training.probe import fit_probe


def sure(labels, right=True):
    """A model that knows the label of the posts that are `right`, and nothing of the others."""
    known = np.where(np.eye(2)[labels] > 0, 1 - 1e-9, 1e-9)
    return np.log(np.where(np.broadcast_to(right, labels.shape)[:, None], known, 0.5))


def test_by_hand():
    labels = np.arange(4_000) % 2
    half, other = np.arange(4_000) % 4 < 2, np.arange(4_000) % 4 >= 2
    bit = np.log(2)
    same = information(labels, {"text": sure(labels), "image": sure(labels), "both": sure(labels)})
    assert same.label == pytest.approx(bit)
    assert same.overlap.value == pytest.approx(bit, abs=1e-6)
    assert same.text_adds.value == pytest.approx(0, abs=1e-6)
    assert "text 0.69, image 0.69, both 0.69: the image adds 0.000" in advice(same)
    apart = information(labels, {"text": sure(labels, half), "image": sure(labels, other), "both": sure(labels)})
    assert apart.text.value == pytest.approx(bit / 2, abs=1e-6)
    assert apart.overlap.value == pytest.approx(0, abs=1e-6)
    assert apart.image_adds.value == pytest.approx(bit / 2, abs=1e-6)
    assert apart.text.low < bit / 2 < apart.text.high
    together = information(labels, {"text": sure(labels, False), "image": sure(labels, False), "both": sure(labels)})
    assert together.overlap.value == pytest.approx(-bit, abs=1e-6)
    assert together.image_adds.value == pytest.approx(bit, abs=1e-6)
    nothing = information(labels, dict.fromkeys(("text", "image", "both"), sure(labels, False)))
    assert nothing.both.value == pytest.approx(0, abs=1e-6)


def probed(shares, kind="svm"):
    posts, settings = generate(shares, 400, 0), ProbeConfig(kind, 3.0 if kind == "svm" else 1.0)
    features = {name: values.astype(np.float32) for name, values in posts.features.items()}
    sides = {"text": ("text",), "image": ("image",), "both": ("text", "image")}
    said = {
        side: fit_probe(settings, {one: features[one] for one in own}, posts.labels, 2).out_of_fold
        for side, own in sides.items()
    }
    return information(posts.labels, said)


def test_the_estimate_follows_the_truth_as_far_as_its_probe_sees():
    bit = np.log(2)
    redundant, text, synergy = probed({"redundancy": 1}), probed({"unique_text": 1}), probed({"synergy": 1})
    assert redundant.overlap.value > 0.8 * bit
    assert text.text.value > 0.8 * bit
    assert text.image.value < 0.02 < text.text_adds.low
    assert max(synergy.text.value, synergy.image.value) < 0.02  # each alone is at chance
    assert synergy.both.low > 0
    assert synergy.overlap.high < 0
    linear = probed({"synergy": 1}, "logistic_regression")
    assert linear.both.value < 0.02  # and does not see it, as the page says
