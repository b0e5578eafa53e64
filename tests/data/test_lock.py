"""Two processes never write the same: the second is refused, unless the first is dead."""

import errno
import os
import platform
import subprocess
import sys
import time

import pytest

from clfa.cli import main
from clfa.data.lock import only_one
from clfa.errors import UserError

HOLD = """
import sys, time
from pathlib import Path
from clfa.data.lock import only_one
with only_one(Path(sys.argv[1]), inside=True):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_is_told_who_the_first_is(holder, tmp_path, dataset, encoders, capsys):
    with pytest.raises(UserError, match=f"process {holder.pid} on {platform.node()} is at work here"):
        only_one(tmp_path / "run", inside=True).__enter__()
    folders = [f"--{kind}-encoder={encoders / name}" for kind, name in (("text", "bert"), ("image", "vit"))]
    assert main(["fit", str(dataset), "--out", str(tmp_path / "run"), *folders]) == 2
    assert f"process {holder.pid} on" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    holder.kill()
    holder.wait()
    with only_one(tmp_path / "run", inside=True):
        assert (tmp_path / "run" / ".lock").is_file(), "what the dead one left is taken over"
    assert not list((tmp_path / "run").iterdir())


def test_a_folder_in_which_nothing_came_about_is_gone(tmp_path):
    with pytest.raises(UserError, match="no"), only_one(tmp_path / "run", inside=True):
        raise UserError("no")
    assert not (tmp_path / "run").exists()
    with only_one(tmp_path / "out.csv"):
        assert (tmp_path / "out.csv.lock").is_file()
    assert not list(tmp_path.iterdir())


def test_of_many_at_once_one_at_a_time_gets_in(tmp_path):
    readers = []
    for _ in range(12):
        read, write = os.pipe()
        if os.fork() == 0:
            got = 0
            for _ in range(200):
                try:
                    with only_one(tmp_path / "x"):
                        (tmp_path / "inside").touch(exist_ok=False)  # raises if another is inside
                        time.sleep(0.0005)
                        (tmp_path / "inside").unlink()
                        got += 1
                except UserError:
                    time.sleep(0.0002)
                except BaseException:
                    got = 255
                    break
            os.write(write, bytes([min(got, 255)]))
            os._exit(0)
        os.close(write)
        readers.append(read)
    counts = [os.read(read, 1)[0] for read in readers]
    assert 255 not in counts
    assert sum(counts) > 0


@pytest.mark.parametrize(
    ("number", "help"), [(errno.EACCES, "another place"), (errno.EROFS, "read-only"), (errno.ENOSPC, "room")]
)
def test_what_the_operating_system_refuses_is_told(dataset, tmp_path, capsys, monkeypatch, number, help):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number), str(tmp_path / "x"))

    monkeypatch.setattr("clfa.data.check.examine", refuse)
    assert main(["check", str(dataset), "--out", str(tmp_path / "problems.jsonl")]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"clfa: {tmp_path / 'x'}: {os.strerror(number)}: ")
    assert help in said
