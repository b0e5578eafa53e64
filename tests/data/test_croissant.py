"""`croissant.json` is valid for the library of its makers, and what that reads of it are the posts."""

import json
from itertools import islice

import mlcroissant
import pytest
from conftest import make_dataset, picture, text

from clfa.data.croissant import croissant
from clfa.data.records import Record, load_manifest
from clfa.data.rows import Rows


@pytest.fixture
def posts(tmp_path):
    def post(split, number):
        caption = {"caption": text(number + 50)}
        return Record(f"{split}-{number}", text(number), picture(number), ["no", "yes"][number % 2], caption)

    return make_dataset(tmp_path / "posts", {"train": 4, "validation": 4, "test": 2}, post)


def test_a_public_reader_finds_the_posts_and_their_classes(posts):
    dataset = mlcroissant.Dataset(posts / "croissant.json")  # it raises for what is not valid
    assert not dataset.metadata.ctx.issues.errors
    assert {str(one.id) for one in dataset.metadata.record_sets} == {"labels", "train", "validation", "test"}
    for split in ("train", "validation", "test"):
        rows = Rows(posts, [split])
        for found, row in zip(islice(dataset.records(split), 10), rows, strict=True):
            assert found[f"{split}/id"].decode() == row["id"]
            assert found[f"{split}/text"].decode() == row["text"]
            assert found[f"{split}/caption"].decode() == row["caption"]
            assert found[f"{split}/label"] == row["label"]
            assert found[f"{split}/image"].size == (40, 32)
    assert [(one["labels/number"], one["labels/name"]) for one in dataset.records("labels")] == [
        (0, "no"),
        (1, "yes"),
    ]


def test_the_validator_refuses_what_is_wrong(posts):
    changed = croissant(load_manifest(posts))
    changed["recordSet"][1]["field"][0]["source"]["fileObject"]["@id"] = "elsewhere.parquet"
    (posts / "croissant.json").write_text(json.dumps(changed))
    with pytest.raises(mlcroissant.ValidationError):
        mlcroissant.Dataset(posts / "croissant.json")


def test_posts_without_images_have_no_such_field(tmp_path):
    def post(split, number):
        return Record(f"{split}-{number}", text(number), None, ["no", "yes"][number % 2], {})

    folder = make_dataset(tmp_path / "texts", {"train": 4, "validation": 2}, post, images="none")
    dataset = mlcroissant.Dataset(folder / "croissant.json")
    assert set(next(iter(dataset.records("train")))) == {"train/id", "train/text", "train/label"}
