"""The fusion of docs/add-a-system.md from a file of its own: trained, predicted with, never loaded by a run alone."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clfa.config import FusionConfig, dump_config
from clfa.errors import UserError
from clfa.fusion import FUSIONS, Fusion, build_fusion, check_fusion, register

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "add-a-system.md").read_text()
CODE = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]


def clfa(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "clfa", *arguments], capture_output=True, text=True, env={**os.environ, **environment}
    )


@pytest.mark.slow
def test_the_page_works_as_it_is_written(run_config, tmp_path):
    assert len(CODE.splitlines()) <= 40
    (tmp_path / "gated.py").write_text(CODE)
    config = run_config(model__fusion__name="gated", train__epochs=1)
    (tmp_path / "run.yaml").write_text(dump_config(config))
    own = {"CLFA_FUSIONS": str(tmp_path / "gated.py")}
    done = clfa("train", "--config", str(tmp_path / "run.yaml"), **own)
    assert done.returncode == 0, done.stderr
    assert clfa("predict", config.output, "--text", "word1 word2", "--json", **own).returncode == 0
    # without the variable a trained run that names the fusion runs no code, and says what to do
    refused = clfa("predict", config.output, "--text", "word1 word2")
    assert refused.returncode == 2
    assert "CLFA_FUSIONS" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_the_checks_of_fusions_check_it_too(tmp_path):
    (tmp_path / "gated.py").write_text(CODE)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            str(ROOT / "tests" / "fusion" / "test_fusion.py"),
            "-k",
            "gated",
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "CLFA_FUSIONS": str(tmp_path / "gated.py")},
    )
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 10


def test_mistakes_in_own_fusions_are_named(monkeypatch, tmp_path):
    with pytest.raises(UserError, match="taken"):

        @register("concat")
        class Another(Fusion):
            """Not the concat of the package."""

    def read(name: str, text: str | None, match: str) -> None:
        path = tmp_path / name
        if text is not None:
            path.write_text(text)
        monkeypatch.setenv("CLFA_FUSIONS", str(path))
        with pytest.raises(UserError, match=match):
            build_fusion(16, ["image"], FusionConfig("mine"), "mean")

    head = "from torch import nn\nfrom clfa.fusion import Fusion, register\n"
    read("nothing.py", None, "no Python file")
    read("broken.py", "def f(:", "broken.py fails: SyntaxError")
    # a built-in name: told even though the configuration names a fusion that exists
    read("taken.py", head + "@register('concat')\nclass C(Fusion): ...", "taken")
    read("few.py", head + "@register('mine')\nclass C(Fusion):\n    def __init__(self, dim): ...", "cannot be built")
    monkeypatch.delitem(FUSIONS, "mine")
    read("module.py", head + "@register('mine')\nclass C(nn.Module): ...", r"does not derive from clfa.fusion.Fusion")
    monkeypatch.delitem(FUSIONS, "mine")
    monkeypatch.delenv("CLFA_FUSIONS")
    with pytest.raises(UserError, match="unknown fusion 'mine'"):
        check_fusion("mine")
