"""What an evaluation says beyond the score: de-duplicated, neutralised, groups, calibration, ledger, card."""

import json
import shutil

import numpy as np
import pytest
import yaml
from conftest import make_dataset, picture, text
from huggingface_hub import ModelCardData

from clfa import commands
from clfa.config import DataConfig, read_yaml
from clfa.data.records import Record
from clfa.data.rows import load_split
from clfa.data.writing import write_dataset
from clfa.errors import UserError
from clfa.evidence import floors
from clfa.evidence.cues import count_format
from clfa.evidence.evaluate import evaluate
from clfa.evidence.results import Evaluation, from_dict
from clfa.model.teacher import embed_dataset, teacher_key
from clfa.report.page import write_card
from clfa.runs import Run
from clfa.training.train import train


@pytest.fixture(scope="module")
def posts(tmp_path_factory):
    """Test posts 0-4 repeat training posts; 5-24 carry hashtags, emoji, digits and ellipses."""
    folder = tmp_path_factory.mktemp("evaluate") / "posts"

    def rows():
        for split, count in (("train", 40), ("validation", 24), ("test", 50)):
            for number in range(count):
                seed = number + 1000 * len(split)
                words, image = text(seed, 7), picture(seed)
                if split == "test" and number < 5:
                    words = text(number + 1000 * len("train"), 7).upper()
                if split == "test" and 5 <= number < 25:
                    words += " #tag emoji_7 22 ..."
                yield split, Record(f"{split}-{number}", words, image, ["no", "yes"][number % 2])

    write_dataset(rows(), folder, ["no", "yes"], {"reader": "test", "name": "posts", "filters": ["none at all"]})
    return folder


@pytest.fixture
def run(run_config, posts):
    return train(run_config(data__path=str(posts), train__epochs=1))


def test_evidence(run, posts):
    result = commands.evaluate(str(run), split="test")
    assert from_dict(Evaluation, Run(run).metrics()["test"]) == result
    found = Run(run).predictions("test")
    right = found.labels == found.predicted
    kept = result.deduplicated
    assert (kept.left_out, kept.rows) == (5, 45)
    assert kept.metrics["accuracy"].value == pytest.approx(right[5:].mean())
    changed = {name: flip.posts for name, flip in result.flips.items()}
    assert changed == {"hashtags": 20, "emoji": 20, "ellipsis": 20, "digits to <num>": 20}
    for flip in result.flips.values():
        assert flip.rate.value == flip.flipped / flip.posts
        assert flip.rate.low <= flip.rate.value <= flip.rate.high
    assert result.neutralised.changed == 20
    assert result.neutralised.rows == 50
    groups = result.groups
    assert (groups["with a hashtag"].rows, groups["without a hashtag"].rows) == (20, 30)
    mask = np.array(["#" in words for words in load_split(posts, "test")["text"]])
    assert groups["with a hashtag"].metrics["accuracy"].value == pytest.approx(right[mask].mean())
    errors = result.calibration.before.metrics
    assert errors["nll"].value == pytest.approx(-np.log(found.probabilities[np.arange(50), found.labels]).mean())
    assert errors["ece"].value == pytest.approx(result.ece)
    assert (run / "predictions" / "validation.parquet").is_file()  # the temperature is fitted there
    assert set(result.floors) == {"majority", "format_only", "tfidf_logistic_regression", "teacher_svm"}
    page = (run / "report-test.html").read_text()
    for title in ("Formatting cues", "Groups of posts", "posts not in the training set", "adaptive ECE"):
        assert title in page


def test_flips_are_those_of_the_model(run, posts):
    """A flip is what predicting the changed text as a new post says."""
    from clfa.evidence.cues import FLIPS
    from clfa.serving.predictor import Predictor

    result = evaluate(run, "test")
    predictor = Predictor(run)
    rows = load_split(posts, "test")
    old = [found.predicted for found in predictor([dict(row) for row in rows])]
    new = [found.predicted for found in predictor([{**row, "text": FLIPS["hashtags"](row["text"])} for row in rows])]
    assert result.flips["hashtags"].flipped == sum(one != two for one, two in zip(old, new))


def test_frozen_encoders_are_neutralised_too(run_config, posts):
    """Changed texts are in no cache of states: they are encoded anew, with the same answer as without a cache."""
    frozen = {"model__modalities__text__frozen": True, "model__modalities__image__frozen": True}
    run = train(run_config(data__path=str(posts), train__epochs=1, **frozen))
    first = evaluate(run, "test")
    shutil.rmtree(posts / "states")
    assert evaluate(run, "test").flips == first.flips


