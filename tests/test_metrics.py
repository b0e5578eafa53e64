"""Metrics equal scikit-learn's; intervals cover; McNemar is SciPy's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.stats import binomtest
from sklearn import metrics as sk

from clfa.evidence.significance import mcnemar
from clfa.metrics import bootstrap, confusion, interval, measure, over_runs, scores


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


def test_interval_over_runs_by_hand():
    """All posts answered alike by all runs but for the runs' own spread: Student's t interval of the runs' values."""
    labels = np.zeros(100_000, dtype=int)
    values = [0.70, 0.74, 0.72]
    runs = np.stack([(np.arange(100_000) >= 100_000 * value).astype(int) for value in values])
    found = over_runs(labels, runs, 2)["accuracy"]
    error = np.std(values, ddof=1) / 3**0.5
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 2, 0.72, error), abs=0.002)
    assert (found.value, found.sd, found.n) == (pytest.approx(0.72), pytest.approx(0.02), 3)


def test_no_interval_is_a_point():
    """Five posts, all right or none: the exact binomial interval, with one run and with three."""
    exact = binomtest(5, 5).proportion_ci(0.95)
    labels = np.array([0, 1, 0, 1, 1])
    for scored in (measure(labels, labels, 2), over_runs(labels, np.stack([labels] * 3), 2)):
        assert (scored["accuracy"].low, scored["accuracy"].high) == pytest.approx((exact.low, 1.0))
    wrong = measure(labels, 1 - labels, 2)["accuracy"]
    assert (wrong.low, wrong.high) == pytest.approx((0.0, 1 - exact.low))


@pytest.mark.slow
@pytest.mark.parametrize("posts", [450, 2409])
@pytest.mark.parametrize("runs", [3, 5, 10])
def test_intervals_of_systems_cover_their_true_score(runs, posts):
    """93-97 % of 1,000 simulations: runs differ in quality, posts in difficulty, alike for all runs of a test set."""
    level, difficulty, quality = 0.8, 1.0, 0.06  # in units of a standard normal
    scale = (1 + difficulty**2 + quality**2) ** 0.5
    truth = stats.norm.cdf(level / scale)
    generator = np.random.default_rng([runs, posts])
    hits = {"accuracy": 0, "macro_f1": 0}
    for _ in range(1000):
        labels = np.arange(posts) % 2
        shared = level + difficulty * generator.normal(size=posts)
        own = quality * generator.normal(size=(runs, 1)) + generator.normal(size=(runs, posts))
        found = over_runs(labels, np.where(shared + own > 0, labels, 1 - labels), 2, resamples=400)
        for name in hits:  # with balanced classes and equal errors the true macro F1 is the true accuracy
            hits[name] += found[name].low <= truth <= found[name].high
    for name, count in hits.items():
        assert 0.93 <= count / 1000 <= 0.97, (name, count)


def test_mcnemar_is_exact():
    labels = np.zeros(30, dtype=int)
    first, second = labels.copy(), labels.copy()
    first[:3], second[3:13] = 1, 1
    assert mcnemar(labels, first, second) == (10, 3, binomtest(10, 13).pvalue)
    assert mcnemar(labels, first, first) == (0, 0, 1.0)
