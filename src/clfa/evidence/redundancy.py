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
    """In nats, with 95 % bootstrap intervals over posts, which know nothing of what the probes do not see.

    A model with mean negative log probability L leaves L nats of the label open, so it has found I = H(label) - L: a lower
    bound of what is there. Differences of two such bounds are bounds of nothing; they say what these probes gain.
    """

    label: float
    """H(label), the entropy of the classes."""
    text: Score
    image: Score
    both: Score
    overlap: Score
    """I_text + I_image - I_both. Of the true informations this is redundancy minus synergy (Williams and Beer 2010); of what
    probes find it may be far from it: a linear one sees no synergy of the kind of XOR, and one that reads each side badly
    alone finds interplay where there is none (docs/when-alignment-helps.md)."""
    text_adds: Score
    """I_both - I_image: what the text tells that the image does not, alone or with it (unique plus synergy)."""
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
    """What was found, in a sentence, and what cannot be told from it."""
    told = f"text {found.text.value:.2f}, image {found.image.value:.2f}, both {found.both.value:.2f}"
    return (
        f"of the label's {found.label:.2f} nats linear probes find {told}: the image adds {found.image_adds.text('')}; "
        "whether alignment helps they cannot tell, validation can (`loss.alignment_weight: auto`)"
    )
