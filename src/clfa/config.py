"""Configurations: frozen dataclasses with a docstring under each field; YAML and dictionaries to and from them."""

import copy
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from clfa.errors import UserError

T = TypeVar("T")

Precision = Literal["fp32", "fp32_by_bf16", "bf16"]
"""Arithmetic of a forward pass: see `clfa.model.arithmetic`."""


@dataclass(frozen=True)
class DataConfig:
    """Where the posts are and which of them this run uses."""

    path: str
    """Dataset directory written by `clfa import`."""
    train_rows: int | None = None
    """Train on a stratified sample of this many rows, drawn with the run's seed (for learning curves); all by default."""
    train_splits: list[str] = field(default_factory=lambda: ["train"])
    """Splits trained on. `validation` among them is for systems that choose nothing on it, such as probes."""
    unlabelled: str | None = None
    """Split of posts without labels (`clfa import table … --unlabelled keep`): the alignment loss of each step is over its
    posts and as many of these. With `train`, and `train_rows`, all training posts, their labels unread."""
    folds: int = 0
    """Pool all splits and cross-validate: number of folds; 0 uses the splits as they are."""
    fold: int = 0
    """Which fold is held out as `test`, 0 … folds-1."""


@dataclass(frozen=True)
class WordVectors:
    """A text encoder of word vectors learnt from the training texts, with or without a bidirectional LSTM over them."""

    size: int = 300
    """Width of a word vector."""
    lstm: int = 0
    """Hidden units of the LSTM in each direction; 0 leaves the vectors as they are."""
    vectors: str | None = None
    """File of vectors to begin with: a line `word v1 … v<size>` for each word (GloVe); else small random ones."""
    min_count: int = 2
    """Words seen less often in the training texts, and not in the file, are one unknown word."""
    dropout: float = 0.3
    """Dropout on the vectors, and on the states of the LSTM."""


@dataclass(frozen=True)
class ModalityConfig:
    """One entry of the mapping of modalities: where its tokens come from and whether the teacher pulls on it."""

    kind: str
    """How the column is read: a key of `clfa.model.modalities.KINDS` (`text`, `image`)."""
    encoder: str = ""
    """Local folder, hub name, or `package:NAME/FOLDER` for a folder inside an installed Python package."""
    words: WordVectors | None = None
    """Word vectors learnt here, instead of an encoder."""
    shares: str | None = None
    """Use the encoder and the projection of this other modality (the knowledge text shares those of the text)."""
    column: str = ""
    """Column of the dataset directory; the modality's own name by default."""
    about: str = ""
    """Which side of a post it goes with where texts and images are taken apart (probes): `text` or `image`, as a caption
    is about the image; its kind by default."""
    part: Literal["all", "hashtags", "without_hashtags"] = "all"
    """`hashtags` reads only the words behind `#` of a text, `without_hashtags` all but these; neither can be aligned."""
    graph: str | None = None
    """Graph of the words for fusions that read one: `dependencies` (a column), `spacy:MODEL`, `window`, or `best`, which
    takes the first of these that is there."""
    polarity: str | None = None
    """Bias between the words of the query and of this text by their polarities: `vader`, or a SenticNet file."""
    pretrained: bool = True
    """False builds the architecture in the folder's config.json with fresh weights."""
    pooled: bool = False
    """Take the encoder's own summary of the text or image as the only token (CLIP's pooled embedding)."""
    averaged: bool = False
    """Take the mean of the encoder's token states as the only token; with `frozen` that is all that is cached."""
    frozen: bool = False
    """Keep the encoder as it is and read its states from a cache computed once per post."""
    trained_layers: int | None = None
    """Train only this many of the encoder's last layers; what they read is computed once per post. All by default."""
    lora: int | None = None
    """Train low-rank adapters of this rank in the encoder's layers (the last `trained_layers` of them) instead of its
    weights, see `clfa.model.adapters`; they are merged into the weights at the end. Needs the extra `tune`."""
    align: bool = True
    """Add this modality's term to the alignment loss."""
    fused: bool = True
    """False leaves it out of the fusion: a caption that is only an alignment target, and not needed to predict."""
    max_length: int = 77
    """Longest text in tokens, special tokens included; longer ones are cut."""


