"""`clfa bench`: what it writes, not how fast anything is."""

import json
import subprocess
import sys

import pytest
import torch

from clfa.cli import main
from clfa.errors import UserError
from clfa.model import arithmetic
from clfa.serving.predictor import Predictor
from clfa.studies.bench import bench
from clfa.studies.bench.measure import Suite, alternate


def test_ratios_are_of_sums_and_spreads_of_rounds():
    suite = Suite({"slow": [8.0, 8.0, 8.0, 12.0], "fast": [4.0, 2.0, 4.0, 4.0]}, {"gain": ("slow", "fast")})
    assert suite.ratios() == {"gain": 36 / 14}
    assert suite.spreads() == {"gain": pytest.approx((3.25 - 2) / 2.5)}
    assert suite.rounds()[3] == {"slow": 12.0, "fast": 4.0}


def test_ways_take_turns_after_a_round_that_does_not_count():
    order = []
    ways = {name: lambda name=name: order.append(name) or 2 for name in "abc"}
    times = alternate(ways, 2)
    assert "".join(order) == "abc" + "cba" + "abc"
    assert {name: len(each) for name, each in times.items()} == {"a": 2, "b": 2, "c": 2}


def test_the_image_suite_as_json(capsys, tmp_path):
    code = main(["bench", "--suite", "image", "--rounds", "2", "--out", str(tmp_path / "image.md"), "--json"])
    assert code == 0
    found = json.loads(capsys.readouterr().out)
    assert found["further"]["cached images are equal to the bit"] is True
    assert len(found["rounds"]) == 2
    times = {way: sum(one[way] for one in found["rounds"]) for way in found["rounds"][0]}
    assert found["ratios"]["image cache"] == pytest.approx(times["all of it"] / times["from the cache"])
    assert found["verdict"] == ("too noisy" if found["noise"] > 0.15 else "steady")
    assert "| image cache | " in (tmp_path / "image.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_train_suite_with_a_reference(tmp_path):
    (tmp_path / "step.py").write_text(
        "calls = []\n"
        "def step(texts, images, labels):\n"
        "    calls.append((len(texts), images[0].size, labels))\n"
        "    with open(__file__.replace('step.py', 'calls.txt'), 'a') as file:\n"
        "        file.write(f'{len(texts)} {images[0].size}\\n')\n"
    )
    found = bench("train", rounds=1, layers=1, reference=str(tmp_path))
    assert {"portable", "fp32", "bf16", "frozen", "reference"} <= found.ratios.keys()
    assert found.ratios["portable"] > 1  # 77 tokens for each text cannot be as fast
    assert (tmp_path / "calls.txt").read_text().splitlines() == [
        "8 (500, 375)"
    ] * 4  # two batches in each of two rounds
    assert found.further["GFLOPs a post"]["ours"] < found.further["GFLOPs a post"]["plain"]
    different = found.further["logits differ from plain fp32 by at most"]
    assert different["ours, fp32"] < 1e-5
    assert different["ours, bf16"] < 0.1
    with pytest.raises(UserError, match=r"step\.py is missing"):
        bench("train", rounds=1, layers=1, reference=str(tmp_path / "nowhere"))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("suite", ["teacher", "curves"])
def test_the_other_suites(suite):
    found = bench(suite, rounds=1, layers=1)
    if suite == "teacher":
        assert found.further["embedded again in a second run"] == 0
    else:
        assert len(found.rounds[0]) == 16
        assert "R²" in found.further["by batch"]["ms"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_infer_suite():
    """In a process of its own: here the check of shapes would fix, in the graph, the number of posts."""
    command = [sys.executable, "-m", "clfa", "bench", "--suite", "infer", "--rounds", "1", "--layers", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    further = json.loads(done.stdout)["further"]
    stages = further["posts a second and core, by stage"]
    assert list(stages) == [
        *("read", "decode", "resize, normalise", "tokenize", "encode text", "encode image", "fuse"),
    ]
    assert stages[further["slowest stage"]] == min(stages.values()) > 0
    different = further["logits differ from plain fp32 by at most"]
    assert max(value for way, value in different.items() if "int8" not in way and "bf16" not in way) < 1e-4
    assert {"ONNX, 1", "ONNX int8, 32", "ours, bf16, 32"} <= different.keys()


def test_threads_that_overlap_leave_the_setting_as_it_was():
    settings = torch.backends.mkldnn.matmul
    before = settings.fp32_precision
    one, other = (arithmetic.products("fp32_by_bf16") for _ in range(2))
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert settings.fp32_precision == "bf16"
    other.__exit__(None, None, None)
    assert settings.fp32_precision == before


def test_another_process_multiplies_as_the_one_that_asks():
    settings = torch.backends.mkldnn.matmul
    before = settings.fp32_precision
    with arithmetic.products("fp32_by_bf16"):
        told = arithmetic.products_in_use()
    call = arithmetic.by_products(told, lambda one, two: (one, two, settings.fp32_precision))
    assert call(1, 2) == (1, 2, "bf16")
    assert settings.fp32_precision == before
    assert arithmetic.products_in_use() == "fp32"


def test_products_that_are_no_single_precision_are_refused(run, monkeypatch):
    before = torch.backends.mkldnn.matmul.fp32_precision
    with arithmetic.products("fp32_by_bf16"):
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    assert arithmetic.error_by_bf16() < arithmetic.EXACT
    monkeypatch.setattr(arithmetic, "error_by_bf16", lambda: 3e-3)
    for refused in (lambda: Predictor(run, precision="fp32_by_bf16"), arithmetic.products("fp32_by_bf16").__enter__):
        with pytest.raises(UserError, match="no single precision"):
            refused()
    assert torch.backends.mkldnn.matmul.fp32_precision == before
