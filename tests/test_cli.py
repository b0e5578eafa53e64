"""The command line: fast help, exit codes, messages; what the tree must not hold; which way imports run."""

import ast
import json
import logging
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import clfa as clfa_package
from clfa.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src" / "clfa").rglob("*.py"))


def clfa(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "clfa", *arguments], capture_output=True, text=True)


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_that_a_library_makes_an_error_of_is_still_one(name, code):
    """As compiled code does with whatever is raised while it calls Python."""
    script = (
        "import os, signal, clfa.cli as cli\n"
        "def main():\n"
        f"    try: os.kill(os.getpid(), signal.{name}); [0 for _ in range(10**6)]\n"
        "    except BaseException: raise ValueError('could not determine the shape')\n"
        "cli.main = main; cli.run()"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "")


def test_help_imports_nothing_heavy():
    code = "import sys; from clfa.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print([name for name in ('torch', 'transformers', 'datasets', 'sklearn') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def names(commands: dict = COMMANDS) -> list[str]:
    """All commands as they are typed."""
    found = []
    for name, command in commands.items():
        found += [f"{name} {inner}" for inner in names(command)] if isinstance(command, dict) else [name]
    return found


@pytest.mark.parametrize("command", names())
def test_every_command_has_help_with_examples(command, capsys):
    with pytest.raises(SystemExit) as end:
        main([*command.split(), "--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert f"examples:\n  clfa {command}" in printed
    assert "--json" in printed


def test_readers_show_their_own_options(capsys):
    shown = {}
    for reader in COMMANDS["import"]:
        with pytest.raises(SystemExit):
            main(["import", reader, "--help"])
        shown[reader] = set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE)) - {"--json"}
    shared = {"--out", "--images", "--text", "--on-bad", "--max-bad"}
    assert shown["mmsd2"] == shared
    assert shown["mmsd"] == shared | {"--filter"}
    assert shown["mvsa"] == shared | {"--split-dir", "--split", "--seed"}
    assert shown["table"] >= shared | {"--column", "--label-column", "--seed"}


def test_bad_usage_is_exit_2_and_a_message(tmp_path, capsys):
    text = "data: {path: x}\nmodel: {modalities: {text: {kind: text}}}\noutput: y\n"
    (tmp_path / "run.yaml").write_text(text)
    (tmp_path / "bad.yaml").write_text(text.replace("kind: text", "kind: text, size: 3"))
    config = ["train", "--config", str(tmp_path / "run.yaml")]
    for arguments, message in (
        (["predict"], "run"),
        (["import"], "mvsa"),
        (["import", "mmsd"], "out"),
        (["import", "mvsa", "x", "--out", "y", "--filter", "none"], "--filter"),
        (["import", "table", "x", "--out", "y", "--column", "ocr"], "NAME=COLUMN"),
        (["import", "table", "x", "--out", "y", "--column", "ocr=a", "--column", "ocr=b"], "ocr is a"),
        (["train", "--loss.alpha", "1"], "loss.alpha"),
        (["train", "--config", str(tmp_path / "bad.yaml")], "size"),
        ([*config, "--loss.temperature", "warm"], "loss.temperature"),
        (["train", "--config", str(tmp_path / "none.yaml")], "none.yaml"),
        (["nonsense"], "explain"),
    ):
        assert main(arguments) == 2, arguments
        out, err = capsys.readouterr()
        assert err.startswith("clfa: "), arguments
        assert message in err, arguments
        assert out == ""


