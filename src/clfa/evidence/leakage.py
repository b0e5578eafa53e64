"""Posts that a split shares with another: ids, texts, near texts, images. No pair-by-pair search, only indices."""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clfa.data.cache import Cache
from clfa.data.images import open_image
from clfa.data.rows import Rows, fill_split

NEAR = 0.8  # Jaccard similarity of the token sets
NEAR_TOKENS = 5  # shorter texts are near to too many others
HASH_BITS = 4  # of 64
COLUMNS = {
    "id": "ids",
    "exact_text": "texts",
    "normalised_text": "normal",
    "near_text": "normal",
    "image_bytes": "image_keys",
    "image_hash": "image_hashes",
}
"""Kind of a match -> the attribute of `Traces` that it compares."""
_LINK = re.compile(r"https?:\S*", re.IGNORECASE)
_STRIP = re.compile(r"[^\w\s]")


@dataclass(frozen=True)
class Traces:
    """What is compared of the posts of one split; `None` and empty texts never match."""

    ids: list[str]
    texts: list[str | None]
    """As they are."""
    normal: list[str | None]
    """Texts in `normal_form`."""
    image_keys: list[bytes | None]
    """16 bytes that name an image by its bytes."""
    image_hashes: list[int | None]
    """64-bit perceptual hash."""
    labels: NDArray
    """Class numbers."""


def normal_form(text: str) -> str:
    """NFKC, lower case, without links (shortened ones differ between copies of a post), punctuation and symbols
    (`[^\\w\\s]`), white space collapsed."""
    return " ".join(_STRIP.sub("", _LINK.sub("", unicodedata.normalize("NFKC", text).lower())).split())


def traces(rows: Rows, hashes: Cache | None = None) -> Traces:
    """Traces of rows of a dataset directory; without hashes (`image_hashes`) images are compared by bytes alone."""
    texts = rows.texts
    keys = rows.keys("image", "image") if "image" in rows.column_names else np.zeros(len(rows), dtype="S16")
    entries = np.full(len(rows), -1) if hashes is None else hashes.find(keys)
    return Traces(
        ids=list(rows["id"]),
        texts=[text if text.strip() else None for text in texts],
        normal=[normal_form(text) or None for text in texts],
        image_keys=[key or None for key in keys.tolist()],
        image_hashes=[None if hashes is None or entry < 0 else _hash_at(hashes, int(entry)) for entry in entries],
        labels=rows.labels,
    )


def image_hashes(dataset: Path, splits: Iterable[str]) -> Cache:
    """Perceptual hashes (pHash of the ImageHash library) of all images of these splits, by content.

    They are computed once and kept in `DATASET/hashes`: 8 bytes an image, each as a number.
    """
    import torch
    from imagehash import phash

    def compute(batch: list) -> list[torch.Tensor]:
        bits = [np.packbits(phash(open_image(data)).hash) for data in batch]
        return [torch.from_numpy(eight_bytes).float()[None] for eight_bytes in bits]

    for split in splits:
        fill_split(dataset / "hashes", dataset, split, "image", "image", compute, f"hashing images of {split}")
    return Cache(dataset / "hashes")


def matches(kind: str, posts: Traces, others: Traces | None = None) -> NDArray[np.int64]:
    """For each post the number of the first post of `others` that it repeats, or -1.

    Args:
        kind: `id`; `exact_text`; `normalised_text`, equal `normal_form`; `near_text`, at least 5 different tokens in the
            normal form of the post and a Jaccard similarity of both token sets of at least 0.8; `image_bytes`;
            `image_hash`, perceptual hashes at most 4 of 64 bits apart.
        posts: the posts asked about.
        others: where to look; by default among the posts before each one in `posts` itself.

    Returns:
        (N,) row numbers of `others` (of `posts` without `others`).
    """
    ours = getattr(posts, COLUMNS[kind])
    theirs = None if others is None else getattr(others, COLUMNS[kind])
    if kind == "near_text":
        return _search(ours, theirs, _rare_tokens([*ours, *(theirs or ())]), _near_texts)
    if kind == "image_hash":
        return _search(ours, theirs, _bands, _near_hashes)
    return _search(ours, theirs, lambda value: [value], lambda one, two: True)


