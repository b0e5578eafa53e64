"""Counting the cues of training posts that a run carries (`clfa.data.training_cues`)."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from clfa.data.progress import track
from clfa.data.training_cues import LEAST, MOST, TrainingCue, TrainingCues, terms_of
from clfa.evidence.cues import LEVEL


def training_cues(texts: Sequence[str], labels: NDArray, class_names: Sequence[str]) -> TrainingCues:
    """N training texts as stored, (N,) labels -> the words and pairs of words that hint at a class by themselves.

    A cue is in at least 20 posts with different texts, and more often of its class than the posts at large by the exact
    binomial test, corrected for all that were tested (Bonferroni). Of a pair the class is surer than of either of its words.
    At most 1,000 are kept, those with the largest z of `clfa.evidence.cues`.
    """
    from scipy.stats import binom

    totals = np.bincount(labels, minlength=len(class_names))
    counts = _count(texts, labels, len(class_names))
    terms = list(counts)
    by_class = np.array([counts[term] for term in terms]).reshape(len(terms), len(class_names))
    posts, share = by_class.sum(axis=1, keepdims=True), totals / max(1, totals.sum())
    rates = by_class / np.maximum(1, posts)
    with np.errstate(divide="ignore", invalid="ignore"):  # of a class that all posts have, or none
        z = np.nan_to_num((rates - share) / np.sqrt(share * (1 - share) / np.maximum(1, posts)), posinf=0, neginf=0)
    p = binom.sf(by_class - 1, posts, share) * by_class.size
    place_of = {term: place for place, term in enumerate(terms)}
    cues = []
    for place in np.argsort(-z.max(axis=1, initial=0), kind="stable"):
        term, label = terms[place], int(z[place].argmax())
        words = [place_of[word] for word in term.split() if " " in term]
        if z[place, label] > 0 and p[place, label] < LEVEL and (rates[words, label] < rates[place, label]).all():
            cues.append(TrainingCue(term, label, by_class[place].tolist()))
    return TrainingCues(list(class_names), totals.tolist(), cues[:MOST])


def _count(texts: Sequence[str], labels: NDArray, classes: int) -> dict[str, list[int]]:
    """Term -> posts of each class with it, for those in at least `LEAST` posts with different texts.

    Pairs are counted of words alone that are in so many: memory holds few of those that occur once.
    """
    different = set(texts)
    seen = Counter(term for text in different for term in terms_of(text) if " " not in term)
    often = {word for word, count in seen.items() if count >= LEAST}
    counts: defaultdict[str, list[int]] = defaultdict(lambda: [0] * classes)
    in_different: Counter[str] = Counter()
    for text, label in track(zip(texts, labels.tolist()), "counting cues", len(texts)):
        terms = [term for term in terms_of(text) if often.issuperset(term.split())]
        for term in terms:
            counts[term][label] += 1
        if text in different:
            different.remove(text)
            in_different.update(terms)
    return {term: own for term, own in counts.items() if in_different[term] >= LEAST}
