"""Comparisons: the right verdicts, refusals, one set of numbers in all formats."""

import csv
import json

import numpy as np
import pytest

from clfa.cli import main
from clfa.errors import UserError
from clfa.evidence.compare import compare, corrected
from clfa.evidence.results import Comparison, Fit, read_result, write_result
from clfa.evidence.significance import mcnemar
from clfa.report.page import write_comparison
from clfa.runs import Predictions, Run

LABELS = ["no", "yes", "maybe"]


def run_yaml(folder, seed: int, folds: int = 0, fold: int = 0) -> str:
    """A run's configuration as an older version wrote it: without the fields that came later."""
    return f"seed: {seed}\noutput: {folder}\ndata: {{path: d, folds: {folds}, fold: {fold}}}\nmodel: {{modalities: {{}}}}\n"


@pytest.fixture
def make(tmp_path):
    """`make("name", accuracy, seeds)`: finished runs that are right with this probability."""
    truth = np.random.default_rng(0).integers(0, 3, 600)

    def build(name, accuracy, seeds=1, ids=None, truth=truth, folds=0, seed0=0):
        for seed in range(seeds):
            for fold in range(max(1, folds)):
                folder = tmp_path / name if seeds == 1 and not folds else tmp_path / name / f"seed-{seed}-fold-{fold}"
                folder.mkdir(parents=True)
                generator = np.random.default_rng([seed0, seed, fold, len(name)])
                right = generator.random(len(truth)) < accuracy
                predicted = np.where(right, truth, (truth + generator.integers(1, 3, len(truth))) % 3)
                rows = np.flatnonzero(np.arange(len(truth)) % max(1, folds) == fold)
                names = [f"post-{row}" for row in rows] if ids is None else ids
                found = Predictions(names, LABELS, truth[rows], np.eye(3)[predicted[rows]], predicted[rows])
                Run(folder).write_predictions("test", found)
                (folder / "metrics.json").write_text(json.dumps({"training": {}}))
                (folder / "config.yaml").write_text(run_yaml(folder, seed, folds, fold))
        return tmp_path / name

    return build


def test_verdicts(make, tmp_path):
    base, better, same = make("base", 0.6, 5), make("better", 0.8, 5), make("same", 0.6, 5, seed0=9)
    first, second = compare([base, better, same], "test", "macro_f1").comparisons
    assert first.is_claim
    assert first.verdict.startswith("better is better than base: +")
    assert first.aso.dominates
    gap, unclear = first.metrics["macro_f1"], second.metrics["macro_f1"]
    assert gap.p_holm <= 0.05
    assert not second.is_claim
    assert second.verdict.startswith("cannot tell same from base")
    assert abs(unclear.difference.value) < unclear.detectable
    assert gap.interval_over == "runs and posts"
    low, high = gap.posts_interval
    assert gap.difference.high - gap.difference.low > high - low  # seeds add to the width


def test_a_smaller_family_is_corrected_less(make):
    names = ["base", "better", "same", "other"]
    paths = [make(name, 0.64 if name == "better" else 0.6, 2, seed0=place) for place, name in enumerate(names)]
    found = compare(paths, "test", "accuracy").comparisons
    alone = corrected(found[:1], "accuracy")[0].metrics["accuracy"]
    among = found[0].metrics["accuracy"]
    assert alone.p == alone.p_holm == among.p
    assert among.p_holm == pytest.approx(min(1, 3 * among.p))  # it has the smallest p of three
    assert alone.difference == among.difference


def test_few_runs_claim_nothing_about_systems(make, tmp_path):
    (found,) = compare([make("base", 0.5, 3), make("other", 0.8, 3)], "test", "accuracy").comparisons
    assert found.verdict.startswith("in these runs other is better than base: +")
    assert "needs 5 runs of each, there are 3" in found.verdict


def test_same_answers(make, tmp_path):
    import shutil

    base = make("base", 0.6)
    shutil.copytree(base, tmp_path / "copy")
    (found,) = compare([base, tmp_path / "copy"], "test", "accuracy").comparisons
    assert found.verdict == "copy and base give the same answers on all posts."
    assert not found.is_claim


def test_one_run_each(make, tmp_path):
    base, other = make("one", 0.6), make("two", 0.7)
    (found,) = compare([base, other], "test", "accuracy").comparisons
    first, second = (Run(folder).predictions("test") for folder in (base, other))
    only_base, only_other, p = mcnemar(first.labels, first.predicted, second.predicted)
    assert found.mcnemar.only_base_right == only_base
    assert found.mcnemar.only_system_right == only_other
    assert found.metrics["accuracy"].p == found.mcnemar.p == p
    assert found.metrics["accuracy"].difference.value == pytest.approx((only_other - only_base) / 600)
    assert found.aso is None  # one run says nothing about seeds


