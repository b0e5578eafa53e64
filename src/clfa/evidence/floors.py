"""What a model must beat: predictions that need no understanding of the post, or only one half of it."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clfa.config import DataConfig
from clfa.data.cache import Cache
from clfa.data.rows import Rows, fill_split, load_split
from clfa.errors import UserError
from clfa.evidence.cues import count_format
from clfa.evidence.results import Scores
from clfa.metrics import measure

MOST, MOST_OF_KERNEL = 20_000, 10_000
"""Training posts that floors of texts, and one with a kernel, are fitted on; of more a sample, so that memory does not grow
with them."""

log = logging.getLogger(__name__)


def floor_scores(train: Rows, rows: Rows, classes: int, more: dict[str, NDArray] | None = None) -> dict[str, Scores]:
    """Floor, fitted on `train`, -> its scores on these rows; `more` are (N,) predictions of further floors."""
    predictions = floor_predictions(train, rows, classes) | (more or {})
    return {name: measure(rows.labels, predicted, classes) for name, predicted in predictions.items()}


def floor_predictions(train: Rows, rows: Rows, classes: int) -> dict[str, NDArray]:
    """Predictions of the floors that look at no image.

    `majority`: the most frequent class of train. `format_only`: boosted trees on counts of characters, capitals, marks
    and word lengths (`clfa.evidence.cues.count_format`), classes weighted alike; not one word is read.
    `tfidf_logistic_regression`: TF-IDF of 1-2 grams of white-space tokens and of 1-4 grams of characters inside of these
    (lower case, sublinear counts, character n-grams in at least two posts), side by side, and logistic regression
    (C = 10). Characters read inflected words, and scripts without spaces, which words alone do not. Both are fitted on at
    most `MOST` posts, a sample with a fixed seed of more.

    Returns:
        name -> (N,) class numbers of `rows`.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    result = {"majority": np.full(len(rows), np.bincount(train.labels, minlength=classes).argmax())}
    train = train.select(sampled(len(train), MOST))
    labels, texts, asked = train.labels, train.texts, rows.texts
    if len(np.unique(labels)) < 2:
        return result
    trees = HistGradientBoostingClassifier(class_weight="balanced", max_leaf_nodes=8, max_iter=300, random_state=0)
    result["format_only"] = trees.fit(count_format(texts), labels).predict(count_format(asked))
    if has_words(texts):
        result["tfidf_logistic_regression"] = _tfidf_model().fit(texts, labels).predict(asked)
    return result


def sampled(count: int, most: int) -> NDArray[np.int64]:
    """Places of all of `count` posts, or of `most` of them, the same ones each time, in their order."""
    return np.sort(np.random.default_rng(0).choice(count, most, replace=False)) if count > most else np.arange(count)


def has_words(texts: Iterable[str]) -> bool:
    """Whether there is something that TF-IDF can be fitted on."""
    return sum(bool(text.split()) for text in texts) > 1


def tfidf_probe(train: NDArray, labels: NDArray, asked: NDArray, classes: int) -> NDArray[np.float64]:
    """(N,) texts and (N,) labels -> (M, C) probabilities by the floor on TF-IDF, fitted on at most `MOST` posts."""
    chosen = sampled(len(train), MOST)
    train, labels = train[chosen], labels[chosen]
    if not has_words(train):
        return frequencies(labels, len(asked), classes)
    return _probabilities(_tfidf_model(), train, labels, asked, classes)


def _tfidf_model() -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline, make_union

    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+")
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True, min_df=2)
    return make_pipeline(make_union(words, characters), LogisticRegression(C=10, max_iter=1000))


def teacher_floor_predictions(data: DataConfig, teacher: str | None, train: Rows, rows: Rows) -> dict[str, NDArray]:
    """Predictions of `teacher_svm`: a support vector machine (RBF kernel, C = 3) on the teacher's embeddings of text and
    image, side by side and standardised.

    What a teacher has to give without any alignment, for whoever can afford it at prediction: its kernel sees whether text
    and image agree, which a linear model of both does not. Fitted on at most `MOST_OF_KERNEL` posts of train, whose
    embeddings alignment has left in the data set's cache; those of `rows` are computed where they are missing.

    Returns:
        name -> (N,) class numbers of `rows`; empty where there is no teacher, nothing was aligned to it (a floor is not
        worth embedding a training set), or it is no longer where it was.
    """
    from sklearn.svm import SVC

    from clfa.model.teacher import embed_dataset, teacher_key

    if not teacher or len(np.unique(train.labels)) < 2:
        return {}
    try:
        left = Cache(Path(data.path) / "teachers" / teacher_key(teacher))
        keys = np.concatenate([train.keys(name, name) for name in ("text", "image") if name in train.column_names])
        if (left.find(keys[keys != b""]) < 0).any():
            return {}
        cache, _ = embed_dataset(Path(data.path), teacher, rows.splits)
    except UserError as error:
        log.warning("no floor on the teacher: %s", str(error).splitlines()[0])
        return {}
    train = train.select(sampled(len(train), MOST_OF_KERNEL))
    features, asked = _of_teacher(cache, [train, rows])
    return {"teacher_svm": _prepared(SVC(C=3, gamma="auto")).fit(features, train.labels).predict(asked)}


