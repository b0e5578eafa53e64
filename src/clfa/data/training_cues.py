"""Cues that a run carries: words, and pairs of words, whose training posts have one class more often than others have.

Counting them is `clfa.evidence.training_cues`. Here is what a service needs: the words of a post, by the function that
counted them, and the file.
"""

import json
import string
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

from clfa.data.scripts import split_words

CUES = "cues.json"
LAYOUT = 1
MOST, LEAST = 1_000, 20
"""Cues of a run, at most; posts with different texts that each is in, so that none discloses a single post: at least."""
LONGEST = 40
"""Letters of a word."""
SIZE = 5_000_000
"""Bytes of a file that is read, at most."""
EDGES = string.punctuation.translate(str.maketrans("", "", "#@<>&$%_")) + "…“”„‘’«»"
"""Taken off both ends of a word."""


@dataclass(frozen=True)
class TrainingCue:
    """A word, or two that stand beside each other."""

    cue: str
    label: int
    """The class that it hints at."""
    posts: list[int]
    """Class -> number of the training posts with it."""


@dataclass(frozen=True)
class TrainingCues:
    """Of the posts that a run was trained on; the surest cue first."""

    class_names: list[str]
    posts: list[int]
    """Class -> number of training posts."""
    cues: list[TrainingCue]

    def described(self) -> dict[str, Any]:
        """As `cues.json` holds them."""
        cues = [{"cue": one.cue, "label": self.class_names[one.label], "posts": one.posts} for one in self.cues]
        return {"layout": LAYOUT, "class_names": self.class_names, "posts": self.posts, "cues": cues}

    def of_text(self, text: str) -> list[TrainingCue]:
        """Those that are in a text, cleaned as those of training; the furthest above its class's share first."""
        terms, everyone = set(terms_of(text)), max(1, sum(self.posts))

        def above(one: TrainingCue) -> float:
            return one.posts[one.label] / sum(one.posts) - self.posts[one.label] / everyone

        return sorted((one for one in self.cues if one.cue in terms), key=above, reverse=True)


def terms_of(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation at their ends, then each two that stand beside each other; each
    once.

    Where a script has no spaces, words are pairs of letters (`clfa.data.scripts.split_words`). Left out are links, names
    behind an @, and words of more than 40 letters: they say who or where, and no pair reaches over them.
    """
    tokens = [[_bare(word) for word in split_words(token, pairs=True)] for token in text.lower().split()]
    alone = [words[0] if len(words) == 1 else "" for words in tokens]
    pairs = [f"{first} {second}" for first, second in pairwise(alone) if first and second]
    return list(dict.fromkeys([*filter(None, chain.from_iterable(tokens)), *pairs]))


def load_cues(folder: Path, class_names: Sequence[str]) -> TrainingCues | None:
    """The cues of a run or of an export; `None` where it has none.

    Raises:
        ValueError: the file is too large, or not what `TrainingCues.described` gives for these classes.
    """
    path = folder / CUES
    if not path.is_file():
        return None
    if path.stat().st_size > SIZE:
        raise ValueError(f"it has more than {SIZE:,} bytes")
    try:
        return _checked(json.loads(path.read_text(encoding="utf-8")), list(class_names))
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _bare(word: str) -> str:
    """A word without punctuation around it; empty where it is left out."""
    bare = word.strip(EDGES)
    address = bare.startswith(("http:", "https:", "www.")) or (bare.startswith("@") and len(bare) > 1)
    return "" if address or len(bare) > LONGEST else bare


def _checked(values: Any, class_names: list[str]) -> TrainingCues:
    """Raises KeyError, TypeError or ValueError where they are no cues of these classes."""
    if values["layout"] != LAYOUT or values["class_names"] != class_names or len(values["cues"]) > MOST:
        raise ValueError("it is of another version, has other classes or too many cues")
    totals = _counts(values["posts"], len(class_names))
    cues = []
    for one in values["cues"]:
        counts = _counts(one["posts"], len(class_names))
        if not isinstance(one["cue"], str) or not 1 <= len(one["cue"]) <= 2 * LONGEST + 1:
            raise ValueError("a cue is one word or two")
        if sum(counts) < LEAST or any(own > total for own, total in zip(counts, totals)):
            raise ValueError(f"a cue is in at least {LEAST} posts, and in no more than there are")
        cues.append(TrainingCue(one["cue"], class_names.index(one["label"]), counts))
    return TrainingCues(class_names, totals, cues)


def _counts(values: Any, classes: int) -> list[int]:
    if not isinstance(values, list) or len(values) != classes or any(type(one) is not int or one < 0 for one in values):
        raise ValueError(f"counts are {classes} numbers, a class each")
    return values
