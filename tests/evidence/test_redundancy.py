"""What probes say of redundancy: by hand, and on posts whose decomposition is known."""

import numpy as np
import pytest

from clfa.data.factors import BITS, SHOWN, TOPICS, generate, label_of
from clfa.evidence.redundancy import advice, information


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


def bits_told(shares, modality):
    """I(what a modality shows; label) in bits, by counting all cases."""
    cases = np.array(np.meshgrid(*[[0, 1]] * len(BITS))).reshape(len(BITS), -1).T
    total = 0.0
    for number, topic in enumerate(TOPICS):
        labels = label_of(np.full(len(cases), number), cases)
        seen = cases[:, [BITS.index(bit) for bit in SHOWN[modality]]]
        for value in np.unique(seen, axis=0):
            p = labels[(seen == value).all(1)].mean()
            weight = (seen == value).all(1).mean() * shares.get(topic, 0)
            left = -sum(q * np.log2(q) for q in (p, 1 - p) if q > 0)
            total += weight * (1 - left)
    return total


@pytest.mark.parametrize(
    "shares",
    [{"redundancy": 1}, {"synergy": 1}, {"unique_text": 0.3, "unique_image": 0.7}, dict.fromkeys(TOPICS, 0.25)],
)
def test_shares_are_the_decomposition(shares):
    assert bits_told(shares, "text") == pytest.approx(shares.get("redundancy", 0) + shares.get("unique_text", 0))
    assert bits_told(shares, "image") == pytest.approx(shares.get("redundancy", 0) + shares.get("unique_image", 0))


def test_posts_are_as_described():
    posts = generate({"synergy": 0.5, "redundancy": 0.5}, 4_000, 1, quality=1.0, knows=("shared",))
    again = generate({"synergy": 0.5, "redundancy": 0.5}, 4_000, 1, quality=1.0, knows=("shared",))
    assert all((posts.features[name] == again.features[name]).all() for name in ("text", "image"))
    assert (posts.features["text"] != generate({"synergy": 1.0}, 4_000, 2).features["text"]).any()
    assert (posts.labels == label_of(posts.topics, posts.bits)).all()
    synergy = posts.topics == TOPICS.index("synergy")
    for bit in ("left", "right"):  # each alone is at chance
        agrees = (posts.bits[synergy, BITS.index(bit)] == posts.labels[synergy]).mean()
        assert abs(agrees - 0.5) < 0.04
    # what the teacher does not know leaves no trace: posts that differ in it alone have the same embedding
    assert np.linalg.matrix_rank(posts.teacher["text"], tol=1e-6) == 6 + 1
    with pytest.raises(ValueError, match="in all 1"):
        generate({"synergy": 0.5}, 10, 0)
