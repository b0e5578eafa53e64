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
from clfa.evidence.floors import encoder_features, kernel_probe, linear_probe, teacher_features
from clfa.evidence.suspects import _groups, better_judge, label_issues, out_of_fold, pair_share

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
    texts = [text for rows in sides for text in rows.texts]
    of_text = np.concatenate(encoder_features(dataset, sides, text, "text"))
    of_image = np.concatenate(encoder_features(dataset, sides, image, "image"))
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
        both = np.concatenate([of_text, of_image[source]], axis=1)
        of_teacher = np.concatenate([embeds[0], embeds[1][source]], axis=1)
        judges = {
            "the encoders": out_of_fold(linear_probe, both, given, groups, classes),
            "the teacher": out_of_fold(kernel_probe, of_teacher, given, groups, classes),
        }
        probabilities = judges | {
            "`clfa audit`: the better of the two": better_judge(judges, given)[1],
            "cleanlab on texts (TF-IDF)": tfidf(texts, given, groups, classes),
        }
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


def tfidf(texts: list[str], labels: np.ndarray, groups: np.ndarray, classes: int) -> np.ndarray:
    """Out of fold."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline

    result = np.zeros((len(texts), classes))
    for train, held_out in StratifiedGroupKFold(5, shuffle=True, random_state=0).split(texts, labels, groups):
        model = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=1000)
        )
        model.fit([texts[n] for n in train], labels[train])
        result[np.ix_(held_out, model[-1].classes_)] = model.predict_proba([texts[n] for n in held_out])
    return result


if __name__ == "__main__":
    main()
