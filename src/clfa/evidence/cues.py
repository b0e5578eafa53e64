"""Cues: a word or a formatting feature that gives the label away, found by counting.

z = (P(label | cue) - P(label)) / sqrt(P(label) (1 - P(label)) / n), n posts with the cue (Gardner et al. 2021, section 3).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clfa.evidence.results import CueCounts

MIN_COUNT = 5
LEVEL = 0.05

EMOJI = r"emoji_\d+|[\U0001F000-\U0001FAFF\u2600-\u27BF]\uFE0F?"


def _holds(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern)
    return lambda text: compiled.search(text) is not None


FORMAT_CUES: dict[str, Callable[[str], bool]] = {
    "irregular_whitespace": lambda text: text != " ".join(text.split()),
    "empty_text": lambda text: not text.strip(),
    "has_uppercase": lambda text: text != text.lower(),
    "has_shouted_word": _holds(r"\b[A-Z]{3,}\b"),
    "has_emoji": _holds(EMOJI),
    "has_link": _holds(r"https?://|www\.|<url>"),
    "has_mention": _holds(r"@\s?\w|<user>"),
    "repeats_punctuation": _holds(r"([!?])\s?\1"),
    "repeats_letter": _holds(r"([^\W\d_])\1\1"),
    "is_retweet": _holds(r"^rt\b|^RT\b"),
    "starts_with_quote": _holds(r"^[\"“'‘]"),
    "ends_with_hashtag": _holds(r"#\s?\w+\s*$"),
}


@dataclass(frozen=True)
class CueRule:
    """A feature of texts and the label that it predicts on train."""

    cue: str
    """A token (lower case), or the name of a format feature."""
    kind: str
    """`token` or `format`."""
    label: int
    """The class it speaks for."""
    z: float
    """See the module."""
    p: float
    """Exact one-sided binomial p, times the number of tests (Bonferroni), at most 1."""
    otherwise: int
    """The most frequent class of the train posts without the cue."""

    def present(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """(N,) whether each text has it."""
        if self.kind == "format":
            return np.array([FORMAT_CUES[self.cue](text) for text in texts], dtype=bool)
        return np.array([self.cue in text.lower().split() for text in texts], dtype=bool)

    def counts(self, texts: Sequence[str], labels: NDArray) -> CueCounts:
        """How the rule “cue: its label, no cue: `otherwise`” does on N texts with (N,) labels."""
        present = self.present(texts)
        return CueCounts(
            with_label=int((present & (labels == self.label)).sum()),
            count=int(present.sum()),
            label_count=int((labels == self.label).sum()),
            accuracy=float((np.where(present, self.label, self.otherwise) == labels).mean()),
        )


def find_cues(texts: Sequence[str], labels: NDArray, classes: int) -> list[CueRule]:
    """N train texts as stored, (N,) labels -> all cues that are significant after Bonferroni's correction, largest z first.

    Tested is each lower-cased white-space token and each of `FORMAT_CUES` in at least 5 posts, for each class; a feature
    that occurs in the same posts as an earlier one is left out. Significance is by the exact binomial test: z is no
    guide where a class is rare.
    """
    from scipy.stats import binom

    names, kinds, present = _features(texts)
    counts = np.asarray(present.sum(axis=0)).ravel()
    by_class = np.stack([np.asarray(present[labels == k].sum(axis=0)).ravel() for k in range(classes)], axis=1)
    totals = np.bincount(labels, minlength=classes)
    share = totals / len(labels)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (by_class / counts[:, None] - share) / np.sqrt(share * (1 - share) / counts[:, None])
    p = np.minimum(1, binom.sf(by_class - 1, counts[:, None], share) * z.size)
    rows, classes_of = np.nonzero((p < LEVEL) & (z > 0))
    rules, seen = [], set()
    for place in np.argsort(-z[rows, classes_of], kind="stable"):
        row, label = rows[place], classes_of[place]
        posts = (label, present.indices[present.indptr[row] : present.indptr[row + 1]].tobytes())
        if posts in seen:  # the same posts under another name
            continue
        seen.add(posts)
        otherwise = int((totals - by_class[row]).argmax())
        rules.append(CueRule(names[row], kinds[row], int(label), float(z[row, label]), float(p[row, label]), otherwise))
    return rules


def count_format(texts: Sequence[str]) -> NDArray[np.float64]:
    """(N, features) counts of characters and shapes, no words: what the format-only floor reads."""
    return np.array([_format_counts(text) for text in texts], dtype=float)


def neutralise(texts: Sequence[str]) -> list[str]:
    """Texts with every change of `REMOVALS` made, one after the other."""
    result = list(texts)
    for change in REMOVALS.values():
        result = [change(text) for text in result]
    return result


def _remover(pattern: str) -> Callable[[str], str]:
    """Takes matches out and closes the gap they leave; white space elsewhere stays as it is."""
    compiled = re.compile(rf"(?:\s*(?:{pattern}))+\s*")
    return lambda text: compiled.sub(lambda gap: "" if gap.start() == 0 or gap.end() == len(text) else " ", text)


def _replacer(pattern: str, by: str) -> Callable[[str], str]:
    compiled = re.compile(pattern)
    return lambda text: compiled.sub(by, text)


REMOVALS: dict[str, Callable[[str], str]] = {
    "white space": lambda text: " ".join(text.split()),
    "<num> to digits": _replacer(r"<num>", "2"),
    "hashtags": _remover(r"#\s?\w+"),
    "emoji": _remover(EMOJI),
    "ellipsis": _remover(r"\.(?:\s?\.)+|…"),
}
FLIPS: dict[str, Callable[[str], str]] = REMOVALS | {"digits to <num>": _replacer(r"\b\d+\b", "<num>")}


def _features(texts: Sequence[str]) -> tuple[list[str], list[str], Any]:
    """Names, kinds and a sparse (N, features) presence matrix of format features and tokens in MIN_COUNT posts."""
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import CountVectorizer

    form = csr_matrix(np.array([[holds(text) for holds in FORMAT_CUES.values()] for text in texts], dtype=np.int64))
    vectorizer = CountVectorizer(binary=True, token_pattern=r"\S+", dtype=np.int64)
    try:
        tokens = vectorizer.fit_transform(texts)
        names = [*FORMAT_CUES, *vectorizer.get_feature_names_out()]
    except ValueError:  # no words at all
        tokens, names = csr_matrix((len(texts), 0), dtype=np.int64), [*FORMAT_CUES]
    present = hstack([form, tokens]).tocsr()
    kinds = ["format"] * len(FORMAT_CUES) + ["token"] * tokens.shape[1]
    counts = np.asarray(present.sum(axis=0)).ravel()
    # a feature that every post has, or none, says nothing
    kept = np.flatnonzero((counts >= MIN_COUNT) & (counts < len(texts)))
    return [names[n] for n in kept], [kinds[n] for n in kept], present[:, kept].tocsc()


def _format_counts(text: str) -> list[float]:
    words = text.split()
    lengths = [len(word) for word in words] or [0]
    return [
        len(text),
        len(words),
        len(text) / max(1, len(words)),
        max(lengths),
        min(lengths),
        *(text.count(mark) for mark in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"),
        sum(character.isupper() for character in text),
        sum(character.isdigit() for character in text),
        len(re.findall(EMOJI, text)),
        text.count("<user>"),
        text.count("<num>"),
        text.count("..."),
        sum(ord(character) > 127 for character in text),
        _character_class(text[-1:]),
        _character_class(text[:1]),
    ]


def _character_class(character: str) -> int:
    """Letters are one class and digits another, each other character is its own: form, not words."""
    if not character:
        return -1
    return 0 if character.isalpha() else 1 if character.isdigit() else ord(character)
