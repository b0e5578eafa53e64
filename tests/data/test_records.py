"""Text cleaning, image decoding, and what a dataset directory promises."""

import io
import json

import numpy as np
import pytest
from conftest import picture
from datasets import Dataset
from PIL import Image

from clfa.config import DataConfig
from clfa.data.images import open_image
from clfa.data.records import Dropped, Record, normalise_text
from clfa.data.rows import load_split
from clfa.data.splits import load_rows
from clfa.data.writing import write_dataset
from clfa.errors import UserError

DESCRIPTION = {"reader": "test", "name": "test", "filters": []}


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def test_text_is_nfc_with_single_spaces():
    assert normalise_text("  a \t b\n\nc\u00a0d ") == "a b c d"
    assert normalise_text("cafe\u0301") == "café"


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_image_formats(form):
    found = open_image(encoded(Image.new("RGB", (20, 10), (200, 30, 30)), form))
    assert (found.mode, found.size) == ("RGB", (20, 10))
    assert np.abs(np.asarray(found)[5, 10] - np.array([200, 30, 30])).max() < 30


def test_transparency_becomes_white():
    assert open_image(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0)))).getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_not_clipped():
    grey = Image.fromarray(np.full((4, 4), 32768, dtype=np.uint16))
    assert open_image(encoded(grey)).getpixel((0, 0)) == (128, 128, 128)


def test_exif_rotation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    assert open_image(encoded(Image.new("RGB", (20, 10)), "JPEG", exif=exif)).size == (10, 20)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a readable image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a readable image"),
        (
            encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)), "JPEG")[
                :900
            ],
            "not a readable image",
        ),
        (encoded(Image.new("1", (17_000, 2))), "16,384"),
        (encoded(Image.new("1", (6_000, 6_000))), "25,000,000"),
        (encoded(Image.new("RGB", (9, 9)), "TIFF"), "not a readable image"),
    ],
    ids=["empty", "svg", "truncated", "too wide", "too many pixels", "other format"],
)
def test_bad_images_are_told(data, message):
    with pytest.raises(UserError, match=message):
        open_image(data)


def rows(count: int = 4):
    for split in ("train", "validation", "test"):
        for number in range(count):
            yield split, Record(f"9007199254740993{number}", f"post  {number} ", picture(number), "ab"[number % 2])


def test_written_is_read(tmp_path):
    manifest = write_dataset(rows(), tmp_path / "out", ["a", "b"], DESCRIPTION)
    read = load_split(tmp_path / "out", "train")
    assert read["id"][0] == "90071992547409930"  # no float in between
    assert read["text"][:2] == ["post 0", "post 1"]
    assert read[1]["image"]["bytes"] == picture(1)
    assert read.labels.tolist() == [0, 1, 0, 1]
    assert Dataset.from_parquet(str(tmp_path / "out" / "train.parquet")).features["label"].names == ["a", "b"]
    assert manifest["splits"]["train"]["labels"] == {"a": 2, "b": 2}
    raw = write_dataset(rows(), tmp_path / "raw", ["a", "b"], DESCRIPTION, text="raw")
    assert (manifest["text"], raw["text"]) == ("normalised", "raw")
    assert load_split(tmp_path / "raw", "train")["text"][0] == "post  0 "


def test_same_rows_same_hash(tmp_path):
    first, second = (write_dataset(rows(), tmp_path / name, ["a", "b"], DESCRIPTION) for name in ("x", "y"))
    assert first == second


def broken_rows():
    for number, (split, record) in enumerate(rows(10)):
        image = b"broken" if number % 3 == 0 else record.image
        yield split, Record(record.id, record.text, image, record.label)


def test_bad_images_fail_with_a_count_and_twenty_names(tmp_path):
    many = ((split, Record(str(n), "x", tmp_path / f"{n}.jpg", "a")) for n, split in enumerate(["train"] * 25))
    with pytest.raises(UserError) as told:
        write_dataset(many, tmp_path / "out", ["a", "b"], DESCRIPTION)
    assert "25 of 25 posts" in str(told.value)
    assert str(told.value).count("no such file") == 20
    assert not (tmp_path / "out").exists()


def test_skipped_images_are_listed_and_nothing_is_lost(tmp_path):
    manifest = write_dataset(broken_rows(), tmp_path / "out", ["a", "b"], DESCRIPTION, on_bad="skip", max_bad=0.4)
    lines = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert len(lines) == manifest["dropped"] == 10
    assert all("not a readable image" in line["reason"] for line in lines)
    assert sum(split["rows"] + split["dropped"] for split in manifest["splits"].values()) == 30


def test_an_import_that_was_stopped_leaves_nothing_in_the_next(tmp_path):
    def stopped():
        yield from rows()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(stopped(), tmp_path / "out", ["a", "b"], DESCRIPTION)
    assert not (tmp_path / "out").exists()
    without_test = ((split, record) for split, record in rows() if split != "test")
    manifest = write_dataset(without_test, tmp_path / "out", ["a", "b"], DESCRIPTION)
    assert set(manifest["splits"]) == {"train", "validation"}
    assert {path.name for path in (tmp_path / "out").glob("*.parquet")} == {"train.parquet", "validation.parquet"}


def test_refusals(tmp_path):
    twice = [("train", Record("1", "x", None, "a"))] * 2
    with pytest.raises(UserError, match="twice"):
        write_dataset(iter(twice), tmp_path / "out", ["a", "b"], DESCRIPTION)
    with pytest.raises(UserError, match="no rows for the split"):
        write_dataset(iter([("train", Dropped("1", "train", "why", "here"))]), tmp_path / "none", ["a"], DESCRIPTION)
    write_dataset(rows(), tmp_path / "full", ["a", "b"], DESCRIPTION)
    with pytest.raises(UserError, match="exists"):
        write_dataset(rows(), tmp_path / "full", ["a", "b"], DESCRIPTION)


def test_folds_hold_each_row_once_and_keep_equal_texts_together(tmp_path):
    def posts():
        for split, count in (("train", 80), ("validation", 20), ("test", 20)):
            for number in range(count):
                yield split, Record(f"{split}{number}", f"text {number % 30}", None, "ab"[number % 2])

    write_dataset(posts(), tmp_path / "out", ["a", "b"], DESCRIPTION, images="none")
    held_out = []
    for fold in range(5):
        parts = {
            split: load_rows(DataConfig(str(tmp_path / "out"), folds=5, fold=fold), split)
            for split in ("train", "validation", "test")
        }
        ids = [id for part in parts.values() for id in part["id"]]
        assert len(ids) == len(set(ids)) == 120
        assert not set(parts["test"]["text"]) & set(parts["train"]["text"])
        assert not set(parts["validation"]["text"]) & set(parts["train"]["text"])
        held_out += parts["test"]["id"]
    assert len(held_out) == len(set(held_out)) == 120
    with pytest.raises(UserError, match="fold"):
        load_rows(DataConfig(str(tmp_path / "out"), folds=5, fold=5), "test")


def test_sample_is_stratified_and_follows_the_seed(dataset):
    samples = [load_rows(DataConfig(str(dataset), train_rows=8), "train", seed)["id"] for seed in (0, 0, 1)]
    assert samples[0] == samples[1] != samples[2]
    labels = load_rows(DataConfig(str(dataset), train_rows=8), "train", 0)["label"]
    assert sorted(labels) == [0] * 4 + [1] * 4