def test_bad_input_is_exit_2_without_traceback(tmp_path):
    done = clfa("evaluate", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("clfa: ")
    assert "clfa train" in done.stderr
    assert "Traceback" not in done.stderr
    assert clfa().returncode == 2


def test_terminated_is_143_without_traceback():
    code = "import os, signal, clfa.cli as cli\n"
    code += "def stopped(**_): os.kill(os.getpid(), signal.SIGTERM)\n"
    code += "stopped.__signature__ = __import__('inspect').signature(lambda: None)\n"
    code += "cli.COMMANDS['stopped'] = stopped\ncli.run()\n"
    done = subprocess.run([sys.executable, "-c", code, "stopped"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (143, "")


def test_interrupted_is_130(monkeypatch, capsys):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setitem(COMMANDS, "interrupted", interrupted)
    assert main(["interrupted"]) == 130
    assert capsys.readouterr().err == "clfa: interrupted\n"


def test_messages_go_to_stderr_and_results_to_stdout(monkeypatch, capsys):
    def talk():
        logging.getLogger("clfa.somewhere").info("half done")
        return {"rows": 3, "splits": {"train": [1, 2]}}

    monkeypatch.setitem(COMMANDS, "talk", talk)
    for _ in range(2):  # no line twice, although the handler is set up again
        assert main(["talk"]) == 0
        assert capsys.readouterr() == ("rows: 3\nsplits:\n  train: [1, 2]\n", "half done\n")
    assert main(["talk", "--json"]) == 0
    assert capsys.readouterr().out == '{"rows": 3, "splits": {"train": [1, 2]}}\n'


def test_any_column_is_kept_under_its_name(tmp_path):
    lines = [f"{n},say {n},{'ab'[n % 2]},sign {n},clip{n}.wav,{n}.5" for n in range(40)]
    (tmp_path / "posts.csv").write_text("\n".join(["id,text,label,ocr_text,clip,length", *lines]))
    columns = ["--column", "ocr=ocr_text", "audio=clip", "--column", "length=length"]
    out = tmp_path / "d"
    assert main(["import", "table", str(tmp_path / "posts.csv"), "--images", "none", *columns, "--out", str(out)]) == 0
    table = pq.read_table(out / "test.parquet").to_pylist()
    assert {(row["ocr"], row["audio"], row["length"]) for row in table} == {
        (f"sign {row['id']}", f"clip{row['id']}.wav", f"{row['id']}.5") for row in table
    }


def test_public_names_are_there_and_lazy():
    code = "import sys, clfa\nassert set(dir(clfa)) == set(clfa.__all__)\nassert 'torch' not in sys.modules\n"
    code += "for name in clfa.__all__: assert getattr(clfa, name)\n"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        clfa_package.nonsense  # noqa: B018


def test_json_is_one_object_on_stdout(tmp_path):
    rows = "\n".join(f"{n},say {n},{'ab'[n % 2]}" for n in range(40))
    (tmp_path / "posts.csv").write_text(f"id,text,label\n{rows}\n")
    done = clfa(
        "import", "table", str(tmp_path / "posts.csv"), "--images", "none", "--out", str(tmp_path / "d"), "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["splits"]["train"]["rows"] == 32


def test_train_from_the_command_line(run_config, tmp_path, capsys):
    from clfa.config import dump_config

    (tmp_path / "run.yaml").write_text(dump_config(run_config(train__epochs=1)))
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
    assert list((dataset / "teachers" / found["key"]).glob("*.safetensors"))


ROOMS = """
errors
__init__
metrics
config
losses fusion data
model
runs
training serving evidence
report
studies
commands
cli
__main__
"""  # a room imports from those on the lines above it, and from none on its own line
FLOOR = {room: floor for floor, line in enumerate(ROOMS.strip().splitlines()) for room in line.split()}


def imports(path: Path) -> set[str]:
    """The modules of the package that a file imports, inside functions and for types too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            inner = {f"{node.module}.{name.name}" for name in node.names}
            found |= {name for name in inner if name in MODULES} or {str(node.module)}
    return {name for name in found if name.split(".")[0] == "clfa"}


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(path) for path in SOURCES}


def test_imports_run_one_way():
    """Between rooms down only; inside a room without a circle."""
    graph = {module(path): imports(path) - {module(path)} for path in SOURCES}
    wrong = []
    for name, others in graph.items():
        room = f"{name}.__init__".split(".")[1]
        wrong += [
            f"{name} imports {other}"
            for other in others
            if (target := f"{other}.__init__".split(".")[1]) != room and FLOOR[target] >= FLOOR[room]
        ]
    assert not wrong
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_nothing_unsafe_in_the_source():
    unsafe = re.compile(
        r"torch\.load\(|\bpickle\b|yaml\.load\(|[^_.a-z]eval\(|trust_remote_code|LOAD_TRUNCATED|urlopen|requests\."
    )
    for path in SOURCES:
        assert not unsafe.search(path.read_text()), path


def test_torchvision_is_not_wanted():
    assert "torchvision" not in (ROOT / "constraints.txt").read_text() + (ROOT / "pyproject.toml").read_text()


def test_readme_commands_exist(capsys):
    """Every `clfa …` line of the README and the guide parses: the command is known and so is each of its options."""
    text = (ROOT / "README.md").read_text() + (ROOT / "docs" / "guide.md").read_text()
    lines = re.findall(r"^(?:\$ )?clfa ([a-z].*)$", text, re.MULTILINE)
    assert len(lines) >= 14
    for line in lines:
        words = line.split()
        name = " ".join(words[: 1 + isinstance(COMMANDS.get(words[0]), dict)])
        assert name in names(), line
        with pytest.raises(SystemExit):
            main([*name.split(), "--help"])
        known = capsys.readouterr().out
        for option in re.findall(r"--[a-z_.-]+", line):
            assert option in known, (line, option)
