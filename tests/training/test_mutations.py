"""The tests of checkpoints can fail: each of these changes of one line of the code is caught by them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT, SEAL = "training/checkpoint.py", "data/seal.py"
MUTATIONS = {
    "the best weights of another checkpoint": (
        CHECKPOINT,
        "            _link(before[0] / BEST, partial / BEST)",
        "            _link(before[-1] / BEST, partial / BEST) if len(before) > 1 else None",
    ),
    "written under its final name": (
        CHECKPOINT,
        "    partial = folder / PARTIAL\n",
        "    partial = folder / f\"step-{progress['step']:08d}\"\n",
    ),
    "a whole one makes room": (
        CHECKPOINT,
        "if path.stem == name and problem_of(path, alone=True):",
        "if path.stem == name:",
    ),
    "no moments": (CHECKPOINT, '"optimizer": moments,', '"optimizer": {},'),
    "no random generators": (CHECKPOINT, 'torch.set_rng_state(random["cpu"])', "pass"),
    "no averages": (CHECKPOINT, "value.copy_(share_of(saved[name], value))", "pass"),
    "the oldest first": (CHECKPOINT, "reverse=True)", "reverse=False)"),
    "a damaged one is taken": (CHECKPOINT, "        if not problem:", "        if True:"),
    "none whole is a start": (CHECKPOINT, "    if problems:", "    if False:"),
    "one is kept": (CHECKPOINT, "[KEPT:]", "[1:]"),
    "names are not compared": (CHECKPOINT, "    if differ:", "    if False:"),
    "a full disk leaves a half": (CHECKPOINT, "shutil.rmtree(folder / PARTIAL, ignore_errors=True)", "pass"),
    "frozen weights are saved": (CHECKPOINT, "if name not in frozen}", "if True}"),
    "sizes only": (SEAL, "        if actual != expected:", '        if actual["bytes"] != expected["bytes"]:'),
    "a file that is gone": (SEAL, "found != set(files)", "found - set(files)"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nothing", *MUTATIONS])
def test_a_changed_line_is_caught(tmp_path, name):
    """And nothing is caught where nothing was changed."""
    file, line, changed = MUTATIONS.get(name, (CHECKPOINT, "KEPT = 2", "KEPT = 2"))
    shutil.copytree(ROOT / "src" / "clfa", tmp_path / "clfa", ignore=shutil.ignore_patterns("__pycache__"))
    source = (tmp_path / "clfa" / file).read_text()
    assert source.count(line) == 1
    (tmp_path / "clfa" / file).write_text(source.replace(line, changed))
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/training/test_checkpoint.py"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1", "CLFA_FAULTS": "60"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert tests.returncode == (name != "nothing"), (
        f"{tests.stdout[-500:]}{tests.stderr[-500:]}"
    )  # tests that cannot be collected: 2
