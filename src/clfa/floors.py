"""What a model must beat: floors fitted on the training texts, no picture looked at."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def floor_predictions(train: Any, rows: Any, classes: int) -> dict[str, NDArray]:
    """Predictions of the floors for `rows`.

    `majority`: the most frequent class of train. `tfidf_logistic_regression`: TF-IDF of 1-2 grams of
    white-space tokens (lower case, sublinear counts) and logistic regression (C = 10), the usual text-only baseline.

    Args:
        train: rows with `text` and `label` to fit on.
        rows: rows to predict.
        classes: number of classes.

    Returns:
        name -> (N,) class numbers.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    labels = np.array(train["label"])
    majority = np.full(len(rows), np.bincount(labels, minlength=classes).argmax())
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\S+"),
        LogisticRegression(C=10, max_iter=1000),
    )
    found = {"majority": majority}
    try:
        model.fit(list(train["text"]), labels)
    except ValueError:  # no words at all in train: there is nothing to fit
        return found
    return found | {"tfidf_logistic_regression": model.predict(list(rows["text"]))}
