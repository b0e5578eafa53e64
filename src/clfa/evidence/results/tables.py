"""Results about systems: comparisons, sweeps, reproduced tables, the demo."""

from dataclasses import dataclass, field

from clfa.evidence.results.run import NOT_STORED, Illustrations, Scores
from clfa.metrics import Score


@dataclass(frozen=True)
class SystemScores:
    """A system over its runs."""

    system: str
    seeds: list[int]
    metrics: Scores
    by_run: dict[str, list[float]] = field(default_factory=dict)
    """Metric -> its value for each seed."""


@dataclass(frozen=True)
class Gap:
    """One metric of a system minus that of another."""

    difference: Score
    interval_over: str
    """`posts` or `runs and posts`."""
    posts_interval: list[float]
    """Over posts alone, for these runs."""
    p: float
    """Two-sided, of no difference."""
    p_holm: float
    """Corrected for the number of systems compared with the same one."""
    detectable: float
    """Smallest true difference that a 5 % test finds with 80 % power."""
    is_claim: bool
    """By the one rule of `clfa.evidence.significance.is_claim`."""


@dataclass(frozen=True)
class McNemar:
    """Exact test of one run each."""

    only_system_right: int
    only_base_right: int
    p: float
    detectable_accuracy: float | None = None


@dataclass(frozen=True)
class Dominance:
    """Almost stochastic order over runs."""

    epsilon_min: float
    tau: float
    dominates: bool


@dataclass(frozen=True)
class Difference:
    """A system minus another on the same posts."""

    system: str
    minus: str
    runs: int
    """Fewest runs of the two."""
    metrics: dict[str, Gap]
    mcnemar: McNemar | None
    aso: Dominance | None
    same_answers: bool
    """Whether both predict the same for every post."""
    is_claim: bool
    verdict: str
    """A sentence about the metric that the comparison is for."""


@dataclass(frozen=True)
class Comparison:
    """Systems on the same posts: the content of `comparison.json`."""

    split: str
    metric: str
    """Of the verdicts."""
    posts: int
    base: str
    """The system that the others are compared with."""
    systems: list[SystemScores]
    comparisons: list[Difference]


@dataclass(frozen=True)
class Sweep:
    """Systems over seeds or folds: the content of `sweep.json`."""

    split: str
    folds: int
    rows: int
    systems: list[SystemScores]
    """Floors first; empty in all but the first process of torchrun."""
    differences: list[Difference]


@dataclass(frozen=True)
class Posts:
    """The data set of a reproduced table."""

    path: str
    name: str
    test: int
    sha256: dict[str, str]


@dataclass(frozen=True)
class ReproducedRow:
    """A system of a published table."""

    system: str
    name: str
    runs: int
    metrics: Scores
    """Ours; the interval is for the true score of one run. Empty where it was not run."""
    published: dict[str, float]
    """Metric -> published figure, in fractions."""
    verdict: str
    """`reproduced`, `lower`, `higher`, `cannot tell` or `not run`."""
    why: str
    stand_ins: list[str]
    """What differs from the published system."""
    notes: list[str]


@dataclass(frozen=True)
class Reproduction:
    """A published table beside ours: the content of `reproduce.json`."""

    table: str
    dataset: Posts
    source: str
    tiny: bool
    floors: dict[str, Scores]
    rows: list[ReproducedRow]


@dataclass(frozen=True)
class CurvePoint:
    """A system with some number of labelled posts, and its score."""

    system: str
    posts: int
    score: Score


@dataclass(frozen=True)
class Demo:
    """The main job on the generated data set: the content of `results.json`."""

    systems: list[SystemScores]
    differences: list[Difference]
    teacher: dict[str, dict[str, float]]
    """Direction -> R@k in percent."""
    drawings: int
    """Captioned drawings that the teacher was trained on."""
    held_out: int
    """Drawings that its retrieval is measured on."""
    train_posts: int
    test_posts: int
    seconds: float
    fit: "Fit | None" = None
    """What `clfa fit` makes of the same posts and teacher."""
    illustrations: Illustrations | None = field(default=None, repr=False, compare=False, metadata=NOT_STORED)


@dataclass(frozen=True)
class Tried:
    """A model that `clfa fit` tried, scored on posts that it had not seen."""

    name: str
    modalities: list[str]
    settings: dict
    """Of `clfa.config.ProbeConfig`."""
    shift: float
    """Share of the log prior that its decision takes off, chosen for the metric: 0 is the most probable class."""
    metrics: Scores
    """Out of fold, with that decision."""
    seconds: float
    chosen: bool
    verdict: str
    """Against the best."""


@dataclass(frozen=True)
class Fit:
    """What was tried, what won, what it is worth: the content of `leaderboard.json`."""

    asked: dict[str, str]
    metric: str
    """That models are chosen by."""
    posts: int
    """Fitted on."""
    test_posts: int
    tried: list[Tried]
    """Simple models out of fold, best first."""
    on_validation: list[Tried]
    """The chosen one of these and the fine-tuned encoder, on the validation posts; empty where none was tuned."""
    metrics: Scores
    """On test, of the model that was taken."""
    openings: int
    """How often test was opened: once, and once more for each time that the fit went on with more minutes."""
    floors: dict[str, Scores]
    """On test."""
    minutes: float
    """The budget."""
    seconds: float
    left_out: list[str]
    """What the budget did not hold, in sentences."""
    advice: list[str]
    """What to try next."""