@dataclass(frozen=True)
class FusionConfig:
    """How the query modality reads the contexts."""

    name: str = "cross_attention"
    """A key of `clfa.fusion.FUSIONS`."""
    layers: int = 3
    """Number of fusion layers."""
    heads: int = 8
    """Attention heads; divides `dim`."""
    feedforward: int = 2048
    """Width of the feed-forward part of a fusion layer."""
    dropout: float = 0.1
    """Dropout inside the fusion layers."""


@dataclass(frozen=True)
class ProbeConfig:
    """A simple classifier on the mean token states of frozen encoders, fitted by scikit-learn: no fusion, no alignment."""

    name: Literal["logistic_regression", "svm", "mlp"] = "svm"
    """`svm` has an RBF kernel, `mlp` one hidden layer of 512."""
    strength: float = 3.0
    """How closely the training posts are fitted: C of scikit-learn's SVM and logistic regression, 1 / alpha of its MLP."""
    scales: dict[str, float] = field(default_factory=dict)
    """Modality -> factor on its standardised features; 1 by default."""


@dataclass(frozen=True)
class ModelConfig:
    """The classifier. The first modality is the query, the others are its contexts, in this order."""

    modalities: dict[str, ModalityConfig]
    """Name -> modality. In a sweep, overriding an entry by null takes it out."""
    dim: int = 512
    """Width of the shared space; must be the teacher's width when the alignment weight is above 0."""
    projection_hidden: int = 1536
    """Hidden width of the projection MLPs; 0 makes each a single linear layer."""
    fusion: FusionConfig = field(default_factory=FusionConfig)
    """The fusion."""
    pooling: Literal["mean", "cls", "max"] = "mean"
    """How fused tokens become one vector."""
    missing: Literal["masked", "token"] = "masked"
    """What the fusion reads where a post lacks a modality: nothing, or a vector of the modality, learnt (best with
    `train.modality_dropout`). With `token` an empty text is a missing one, and posts without the query can be told apart."""
    dropout: float = 0.1
    """Dropout before the classifier."""
    probe: ProbeConfig | None = None
    """A simple classifier instead of projections and fusion; all encoders must be frozen."""
    members: dict[str, "ModelConfig"] = field(default_factory=dict)
    """Classifiers whose log probabilities are averaged, instead of a fusion; `clfa fit` makes such a blend of trained runs.
    The modalities are then those of the members, under the names `<member>_<modality>`."""

    def query(self) -> str:
        """The modality that asks: the first one.

        Raises:
            UserError: it is not fused.
        """
        name = next(iter(self.modalities))
        if not self.modalities[name].fused:
            raise UserError(
                f"model.modalities.{name} is the first and so the query, but has fused: false: put it behind a modality "
                "that is fused, or set fused to true"
            )
        return name

    def contexts(self) -> list[str]:
        """The fused modalities behind the query, in their order."""
        return [name for name, modality in self.modalities.items() if modality.fused and name != self.query()]

    def owner(self, name: str) -> str:
        """The modality whose encoder and projection this one uses: itself, or the one that it shares."""
        return self.modalities[name].shares or name

    def column(self, name: str) -> str:
        """The column of the dataset directory that a modality reads."""
        return self.modalities[name].column or name

    def columns(self) -> list[str]:
        """The columns that the modalities read, each once."""
        return list(dict.fromkeys(self.column(name) for name in self.modalities))

    def reads_mean(self, name: str) -> bool:
        """Whether nothing but the mean of the modality's token states is read."""
        return self.probe is not None or self.modalities[name].averaged

    def empty_is_missing(self, name: str) -> bool:
        """Whether a post with an empty text lacks it: where the model, or the member that reads it, has `missing: token`."""
        own = [one for m, one in self.members.items() if name in {f"{m}_{each}" for each in one.modalities}]
        return any(one.missing == "token" for one in own or [self])

    def side(self, name: str) -> str:
        """What a modality is about: `text` or `image`."""
        return self.modalities[name].about or self.modalities[name].kind


