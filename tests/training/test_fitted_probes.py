"""Probes: what scikit-learn computes, calibrated out of fold, as runs like any other."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC

import clfa
from clfa.config import ProbeConfig
from clfa.data.rows import load_split
from clfa.errors import UserError
from clfa.model.pipeline import Pipeline
from clfa.runs import Run
from clfa.training.probe import _Head, _kernel, _scores_of, _standardisation, fit_probe
from clfa.training.setup import set_up
from clfa.training.train import train

NAMES = ("logistic_regression", "svm", "mlp")


def posts(count=240, classes=3, seed=0):
    """Features of two modalities whose means depend on the class."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = generator.normal(size=(classes, 12)) * 1.5
    values = (centres[labels] + generator.normal(size=(count, 12))).astype(np.float32)
    return {"text": values[:, :8] * 3 + 1, "image": values[:, 8:]}, labels


def head(settings, features, classes, balanced=False):
    arrays = _standardisation(settings, features)
    arrays["gamma"] = torch.tensor(0.5)
    return _Head(settings, arrays, classes, balanced)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("name", NAMES)
def test_scores_are_those_of_scikit_learn(name, classes):
    features, labels = posts(classes=classes)
    settings = ProbeConfig(name, 2.0, {"image": 0.5})
    joined = np.concatenate(list(features.values()), 1)
    raw = head(settings, features, classes).fit(joined, labels)
    z = (joined - joined.mean(0)) / joined.std(0)
    if name != "mlp":
        z[:, :8] /= np.sqrt(8)
        z[:, 8:] /= np.sqrt(4)
    z[:, 8:] *= 0.5
    ours = _scores_of(raw, joined)
    if name == "svm":
        reference = SVC(C=2.0, gamma=0.5, decision_function_shape="ovo").fit(z, labels).decision_function(z)
        reference = reference.reshape(len(labels), -1)
        np.testing.assert_allclose(np.abs(ours), np.abs(reference), atol=2e-3)
    elif name == "logistic_regression":
        reference = LogisticRegression(C=2.0, max_iter=1000).fit(z, labels).predict_proba(z)
        np.testing.assert_allclose(torch.from_numpy(ours).softmax(1).numpy(), reference, atol=2e-3)
    else:
        model = MLPClassifier((512,), alpha=0.5, early_stopping=True, max_iter=1000, random_state=0)
        reference = model.fit(z.astype(np.float32), labels).predict_proba(z.astype(np.float32))
        assert (ours.argmax(1) == reference.argmax(1)).mean() > 0.97  # the same up to rounding on its way


@pytest.mark.parametrize("name", NAMES)
def test_out_of_fold_is_honest_and_calibrated(name):
    features, labels = posts(300)
    fitted = fit_probe(ProbeConfig(name), features, labels, 3)
    assert (fitted.out_of_fold.argmax(1) == labels).mean() > 0.8
    right = fitted.out_of_fold.argmax(1) == labels
    assert abs(np.exp(fitted.out_of_fold.max(1)).mean() - right.mean()) < 0.05
    shuffled = np.random.default_rng(1).permutation(labels)
    lost = fit_probe(ProbeConfig(name), features, shuffled, 3)
    assert (lost.out_of_fold.argmax(1) == shuffled).mean() < 0.45


def test_posts_of_one_group_are_on_one_side():
    features, labels = posts(60)
    twice = {name: np.concatenate([values, values]) for name, values in features.items()}
    shuffled = np.tile(np.random.default_rng(0).permutation(labels), 2)
    groups = [str(number % 60) for number in range(120)]
    free, grouped = (fit_probe(ProbeConfig("svm", 100.0), twice, shuffled, 3, own) for own in (None, groups))
    assert (free.out_of_fold.argmax(1) == shuffled).mean() > 0.7  # the twin gives the label away
    assert (grouped.out_of_fold.argmax(1) == shuffled).mean() < 0.5


