"""`clfa fit`: a table in, a run directory out, chosen out of fold, tested once."""

import csv
import json
import math
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import picture, text
from safetensors.torch import load_file

import clfa
from clfa.cli import main
from clfa.config import DataConfig, ModalityConfig, ProbeConfig
from clfa.data.guessing import guess_columns
from clfa.data.rows import load_split
from clfa.errors import TimeUp, UserError
from clfa.evidence.results import Fit, read_result
from clfa.model.classifier import Classifier
from clfa.model.pipeline import Pipeline
from clfa.model.probe import Probe
from clfa.report.formats import terminal
from clfa.runs import Run
from clfa.serving.files import predict_file
from clfa.studies import networks
from clfa.studies.candidates import Candidate, Trial, choose, decide
from clfa.studies.contest import Contest, contest
from clfa.studies.fit import _keep
from clfa.studies.networks import EPOCHS, MARGIN, _affordable, fine_tune
from clfa.training.probe import Fitted
from clfa.training.train import train

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
    assert "columns: text = Tweet, image = Photo, label = Sentiment" in caplog.text
    run = Run(tmp_path / "run")
    assert read_result(Fit, run.leaderboard_file) == result
    assert result.posts + result.test_posts == 120
    assert len(run.ledger_file.read_text().splitlines()) == 1, "test is opened once"
    values = [each.metrics["macro_f1"].value for each in result.tried]
    assert values == sorted(values, reverse=True)
    chosen = [each for each in result.tried if each.chosen]
    assert len(chosen) == 1
    assert chosen[0].verdict == "the best" or chosen[0].verdict.startswith("cannot tell")
    assert chosen[0].metrics["macro_f1"].value > 0.8 > result.floors["majority"]["macro_f1"].value
    assert result.metrics["accuracy"].value > 0.6
    assert chosen[0].modalities == ["text"], "the images are noise, and simple wins"
    page = terminal(result)
    assert page.count("taken") == 1 + bool(result.on_validation)
    assert "test, 12 posts, opened once" in page
    assert run.card_file.is_file()
    cues = json.loads(run.cues_file.read_text())
    assert sum(cues["posts"]) == result.posts, "no test post is counted"
    assert {("word2 word3", "happy")} <= {(one["cue"], one["label"]) for one in cues["cues"]}
    report = run.report_file("test").read_text()
    assert "What was tried" in report
    assert all(each.name in report for each in result.tried)
    assert "None" not in report
    predictions, rows = run.predictions("test"), load_split(tmp_path / "run" / "data", "test")
    answers = clfa.Predictor(run.path)(list(rows))
    assert [answer.predicted for answer in answers] == [predictions.class_names[n] for n in predictions.predicted]
    assert clfa.evaluate(run.path, "test", evidence=False).metrics == result.metrics

    stamp = run.model_file.stat().st_mtime_ns
    assert clfa.fit(table, tmp_path / "run", **options) == result
    assert run.model_file.stat().st_mtime_ns == stamp, "a finished fit is not done again"
    with pytest.raises(UserError, match=r"another fit \(metric differ"):
        clfa.fit(table, tmp_path / "run", metric="accuracy", **options)
    table.write_text(table.read_text().replace("word1", "word2"))
    with pytest.raises(UserError, match="holds another table"):
        clfa.fit(table, tmp_path / "run", **options)


@pytest.mark.slow
def test_goes_on_after_a_stop(table, options, tmp_path, monkeypatch):
    import sys

    module = sys.modules[clfa.fit.__module__]

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "evaluate", stop)
    with pytest.raises(KeyboardInterrupt):
        clfa.fit(table, tmp_path / "run", **options)
    monkeypatch.undo()
    result = clfa.fit(table, tmp_path / "run", **options)
    whole = clfa.fit(table, tmp_path / "whole", **options)
    assert result.metrics == whole.metrics
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
    assert f"plus {offsets[0]:.2f} (rare), {offsets[1]:.2f} (usual)" in Run(tmp_path / "run").card_file.read_text()
    accurate = clfa.fit(tmp_path / "rare.csv", tmp_path / "accurate", metric="accuracy", **options)
    assert accurate.tried[0].metrics["accuracy"].value >= chosen.metrics["accuracy"].value


