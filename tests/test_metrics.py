"""Metrics equal scikit-learn's; intervals cover; McNemar is SciPy's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn import metrics as sk

from clfa.metrics import bootstrap, bootstrap_seeds, confusion, interval, mcnemar, scores


@settings(max_examples=200, deadline=None)
@given(st.integers(2, 5), st.integers(1, 60), st.integers(0, 10_000))
def test_scores_are_scikit_learns(classes, count, seed):
    generator = np.random.default_rng(seed)
    labels, predictions = generator.integers(0, classes, count), generator.integers(0, classes, count)
    found = scores(confusion(labels, predictions, classes))
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(labels, predictions), abs=1e-12)
    for average in ("macro", "weighted", "binary") if classes == 2 else ("macro", "weighted"):
        expected = sk.precision_recall_fscore_support(labels, predictions, average=average, zero_division=0)
        for name, value in zip(("precision", "recall", "f1"), expected):
            assert found[f"{average}_{name}"] == pytest.approx(value, abs=1e-12)


def test_binary_scores_are_of_class_one_and_only_with_two_classes():
    assert scores(np.array([[8, 2], [1, 9]]))["binary_recall"] == pytest.approx(0.9)
    assert not any(name.startswith("binary") for name in scores(np.eye(3)))


def test_confusion_rows_are_labels():
    assert confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist() == [[1, 1], [0, 1]]


def test_bootstrap_agrees_with_resampling_rows():
    matrix = np.array([[70, 10], [20, 50]])
    labels, predictions = np.repeat([0, 0, 1, 1], matrix.ravel()), np.repeat([0, 1, 0, 1], matrix.ravel())
    generator = np.random.default_rng(0)
    draws = []
    for _ in range(4000):
        rows = generator.integers(150, size=150)
        draws.append(sk.f1_score(labels[rows], predictions[rows], average="macro"))
    assert bootstrap(matrix)["macro_f1"] == pytest.approx(interval(np.array(draws)), abs=0.006)


def test_bootstrap_covers_the_truth():
    generator = np.random.default_rng(1)
    hits = 0
    for trial in range(400):
        right = generator.binomial(500, 0.8)
        low, high = bootstrap(np.array([[right, 500 - right], [0, 0]]), 1000, seed=trial)["accuracy"]
        hits += low <= 0.8 <= high
    assert 0.92 <= hits / 400 <= 0.98


def test_bootstrap_over_seeds_is_paired_and_wider_with_spread():
    labels = np.random.default_rng(0).integers(0, 2, 300)
    steady = np.stack([labels ^ (np.random.default_rng(1).random(300) < 0.2)] * 3).astype(int)
    spread = np.stack([labels ^ (np.random.default_rng(n).random(300) < p) for n, p in enumerate((0.05, 0.2, 0.35))])
    width = [np.ptp(interval(bootstrap_seeds(labels, found.astype(int), 2)["accuracy"])) for found in (steady, spread)]
    assert width[1] > 1.5 * width[0]
    same = bootstrap_seeds(labels, steady, 2)["macro_f1"] - bootstrap_seeds(labels, steady, 2)["macro_f1"]
    assert not same.any()


def test_mcnemar_is_exact():
    labels = np.zeros(30, dtype=int)
    first, second = labels.copy(), labels.copy()
    first[:3], second[3:13] = 1, 1
    assert mcnemar(labels, first, second) == (10, 3, binomtest(10, 13).pvalue)
    assert mcnemar(labels, first, first) == (0, 0, 1.0)
