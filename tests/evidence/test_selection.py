"""Which posts to label: formulas by hand, each text once, a folder that comes back with labels as a data set."""

import csv
import io

import numpy as np
import pytest
from conftest import make_dataset, picture, text
from PIL import Image

from clfa import commands
from clfa.data.atomic import read_json
from clfa.data.images import media_type
from clfa.data.records import Record, load_manifest
from clfa.data.rows import Rows
from clfa.errors import UserError
from clfa.evidence import selection
from clfa.evidence.selection import disagreement, select, uncertainty
from clfa.model.pipeline import Pipeline
from clfa.serving.predictor import Predictor
from clfa.training.train import train


@pytest.fixture
def pool(tmp_path):
    def post(split, number):
        label = None if split == "unlabelled" else ["no", "yes"][number % 2]
        image = picture(number) if number % 4 else None
        return Record(
            f"{split}-{number}", text(number % 40, 2 + number % 40 % 7) if number % 5 else "", image, label, {}
        )

    counts = {"train": 2, "validation": 2, "unlabelled": 60}
    return make_dataset(tmp_path / "pool", counts, post, class_names=["no", "yes"])


def test_formulas_by_hand():
    assert uncertainty(np.array([[0.7, 0.2, 0.1], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])) == pytest.approx([0.5, 1.0, 0.0])
    sure, other, even = [1.0, 0.0], [0.0, 1.0], [0.5, 0.5]
    found = disagreement(np.array([sure, sure, sure]), np.array([other, sure, even]))
    assert found == pytest.approx([1.0, 0.0, 0.75 * np.log2(4 / 3) + 0.25 * np.log2(4) - 0.5], abs=1e-9)


def test_what_is_chosen_is_what_the_run_is_unsure_of(run, pool, tmp_path, monkeypatch):
    monkeypatch.setattr(selection, "CHUNK", 7)
    selected = select(run, pool, 5, out=tmp_path / "out")
    pipeline, rows = Pipeline.load(run), Rows(pool, ["unlabelled"])
    probabilities = dict(zip([row["id"] for row in rows], pipeline.probabilities(list(rows))))
    for one in selected:
        assert one.uncertainty == pytest.approx(float(uncertainty(probabilities[one.id][None])[0]), abs=1e-3)
        assert 0 <= one.disagreement <= 1
    predictor = Predictor(run)
    texts, images = (predictor.predict_proba([{side: row[side]} for row in rows]) for side in ("text", "image"))
    both = [bool(row["text"] and row["image"]) for row in rows]
    differ = np.where(both, disagreement(texts, images), 0)
    information = uncertainty(pipeline.probabilities(list(rows))) + differ
    first, taken = {}, []
    for place in np.argsort(-information, kind="stable"):  # each text once, but for empty ones
        if first.setdefault(rows[int(place)]["text"] or place, place) == place:
            taken.append(rows[int(place)]["id"])
    assert {one.id for one in selected} == set(taken[:5])
    assert len({one.cells["text"] for one in selected if one.cells["text"]}) == len(
        [one for one in selected if one.cells["text"]]
    )
    with open(tmp_path / "out" / "selected.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["id"] for line in lines] == [one.id for one in selected]
    by_id = {row["id"]: row for row in rows}
    for line in lines:
        image = by_id[line["id"]]["image"]
        assert (tmp_path / "out" / line["image"]).read_bytes() == image["bytes"] if line["image"] else image is None


def test_a_reviewed_table_is_imported(run, pool, tmp_path):
    commands.select(str(run), pool=str(pool), n=20, out=str(tmp_path / "out"))
    table = tmp_path / "out" / "selected.csv"
    with open(table, newline="") as file:
        lines = [line | {"label": ["no", "yes"][number % 2]} for number, line in enumerate(csv.DictReader(file))]
    with open(table, "w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    commands.import_table(str(table), out=str(tmp_path / "labelled"))
    splits = load_manifest(tmp_path / "labelled")["splits"]
    assert sum(split["rows"] for split in splits.values()) == 20


def test_all_that_the_run_reads_is_there(run_config, pool, tmp_path):
    """An image under another name, and a caption: in the table, in the tasks, and as files."""

    def post(split, number):
        label = None if split == "unlabelled" else ["no", "yes"][number % 2]
        values = {"photo": picture(number), "caption": text(number + 9)}
        return Record(f"{split}-{number}", text(number), None, label, values)

    described = {"columns": {"photo": "binary", "caption": "string"}, "class_names": ["no", "yes"]}
    data = make_dataset(tmp_path / "data", {"train": 8, "validation": 4, "unlabelled": 9}, post, **described)
    changes = {"model__modalities__image__column": "photo", "loss__alignment_weight": 0, "train__epochs": 1}
    caption = {"kind": "text", "shares": "text"}
    run = train(run_config(**changes, model__modalities__caption=caption, data__path=str(data)))
    selected = select(run, data, 3, out=tmp_path / "out")
    with open(tmp_path / "out" / "selected.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    tasks = read_json(tmp_path / "out" / "tasks.json")
    for one, line, task in zip(selected, lines, tasks, strict=True):
        number = int(one.id.rpartition("-")[2])
        assert line["caption"] == task["data"]["caption"] == text(number + 9)
        assert (tmp_path / "out" / line["photo"]).read_bytes() == picture(number)
        assert task["data"]["photo"].startswith("data:image/png;base64,")
    assert '<Image name="photo" value="$photo"/>' in (tmp_path / "out" / "label_studio.xml").read_text()


def test_several_jpegs_in_one_file_are_one():
    """As phones make them; no browser knows their own type."""
    first, buffer = Image.new("RGB", (20, 10)), io.BytesIO()
    first.save(buffer, "MPO", save_all=True, append_images=[first])
    assert media_type(buffer.getvalue()) == "image/jpeg"
    assert media_type(picture(1)) == "image/png"


def test_refusals(run, pool, tmp_path):
    with pytest.raises(UserError, match="no split 'test'"):
        select(run, pool, 5, "test", tmp_path / "out")
    with pytest.raises(UserError, match="at least 1"):
        select(run, pool, 0, out=tmp_path / "out")
    with pytest.raises(UserError, match="exists"):
        select(run, pool, 5, out=tmp_path)
    assert not (tmp_path / "out").exists()
