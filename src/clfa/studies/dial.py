"""When does alignment help? The method in miniature, on posts whose redundancy, uniqueness and synergy are known.

A projection MLP for each modality, their outputs concatenated, one hidden layer, a linear classifier; the loss is
L = L_ce + alpha * (InfoNCE text + InfoNCE image) with `clfa.losses.info_nce`. Twenty seeds are trained at once, with weights
(S, in, out). All alphas of a point have the same posts, initial weights and batches.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from clfa.data.factors import APART, AXES, BITS, SPACE, WIDTH, Posts, generate
from clfa.losses import GUIDANCES, info_nce, info_nce_among_all
from clfa.metrics import Score, holm, is_claim

ALPHAS = (0.0, 1.0, 3.0)
"""Weights of the surfaces, among which validation chooses."""
SEEDS = 20
HIDDEN, BATCH, STEPS, EVERY = 96, 64, 480, 10
VALIDATION, TEST = 200, 1_000
LEARNING_RATE, WEIGHT_DECAY, TEMPERATURE = 1e-2, 0.01, 0.1
RESTS = {
    "unique": {"unique_text": 0.5, "unique_image": 0.5},
    "unique_text": {"unique_text": 1.0},
    "unique_image": {"unique_image": 1.0},
    "synergy": {"synergy": 1.0},
    "mixed": {"unique_text": 0.25, "unique_image": 0.25, "synergy": 0.5},
}
"""Name of what is not redundant -> the shares of topics in it."""
KNOWN = {"all": ("topic", *BITS), "apart": ("topic", *BITS), "shared": ("shared",)}
"""Kind of teacher -> what it knows besides the content."""
KINDS = (*GUIDANCES, "all_negatives", "first")
"""Kinds of guidance: the losses of `clfa.losses`, InfoNCE with the teacher's embeddings of all training posts, and alone in
the first third of the steps."""
Weights = dict[str, Tensor]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Point:
    """A place on the dial."""

    redundancy: float
    rest: str
    """What the rest is: `unique` (half of it in each modality), `unique_text`, `unique_image`, `synergy`, or `mixed` (half
    of it synergy, a quarter unique to each)."""
    labels: int
    """Labelled posts to train on."""
    quality: float
    """Of the teacher."""
    knows: str = "all"
    """What the teacher knows besides the content: `all` that matters for the label; the same with the two bits of the
    synergy on axes of their own (`apart`), so that they cannot be compared; or only the bit that both modalities show
    (`shared`)."""
    steps: int = STEPS
    """Of training."""
    guidance: str = "info_nce"
    """How the teacher pulls: one of `KINDS`."""
    batch: int = BATCH
    """Posts of a step, the negatives of each other."""

    @property
    def shares(self) -> dict[str, float]:
        """For `clfa.data.factors.generate`."""
        rest = 1 - self.redundancy
        return {"redundancy": self.redundancy} | {topic: part * rest for topic, part in RESTS[self.rest].items()}


@dataclass(frozen=True)
class Measured:
    """What was measured at a point: a row for each alpha (the first is 0), a column for each seed."""

    point: Point
    alphas: list[float]
    accuracy: list[list[float]]
    """On test posts, with the weights that had the best NLL on validation."""
    nll: list[list[float]]
    """That NLL."""
    last: list[list[float]]
    """Accuracy on the same test posts with the weights of the last step; chooses nothing."""

    def chosen(self, among: Sequence[float] = ALPHAS) -> list[float]:
        """Accuracy by seed with the one of these weights that validation chooses."""
        rows = [row for row, alpha in enumerate(self.alphas) if alpha in among]
        best = np.argmin([self.nll[row] for row in rows], axis=0)
        return [self.accuracy[rows[row]][column] for column, row in enumerate(best)]


@dataclass(frozen=True)
class Gain:
    """Accuracy with alignment minus accuracy without, over paired seeds."""

    point: Point
    alpha: float | None
    """`None`: the weight that validation chooses, seed by seed."""
    difference: Score
    p_holm: float
    is_claim: bool


def gains(measured: Sequence[Measured], alpha: float | None) -> list[Gain]:
    """The gain at each point with one weight, or the chosen one: t intervals over seeds, p corrected over all points."""
    found = []
    for each in measured:
        values = each.chosen() if alpha is None else each.accuracy[each.alphas.index(alpha)]
        found.append((each.point, *paired(values, each.accuracy[0])))
    corrected = holm([p for _, _, p in found])
    return [Gain(point, alpha, score, p, is_claim(score, p)) for (point, score, _), p in zip(found, corrected)]


def paired(values: Sequence[float], others: Sequence[float]) -> tuple[Score, float]:
    """The mean difference over seeds with its t interval, and its p; not corrected."""
    differences = np.array(values) - np.array(others)
    mean, n = float(differences.mean()), len(differences)
    error = float(differences.std(ddof=1) / np.sqrt(n))
    half = float(stats.t.ppf(0.975, n - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, n - 1)) if error else 1.0
    return Score(mean, mean - half, mean + half, n=n), p


def explained(estimates: Float[NDArray, " points"], values: Float[NDArray, " points"]) -> float:
    """How much of the spread of values a line over the estimates predicts, each by a line through the others:

        1 - sum_i (y_i - line without i)^2 / sum_i (y_i - mean without i)^2.

    1: all; 0: no more than the mean of the others; below 0: less.
    """
    left = mean = 0.0
    for place in range(len(values)):
        others = np.arange(len(values)) != place
        slope, base = np.polyfit(estimates[others], values[others], 1)
        left += (values[place] - base - slope * estimates[place]) ** 2
        mean += (values[place] - values[others].mean()) ** 2
    return 1 - left / mean


def measure_points(
    points: Iterable[Point], path: Path, alphas: Sequence[float] = ALPHAS, seeds: int = SEEDS
) -> list[Measured]:
    """Measure each point, and add it to a JSONL file; what the file holds already is not measured again, nor is what does
    not depend on the teacher."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    known = {measured.point: measured for measured in map(from_line, lines)}
    points = list(points)
    for number, point in enumerate(points, 1):
        if point not in known:
            known[point] = measure(point, alphas, seeds, known.get(_any_teacher(point, known)))
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(known[point])) + "\n")
            log.info("point %s of %s", number, len(points))
    return [known[point] for point in points]


