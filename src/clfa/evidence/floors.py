"""What a model must beat: predictions that need no understanding of the post, or only one half of it."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clfa.evidence.cues import count_format


def floor_predictions(train: Any, rows: Any, classes: int) -> dict[str, NDArray]:
    """Predictions of the floors that look at no picture.

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

    labels = np.array(train["label"])
    majority = np.full(len(rows), np.bincount(labels, minlength=classes).argmax())
    if len(set(labels.tolist())) < 2:
        return {"majority": majority}
    texts, wanted = ([text or "" for text in side["text"]] for side in (train, rows))
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
    from clfa.data.records import load_split

    sides = [load_split(dataset, name) for name in ("train", split)]
    labels = np.array(sides[0]["label"])
    if len(set(labels.tolist())) < 2:
        return {}
    features: dict[str, list[NDArray]] = {}
    for name, encoder, kind in (("text_only", text_encoder, "text"), ("image_only", image_encoder, "image")):
        if encoder:
            features[name] = _encoder_features(dataset, ["train", split], sides, encoder, kind)
    if teacher:
        from clfa.model.teacher import embed_dataset

        cache, _ = embed_dataset(dataset, teacher, ["train", split])
        parts = [[_lookup(cache, rows, column) for column in ("text", "image")] for rows in sides]
        features["teacher_probe"] = [np.concatenate(part, axis=1) for part in parts]
    probabilities = {name: _probe(train, labels, wanted, classes) for name, (train, wanted) in features.items()}
    if "text_only" in probabilities and "image_only" in probabilities:
        probabilities["late_fusion"] = (probabilities["text_only"] + probabilities["image_only"]) / 2
    return {name: found.argmax(1) for name, found in probabilities.items()}


def _encoder_features(dataset: Path, splits: list[str], sides: list[Any], name: str, kind: str) -> list[NDArray]:
    from clfa.config import ModalityConfig
    from clfa.data.cache import Cache, fill
    from clfa.model.batch import column_values
    from clfa.model.encoders import fingerprint, load_encoder, settings_of
    from clfa.model.frozen import encode_frozen

    encoder = load_encoder(name, kind)
    folder = dataset / "features" / fingerprint(encoder.backbone, settings_of(encoder.preparer))
    modality = ModalityConfig("text" if kind == "text" else "image", name)

    def pooled(batch: list) -> list:
        return [states.mean(dim=0, keepdim=True) for states in encode_frozen(encoder, modality, batch)]

    found = []
    for split, rows in zip(splits, sides):
        values = [value for value in column_values(rows, kind) if value is not None]
        path = folder / f"{split}.safetensors"
        if values:
            fill(path, values, pooled)
        found.append(_lookup(Cache([path] if path.is_file() else []), rows, kind, encoder.width))
    return found


def _lookup(cache: Any, rows: Any, column: str, width: int | None = None) -> NDArray:
    """(N, D) features of one column, NaN where a post has none."""
    from clfa.data.cache import content_key
    from clfa.model.batch import column_values

    values = column_values(rows, column) or [None] * len(rows)
    result = np.full((len(rows), width or cache.files[0].shape[1]), np.nan, dtype=np.float32)
    for number, value in enumerate(values):
        if value is not None:
            result[number] = cache[content_key(value)][0].numpy()
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
