"""Results about one run: an evaluation and a probe, and the posts that its report shows."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clfa.metrics import Score
from clfa.model.heatmap import Heatmap

Scores = dict[str, Score]
"""Metric (`clfa.metrics.METRICS`) -> score."""
NOT_STORED = {"stored": False}
"""Metadata of fields that are for a report only."""


@dataclass(frozen=True)
class Occlusion:
    """What a prediction rests on: how much its log probability falls without each word, and each part of the image."""

    words: list[str]
    effects: NDArray[np.float64]
    """(W,) in nats."""
    parts: NDArray[np.float64] | None
    """(rows, columns) in nats; `None` without an image."""
    image: Image.Image | None
    predicted: str
    """Name of the class."""
    probability: float


@dataclass(frozen=True)
class Example:
    """A post that a report shows."""

    id: str
    text: str
    image: Image.Image | None
    label: str
    predicted: str = ""
    """Empty where nothing was predicted."""
    probability: float = 0.0


@dataclass(frozen=True)
class Illustrations:
    """Posts for a report; never stored."""

    examples: list[Example]
    """In a run's report the errors that it was most sure of."""
    heatmap: Heatmap | None = None
    heatmap_of: str = ""
    """Id of its post."""


@dataclass(frozen=True)
class Slice:
    """Scores of some of the posts, or of all after a change."""

    rows: int
    metrics: Scores
    """Empty where no post is left."""
    left_out: int = 0
    changed: int = 0
    """Posts whose text was changed."""


@dataclass(frozen=True)
class Flip:
    """Predictions that flip when one formatting cue is changed, among the posts that have it."""

    posts: int
    flipped: int
    rate: Score
    """With a Wilson interval."""


@dataclass(frozen=True)
class Bin:
    """One bin of a reliability diagram."""

    confidence: float
    """Mean probability of the predicted class."""
    accuracy: float
    posts: int


@dataclass(frozen=True)
class CalibrationErrors:
    """How far probabilities can be believed."""

    metrics: Scores
    """`ece`, `adaptive_ece`, `brier`, `nll`."""
    if_calibrated: dict[str, float]
    """95 % quantile of the binned errors that chance alone gives."""


@dataclass(frozen=True)
class Calibration:
    """Calibration errors before and after temperature scaling."""

    temperature: float | None
    """Fitted on validation; `None` where the run was trained on it too."""
    before: CalibrationErrors
    after: CalibrationErrors | None
    """`None` on validation itself, and without a temperature."""


@dataclass(frozen=True)
class Evaluation:
    """A run on one split: an entry of `metrics.json`."""

    run: str
    split: str
    """The split; `<split>@<dataset>` for another data set than the run's own."""
    rows: int
    class_names: list[str]
    metrics: Scores
    confusion: list[list[int]]
    """Rows are labels, columns predictions."""
    ece: float
    """Expected calibration error over `reliability`."""
    reliability: list[Bin]
    floors: dict[str, Scores] = field(default_factory=dict)
    floors_fitted_on: str = ""
    """The dataset directory whose train split the floors are fitted on."""
    deduplicated: Slice | None = None
    """Posts not in the training set."""
    neutralised: Slice | None = None
    """All posts, formatting cues neutralised."""
    flips: dict[str, Flip] = field(default_factory=dict)
    calibration: Calibration | None = None
    groups: dict[str, Slice] = field(default_factory=dict)
    illustrations: Illustrations | None = field(default=None, repr=False, compare=False, metadata=NOT_STORED)


@dataclass(frozen=True)
class Change:
    """Predictions after a change of one side of the posts."""

    metrics: Scores
    loss: Scores
    """Scores of the model minus these, paired."""
    share: float = 1.0
    """Share of the posts that are changed."""


@dataclass(frozen=True)
class Side:
    """What the text, or the image, is worth to a run."""

    shuffled: Change
    blanked: Change
    masked: Change
    perceptual_score: float
    """Share of the accuracy lost by shuffling (Gat et al. 2021)."""
    missing: list[Change]
    """By share of posts without it."""


@dataclass(frozen=True)
class Emap:
    """The model against its best additive projection (Hessel and Lee 2020)."""

    posts: int
    exact: bool
    """Whether these are all posts of the split."""
    model: Scores
    metrics: Scores
    """Of the projection."""
    gain: Scores
    mcnemar_p: float


@dataclass(frozen=True)
class Corruption:
    """A corruption in five severities."""

    accuracy: list[float]
    """By severity."""
    relative_drop: Score
    """Share of the accuracy lost, mean over severities."""


@dataclass(frozen=True)
class Corruptions:
    """Bad images and bad texts."""

    posts: int
    accuracy: float
    """As they are."""
    image: dict[str, Corruption]
    text: dict[str, Corruption]


@dataclass(frozen=True)
class Probe:
    """Does a run use both text and image: the content of `probe.json`."""

    run: str
    split: str
    posts: int
    metrics: Scores
    verdict: str
    emap: Emap
    modalities: dict[str, Side]
    """`text` and `image`."""
    corruptions: Corruptions | None
    illustrations: Illustrations | None = field(default=None, repr=False, compare=False, metadata=NOT_STORED)


@dataclass(frozen=True)
class Int8:
    """What integers of 8 bits cost."""

    rows: int
    """Posts of validation that it was measured on."""
    changed: int
    """Of them those with another label than before."""
    differences: dict[str, Score]
    """Metric -> with integers minus without, with the interval of a paired bootstrap over posts."""


@dataclass(frozen=True)
class Export:
    """What an export is, and what was shown of it; stored as `export.json` in its folder."""

    output: str
    megabytes: float
    """Of all its files."""
    compared: int
    """Posts on which it was compared with the run."""
    posts_of: str
    """Where they are from."""
    largest_difference: float
    """Of a logit, before weights became integers."""
    int8: Int8 | None = None
