"""How well `clfa audit` ranks wrong labels and wrong pairs: 5 % of each planted, precision and recall.

    python docs/suspects.py NAME DATASET TEXT_ENCODER IMAGE_ENCODER TEACHER [NAME DATASET …]

Writes docs/results/suspects.json: counts and shares, no posts. Both faults are planted in the same copy, in memory, in posts
of their own, by five seeds. "cleanlab on texts" is what one gets from cleanlab without encoders: TF-IDF and logistic
regression, out of fold. k is the number of planted faults.
"""

import json
import sys
from pathlib import Path

import numpy as np

from clfa.data.records import labelled_splits, load_manifest
from clfa.data.rows import load_split
from clfa.evidence.floors import encoder_features, kernel_probe, linear_probe, teacher_features, tfidf_probe
from clfa.evidence.suspects import _groups, judge, label_issues, pair_share

SEEDS, SHARE = 5, 0.05


def main() -> None:
    path = Path(__file__).parent / "results" / "suspects.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    arguments = sys.argv[1:]
    while arguments:
        name, dataset, text, image, teacher, *arguments = arguments
        results[name] = measure(Path(dataset), text, image, teacher)
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        print(name, json.dumps(results[name], indent=1))


def measure(dataset: Path, text: str, image: str, teacher: str) -> dict:
    """Method -> fault -> measures, means over the seeds."""
    manifest = load_manifest(dataset)
    sides = [load_split(dataset, split) for split in labelled_splits(manifest)]
    labels, classes = np.concatenate([rows.labels for rows in sides]), len(manifest["labels"])
    texts = np.array([text for rows in sides for text in rows.texts], dtype=object)
    of_text, of_image = (
        np.concatenate(encoder_features(dataset, sides, name, kind)) if name != "-" else None
        for kind, name in (("text", text), ("image", image))
    )
    embeds = teacher_features(dataset, sides, teacher)
    groups, found = _groups(sides), {}
    for seed in range(SEEDS):
        generator = np.random.default_rng(seed)
        k = round(SHARE * len(labels))
        order = generator.permutation(len(labels))
        flipped, swapped = order[:k], order[k : 2 * k]
        given = labels.copy()
        given[flipped] = (labels[flipped] + generator.integers(1, classes, k)) % classes
        source = np.arange(len(labels))
        source[swapped] = np.roll(swapped, 1)
        words = (tfidf_probe, texts)
        teachers = (kernel_probe, np.concatenate([embeds[0], embeds[1][source]], axis=1))
        both = [side for side in (of_text, None if of_image is None else of_image[source]) if side is not None]
        seen = {"cleanlab alone, on texts (TF-IDF)": [words], "`clfa audit --teacher`": [words, teachers]}
        if both:
            encoders = (linear_probe, np.concatenate(both, axis=1))
            seen |= {
                "`clfa audit` with encoders": [words, encoders],
                "with encoders and teacher": [words, encoders, teachers],
            }
        probabilities = {name: judge(probes, given, groups, classes) for name, probes in seen.items()}
        for method, of_method in probabilities.items():
            wrong, quality = label_issues(given, of_method)
            ranking = np.argsort(np.where(wrong, quality, quality + 1), kind="stable")
            note(found, method, "labels flipped", ranking, flipped, wrong)
            note(found, method, "images swapped", ranking, swapped, wrong)
        share = pair_share(embeds[0], embeds[1][source])
        ranking = np.argsort(share, kind="stable")
        note(found, "the teacher's cosine", "images swapped", ranking, swapped, share < 0.05)
        note(found, "the teacher's cosine", "labels flipped", ranking, flipped, share < 0.05)
    return {
        "posts": len(labels),
        "k": k,
        "methods": {
            method: {
                fault: {name: float(np.mean(values)) for name, values in own.items()} for fault, own in faults.items()
            }
            for method, faults in found.items()
        },
    }


def note(found: dict, method: str, fault: str, ranking: np.ndarray, planted: np.ndarray, listed: np.ndarray) -> None:
    """Precision at k, where it is the same as recall, at k / 2, and of what is listed."""
    k = len(planted)
    own = found.setdefault(method, {}).setdefault(fault, {})
    hits = np.isin(ranking, planted)
    values = {
        "precision at k/2": hits[: k // 2].mean(),
        "precision and recall at k": hits[:k].mean(),
        "recall at 2 k": hits[: 2 * k].sum() / k,
        "listed": listed.sum() / len(ranking),
        "precision of what is listed": listed[planted].sum() / max(1, listed.sum()),
        "recall of what is listed": listed[planted].mean(),
    }
    for name, value in values.items():
        own.setdefault(name, []).append(float(value))


if __name__ == "__main__":
    main()