def from_line(line: str) -> Measured:
    """A line of the file."""
    values = json.loads(line)
    return Measured(Point(**values.pop("point")), **values)


def _any_teacher(point: Point, known: Iterable[Point]) -> Point:
    """A known point that differs in the teacher alone, or the point itself."""

    def alike(each: Point) -> bool:
        return replace(each, quality=point.quality, knows=point.knows, guidance=point.guidance) == point

    return next(filter(alike, known), point)


def measure(
    point: Point, alphas: Sequence[float] = ALPHAS, seeds: int = SEEDS, unaligned: Measured | None = None
) -> Measured:
    """Train and test all seeds with each alpha; the first alpha, 0, is taken from another teacher's point if it is given."""
    knows, axes = KNOWN[point.knows], APART if point.knows == "apart" else AXES
    drawn: dict[str, list[Posts]] = {
        split: [
            generate(point.shares, count, 1_000 * seed + place, point.quality, knows, axes)
            for seed in range(1, seeds + 1)
        ]
        for place, (split, count) in enumerate({"train": point.labels, "validation": VALIDATION, "test": TEST}.items())
    }
    splits = {split: _stacked(posts) for split, posts in drawn.items()}
    rows: list[tuple[list[float], ...]] = (
        [(unaligned.accuracy[0], unaligned.nll[0], unaligned.last[0])] if unaligned else []
    )
    for alpha in alphas[len(rows) :]:
        rows.append(tuple(_rounded(found) for found in train(splits, alpha, point.steps, point.guidance, point.batch)))
    return Measured(point, list(alphas), *(list(column) for column in zip(*rows)))


def _rounded(found: Float[Tensor, " seeds"]) -> list[float]:
    return [round(value, 4) for value in found.tolist()]


@dataclass(frozen=True)
class Stacked:
    """The posts of S seeds."""

    features: dict[str, Float[Tensor, "seeds posts width"]]
    teacher: dict[str, Float[Tensor, "seeds posts space"]]
    labels: Tensor
    """(S, N)."""


def _stacked(posts: list[Posts]) -> Stacked:
    def tensors(name: str) -> dict[str, Tensor]:
        return {
            modality: torch.from_numpy(np.stack([getattr(one, name)[modality] for one in posts])).float()
            for modality in ("text", "image")
        }

    return Stacked(tensors("features"), tensors("teacher"), torch.from_numpy(np.stack([one.labels for one in posts])))


