"""Splits drawn at import: rare classes, repeated posts on one side, 8:1:1 within each class."""

import csv
import json
import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import picture
from conftest import text as words

from clfa.cli import main
from clfa.commands import audit, evaluate, import_table
from clfa.data.drawing import group_repeats, split_rows
from clfa.data.records import load_manifest
from clfa.data.rows import load_split
from clfa.errors import UserError
from clfa.serving.predictor import Predictor
from clfa.training.train import train

SPLITS = ("train", "validation", "test")
ZIPF = {f"class{rank:02d}": max(1, round(120 / rank) - 3) for rank in range(1, 31)}
RARE = {name: count for name, count in ZIPF.items() if count < 10}


def write_table(path: Path, counts: dict[str, int], images: bool = False) -> str:
    """A CSV of different texts, and images if they are wanted, `counts` of each class."""
    labels = [label for label, count in counts.items() for _ in range(count)]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "image"])
        for number, label in enumerate(labels):
            writer.writerow([f"{words(number)} {label} {number}", label, f"{number}.png" if images else ""])
            if images:
                (path.parent / f"{number}.png").write_bytes(picture(number))
    return str(path)


def held(out: Path) -> dict[str, dict[str, int]]:
    return {name: split["labels"] for name, split in load_manifest(out)["splits"].items()}


def test_a_long_tail_is_kept_in_train(tmp_path, caplog):
    assert {1, 9} <= set(RARE.values())
    assert len(ZIPF) == 30
    source = write_table(tmp_path / "posts.csv", ZIPF)
    with caplog.at_level(logging.INFO, "clfa"):
        manifest = import_table(source, out=str(tmp_path / "out"), images="none")
    labels = held(tmp_path / "out")
    assert {name: sum(labels[split][name] for split in SPLITS) for name in ZIPF} == ZIPF
    for name, count in ZIPF.items():
        tenth = 0 if name in RARE else round(count / 10)
        assert [labels[split][name] for split in SPLITS] == [count - 2 * tenth, tenth, tenth]
    start = (
        f"{len(RARE)} classes with fewer than 10 posts: their {sum(RARE.values())} posts are in train only: class10 (9)"
    )
    assert [note.startswith(start) for note in manifest["filters"]] == [True]
    assert f"and {len(RARE) - 10} more" in manifest["filters"][0]
    assert f"{source}: {manifest['filters'][0]}" in caplog.messages
    assert manifest["dropped"] == 0


def test_a_long_tail_is_merged_or_dropped_on_request(tmp_path, capsys):
    source = write_table(tmp_path / "posts.csv", ZIPF)
    arguments = ["import", "table", source, "--images", "none", "--json", "--out"]
    assert main([*arguments, str(tmp_path / "other"), "--rare", "other"]) == 0
    out, err = capsys.readouterr()
    assert f"their {sum(RARE.values())} posts are in the class 'other': class10" in err
    manifest = json.loads(out)
    assert manifest["labels"] == [*sorted(ZIPF.keys() - RARE.keys()), "other"]
    assert manifest["merged_classes"] == RARE
    assert sum(labels["other"] for labels in held(tmp_path / "other").values()) == sum(RARE.values())
    assert held(tmp_path / "other")["test"]["other"] == round(sum(RARE.values()) / 10)

    assert main([*arguments, str(tmp_path / "drop"), "--rare", "drop"]) == 0
    out, err = capsys.readouterr()
    assert f"their {sum(RARE.values())} posts are dropped: class10" in err
    manifest = json.loads(out)
    assert manifest["labels"] == sorted(ZIPF.keys() - RARE.keys())
    dropped = [json.loads(line) for line in (tmp_path / "drop" / "dropped.jsonl").read_text().splitlines()]
    assert len(dropped) == manifest["dropped"] == sum(RARE.values())
    assert dropped[-1]["reason"] == "the class 'class30' has fewer than 10 posts"
    assert dropped[-1]["source"].endswith(f"posts.csv:{1 + sum(ZIPF.values())}")
    assert sum(split["rows"] for split in manifest["splits"].values()) + len(dropped) == sum(ZIPF.values())


