"""Generated posts at the level of features, with a dial: what text and image share, have alone, and only tell together.

Each post has a topic, seen in both modalities, that says what decides its label, and five bits:

    redundancy    label = shared            shown by both
    unique_text   label = in_text           shown by the text
    unique_image  label = in_image          shown by the image
    synergy       label = left XOR right    one shown by each, each alone at chance

The topics come with given shares, so in bits (two classes, equally frequent):

    I(text; label) = redundancy + unique_text,  I(image; label) = redundancy + unique_image,  I(both; label) = 1,

and the shares are the partial information decomposition (Williams and Beer 2010) by construction. The features of the two
modalities are different random mixtures of what each shows, of nuisances and of noise: two encoders that were trained apart.

A post also has content, things that both show and that do not matter for the label: what a CLIP-like teacher knows best. It
always knows the content; which of the bits, and whether the topic, is said by `knows`.
"""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

TOPICS = ("redundancy", "unique_text", "unique_image", "synergy")
BITS = ("shared", "in_text", "in_image", "left", "right")
SHOWN = {"text": ("shared", "in_text", "left"), "image": ("shared", "in_image", "right")}
"""Bits that each modality shows."""
CONTENT, NUISANCES, WIDTH, HIDDEN = 6, 4, 64, 96
"""Numbers of content factors and of nuisances of each modality; width of features, and of the network that mixes them."""
NOISE = 0.5
"""Standard deviation of the noise on features, whose own is about 1."""
SPACE = 32
"""Width of the teacher's space."""
AXES = {"shared": 0, "in_text": 1, "in_image": 2, "left": 3, "right": 3}
"""Bit -> its axis in the teacher's space: `left` and `right` are of one kind (a mood, a state), and comparable there."""
APART = AXES | {"right": 4}
"""The same for a teacher in whose space they are not comparable."""
WORLD = 12_345
"""Seed of the mixtures: the encoders and the teacher's map are the same for all posts and shares."""


@dataclass(frozen=True)
class Posts:
    """N posts."""

    labels: NDArray[np.int64]
    """(N,) 0 or 1."""
    topics: NDArray[np.int64]
    """(N,) numbers of `TOPICS`."""
    bits: NDArray[np.int64]
    """(N, 5), columns `BITS`."""
    features: dict[str, Float[NDArray, "posts width"]] = field(default_factory=dict)
    """Modality -> what its encoder says."""
    teacher: dict[str, Float[NDArray, "posts space"]] = field(default_factory=dict)
    """Modality -> embeddings in the teacher's one space."""


def generate(
    shares: dict[str, float],
    count: int,
    seed: int,
    quality: float = 1.0,
    knows: tuple[str, ...] = ("topic", *BITS),
    bit_axes: dict[str, int] = AXES,
) -> Posts:
    """Posts with these shares of `TOPICS` (0 where left out, sum 1); the same seed gives the same posts.

    Args:
        shares: topic -> share.
        count: N.
        seed: of the posts.
        quality: q of the teacher, 0 to 1: its embedding is q * map(what it knows) + (1 - q) * noise of the same size.
        knows: what the teacher knows besides the content: `topic`, and any of `BITS`.
        bit_axes: bit -> its axis in the teacher's space, `AXES` or `APART`.

    Raises:
        ValueError: the shares do not sum to 1, or there is no such topic.
    """
    share = np.array([shares.get(topic, 0.0) for topic in TOPICS])
    if set(shares) - set(TOPICS) or abs(share.sum() - 1) > 1e-9 or (share < 0).any():
        raise ValueError(f"shares {shares}: of {', '.join(TOPICS)}, none below 0, in all 1")
    generator = np.random.default_rng(seed)
    topics = generator.choice(len(TOPICS), count, p=share)
    bits = generator.integers(0, 2, (count, len(BITS)))
    content = generator.standard_normal((count, CONTENT))
    topic = np.eye(len(TOPICS))[topics]
    axes = len(TOPICS) + CONTENT + 1 + max(bit_axes.values())
    map_of_teacher = np.random.default_rng([WORLD, 2]).standard_normal((axes, SPACE)) / np.sqrt(CONTENT)
    features, teacher = {}, {}
    for number, (modality, shown) in enumerate(SHOWN.items()):
        signs = {bit: 2.0 * bits[:, BITS.index(bit)] - 1 for bit in shown}
        nuisances = generator.standard_normal((count, NUISANCES))
        factors = np.column_stack([topic, content, *signs.values(), nuisances])
        features[modality] = _mixture(factors, np.random.default_rng([WORLD, number]))
        features[modality] += NOISE * generator.standard_normal(features[modality].shape)
        known = np.zeros((count, axes))
        known[:, : len(TOPICS)] = topic * ("topic" in knows)
        known[:, len(TOPICS) : len(TOPICS) + CONTENT] = content
        for bit, sign in signs.items():
            known[:, len(TOPICS) + CONTENT + bit_axes[bit]] = sign * (bit in knows)
        noise = generator.standard_normal((count, SPACE))
        teacher[modality] = quality * known @ map_of_teacher + (1 - quality) * noise
    return Posts(label_of(topics, bits), topics, bits, features, teacher)


def label_of(topics: NDArray[np.int64], bits: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) topics, (N, 5) bits -> (N,) labels."""
    shared, in_text, in_image, left, right = bits.T
    return np.choose(topics, [shared, in_text, in_image, left ^ right])


def _mixture(factors: Float[NDArray, "posts factors"], world: np.random.Generator) -> Float[NDArray, "posts width"]:
    """A fixed random network with one hidden layer, its outputs with standard deviation 1."""
    first = world.standard_normal((factors.shape[1], HIDDEN)) / np.sqrt(factors.shape[1])
    second = world.standard_normal((HIDDEN, WIDTH)) / np.sqrt(HIDDEN)
    mixed = np.tanh(1.5 * factors @ first) @ second
    return mixed / mixed.std()
