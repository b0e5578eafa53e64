"""Posts whose label, or whose pairing of text and image, is likely wrong, the most suspicious first, for a person."""

import csv
import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from clfa.data.atomic import replacing
from clfa.data.drawing import text_form
from clfa.data.progress import track
from clfa.data.records import labelled_splits, load_manifest
from clfa.data.rows import Rows, load_split
from clfa.evidence.floors import (
    encoder_features,
    frequencies,
    has_words,
    kernel_probe,
    linear_probe,
    teacher_features,
    tfidf_probe,
)

FOLDS = 5
OTHERS = 1_000
"""Texts and images that a pair is set against."""
MISMATCHED = 0.05
"""Share of others that fit less well below which a pair is suspicious."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Suspect:
    """A row of `suspects.csv`."""

    id: str
    split: str
    what: str
    """`label` or `pair`."""
    score: float
    """From 0, certainly wrong, to 1."""
    label: str
    suggested: str
    """The class that the other posts speak for; empty for a pair."""
    text: str
    corrected: str = ""
    """For the reviewer: a class, `drop`, or nothing to leave the post as it is. `clfa correct` reads it."""


def find_suspects(
    dataset: str | Path, text_encoder: str | None = None, image_encoder: str | None = None, teacher: str | None = None
) -> list[Suspect]:
    """Suspicious labels by confident learning, suspicious pairs by the teacher; all labelled splits.

    Args:
        dataset: dataset directory.
        text_encoder: frozen encoder, as in `clfa.model.encoders.load_encoder`, on whose features (with those of the images
            beside them) the posts are classified out of fold; labels are judged by the mean of these probabilities, of
            those by TF-IDF of the texts, and of those on the teacher's embeddings.
        image_encoder: the same for images.
        teacher: dual encoder; without it pairs are not looked at.
    """
    dataset = Path(dataset)
    manifest = load_manifest(dataset)
    sides = [load_split(dataset, split) for split in labelled_splits(manifest)]
    places = [(rows, number) for rows in sides for number in range(len(rows))]
    labels = np.concatenate([rows.labels for rows in sides])
    names = manifest["labels"]
    found: list[Suspect] = []

    def add(what: str, number: int, score: float, suggested: str) -> None:
        rows, place = places[number]
        row = rows[place]
        text = str(row["text"] or "")
        found.append(Suspect(row["id"], rows.splits[0], what, round(score, 4), names[labels[number]], suggested, text))

    seen: list[tuple[Callable, NDArray]] = []
    texts = np.array([text for rows in sides for text in rows.texts], dtype=object)
    if has_words(texts):
        seen.append((tfidf_probe, texts))
    encoders = {kind: name for kind, name in (("text", text_encoder), ("image", image_encoder)) if name}
    if encoders:
        features = [np.concatenate(encoder_features(dataset, sides, name, kind)) for kind, name in encoders.items()]
        seen.append((linear_probe, np.concatenate(features, axis=1)))
    if teacher:
        embeds = teacher_features(dataset, sides, teacher)
        seen.append((kernel_probe, np.concatenate(embeds, axis=1)))
    if seen and len(np.unique(labels)) > 1:
        probabilities = judge(seen, labels, _groups(sides), len(names))
        wrong, quality = label_issues(labels, probabilities)
        for number in np.flatnonzero(wrong)[np.argsort(quality[wrong], kind="stable")].tolist():
            add("label", number, float(quality[number]), names[int(probabilities[number].argmax())])
    if teacher:
        share = pair_share(*embeds)
        for number in np.argsort(share, kind="stable").tolist():
            if share[number] < MISMATCHED:  # False where one of the two is missing
                add("pair", number, float(share[number]), "")
    return found


def label_issues(
    labels: NDArray[np.int64], probabilities: Float[NDArray, "posts classes"]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Confident learning (Northcutt, Jiang, Chuang 2021), by `cleanlab`: the joint counts of given and likely classes say
    how many labels of each class are wrong, the posts with the lowest margin are those.

    Args:
        labels: (N,) class numbers.
        probabilities: out of fold.

    Returns:
        (N,) whether a label is likely wrong, and (N,) the quality of each, from 0 to 1.
    """
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes of a few posts, in which it lists none
        wrong = find_label_issues(labels, probabilities, filter_by="prune_by_noise_rate", n_jobs=1)
    return wrong, get_label_quality_scores(labels, probabilities, method="normalized_margin")


def judge(
    seen: Sequence[tuple[Callable, NDArray]], labels: NDArray[np.int64], groups: NDArray, classes: int
) -> Float[NDArray, "posts classes"]:
    """The mean of the out-of-fold probabilities of several probes, each with what it sees of the posts."""
    each = [
        out_of_fold(probe, features, labels, groups, classes)
        for probe, features in track(seen, "probes that judge labels", len(seen))
    ]
    return np.mean(each, axis=0)


def out_of_fold(
    probe: Callable, features: NDArray, labels: NDArray[np.int64], groups: NDArray, classes: int
) -> Float[NDArray, "posts classes"]:
    """Probabilities of each post by a probe (of `clfa.evidence.floors`) that has not seen it, nor a post of its group."""
    from sklearn.model_selection import StratifiedGroupKFold

    result = np.zeros((len(labels), classes))
    count = min(FOLDS, int(np.bincount(labels).max()), len(np.unique(groups)))
    if count < 2:
        return frequencies(labels, len(labels), classes)
    folds = StratifiedGroupKFold(count, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # a class of few posts is not in each fold, which is as it should be
        splits = list(folds.split(features, labels, groups))
    for train, held_out in splits:
        result[held_out] = probe(features[train], labels[train], features[held_out], classes)
    return result


def pair_share(texts: Float[NDArray, "posts dim"], images: Float[NDArray, "posts dim"]) -> Float[NDArray, " posts"]:
    """For each pair the share of others, a sample of at most `OTHERS`, whose text fits its image, or whose image fits its
    text, less well (by the cosine; the mean of the two shares). 0.5 is chance; NaN where a side is missing."""
    unit = [side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-9) for side in (texts, images)]
    whole = np.flatnonzero(~np.isnan(unit[0]).any(1) & ~np.isnan(unit[1]).any(1))
    others = np.sort(np.random.default_rng(0).permutation(whole)[:OTHERS])
    result = np.full(len(texts), np.nan)
    own = (unit[0][whole] * unit[1][whole]).sum(1)
    shares = [
        (one[whole] @ other[others].T < own[:, None]).sum(1) / max(1, len(others) - 1)
        for one, other in (unit, unit[::-1])
    ]
    result[whole] = np.minimum(1, np.mean(shares, axis=0))
    return result


def write_suspects(suspects: list[Suspect], path: Path) -> None:
    """As CSV for a spreadsheet; a text that one would take for a formula begins with a quote."""
    with replacing(path) as partial, open(partial, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Suspect)])
        writer.writeheader()
        for each in suspects:
            text = f"'{each.text}" if each.text[:1] in ("=", "+", "-", "@", "\t") else each.text
            writer.writerow(asdict(each) | {"text": text})


def _groups(sides: list[Rows]) -> NDArray:
    """(N,) numbers; posts with equal texts have the same."""
    texts = [text_form(text) for rows in sides for text in rows.texts]
    return np.unique([text or f"\0{number}" for number, text in enumerate(texts)], return_inverse=True)[1]