@pytest.mark.parametrize(
    ("counts", "expected", "notes"),
    [
        ({"a": 20, "b": 20, "other": 12, "x": 3}, {"a": 20, "b": 20, "other": 15}, ["its 3 posts are in the class"]),
        (
            {"a": 20, "b": 20, "other": 2, "x": 3, "y": 1},
            {"a": 20, "b": 20, "other": 6},
            ["2 classes with fewer than 10 posts: their 4 posts are in the class", "its 6 posts are in train only"],
        ),
        ({"a": 20, "b": 20, "other": 1}, {"a": 20, "b": 20, "other": 1}, ["its 1 post is in train only: other (1)"]),
        ({"a": 20, "b": 20}, {"a": 20, "b": 20}, []),
    ],
    ids=["joins", "still rare", "alone", "none rare"],
)
def test_rare_classes_join_other(tmp_path, counts, expected, notes):
    source = write_table(tmp_path / "posts.csv", counts)
    manifest = import_table(source, out=str(tmp_path / "out"), images="none", rare="other")
    labels = held(tmp_path / "out")
    assert {name: sum(labels[split][name] for split in SPLITS) for name in manifest["labels"]} == expected
    assert len(manifest["filters"]) == len(notes)
    assert all(note in line for note, line in zip(notes, manifest["filters"]))


def test_given_splits_stay(tmp_path):
    source = write_table(tmp_path / "posts.csv", {"a": 30, "b": 3})
    with open(source) as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        row["split"] = SPLITS[number % 3]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "posts.parquet")
    manifest = import_table(str(tmp_path / "posts.parquet"), out=str(tmp_path / "out"), images="none")
    assert [labels["b"] for labels in held(tmp_path / "out").values()] == [1, 1, 1]
    assert manifest["filters"] == []
    rows[31]["split"] = rows[4]["split"] = ""  # a rare class and one that is not
    rows[4]["text"] = rows[2]["text"].upper()  # a repeat of a test post
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "posts.parquet")
    import_table(str(tmp_path / "posts.parquet"), out=str(tmp_path / "some"), images="none")
    assert held(tmp_path / "some")["train"]["b"] == 2
    assert rows[4]["text"] in load_split(tmp_path / "some", "test").texts


@pytest.mark.parametrize(
    ("counts", "rare", "message"),
    [
        ({"a": 20}, "train", "two classes are needed; add posts"),
        ({"a": 20, "b": 3}, "drop", "--rare drop leaves no more: use --rare train"),
        ({"a": 2, "b": 3}, "other", r"\['other'\].*--rare other leaves no more"),
        ({"a": 20, "b": 3}, "train", "validation would hold a, .*add posts, or a split column"),
        ({"a": 2, "b": 3}, "train", "validation would hold no class"),
    ],
)
def test_one_class_is_an_error_with_a_fix(tmp_path, counts, rare, message):
    source = write_table(tmp_path / "posts.csv", counts)
    with pytest.raises(UserError, match=message):
        import_table(source, out=str(tmp_path / "out"), images="none", rare=rare)
    assert not (tmp_path / "out").exists()


def test_posts_repeat_texts_or_images(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).write_bytes(picture(seed))
    posts = [
        ("one  Text", None),
        ("two", tmp_path / "a"),
        ("ONE text", tmp_path / "c"),
        ("three", tmp_path / "b"),  # the bytes of a
        ("", None),
        ("", tmp_path / "missing"),
        ("four", picture(2)),  # the bytes of c
    ]
    assert group_repeats(posts).tolist() == [0, 1, 0, 1, 4, 5, 0]
    assert group_repeats([]).tolist() == []


def test_the_split_is_8_1_1_of_different_posts():
    labels = np.array(["a", "b"] * 500)
    groups = np.arange(1000)
    groups[500:600] = groups[:100]  # a hundred posts occur twice
    groups[900:1000:2] = 900  # a tenth of a class repeats one post
    groups[901] = 901
    splits = np.array(split_rows(labels, "stratified", 3, groups))
    assert all(len(set(splits[groups == group])) == 1 for group in groups)
    for label in "ab":
        shares = [np.mean(splits[labels == label] == split) for split in SPLITS]
        assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.03)
    assert split_rows(labels, "stratified", 3, groups) == splits.tolist()
    assert split_rows(labels, "stratified", 4, groups) != splits.tolist()
    # one text is half of its class, one label is repeated with another label
    groups = np.arange(40)
    groups[20:30], groups[31] = 20, 0
    splits = np.array(split_rows(["a"] * 20 + ["b"] * 20, "stratified", 0, groups))
    assert set(splits[20:30]) == {"train"}
    assert splits[31] == splits[0]
    assert set(splits[20:]) == set(SPLITS)