def leaked(posts: Traces, others: Traces) -> NDArray[np.bool_]:
    """(N,) whether a post repeats one of `others` in any way but its id."""
    return np.logical_or.reduce([matches(kind, posts, others) >= 0 for kind in COLUMNS if kind != "id"])


def conflicts(posts: Traces) -> dict[str, list[list[str]]]:
    """Texts (normal form) and images (bytes) that occur with two labels: the ids of the posts of each."""
    result = {}
    for kind, values in (("normalised_text", posts.normal), ("image_bytes", posts.image_keys)):
        groups: dict[Any, list[int]] = {}
        for number, value in enumerate(values):
            if value is not None:
                groups.setdefault(value, []).append(number)
        several = [numbers for numbers in groups.values() if len(np.unique(posts.labels[numbers])) > 1]
        result[kind] = [[posts.ids[number] for number in numbers] for numbers in several]
    return result


def _hash_at(hashes: Cache, entry: int) -> int:
    return int.from_bytes(bytes(hashes.read(entry)[0].byte().tolist()), "big")


def _search(
    posts: list[Any],
    others: list[Any] | None,
    keys: Callable[[Any], Iterable[Any]],
    near: Callable[[Any, Any], bool],
) -> NDArray[np.int64]:
    """For each value the first of `others` (by default of the values before it) that is near, or -1.

    Compared are only values that share a key: an index of keys finds them. Equal values are looked up once, by the first of
    them, and `None` is near to nothing.
    """
    known = posts if others is None else others
    index: dict[Any, list[int]] = {}

    def add(number: int) -> None:
        for key in keys(known[number]):
            index.setdefault(key, []).append(number)

    if others is not None:
        seen: set[Any] = {None}
        for number, value in enumerate(others):
            if value not in seen:
                seen.add(value)
                add(number)
    result = np.full(len(posts), -1)
    answers: dict[Any, int] = {None: -1}
    for number, value in enumerate(posts):
        if value in answers:
            result[number] = answers[value]
            continue
        candidates = sorted({candidate for key in keys(value) for candidate in index.get(key, ())})
        result[number] = next((candidate for candidate in candidates if near(value, known[candidate])), -1)
        answers[value] = int(result[number])
        if others is None:
            add(number)
            if result[number] < 0 and near(value, value):  # the first of its equals, which the others repeat
                answers[value] = number
    return result


def _rare_tokens(texts: list[str | None]) -> Callable[[str], list[str]]:
    """Text -> tokens of which near texts share one (prefix filter; Bayardo, Ma and Srikant 2007).

    If |x ∩ y| / |x ∪ y| ≥ t, then x and y share one of the |x| - ceil(t |x|) + 1 rarest tokens of x and likewise of y.
    """
    counts = Counter(token for text in texts if text for token in set(text.split()))

    def rarest(text: str) -> list[str]:
        tokens = sorted(_tokens(text), key=lambda token: (counts[token], token))
        return tokens[: len(tokens) - math.ceil(NEAR * len(tokens) - 1e-9) + 1]

    return rarest


def _near_texts(one: str, two: str) -> bool:
    own, theirs = _tokens(one), _tokens(two)
    shared = len(own & theirs)
    return len(own) >= NEAR_TOKENS and shared >= NEAR * (len(own) + len(theirs) - shared) - 1e-9


@lru_cache(maxsize=1_000)  # a text is compared with several others; the bound is for memory
def _tokens(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _bands(value: int) -> list[tuple[int, int]]:
    """Of 5 bands of two hashes that differ in at most 4 bits, one is equal."""
    return [(band, value >> (13 * band) & 0x1FFF) for band in range(HASH_BITS + 1)]


def _near_hashes(one: int, two: int) -> bool:
    return (one ^ two).bit_count() <= HASH_BITS
