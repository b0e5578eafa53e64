"""The audit finds every planted fault, exactly counted, and nothing on the clean twin."""

import io

import numpy as np
import pytest
from conftest import SHARED, needs_shared
from PIL import Image

from clfa import commands
from clfa.data.records import Record
from clfa.data.writing import write_dataset
from clfa.evidence.audit import audit
from clfa.evidence.results import Audit, Spread, read_result
from clfa.report.page import write_audit

VOCABULARY = [f"w{number}" for number in range(3000)]
SPLITS = {"train": 600, "validation": 100, "test": 150}


def drawn(seed: int, size: int = 96) -> Image.Image:
    """Smooth random colours: an image whose perceptual hash survives another size and quality."""
    small = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)


def stored(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def clean_posts() -> dict[str, list[dict]]:
    """Random words, images and labels: nothing to find."""
    generator = np.random.default_rng(0)
    posts: dict[str, list[dict]] = {}
    seed = 0
    for split, count in SPLITS.items():
        posts[split] = []
        for number in range(count):
            seed += 1
            posts[split].append(
                {
                    "id": f"{split}-{number}",
                    "text": " ".join(generator.choice(VOCABULARY, 12)),
                    "image": seed,
                    "label": ["no", "yes"][number % 2],
                    "extra": {"second_label": ["no", "yes"][number % 2]},
                }
            )
    return posts


def plant(posts: dict[str, list[dict]]) -> None:
    """Every kind of fault, in a number of its own."""
    train, test = posts["train"], posts["test"]
    for n in range(3):
        test[n]["id"] = train[n]["id"]
    for n in range(10, 14):
        test[n]["text"] = train[n]["text"]
    for n, label in ((24, "yes"), (25, "no")):  # changed on one side, the classes stay balanced
        test[n]["label"], test[n]["extra"] = label, {"second_label": label}
    for n in range(20, 25):
        test[n]["text"] = train[n]["text"].upper() + " !!! https://t.co/abc"
    for n in range(30, 36):
        test[n]["text"] = " ".join([*train[n]["text"].split()[:11], "other"])
    for n in range(40, 47):
        test[n]["image"] = train[n]["image"]
    for n in range(50, 58):
        test[n]["image"] = ("smaller", train[n]["image"])
    for n in range(60, 62):  # one text, two labels
        train[n + 101]["text"], train[n + 101]["label"] = train[n]["text"], ["yes", "no"][n % 2]
    for post in [post for post in train if post["label"] == "yes"][200:240]:
        post["text"] += " planted"
    for post in [post for post in train + test if post["label"] == "no"][100:160]:
        post["text"] += "  "
    for n in range(70, 79):
        test[n]["extra"] = {"second_label": {"no": "yes", "yes": "no"}[test[n]["label"]]}


def write(posts: dict[str, list[dict]], folder):
    def content(image) -> bytes:
        if isinstance(image, tuple):
            return stored(drawn(image[1]).resize((80, 80)), "JPEG", quality=70)
        return stored(drawn(image))

    def rows():
        for split, found in posts.items():
            for post in found:
                yield (
                    split,
                    Record(post["id"], post["text"], content(post["image"]), post["label"], post["extra"]),
                )

    about = {"reader": "test", "name": "planted", "filters": [], "columns": {"second_label": "string"}}
    write_dataset(rows(), folder, ["no", "yes"], about, text="raw")
    return folder


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    posts = clean_posts()
    plant(posts)
    folder = write(posts, tmp_path_factory.mktemp("audit") / "faulty")
    return folder, commands.audit(str(folder))


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    folder = write(clean_posts(), tmp_path_factory.mktemp("audit") / "clean")
    return folder, audit(folder)


def test_every_planted_leak_is_counted(faulty):
    leakage = faulty[1].leakage
    counts = {kind: found.test_in_train for kind, found in leakage.items()}
    # an equal text is also equal in its normal form, and near; equal bytes have equal hashes
    assert counts == {
        "id": 3,
        "exact_text": 4,
        "normalised_text": 9,
        "near_text": 15,
        "image_bytes": 7,
        "image_hash": 15,
    }
    assert leakage["exact_text"].within_train == 2
    assert leakage["normalised_text"].test_in_train_other_label == 1
    assert leakage["exact_text"].test_in_train_other_label == 0
    assert ["train-0", "train-0"] in leakage["id"].examples["test_in_train"]


def test_every_other_planted_fault_is_found(faulty):
    found = faulty[1]
    cues = {cue.cue: cue for cue in found.cues}
    assert cues["planted"].label == "yes"
    assert (cues["planted"].with_label, cues["planted"].count) == (40, 40)
    assert cues["irregular_whitespace"].label == "no"
    assert cues["irregular_whitespace"].p_label_given_cue == 1
    assert found.conflicting_labels["normalised_text"]["train"].count == 2
    assert found.disagreement["second_label"]["test"].differ == 9
    kinds = {finding.kind for finding in found.findings}
    assert {"cue:planted", "cue:irregular_whitespace", "conflict:normalised_text", "disagreement:second_label"} <= kinds
    assert {f"leakage:{kind}" for kind in found.leakage} <= kinds
    harms = [finding.harm for finding in found.findings]
    assert harms == sorted(harms, reverse=True)


def test_clean_twin_raises_nothing(clean):
    found = clean[1]
    assert found.findings == []
    assert found.cues == []
    for counts in found.leakage.values():
        assert all(value == 0 for name, value in vars(counts).items() if name not in ("checked", "examples"))


def test_files_and_fields(faulty):
    folder, found = faulty
    assert read_result(Audit, folder / "audit.json") == found
    assert (folder / "audit.html").is_file()
    assert set(found.floors) == {"majority", "format_only", "tfidf_logistic_regression"}
    for floor in found.floors.values():
        assert floor["macro_f1"].low <= floor["macro_f1"].value <= floor["macro_f1"].high
    assert found.floors["majority"]["accuracy"].value == 0.5
    assert found.labels["test"] == {"no": 75, "yes": 75}
    assert found.images["train"].width == Spread(96.0, 96.0, 96.0)
    assert found.images["test"].formats == {"PNG": 142, "JPEG": 8}


def test_floors_on_frozen_encoders(dataset, encoders, tmp_path):
    text, image, teacher = (str(encoders / name) for name in ("bert", "vit", "clip"))
    found = commands.audit(str(dataset), out=str(tmp_path), text_encoder=text, image_encoder=image, teacher=teacher)
    assert {"text_only", "image_only", "late_fusion", "teacher_probe"} <= set(found.floors)
    assert (tmp_path / "audit.html").is_file()
    assert not (dataset / "audit.json").exists()


def test_frozen_floor_finds_what_the_image_shows(tmp_path, encoders):
    """Red images are one class, blue the other: the image-only floor sees it, the text-only floor cannot."""

    def rows():
        generator = np.random.default_rng(0)
        for split, count in (("train", 60), ("validation", 10), ("test", 30)):
            for number in range(count):
                colour = (200, 20, 20) if number % 2 else (20, 20, 200)
                image = stored(Image.new("RGB", (32 + number, 32), colour))
                yield (
                    split,
                    Record(f"{split}-{number}", " ".join(generator.choice(VOCABULARY, 5)), image, "ab"[number % 2]),
                )

    write_dataset(rows(), tmp_path / "d", ["a", "b"], {"reader": "test", "name": "d", "filters": []})
    floors = audit(tmp_path / "d", str(encoders / "bert"), str(encoders / "vit")).floors
    assert floors["image_only"]["accuracy"].value == 1
    assert floors["text_only"]["accuracy"].value < 0.75


def test_texts_without_images(tmp_path):
    rows = [("train", Record(str(n), f"word{n} here", None, "ab"[n % 2])) for n in range(20)]
    rows += [("validation", Record(str(n), f"other{n}", None, "ab"[n % 2])) for n in range(4)]
    write_dataset(iter(rows), tmp_path / "d", ["a", "b"], {"reader": "t", "name": "d", "filters": []}, images="none")
    found = audit(tmp_path / "d")  # and no test split: validation is looked at
    assert found.evaluated == "validation"
    assert found.leakage["image_bytes"].checked == 0
    assert found.leakage["id"].validation_in_train == 4
    write_audit(found, tmp_path)


FLOORS = {
    # name: majority, format-only accuracy / binary F1, TF-IDF accuracy / macro F1 (words alone: 79.5 / 79.0, 73.6 / 73.5)
    "mmsd": (60.2, 74.1, 69.4, 82.4, 81.9),
    "mmsd2": (57.0, 66.1, 63.1, 75.2, 75.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOORS)
@pytest.mark.skipif(not (SHARED / "data").exists(), reason="research data not here: ../shared/data")
def test_floors_of_real_data(name, tmp_path):
    from clfa.data.published import read_mmsd, read_mmsd2

    reader = {"mmsd": read_mmsd, "mmsd2": read_mmsd2}[name]
    rows, labels, about = reader(SHARED / "data" / name, None)
    write_dataset(rows, tmp_path / "d", labels, about, images="none")
    found = audit(tmp_path / "d")
    floors = found.floors
    measured = (
        floors["majority"]["accuracy"],
        floors["format_only"]["accuracy"],
        floors["format_only"]["binary_f1"],
        floors["tfidf_logistic_regression"]["accuracy"],
        floors["tfidf_logistic_regression"]["macro_f1"],
    )
    assert [100 * score.value for score in measured] == pytest.approx(FLOORS[name], abs=1.0)
    if name == "mmsd":
        assert found.disagreement["hashtag_label"]["test"].differ == 144
        assert found.disagreement["hashtag_label"]["validation"].differ == 87


@pytest.mark.slow
@needs_shared("data/mmsd")
def test_white_space_rule_on_the_test_file_in_use(tmp_path):
    """The rule on the 2,373 rows that later papers report on: TP 876, FP 94, FN 49, TN 1,354."""
    from clfa.data.published import read_mmsd

    rows, labels, about = read_mmsd(SHARED / "data" / "mmsd", None, "substrings")
    write_dataset(rows, tmp_path / "d", labels, about, text="raw", images="none")
    found = audit(tmp_path / "d")
    rule = found.cues[0]
    assert rule.cue == "irregular_whitespace"
    test, posts = rule.splits["test"], found.splits["test"].rows
    assert (test.with_label, test.count, test.label_count, posts) == (876, 970, 925, 2373)
    assert test.accuracy == pytest.approx((876 + 1354) / 2373, abs=1e-12)