def test_without_repeats_and_rare_classes_nothing_changed():
    """The split of earlier versions: of each class, shuffled, the last tenth is test and the one before validation."""
    labels = np.random.default_rng(0).integers(0, 4, 333)
    generator = np.random.default_rng(7)
    expected = np.full(333, "train", dtype=object)
    for label in range(4):
        rows = generator.permutation(np.flatnonzero(labels == label))
        tenth = round(len(rows) / 10)
        expected[rows[-2 * tenth : -tenth]], expected[rows[-tenth:]] = "validation", "test"
    assert split_rows(labels, "stratified", 7) == expected.tolist()


def test_an_imported_table_shares_no_text_and_no_image(tmp_path):
    generator = np.random.default_rng(0)
    with open(tmp_path / "posts.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "image", "label"])
        for number in range(200):
            (tmp_path / f"{number}.png").write_bytes(picture(int(generator.integers(400))))
            said = f"Words {generator.integers(400)}"
            writer.writerow([said.upper() if number % 2 else said, f"{number}.png", "ab"[number % 2]])
    import_table(str(tmp_path / "posts.csv"), out=str(tmp_path / "out"))
    leakage = audit(str(tmp_path / "out")).leakage
    for kind in ("exact_text", "normalised_text", "image_bytes"):
        found = leakage[kind]
        assert found.validation_in_train == found.test_in_train == found.test_in_train_or_validation == 0, kind
        assert found.within_train, kind


def test_classes_in_train_only_go_all_the_way(tmp_path, run_config):
    """Training, evaluation, audit, report and prediction on a data set whose rare classes are in train only."""
    source = write_table(tmp_path / "posts.csv", {"a": 40, "b": 30, "c": 12, "d": 4, "e": 1}, images=True)
    import_table(source, out=str(tmp_path / "data"))
    assert "in train only: d (4), e (1)" in audit(str(tmp_path / "data")).filters[0]
    run = train(run_config(data__path=str(tmp_path / "data"), train__epochs=1))
    assert 0 <= evaluate(str(run)).metrics["macro_f1"].value <= 1
    assert (run / "report-test.html").is_file()
    assert set(Predictor(run)([{"text": "word1", "image": picture(0)}])[0].probabilities) == set("abcde")


@pytest.mark.parametrize("column", ["text", "label", "id", "attributes"])
def test_bytes_where_texts_belong_are_refused(tmp_path, column):
    rows = [{"id": f"{n}", "text": f"text {n}", "label": "ab"[n % 2], "attributes": "sky"} for n in range(40)]
    table = pa.Table.from_pylist([{**row, column: row[column].encode()} for row in rows])
    pq.write_table(table, tmp_path / "posts.parquet")
    with pytest.raises(UserError, match=f"row 1, (column )?{column}: bytes where a text is expected"):
        import_table(str(tmp_path / "posts.parquet"), out=str(tmp_path / "out"), images="none")


def test_bytes_of_a_further_column_are_stored_as_they_are(tmp_path):
    rows = [{"text": f"text {n}", "label": "ab"[n % 2], "clip": bytes([n, 255]), "list": [b"x"]} for n in range(40)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "posts.parquet")
    source = str(tmp_path / "posts.parquet")
    manifest = import_table(source, out=str(tmp_path / "out"), images="none", column=["audio=clip"])
    assert manifest["columns"] == {"audio": "binary"}
    assert load_split(tmp_path / "out", "train")[0]["audio"] == rows[0]["clip"]
    with pytest.raises(UserError, match="row 1, column list: bytes where a text is expected"):
        import_table(source, out=str(tmp_path / "no"), images="none", column=["list=list"])


def test_empty_ids_are_numbered_and_reserved_names_refused_at_once(tmp_path):
    with open(tmp_path / "posts.tsv", "w") as file:
        file.write("id\ttext\tlabel\n")
        file.writelines(f"{number if number % 3 else ''}\ttext {number}\t{'ab'[number % 2]}\n" for number in range(40))
    import_table(str(tmp_path / "posts.tsv"), out=str(tmp_path / "out"), images="none")
    ids = {id for split in SPLITS for id in load_split(tmp_path / "out", split)["id"]}
    assert ids == {str(number) if number % 3 else f"{number:06d}" for number in range(40)}
    with pytest.raises(UserError, match="use --text-column"):  # before the source is opened
        import_table(str(tmp_path / "nowhere.csv"), out=str(tmp_path / "no"), column=["text=words"])