def train(
    splits: dict[str, Stacked], alpha: float, steps: int, guidance: str = "info_nce", size: int = BATCH
) -> tuple[Float[Tensor, " seeds"], Float[Tensor, " seeds"], Float[Tensor, " seeds"]]:
    """Train S seeds at once -> their accuracy on test and NLL on validation, each with the weights of its best step by that
    NLL, and their accuracy on test with the weights of the last step.

    Test posts are read when these weights are chosen.
    """
    data, seeds = splits["train"], len(splits["train"].labels)
    weights = _initial(seeds)
    optimizer = torch.optim.AdamW(weights.values(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    generator = torch.Generator().manual_seed(0)
    count = data.labels.shape[1]
    best, kept = torch.full((seeds,), float("inf")), {name: weight.detach().clone() for name, weight in weights.items()}
    for step in range(1, steps + 1):
        places = torch.randperm(count, generator=generator)[:size]  # each seed has its own posts there
        loss = _loss(weights, data, places, alpha, guidance, (step - 1) / steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % EVERY == 0:
            with torch.no_grad():
                nll = _nll(_forward(weights, splits["validation"].features)[0], splits["validation"].labels)
            better = (nll < best)[:, None, None]
            kept = {name: torch.where(better, weight.detach(), kept[name]) for name, weight in weights.items()}
            best = torch.minimum(nll, best)
    return _accuracy(kept, splits["test"]), best, _accuracy(weights, splits["test"])


@torch.no_grad()
def _accuracy(weights: Weights, data: Stacked) -> Float[Tensor, " seeds"]:
    return (_forward(weights, data.features)[0].argmax(-1) == data.labels).float().mean(1)


def _loss(
    weights: Weights,
    data: Stacked,
    places: Int[Tensor, " batch"],
    alpha: float,
    kind: str = "info_nce",
    done: float = 0,
) -> Tensor:
    """Of the posts at these places; summed over seeds, so that the gradient of each is its own."""
    logits, embeds = _forward(weights, {modality: values[:, places] for modality, values in data.features.items()})
    loss = _nll(logits, data.labels[:, places]).sum()
    if kind == "first":
        alpha, loss = (alpha, loss * 0) if alpha and done < 1 / 3 else (0.0, loss)
    return loss + alpha * _pull(kind, embeds, data.teacher, places).sum() if alpha else loss


def _pull(
    kind: str, embeds: dict[str, Tensor], teacher: dict[str, Tensor], places: Int[Tensor, " batch"]
) -> Float[Tensor, " seeds"]:
    """The alignment loss of each seed, both modalities summed."""
    theirs = {modality: values[:, places] for modality, values in teacher.items()}
    if kind == "all_negatives":
        among = torch.vmap(info_nce_among_all, in_dims=(0, 0, None, None))
        return torch.stack([among(own, teacher[one], places, TEMPERATURE) for one, own in embeds.items()]).sum(0)
    align = torch.vmap(GUIDANCES.get(kind, info_nce), in_dims=(0, 0, None))
    return torch.stack([align(own, theirs[one], TEMPERATURE) for one, own in embeds.items()]).sum(0)


def _forward(weights: Weights, features: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """(S, N, 2) logits, and the (S, N, 32) embeddings of each modality."""
    embeds = {}
    for modality, values in features.items():
        embeds[modality] = _linear(weights, f"{modality}_out", _linear(weights, f"{modality}_in", values).relu())
    fused = _linear(weights, "fuse", torch.cat(list(embeds.values()), -1)).relu()
    return _linear(weights, "classify", fused), embeds


def _linear(weights: Weights, name: str, values: Tensor) -> Tensor:
    return torch.baddbmm(weights[f"{name}_bias"], values, weights[name])


def _initial(seeds: int) -> Weights:
    """Fresh weights, for each seed its own; the same for every alpha."""
    generator = torch.Generator().manual_seed(1)
    sizes = {f"{modality}_in": (WIDTH, HIDDEN) for modality in ("text", "image")}
    sizes |= {f"{modality}_out": (HIDDEN, SPACE) for modality in ("text", "image")}
    sizes |= {"fuse": (2 * SPACE, 2 * SPACE), "classify": (2 * SPACE, 2)}
    weights = {}
    for name, (inside, outside) in sizes.items():
        drawn = torch.randn((seeds, inside, outside), generator=generator) * (2 / inside) ** 0.5
        weights[name] = drawn.requires_grad_()
        weights[f"{name}_bias"] = torch.zeros((seeds, 1, outside), requires_grad=True)
    return weights


def _nll(logits: Tensor, labels: Tensor) -> Tensor:
    """(S,) mean over posts, in nats."""
    return F.cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(1)
