"""`clfa fit`: a table in, a run directory out, chosen out of fold, tested once."""

import csv
import json

import numpy as np
import pytest
from conftest import picture, text

import clfa
from clfa.cli import main
from clfa.data.rows import load_split
from clfa.data.tables import guess_columns
from clfa.errors import UserError
from clfa.evidence.results import Fit, read_result
from clfa.model.encoders import load_encoder
from clfa.report.formats import terminal
from clfa.runs import Run
from clfa.studies.fine_tune import EPOCHS, MARGIN, _affordable, better_by_nll

WORD = {"happy": "word1 word2 word3", "sad": "word11 word12 word13"}


@pytest.fixture
def table(tmp_path):
    """posts.csv: the first words tell the class, for most; images say nothing; 120 posts."""
    (tmp_path / "photos").mkdir()
    with open(tmp_path / "posts.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["Tweet", "Photo", "Sentiment", "user"])
        for number in range(120):
            (tmp_path / "photos" / f"{number}.png").write_bytes(picture(number))
            label = ["happy", "sad"][number % 2]
            told = label if number % 10 else "sad"
            writer.writerow([f"{WORD[told]} {text(number)}", f"photos/{number}.png", label, "x"])
    return tmp_path / "posts.csv"


@pytest.fixture
def options(encoders):
    return {"text_encoder": str(encoders / "bert"), "image_encoder": str(encoders / "mobilenet")}


def test_table_to_model(table, options, tmp_path, caplog):
    caplog.set_level("INFO", "clfa")
    result = clfa.fit(table, tmp_path / "run", **options)
    assert "columns: id = id, text = Tweet, image = Photo, label = Sentiment" in caplog.text
    run = Run(tmp_path / "run")
    assert read_result(Fit, run.leaderboard_file) == result
    assert result.posts + result.test_posts == 120
    assert len(run.ledger_file.read_text().splitlines()) == 1, "test is opened once"
    values = [each.metrics["macro_f1"].value for each in result.tried]
    assert values == sorted(values, reverse=True)
    chosen = [each for each in result.tried if each.chosen]
    assert len(chosen) == 1
    assert chosen[0].verdict == "the best" or chosen[0].verdict.startswith("cannot tell")
    assert chosen[0].metrics["macro_f1"].value > 0.8 > result.test_floors["majority"]["macro_f1"].value
    assert result.test["accuracy"].value > 0.6
    assert len(chosen[0].modalities) <= 2
    page = terminal(result)
    assert "<- chosen" in page
    assert "test, 12 posts, opened once" in page
    assert run.card_file.is_file()
    assert run.report_file("test").is_file()
    predictions, rows = run.predictions("test"), load_split(tmp_path / "run" / "data", "test")
    answers = clfa.Predictor(run.path)(list(rows))
    assert [answer.predicted for answer in answers] == [predictions.class_names[n] for n in predictions.predicted]
    assert clfa.evaluate(run.path, "test", evidence=False).metrics == result.test

    stamp = run.model_file.stat().st_mtime_ns
    assert clfa.fit(table, tmp_path / "run", **options) == result
    assert run.model_file.stat().st_mtime_ns == stamp, "a finished fit is not done again"
    with pytest.raises(UserError, match="another fit"):
        clfa.fit(table, tmp_path / "run", metric="accuracy", **options)


def test_simple_wins_when_it_cannot_be_told(table, options, tmp_path):
    result = clfa.fit(table, tmp_path / "run", **options)
    chosen = next(each for each in result.tried if each.chosen)
    assert chosen.modalities == ["text"], "the images are noise"
    equal = [each for each in result.tried if each.verdict.startswith(("cannot tell", "the best"))]
    assert min(len(each.modalities) for each in equal) == 1


def test_goes_on_after_a_stop(table, options, tmp_path, monkeypatch):
    from clfa.studies import fit as module

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "evaluate", stop)
    with pytest.raises(KeyboardInterrupt):
        clfa.fit(table, tmp_path / "run", **options)
    monkeypatch.undo()
    result = clfa.fit(table, tmp_path / "run", **options)
    whole = clfa.fit(table, tmp_path / "whole", **options)
    assert result.test == whole.test
    assert [each.name for each in result.tried] == [each.name for each in whole.tried]