def teacher_features(dataset: Path, sides: list[Rows], teacher: str) -> tuple[NDArray, NDArray]:
    """(N, D) embeddings of the texts and of the images, all sides one after the other; NaN where a post has none."""
    from clfa.model.teacher import embed_dataset

    cache, _ = embed_dataset(dataset, teacher, [split for rows in sides for split in rows.splits])
    both = np.concatenate(_of_teacher(cache, sides))
    return both[:, : cache.width], both[:, cache.width :]


def _of_teacher(cache: Cache, sides: list[Rows]) -> list[NDArray]:
    """(N, 2 D) embeddings of text and image, for the rows of each side."""
    return [
        np.concatenate([_lookup(cache, rows, column, cache.width) for column in ("text", "image")], axis=1)
        for rows in sides
    ]


def _prepared(model: Any) -> Any:
    """Of features with gaps: a gap has the mean of train."""
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), model)


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
        classes: C.
        text_encoder: encoder as in `clfa.model.encoders.load_encoder`.
        image_encoder: the same for images.
        teacher: teacher as in `clfa.model.teacher.load_teacher`.

    Returns:
        name -> (N,) class numbers; only what was asked for.
    """
    sides = [load_split(dataset, name) for name in ("train", split)]
    labels = sides[0].labels
    if len(np.unique(labels)) < 2:
        return {}
    encoders = {"text": text_encoder, "image": image_encoder}
    features = {
        f"{kind}_only": encoder_features(dataset, sides, encoder, kind) for kind, encoder in encoders.items() if encoder
    }
    if teacher:
        from clfa.model.teacher import embed_dataset

        cache, _ = embed_dataset(dataset, teacher, ["train", split])
        features["teacher_probe"] = _of_teacher(cache, sides)
    probabilities = {name: linear_probe(train, labels, asked, classes) for name, (train, asked) in features.items()}
    if "text_only" in probabilities and "image_only" in probabilities:
        probabilities["late_fusion"] = (probabilities["text_only"] + probabilities["image_only"]) / 2
    return {name: of_floor.argmax(1) for name, of_floor in probabilities.items()}


def encoder_features(dataset: Path, sides: list[Rows], name: str, kind: str) -> list[NDArray]:
    """(N, H) means over the tokens of a frozen encoder, for the rows of each side."""
    from clfa.model.encoders import load_encoder

    encoder = load_encoder(name, kind)
    folder = dataset / "features" / encoder.fingerprint("77")

    def pooled(batch: list) -> list:
        return [states.mean(dim=0, keepdim=True) for states in encoder.encode(batch)]

    for rows in sides:
        split = rows.splits[0]
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


def linear_probe(train: NDArray, labels: NDArray, asked: NDArray, classes: int) -> NDArray[np.float64]:
    """(N, D) features and (N,) labels -> (M, C) probabilities of the posts that are asked, by logistic regression."""
    from sklearn.linear_model import LogisticRegression

    return _probabilities(_prepared(LogisticRegression(C=0.01, max_iter=2000)), train, labels, asked, classes)


def kernel_probe(train: NDArray, labels: NDArray, asked: NDArray, classes: int) -> NDArray[np.float64]:
    """The same by a support vector machine (RBF kernel, C = 3), Platt-scaled, on at most `MOST_OF_KERNEL` posts of classes
    that have three of them."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.svm import SVC

    chosen = sampled(len(train), MOST_OF_KERNEL)
    train, labels = train[chosen], labels[chosen]
    common = np.bincount(labels, minlength=classes)[labels] >= 3
    if len(np.unique(labels[common])) < 2:
        return frequencies(labels, len(asked), classes)
    train, labels = train[common], labels[common]
    model = CalibratedClassifierCV(_prepared(SVC(C=3, gamma="auto")), cv=3, ensemble=False)
    return _probabilities(model, train, labels, asked, classes)


def frequencies(labels: NDArray, count: int, classes: int) -> NDArray[np.float64]:
    """(count, C): for each post the shares of the classes, where nothing can be fitted."""
    return np.tile(np.bincount(labels, minlength=classes) / len(labels), (count, 1))


def _probabilities(model: Any, train: NDArray, labels: NDArray, asked: NDArray, classes: int) -> NDArray[np.float64]:
    if len(np.unique(labels)) < 2:
        return frequencies(labels, len(asked), classes)
    model.fit(train, labels)
    result = np.zeros((len(asked), classes))
    result[:, model.classes_] = model.predict_proba(asked)
    return result
