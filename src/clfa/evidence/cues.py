"""Cues: a word, a formatting feature, the script or the language of a post that gives the label away, found by counting.

z = (P(label | cue) - P(label)) / sqrt(P(label) (1 - P(label)) / n), n posts with the cue (Gardner et al. 2021, section 3).
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clfa.data.scripts import script_of, split_words
from clfa.evidence.languages import SHORT, language_of
from clfa.evidence.results import CueCounts

MIN_COUNT = 5
LANGUAGE_SHARE = 0.02
"""Share of posts from which on a language is tested: those guessed more rarely are mostly wrong guesses."""
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


WRITING = ("script", "language")
"""Kinds of cues that are about how the whole post is written."""
Feature = tuple[str, str]
"""Kind (`format`, `language`, `script` or `token`) and name."""


@dataclass(frozen=True)
class CueRule:
    """A feature of texts and the label that it predicts on train."""

    cue: str
    """A token (lower case), the name of a format feature, or `script: Han`, `language: zh`."""
    kind: str
    """`token`, `format`, `script` or `language`."""
    label: int
    """The class it speaks for."""
    z: float
    """See the module."""
    p: float
    """Exact one-sided binomial p, times the number of tests (Bonferroni), at most 1."""
    otherwise: int
    """The most frequent class of the train posts without the cue."""


def features_of(text: str) -> set[Feature]:
    """All features of a text that can be cues.

    Tokens are white-space tokens in lower case, and pairs of letters where the script has no spaces
    (`clfa.data.scripts.split_words`).
    """
    features = {("token", token) for token in split_words(text.lower(), pairs=True)}
    features |= {("format", name) for name, holds in FORMAT_CUES.items() if holds(text)}
    if script := script_of(text):
        features.add(("script", f"script: {script}"))
    if (language := language_of(text)) != SHORT:
        features.add(("language", f"language: {language}"))
    return features


def find_cues(texts: Sequence[str], labels: NDArray, classes: int) -> list[CueRule]:
    """N train texts as stored, (N,) labels -> all cues that are significant after Bonferroni's correction, largest z first.

    Tested is each of `features_of` in at least 5 posts (a language: in 2 % of them), for each class. Significance is by
    the exact binomial test: z is no guide where a class is rare. Left out are features

    - that occur in the same posts as an earlier one (script and language are always named),
    - that say nothing beyond the script of their posts: where a script is a cue itself, its posts are expected to have
      the labels that all posts of this script have.
    """
    from scipy.stats import binom

    features, present = _presence(texts)
    kinds = np.array([kind for kind, _ in features], dtype=object)
    counts = np.asarray(present.sum(axis=0)).ravel()
    by_class = np.stack([np.asarray(present[labels == k].sum(axis=0)).ravel() for k in range(classes)], axis=1)
    totals = np.bincount(labels, minlength=classes)
    share = totals / len(labels)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (by_class / counts[:, None] - share) / np.sqrt(share * (1 - share) / counts[:, None])

    def corrected(expected: NDArray) -> NDArray:
        return np.minimum(1, binom.sf(by_class - 1, counts[:, None], expected) * z.size)

    p = corrected(share)
    scripts = np.flatnonzero((kinds == "script") & (p.min(axis=1, initial=1) < LEVEL))
    if len(scripts):
        inside = corrected(_expected(present, counts, by_class, share, scripts))
        p = np.where(np.isin(kinds, WRITING)[:, None], p, np.maximum(p, inside))
    rows, classes_of = np.nonzero((p < LEVEL) & (z > 0))
    rules, seen = [], set()
    for place in np.argsort(-z[rows, classes_of], kind="stable"):
        row, label = rows[place], classes_of[place]
        kind, name = features[row]
        posts = present.indices[present.indptr[row] : present.indptr[row + 1]].tobytes()
        key = (label, posts, kind if kind in WRITING else "")
        if key in seen:  # the same posts under another name
            continue
        seen.add(key)
        otherwise = int((totals - by_class[row]).argmax())
        rules.append(CueRule(name, kind, int(label), float(z[row, label]), float(p[row, label]), otherwise))
    return rules


def count_cues(rules: Sequence[CueRule], texts: Sequence[str], labels: NDArray) -> list[CueCounts]:
    """How each rule “cue: its label, no cue: `otherwise`” does on N texts with (N,) labels."""
    wanted = {(rule.kind, rule.cue) for rule in rules}
    counts: Counter[tuple[Feature, int]] = Counter()
    for text, label in zip(texts, labels.tolist()):
        counts.update((feature, label) for feature in features_of(text) & wanted)
    totals = Counter(labels.tolist())
    result = []
    for rule in rules:
        with_cue = Counter({label: counts[(rule.kind, rule.cue), label] for label in totals})
        right = with_cue[rule.label] + totals[rule.otherwise] - with_cue[rule.otherwise]
        result.append(CueCounts(with_cue[rule.label], with_cue.total(), totals[rule.label], right / len(labels)))
    return result


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


def _presence(texts: Sequence[str]) -> tuple[list[Feature], Any]:
    """The features to test, and a sparse (N, features) matrix of which text has them."""
    from sklearn.feature_extraction.text import CountVectorizer

    vectorizer = CountVectorizer(binary=True, analyzer=features_of, dtype=np.int64)
    present = vectorizer.fit_transform(texts)
    features = sorted(vectorizer.vocabulary_)
    counts = np.asarray(present.sum(axis=0)).ravel()
    least = [LANGUAGE_SHARE * len(texts) if kind == "language" else 0 for kind, _ in features]
    # a feature that every post has, or none, says nothing
    kept = np.flatnonzero((counts >= np.maximum(MIN_COUNT, least)) & (counts < len(texts)))
    return [features[number] for number in kept], present[:, kept].tocsc()


def _expected(
    present: Any, counts: NDArray, by_class: NDArray, share: NDArray, scripts: NDArray
) -> NDArray[np.float64]:
    """(features, C) label shares of the posts with each feature if nothing but these scripts told their labels."""
    of_post = np.tile(share, (present.shape[0], 1))
    for script in scripts:
        of_post[present[:, script].nonzero()[0]] = by_class[script] / counts[script]
    return (present.T @ of_post) / counts[:, None]


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
