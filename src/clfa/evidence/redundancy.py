"""How much text and image tell of the label, alone and together: what probes can say of redundancy on real posts."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from clfa.metrics import Score

RESAMPLES = 2_000
LogProbabilities = Float[NDArray, "posts classes"]


@dataclass(frozen=True)
class Information:
    """In nats, with 95 % bootstrap intervals over posts. Probes see no more than they can: each is a lower bound.

    A model with mean negative log probability L leaves L nats of the label open, so it has found I = H(label) - L.
    """

    label: float
    """H(label), the entropy of the classes."""
    text: Score
    image: Score
    both: Score
    overlap: Score
    """I_text + I_image - I_both, the co-information: redundancy minus synergy (Williams and Beer 2010). Above 0 the two tell
    the same thing more than they complete each other; no probe can tell redundancy and synergy apart by it, where both are
    there, and a linear one does not see synergy of the kind of XOR at all."""
    text_adds: Score
    """I_both - I_image: what the text tells that the image does not, alone or with it."""
    image_adds: Score
    """I_both - I_text."""


def information(labels: NDArray[np.int64], log_probabilities: Mapping[str, LogProbabilities]) -> Information:
    """Information of probes about the label, from what they say of posts that they were not fitted on.

    Args:
        labels: (N,).
        log_probabilities: `text`, `image` and `both` -> (N, C), out of fold, of probes of the same kind.
    """
    places = np.arange(len(labels))
    shares = np.bincount(labels) / len(labels)
    entropy = -float((shares[shares > 0] * np.log(shares[shares > 0])).sum())
    prior = -np.log(shares[labels])  # its mean is the entropy, in each draw nearly so
    found = {name: prior + of[places, labels] for name, of in log_probabilities.items()}
    terms = found | {
        "overlap": found["text"] + found["image"] - found["both"],
        "text_adds": found["both"] - found["image"],
        "image_adds": found["both"] - found["text"],
    }
    generator = np.random.default_rng(0)
    # (D, N) counts of each post in a draw would be large: draws of places, in blocks
    draws = {name: np.empty(RESAMPLES) for name in terms}
    for draw in range(RESAMPLES):
        drawn = generator.integers(len(labels), size=len(labels))
        for name, values in terms.items():
            draws[name][draw] = values[drawn].mean()
    scored = {
        name: Score(float(values.mean()), *np.quantile(draws[name], [0.025, 0.975]).tolist())
        for name, values in terms.items()
    }
    return Information(entropy, **scored)


def advice(found: Information) -> str:
    """What it means for alignment, in a sentence."""
    told = f"text {found.text.value:.2f}, image {found.image.value:.2f}, both {found.both.value:.2f} nats"
    what = f"of the label's {found.label:.2f} nats, probes find {told}"
    if found.both.low is not None and found.both.low <= 0:
        return f"{what}: no more than chance, so nothing can be said about alignment"
    if found.overlap.low is not None and found.overlap.low > 0:
        return (
            f"{what}: {100 * found.overlap.value / found.both.value:.0f} % of that is told twice (overlap "
            f"{found.overlap.text('')} nats), which a teacher that knows it can sharpen; let validation choose "
            "(`loss.alignment_weight: auto`)"
        )
    if found.overlap.high is not None and found.overlap.high < 0:
        return (
            f"{what}: together they tell more than the sum of both (overlap {found.overlap.text('')} nats), so it is their "
            "interplay that matters: a fusion, and a teacher that makes them comparable (`loss.alignment_weight: auto`)"
        )
    return (
        f"{what}: each tells its own (overlap {found.overlap.text('')} nats), which a teacher of what they share does not "
        "know; alignment may hurt (`loss.alignment_weight: auto` chooses)"
    )
