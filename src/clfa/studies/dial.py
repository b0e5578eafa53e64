"""When does alignment help? The method in miniature, on posts whose redundancy, uniqueness and synergy are known.

A projection MLP for each modality, their outputs concatenated, one hidden layer, a linear classifier; the loss is
L = L_ce + alpha * (InfoNCE text + InfoNCE image) with `clfa.losses.info_nce`. Twenty seeds are trained at once, with weights
(S, in, out). All alphas of a point have the same posts, initial weights and batches.
"""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from clfa.data.factors import BITS, SPACE, WIDTH, Posts, generate
from clfa.losses import info_nce
from clfa.metrics import Score, holm, is_claim

ALPHAS = (0.0, 0.3, 1.0, 3.0)
SEEDS = 20
HIDDEN, BATCH, STEPS, EVERY = 96, 64, 160, 20
VALIDATION, TEST = 200, 1_000
LEARNING_RATE, WEIGHT_DECAY, TEMPERATURE = 3e-3, 0.01, 0.1
Weights = dict[str, Tensor]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Point:
    """A place on the dial."""

    redundancy: float
    rest: str
    """What the rest is: `unique` (half of it in each modality) or `synergy`."""
    labels: int
    """Labelled posts to train on."""
    quality: float
    """Of the teacher."""
    knows: str = "all"
    """What the teacher knows besides the content: `all` that matters for the label, or only the bit that both modalities
    show (`shared`)."""

    @property
    def shares(self) -> dict[str, float]:
        """For `clfa.data.factors.generate`."""
        rest = 1 - self.redundancy
        if self.rest == "synergy":
            return {"redundancy": self.redundancy, "synergy": rest}
        return {"redundancy": self.redundancy, "unique_text": rest / 2, "unique_image": rest / 2}


@dataclass(frozen=True)
class Measured:
    """What was measured at a point: a row for each alpha, a column for each seed."""

    point: Point
    accuracy: list[list[float]]
    """On test posts, with the weights that had the best NLL on validation."""
    nll: list[list[float]]
    """That NLL."""

    def chosen(self) -> list[float]:
        """Accuracy by seed with the alpha that validation chooses."""
        best = np.argmin(self.nll, axis=0)
        return [self.accuracy[row][column] for column, row in enumerate(best)]


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
        values = each.chosen() if alpha is None else each.accuracy[ALPHAS.index(alpha)]
        differences = np.array(values) - np.array(each.accuracy[0])
        mean, n = float(differences.mean()), len(differences)
        error = float(differences.std(ddof=1) / np.sqrt(n))
        half = float(stats.t.ppf(0.975, n - 1)) * error
        p = float(2 * stats.t.sf(abs(mean) / error, n - 1)) if error else 1.0
        found.append((each.point, Score(mean, mean - half, mean + half, n=n), p))
    corrected = holm([p for _, _, p in found])
    return [Gain(point, alpha, score, p, is_claim(score, p)) for (point, score, _), p in zip(found, corrected)]


def measure_points(points: Iterable[Point], path: Path) -> list[Measured]:
    """Measure each point, and add it to a JSONL file; what the file holds already is not measured again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    known = {measured.point: measured for measured in map(from_line, lines)}
    points = list(points)
    for number, point in enumerate(points, 1):
        if point not in known:
            known[point] = measure(point)
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(known[point])) + "\n")
            log.info("point %s of %s", number, len(points))
    return [known[point] for point in points]


def from_line(line: str) -> Measured:
    """A line of the file."""
    values = json.loads(line)
    return Measured(Point(**values.pop("point")), **values)


def measure(point: Point, alphas: Iterable[float] = ALPHAS, seeds: int = SEEDS) -> Measured:
    """Train and test all seeds with each alpha."""
    knows = ("topic", *BITS) if point.knows == "all" else ("shared",)
    drawn: dict[str, list[Posts]] = {
        split: [
            generate(point.shares, count, 1_000 * seed + place, point.quality, knows) for seed in range(1, seeds + 1)
        ]
        for place, (split, count) in enumerate({"train": point.labels, "validation": VALIDATION, "test": TEST}.items())
    }
    splits = {split: _stacked(posts) for split, posts in drawn.items()}
    results = [train(splits, alpha) for alpha in alphas]
    return Measured(point, [accuracy.tolist() for accuracy, _ in results], [nll.tolist() for _, nll in results])


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


def train(splits: dict[str, Stacked], alpha: float) -> tuple[Float[Tensor, " seeds"], Float[Tensor, " seeds"]]:
    """Train S seeds at once -> their accuracy on test and NLL on validation, each with the weights of its best step."""
    data, seeds = splits["train"], len(splits["train"].labels)
    weights = _initial(seeds)
    optimizer = torch.optim.AdamW(weights.values(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    generator = torch.Generator().manual_seed(0)
    count = data.labels.shape[1]
    best = torch.full((seeds,), float("inf"))
    accuracy = torch.zeros(seeds)
    for step in range(1, STEPS + 1):
        places = torch.rand((seeds, count), generator=generator).argsort(1)[:, :BATCH]
        loss = _loss(weights, _part(data, places), alpha)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % EVERY == 0:
            with torch.no_grad():
                nll = _nll(_forward(weights, splits["validation"].features)[0], splits["validation"].labels)
                logits = _forward(weights, splits["test"].features)[0]
                right = (logits.argmax(-1) == splits["test"].labels).float().mean(1)
            accuracy = torch.where(nll < best, right, accuracy)
            best = torch.minimum(nll, best)
    return accuracy, best


def _loss(weights: Weights, batch: Stacked, alpha: float) -> Tensor:
    """Sum over seeds, so that the gradient of each is its own."""
    logits, embeds = _forward(weights, batch.features)
    loss = _nll(logits, batch.labels).sum()
    if alpha:
        align = torch.vmap(info_nce, in_dims=(0, 0, None))
        for modality, own in embeds.items():
            loss = loss + alpha * align(own, batch.teacher[modality], TEMPERATURE).sum()
    return loss


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


def _part(data: Stacked, places: Tensor) -> Stacked:
    """Posts (S, B) by their places."""

    def of(values: Tensor) -> Tensor:
        return torch.gather(values, 1, places[..., None].expand(-1, -1, values.shape[-1]))

    return Stacked(
        {modality: of(values) for modality, values in data.features.items()},
        {modality: of(values) for modality, values in data.teacher.items()},
        torch.gather(data.labels, 1, places),
    )


def _nll(logits: Tensor, labels: Tensor) -> Tensor:
    """(S,) mean over posts, in nats."""
    return F.cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(1)
