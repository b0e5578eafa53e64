"""The classifier: encode -> project -> fuse -> classify; save and load as one folder.

The loss is not here: `Classifier(batch) -> Output`, and prediction never sees a teacher or a label.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clfa.config import ModelConfig, build_config
from clfa.data.atomic import read_json, write_json
from clfa.data.seal import refuse_changed, seal
from clfa.errors import UserError
from clfa.fusion import Fusion, Tokens, build_fusion, pool
from clfa.model.adapters import add_adapters, merge_adapters
from clfa.model.batch import Batch, Inputs
from clfa.model.encoders import Encoder, load_encoder
from clfa.model.modalities import KINDS
from clfa.model.probe import Probe
from clfa.model.word_vectors import build_words_model

MODEL_TYPE = "clfa"
"""Of `config.json`."""


@dataclass(frozen=True)
class Output:
    """What the classifier computes for a batch; mappings are by modality."""

    logits: Float[Tensor, "batch classes"]
    """Scores before the softmax."""
    states: dict[str, Float[Tensor, "batch tokens dim"]]
    """Projected tokens, F'_t and F'_i before pooling."""
    masks: dict[str, Bool[Tensor, "batch tokens"]]
    """Which tokens are there."""
    embeds: dict[str, Float[Tensor, "batch dim"]]
    """Masked mean of the projected tokens: what the teacher pulls on (not normalised)."""
    fused: Float[Tensor, "batch fused"]
    """The fused vector that the classifier reads."""
    penalty: Float[Tensor, ""] | None = None
    """A term that the fusion adds to the loss, if it has one."""


class Classifier(nn.Module):
    """Text and image encoders, a projection each, a fusion, a linear classifier (CLFA, section 3).

    Args:
        config: sizes and modalities.
        encoders: modality -> encoder, for each modality that does not share another's.
        class_names: in the order of the logits.
        text_cleaning: how the texts of the training set were cleaned, `normalised` or `raw`; new posts get the same.
        offsets: class -> what is added to its log probability before the most probable one is chosen (see `decide`).
    """

    def __init__(
        self,
        config: ModelConfig,
        encoders: dict[str, Encoder],
        class_names: list[str],
        text_cleaning: str = "normalised",
        offsets: Sequence[float] = (),
    ):
        super().__init__()
        self.config, self.class_names, self.text_cleaning = config, list(class_names), text_cleaning
        self.offsets = list(offsets) or [0.0] * len(class_names)
        self.query, self.contexts = config.query(), config.contexts()
        self.encoders: Any = nn.ModuleDict(encoders)
        for name, modality in config.modalities.items():
            if modality.frozen and not modality.shares:
                self.encoders[name].requires_grad_(False)
            if modality.lora:
                add_adapters(encoders[name].backbone, modality.lora, modality.trained_layers)
        self.add_head({name: encoder.width for name, encoder in encoders.items()})

    def add_head(self, widths: dict[str, int]) -> None:
        """What stands on the encoders, given the width of each."""
        config = self.config
        self.projections = nn.ModuleDict({name: _projection(width, config) for name, width in widths.items()})
        self.fusion = build_fusion(config.dim, self.contexts, config.fusion, config.pooling)
        if config.missing == "token":  # about as long as a unit vector: LayerNorm has no gradient to speak of at 0
            self.stand_ins = nn.ParameterDict(
                {name: torch.randn(config.dim) / config.dim**0.5 for name in (self.query, *self.contexts)}
            )
        _refuse_unread_knowledge(config, self.fusion)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.dim, len(self.class_names))

    def forward(self, batch: Batch) -> Output:
        """Logits and everything on the way to them."""
        return self.fuse(self.project(batch))

    def project(self, batch: Batch) -> dict[str, Tokens]:
        """Projected token states (B, L, D) of each modality, with masks and what is known of the tokens."""
        tokens = {}
        for name, modality in self.config.modalities.items():
            if not modality.fused and not self.training:
                continue
            inputs = batch.modalities[name]
            encoded, mask = self.encode(name, inputs)
            if self.config.reads_mean(name):
                encoded, mask = pool(encoded, mask, "mean")[:, None], mask.any(1, keepdim=True)
            states = self.projections[self.config.owner(name)](encoded)
            tokens[name] = Tokens(states, mask & inputs.present[:, None], inputs.edges, inputs.bias)
        return tokens

    def fuse(self, tokens: dict[str, Tokens]) -> Output:
        """What `forward` makes of projected tokens: fusion and classifier."""
        read = {name: tokens[name] for name in (self.query, *self.contexts)}
        if self.config.missing == "token":
            read = {name: stand_in(one, read[self.query], self.stand_ins[name]) for name, one in read.items()}
        fused_tokens = {name: self._linked(name, one) for name, one in read.items()}
        query = fused_tokens.pop(self.query)
        fused = self.fusion(query, fused_tokens)
        expected = (len(query.states), self.config.dim)
        if fused.shape != expected:
            raise UserError(
                f"the fusion {self.config.fusion.name} returned shape {tuple(fused.shape)}, {expected} is needed"
            )
        return Output(
            logits=self.classifier(self.dropout(fused)),
            states={name: one.states for name, one in tokens.items()},
            masks={name: one.mask for name, one in tokens.items()},
            embeds={name: one.pool("mean") for name, one in tokens.items()},
            fused=fused,
            penalty=self.fusion.penalty(),
        )

    def decide(self, scores: Float[NDArray, "posts classes"]) -> NDArray[np.int64]:
        """Logits or log probabilities -> class numbers: the most probable class, after the `offsets`."""
        return (scores + np.array(self.offsets)).argmax(-1)

    def encode(
        self, name: str, inputs: Inputs
    ) -> tuple[Float[Tensor, "batch tokens width"], Bool[Tensor, "batch tokens"]]:
        """Token states of one modality from its encoder, or as they were cached, and their mask."""
        if inputs.states is not None and inputs.mask is not None:
            return inputs.states, inputs.mask
        # a frozen encoder is an extractor: without dropout and without gradient, as when its states are cached
        frozen = self.config.modalities[self.config.owner(name)].frozen
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            return self.encoders[self.config.owner(name)](inputs.inputs)

    def _linked(self, name: str, tokens: Tokens) -> Tokens:
        """With the graph that the batch gave, or the one of its kind, where the fusion reads graphs."""
        if not self.fusion.reads_edges:
            return tokens
        edges = KINDS[self.config.modalities[name].kind].edges(tokens.mask) if tokens.edges is None else tokens.edges
        return replace(tokens, edges=edges.float())

    def train(self, mode: bool = True) -> "Classifier":
        """Training mode, but for frozen encoders, which never leave evaluation mode."""
        super().train(mode)
        for name, encoder in self.encoders.items():
            if self.config.modalities[name].frozen:
                encoder.eval()
        return self

    def merge_adapters(self) -> None:
        """Merge what `lora` trained into the weights of the encoders: from then on they are encoders like any other."""
        modalities = dict(self.config.modalities)
        for name, modality in self.config.modalities.items():
            if modality.lora:
                merge_adapters(self.encoders[name].backbone)
                modalities[name] = replace(modality, lora=None)
        self.config = replace(self.config, modalities=modalities)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `model.json`, `config.json`, `model.safetensors` and per encoder a folder with its config and its tokenizer
        or image processor: all that prediction needs; and `manifest.json`, by which they are known again."""
        self.save_with(folder, self.state_dict())

    def save_with(self, folder: str | Path, weights: Mapping[str, Tensor]) -> None:
        """The same with weights that were put together of the shares of several processes."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, encoder in self.encoders.items():
            encoder.save(folder / name)
        save_file({key: value.detach().contiguous() for key, value in weights.items()}, folder / "model.safetensors")
        own = [path for name in self.encoders for path in (folder / name).rglob("*") if path.is_file()]
        seal(folder, [*self.describe(folder), folder / "model.safetensors", *own])

    def describe(self, folder: Path) -> list[Path]:
        """Write `model.json`; and `config.json`, by which `clfa.serving.hub` is known to Hugging Face's auto classes."""
        names = dict(enumerate(self.class_names))
        write_json(folder / "model.json", self.described())
        classes = {"id2label": names, "label2id": {name: number for number, name in names.items()}}
        write_json(folder / "config.json", {"model_type": MODEL_TYPE, **classes})
        return [folder / "model.json", folder / "config.json"]

    def described(self) -> dict[str, Any]:
        """Configuration, classes, decision rule."""
        return {
            "labels": self.class_names,
            "text": self.text_cleaning,
            "offsets": self.offsets,
            "model": asdict(self.config),
        }

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Classifier":
        """Load what `save_pretrained` wrote, in evaluation mode, bit for bit.

        Raises:
            UserError: the folder is not a trained run, or its files are not those that were written.
        """
        folder = Path(folder)
        if not (folder / "model.json").is_file():
            raise UserError(f"{folder} holds no trained model (no model.json): train one with `clfa train`")
        refuse_changed(folder)
        described = read_json(folder / "model.json")
        config = build_config(ModelConfig, described["model"])
        encoders = {
            name: load_encoder(str(folder / name), modality.kind, False, modality.pooled, modality.trained_layers)
            for name, modality in config.modalities.items()
            if not modality.shares
        }
        model = _kind(config)(config, encoders, described["labels"], described["text"], described.get("offsets", ()))
        try:
            model.load_weights(load_file(folder / "model.safetensors"))
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"{folder}/model.safetensors does not fit model.json: {str(error).splitlines()[0]}"
            ) from None
        return model.eval()

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Weights by name, all of them and no others (`RuntimeError`)."""
        self.load_state_dict(weights)


def stand_in(tokens: Tokens, query: Tokens, vector: Float[Tensor, " dim"]) -> Tokens:
    """The tokens, with `vector` as the only one where a post has none; there is no bias between it and other tokens."""
    there = tokens.present[:, None]
    first = torch.arange(tokens.mask.shape[1], device=tokens.mask.device) == 0
    places = ~there & first
    known = (there & query.present[:, None])[:, :, None]
    return replace(
        tokens,
        states=torch.where(places[:, :, None], vector.to(tokens.states.dtype), tokens.states),
        mask=tokens.mask | places,
        edges=None if tokens.edges is None else torch.where(places[:, :, None], first.float(), tokens.edges),
        bias=None if tokens.bias is None else tokens.bias * known,
    )


class ProbeClassifier(Classifier):
    """Mean token states of frozen encoders, and a simple classifier on them (`clfa.model.probe.Probe`)."""

    def add_head(self, widths: dict[str, int]) -> None:
        """No projection; the probe is fitted later."""
        unfrozen = [name for name, m in self.config.modalities.items() if not (m.frozen or m.shares)]
        if unfrozen:
            raise UserError(
                f"model.probe is fitted on frozen encoders: set model.modalities.{unfrozen[0]}.frozen to true, or leave "
                "model.probe out to train the encoder"
            )
        if self.config.missing != "masked":
            raise UserError("model.missing is of the fusion, and a probe has none: leave it out")
        self.projections = nn.ModuleDict({name: nn.Identity() for name in widths})
        self.probe = Probe()

    def fuse(self, tokens: dict[str, Tokens]) -> Output:
        """The probe's logits; modalities that a post lacks have the mean features of the training posts."""
        embeds = {name: one.pool("mean") for name, one in tokens.items()}
        read = [self.query, *self.contexts]
        features = torch.cat([embeds[name].where(tokens[name].present[:, None], torch.nan) for name in read], 1)
        return Output(
            logits=self.probe(features),
            states={name: one.states for name, one in tokens.items()},
            masks={name: one.mask for name, one in tokens.items()},
            embeds=embeds,
            fused=features,
        )

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """The sizes of a fitted probe are those of its arrays."""
        self.probe = Probe({k.removeprefix("probe."): v for k, v in weights.items() if k.startswith("probe.")})
        self.load_state_dict(weights)