def test_formats_agree(make, tmp_path):
    out = tmp_path / "out"
    result = compare([make("base", 0.6, 2), make("under_score", 0.7, 2)], "test", "macro_f1")
    write_result(out / "comparison.json", result)
    write_comparison(result, out)
    found = result.comparisons[0].metrics["macro_f1"].difference
    assert read_result(Comparison, out / "comparison.json") == result
    with open(out / "comparison.csv") as file:
        (row,) = list(csv.DictReader(file))
    assert float(row["difference"]) == found.value
    cell = f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    for name in ("comparison.md", "comparison.tex", "comparison.html"):
        assert cell in (out / name).read_text(), name
    assert r"under\_score" in (out / "comparison.tex").read_text()


def test_folds_are_pooled_and_order_does_not_matter(make, tmp_path):
    pooled, plain = make("pooled", 0.7, 2, folds=3), make("plain", 0.6, 2)
    result = compare([plain, pooled], "test", "accuracy")
    assert result.posts == 600
    assert [row.seeds for row in result.systems] == [[0, 1], [0, 1]]
    assert result.comparisons[0].metrics["accuracy"].difference.value == pytest.approx(0.1, abs=0.05)


def test_refusals(make, tmp_path):
    base = make("base", 0.6)
    other_posts = make("other_posts", 0.6, ids=[f"else-{number}" for number in range(600)])
    other_truth = make("other_truth", 0.6, truth=np.random.default_rng(5).integers(0, 3, 600))
    for paths, message in (
        ([base], "two or more"),
        ([base, base], "given twice"),
        ([base, tmp_path / "nothing"], "not a folder"),
        ([base, tmp_path], "have the same seed and fold; give one of them"),
        ([base, other_posts], "different posts of test: 600 and 600, 0 in common"),
        ([base, other_truth], "different labels for"),
    ):
        with pytest.raises(UserError, match=message):
            compare(paths, "test", "macro_f1")
    two = tmp_path / "two"
    for name, seed, rate in (("a", 0, 1), ("b", 0, 1), ("c", 1, 2)):
        make(f"two/{name}", 0.6)
        (two / name / "config.yaml").write_text(run_yaml(two / name, seed) + f"train: {{epochs: {rate}}}\n")
    with pytest.raises(UserError, match="b and a have the same seed and fold"):
        compare([base, two], "test", "macro_f1")
    (two / "b" / "config.yaml").unlink()
    (two / "b" / "metrics.json").unlink()
    with pytest.raises(UserError, match=r"several systems \(c and a differ in train"):
        compare([base, two], "test", "macro_f1")
    with pytest.raises(UserError, match="clfa evaluate"):
        compare([base, make("more", 0.6)], "validation", "macro_f1")
    with pytest.raises(UserError, match="allowed are accuracy"):
        compare([base, make("extra", 0.6)], "test", "f1")


def test_stored_predictions_compare_as_the_runs_do(make, tmp_path, capsys):
    base, other = make("base", 0.6, 2, folds=3), make("other", 0.8, 2, folds=3)
    command = ["compare", str(base), str(other), "--out", str(tmp_path / "out"), "--save", str(tmp_path / "stored")]
    assert main(command) == 0
    stored = [tmp_path / "stored" / f"{name}.parquet" for name in ("base", "other")]
    assert compare(stored) == compare([base, other])
    assert sum(path.stat().st_size for path in stored) < 40_000
    assert compare([stored[0], other]).comparisons[0].system == "other"
    (tmp_path / "posts.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"holds no predictions of a system.*--save FOLDER"):
        compare([stored[0], tmp_path / "posts.parquet"])


def _fit(asked, metric):
    return Fit(
        asked=asked,
        metric=metric,
        posts=1,
        test_posts=1,
        tried=[],
        on_validation=[],
        metrics={},
        openings=1,
        floors={},
        minutes=1.0,
        seconds=1.0,
        left_out=[],
        advice=[],
    )


def test_fits_that_were_asked_for_the_same_are_one_system(make, tmp_path):
    fits, plain = make("fits", 0.7, folds=2), make("plain", 0.6, folds=2)
    for fold in range(2):
        run = Run(fits / f"seed-0-fold-{fold}")
        config = run.config_file.read_text()
        run.config_file.write_text(config + f"loss: {{temperature: 0.{fold + 1}}}\n")  # each chose for itself
        asked = {"metric": "macro_f1", "folds": "2", "fold": str(fold)}
        write_result(run.leaderboard_file, _fit(asked, "macro_f1"))
    assert compare([plain, fits]).posts == 600
    asked["metric"] = "accuracy"
    write_result(run.leaderboard_file, _fit(asked, "accuracy"))
    with pytest.raises(UserError, match=r"runs of several systems .* differ in metric"):
        compare([plain, fits])
