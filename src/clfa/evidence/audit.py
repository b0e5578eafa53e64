"""What a data set is worth before anything is trained on it: leaks, cues, floors. `clfa audit DATASET`."""

import io
import logging
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import clfa
from clfa.config import ModalityConfig
from clfa.data.progress import track
from clfa.data.records import labelled_splits, load_manifest
from clfa.data.rows import Rows, load_split, stream_column
from clfa.evidence.cues import CueRule, count_cues, find_cues
from clfa.evidence.findings import EXAMPLES, find_faults
from clfa.evidence.floors import floor_scores, frozen_floor_predictions
from clfa.evidence.languages import language_of
from clfa.evidence.leakage import COLUMNS, Traces, conflicts, image_hashes, matches, traces
from clfa.evidence.results import Audit, Conflict, Cue, CueCounts, Disagreement, Images, Leakage, SplitFile, Spread
from clfa.model.reading import Misreading, misreadings

log = logging.getLogger(__name__)


def audit(
    dataset: str | Path, text_encoder: str | None = None, image_encoder: str | None = None, teacher: str | None = None
) -> Audit:
    """Audit a dataset directory.

    Args:
        text_encoder: for the floor `text_only` (see `clfa.evidence.floors.frozen_floor_predictions`).
        image_encoder: for the floor `image_only`; with both also `late_fusion`.
        teacher: for the floor `teacher_probe`.
    """
    started, dataset = time.monotonic(), Path(dataset)
    manifest = load_manifest(dataset)
    names = manifest["labels"]
    rows = {split: load_split(dataset, split) for split in labelled_splits(manifest)}
    evaluated = "test" if "test" in rows else "validation"

    log.info("%s: looking for posts that splits share", dataset)
    hashes = image_hashes(dataset, list(rows))
    compared = {split: traces(of_split, hashes) for split, of_split in rows.items()}
    leakage = {kind: _leakage(kind, compared, evaluated) for kind in COLUMNS}
    conflicting = _conflicts(compared)
    del compared
    log.info("%s: looking for cues", dataset)
    labels = {split: of_split.labels for split, of_split in rows.items()}
    texts = {split: of_split.texts for split, of_split in rows.items()}
    rules = find_cues(texts["train"], labels["train"], len(names))
    counts = {split: count_cues(rules, texts[split], truth) for split, truth in labels.items()}
    cues = [
        _describe_cue(rule, {split: of_split[number] for split, of_split in counts.items()}, names)
        for number, rule in enumerate(rules)
    ]
    log.info("%s: fitting floors", dataset)
    frozen = frozen_floor_predictions(dataset, evaluated, len(names), text_encoder, image_encoder, teacher)
    floors = floor_scores(rows["train"], rows[evaluated], len(names), frozen)
    log.info("%s: languages and images", dataset)
    result = Audit(
        dataset=manifest.get("name", dataset.name),
        filters=manifest.get("filters", []),
        text_cleaning=manifest["text"],
        evaluated=evaluated,
        findings=[],
        cues=cues,
        cue_count=len(cues),
        leakage=leakage,
        conflicting_labels=conflicting,
        floors=floors,
        labels={
            split: dict(zip(names, np.bincount(numbers, minlength=len(names)).tolist()))
            for split, numbers in labels.items()
        },
        disagreement=_disagreement(rows, names),
        languages={split: _languages(split, of_split) for split, of_split in texts.items()},
        images={split: _images(dataset, split, len(of_split)) for split, of_split in rows.items()},
        splits={split: SplitFile(own["rows"], own["sha256"]) for split, own in manifest["splits"].items()},
        clfa_version=clfa.__version__,
        seconds=0.0,
    )
    found = _misreadings(texts["train"], text_encoder) if text_encoder else []
    return replace(result, findings=find_faults(result, found), seconds=round(time.monotonic() - started, 1))


def _misreadings(texts: list[str], encoder: str) -> list[Misreading]:
    """How the tokenizer of the floor `text_only` fails these texts; each is logged as a warning."""
    from clfa.model.encoders import resolve
    from clfa.model.modalities import KINDS

    found = misreadings(KINDS["text"].load_preparer(resolve(encoder)), texts, ModalityConfig("text").max_length)
    for each in found:
        log.warning("text encoder %s: %s; %s", encoder, each.text, each.advice)
    return found


