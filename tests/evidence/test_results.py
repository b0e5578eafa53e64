"""Results are stored as they are and read back typed."""

import json

import pytest

from clfa.errors import UserError
from clfa.evidence.results import Bin, Evaluation, Flip, Illustrations, Slice, as_dict, read_result, write_result
from clfa.metrics import Score


def evaluation() -> Evaluation:
    score = Score(0.5, 0.4, 0.6)
    return Evaluation(
        run="runs/one",
        split="test",
        rows=2,
        class_names=["no", "yes"],
        metrics={"accuracy": score},
        confusion=[[1, 0], [1, 0]],
        ece=0.1,
        reliability=[Bin(0.6, 0.5, 2)],
        deduplicated=Slice(0, {}, left_out=2),
        flips={"emoji": Flip(2, 1, score)},
        illustrations=Illustrations([]),
    )


def test_what_is_written_is_read_back(tmp_path):
    found = evaluation()
    write_result(tmp_path / "found.json", found)
    read = read_result(Evaluation, tmp_path / "found.json")
    assert read == found
    assert isinstance(read.flips["emoji"].rate, Score)
    assert read.calibration is None
    assert read.illustrations is None  # for a report only
    assert "illustrations" not in as_dict(found)


def test_results_of_another_version_are_told(tmp_path):
    path = tmp_path / "found.json"
    with pytest.raises(UserError, match="not found"):
        read_result(Evaluation, path)
    path.write_text(json.dumps({"metrics": {"accuracy": {"value": 0.5, "ci95": [0.4, 0.6]}}}))
    with pytest.raises(UserError, match="another version of clfa"):
        read_result(Evaluation, path)
