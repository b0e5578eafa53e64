"""The paper's tables: every system trains, published figures stand beside ours, verdicts claim only what they can."""

import csv
import json

import numpy as np
import pytest
import yaml
from conftest import DIM, SHARED, needs_shared

from clfa.cli import main
from clfa.config import DataConfig
from clfa.data.splits import load_rows
from clfa.errors import UserError
from clfa.reproduce import SYSTEMS, reproduce, verdict
from clfa.significance import run_interval


@pytest.mark.slow
def test_all_systems_of_mmsd_tiny(tmp_path, capsys):
    assert main(["reproduce", "mmsd", "--tiny", "--seeds", "1", "--out", str(tmp_path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    rows = {row["system"]: row for row in result["rows"]}
    assert list(rows) == list(SYSTEMS)
    for name, row in rows.items():
        assert row["verdict"] == "cannot tell", (name, row["why"])  # nothing is claimed about tiny models
        assert 0 <= row["macro_f1"] <= row["accuracy"] + 30
        # what is tabulated is what the run's own predictions say
        found = json.loads((tmp_path / name / "seed-0" / "metrics.json").read_text())["test"]["metrics"]
        assert row["accuracy"] == pytest.approx(100 * found["accuracy"]["value"], abs=0.01)
        assert row["macro_f1"] == pytest.approx(100 * found["macro_f1"]["value"], abs=0.01)
    assert rows["clfa"]["published"] == {
        "accuracy": 86.80, "binary_precision": 81.51, "binary_recall": 86.44, "binary_f1": 83.91,
        "macro_precision": 86.09, "macro_recall": 86.74, "macro_f1": 86.36, "rerun_by_the_paper": True,
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
def test_missing_inputs_are_told_and_nothing_is_filled_in(encoders, dataset, tmp_path):
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
    quiet = {"say": lambda line: None}
    result = reproduce("mmsd", str(dataset), tmp_path / "out", str(configs), "bert,hfm", 3, **quiet)
    bert, hfm = result["rows"]
    assert hfm["verdict"] == "cannot tell", hfm["why"]
    assert any("for microsoft/resnet-50" in name for name in hfm["stand_ins"])
    assert "no attributes" in hfm["stand_ins"]
    assert hfm["seeds"] == 3
    assert bert["verdict"] == "not run"
    assert bert["accuracy"] is None
    assert "is not here" in bert["why"]
    assert [floor["system"] for floor in result["floors"]] == ["majority", "format_only", "tfidf_logistic_regression"]
    # a system of the package: its encoders are hub names, and there is no network
    result = reproduce("mmsd", str(dataset), tmp_path / "out", systems="clfa", seeds=1, **quiet)
    assert [row["system"] for row in result["rows"]] == ["bert", "hfm", "clfa"]  # earlier rows stay
    assert result["rows"][1] == hfm
    assert result["rows"][2]["why"] == "the text encoder bert-base-uncased is not here"
    assert "HFM*" in (tmp_path / "out" / "table.md").read_text()


def test_a_data_set_without_pictures_runs_no_picture(tmp_path):
    from clfa.data.records import Record, write_dataset

    rows = [
        (split, Record(f"{split}-{n}", f"post {n}", None, "ab"[n % 2]))
        for split in ("train", "validation", "test")
        for n in range(6)
    ]
    write_dataset(
        rows, tmp_path / "data", ["a", "b"], {"reader": "test", "name": "texts", "filters": []}, images="none"
    )
    result = reproduce("mmsd", str(tmp_path / "data"), tmp_path / "out", systems="vit,clfa", say=lambda line: None)
    assert [row["why"] for row in result["rows"]] == [f"{tmp_path}/data holds no images"] * 2
    with pytest.raises(UserError, match="unknown system 'vgg'"):
        reproduce("mmsd", str(tmp_path / "data"), tmp_path / "out", systems="vgg", say=lambda line: None)


PUBLISHED = {"accuracy": 80.0, "macro_f1": 78.0, "binary_f1": 75.0}


@pytest.mark.parametrize(
    ("ours", "runs", "stand_ins", "expected"),
    [
        ({"accuracy": (79, 81), "macro_f1": (77, 79)}, 5, [], "reproduced"),
        ({"accuracy": (77, 79), "macro_f1": (77, 79)}, 5, [], "lower"),
        ({"accuracy": (79, 81), "macro_f1": (78.5, 79)}, 3, [], "higher"),
        ({"accuracy": (77, 79), "macro_f1": (78.5, 79)}, 3, [], "cannot tell"),  # lower and higher
        ({"accuracy": (76, 83), "macro_f1": (77, 79)}, 5, [], "cannot tell"),  # too wide to say anything
        ({"accuracy": (79, 81), "macro_f1": (77, 79)}, 2, [], "cannot tell"),
        ({"accuracy": (77, 79), "macro_f1": (77, 79)}, 5, ["another encoder"], "cannot tell"),
        ({"weighted_f1": (77, 79)}, 5, [], "cannot tell"),  # nothing published
    ],
)
def test_verdicts(ours, runs, stand_ins, expected):
    found, why = verdict(ours, PUBLISHED, runs, stand_ins)
    assert found == expected
    assert why


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
