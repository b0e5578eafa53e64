"""The classifier: encode -> project -> fuse -> classify; save and load as one folder.

The loss is not here: `Classifier(batch) -> Output`, and prediction never sees a teacher or a label.
"""

import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from clfa.config import FusionConfig, ModalityConfig, ModelConfig, WordVectors
from clfa.errors import UserError
from clfa.fusion import Context, build_fusion, grid_edges, pool, window_edges
from clfa.model.batch import Batch, input_name
from clfa.model.encoders import Encoder, build_words, load_encoder


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
    fused: Float[Tensor, "batch dim"]
    """The fused vector that the classifier reads."""
    penalty: Float[Tensor, ""] | None = None
    """A term that the fusion adds to the loss, if it has one."""


class Classifier(nn.Module):
    """Text and image encoders, a projection each, a fusion, a linear classifier (CLFA, section 3).

    Args:
        config: sizes and modalities; the first modality is the query.
        encoders: modality -> encoder, for each modality that does not share another's.
        labels: class names in the order of the logits.
        text: how the texts of the training set were cleaned, `normalised` or `raw`; new posts get the same.
    """

    def __init__(self, config: ModelConfig, encoders: dict[str, Encoder], labels: list[str], text: str = "normalised"):
        super().__init__()
        self.config, self.labels, self.text = config, list(labels), text
        self.encoders: Any = nn.ModuleDict(encoders)
        self.projections = nn.ModuleDict(
            {name: projection(encoder.width, config) for name, encoder in encoders.items()}
        )
        self.contexts = [name for name, modality in config.modalities.items() if modality.fused][1:]
        self.fusion = build_fusion(config.dim, len(self.contexts), config.fusion, config.pooling)
        self.reads_edges = "edges" in inspect.signature(self.fusion.forward).parameters
        _refuse_unread_knowledge(config, self.reads_edges, getattr(self.fusion, "reads_bias", False))
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.dim, len(labels))
        for name, modality in config.modalities.items():
            if modality.frozen and not modality.shares:
                self.encoders[name].requires_grad_(False)

    def forward(self, batch: Batch) -> Output:
        """Logits and everything on the way to them. Reads inputs or cached states, see `clfa.model.batch`."""
        states, masks = self.project(batch)
        return self.fuse(states, masks, batch)

    def project(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Projected token states (B, L, D) and masks (B, L) of each modality."""
        states, masks = {}, {}
        for name, modality in self.config.modalities.items():
            if not modality.fused and not self.training:
                continue
            encoded, mask = self.encode(name, modality, batch)
            states[name] = self.projections[modality.shares or name](encoded)
            masks[name] = mask & batch[f"{name}_mask"][:, None]
        return states, masks

    def fuse(self, states: dict[str, Tensor], masks: dict[str, Tensor], batch: Batch) -> Output:
        """What `forward` makes of projected states: fusion and classifier. Of the batch only knowledge is read."""
        query = next(iter(self.config.modalities))
        edges = {name: self.edges(name, masks[name], batch) for name in states} if self.reads_edges else {}
        contexts = [
            Context(states[name], masks[name], batch.get(f"{name}_attention_bias"), edges.get(name))
            for name in self.contexts
        ]
        graph = {"edges": edges[query]} if self.reads_edges else {}
        fused = self.fusion(states[query], masks[query], contexts, **graph)
        if fused.shape != (len(states[query]), self.config.dim):
            expected = (len(states[query]), self.config.dim)
            raise UserError(
                f"the fusion {self.config.fusion.name} returned shape {tuple(fused.shape)}, {expected} is needed"
            )
        return Output(
            logits=self.classifier(self.dropout(fused)),
            states=states,
            masks=masks,
            embeds={name: pool(states[name], masks[name], "mean") for name in states},
            fused=fused,
            penalty=self.fusion.penalty() if hasattr(self.fusion, "penalty") else None,  # type: ignore[operator]
        )

    def edges(
        self, name: str, mask: Bool[Tensor, "batch tokens"], batch: Batch
    ) -> Float[Tensor, "batch tokens tokens"]:
        """The graph of one modality: from the batch, or the grid of the patches, or neighbouring words."""
        if f"{name}_edges" in batch:
            return batch[f"{name}_edges"].float()
        return grid_edges(mask) if self.config.modalities[name].kind == "image" else window_edges(mask)

    def encode(
        self, name: str, modality: ModalityConfig, batch: Batch
    ) -> tuple[Float[Tensor, "batch tokens width"], Bool[Tensor, "batch tokens"]]:
        """Token states of one modality from its encoder, or from the batch where they were cached, and their mask."""
        if f"{name}_states" in batch:
            return batch[f"{name}_states"], batch[f"{name}_attention_mask"].bool()
        keys = ("input_ids", "attention_mask") if modality.kind == "text" else ("pixel_values",)
        inputs = {key: batch[input_name(name, key)] for key in keys}
        # a frozen encoder is an extractor: without dropout and without gradient, as when its states are cached
        with torch.set_grad_enabled(torch.is_grad_enabled() and not modality.frozen):
            return self.encoders[modality.shares or name](inputs)

    def train(self, mode: bool = True) -> "Classifier":
        """Training mode, but for frozen encoders, which never leave evaluation mode."""
        super().train(mode)
        for name, encoder in self.encoders.items():
            if self.config.modalities[name].frozen:
                encoder.eval()
        return self

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `model.json`, `model.safetensors` and per encoder a folder with its config and its tokenizer or image
        processor: all that prediction needs."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, encoder in self.encoders.items():
            encoder.save(folder / name)
        save_file(
            {key: value.detach().contiguous() for key, value in self.state_dict().items()}, folder / "model.safetensors"
        )
        described = {"labels": self.labels, "text": self.text, "model": asdict(self.config)}
        (folder / "model.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Classifier":
        """Load what `save_pretrained` wrote, in evaluation mode, bit for bit.

        Raises:
            UserError: the folder is not a trained run, or its files do not fit each other.
        """
        folder = Path(folder)
        if not (folder / "model.json").is_file():
            raise UserError(f"{folder} holds no trained model (no model.json): train one with `clfa train`")
        described = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        config = _model_config(described["model"])
        encoders = {}
        for name, modality in config.modalities.items():
            if not modality.shares:
                encoders[name] = load_encoder(str(folder / name), modality.kind, False, modality.pooled)
        model = cls(config, encoders, described["labels"], described["text"])
        try:
            model.load_state_dict(load_file(folder / "model.safetensors"))
        except (RuntimeError, OSError) as error:
            raise UserError(
                f"{folder}/model.safetensors does not fit model.json: {str(error).splitlines()[0]}"
            ) from None
        return model.eval()


def build_classifier(
    config: ModelConfig, labels: list[str], text: str = "normalised", texts: Mapping[str, Iterable[str]] | None = None
) -> Classifier:
    """A new classifier with the encoders named in the configuration.

    Args:
        config: sizes and modalities.
        labels: class names.
        text: see `Classifier`.
        texts: the training texts of each modality with `words`, which make its vocabulary.

    Raises:
        UserError: an encoder cannot be loaded, or the modalities contradict each other.
    """
    encoders, texts = {}, texts or {}
    for name, modality in config.modalities.items():
        if modality.shares and modality.shares not in config.modalities:
            raise UserError(f"modality {name!r} shares {modality.shares!r}, which is not among the modalities")
        if not modality.shares:
            encoders[name] = (
                build_words(modality.words, texts[name])
                if modality.words
                else load_encoder(modality.encoder, modality.kind, modality.pretrained, modality.pooled)
            )
    return Classifier(config, encoders, labels, text)


def projection(width: int, config: ModelConfig) -> nn.Module:
    """The mapping net f' of the paper, on every token: linear, ReLU, linear (768 -> 1536 -> 512 in the released code).

    With `projection_hidden: 0` a single linear layer, for rows that have no mapping net.
    """
    if config.projection_hidden == 0:
        return nn.Linear(width, config.dim)
    return nn.Sequential(
        nn.Linear(width, config.projection_hidden), nn.ReLU(), nn.Linear(config.projection_hidden, config.dim)
    )


def _refuse_unread_knowledge(config: ModelConfig, reads_edges: bool, reads_bias: bool) -> None:
    for name, modality in config.modalities.items():
        for key, given, read in (("graph", modality.graph, reads_edges), ("polarity", modality.polarity, reads_bias)):
            if given and not read:
                raise UserError(
                    f"the fusion {config.fusion.name} reads no {key}: set model.modalities.{name}.{key} to null"
                )


def _model_config(described: dict) -> ModelConfig:
    modalities = {
        name: ModalityConfig(**{**modality, "words": modality.get("words") and WordVectors(**modality["words"])})
        for name, modality in described["modalities"].items()
    }
    return ModelConfig(**{**described, "modalities": modalities, "fusion": FusionConfig(**described["fusion"])})
