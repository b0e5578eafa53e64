"""Generated posts: the shares are the decomposition, the teacher knows what it is said to know and nothing else."""

import numpy as np
import pytest

from clfa.data.factors import APART, BITS, SHOWN, TOPICS, generate, label_of


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
    assert abs((posts.topics == TOPICS.index("redundancy")).mean() - 0.5) < 0.04
    synergy = posts.topics == TOPICS.index("synergy")
    for bit in ("left", "right"):  # each alone is at chance
        agrees = (posts.bits[synergy, BITS.index(bit)] == posts.labels[synergy]).mean()
        assert abs(agrees - 0.5) < 0.04
    # what the teacher does not know leaves no trace: posts that differ in it alone have the same embedding
    assert np.linalg.matrix_rank(posts.teacher["text"], tol=1e-6) == 6 + 1
    with pytest.raises(ValueError, match="in all 1"):
        generate({"synergy": 0.5}, 10, 0)


def test_the_teacher_compares_what_lies_on_one_axis():
    """Text and image with the same content differ by the signs of `left` and `right`: by nothing where these are equal and
    lie on one axis, always where they lie apart."""
    knows = ("left", "right")
    by_axes = [generate({"synergy": 1}, 200, 3, knows=knows), generate({"synergy": 1}, 200, 3, 1.0, knows, APART)]
    same = by_axes[0].labels == 0  # left XOR right
    apart = [np.abs(posts.teacher["text"] - posts.teacher["image"]).max(1) for posts in by_axes]
    assert apart[0][same].max() < 1e-9
    assert apart[0][~same].min() > 0.1
    assert apart[1].min() > 0.1
    assert all((by_axes[0].features[name] == by_axes[1].features[name]).all() for name in SHOWN)


def test_a_teacher_without_quality_is_noise():
    posts = generate({"redundancy": 1}, 2_000, 4, quality=0.0)
    related = np.corrcoef(posts.teacher["text"].T, posts.labels)[-1, :-1]
    assert np.abs(related).max() < 0.1