def test_texts_alone_and_a_decision_for_the_metric(options, tmp_path):
    with open(tmp_path / "rare.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number in range(200):
            label = "rare" if number % 10 == 0 else "usual"
            told = "sad" if (number % 10 == 0) == (number % 3 > 0) else "happy"
            writer.writerow([f"{WORD[told]} {text(number)}", label])
    result = clfa.fit(tmp_path / "rare.csv", tmp_path / "run", **options)
    chosen = next(each for each in result.tried if each.chosen)
    assert chosen.modalities == ["text"]
    assert chosen.shift > 0, "macro F1 needs the rare class to be named"
    offsets = json.loads(Run(tmp_path / "run").model_file.read_text())["offsets"]
    assert offsets[0] > offsets[1] > 0
    accurate = clfa.fit(tmp_path / "rare.csv", tmp_path / "accurate", metric="accuracy", **options)
    assert accurate.tried[0].metrics["accuracy"].value >= chosen.metrics["accuracy"].value


def test_a_fine_tuned_encoder_takes_over_when_it_is_told_better(options, tmp_path, caplog):
    """Which word comes first is nothing that the mean of an untrained encoder's states tells well."""
    caplog.set_level("INFO", "clfa")
    with open(tmp_path / "order.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "split"])
        for number in range(1_200):
            generator = np.random.default_rng(number)
            words = generator.permutation([f"word{place}" for place in range(40)])[:6].tolist()
            label = "low" if min(words[:1] + words[1:]) < "word14" else "high"
            split = "train" if number < 900 else "validation" if number < 1_050 else "test"
            writer.writerow([" ".join(words), label, split])
    result = clfa.fit(tmp_path / "order.csv", tmp_path / "run", metric="accuracy", **options)
    simple, tuned = result.on_validation
    assert "fine-tuned (all layers)" in tuned.name
    assert simple.chosen != tuned.chosen
    run = Run(tmp_path / "run")
    assert (run.config().model.probe is None) == tuned.chosen
    assert run.predictions("test").probabilities.shape == (150, 2)
    assert result.test == clfa.evaluate(run.path, "test", evidence=False).metrics
    if tuned.chosen:
        assert tuned.metrics["accuracy"].value > simple.metrics["accuracy"].value
        assert run.log()[-1]["epoch"] <= 3


def test_the_better_one_is_told_by_nll():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 400)
    sure = np.log(np.where(np.eye(3)[labels] > 0, 0.8, 0.1))
    unsure = np.log(np.where(np.eye(3)[labels] > 0, 0.4, 0.3))
    mean, low, high = better_by_nll(labels, sure, unsure)
    assert mean == pytest.approx(np.log(0.4 / 0.8))
    assert low <= mean <= high < 0
    noise = np.log(generator.dirichlet([5, 5, 5], 400))
    _, low, high = better_by_nll(labels, noise, noise[::-1])
    assert low < 0 < high


def test_layers_are_trained_as_the_time_allows(encoders):
    encoder = load_encoder(str(encoders / "bert"), "text")  # two layers
    whole = MARGIN * 3 * EPOCHS * 1_000 * 0.1
    assert _affordable(encoder, 0.1, 1_000, whole + 1) == (None, whole)
    trained, expected = _affordable(encoder, 0.1, 1_000, whole - 1)
    assert trained == 1
    assert expected == pytest.approx(1_000 * 0.1 * (0.5 + MARGIN * 3 * EPOCHS * 0.5))
    assert _affordable(encoder, 0.1, 1_000, 1)[1] > 1


def test_a_budget_of_nothing_gives_the_first_model(table, options, tmp_path):
    result = clfa.fit(table, tmp_path / "run", minutes=0, **options)
    assert [each.chosen for each in result.tried] == [True]


def test_a_whole_fit_in_each_fold(dataset, options, tmp_path):
    folds = [clfa.fit(dataset, tmp_path / f"fold-{fold}", folds=2, fold=fold, **options) for fold in range(2)]
    assert sum(each.test_posts for each in folds) == 40
    ids = [Run(tmp_path / f"fold-{fold}").predictions("test").ids for fold in range(2)]
    assert len(np.unique(ids[0] + ids[1])) == 40


def test_columns_are_guessed_or_asked_for(tmp_path, capsys):
    path = tmp_path / "posts.csv"
    path.write_text("words,mood\na b,x\nc d,y\n")
    with pytest.raises(
        UserError, match=r"which column is the label\? Say --column label=COLUMN; there are words, mood"
    ):
        guess_columns(str(path), {})
    with pytest.raises(UserError, match="which column is the text"):
        guess_columns(str(path), {"label": "mood"})
    with pytest.raises(UserError, match="no column 'moods'"):
        guess_columns(str(path), {"label": "moods"})
    assert guess_columns(str(path), {"label": "mood", "text": "words"})["text"] == "words"
    assert (
        main(["fit", str(path), "--out", str(tmp_path / "run"), "--metric", "nonsense", "--column", "label=mood"]) == 2
    )
    assert "which column is the text" in capsys.readouterr().err
