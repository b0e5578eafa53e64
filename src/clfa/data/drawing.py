"""How a source without splits is split when it is imported: rare classes, repeated posts, 8:1:1 within each class."""

import hashlib
import logging
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clfa.data.images import MAX_IMAGE_BYTES
from clfa.data.records import SPLITS, normalise_text
from clfa.errors import UserError

log = logging.getLogger(__name__)
MIN_POSTS = 10
"""Posts of a class that is split 8:1:1; a class with fewer is rare."""
OTHER = "other"
NAMED = 10  # classes that a message names


def replace_rare(counts: Mapping[str, int], rare: str) -> tuple[dict[str, str | None], list[str]]:
    """The class that each class becomes (`None`: its posts are dropped), and sentences that say what was done.

    Args:
        counts: class name -> number of posts.
        rare: `other` makes one class of all with fewer than `MIN_POSTS` posts, together with a class of that name if
            there is one; `drop` drops them; `train` keeps every class as it is.
    """
    few = {name: count for name, count in counts.items() if count < MIN_POSTS and (rare, name) != ("other", OTHER)}
    if rare == "train" or not few:
        return {name: name for name in counts}, []
    to, where = (OTHER, f"in the class {OTHER!r}") if rare == "other" else (None, "dropped")
    return {name: to if name in few else name for name in counts}, [_sentence(few, where)]


def describe_unsplit(labels: NDArray, in_train: NDArray[np.bool_], class_names: Sequence[str]) -> list[str]:
    """Sentences about the classes that are in train only.

    Args:
        labels: (N,) class numbers.
        in_train: (N,).
        class_names: names of the C classes.
    """
    counts = np.bincount(labels, minlength=len(class_names)).tolist()
    split = np.bincount(labels[~in_train], minlength=len(class_names))
    alone = {name: count for name, count, held in zip(class_names, counts, split) if count and not held}
    few = {name: count for name, count in alone.items() if count < MIN_POSTS}
    repeated = {name: count for name, count in alone.items() if name not in few}
    sentences = [_sentence(few, "in train only")] if few else []
    if repeated:
        sentences.append(_sentence(repeated, "in train only", "whose posts repeat others or have a split"))
    return sentences


def draw_missing(
    given: NDArray[np.int8], labels: NDArray, groups: NDArray, class_names: Sequence[str], seed: int
) -> tuple[NDArray[np.int8], list[str]]:
    """Splits for the posts that have none, and sentences about the classes that are in train only.

    A post that repeats one whose split is given follows it, the first of them if there are several.

    Args:
        given: (N,) places in `SPLITS`, -1 where the split is to be drawn.
        labels: (N,) class numbers.
        groups: (N,) see `group_repeats`.
        class_names: names of the classes.
        seed: of the shuffle.

    Raises:
        UserError: nothing was given, and a split would hold fewer than two classes.
    """
    drawn = _split_numbers(labels, "stratified", seed, groups)
    there = np.flatnonzero(given >= 0)[::-1]  # the first one is written last
    drawn[groups[there]] = given[there]
    result = np.where(given < 0, drawn[groups], given)
    for number, split in enumerate(SPLITS):
        held = [class_names[label] for label in np.unique(labels[result == number])]
        if len(held) < 2 and not len(there):
            raise UserError(
                f"the split {split} would hold {', '.join(held) or 'no class'}, at least two classes are needed; only "
                f"classes of {MIN_POSTS} posts that do not all share a text or an image are split: add posts, or a "
                "split column"
            )
    return result, describe_unsplit(labels, result == SPLITS.index("train"), class_names)


def split_rows(labels: Sequence | NDArray, how: str, seed: int, groups: NDArray | None = None) -> list[str]:
    """A split name per row, 8:1:1 within each class: `stratified` shuffles with `seed`, `file-order` does not.

    A class with fewer than `MIN_POSTS` rows is in train only. Rows of one group are in one split: the different posts of
    a class are drawn 8:1:1, each with its repeats. Posts whose repeats are more than a tenth of their class are the last
    to leave train, and a class of fewer than three different posts stays there. A group with several labels counts for
    the class of its first row.

    Args:
        labels: (N,) class names or numbers, drawn in their sorted order.
        how: `stratified` or `file-order`.
        seed: of the shuffle.
        groups: (N,) for each row the number of the first row that it repeats, its own where it repeats none, as
            `group_repeats` gives them; by default no row repeats another.
    """
    return np.array(SPLITS, dtype=object)[_split_numbers(labels, how, seed, groups)].tolist()