def _kind(config: ModelConfig) -> type[Classifier]:
    return ProbeClassifier if config.probe else Classifier


def build_classifier(
    config: ModelConfig,
    class_names: list[str],
    text_cleaning: str = "normalised",
    texts: Mapping[str, Iterable[str]] | None = None,
) -> Classifier:
    """A new classifier with the encoders named in the configuration.

    `texts` are the training texts of each modality with `words`, which make its vocabulary.

    Raises:
        UserError: an encoder cannot be loaded, or the modalities contradict each other.
    """
    encoders, texts = {}, texts or {}
    for name, modality in config.modalities.items():
        if modality.shares and modality.shares not in config.modalities:
            raise UserError(f"modality {name!r} shares {modality.shares!r}, which is not among the modalities")
        if modality.shares:
            continue
        if modality.words:
            encoders[name] = Encoder(*build_words_model(modality.words, texts[name]), "text")
        else:
            settings = (modality.pretrained, modality.pooled, modality.trained_layers)
            encoders[name] = load_encoder(modality.encoder, modality.kind, *settings)
    return _kind(config)(_fitting(config, encoders), encoders, class_names, text_cleaning)


def _fitting(config: ModelConfig, encoders: Mapping[str, Encoder]) -> ModelConfig:
    """The configuration with texts no longer than their encoders can read."""
    modalities = {}
    for name, modality in config.modalities.items():
        limit = encoders[config.owner(name)].positions
        if modality.max_length < 3:
            raise UserError(
                f"model.modalities.{name}.max_length = {modality.max_length}: at least 3, a word and two special tokens"
            )
        if modality.averaged and (modality.graph or modality.polarity):
            raise UserError(f"model.modalities.{name} is averaged to one token: its graph and polarity must be null")
        if modality.trained_layers is not None and (modality.frozen or modality.words or modality.shares):
            raise UserError(
                f"model.modalities.{name} has trained_layers, and is frozen, of word vectors, or shares another's encoder: "
                "leave one of them out"
            )
        if modality.lora is not None and (modality.lora < 1 or modality.frozen or modality.words or modality.shares):
            raise UserError(
                f"model.modalities.{name} has lora, and a rank below 1, or is frozen, of word vectors, or shares another's "
                "encoder: change the one or the other"
            )
        modalities[name] = replace(modality, max_length=min(modality.max_length, limit or modality.max_length))
    return replace(config, modalities=modalities)


def _projection(width: int, config: ModelConfig) -> nn.Module:
    """The mapping net f' of the paper, on every token: linear, ReLU, linear (768 -> 1536 -> 512 in the released code).

    With `projection_hidden: 0` a single linear layer, for rows that have no mapping net.
    """
    if config.projection_hidden == 0:
        return nn.Linear(width, config.dim)
    return nn.Sequential(
        nn.Linear(width, config.projection_hidden), nn.ReLU(), nn.Linear(config.projection_hidden, config.dim)
    )


def _refuse_unread_knowledge(config: ModelConfig, fusion: Fusion) -> None:
    for name, modality in config.modalities.items():
        reads_bias = fusion.reads_own_bias if name == config.query() else fusion.reads_bias
        for key, read in (("graph", fusion.reads_edges), ("polarity", reads_bias)):
            if getattr(modality, key) and not read:
                raise UserError(
                    f"the fusion {config.fusion.name} reads no {key} of {name}: set model.modalities.{name}.{key} to null"
                )