def _describe_cue(rule: CueRule, splits: dict[str, CueCounts], names: list[str]) -> Cue:
    train = splits["train"]
    return Cue(
        cue=rule.cue,
        kind=rule.kind,
        label=names[rule.label],
        with_label=train.with_label,
        count=train.count,
        p_label_given_cue=train.with_label / train.count,
        p_cue_given_label=train.with_label / train.label_count,
        z=rule.z,
        p_bonferroni=rule.p,
        accuracy=train.accuracy,
        splits=splits,
    )


def _leakage(kind: str, compared: dict[str, Traces], evaluated: str) -> Leakage:
    """Posts of one split that repeat a post of another, and repeats inside each."""
    counts: dict[str, int] = {}
    examples: dict[str, list[list[str]]] = {}
    repeated: dict[str, NDArray] = {}
    pairs = [("validation", "train"), ("test", "train"), ("test", "validation")]
    for ours, theirs in [*pairs, *((split, split) for split in compared)]:
        if ours not in compared or theirs not in compared:
            continue
        name = f"within_{ours}" if ours == theirs else f"{ours}_in_{theirs}"
        first, second = compared[ours], compared[theirs]
        places = matches(kind, first, None if ours == theirs else second)
        repeated[name] = places >= 0
        counts[name] = int(repeated[name].sum())
        hits = np.flatnonzero(repeated[name])
        if ours != theirs:
            counts[f"{name}_other_label"] = int((first.labels[hits] != second.labels[places[hits]]).sum())
        if len(hits):
            examples[name] = [[first.ids[hit], second.ids[places[hit]]] for hit in hits[:EXAMPLES]]
    if "test" in compared:
        either = repeated["test_in_train"] | repeated["test_in_validation"]
        counts["test_in_train_or_validation"] = int(either.sum())
    values = getattr(compared[evaluated], COLUMNS[kind])
    return Leakage(checked=sum(value is not None for value in values), examples=examples, **counts)


def _conflicts(compared: dict[str, Traces]) -> dict[str, dict[str, Conflict]]:
    result: dict[str, dict[str, Conflict]] = {}
    for split, side in compared.items():
        for kind, groups in conflicts(side).items():
            shown = [" = ".join(ids[:4]) for ids in groups[:EXAMPLES]]
            result.setdefault(kind, {})[split] = Conflict(len(groups), sum(map(len, groups)), shown)
    return result


def _disagreement(rows: dict[str, Rows], names: list[str]) -> dict[str, dict[str, Disagreement]]:
    """Columns that hold labels too (`hashtag_label`, `text_label` …): on how many posts they differ from the label."""
    result: dict[str, dict[str, Disagreement]] = {}
    for split, of_split in rows.items():
        labels = of_split.labels.tolist()
        for column in (name for name in of_split.column_names if name.endswith("_label")):
            values = of_split[column]
            both = [number for number, value in enumerate(values) if value is not None]
            if both:
                differ = [number for number in both if values[number] != names[labels[number]]]
                shown = [of_split[number]["id"] for number in differ[:EXAMPLES]]
                result.setdefault(column, {})[split] = Disagreement(len(differ), len(both), shown)
    return result


def _languages(split: str, texts: list[str]) -> dict[str, int]:
    languages = Counter(language_of(text) for text in track(texts, f"languages of {split}", len(texts)))
    return dict(languages.most_common())


def _images(dataset: Path, split: str, posts: int) -> Images:
    """Sizes read from the headers, nothing decoded."""
    sizes, lengths, formats = [], [], Counter[str]()
    for data in track(stream_column(dataset, split, "image"), f"sizes of images of {split}", posts):
        if isinstance(data, bytes):
            image = Image.open(io.BytesIO(data))
            sizes.append(image.size)
            lengths.append(len(data))
            formats[str(image.format)] += 1
    if not sizes:
        return Images(0, posts)
    width, height = (Spread(*np.quantile(side, [0, 0.5, 1]).tolist()) for side in np.array(sizes).T)
    kilobytes = float(np.median(lengths) / 1000)
    return Images(len(sizes), posts - len(sizes), width, height, kilobytes, dict(formats.most_common()))
