"""What a model must beat: predictions that need no understanding of the post, or only one half of it."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from clfa.data.cache import Cache
from clfa.data.rows import Rows, fill_split, load_split
from clfa.evidence.cues import count_format
from clfa.evidence.results import Scores
from clfa.metrics import measure


def floor_scores(train: Rows, rows: Rows, classes: int, more: dict[str, NDArray] | None = None) -> dict[str, Scores]:
    """Floor -> its scores on these rows.

    Args:
        train: rows to fit on.
        rows: rows to predict.
        classes: number of classes.
        more: predictions of further floors.
    """
    found = floor_predictions(train, rows, classes) | (more or {})
    return {name: measure(rows.labels, predicted, classes) for name, predicted in found.items()}


def floor_predictions(train: Rows, rows: Rows, classes: int) -> dict[str, NDArray]:
    """Predictions of the floors that look at no image.

    `majority`: the most frequent class of train. `format_only`: boosted trees on counts of characters, capitals, marks
    and word lengths (`clfa.evidence.cues.count_format`), classes weighted alike; not one word is read.
    `tfidf_logistic_regression`: TF-IDF of 1-2 grams of white-space tokens (lower case, sublinear counts) and logistic
    regression (C = 10), the usual text-only baseline.

    Args:
        train: rows with `text` and `label` to fit on.
        rows: rows to predict.
        classes: number of classes.

    Returns:
        name -> (N,) class numbers.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    labels = train.labels
    majority = np.full(len(rows), np.bincount(labels, minlength=classes).argmax())
    if len(set(labels.tolist())) < 2:
        return {"majority": majority}
    texts, wanted = train.texts, rows.texts
    trees = HistGradientBoostingClassifier(class_weight="balanced", max_leaf_nodes=8, max_iter=300, random_state=0)
    words = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+"),
        LogisticRegression(C=10, max_iter=1000),
    )
    found = {
        "majority": majority,
        "format_only": trees.fit(count_format(texts), labels).predict(count_format(wanted)),
    }
    if not any(text.split() for text in texts):  # no words at all in train: there is nothing to fit
        return found
    words.fit(texts, labels)
    return found | {"tfidf_logistic_regression": words.predict(wanted)}


def frozen_floor_predictions(
    dataset: Path,
    split: str,
    classes: int,
    text_encoder: str | None = None,
    image_encoder: str | None = None,
    teacher: str | None = None,
) -> dict[str, NDArray]:
    """Predictions of logistic regressions on features of encoders that were never trained on these labels.

    `text_only` and `image_only`: masked mean of the token states. `late_fusion`: the mean of their two probabilities.
    `teacher_probe`: the teacher's text and image embeddings side by side. Features are standardised and cached in
    `DATASET/features` and `DATASET/teachers`; a post without a text or an image gets the mean feature of train.

    Args:
        dataset: dataset directory.
        split: rows to predict.
        classes: number of classes.
        text_encoder: encoder as in `clfa.model.encoders.load_encoder`.
        image_encoder: the same for images.
        teacher: teacher as in `clfa.model.teacher.load_teacher`.

    Returns:
        name -> (N,) class numbers; only what was asked for.
    """
    sides = [load_split(dataset, name) for name in ("train", split)]
    if len(set(sides[0].labels.tolist())) < 2:
        return {}
    features: dict[str, list[NDArray]] = {}
    for name, encoder, kind in (("text_only", text_encoder, "text"), ("image_only", image_encoder, "image")):
        if encoder:
            features[name] = _encoder_features(dataset, sides, encoder, kind)
    if teacher:
        from clfa.model.teacher import embed_dataset

        cache, _ = embed_dataset(dataset, teacher, ["train", split])
        joined = [[_lookup(cache, rows, column, cache.width) for column in ("text", "image")] for rows in sides]
        features["teacher_probe"] = [np.concatenate(both, axis=1) for both in joined]
    labels = sides[0].labels
    probabilities = {name: _probe(train, labels, wanted, classes) for name, (train, wanted) in features.items()}
    if "text_only" in probabilities and "image_only" in probabilities:
        probabilities["late_fusion"] = (probabilities["text_only"] + probabilities["image_only"]) / 2
    return {name: found.argmax(1) for name, found in probabilities.items()}


def _encoder_features(dataset: Path, sides: list[Rows], name: str, kind: str) -> list[NDArray]:
    """(N, H) means over the tokens of a frozen encoder, for the rows of each side."""
    from clfa.model.encoders import load_encoder

    encoder = load_encoder(name, kind)
    folder = dataset / "features" / encoder.fingerprint()

    def pooled(batch: list) -> list:
        return [states.mean(dim=0, keepdim=True) for states in encoder.encode(batch)]

    for split in (rows.splits[0] for rows in sides):
        fill_split(folder, dataset, split, kind, kind, pooled, f"{kind} features of {split}")
    return [_lookup(Cache(folder), rows, kind, encoder.width) for rows in sides]


def _lookup(cache: Cache, rows: Rows, column: str, width: int) -> NDArray:
    """(N, D) features of one column, NaN where a post has none."""
    result = np.full((len(rows), width), np.nan, dtype=np.float32)
    if column in rows.column_names:
        for number, entry in enumerate(cache.find(rows.keys(column, column))):
            if entry >= 0:
                result[number] = cache.read(int(entry))[0].numpy()
    return result


def _probe(train: NDArray, labels: NDArray, wanted: NDArray, classes: int) -> NDArray[np.float64]:
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(
        SimpleImputer(keep_empty_features=True), StandardScaler(), LogisticRegression(C=0.01, max_iter=2000)
    )
    model.fit(train, labels)
    result = np.zeros((len(wanted), classes))
    result[:, model[-1].classes_] = model.predict_proba(wanted)
    return result
