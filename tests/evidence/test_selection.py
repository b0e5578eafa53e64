"""Which posts to label: formulas by hand, posts unlike each other, a folder that comes back with labels as a data set."""

import csv

import numpy as np
import pytest
from conftest import make_dataset, picture, text

from clfa import commands
from clfa.data.records import Record, load_manifest
from clfa.data.rows import Rows
from clfa.errors import UserError
from clfa.evidence.selection import disagreement, select, spread, uncertainty
from clfa.model.pipeline import Pipeline


@pytest.fixture
def pool(tmp_path):
    def post(split, number):
        label = None if split == "unlabelled" else ["no", "yes"][number % 2]
        image = picture(number) if number % 4 else None
        return Record(f"{split}-{number}", text(number, 2 + number % 7) if number % 5 else "", image, label, {})

    counts = {"train": 2, "validation": 2, "unlabelled": 60}
    return make_dataset(tmp_path / "pool", counts, post, class_names=["no", "yes"])


def test_formulas_by_hand():
    assert uncertainty(np.array([[0.7, 0.2, 0.1], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])) == pytest.approx([0.5, 1.0, 0.0])
    sure, other, even = [1.0, 0.0], [0.0, 1.0], [0.5, 0.5]
    found = disagreement(np.array([sure, sure, sure]), np.array([other, sure, even]))
    assert found == pytest.approx([1.0, 0.0, 0.75 * np.log2(4 / 3) + 0.25 * np.log2(4) - 0.5], abs=1e-9)


def test_spread_takes_one_of_each_group_and_the_informative_one():
    generator = np.random.default_rng(0)
    centres = np.array([[0, 0], [100, 0], [0, 100], [100, 100]])
    groups = np.repeat(np.arange(4), 10)
    embeds = centres[groups] + generator.normal(size=(40, 2))
    information = np.where(np.arange(40) % 10 == 0, 1.0, 0.01)  # one of each group says most by far
    chosen = spread(embeds, information, 4)
    assert sorted(groups[chosen]) == [0, 1, 2, 3]
    assert information[spread(embeds, information, 40)].tolist() == sorted(information, reverse=True)
    weighted = embeds[chosen] - embeds[groups[chosen] * 10]
    assert np.abs(weighted).max() < 3  # next to the posts that weigh most
    assert len(set(spread(np.full((20, 3), np.nan), np.ones(20), 5).tolist())) == 5


def test_what_is_chosen_is_what_the_run_is_unsure_of(run, pool, tmp_path):
    selected = select(run, pool, 5, out=tmp_path / "out")
    assert len({one.id for one in selected}) == 5
    pipeline, rows = Pipeline.load(run), Rows(pool, ["unlabelled"])
    probabilities = dict(zip([row["id"] for row in rows], pipeline.probabilities(list(rows))))
    for one in selected:
        assert one.uncertainty == pytest.approx(float(uncertainty(probabilities[one.id][None])[0]), abs=1e-3)
        assert 0 <= one.disagreement <= 1
    with open(tmp_path / "out" / "selected.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["id"] for line in lines] == [one.id for one in selected]
    by_id = {row["id"]: row for row in rows}
    for line in lines:
        image = by_id[line["id"]]["image"]
        assert (tmp_path / "out" / line["image"]).read_bytes() == image["bytes"] if line["image"] else image is None


def test_a_reviewed_table_is_imported(run, pool, tmp_path):
    commands.select(str(run), pool=str(pool), n=30, out=str(tmp_path / "out"))
    table = tmp_path / "out" / "selected.csv"
    with open(table, newline="") as file:
        lines = [line | {"label": ["no", "yes"][number % 2]} for number, line in enumerate(csv.DictReader(file))]
    with open(table, "w", newline="") as file:
        writer = csv.DictWriter(file, lines[0])
        writer.writeheader()
        writer.writerows(lines)
    commands.import_table(str(table), out=str(tmp_path / "labelled"))
    splits = load_manifest(tmp_path / "labelled")["splits"]
    assert sum(split["rows"] for split in splits.values()) == 30


def test_refusals(run, pool, tmp_path):
    with pytest.raises(UserError, match="no split 'test'"):
        select(run, pool, 5, "test", tmp_path / "out")
    with pytest.raises(UserError, match="at least 1"):
        select(run, pool, 0, out=tmp_path / "out")
    with pytest.raises(UserError, match="exists"):
        select(run, pool, 5, out=tmp_path)
    assert not (tmp_path / "out").exists()
