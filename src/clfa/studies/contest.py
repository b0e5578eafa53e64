"""The last choice of `clfa fit`: the simple model, the trained networks and a blend, on the validation posts."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from clfa.evidence.results import Tried
from clfa.metrics import METRICS, is_claim, mean_nll, nll_difference
from clfa.studies.candidates import Trial, with_shift
from clfa.studies.networks import Trained

SIMPLE, BLEND = "simple", "blend"


@dataclass(frozen=True)
class Contest:
    """Who took part, and who won."""

    table: list[Tried]
    """Empty where there was nothing beside the simple model."""
    taken: str
    """`simple`, the key of a network, or `blend`."""
    blended: str = ""
    """Key of the network that is blended with the simple model."""


def contest(
    chosen: Trial, networks: dict[str, Trained], labels: NDArray[np.int64], prior: NDArray[np.int64], metric: str
) -> Contest:
    """The simplest stays unless a later one has no worse metric and is claimed to have the better NLL, which tells sooner
    than a metric of decisions (p times the number of looks). The blend is of the simple model and the best network.

    Args:
        chosen: the simple model; what it says of posts out of fold, those of validation at the end.
        networks: key -> network, in the order of their complexity.
        labels: (N,) of the validation posts.
        prior: labels of train and validation. All decide with the shift that was found on these with the simple model.
        metric: that the user named.
    """
    if not networks:
        return Contest([], SIMPLE)
    simple = chosen.decided.log_probabilities[-len(labels) :]
    best = min(networks, key=lambda key: mean_nll(labels, networks[key].log_probabilities))
    rest = {key: (each.name, each.modalities, each.log_probabilities, each.seconds) for key, each in networks.items()}
    title = "the mean of the simple one" + (f" and {networks[best].name}" if len(networks) > 1 else " and this")
    both = tuple(dict.fromkeys((*chosen.candidate.modalities, *networks[best].modalities)))
    seconds = chosen.fitted.seconds + networks[best].seconds
    rest[BLEND] = (title, both, _mean(simple, networks[best].log_probabilities), seconds)

    shift = chosen.decided.shift
    holder, taken = with_shift(simple, labels, shift, prior), SIMPLE
    table = {SIMPLE: replace(chosen, decided=holder, verdict="the simple one, out of fold").result(False)}
    for key, (name, modalities, log_probabilities, seconds) in rest.items():
        decided = with_shift(log_probabilities, labels, shift, prior)
        difference, p = nll_difference(labels, holder.log_probabilities, log_probabilities)
        claim = is_claim(difference, min(1.0, p * len(rest)))
        word = "cannot tell" if not claim else "better" if difference.value < 0 else "worse"
        verdict = f"{word}: NLL {difference.text(METRICS['nll'].unit, signed=True)}"
        metrics, rounded = decided.metrics, round(seconds, 1)
        table[key] = Tried(name, list(modalities), {}, shift, metrics, rounded, False, verdict)
        if word == "better" and metrics[metric].value >= holder.metrics[metric].value:
            holder, taken = decided, key
    return Contest([replace(row, chosen=key == taken) for key, row in table.items()], taken, best)


def _mean(
    one: Float[NDArray, "posts classes"], other: Float[NDArray, "posts classes"]
) -> Float[NDArray, "posts classes"]:
    """Log probabilities of the blend, see `clfa.model.blend.Blend`."""
    mean = (one + other) / 2
    return mean - np.logaddexp.reduce(mean, 1, keepdims=True)