def test_a_fine_tuned_encoder_takes_over_when_it_is_told_better(table, options, tmp_path):
    clfa.fit(table, tmp_path / "run", minutes=0, **options)
    data = DataConfig(str(tmp_path / "run" / "data"))
    modalities = {"text": ModalityConfig("text", options["text_encoder"], frozen=True)}
    with pytest.raises(TimeUp, match=r"would take about \d+ seconds, and 0 were left; --minutes \d+ leaves enough"):
        fine_tune(data, modalities, ("text",), tmp_path / "candidate", time.monotonic(), 0.1)
    tuned = fine_tune(data, modalities, ("text",), tmp_path / "candidate", math.inf, 0.1)
    assert "fine-tuned (all layers)" in tuned.name
    validation = load_split(data.path, "validation")
    labels = validation.labels
    chosen = trial(np.log(np.full((len(labels), 2), 0.5)), labels)
    sure = np.log(np.where(np.eye(2)[labels] > 0, 0.999, 0.001))

    def compared(of_simple, of_tuned):
        other = replace(tuned, log_probabilities=of_tuned)
        result = contest(trial(of_simple, labels), {"fine_tuned": other}, labels, labels, "macro_f1")
        return result.table, result.taken

    told, taken = compared(chosen.decided.log_probabilities, sure)
    assert taken == "fine_tuned"
    assert [each.chosen for each in told] == [False, True, False]
    assert told[1].verdict.startswith("better: NLL")
    assert told[2].verdict.startswith("worse: NLL")  # than the one that had taken over
    kept, taken = compared(sure, sure[:, ::-1])
    assert taken == "simple"
    assert [each.chosen for each in kept] == [True, False, False]
    assert kept[1].verdict.startswith("worse: NLL")
    # each is sure and wrong where the other is right: their mean knows that
    half = np.arange(len(labels)) % 2 == 0
    unsure = np.log(np.where(np.eye(2)[labels] > 0, 0.4, 0.6))
    _, taken = compared(np.where(half[:, None], sure, unsure), np.where(half[:, None], unsure, sure))
    assert taken == "blend"
    assert contest(chosen, {}, labels, labels, "macro_f1") == Contest([], "simple")
    worse = replace(tuned, log_probabilities=sure[:, ::-1])
    two = contest(
        chosen, {"fused": worse, "fine_tuned": replace(tuned, log_probabilities=sure)}, labels, labels, "macro_f1"
    )
    assert (two.taken, two.blended) == ("fine_tuned", "fine_tuned")
    assert [each.verdict.split(":")[0] for each in two.table[1:]] == ["worse", "better", "worse"]

    own = Run(tmp_path / "taken")
    probe_of_run = Run(tmp_path / "run").config().model.probe
    simple = trial(np.log(np.full((len(labels), 2), 0.5)), labels, probe_of_run)
    simple = replace(simple, fitted=replace(simple.fitted, probe=Classifier.from_pretrained(tmp_path / "run").probe))
    settings = (data, modalities, simple, {"fine_tuned": replace(tuned, temperature=2.0)})
    _keep(own, *settings, Contest([], "fine_tuned", "fine_tuned"), [0.0, 50.0], None)
    rows = load_split(data.path, "test")
    before, after = Pipeline.load(tuned.run.path).logits(rows), Pipeline.load(own.path).logits(rows)
    assert torch.allclose(before / 2, after, atol=1e-5)
    assert own.is_finished
    assert own.log() == tuned.run.log()
    clfa.evaluate(own.path, "test", evidence=False)
    assert set(own.predictions("test").predicted.tolist()) == {1}

    both = Run(tmp_path / "both")
    _keep(both, *settings, Contest([], "blend", "fine_tuned"), [0.0, 0.0], None)
    of_probe = Pipeline.load(tmp_path / "run").logits(rows).log_softmax(1)
    mean = (of_probe + after.log_softmax(1)) / 2
    assert torch.allclose(Pipeline.load(both.path).logits(rows), mean, atol=1e-5)
    result = clfa.evaluate(both.path, "test")
    answers = clfa.Predictor(both.path)(list(rows))
    names = both.predictions("test")
    assert [answer.predicted for answer in answers] == [names.class_names[n] for n in names.predicted]
    assert result.calibration is not None
    with pytest.raises(UserError, match=r"model\.members is for runs"):
        train(replace(both.config(), output=str(tmp_path / "again")))


