"""Sweeps: one table over seeds or folds; finished runs are kept; failures are reported after all others ended."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import yaml

from clfa.config import SweepConfig, dump_config
from clfa.errors import UserError
from clfa.evidence.results import Sweep, read_result
from clfa.runs import Run
from clfa.studies.sweep import _as_completed, own_device, run_all, sweep
from clfa.training.checkpoint import newest_whole

SYSTEMS = {
    "text_only": {"model.modalities.image": None, "loss.alignment_weight": 0},
    "no_alignment": {"loss.alignment_weight": 0},
    "clfa": {},
}


@pytest.mark.slow
def test_seeds(run_config, tmp_path):
    config = SweepConfig(
        run_config(train__epochs=1), SYSTEMS, str(tmp_path / "sweep"), seeds=2, compare_to="no_alignment"
    )
    result = sweep(config)
    names = [row.system for row in result.systems]
    assert names == ["majority", "format_only", "tfidf_logistic_regression", "teacher_svm", *SYSTEMS]
    clfa = result.systems[-1]
    assert clfa.seeds == [0, 1]
    values = [
        json.loads((tmp_path / "sweep" / "clfa" / f"seed-{seed}" / "metrics.json").read_text())["test"]["metrics"]
        for seed in (0, 1)
    ]
    for metric in ("accuracy", "macro_f1"):
        expected = [value[metric]["value"] for value in values]
        score = clfa.metrics[metric]
        assert clfa.by_run[metric] == pytest.approx(expected)
        assert score.value == pytest.approx(np.mean(expected))
        assert score.sd == pytest.approx(np.std(expected, ddof=1))
        assert score.low <= score.value <= score.high
    assert {row.system for row in result.differences} == {"text_only", "clfa"}
    assert read_result(Sweep, tmp_path / "sweep" / "sweep.json") == result
    assert (tmp_path / "sweep" / "clfa" / "seed-0" / "README.md").is_file()
    with open(tmp_path / "sweep" / "table.csv") as file:
        assert len(list(csv.reader(file))) == 8
    page = (tmp_path / "sweep" / "table.md").read_text()
    assert sum(line.startswith("|") for line in page.splitlines()) == 9
    assert "clfa and no_alignment give the same answers on all posts." in page
    assert r"text\_only" in (tmp_path / "sweep" / "table.tex").read_text()

    model = tmp_path / "sweep" / "clfa" / "seed-1" / "model.safetensors"
    before = model.stat().st_mtime_ns
    assert sweep(config) == result  # nothing is trained again
    assert model.stat().st_mtime_ns == before
    other = SweepConfig(run_config(train__epochs=2), SYSTEMS, config.output, seeds=2)
    with pytest.raises(UserError, match=r"train\.epochs"):  # old runs are never reported under a new configuration
        sweep(other)


@pytest.mark.slow
def test_folds_predict_every_row_once(run_config, tmp_path):
    config = SweepConfig(
        run_config(train__epochs=1),
        {"no_alignment": {"loss.alignment_weight": 0}, "clfa": {}},
        str(tmp_path / "sweep"),
        seeds=1,
        folds=2,
        compare_to="no_alignment",
    )
    result = sweep(config)
    assert result.rows == 40
    ids = []
    for fold in range(2):
        ids += Run(tmp_path / "sweep" / "clfa" / f"seed-0-fold-{fold}").predictions("test").ids
    assert len(ids) == len(set(ids)) == 40
    assert 0 <= result.differences[0].mcnemar.p <= 1


def test_wrong_systems_are_refused_before_anything_runs(run_config, tmp_path):
    config = SweepConfig(run_config(), {"odd": {"loss.alpha": 1}}, str(tmp_path / "sweep"))
    with pytest.raises(UserError, match=r"system 'odd'.*alpha"):
        sweep(config)
    with pytest.raises(UserError, match="compare_to"):
        sweep(SweepConfig(run_config(), {"clfa": {}}, str(tmp_path / "sweep"), compare_to="other"))
    assert not Path(config.output).exists()


def test_systems_of_other_posts_are_refused(run_config, tmp_path):
    """One table has one set of floors: it is of one data set."""
    config = SweepConfig(run_config(), {"a": {}, "b": {"data.path": "elsewhere"}}, str(tmp_path / "sweep"), seeds=1)
    with pytest.raises(UserError, match=r"system 'b': data\.path = elsewhere.*a sweep for each data set"):
        sweep(config)
    assert not (tmp_path / "sweep").exists()


def test_a_sweep_round_trips_through_its_own_config(run_config, tmp_path):
    from clfa.config import build_config

    config = SweepConfig(run_config(), SYSTEMS, str(tmp_path / "sweep"))
    assert build_config(SweepConfig, asdict(config)) == config


@pytest.mark.slow
def test_processes_of_torchrun_share_the_runs(run_config, tmp_path):
    """Two processes, four runs: each is trained once, by one of them; the first writes the table."""
    (tmp_path / "run.yaml").write_text(dump_config(run_config(train__epochs=1)))
    sweep_file = {"output": str(tmp_path / "sweep"), "seeds": 2, "run": "run.yaml"}
    sweep_file["systems"] = {"no_alignment": {"loss.alignment_weight": 0}, "clfa": {}}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep_file))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "clfa"]
        + ["sweep", "--config", str(tmp_path / "sweep.yaml")],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("macro F1") == 4
    for rank in (0, 1):
        assert f"process {rank} of 2: 2 runs" in done.stderr
    runs = list((tmp_path / "sweep").glob("*/seed-*"))
    assert len(runs) == 4
    assert all((run / "README.md").is_file() for run in runs)
    result = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert [len(row["seeds"]) for row in result["systems"][-2:]] == [2, 2]


def dies_once(config, split: str, threads: int) -> float:
    """Stands in for a run: the first try of `b` kills its process, `c` kills it always."""
    mark = Path(config.output).with_suffix(".tried")
    if config.output.endswith("c") or (config.output.endswith("b") and not mark.exists()):
        mark.touch()
        os._exit(9)
    if config.output.endswith("d"):
        raise MemoryError
    return 0.5


def test_a_killed_process_takes_no_other_run_along(run_config, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", "clfa")
    monkeypatch.setattr("clfa.studies.sweep._run_one", dies_once)
    plan = [run_config(output=str(tmp_path / name)) for name in "abcde"]
    failed = run_all(plan, "test", 1)
    assert failed == {
        str(tmp_path / "c"): "its process was killed twice (out of memory?)",
        str(tmp_path / "d"): "MemoryError",
    }
    assert sum("macro F1 50.0" in line for line in caplog.messages) == 3


def test_each_process_of_a_machine_takes_its_own_device():
    assert own_device({"LOCAL_RANK": "2"}) == "2"
    assert own_device({"LOCAL_RANK": "1", "CUDA_VISIBLE_DEVICES": "4,7"}) == "7"


def test_runs_in_work_are_named_while_nothing_ends(run_config, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("clfa.studies.sweep.PULSE", 0.01)
    run = run_config(output=str(tmp_path / "long"), train__epochs=7)
    Path(run.output).mkdir()
    Run(run.output).log_file.write_text("{}\n{}\n")
    futures = {Future(): run}
    for future in futures:
        future.set_running_or_notify_cancel()
        threading.Timer(0.3, future.set_result, [None]).start()
    with caplog.at_level("INFO", "clfa"):
        assert list(_as_completed(futures, 1)) == list(futures)
    assert caplog.messages[0] == f"in work: {run.output}, 2 of at most 7 epochs"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "send"),
    [(signal.SIGTERM, os.kill), (signal.SIGINT, os.kill), (signal.SIGINT, os.killpg), (signal.SIGKILL, os.kill)],
    ids=["SIGTERM", "SIGINT", "SIGINT of a terminal", "SIGKILL"],
)
def test_a_signal_to_the_sweep_ends_all_of_it(run_config, tmp_path, number, send):
    """Runs would take minutes; what is in work is saved, nothing waiting is begun."""
    config = SweepConfig(
        run_config(train__epochs=2000, train__patience=2000), SYSTEMS, str(tmp_path / "sweep"), seeds=2, jobs=2
    )
    (tmp_path / "sweep.yaml").write_text(dump_config(config))
    process = subprocess.Popen(
        [sys.executable, "-m", "clfa", "sweep", "--config", str(tmp_path / "sweep.yaml")], start_new_session=True
    )
    logs = []
    while len(logs) < 2:
        time.sleep(0.05)
        logs = list((tmp_path / "sweep").glob("*/*/log.jsonl"))
    send(process.pid, number)
    assert process.wait(timeout=240) == (-number if number == signal.SIGKILL else 128 + number)
    ended = time.monotonic() + 120
    while process_group(process.pid) and time.monotonic() < ended:
        time.sleep(0.1)
    assert not process_group(process.pid), "all of its processes have ended"
    begun = sorted(path.parent for path in (tmp_path / "sweep").glob("*/*/config.yaml"))
    assert len(begun) == 2
    assert all(newest_whole(Run(folder).checkpoints) for folder in begun)


def process_group(leader):
    """Whether any process of it is left."""
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    return True