def test_ledger_counts_each_opening_of_test(run):
    assert not (run / "test_ledger.jsonl").exists()  # training never opened it
    evaluate(run, "validation", evidence=False)
    assert not (run / "test_ledger.jsonl").exists()
    evaluate(run, "test", evidence=False)
    commands.evaluate(str(run), split="test", normalise_format=False)
    lines = [json.loads(line) for line in (run / "test_ledger.jsonl").read_text().splitlines()]
    assert [line["purpose"] for line in lines] == ["evaluate", "evaluate"]
    assert lines[0]["rows"] == 50
    assert [len(digest) for digest in lines[0]["sha256"].values()] == [64]
    assert "opened 2 times" in (run / "report-test.html").read_text()
    assert "opened 2 times" in (run / "README.md").read_text()


def test_changed_data_is_refused(run_config, posts, tmp_path):
    shutil.copytree(posts, tmp_path / "posts")
    run = train(run_config(data__path=str(tmp_path / "posts"), train__epochs=1))
    manifest = json.loads((tmp_path / "posts" / "dataset.json").read_text())
    manifest["splits"]["test"]["sha256"] = "0" * 64
    (tmp_path / "posts" / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"not what .* was trained on \(test differ"):
        evaluate(run, "test")
    assert not (run / "test_ledger.jsonl").exists()


def test_another_data_set(run_config, posts, tmp_path):
    """Judged elsewhere: floors say what they were fitted on; with the own data gone, nothing is claimed about it."""
    shutil.copytree(posts, tmp_path / "own")
    shutil.copytree(posts, tmp_path / "other")
    run = train(run_config(data__path=str(tmp_path / "own"), train__epochs=1))
    result = commands.evaluate(str(run), split="test", dataset=str(tmp_path / "other"))
    assert result.split == "test@other"
    assert result.floors_fitted_on == str(tmp_path / "other")
    assert result.deduplicated.left_out == 5
    assert (run / "report-test@other.html").is_file()
    assert "which this run never saw" in (run / "README.md").read_text()
    assert "opened 0 times" in (run / "README.md").read_text()  # its own test split was not
    assert json.loads(Run(run).cues_file.read_text())["posts"] == [20, 20], "of the run's own training posts"
    Run(run).cues_file.unlink()
    shutil.rmtree(tmp_path / "own")
    result = evaluate(run, "test", dataset=str(tmp_path / "other"))
    assert result.deduplicated is None
    assert result.calibration is None


def test_no_temperature_is_judged_where_it_was_fitted(run):
    result = commands.evaluate(str(run), split="validation")
    assert result.calibration.after is None
    assert "their scores flatter" in (run / "README.md").read_text()


def test_folds_without_a_test_file(run_config, tmp_path):
    def rows():
        for split, count in (("train", 40), ("validation", 20)):
            for number in range(count):
                yield (
                    split,
                    Record(f"{split}-{number}", text(number + count, 6), picture(number), ["no", "yes"][number % 2]),
                )

    write_dataset(rows(), tmp_path / "d", ["no", "yes"], {"reader": "t", "name": "d", "filters": []})
    config = run_config(data__path=str(tmp_path / "d"), data__folds=3, data__fold=1, train__epochs=1)
    run = train(config)
    assert commands.evaluate(str(run), split="test").rows == 20
    assert "of a fold over all splits" in (run / "README.md").read_text()


def test_odd_labels_and_words_in_all_pages(run_config, tmp_path):
    labels = ["US$\\AU$", "<b>|yes_*"]

    def rows():
        for split, count in (("train", 40), ("validation", 12), ("test", 24)):
            for number in range(count):
                word = "<img/src=x>" if number % 2 else "$x_$"
                words = f"{word} {text(number + count, 5)}"
                yield split, Record(f"{split}-{number}", words, picture(number), labels[number % 2])

    write_dataset(rows(), tmp_path / "d", labels, {"reader": "t", "name": "a|b <i>", "filters": []})
    commands.audit(str(tmp_path / "d"))
    run = train(run_config(data__path=str(tmp_path / "d"), train__epochs=1))
    commands.evaluate(str(run), split="test")
    card = (run / "README.md").read_text()
    assert "<img" not in card
    assert "<b>" not in card
    assert r"&lt;b&gt;\|yes\_\*" in card
    assert (run / "report-test.html").is_file()


