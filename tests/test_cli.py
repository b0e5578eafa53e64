"""The command line: fast help, exit codes, messages; what the tree must not hold; which way imports run."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clfa.cli import main

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src" / "clfa").rglob("*.py"))


def clfa(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "clfa", *arguments], capture_output=True, text=True)


def test_help_imports_nothing_heavy():
    code = "import sys; from clfa.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print([name for name in ('torch', 'transformers', 'datasets', 'sklearn') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


COMMANDS = ["demo", "import", "teacher train", "teacher embed", "train", "evaluate", "sweep", "predict", "explain"]
COMMANDS += ["audit", "compare", "probe", "reproduce"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([*command.split(), "--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert f"examples:\n  clfa {command}" in printed
    assert "--json" in printed


def test_bad_usage_is_exit_2_without_traceback(tmp_path):
    for arguments in (["predict"], ["import", "mmsd"], ["train", "--loss.alpha", "1"], ["nonsense"], []):
        done = clfa(*arguments)
        assert done.returncode == 2, arguments
        assert "Traceback" not in done.stderr
    done = clfa("evaluate", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("clfa: ")
    assert "clfa train" in done.stderr
    assert done.stdout == ""


def test_json_is_one_object_on_stdout(tmp_path):
    rows = "\n".join(f"{n},say {n},{'ab'[n % 2]}" for n in range(40))
    (tmp_path / "posts.csv").write_text(f"id,text,label\n{rows}\n")
    done = clfa(
        "import", "table", str(tmp_path / "posts.csv"), "--images", "none", "--out", str(tmp_path / "d"), "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["splits"]["train"]["rows"] == 32


def test_train_from_the_command_line(run_config, tmp_path, capsys):
    from clfa.config import save_config

    save_config(run_config(train__epochs=1), tmp_path / "run.yaml")
    out = str(tmp_path / "cli")
    assert (
        main(["train", "--config", str(tmp_path / "run.yaml"), "--output", out, "--loss.temperature", "0.07", "--json"])
        == 0
    )
    assert json.loads(capsys.readouterr().out)["run"] == out
    assert "temperature: 0.07" in (Path(out) / "config.yaml").read_text()
    assert main(["train", "--config", str(tmp_path / "run.yaml"), "--output", out]) == 2
    assert "loss.temperature" in capsys.readouterr().err


def test_teacher_commands(dataset, encoders, tmp_path, capsys):
    assert (
        main(["teacher", "embed", str(dataset), "--teacher", str(encoders / "clip"), "--splits", "test", "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert (dataset / "teachers" / found["key"] / "test.safetensors").is_file()


ORDER = [
    "errors",
    "config",
    "configure",
    "cache",
    "words",
    "encoders",
    "data",
    "metrics",
    "calibration",
    "significance",
    "tables",
    "language",
    "cues",
    "losses",
    "fusion",
    "model",
    "frozen",
    "teacher",
    "predict",
    "checkpoint",
    "train",
    "leakage",
    "floors",
    "slices",
    "page",
    "audit_page",
    "audit",
    "card",
    "evaluate",
    "analysis",
    "probe_page",
    "report",
    "sweep",
    "compare_page",
    "compare",
    "corruptions",
    "parts",
    "probe",
    "tiny",
    "verdict",
    "reproduce_page",
    "reproduce",
    "demo",
    "terminal",
    "commands",
    "cli",
]


def test_imports_run_one_way():
    """A module imports only from those before it in the order; imports inside functions count too."""
    place = {name: number for number, name in enumerate(ORDER)}
    allowed = {("data", "encoders"), ("data", "cache"), ("losses", "data"), ("evaluate", "report")}
    for path in SOURCES:
        name = path.relative_to(ROOT / "src" / "clfa").parts[0].removesuffix(".py")
        if name in ("__init__", "__main__"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("clfa."):
                other = node.module.split(".")[1]
                assert place[other] <= place[name] or (name, other) in allowed, f"{path.name} imports {other}"


def test_nothing_unsafe_in_the_source():
    unsafe = re.compile(
        r"torch\.load\(|\bpickle\b|yaml\.load\(|[^_.a-z]eval\(|trust_remote_code|LOAD_TRUNCATED|urlopen|requests\."
    )
    for path in SOURCES:
        assert not unsafe.search(path.read_text()), path


def test_torchvision_is_not_wanted():
    assert "torchvision" not in (ROOT / "constraints.txt").read_text() + (ROOT / "pyproject.toml").read_text()


def test_readme_commands_exist():
    """Every `clfa …` line of the README parses: the command is known and so is each of its options."""
    text = (ROOT / "README.md").read_text()
    lines = re.findall(r"^clfa ([a-z].*)$", text, re.MULTILINE)
    assert len(lines) >= 5
    for line in lines:
        words = line.split()
        name = " ".join(words[:2]) if words[0] == "teacher" else words[0]
        assert name in COMMANDS, line
        known = clfa(*name.split(), "--help").stdout
        for option in re.findall(r"--[a-z_.-]+", line):
            assert option in known, (line, option)
