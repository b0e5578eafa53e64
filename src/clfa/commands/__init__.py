"""The commands: a function each. Its signature makes the options, its docstring the help; it calls `clfa` and renders.

Nothing heavy is imported before a command runs: `clfa --help` answers at once.
"""

from clfa.commands.data import audit, check, correct, select
from clfa.commands.evidence import compare, evaluate, explain, probe
from clfa.commands.importing import import_mmsd, import_mmsd2, import_mvsa, import_table
from clfa.commands.studies import bench, demo, reproduce, sweep
from clfa.commands.training import cache, fit, teacher_embed, teacher_train, train
from clfa.commands.using import export, predict, serve

__all__ = [
    "audit",
    "bench",
    "cache",
    "check",
    "compare",
    "correct",
    "demo",
    "evaluate",
    "explain",
    "export",
    "fit",
    "import_mmsd",
    "import_mmsd2",
    "import_mvsa",
    "import_table",
    "predict",
    "probe",
    "reproduce",
    "select",
    "serve",
    "sweep",
    "teacher_embed",
    "teacher_train",
    "train",
]
