"""`python -m clfa` is the `clfa` command."""

from clfa.cli import run

run()