def test_card(run, posts):
    commands.audit(str(posts))
    result = commands.evaluate(str(run), split="test")
    card = (run / "README.md").read_text()
    accuracy = result.metrics["accuracy"]
    cell = f"{100 * accuracy.value:.1f} [{100 * accuracy.low:.1f}, {100 * accuracy.high:.1f}]"
    assert f"| this run | {cell} |" in card
    assert "this run, 45 posts not in the training set" in card
    known = ModelCardData(**yaml.safe_load(card.split("---")[1]))  # as a hub reads it
    scores = {one.metric_type: one.metric_value for one in known.eval_results}
    assert scores["macro_f1"] == pytest.approx(result.metrics["macro_f1"].value, abs=1e-6)
    assert known.eval_results[0].dataset_split == "test"
    for split in load_manifest_splits(posts):
        assert split["sha256"] in card
    assert "5 of 50 test posts have the text of a training post" in card
    assert "filters: none at all" in card
    assert f"Seed {read_yaml(run / 'config.yaml')['seed']}" in card
    assert "after temperature" in card
    assert "{{" not in card
    shutil.rmtree(posts / "hashes")
    (posts / "audit.json").unlink()
    write_card(Run(run))
    assert "The data was not audited" in (run / "README.md").read_text()


def load_manifest_splits(folder):
    return json.loads((folder / "dataset.json").read_text())["splits"].values()


def test_floors_of_many_posts_are_fitted_on_a_sample(tmp_path, monkeypatch):
    """The majority is of all posts; the others see no more than the bound, and the same ones again."""

    def post(split: str, number: int) -> Record:
        label = ["no", "yes"][number % 2]
        return Record(f"{split}-{number}", f"{label} {text(number, 4)}", None, label, {})

    data = make_dataset(tmp_path / "many", {"train": 120, "validation": 10, "test": 20}, post)
    seen = []
    monkeypatch.setattr(floors, "MOST", 50)
    monkeypatch.setattr(floors, "count_format", lambda texts: (seen.append(list(texts)), count_format(texts))[1])
    train, rows = load_split(data, "train"), load_split(data, "test")
    first, again = (floors.floor_predictions(train, rows, 2) for _ in range(2))
    assert [len(texts) for texts in seen] == [50, 20, 50, 20]
    assert seen[0] == seen[2]
    assert set(seen[0]) < set(train.texts)
    assert all((first[name] == again[name]).all() for name in first)
    assert (first["tfidf_logistic_regression"] == rows.labels).mean() > 0.9


def test_the_floor_of_the_teacher_sees_whether_text_and_image_agree(dataset, encoders, tmp_path, monkeypatch, caplog):
    """Labels are the exclusive or of a bit of the text and one of the image, which a kernel on both tells."""
    teacher = str(encoders / "clip")
    dataset = shutil.copytree(dataset, tmp_path / "posts", ignore=shutil.ignore_patterns("teachers"))
    rows = {split: load_split(dataset, split) for split in ("train", "test")}
    generator = np.random.default_rng(0)
    bits = {split: generator.integers(0, 2, (len(of), 2)) for split, of in rows.items()}
    for split, of in rows.items():
        bits[split][:, 1] = bits[split][:, 0] ^ of.labels
    embeds = {split: np.where(own, 1.0, -1.0).repeat(4, 1) for split, own in bits.items()}
    monkeypatch.setattr(floors, "_of_teacher", lambda cache, sides: [embeds["train"], embeds["test"]])
    data = DataConfig(str(dataset))
    assert floors.teacher_floor_predictions(data, teacher, rows["train"], rows["test"]) == {}, (
        "nothing was aligned to it"
    )
    assert not (dataset / "teachers" / teacher_key(teacher)).exists()
    embed_dataset(dataset, teacher, ["train"])
    found = floors.teacher_floor_predictions(data, teacher, rows["train"], rows["test"])
    assert (found["teacher_svm"] == rows["test"].labels).all()
    assert floors.teacher_floor_predictions(data, None, rows["train"], rows["test"]) == {}
    assert floors.teacher_floor_predictions(data, "/no/such/teacher", rows["train"], rows["test"]) == {}
    assert "no floor on the teacher: no such model folder" in caplog.text