@pytest.mark.parametrize("name", NAMES)
def test_missing_modalities_and_rare_classes(name):
    features, labels = posts(90)
    features["image"][::2] = np.nan
    labels[labels == 2] = 1
    labels[0] = 2  # one post alone: no folds
    fitted = fit_probe(ProbeConfig(name), features, labels, 4)  # and a class without a post
    logits = fitted.probe(torch.from_numpy(np.concatenate(list(features.values()), 1)))
    assert torch.isfinite(logits).all()
    assert not (logits.argmax(1) == 3).any()
    nothing = fitted.probe(torch.full((1, 12), torch.nan))
    means = np.concatenate([np.nanmean(values, 0) for values in features.values()])
    assert torch.allclose(nothing, fitted.probe(torch.from_numpy(means)[None].float()), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_probe_is_a_run_like_any_other(run_config, dataset, name, tmp_path):
    frozen = {f"model__modalities__{kind}__frozen": True for kind in ("text", "image")}
    config = run_config(**frozen, model__probe={"name": name}, output=str(tmp_path / name))
    run = train(config)
    result = clfa.evaluate(run, "test")
    assert result.rows == 8
    predictions = Run(run).predictions("test")
    pipeline = Pipeline.load(run)  # reads images, not the cache
    rows = load_split(dataset, "test")
    np.testing.assert_allclose(pipeline.probabilities(rows), predictions.probabilities, atol=1e-3)
    answers = clfa.Predictor(run)([{"text": "word1 word2", "image": None}, {"text": "", "image": rows[0]["image"]}])
    assert all(abs(sum(answer.probabilities.values()) - 1) < 1e-4 for answer in answers)
    probed = clfa.probe(run, "test", posts=8, corrupted=0)
    assert probed.metrics["accuracy"].value == result.metrics["accuracy"].value
    assert train(config) == run  # finished: nothing is fitted again
    assert not list(run.rglob("*.pkl")) + list(run.rglob("*.pickle"))


def test_validation_is_trained_on_only_by_probes(run_config, dataset):
    frozen = {f"model__modalities__{kind}__frozen": True for kind in ("text", "image")}
    both = {"data__train_splits": ["train", "validation"]}
    with pytest.raises(UserError, match="chooses the epoch"):
        train(run_config(**both))
    with pytest.raises(UserError, match="allowed are"):
        train(run_config(data__train_splits=["train", "test"]))
    run = Run(train(run_config(**frozen, **both, model__probe={})))
    assert run.metrics()["training"]["train_rows"] == 32
    assert clfa.evaluate(run.path, "test").calibration.temperature is None
    with pytest.raises(UserError, match="frozen to true"):
        set_up(run_config(model__probe={}))


def test_decisions_follow_the_offsets(run_config, dataset):
    frozen = {f"model__modalities__{kind}__frozen": True for kind in ("text", "image")}
    run = train(run_config(**frozen, model__probe={}))
    pipeline = Pipeline.load(run)
    pipeline.model.offsets = [0.0, 50.0]
    pipeline.model.save_pretrained(run)
    result = clfa.evaluate(run, "test")
    assert set(Run(run).predictions("test").predicted.tolist()) == {1}
    assert [sum(column) for column in zip(*result.confusion)] == [0, 8]
    answer = clfa.Predictor(run)([{"text": "word1", "image": None}])[0]
    assert answer.predicted == "yes"
    assert max(answer.probabilities.values()) < 0.9, "the probabilities stay what they are"


def test_the_kernel_of_any_scales_follows_from_distances_that_are_computed_once():
    from sklearn.metrics.pairwise import rbf_kernel

    features, labels = posts()
    features["image"][3] = np.nan
    kept = {}
    for scales in ({}, {"image": 0.3}):
        settings = ProbeConfig("svm", 3.0, scales)
        own = head(settings, features, 3)
        z = own.standardised(np.concatenate(list(features.values()), 1))
        np.testing.assert_allclose(_kernel(settings, features, 0.7, kept), rbf_kernel(z, gamma=0.7), atol=1e-5)
        again = fit_probe(settings, features, labels, 3, distances=kept)
        np.testing.assert_allclose(again.out_of_fold, fit_probe(settings, features, labels, 3).out_of_fold, atol=1e-6)
        joined = torch.from_numpy(np.concatenate(list(features.values()), 1))
        assert (again.probe(joined).argmax(1).numpy() == labels).mean() > 0.9, "the kept probe is the fitted one"
    assert set(kept) == {"text", "image"}
    kept["text"][:] = 0  # what is kept is read
    assert not np.allclose(fit_probe(settings, features, labels, 3, distances=kept).out_of_fold, again.out_of_fold)
