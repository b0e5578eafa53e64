"""Results about a data set: an audit."""

from dataclasses import dataclass, field

from clfa.evidence.results.run import Scores


@dataclass(frozen=True)
class Finding:
    """One thing to know about a data set."""

    kind: str
    """`leakage:…`, `duplicate:…`, `cue:…`, `conflict:…`, `disagreement:…` or `tokenizer:…`."""
    harm: float
    """Share of evaluated posts affected; of a cue the accuracy that it alone gains over the majority class; of a tokenizer
    `Misreading.share`, on train."""
    count: int
    text: str
    advice: str
    examples: list[str]
    """Ids of posts."""


@dataclass(frozen=True)
class CueCounts:
    """Posts of one split with a cue and its label, with the cue, and with the label."""

    with_label: int
    count: int
    label_count: int
    accuracy: float
    """Of the rule "cue: its label, no cue: the most frequent class without it"."""


@dataclass(frozen=True)
class Cue:
    """A word, a formatting feature, a script or a language that predicts a label; counts are of train."""

    cue: str
    kind: str
    """`token`, `format`, `script` or `language`."""
    label: str
    with_label: int
    count: int
    p_label_given_cue: float
    p_cue_given_label: float
    z: float
    p_bonferroni: float
    accuracy: float
    splits: dict[str, CueCounts]


@dataclass(frozen=True)
class Leakage:
    """Posts of one split that repeat a post of another, and repeats inside a split; `None` without such a split.

    `…_other_label`: those of them with another label than the post that they repeat.
    """

    checked: int
    """Evaluated posts that have what is compared."""
    validation_in_train: int | None = None
    validation_in_train_other_label: int | None = None
    test_in_train: int | None = None
    test_in_train_other_label: int | None = None
    test_in_validation: int | None = None
    test_in_validation_other_label: int | None = None
    test_in_train_or_validation: int | None = None
    within_train: int | None = None
    within_validation: int | None = None
    within_test: int | None = None
    examples: dict[str, list[list[str]]] = field(default_factory=dict)
    """`test_in_train` … -> pairs of ids."""


@dataclass(frozen=True)
class Conflict:
    """Texts or images that occur with two labels inside a split."""

    count: int
    posts: int | None
    """Posts that hold them; `None` in excerpts."""
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Disagreement:
    """Posts on which a further label column differs from the label."""

    differ: int
    posts: int
    """Posts that have both."""
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Spread:
    """Of sizes in pixels."""

    min: float
    median: float
    max: float


@dataclass(frozen=True)
class Images:
    """The images of a split."""

    images: int
    missing: int
    width: Spread | None = None
    height: Spread | None = None
    kilobytes_median: float = 0.0
    formats: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class SplitFile:
    """The file of a split."""

    rows: int
    sha256: str


@dataclass(frozen=True)
class Audit:
    """A data set: the content of `audit.json`."""

    dataset: str
    filters: list[str]
    text_cleaning: str
    evaluated: str
    """The split that floors and harms are about."""
    findings: list[Finding]
    """Most harmful first."""
    cues: list[Cue]
    """Largest z first."""
    cue_count: int
    """Number of cues, also of those that an excerpt leaves out."""
    leakage: dict[str, Leakage]
    conflicting_labels: dict[str, dict[str, Conflict]]
    """Kind -> split -> conflicts."""
    floors: dict[str, Scores]
    labels: dict[str, dict[str, int]]
    disagreement: dict[str, dict[str, Disagreement]]
    """Column -> split -> disagreement."""
    languages: dict[str, dict[str, int]]
    images: dict[str, Images]
    splits: dict[str, SplitFile]
    clfa_version: str
    seconds: float
