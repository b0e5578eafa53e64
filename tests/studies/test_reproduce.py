"""The paper's tables: every system trains, published figures stand beside ours, verdicts claim only what they can."""

import csv
import json
import shutil
from importlib.resources import files

import numpy as np
import pytest
import yaml
from conftest import DIM, SHARED, needs_shared

from clfa.cli import main
from clfa.config import DataConfig, RunConfig, build_config, override
from clfa.data.records import Record
from clfa.data.splits import load_rows
from clfa.data.writing import write_dataset
from clfa.errors import UserError
from clfa.evidence.significance import published_verdict, run_interval
from clfa.metrics import Score
from clfa.studies.reproduce import SYSTEMS, _differences, reproduce


@pytest.mark.slow
def test_all_systems_of_mmsd_tiny(tmp_path, capsys):
    assert main(["reproduce", "mmsd", "--tiny", "--seeds", "1", "--out", str(tmp_path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    rows = {row["system"]: row for row in result["rows"]}
    assert list(rows) == list(SYSTEMS)
    for name, row in rows.items():
        assert row["verdict"] == "cannot tell", (name, row["why"])  # nothing is claimed about tiny models
        # what is tabulated is what the run's own predictions say
        stored = json.loads((tmp_path / name / "seed-0" / "metrics.json").read_text())["test"]["metrics"]
        for metric in ("accuracy", "macro_f1"):
            assert row["metrics"][metric]["value"] == pytest.approx(stored[metric]["value"])
    assert {name: round(100 * value, 2) for name, value in rows["clfa"]["published"].items()} == {
        "accuracy": 86.80, "binary_precision": 81.51, "binary_recall": 86.44, "binary_f1": 83.91,
        "macro_precision": 86.09, "macro_recall": 86.74, "macro_f1": 86.36,
    }  # fmt: skip
    assert rows["hke"]["notes"] == ["word graph: dependencies", "word graph: window"]
    for name in ("table.md", "table.tex", "table.html", "reproduce.json"):
        text = (tmp_path / name).read_text()
        assert all(title.replace("&", "\\&" if name == "table.tex" else "&amp;" if name == "table.html" else "&") in text
                   for title in SYSTEMS.values())  # fmt: skip
    with open(tmp_path / "table.csv") as file:
        assert {line["system"] for line in csv.DictReader(file)} == set(SYSTEMS)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/seed-0/model.safetensors")}
    assert len(before) == len(SYSTEMS)
    assert (
        main(["reproduce", "mmsd", "--tiny", "--seeds", "1", "--out", str(tmp_path)]) == 0
    )  # nothing is trained again
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.slow
def test_changed_posts_are_not_reported_as_the_old_ones(tmp_path):
    """Run, import other posts to the same place, run again: refused, not skipped as finished."""

    def write(shift: int) -> None:
        rows = [
            (split, Record(f"{split}-{n}", f"post number {n + shift}", None, "ab"[n % 2]))
            for split in ("train", "validation", "test")
            for n in range(12)
        ]
        shutil.rmtree(tmp_path / "data", ignore_errors=True)
        about = {"reader": "test", "name": "texts", "filters": []}
        write_dataset(rows, tmp_path / "data", ["a", "b"], about, images="none")

    call = {"systems": "bilstm", "seeds": 1}
    write(0)
    first = reproduce("mmsd", str(tmp_path / "data"), tmp_path / "out", **call)
    (row,) = first.rows
    assert row.runs == 1
    assert row.why.startswith("not the published system: posts imported as test, not as mmsd; 12 test posts for 2,409")
    write(100)
    with pytest.raises(UserError, match="table of other posts"):
        reproduce("mmsd", str(tmp_path / "data"), tmp_path / "out", **call)
    (tmp_path / "out" / "reproduce.json").unlink()
    with pytest.raises(UserError, match="made from other posts"):
        reproduce("mmsd", str(tmp_path / "data"), tmp_path / "out", **call)


@pytest.mark.slow
def test_missing_inputs_are_named_and_nothing_is_filled_in(encoders, dataset, tmp_path):
    """On a data set without attributes, with other encoders: stand-ins named; absent files and encoders: not run."""
    configs = tmp_path / "configs"
    configs.mkdir()
    small = {"epochs": 1, "batch_size": 12}
    modalities = {
        "text": {"kind": "text", "encoder": str(encoders / "bert"), "max_length": 16},
        "image": {"kind": "image", "encoder": str(encoders / "vit")},
        "attributes": {"kind": "text", "shares": "text", "align": False},
    }
    run = {"output": "x", "data": {"path": "x"}, "loss": {"alignment_weight": 0}, "train": small}
    run["model"] = {"dim": DIM, "projection_hidden": 0, "modalities": modalities, "fusion": {"name": "hfm"}}
    (configs / "hfm.yaml").write_text(yaml.safe_dump(run, sort_keys=False))
    run["model"]["modalities"] = {"text": {**modalities["text"], "encoder": str(tmp_path / "nothing")}}
    (configs / "bert.yaml").write_text(yaml.safe_dump(run, sort_keys=False))
    result = reproduce("mmsd", str(dataset), tmp_path / "out", str(configs), "bert,hfm", 3)
    bert, hfm = result.rows
    assert hfm.verdict == "cannot tell", hfm.why
    assert any("for microsoft/resnet-50" in name for name in hfm.stand_ins)
    assert "no attributes" in hfm.stand_ins
    assert hfm.runs == 3
    assert bert.verdict == "not run"
    assert bert.metrics == {}
    assert "is not here" in bert.why
    assert list(result.floors) == ["majority", "format_only", "tfidf_logistic_regression"]
    # a system of the package: its encoders are hub names, and there is no network
    result = reproduce("mmsd", str(dataset), tmp_path / "out", systems="clfa", seeds=1)
    assert [row.system for row in result.rows] == ["bert", "hfm", "clfa"]  # earlier rows stay
    assert result.rows[1] == hfm
    assert result.rows[2].why == "the text encoder bert-base-uncased is not here"
    assert "HFM*" in (tmp_path / "out" / "table.md").read_text()


def test_a_data_set_without_images_runs_no_image_system(tmp_path):
    rows = [
        (split, Record(f"{split}-{n}", f"post {n}", None, "ab"[n % 2]))
        for split in ("train", "validation", "test")
        for n in range(6)
    ]
    write_dataset(
        rows, tmp_path / "data", ["a", "b"], {"reader": "test", "name": "texts", "filters": []}, images="none"
    )
    result = reproduce("mmsd", str(tmp_path / "data"), tmp_path / "out", systems="vit,clfa")
    assert [row.why for row in result.rows] == [f"{tmp_path}/data holds no images"] * 2
    with pytest.raises(UserError, match="unknown system 'vgg'"):
        reproduce("mmsd", str(tmp_path / "data"), tmp_path / "out", systems="vgg")


PUBLISHED = {"accuracy": 0.80, "macro_f1": 0.78, "binary_f1": 0.75}


@pytest.mark.parametrize(
    ("ours", "runs", "stand_ins", "expected"),
    [
        ({"accuracy": (79, 81), "macro_f1": (77, 79)}, 5, [], "reproduced"),
        ({"accuracy": (77, 79), "macro_f1": (77, 79)}, 5, [], "lower"),
        ({"accuracy": (80.5, 82), "macro_f1": (77, 79)}, 3, [], "higher"),
        ({"accuracy": (79, 81), "macro_f1": (78.5, 79)}, 3, [], "cannot tell"),  # accuracy agrees, macro F1 does not
        ({"accuracy": (76, 83), "macro_f1": (77, 79)}, 5, [], "cannot tell"),  # too wide to say anything
        ({"accuracy": (79, 81), "macro_f1": (77, 79)}, 2, [], "cannot tell"),
        ({"accuracy": (77, 79), "macro_f1": (77, 79)}, 5, ["another encoder"], "cannot tell"),
        ({"macro_f1": (77, 79)}, 5, [], "cannot tell"),  # no accuracy to compare
    ],
)
def test_verdicts(ours, runs, stand_ins, expected):
    scores = {name: Score((low + high) / 200, low / 100, high / 100) for name, (low, high) in ours.items()}
    claimed, why = published_verdict(scores, PUBLISHED, runs, stand_ins)
    assert claimed == expected
    assert why


def test_bad_arguments_are_refused_before_anything_is_trained(tmp_path):
    call = {"dataset": None, "out": tmp_path / "out"}
    for more, message in (
        ({"systems": "bert, cmgnc"}, "unknown system 'cmgnc'; did you mean cmgcn"),
        ({"seeds": 0}, "at least 1"),
        ({"configs": str(tmp_path / "nope")}, "is not a folder"),
        ({"dataset": str(tmp_path)}, "clfa import"),
    ):
        with pytest.raises(UserError, match=message):
            reproduce("mvsa", **{**call, **more})
    assert not (tmp_path / "out").exists()


@needs_shared("notes/paper.md")
def test_published_figures_are_those_of_the_paper():
    """Every row of the main table, number by number."""
    published = json.loads(files("clfa").joinpath("systems", "published.json").read_text(encoding="utf-8"))
    rows = {row["system"]: row for row in published["mmsd"]}
    names = ["accuracy", *(f"{kind}_{name}" for kind in ("binary", "macro") for name in ("precision", "recall", "f1"))]
    seen = 0
    for line in (SHARED / "notes" / "paper.md").read_text().splitlines():
        cells = [cell.strip().strip("*") for cell in line.strip("|").split("|")]
        if len(cells) == 9 and cells[0] in ("image", "text", "both", "knowledge"):
            row = rows[{"InCross": "InCrossMGs"}.get(cells[1], cells[1])]
            assert {name: row[name] for name in names if name in row} == {
                name: float(cell) for name, cell in zip(names, cells[2:]) if cell != "–"
            }, cells[1]
            seen += 1
    assert seen == len(rows) == 15


def test_what_a_configuration_changes_is_a_stand_in():
    shipped = yaml.safe_load(files("clfa").joinpath("systems", "clfa.yaml").read_text())
    changes = {"model.modalities.text.encoder": "mini", "train.epochs": 1, "data.path": "elsewhere", "seed": 7}
    original, own = (build_config(RunConfig, values) for values in (shipped, override(shipped, changes)))
    assert _differences(original, original) == []
    assert _differences(own, original) == ["mini for bert-base-uncased", "other train.epochs"]


@pytest.mark.slow
def test_interval_of_one_run_covers_further_runs():
    """Simulated systems of differing skill: the true score of a further run lies inside at least 93 % of the time."""
    generator = np.random.default_rng(0)
    covered, trials, posts = 0, 150, 600
    for _ in range(trials):
        skills = generator.normal(0.8, 0.02, 6)
        labels = generator.integers(0, 2, posts)
        hard = generator.random(posts)  # the same posts are hard for all runs
        luck = generator.random((5, posts))
        runs = np.where(luck + hard < 2 * skills[:5, None], labels, 1 - labels)
        low, high = run_interval(labels, runs, 2, "accuracy")
        assert 0.02 < high - low < 0.5
        covered += low <= 1 - 2 * (1 - skills[5]) ** 2 <= high
    assert covered / trials > 0.93


@needs_shared("data/mmsd")
def test_published_counts_are_those_of_the_posts(tmp_path):
    """The table's test set is the one that is read here: 2,409 posts."""
    assert (
        main(["import", "mmsd", str(SHARED / "data" / "mmsd"), "--images", "none", "--out", str(tmp_path / "mmsd")])
        == 0
    )
    assert len(load_rows(DataConfig(str(tmp_path / "mmsd")), "test")) == 2409