def _split_numbers(labels: Sequence | NDArray, how: str, seed: int, groups: NDArray | None) -> NDArray[np.int8]:
    """(N,) places in `SPLITS`."""
    labels = np.asarray(labels)
    groups = np.arange(len(labels)) if groups is None else groups
    values, counts = np.unique(labels, return_counts=True)
    split = counts >= MIN_POSTS
    rare = np.isin(labels, values[~split])
    sizes = np.bincount(groups, minlength=len(labels))  # of the group of each first row, 0 elsewhere
    drawn = (sizes > 0) & ~np.isin(np.arange(len(labels)), groups[rare])
    generator = np.random.default_rng(seed)
    train, validation, test = (SPLITS.index(name) for name in ("train", "validation", "test"))
    result = np.full(len(labels), train, dtype=np.int8)
    for value, count in zip(values[split], counts[split]):
        posts = np.flatnonzero(drawn & (labels == value))
        if how == "stratified":
            posts = generator.permutation(posts)
        large = sizes[posts] > max(1, count / 10)
        posts = posts[np.argsort(np.where(large, -sizes[posts], 0), kind="stable")]
        tenth = max(1, round(len(posts) / 10))
        if len(posts) >= 3:
            result[posts[-2 * tenth : -tenth]] = validation
            result[posts[-tenth:]] = test
    return result[groups]


def group_repeats(posts: Iterable[tuple[str, Path | bytes | None]]) -> NDArray[np.int64]:
    """(text, image) of N posts -> (N,) for each post the number of the first post that it repeats, or its own.

    Posts repeat each other if their texts are equal (see `text_form`), if the bytes of their images are, or if both
    repeat a third one. Empty texts, absent images and files that cannot be read repeat nothing. Not caught: texts that
    differ in punctuation or links, images that were scaled or compressed again, further columns. Memory: 16 bytes a
    post while they are read, some 100 for each that repeats one while they are compared; image files are read once.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    flat = array("Q")
    for text, image in posts:
        flat.extend((_hash(text_form(text).encode("utf-8", "surrogatepass")), _hash(_image_bytes(image))))
    keys = np.frombuffer(flat, dtype=np.uint64).reshape(-1, 2)
    pairs = [np.empty((2, 0), dtype=np.int64)]
    for column in keys.T:
        order = np.argsort(column, kind="stable")
        equal = (column[order][1:] == column[order][:-1]) & (column[order][1:] != 0)
        pairs.append(np.stack([order[:-1][equal], order[1:][equal]]))
    firsts = np.arange(len(keys))
    linked, ends = np.unique(np.concatenate(pairs, axis=1), return_inverse=True)
    if len(linked):
        ones, others = ends.reshape(2, -1)
        graph = coo_matrix((np.ones(len(ones), dtype=bool), (ones, others)), shape=(len(linked), len(linked)))
        parts = connected_components(graph, directed=False)[1]
        _, first, numbers = np.unique(parts, return_index=True, return_inverse=True)
        firsts[linked] = linked[first[numbers]]
        log.info("%s posts share their text or image with others; those that do are in one split", f"{len(linked):,}")
    return firsts


def text_form(text: str) -> str:
    """The form in which texts are compared when posts are split: NFC, white space collapsed, lower case."""
    return normalise_text(text).lower()


def _sentence(classes: Mapping[str, int], where: str, which: str = f"with fewer than {MIN_POSTS} posts") -> str:
    """`2 classes with fewer than 10 posts: their 4 posts are in train only: a (3), b (1)`."""
    posts = sum(classes.values())
    ordered = sorted(classes.items(), key=lambda entry: (-entry[1], entry[0]))
    named = ", ".join(f"{name} ({count})" for name, count in ordered[:NAMED])
    more = f" and {len(classes) - NAMED} more" if len(classes) > NAMED else ""
    what, whose = ("1 class", "its") if len(classes) == 1 else (f"{len(classes)} classes", "their")
    return f"{what} {which}: {whose} {posts} {'post is' if posts == 1 else 'posts are'} {where}: {named}{more}"


def _hash(content: bytes) -> int:
    """64 bits that name a content; 0 for none."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest()) if content else 0


def _image_bytes(image: Path | bytes | None) -> bytes:
    """Empty where there is none that could be imported."""
    if isinstance(image, Path):
        return image.read_bytes() if image.is_file() and image.stat().st_size <= MAX_IMAGE_BYTES else b""
    return image or b""
