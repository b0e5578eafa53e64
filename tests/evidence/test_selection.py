"""Which posts to label: formulas by hand, each text once, a folder that comes back with labels as a data set."""

import csv

import numpy as np
import pytest
from conftest import make_dataset, picture, text

from clfa import commands
from clfa.data.records import Record, load_manifest
from clfa.data.rows import Rows
from clfa.errors import UserError
from clfa.evidence import selection
from clfa.evidence.selection import disagreement, select, uncertainty
from clfa.model.pipeline import Pipeline
from clfa.serving.predictor import Predictor


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
    assert len({one.text for one in selected if one.text}) == len([one for one in selected if one.text])
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


def test_refusals(run, pool, tmp_path):
    with pytest.raises(UserError, match="no split 'test'"):
        select(run, pool, 5, "test", tmp_path / "out")
    with pytest.raises(UserError, match="at least 1"):
        select(run, pool, 0, out=tmp_path / "out")
    with pytest.raises(UserError, match="exists"):
        select(run, pool, 5, out=tmp_path)
    assert not (tmp_path / "out").exists()
