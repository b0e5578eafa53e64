"""Wrong labels and wrong pairs: ranked, reviewed in a spreadsheet, corrected."""

import csv
import json
import shutil

import numpy as np
import pytest

from clfa.cli import main
from clfa.data.records import load_manifest
from clfa.data.rows import load_split
from clfa.evidence import floors
from clfa.evidence.floors import kernel_probe, linear_probe, tfidf_probe
from clfa.evidence.suspects import Suspect, judge, label_issues, out_of_fold, pair_share, write_suspects


def test_flipped_labels_come_first():
    """Two classes that a linear probe tells apart, 5 % of 600 labels flipped."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 600)
    features = generator.normal(0, 1, (600, 8)) + 3 * labels[:, None]
    flipped = generator.choice(600, 30, replace=False)
    given = labels.copy()
    given[flipped] = 1 - given[flipped]
    probabilities = out_of_fold(linear_probe, features, given, np.arange(600), 2)
    wrong, quality = label_issues(given, probabilities)
    assert set(np.argsort(quality)[:30].tolist()) == set(flipped.tolist())
    assert wrong[flipped].mean() > 0.9
    assert wrong.sum() < 40
    clean, _ = label_issues(labels, out_of_fold(linear_probe, features, labels, np.arange(600), 2))
    assert clean.sum() <= 3


def test_no_post_is_judged_by_its_own_repeats():
    """Labels by chance, each post there twice: with its twin in train, a wide probe would know the answer."""
    generator = np.random.default_rng(0)
    features = np.repeat(generator.normal(0, 1, (100, 300)), 2, axis=0)
    labels = np.repeat(generator.integers(0, 2, 100), 2)
    apart = out_of_fold(linear_probe, features, labels, np.arange(200), 2).argmax(1)
    together = out_of_fold(linear_probe, features, labels, np.repeat(np.arange(100), 2), 2).argmax(1)
    assert (apart == labels).mean() > 0.8
    assert abs((together == labels).mean() - 0.5) < 0.15


def test_what_only_the_kernel_sees_is_seen_beside_a_probe_of_noise():
    """The label is whether text and image agree, which a linear probe of both does not see."""
    generator = np.random.default_rng(0)
    texts, images = (generator.choice([-1.0, 1.0], (600, 1)) * np.ones((1, 4)) for _ in range(2))
    labels = (texts[:, 0] == images[:, 0]).astype(int)
    features = np.concatenate([texts, images], axis=1) + generator.normal(0, 0.3, (600, 8))
    flipped = generator.choice(600, 30, replace=False)
    given = labels.copy()
    given[flipped] = 1 - given[flipped]
    noise = generator.normal(0, 1, (600, 4))
    probabilities = judge([(linear_probe, noise), (kernel_probe, features)], given, np.arange(600), 2)
    assert set(np.argsort(label_issues(given, probabilities)[1])[:30].tolist()) == set(flipped.tolist())


def test_a_class_of_one_post_stops_no_probe():
    generator = np.random.default_rng(0)
    features, labels = generator.normal(0, 1, (61, 4)), np.append(np.arange(60) % 2, 2)
    texts = np.array([f"a post {number}" for number in range(61)], dtype=object)
    seen = [(tfidf_probe, texts), (linear_probe, features), (kernel_probe, features)]
    probabilities = judge(seen, labels, np.arange(61), 3)
    np.testing.assert_allclose(probabilities.sum(1), 1)


@pytest.mark.parametrize(
    ("labels", "texts"),
    [
        ([0] * 12, [f"post {number}" for number in range(12)]),  # one class
        ([0] * 11 + [1], [f"post {number}" for number in range(12)]),  # a class that is held out as a whole
        ([0, 1] * 6, ["one post"] * 12),  # one group
        ([0, 1] * 6, ["one post", "another post"] * 6),
        ([0, 1] * 6, ["words"] * 2 + [""] * 10),  # hardly a text
        (list(range(12)), [f"post {number}" for number in range(12)]),  # no class twice
    ],
)
def test_where_nothing_can_be_fitted_the_probabilities_are_the_shares_of_the_classes(labels, texts):
    labels, texts = np.array(labels), np.array(texts, dtype=object)
    features = np.random.default_rng(0).normal(0, 1, (12, 3))
    groups = np.unique([text or f"\0{number}" for number, text in enumerate(texts)], return_inverse=True)[1]
    seen = [(tfidf_probe, texts), (linear_probe, features), (kernel_probe, features)]
    probabilities = judge(seen, labels, groups, 12)
    np.testing.assert_allclose(probabilities.sum(1), 1)


def test_a_rare_class_survives_the_sample_of_a_kernel(monkeypatch):
    monkeypatch.setattr(floors, "MOST_OF_KERNEL", 60)
    labels = np.append(np.arange(120) % 2, [2] * 4)
    features = np.random.default_rng(0).normal(0, 1, (124, 3))
    np.testing.assert_allclose(kernel_probe(features, labels, features, 3).sum(1), 1)


def test_swapped_pairs_come_first_and_gaps_are_left_out():
    generator = np.random.default_rng(0)
    texts = generator.normal(0, 1, (300, 16))
    images = texts + generator.normal(0, 0.3, (300, 16))
    swapped = np.arange(0, 20)
    images[swapped] = images[np.roll(swapped, 1)]
    images[40] = np.nan
    texts[41] = np.nan
    share = pair_share(texts, images)
    assert np.isnan(share[[40, 41]]).all()
    assert np.nanmax(share[swapped]) < np.nanmin(np.delete(share, [*swapped, 40, 41]))
    # by hand: of two pairs that fit, the other one always fits less well
    assert pair_share(np.eye(2), np.eye(2)).tolist() == [1.0, 1.0]
    assert pair_share(np.eye(2), np.eye(2)[::-1]).tolist() == [0.0, 0.0]


def test_from_the_audit_to_a_corrected_data_set(dataset, encoders, tmp_path, capsys):
    shutil.copytree(dataset, tmp_path / "posts")
    folders = [
        f"--text-encoder={encoders / 'bert'}",
        f"--image-encoder={encoders / 'vit'}",
        f"--teacher={encoders / 'clip'}",
    ]
    assert main(["audit", str(tmp_path / "posts"), *folders]) == 0
    assert "posts to look at" in capsys.readouterr().err
    path = tmp_path / "posts" / "suspects.csv"
    with open(path, encoding="utf-8-sig", newline="") as file:
        head = next(csv.reader(file))
    assert head == ["id", "split", "what", "score", "label", "suggested", "text", "corrected"]

    rows = [row for split in ("train", "test") for row in load_split(dataset, split)][:3]
    names = load_manifest(dataset)["labels"]
    other = names[1 - rows[0]["label"]]
    suspects = [
        Suspect(row["id"], "train", "label", 0.1, names[row["label"]], other, row["text"], corrected)
        for row, corrected in zip(rows, (other, "drop", ""))
    ]
    write_suspects([*suspects, suspects[0]], path)  # a post may be suspicious twice
    assert main(["correct", str(tmp_path / "posts"), str(path), "--out", str(tmp_path / "corrected")]) == 0
    before, after = load_split(dataset, "train"), load_split(tmp_path / "corrected", "train")
    assert after["id"] == [id for id in before["id"] if id != rows[1]["id"]]
    changed = {row["id"]: row["label"] for row in after}
    assert changed[rows[0]["id"]] == 1 - rows[0]["label"]
    assert changed[rows[2]["id"]] == rows[2]["label"]
    assert {row["id"]: (row["text"], row["image"], row["knowledge"]) for row in after} == {
        row["id"]: (row["text"], row["image"], row["knowledge"]) for row in before if row["id"] != rows[1]["id"]
    }
    assert load_split(tmp_path / "corrected", "test")["text"] == load_split(dataset, "test")["text"]
    manifest = load_manifest(tmp_path / "corrected")
    assert manifest["filters"][-1] == "1 labels by suspects.csv, 1 posts dropped by it"
    dropped = [json.loads(line) for line in (tmp_path / "corrected" / "dropped.jsonl").read_text().splitlines()]
    assert [line["id"] for line in dropped] == [rows[1]["id"]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train-1,train,happy", "'happy' is none of no, yes"),
        ("nobody,train,yes", "1 posts are not in"),
        ("train-1,train,yes\ntrain-1,train,no", "has two corrections"),
    ],
)
def test_corrections_that_do_not_fit_are_refused(dataset, tmp_path, capsys, line, message):
    (tmp_path / "c.csv").write_text(f"id,split,corrected\n{line}\n")
    assert main(["correct", str(dataset), str(tmp_path / "c.csv"), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_text_is_no_formula_in_a_spreadsheet(tmp_path):
    write_suspects([Suspect("1", "train", "label", 0.5, "no", "yes", "=1+1")], tmp_path / "s.csv")
    assert "'=1+1" in (tmp_path / "s.csv").read_text(encoding="utf-8-sig")
