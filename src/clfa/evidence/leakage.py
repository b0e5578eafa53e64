"""Posts that a split shares with another: ids, texts, near texts, images. No pair-by-pair search, only indices."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
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
KINDS = ("id", "exact_text", "normalised_text", "near_text", "image_bytes", "image_hash")
_LINK = re.compile(r"https?:\S*", re.IGNORECASE)
_STRIP = re.compile(r"[^\w\s]")


@dataclass(frozen=True)
class Traces:
    """What is compared of the posts of one split; `None` and empty texts never match."""

    ids: list[str]
    """Ids."""
    texts: list[str | None]
    """Texts as they are."""
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
    """Traces of rows of a dataset directory.

    Args:
        rows: the posts.
        hashes: perceptual hashes of their images, see `image_hashes`; without them images are compared by bytes alone.
    """
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
        return [torch.from_numpy(found).float()[None] for found in bits]

    for split in splits:
        fill_split(dataset / "hashes", dataset, split, "image", "image", compute, f"hashing images of {split}")
    return Cache(dataset / "hashes")


def matches(kind: str, posts: Traces, others: Traces | None = None) -> NDArray[np.int64]:
    """For each post the number of a post of `others` that it repeats, or -1.

    Args:
        kind: `id`; `exact_text`; `normalised_text`, equal `normal_form`; `near_text`, at least 5 different tokens in the
            normal form of the post and a Jaccard similarity of both token sets of at least 0.8; `image_bytes`;
            `image_hash`, perceptual hashes at most 4 of 64 bits apart.
        posts: the posts asked about.
        others: where to look; by default among the posts before each one in `posts` itself.

    Returns:
        (N,) row numbers of `others` (of `posts` without `others`).
    """
    return _SEARCH[kind](posts, others)


def leaked(posts: Traces, others: Traces) -> NDArray[np.bool_]:
    """(N,) whether a post repeats one of `others` in any way but its id."""
    found = [matches(kind, posts, others) >= 0 for kind in KINDS if kind != "id"]
    return np.logical_or.reduce(found)


def conflicts(posts: Traces) -> dict[str, list[list[str]]]:
    """Texts (normal form) and images (bytes) that occur with two labels: the ids of the posts of each."""
    result = {}
    for kind, values in (("normalised_text", posts.normal), ("image_bytes", posts.image_keys)):
        labels: dict[Any, set[int]] = {}
        ids: dict[Any, list[str]] = {}
        for value, label, id in zip(values, posts.labels.tolist(), posts.ids):
            if value is not None:
                labels.setdefault(value, set()).add(label)
                ids.setdefault(value, []).append(id)
        result[kind] = [ids[value] for value, found in labels.items() if len(found) > 1]
    return result


def _hash_at(hashes: Cache, entry: int) -> int:
    return int.from_bytes(bytes(hashes.read(entry)[0].byte().tolist()), "big")


def _equal(column: str) -> Callable[[Traces, Traces | None], NDArray[np.int64]]:
    def search(posts: Traces, others: Traces | None) -> NDArray[np.int64]:
        first: dict[Any, int] = {}
        if others is not None:
            for number, value in enumerate(getattr(others, column)):
                first.setdefault(value, number)
        result = np.full(len(posts.ids), -1)
        for number, value in enumerate(getattr(posts, column)):
            if value is not None:
                result[number] = first.get(value, -1)
                if others is None:
                    first.setdefault(value, number)
        return result

    return search


def _near_texts(posts: Traces, others: Traces | None) -> NDArray[np.int64]:
    """Exact search with an index of rare tokens (prefix filter; Bayardo, Ma and Srikant 2007).

    If |x ∩ y| / |x ∪ y| ≥ t, then x and y share one of the |x| - ceil(t |x|) + 1 rarest tokens of x and likewise of y.
    Equal texts are looked up once, by the first post that has them.
    """
    sets = _TokenSets([side.normal for side in ([posts] if others is None else [posts, others])])
    index: dict[int, list[int]] = {}
    if others is not None:
        for number in sets.distinct(1):
            for token in sets.rarest(1, number):
                index.setdefault(token, []).append(number)
    result = np.full(len(posts.ids), -1)
    for number, text in enumerate(posts.normal):
        same = sets.numbers[0][text or ""]
        if same < number:  # an equal text before has the same answer, or is the answer
            itself = others is None and result[same] < 0 and sets.size(0, same) >= NEAR_TOKENS
            result[number] = same if itself else result[same]
            continue
        rarest = sets.rarest(0, number)
        if sets.size(0, number) >= NEAR_TOKENS:
            candidates = {candidate for token in rarest for candidate in index.get(token, ())}
            result[number] = sets.nearest(number, sorted(candidates))
        if others is None:
            for token in rarest:
                index.setdefault(token, []).append(number)
    return result


class _TokenSets:
    """The sets of tokens of the texts of one or two sides, as sorted numbers, rare tokens first: 4 bytes a token."""

    def __init__(self, sides: list[list[str | None]]):
        self.numbers: list[dict[str, int]] = [{} for _ in sides]
        """Side -> text -> the first post that has it."""
        counts: Counter[str] = Counter()
        for texts, numbers in zip(sides, self.numbers):
            for number, text in enumerate(texts):
                numbers.setdefault(text or "", number)
                counts.update(set((text or "").split()))
        rank = {token: place for place, token in enumerate(sorted(counts, key=lambda token: (counts[token], token)))}
        self.tokens = [
            {
                n: np.array(sorted({rank[token] for token in text.split()}), dtype=np.int32)
                for text, n in numbers.items()
            }
            for numbers in self.numbers
        ]

    def distinct(self, side: int) -> Iterable[int]:
        """The first posts of all different texts."""
        return self.numbers[side].values()

    def size(self, side: int, number: int) -> int:
        """How many different tokens a text has."""
        return len(self.tokens[side][number])

    def rarest(self, side: int, number: int) -> list[int]:
        """The tokens of which near texts share one."""
        tokens = self.tokens[side][number]
        return tokens[: len(tokens) - int(np.ceil(NEAR * len(tokens) - 1e-9)) + 1].tolist() if len(tokens) else []

    def nearest(self, number: int, candidates: list[int]) -> int:
        """The first of the candidates, posts of the last side, that is near to a post of the first; -1 for none."""
        own = set(self.tokens[0][number].tolist())
        for other in candidates:
            theirs = self.tokens[-1][other].tolist()
            shared = len(own.intersection(theirs))
            if shared >= NEAR * (len(own) + len(theirs) - shared) - 1e-9:
                return other
        return -1


def _near_images(posts: Traces, others: Traces | None) -> NDArray[np.int64]:
    """Of 5 bands of two hashes that differ in at most 4 bits, one is equal: an index of bands finds all of them."""

    def bands(value: int) -> list[tuple[int, int]]:
        return [(band, value >> (13 * band) & 0x1FFF) for band in range(HASH_BITS + 1)]

    index: dict[tuple[int, int], list[int]] = {}
    known = posts.image_hashes if others is None else others.image_hashes
    if others is not None:
        for number, value in enumerate(known):
            if value is not None:
                for band in bands(value):
                    index.setdefault(band, []).append(number)
    result = np.full(len(posts.ids), -1)
    for number, value in enumerate(posts.image_hashes):
        if value is None:
            continue
        for other in sorted({candidate for band in bands(value) for candidate in index.get(band, ())}):
            if (value ^ known[other]).bit_count() <= HASH_BITS:  # type: ignore[operator]  # indexed ones are not None
                result[number] = other
                break
        if others is None:
            for band in bands(value):
                index.setdefault(band, []).append(number)
    return result


_SEARCH: dict[str, Callable[[Traces, Traces | None], NDArray[np.int64]]] = {
    "id": _equal("ids"),
    "exact_text": _equal("texts"),
    "normalised_text": _equal("normal"),
    "near_text": _near_texts,
    "image_bytes": _equal("image_keys"),
    "image_hash": _near_images,
}
