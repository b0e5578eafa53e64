"""Leaks against brute force, counts on real posts, near texts and near images at their thresholds."""

import numpy as np
import pytest
from conftest import SHARED, needs_shared
from hypothesis import given, settings
from hypothesis import strategies as st

from clfa.data.records import Record
from clfa.data.rows import load_split
from clfa.data.writing import write_dataset
from clfa.evidence.leakage import COLUMNS, Traces, conflicts, image_hashes, leaked, matches, normal_form, traces


def side(texts=(), images=(), hashes=(), labels=None) -> Traces:
    count = max(len(texts), len(images), len(hashes))

    def fill(values):
        return list(values) or [None] * count

    normal = [None if text is None else normal_form(text) or None for text in fill(texts)]
    ids = [str(number) for number in range(count)]
    return Traces(ids, fill(texts), normal, fill(images), fill(hashes), np.array(labels or [0] * count))


def test_normal_form():
    assert normal_form("  So GREAT,\tthis: https://t.co/x1 day…!! ") == "so great this day"
    assert normal_form("ＡＢＣ ﬁne") == "abc fine"  # NFKC: wide letters, ligatures
    assert normal_form("!?#") == ""


def test_empty_texts_never_match():
    assert (matches("normalised_text", side(["?!", "a"]), side(["...", "A!"])) == [-1, 1]).all()
    assert (matches("exact_text", side([None, "a"]), side([None, "a"])) == [-1, 1]).all()


def test_near_text_threshold():
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    post = " ".join(words)
    assert matches("near_text", side([post]), side([" ".join([*words[:9], "x"])]))[0] == 0  # 9 / 11 = 0.82
    assert matches("near_text", side([post]), side([" ".join([*words[:8], "x", "y"])]))[0] == -1  # 8 / 12 = 0.67
    assert matches("near_text", side([post]), side([" ".join(words[:8])]))[0] == 0  # 8 / 10 = 0.8, not above it
    assert matches("near_text", side(["a b c d"]), side(["a b c d"]))[0] == -1  # under five tokens


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=9).map(" ".join), min_size=2, max_size=25))
def test_near_text_is_exact_search(texts):
    half = len(texts) // 2
    posts, others = side(texts[:half]), side(texts[half:])

    def near(one: str, two: str) -> bool:
        left, right = set(one.split()), set(two.split())
        return len(left) >= 5 and len(left & right) / len(left | right) >= 0.8

    expected = [any(near(text, other) for other in texts[half:]) for text in texts[:half]]
    assert ((matches("near_text", posts, others) >= 0) == expected).all()
    inside = [any(near(text, other) for other in texts[:place]) for place, text in enumerate(texts)]
    found = matches("near_text", side(texts)) >= 0
    # inside a split an earlier post is indexed only by its rare words, which every near post shares
    assert (found == inside).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=12), st.data())
def test_image_hashes_are_exact_search(values, data):
    flips = [data.draw(st.lists(st.integers(0, 63), max_size=6, unique=True)) for _ in values]
    changed = [value ^ sum(1 << bit for bit in bits) for value, bits in zip(values, flips)]
    expected = [any((one ^ two).bit_count() <= 4 for two in values) for one in changed]
    assert ((matches("image_hash", side(hashes=changed), side(hashes=values)) >= 0) == expected).all()


def test_inside_a_split_the_first_is_no_repeat():
    assert matches("exact_text", side(["a", "b", "a", "a"])).tolist() == [-1, -1, 0, 0]


def test_leaked_looks_at_everything_but_ids():
    posts = side(["alone", "same"], [b"x", b"y"])
    others = side(["Same!", "else"], [b"z", b"x"])
    assert leaked(posts, others).tolist() == [True, True]
    assert leaked(side(["alone"]), side(["other"])).tolist() == [False]


def test_conflicts():
    found = conflicts(side(["Yes!", "yes", "no", "no"], [b"1", b"2", b"3", b"3"], labels=[0, 1, 0, 0]))
    assert found == {"normalised_text": [["0", "1"]], "image_bytes": []}