def trial(log_probabilities, labels, probe=None):
    """A trial that says this of the posts, and decides for the most probable class."""
    candidate = Candidate(("text",), probe or ProbeConfig())
    return Trial(candidate, Fitted(Probe(), log_probabilities, 1.0), decide(log_probabilities, labels, "macro_f1"))


def test_the_simplest_is_taken_only_if_neither_metric_nor_nll_tells_it_from_the_best():
    labels = np.arange(2_000) % 2
    generator = np.random.default_rng(0)
    right = np.eye(2)[labels] > 0

    def says(probability):
        return np.log(np.where(right, probability[:, None], 1 - probability[:, None]))

    best = trial(says(np.where(generator.random(2_000) < 0.8, 0.9, 0.2)), labels)
    correct = np.exp(best.decided.log_probabilities)[right] > 0.5
    same = says(np.where(correct, 0.9, 0.2) + generator.uniform(-0.01, 0.01, 2_000))
    vague = says(np.where(correct, 0.55, 0.45))
    simple = ProbeConfig("logistic_regression")
    for other, word, taken in ((same, "cannot tell", 1), (vague, "worse: NLL", 0)):
        judged, chosen = choose([best, trial(other, labels, simple)], labels, 2, "macro_f1")
        assert judged[1].verdict.startswith(word)
        assert chosen is judged[taken]

    # many settings of the best kind are no reason to believe less in the difference between kinds
    settings = [trial(same, labels, ProbeConfig("svm", 3.0 + number)) for number in range(1, 30)]
    judged, chosen = choose([best, *settings, trial(vague, labels, simple)], labels, 2, "macro_f1")
    assert chosen is judged[0]
    assert {each.verdict.split(":")[0] for each in judged[1:-1]} == {"another setting"}
    alone = choose([best, trial(vague, labels, simple)], labels, 2, "macro_f1")[0]
    assert judged[-1].verdict == alone[1].verdict


@pytest.mark.slow
def test_a_teacher_brings_a_fusion_with_chosen_alignment(dataset, encoders, options, tmp_path):
    asked = {"text-encoder": options["text_encoder"], "image-encoder": options["image_encoder"]}
    asked |= {"out": str(tmp_path / "run"), "teacher": str(encoders / "clip")}
    assert main(["fit", str(dataset), *[f"--{name}={value}" for name, value in asked.items()]]) == 0
    result = read_result(Fit, tmp_path / "run" / "leaderboard.json")
    fused = next(each for each in result.on_validation if "fused" in each.name)
    assert fused.name.startswith("text and image fused, alignment chosen: ")
    assert result.asked["teacher"] == str(encoders / "clip")
    candidates = tmp_path / "run" / "candidates" / "fused" / "candidates"
    assert len(list(candidates.iterdir())) == 7
    assert (tmp_path / "run" / "model.json").is_file()


@pytest.mark.slow
def test_encoders_without_weights_are_drawn_once_and_trained(dataset, encoders, tmp_path):
    for kind, name in (("text", "bert"), ("image", "mobilenet")):
        shutil.copytree(encoders / name, tmp_path / kind)
        (tmp_path / kind / "model.safetensors").unlink()
    folders = {f"{kind}_encoder": str(tmp_path / kind) for kind in ("text", "image")}
    result = clfa.fit(dataset, tmp_path / "run", teacher=str(encoders / "clip"), **folders)
    drawn = load_file(tmp_path / "run" / "encoders" / "image" / "model.safetensors")
    assert drawn
    fused = Run(tmp_path / "run" / "candidates" / "fused").config()
    assert not any(modality.frozen for modality in fused.model.modalities.values())
    assert not any("fine-tuned" in each.name for each in result.on_validation)
    again = clfa.fit(dataset, tmp_path / "again", teacher=str(encoders / "clip"), **folders)
    assert again.tried[0].metrics == result.tried[0].metrics


