"""An import that was stopped goes on behind what it has done, and nothing that has changed is believed."""

import json

import pytest
from conftest import picture, text

from clfa.data import examine, shards
from clfa.data.records import Record
from clfa.data.writing import write_dataset
from clfa.errors import UserError

ABOUT = {"reader": "test", "name": "test", "filters": []}
ROWS = 10  # of a shard, here


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "ROWS", ROWS)
    (tmp_path / "images").mkdir()
    for number in range(60):
        (tmp_path / "images" / f"{number}.png").write_bytes(picture(number))
    return tmp_path / "images"


@pytest.fixture
def decoded(monkeypatch):
    """The images that are decoded."""
    names, read = [], examine.read_image
    monkeypatch.setattr(examine, "read_image", lambda path: (names.append(int(path.stem)), read(path))[1])
    return names


def posts(images, stop=None):
    for number in range(60):
        if number == stop:
            raise KeyboardInterrupt
        split = ("train", "validation", "test")[number % 3]
        yield (
            split,
            Record(str(number), text(number), images / f"{number}.png", "ab"[number // 3 % 2], source=f"{number}"),
        )


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def stopped(images, out, stop=35):
    with pytest.raises(KeyboardInterrupt):
        write_dataset(posts(images, stop), out, ["a", "b"], ABOUT)
    assert not out.exists()


def test_what_is_done_is_not_done_again_and_the_end_is_the_same(images, decoded, tmp_path):
    write_dataset(posts(images), tmp_path / "whole", ["a", "b"], ABOUT)
    stopped(images, tmp_path / "out")
    decoded.clear()
    write_dataset(posts(images), tmp_path / "out", ["a", "b"], ABOUT)
    assert sorted(decoded) == list(range(30, 60))
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize("what", ["image", "row", "byte", "file", "option"])
def test_what_has_changed_is_done_again_with_all_behind_it(images, decoded, tmp_path, what):
    stopped(images, tmp_path / "out")
    partial = tmp_path / "out.partial" / "shards" / "000001"
    rows, more = list(posts(images)), {}
    if what == "image":
        (images / "12.png").write_bytes(picture(77, (50, 20)))
    if what == "row":
        rows[12] = (rows[12][0], Record("12", "another text", images / "12.png", "a"))
    if what == "byte":
        data = bytearray((partial / "train.parquet").read_bytes())
        data[len(data) // 2] ^= 1
        (partial / "train.parquet").write_bytes(data)
    if what == "file":
        (partial / "test.parquet").unlink()
    if what == "option":
        more["text"] = "raw"
    write_dataset(iter(rows), tmp_path / "whole", ["a", "b"], ABOUT, **more)
    decoded.clear()
    write_dataset(iter(rows), tmp_path / "out", ["a", "b"], ABOUT, **more)
    assert sorted(decoded) == list(range(0 if what == "option" else 10, 60))
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_bad_posts_of_what_is_done_are_still_counted_and_named(images, decoded, tmp_path):
    (images / "3.png").write_bytes(b"broken")
    (images / "43.png").write_bytes(b"broken")
    stopped(images, tmp_path / "out")
    for _ in range(2):  # an import that failed is kept, too: only what is mended is read again
        with pytest.raises(UserError, match="2 of 60 posts cannot be used") as refused:
            write_dataset(posts(images), tmp_path / "out", ["a", "b"], ABOUT)
        assert "train 3: " in str(refused.value)
        assert "validation 43: " in str(refused.value)
    for number in (3, 43):
        (images / f"{number}.png").write_bytes(picture(number))
    manifest = write_dataset(posts(images), tmp_path / "out", ["a", "b"], ABOUT)
    assert sum(split["rows"] for split in manifest["splits"].values()) == 60


def test_dropped_posts_of_all_shards_are_listed(images, tmp_path):
    for number in (3, 43):
        (images / f"{number}.png").write_bytes(b"broken")
    manifest = write_dataset(posts(images), tmp_path / "out", ["a", "b"], ABOUT, on_bad="skip", max_bad=0.1)
    lines = [json.loads(line) for line in (tmp_path / "out" / "dropped.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["3", "43"]
    assert manifest["dropped"] == 2


def test_an_id_is_taken_even_by_a_post_that_is_kept_without_its_image(images, tmp_path):
    (images / "3.png").write_bytes(b"broken")
    rows = [*posts(images), ("train", Record("3", "again", None, "a"))]
    with pytest.raises(UserError, match="the id '3' occurs twice"):
        write_dataset(iter(rows), tmp_path / "out", ["a", "b"], ABOUT, on_bad="mask", max_bad=0.1)