@pytest.mark.parametrize(("name", "id", "text", "near"), [("mmsd", 0, 70, 53), ("mmsd2", 0, 113, 55)])
@pytest.mark.skipif(not (SHARED / "data").exists(), reason="research data not here: ../shared/data")
def test_counts_of_real_data(name, id, text, near, tmp_path):
    from clfa.data.published import read_mmsd, read_mmsd2

    reader = {"mmsd": read_mmsd, "mmsd2": read_mmsd2}[name]
    rows, labels, about = reader(SHARED / "data" / name, None)
    write_dataset(rows, tmp_path / "d", labels, about, images="none")
    train, test = (traces(load_split(tmp_path / "d", split)) for split in ("train", "test"))
    counts = {kind: int((matches(kind, test, train) >= 0).sum()) for kind in COLUMNS}
    assert (counts["id"], counts["normalised_text"], counts["near_text"]) == (id, text, near)
    if name == "mmsd2":
        assert len(conflicts(train)["normalised_text"]) == 70
        assert counts["exact_text"] == 83


@needs_shared("data/mvsa_single")
@pytest.mark.slow
def test_counts_of_real_images(tmp_path):
    from clfa.data.published import read_mvsa

    source = SHARED / "data" / "mvsa_single"
    rows, labels, about = read_mvsa(source, source / "data", source / "fold1")
    write_dataset(rows, tmp_path / "d", labels, about)
    splits = ("train", "validation", "test")
    hashes = image_hashes(tmp_path / "d", splits)
    train, validation, test = (traces(load_split(tmp_path / "d", split), hashes) for split in splits)
    for kind, expected in (("image_bytes", 9), ("normalised_text", 39), ("exact_text", 31)):
        assert ((matches(kind, test, train) >= 0) | (matches(kind, test, validation) >= 0)).sum() == expected


def test_hashes_are_kept(tmp_path, dataset):
    import shutil

    shutil.copytree(dataset, tmp_path / "d", ignore=shutil.ignore_patterns("hashes"))
    first = image_hashes(tmp_path / "d", ["test"])
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "d" / "hashes").glob("*.safetensors")}
    rows = load_split(tmp_path / "d", "test")
    again = traces(rows, image_hashes(tmp_path / "d", ["test"])).image_hashes
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert again == traces(rows, first).image_hashes == [_hash(row["image"]["bytes"]) for row in rows]
    assert len(first) == 8


def _hash(data: bytes) -> int:
    from imagehash import phash

    from clfa.data.images import open_image

    return int(str(phash(open_image(data))), 16)


def test_hash_survives_another_quality_and_size(tmp_path):
    import io

    from PIL import Image, ImageDraw

    def drawn(seed: int) -> Image.Image:
        image = Image.new("RGB", (200, 160), "white")
        pen = ImageDraw.Draw(image)
        for x, y, r, g, b in np.random.default_rng(seed).integers(0, 150, (6, 5)):
            pen.ellipse((x, y, x + 50, y + 40), fill=(r, g, b))
        return image

    def stored(image: Image.Image, kind: str, **options) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    def rows():
        yield "train", Record("t", "a", stored(drawn(1), "PNG"), "no")
        yield "train", Record("u", "b", stored(drawn(2), "PNG"), "yes")
        yield "validation", Record("v", "c", stored(drawn(3), "PNG"), "no")
        yield "test", Record("w", "d", stored(drawn(1).resize((150, 120)), "JPEG", quality=60), "no")
        yield "test", Record("x", "e", stored(drawn(4), "PNG"), "no")

    write_dataset(rows(), tmp_path / "d", ["no", "yes"], {"reader": "test", "name": "d", "filters": []})
    hashes = image_hashes(tmp_path / "d", ["train", "test"])
    train, test = (traces(load_split(tmp_path / "d", split), hashes) for split in ("train", "test"))
    assert matches("image_hash", test, train).tolist() == [0, -1]
    assert matches("image_bytes", test, train).tolist() == [-1, -1]
