"""Calibration errors by hand and against scikit-learn; the temperature is found and leaves predictions alone."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import brier_score_loss, log_loss

from clfa.evidence.calibration import calibration, expected_error, reliability
from clfa.metrics import fit_temperature, rescale


@pytest.fixture
def sample():
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(1500, 3)) * 2
    probabilities = softmax(logits, axis=1)
    labels = np.array([generator.choice(3, p=row) for row in probabilities])
    return logits, probabilities, labels


def test_brier_and_nll_are_scikit_learns(sample):
    _, probabilities, labels = sample
    found = calibration(probabilities, labels, resamples=200)
    assert found.metrics["nll"].value == pytest.approx(log_loss(labels, probabilities), abs=1e-12)
    expected = brier_score_loss(labels, probabilities, labels=[0, 1, 2], scale_by_half=False)
    assert found.metrics["brier"].value == pytest.approx(expected, abs=1e-12)
    for score in found.metrics.values():
        assert score.low < score.high


def test_ece_by_hand():
    probabilities = np.array([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10)
    labels = np.array([0] * 9 + [1] + [0] * 3 + [1] * 7)
    assert calibration(probabilities, labels, 50).metrics["ece"].value == pytest.approx(0.5 * 0 + 0.5 * 0.3, abs=1e-12)
    bins = [(each.confidence, each.accuracy, each.posts) for each in reliability(probabilities, labels)]
    assert bins == [(pytest.approx(0.6), 0.3, 10), (pytest.approx(0.9), 0.9, 10)]
    assert expected_error(reliability(probabilities, labels)) == pytest.approx(0.15)


def test_calibrated_models_are_not_called_miscalibrated():
    """The interval of a perfectly calibrated model holds 0, and its error is what chance gives."""
    holds = below = 0
    for seed in range(40):
        generator = np.random.default_rng(seed)
        probabilities = softmax(generator.normal(size=(400, 3)) * 2, axis=1)
        labels = np.array([generator.choice(3, p=row) for row in probabilities])
        found = calibration(probabilities, labels, 200)
        holds += found.metrics["ece"].low <= 0.005
        below += found.metrics["ece"].value <= found.if_calibrated["ece"]
    assert holds >= 34
    assert below >= 34


def test_calibrated_sample_has_a_small_error(sample):
    _, probabilities, labels = sample
    found = calibration(probabilities, labels, resamples=200)
    assert found.metrics["ece"].value < 0.04
    assert found.metrics["adaptive_ece"].value < 0.04


def test_temperature_is_found_and_keeps_the_predictions(sample):
    logits, _, labels = sample
    sure = softmax(3 * logits, axis=1)
    temperature = fit_temperature(sure, labels)
    assert temperature == pytest.approx(3, rel=0.1)
    softer = rescale(sure, temperature)
    assert (softer.argmax(1) == sure.argmax(1)).all()
    assert softer.sum(1) == pytest.approx(np.ones(len(softer)))
    errors = [calibration(side, labels, 50).metrics["ece"].value for side in (softer, sure)]
    assert errors[0] < errors[1] / 3
    assert rescale(sure, 1.0) == pytest.approx(sure, abs=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("posts", [450, 2409])
@pytest.mark.parametrize("sharpness", [0.5, 1.5, 2.0])
def test_intervals_of_the_ece_cover_a_miscalibrated_model(posts, sharpness):
    """Confidences `sharpness` times too extreme in log odds: 92-98.5 % of 400 intervals hold the ECE of endless posts."""
    generator = np.random.default_rng([posts, int(10 * sharpness)])

    def sample(count: int) -> tuple[np.ndarray, np.ndarray]:
        odds = np.abs(generator.normal(1.2, 1.0, count))
        confidence, chance = (1 / (1 + np.exp(-factor * odds)) for factor in (sharpness, 1.0))
        return np.stack([1 - confidence, confidence], 1), (generator.random(count) < chance).astype(int)

    truth = expected_error(reliability(*sample(2_000_000)))
    hits = 0
    for _ in range(400):
        score = calibration(*sample(posts), resamples=400).metrics["ece"]
        hits += score.low <= truth <= score.high
    assert 0.92 <= hits / 400 <= 0.985
