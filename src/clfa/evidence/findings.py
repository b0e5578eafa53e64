"""The findings of an audit, in sentences: what, how harmful, what to do."""

from collections.abc import Iterator, Sequence

from clfa.evidence.results import Audit, Cue, Finding
from clfa.model.reading import Misreading

EXAMPLES = 10
_REPORT = "Report the score without them (“clfa evaluate” prints it), or remove them from train."
ADVICE = {
    "id": "If these are the same posts, remove them from one of the splits; if ids were given anew in each, ignore this.",
    "exact_text": _REPORT,
    "normalised_text": _REPORT,
    "near_text": "Report the score without them: most words of the test post were seen in training, in one post.",
    "image_bytes": "Report the score without them: the image was seen in training.",
    "image_hash": "Look at some pairs: images that look alike are mostly copies in another size or quality.",
}
_NEUTRALISE = "Compare with the cue-neutralised score of “clfa evaluate”; drop or mask it if it is an artefact."
_SPACES = "Import with normalised white space (the default), or the label can be read off the spaces."
_WITHIN = "Balance the labels inside each language, or score each on its own (“clfa evaluate” prints its groups)."
LEAKS = {
    "id": "have the id of a training post",
    "exact_text": "have exactly the text of a training post",
    "normalised_text": "have the text of a training post but for case, links and punctuation",
    "near_text": "have the words of a training post, four fifths or all of them",
    "image_bytes": "have the image of a training post",
    "image_hash": "have an image that looks like one of a training post",
}
REPEATS = {"exact_text": "text", "image_bytes": "image", "id": "id"}
ASPECTS = ("text_label", "image_label")
"""Label columns about one side of a post, which are no rivals of its label."""


def find_faults(audit: Audit, misread: Sequence[Misreading] = ()) -> list[Finding]:
    """All findings of an audit, most harmful first; `misread` is what the tokenizer of the text encoder does."""
    cues = (_cue(audit, cue) for cue in audit.cues)
    findings = [*_leaks(audit), *cues, *_conflicts(audit), *_disagreements(audit), *map(_misreading, misread)]
    return sorted(findings, key=lambda finding: -finding.harm)


def _leaks(audit: Audit) -> Iterator[Finding]:
    posts, name = audit.splits[audit.evaluated].rows, f"{audit.evaluated}_in_train"
    for kind, leakage in audit.leakage.items():
        count, other = getattr(leakage, name), getattr(leakage, f"{name}_other_label")
        if count:
            text = f"{count:,} of {posts:,} {audit.evaluated} posts {LEAKS[kind]}"
            text += f"; {other:,} of them with another label." if other else "."
            pairs = [" = ".join(pair) for pair in leakage.examples.get(name, [])]
            yield Finding(f"leakage:{kind}", count / posts, count, text, ADVICE[kind], pairs)
        if leakage.within_train and kind in REPEATS:
            text = f"{leakage.within_train:,} training posts repeat the {REPEATS[kind]} of an earlier training post."
            advice = "Harmless to the score; keep copies on one side when you draw new splits (folds do)."
            pairs = [" = ".join(pair) for pair in leakage.examples["within_train"]]
            yield Finding(f"duplicate:{kind}", 0.0, leakage.within_train, text, advice, pairs)


def _cue(audit: Audit, cue: Cue) -> Finding:
    accuracy = cue.splits[audit.evaluated].accuracy
    name = cue.cue.removeprefix(f"{cue.kind}: ")
    where, advice = f"with “{name}”", _NEUTRALISE
    if cue.kind == "script":
        where, advice = f"in {name} script", _WITHIN
    elif cue.kind == "language":
        where, advice = f"in the language “{name}” (guessed)", _WITHIN
    elif cue.cue == "irregular_whitespace":
        where, advice = "with irregular white space", _SPACES
    text = (
        f"{cue.with_label:,} of {cue.count:,} training posts {where} are {cue.label} (z = {cue.z:.1f}); this rule "
        f"alone is right on {100 * accuracy:.1f} % of {audit.evaluated}."
    )
    gain = accuracy - audit.floors["majority"]["accuracy"].value
    return Finding(f"cue:{cue.cue}", max(0.0, gain), cue.count, text, advice, [])


def _conflicts(audit: Audit) -> Iterator[Finding]:
    posts = audit.splits[audit.evaluated].rows
    for kind, by_split in audit.conflicting_labels.items():
        count = sum(conflict.count for conflict in by_split.values())
        if count:
            here = by_split.get(audit.evaluated)
            affected = (here and here.posts) or 0
            what = "texts" if kind == "normalised_text" else "images"
            text = f"{count:,} {what} occur with two labels inside a split."
            advice = "Look at them: the other half of the post may decide, or a label is wrong."
            ids = [id for conflict in by_split.values() for id in conflict.examples][:EXAMPLES]
            yield Finding(f"conflict:{kind}", affected / posts, count, text, advice, ids)


def _disagreements(audit: Audit) -> Iterator[Finding]:
    for column, by_split in audit.disagreement.items():
        entry = by_split.get(audit.evaluated)
        if entry and entry.differ and column not in ASPECTS:
            text = f"“{column}” differs from the label on {entry.differ:,} of {entry.posts:,} {audit.evaluated} posts."
            advice = "Say which label is meant: no model can be right by both."
            harm = entry.differ / entry.posts
            yield Finding(f"disagreement:{column}", harm, entry.differ, text, advice, entry.examples)


def _misreading(found: Misreading) -> Finding:
    """What the tokenizer of the text encoder does to the texts of train."""
    text, advice = (f"{sentence[:1].upper()}{sentence[1:]}." for sentence in (found.text, found.advice))
    return Finding(f"tokenizer:{found.kind}", found.share, found.texts, text, advice, [])