def test_a_data_frame_of_paths(table, options, tmp_path, monkeypatch):
    import pandas

    monkeypatch.chdir(table.parent)  # paths are as in Python: relative to where it runs
    frame = pandas.read_csv(table)
    result = clfa.fit(frame, tmp_path / "run", minutes=0, **options)
    of_file = clfa.fit(table, tmp_path / "file", minutes=0, **options)
    assert result.metrics == of_file.metrics
    assert clfa.fit(frame, tmp_path / "run", minutes=0, **options) == result, "the same frame: finished before"
    with pytest.raises(UserError, match="holds another table"):
        clfa.fit(frame.iloc[:-1], tmp_path / "run", minutes=0, **options)


def test_images_alone(table, options, tmp_path):
    with open(table) as source, open(tmp_path / "images.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["photo", "label"])
        writer.writerows([row["Photo"], row["Sentiment"]] for row in csv.DictReader(source))
    result = clfa.fit(tmp_path / "images.csv", tmp_path / "run", minutes=0, **options)
    assert [each.modalities for each in result.tried] == [["image"]]
    columns = {"id": "id", "text": "text", "image": "photo"}
    counts = predict_file(tmp_path / "run", tmp_path / "images.csv", tmp_path / "out.csv", columns)
    assert counts["predicted"] == 120


def test_layers_are_trained_as_the_time_allows():
    whole = MARGIN * 3 * EPOCHS * 1_000 * 0.1
    half = 1_000 * 0.1 * (0.5 + MARGIN * 3 * EPOCHS * 0.5)
    assert _affordable([None, 1], 2, 0.1, 1_000, whole + 1) == (None, pytest.approx(whole))
    assert _affordable([None, 1], 2, 0.1, 1_000, whole - 1) == (1, pytest.approx(half))
    assert _affordable([None, 1], 2, 0.1, 1_000, 1) == (1, pytest.approx(half)), "the cheapest, which does not fit"
    assert _affordable([None], 0, 0.1, 1_000, 1) == (None, pytest.approx(whole)), "a network without layers"


def test_a_stopped_fit_goes_on_with_other_time_and_another_simple_model(dataset, options, tmp_path):
    """What was trained to its end is taken; what was begun with other layers or beside other modalities is no obstacle."""
    data = DataConfig(str(dataset))
    frozen = {kind: ModalityConfig(kind, options[f"{kind}_encoder"], frozen=True) for kind in ("text", "image")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "_affordable", lambda *_: (1, 0.0))
        last = fine_tune(data, frozen, ("text",), tmp_path, math.inf, 0.1)
        beside = fine_tune(data, frozen, ("text", "image"), tmp_path, math.inf, 0.1)
        patch.setattr(networks, "_affordable", lambda *_: (None, 0.0))
        assert fine_tune(data, frozen, ("text",), tmp_path, math.inf, 0.1).name == last.name
        (tmp_path / "text-1" / "metrics.json").unlink()  # as if it had been stopped
        every = fine_tune(data, frozen, ("text",), tmp_path, math.inf, 0.1)
    assert (last.run.path.name, beside.run.path.name, every.run.path.name) == ("text-1", "text-image-1", "text-all")
    assert fine_tune(data, frozen, ("text",), tmp_path, 0.0, 0.1).name == every.name, (
        "it was trained before: no time is needed"
    )


def test_a_budget_of_nothing_gives_the_first_model(table, options, tmp_path):
    result = clfa.fit(table, tmp_path / "run", minutes=0, **options)
    assert [each.chosen for each in result.tried] == [True]
    assert len(result.left_out) == 2
    assert "--minutes" in result.left_out[1]
    assert "left out for lack of time (0 minutes):\n  logistic regression on image" in terminal(result)


def test_more_minutes_go_on_with_what_was_left_out(table, options, tmp_path):
    short = clfa.fit(table, tmp_path / "run", minutes=0, **options)
    assert clfa.fit(table, tmp_path / "run", minutes=0, **options) == short
    long = clfa.fit(table, tmp_path / "run", **options)
    assert len(long.tried) > len(short.tried)
    assert long.on_validation
    assert long.left_out == []
    assert (short.openings, long.openings) == (1, 2)
    assert "opened 2 times" in terminal(long)
    assert clfa.fit(table, tmp_path / "run", minutes=1_000, **options) == long, "nothing was left out"


@pytest.mark.slow
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