@dataclass(frozen=True)
class LossConfig:
    """L = alignment_weight * alignment_loss + classification_loss."""

    alignment_weight: float | Literal["auto"] = 1.0
    """The paper's alpha; 0 trains without a teacher. `auto` trains with each of a grid that holds 0, and takes the smallest
    whose NLL on validation cannot be told from the best one's."""
    temperature: float = 0.1
    """The paper's tau; divides the cosine similarities."""
    guidance: Literal["info_nce", "decoupled"] = "info_nce"
    """How the teacher pulls, see `clfa.losses`: `info_nce` is the paper's."""
    negatives: Literal["batch", "all"] = "batch"
    """`all` sets each post against the teacher's embeddings of the whole training set (`info_nce` only)."""
    alignment_schedule: Literal["constant", "first"] = "constant"
    """`first` aligns alone for a third of the steps, then classifies alone."""
    alignment_target: str = "teacher"
    """`teacher`, or a text modality (`knowledge`) whose embedding the image is pulled to: captions instead of CLIP."""
    class_weights: Literal["none", "balanced"] = "none"
    """`balanced` weighs each class by the inverse of its frequency in train."""
    label_smoothing: float = 0.0
    """Label smoothing of the classification loss."""


@dataclass(frozen=True)
class TrainConfig:
    """The optimisation."""

    epochs: int = 10
    """Longest run in epochs; the learning rate falls to 0 at its end."""
    batch_size: int = 8
    """Posts per forward pass (and so the number of InfoNCE candidates)."""
    accumulation: int = 1
    """Forward passes per optimizer step."""
    encoder_learning_rate: float = 1e-5
    """Peak learning rate of encoders that are not frozen."""
    layer_decay: float = 1.0
    """Factor on the encoder's learning rate from each layer to the one below it (Howard and Ruder 2018); 1 is none."""
    head_learning_rate: float = 1e-5
    """Peak learning rate of projections, fusion and classifier."""
    weight_decay: float = 0.01
    """AdamW weight decay; never on biases and norms."""
    warmup: float = 0.05
    """Share of all steps with a linearly rising learning rate."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """Shape of the learning rate after warm-up."""
    clip: float = 1.0
    """Largest gradient norm."""
    modality_dropout: float = 0.0
    """Share of posts without one of their fused modalities in the classification loss, the mean over which one is hidden:
    with two modalities, 2/3 weighs whole posts, texts and images alike. The fusion then runs once more for each."""
    average: float = 0.0
    """Decay of an exponential moving average of the trained weights, which is what is validated and saved; 0 is none."""
    precision: Precision = "fp32"
    """Arithmetic of the forward pass in training; losses and evaluation are always fp32."""
    gradient_checkpointing: bool = False
    """Whether trained encoders keep the input of each layer alone for the gradient and compute the rest again: less memory
    for a third more time, the same gradients."""
    sharded: bool = False
    """Whether several processes of torchrun share out trained encoders, their gradients and moments (FSDP2), where these do
    not fit into one; the results are the same. The weights alone, 4 bytes each, must fit."""
    monitor: str = "nll"
    """Validation metric that chooses the epoch; NLL, which few posts of a rare class do not sway, by cross-validation
    (docs/results.md, "Defaults of training"). Any of `clfa.metrics.METRICS` but the calibration errors."""
    patience: int = 5
    """Stop after this many epochs without a better validation metric."""
    workers: int = 0
    """Data loader processes; they change no result."""
    deterministic: bool = False
    """Refuse operations that give other results when they are repeated, which on a GPU some do; on a CPU none here does."""
    tensorboard: bool = False
    """Also write TensorBoard files (needs `pip install clfa[track]`)."""


@dataclass(frozen=True)
class RunConfig:
    """One run: posts -> trained model in a run directory."""

    data: DataConfig
    """The posts."""
    model: ModelConfig
    """The classifier."""
    output: str
    """Run directory to write."""
    teacher: str | None = None
    """Frozen dual encoder (local folder, hub name or `package:`); needed when the alignment weight is above 0."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The losses."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The optimisation."""
    seed: int = 0
    """Seed of initialisation, order and dropout."""


@dataclass(frozen=True)
class CaptionSource:
    """Captioned images for a teacher: a folder with a captions file, or a dataset directory (texts as captions)."""

    images: str | None = None
    """Folder of images."""
    captions: str | None = None
    """Lines `image.jpg#k<TAB>caption` or `image.jpg<TAB>caption`; also CSV with the columns image and caption."""
    dataset: str | None = None
    """Dataset directory; its labels are not read."""
    split: str = "train"
    """Split of the dataset directory."""


@dataclass(frozen=True)
class TeacherConfig:
    """A dual encoder trained from captioned images."""

    sources: list[CaptionSource]
    """Where the pairs come from; held-out images are drawn from the first."""
    text_encoder: str
    """Local folder, hub name or `package:`."""
    image_encoder: str
    """Local folder, hub name or `package:`."""
    output: str
    """Folder to write."""
    pretrained: bool = True
    """False trains both encoders from fresh weights."""
    frozen: bool = True
    """True trains projections on features computed once; False fine-tunes both encoders."""
    dim: int = 512
    """Width of the shared space."""
    projection_hidden: int = 1024
    """Hidden width of the projection MLPs."""
    dropout: float = 0.1
    """Dropout inside the projection MLPs."""
    temperature: float = 0.05
    """Temperature of the symmetric InfoNCE loss."""
    epochs: int = 10
    """Passes over the images; each pass draws one caption of every image."""
    batch_size: int = 256
    """Pairs per step, all with different images."""
    learning_rate: float = 1e-3
    """Peak learning rate (AdamW, 5 % warm-up, cosine)."""
    weight_decay: float = 0.01
    """AdamW weight decay."""
    features: str | None = None
    """Folder that keeps the features of frozen encoders, so that the next teacher on the same images starts at once."""
    held_out: int = 1000
    """Images kept for the retrieval report."""
    train_images: int | None = None
    """Train on so many of the other images, to see what a weaker teacher is worth; all by default."""
    max_length: int = 64
    """Longest caption in tokens."""
    seed: int = 0
    """Seed of everything."""


@dataclass(frozen=True)
class SweepConfig:
    """Several systems, the same trainer: seeds or folds of each, one table."""

    run: RunConfig
    """What all systems share."""
    systems: dict[str, dict]
    """System name -> overrides of `run` by dotted name, e.g. `{loss.alignment_weight: 0, model.modalities.image: null}`."""
    output: str
    """Sweep directory."""
    seeds: int = 5
    """Seeds 0 … seeds-1 of every system."""
    folds: int = 0
    """Cross-validate over all rows with this many folds instead of the splits as they are."""
    split: Literal["validation", "test"] = "test"
    """Split that the table shows; `validation` for tuning, so that test stays closed."""
    compare_to: str | None = None
    """System that the others are compared with, paired over the same rows and seeds."""
    jobs: int = 1
    """Runs trained at the same time, each in its own process with its share of the cores."""
    engine: Literal["plain", "ray"] = "plain"
    """Where runs are trained: on this machine; or on the Ray cluster of RAY_ADDRESS, as many at a time as it has GPUs, or
    cores where it has none (of this machine where there is no cluster), with one file system."""


def build_config(cls: type[T], values: dict[str, Any]) -> T:
    """A dictionary -> frozen dataclass, with defaults.

    Raises:
        UserError: an unknown key or a value of the wrong type (named).
    """
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "config")
    try:
        # a copy, as jsonargparse changes nested dictionaries in place
        return parser.instantiate(parser.parse_object({"config": copy.deepcopy(values)})).config
    except (ArgumentError, ValueError, TypeError) as error:
        raise UserError(f"configuration: {error}") from None


LARGEST = 1e99
# (least, largest) allowed value -> dotted names
RANGES: dict[tuple[float, float], list[str]] = {
    (1, LARGEST): ["train.epochs", "train.batch_size", "train.accumulation", "train.patience"],
    (0, LARGEST): ["train.workers", "train.weight_decay", "train.encoder_learning_rate", "train.head_learning_rate"]
    + ["loss.alignment_weight"],
    (0, 0.999): ["model.dropout", "model.fusion.dropout", "loss.label_smoothing"],
    (0, 1): ["train.warmup", "train.modality_dropout"],
    (1e-99, LARGEST): ["train.clip"],
    (0, 0.99999): ["train.average"],
    (0.01, 1): ["train.layer_decay"],
    (1e-9, 1e9): ["model.probe.strength"],
    (1e-6, LARGEST): ["loss.temperature"],
    (0, 2**63 - 1): ["seed"],
}


def check_ranges(config: RunConfig) -> None:
    """Numbers that mean something, and nothing chosen on posts that are trained on.

    Raises:
        UserError: one lies outside of its range (`RANGES`), or the splits to train on are wrong.
    """
    if config.model.members:
        raise UserError(
            "model.members is for runs that `clfa fit` made of others: train each member as a run of its own"
        )
    if not {"train"} <= set(config.data.train_splits) <= {"train", "validation"}:
        raise UserError(f"data.train_splits = {config.data.train_splits}: allowed are [train] and [train, validation]")
    if "validation" in config.data.train_splits and not config.model.probe:
        raise UserError(
            "data.train_splits holds validation, which chooses the epoch: train on [train], or fit a probe (model.probe)"
        )
    if config.data.unlabelled and (config.loss.alignment_weight == 0 or config.model.probe):
        raise UserError(
            "data.unlabelled names posts to align, and this run aligns nothing: leave it out, or set loss.alignment_weight "
            "above 0 and leave model.probe out"
        )
    values = _flatten(asdict(config))
    for (low, high), names in RANGES.items():
        for name in names:
            if name not in values or values[name] == "auto":  # of a part that is left out, or to be chosen
                continue
            if not low <= values[name] <= high:
                allowed = f"at least {low:g}" + (f" and at most {high:g}" if high < 1e6 else "")
                raise UserError(f"{name} = {values[name]}: allowed is {allowed}")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: no such file, or not a YAML mapping.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"cannot read the configuration {path}: {error}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no YAML mapping")
    return values


def dump_config(config: Any) -> str:
    """The resolved configuration as YAML."""
    return yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True)


def override(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy with dotted names changed: `{"loss.alignment_weight": 0, "model.modalities.image": None}`.

    `None` for an entry of `model.modalities` takes it out; anywhere else it is the value.
    """
    values = copy.deepcopy(values)
    for name, value in changes.items():
        *parents, last = name.split(".")
        place = values
        for parent in parents:
            place = place.setdefault(parent, {})
        if value is None and parents[-1:] == ["modalities"]:
            place.pop(last, None)
        else:
            place[last] = copy.deepcopy(value)
    return values


def differing(old: Any, new: Any, ignored: Sequence[str] = ()) -> dict[str, tuple[Any, Any]]:
    """Dotted names of the fields in which two configurations differ, sorted -> both values, `None` where there is none."""
    before, after = _flatten(asdict(old)), _flatten(asdict(new))
    both = {name: (before.get(name), after.get(name)) for name in sorted(before.keys() | after.keys())}
    return {name: (was, now) for name, (was, now) in both.items() if was != now and name not in ignored}


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
