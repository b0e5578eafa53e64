"""Parts of a split that are scored on their own: posts that train does not hold, and groups of posts."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clfa.evidence.cues import EMOJI
from clfa.evidence.language import language_of
from clfa.evidence.leakage import image_hashes, leaked, traces
from clfa.model.batch import column_values

SMALLEST = 20  # posts of a group that is worth a score
THINGS = {"a hashtag": r"#\s?\w", "an emoji": EMOJI, "a link": r"https?://|www\.|<url>", "a mention": r"@\s?\w|<user>"}


def seen_in_train(
    dataset: Path, rows: Any, train_dataset: Path, train: Any, splits: Iterable[str], train_splits: Iterable[str]
) -> NDArray[np.bool_]:
    """(N,) whether a post shares its text or its image, exactly or nearly, with a training post.

    Args:
        dataset: dataset directory of `rows`.
        rows: the posts asked about.
        train_dataset: dataset directory of `train`.
        train: the posts that the run was trained on.
        splits: files of `dataset` that hold `rows`.
        train_splits: files of `train_dataset` that hold `train`.
    """
    hashes = image_hashes(dataset, splits) | image_hashes(train_dataset, train_splits)
    return leaked(traces(rows, hashes), traces(train, hashes))


def groups(rows: Any) -> dict[str, NDArray[np.bool_]]:
    """Name -> (N,) mask, for groups of at least 20 posts that are not all posts: language, length in words (thirds),
    hashtags, emoji, links, mentions, missing image."""
    texts = [text or "" for text in rows["text"]]
    lengths = np.array([len(text.split()) for text in texts])
    low, high = np.floor(np.quantile(lengths, [1 / 3, 2 / 3]))
    languages = np.array([language_of(text) for text in texts])
    found = {f"language {name}": languages == name for name in np.unique(languages)}
    found |= {
        f"up to {low:.0f} words": lengths <= low,
        f"{low + 1:.0f} to {high:.0f} words": (lengths > low) & (lengths <= high),
        f"over {high:.0f} words": lengths > high,
    }
    for thing, pattern in THINGS.items():
        present = np.array([re.search(pattern, text) is not None for text in texts])
        found |= {f"with {thing}": present, f"without {thing}": ~present}
    pictures = column_values(rows, "image")
    if pictures:
        missing = np.array([value is None for value in pictures])
        found |= {"with an image": ~missing, "without an image": missing}
    return {name: mask for name, mask in found.items() if SMALLEST <= mask.sum() < len(texts)}
