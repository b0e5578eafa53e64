"""Processes to be killed: children of one that has everything loaded, so that a signal hits the work and not the imports."""

import json
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress

SCRIPT = """
import json, os, sys
import clfa.commands, clfa.training.train, clfa.training.teacher, clfa.studies.sweep, clfa.studies.fit, clfa.serving.files
import clfa.evidence.audit, clfa.model.teacher, sklearn.linear_model, transformers, datasets
from clfa.cli import run
for line in iter(sys.stdin.readline, ""):
    change, log, *arguments = json.loads(line)
    child = os.fork()
    os.setpgid(child, child)
    if not child:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        exec(change)
        sys.argv = ["clfa", *arguments]
        run()
        sys.exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Nursery:
    """`start` one command after another; what it says goes to `log`."""

    def __init__(self, log, change: str = "pass") -> None:
        self.log, self.change = log, change
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        self.mother = subprocess.Popen(
            [sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=environment
        )

    def start(self, *arguments: str, change: str = "pass") -> int:
        """Begin `clfa ARGUMENTS` after the two changes of the code, and return the number of its process."""
        asked = [f"{self.change}\n{change}", str(self.log), *arguments]
        self.mother.stdin.write(json.dumps(asked).encode() + b"\n")
        self.mother.stdin.flush()
        return int(self.mother.stdout.readline())

    def end(self, child: int, after: float | None = None, by: signal.Signals = signal.SIGKILL) -> int:
        """Its exit code (that of a signal is negative); the signal comes after so many seconds, if it is still at work.

        Signals that ask to stop go to its children, too, as those of a terminal do; SIGKILL leaves them behind.
        """
        if after is not None and not select.select([self.mother.stdout], [], [], after)[0]:
            with suppress(ProcessLookupError):  # it has ended meanwhile
                (os.kill if by == signal.SIGKILL else os.killpg)(child, by)
        return int(self.mother.stdout.readline())

    def said(self) -> str:
        return self.log.read_text() if self.log.is_file() else ""

    def close(self) -> None:
        self.mother.stdin.close()
        self.mother.wait(timeout=60)
        self.mother.stdout.close()
