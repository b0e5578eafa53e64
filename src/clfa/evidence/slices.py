"""Slices of a split that are scored on their own: posts not in the training set, and groups of posts."""

import re

import numpy as np
from numpy.typing import NDArray

from clfa.data.rows import Rows
from clfa.data.scripts import split_words
from clfa.evidence.cues import EMOJI
from clfa.evidence.languages import language_of
from clfa.evidence.leakage import image_hashes, leaked, traces

SMALLEST = 20  # posts of a group that is worth a score
THINGS = {"a hashtag": r"#\s?\w", "an emoji": EMOJI, "a link": r"https?://|www\.|<url>", "a mention": r"@\s?\w|<user>"}


def seen_in_train(rows: Rows, train: Rows) -> NDArray[np.bool_]:
    """(N,) whether a post shares its text or its image, exactly or nearly, with a training post, maybe of another data
    set."""
    posts, others = (traces(side, image_hashes(side.dataset, side.splits)) for side in (rows, train))
    return leaked(posts, others)


def groups(rows: Rows) -> dict[str, NDArray[np.bool_]]:
    """Name -> (N,) mask, for groups of at least 20 posts that are not all posts: language, length in words (thirds),
    hashtags, emoji, links, mentions, missing image."""
    texts = rows.texts
    lengths = np.array([len(split_words(text)) for text in texts])
    low, high = np.floor(np.quantile(lengths, [1 / 3, 2 / 3]))
    languages = np.array([language_of(text) for text in texts])
    masks = {f"language {name}": languages == name for name in np.unique(languages)}
    masks |= {
        f"up to {low:.0f} words": lengths <= low,
        f"{low + 1:.0f} to {high:.0f} words": (lengths > low) & (lengths <= high),
        f"over {high:.0f} words": lengths > high,
    }
    for thing, pattern in THINGS.items():
        present = np.array([re.search(pattern, text) is not None for text in texts])
        masks |= {f"with {thing}": present, f"without {thing}": ~present}
    if rows.has("image"):
        missing = rows.keys("image", "image") == b""
        masks |= {"with an image": ~missing, "without an image": missing}
    return {name: mask for name, mask in masks.items() if SMALLEST <= mask.sum() < len(texts)}
