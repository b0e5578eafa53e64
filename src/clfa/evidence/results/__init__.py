"""What the commands find, typed: stored as JSON by one function, read back by one, rendered by `clfa.report`.

Every number with an uncertainty is a `Score`, in fractions.
"""

# ruff: noqa: F401 - imported for others, who need not know which file holds what

from clfa.evidence.results.data import (
    Audit,
    Conflict,
    Cue,
    CueCounts,
    Disagreement,
    Finding,
    Images,
    Leakage,
    SplitFile,
    Spread,
)
from clfa.evidence.results.run import (
    Bin,
    Calibration,
    CalibrationErrors,
    Change,
    Corruption,
    Corruptions,
    Emap,
    Evaluation,
    Example,
    Export,
    Flip,
    Heatmap,
    Illustrations,
    Int8,
    Occlusion,
    Probe,
    Scores,
    Side,
    Slice,
)
from clfa.evidence.results.storing import as_dict, from_dict, read_result, write_result
from clfa.evidence.results.tables import (
    Comparison,
    CurvePoint,
    Demo,
    Difference,
    Dominance,
    Fit,
    Gap,
    McNemar,
    Posts,
    ReproducedRow,
    Reproduction,
    Sweep,
    SystemScores,
    Tried,
)
