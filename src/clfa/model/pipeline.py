"""A trained model in use: the one set-up of model, preparers, caches and device.

Validation in training, evaluation, probes, prediction and services all go through it.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from clfa.config import ModalityConfig, ModelConfig, Precision
from clfa.data.cache import Cache, Compute, Engine, OnCluster
from clfa.data.cells import Post, by_length, clean_post
from clfa.data.progress import progress
from clfa.data.rows import Rows, fill_split, load_split
from clfa.errors import UserError
from clfa.fusion import Tokens
from clfa.model.arithmetic import arithmetic, available, by_products, keep_in_bf16, products_in_use
from clfa.model.batch import Collator
from clfa.model.blend import load_classifier
from clfa.model.classifier import Classifier, Output
from clfa.model.encoders import Encoder, fingerprint, load_encoder
from clfa.model.modalities import Kind, kind_of

ABSENT = -1

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class States:
    """Projected tokens of each modality for N posts, to be put together anew."""

    states: dict[str, Float[Tensor, "posts tokens dim"]]
    """Modality -> projected states."""
    masks: dict[str, Tensor]
    """Modality -> (N, L), which are there."""
    edges: dict[str, Tensor]
    """Modality -> (N, L, L) graphs of words, where it has them."""

    def joined(self, other: "States") -> "States":
        """The posts of both, one after the other."""
        return _stacked(
            {part: {n: [v, getattr(other, part)[n]] for n, v in found.items()} for part, found in vars(self).items()}
        )


class Pipeline:
    """A classifier with all that it needs to be used.

    Args:
        model: the classifier; it is brought to `device` and into evaluation mode when it is used.
        batch_size: posts per forward pass.
        device: a GPU if there is one.
        caches: modality -> states of its frozen encoder; see `cache`.
        precision: of the model's arithmetic; see `clfa.model.arithmetic`.
    """

    def __init__(
        self,
        model: Classifier,
        batch_size: int = 64,
        device: str | torch.device | None = None,
        caches: dict[str, Cache] | None = None,
        precision: Precision = "fp32",
    ):
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.precision = available(precision, self.device)
        self.model = model.to(self.device)
        self.config: ModelConfig = model.config
        self.class_names, self.text_cleaning, self.batch_size = model.class_names, model.text_cleaning, batch_size
        self.preparers = {name: model.encoders[model.config.owner(name)].preparer for name in model.config.modalities}
        self.caches: dict[str, Cache] = caches or {}
        self.compact: dict[str, Cache] = {}
        self.collate = Collator(self.config, self.preparers, self.caches, compact=self.compact)

    @classmethod
    def load(cls, folder: str | Path, batch_size: int = 64, precision: Precision = "fp32") -> "Pipeline":
        """The model of a run directory, or of any folder written by `Classifier.save_pretrained`.

        Raises:
            UserError: the folder holds no trained model; there is no such precision, or not on this CPU.
        """
        pipeline = cls(load_classifier(folder), batch_size, precision=precision)
        if pipeline.precision == "bf16":
            keep_in_bf16(pipeline.model)
        return pipeline

    def cache(self, dataset: Path, splits: Sequence[str], engine: Engine = "plain") -> dict[str, Cache]:
        """Compute the states of frozen encoders and layers for these splits where missing, and read them from now on.

        Files: `DATASET/states/<key>/`, key = 16 hex digits of the encoder's weights and settings. No other split is opened.

        Args:
            dataset: dataset directory.
            splits: which files to read.
            engine: `ray` for a cluster whose workers load the encoders by their names; those that have none are used here.

        Returns:
            Modality -> cache, for the modalities with a frozen encoder, or frozen layers, and a value in these splits.

        Raises:
            UserError: the model is in bf16.
        """
        if self.precision == "bf16":
            raise UserError("what is cached is in single precision: load the run without bf16")
        for name, modality in self.config.modalities.items():
            encoder: Encoder = self.model.encoders[self.config.owner(name)]
            owner = self.config.modalities[self.config.owner(name)]
            if not owner.frozen and owner.trained_layers is None:
                continue
            column, kind = self.config.column(name), kind_of(modality)
            # the hashtags of a text are contents of their own; anything else that an encoder reads is shared
            settings = [str(modality.max_length), *([modality.part] if modality.part != "all" else [])]
            means = owner.frozen and self.config.reads_mean(name)
            folder = dataset / ("features" if means else "states") / _fingerprint(encoder, owner, *settings)
            part = None if modality.part == "all" else partial(kind.read, modality=modality)
            encode = partial(_encode, encoder, owner, modality.max_length, means)
            given = (owner, modality.max_length, means, _fingerprint(encoder, owner), products_in_use())
            elsewhere = OnCluster(open_encoder, given)
            named = engine == "ray" and owner.pretrained and owner.words is None
            for split in splits:
                what, where = f"encoding {name} of {split}", elsewhere if named else None
                fill_split(folder, dataset, split, column, modality.kind, encode, what, read=part, on_cluster=where)
            found = Cache(folder)
            if len(found):  # without any, the modality is masked
                self.caches[name] = found
        return self.caches

    def cache_inputs(self, dataset: Path, splits: Sequence[str], again: bool) -> None:
        """Compute token ids and resized images of these splits where missing, and read them from now on: each text is
        tokenized once, and each image decoded once, however often the posts are seen.

        Files: `DATASET/inputs/<key>/`, key = 16 hex digits of the tokenizer or image processor and its settings. Modalities
        whose states are cached have no need of it; images that would take half of what is left of the disk are decoded anew,
        and so are those that are not seen `again`.
        """
        for name, modality in self.config.modalities.items():
            kind, preparer, column = kind_of(modality), self.preparers[name], self.config.column(name)
            if name in self.caches or not (again or modality.kind == "text"):
                continue
            if not kind.can_compact(preparer, modality.max_length):
                continue
            rows = sum(len(load_split(dataset, split)) for split in splits)
            size = kind.compact(preparer, [kind.samples[-1]], modality.max_length)[0].nbytes * rows
            folder = dataset / "inputs" / fingerprint(kind.signature(preparer), str(modality.max_length), modality.part)
            if size > shutil.disk_usage(dataset).free / 2 and not folder.exists():
                log.warning(
                    "%s: no room to keep its prepared inputs (%.0f GB); made anew in each epoch", name, size / 1e9
                )
                continue
            part = None if modality.part == "all" else partial(kind.read, modality=modality)
            make = partial(_compact, kind, preparer, modality.max_length)
            try:
                for split in splits:
                    what = f"preparing {name} of {split}"
                    fill_split(folder, dataset, split, column, modality.kind, make, what, read=part)
            except OSError as error:
                log.warning(
                    "%s: its prepared inputs cannot be kept (%s); made anew in each epoch", name, error.strerror
                )
                continue
            self.compact[name] = Cache(folder)

    def prepare(self, post: Post) -> dict[str, Any]:
        """A user's post as a row: texts cleaned as in training, images as checked bytes; other columns as they are.

        Raises:
            UserError: a value cannot be read, such as an image that is missing on disk.
        """
        return clean_post(post, self.config, self.text_cleaning)

    def logits(self, rows: Sequence[Post], what: str = "predicting") -> Float[Tensor, "rows classes"]:
        """Logits of all rows in their order, in evaluation mode; posts of similar length share a batch.

        Args:
            rows: `Rows`, or a list of rows or dictionaries with the columns that the modalities read.
            what: the work, for the progress.
        """
        logits = torch.empty(len(rows), len(self.class_names))
        with progress(what, len(rows)) as bar:
            own = (
                rows.lengths("text").tolist()
                if isinstance(rows, Rows)
                else [len(row.get("text") or "") for row in rows]
            )
            for places in by_length(own, self.batch_size):
                logits[places] = self.output([rows[place] for place in places]).logits.float().cpu()
                bar.add(len(places))
        return logits

    def probabilities(self, rows: Sequence[Post], what: str = "predicting") -> NDArray[np.float64]:
        """(N, C) probabilities of all rows in their order."""
        return self.logits(rows, what).double().softmax(1).numpy()

    def decide(self, scores: Float[NDArray, "posts classes"]) -> NDArray[np.int64]:
        """Logits or log probabilities -> class numbers, as `Classifier.decide`."""
        return self.model.decide(scores)

    def embeds(self, rows: Sequence[Post]) -> dict[str, Float[NDArray, "posts dim"]]:
        """Modality -> mean projected token of all rows in order (of a probe: the encoder's); NaN where it is missing."""
        found: dict[str, list[Tensor]] = {}
        with self._computing(), progress("reading features", len(rows)) as bar:
            for start in range(0, len(rows), self.batch_size):
                chunk = [rows[number] for number in range(start, min(len(rows), start + self.batch_size))]
                for name, one in self.model.project(self.collate(chunk).to(self.device)).items():
                    pooled = one.pool("mean").float().where(one.present[:, None], torch.nan)
                    found.setdefault(name, []).append(pooled.cpu())
                bar.add(len(chunk))
        return {name: torch.cat(blocks).numpy() for name, blocks in found.items()}

    def output(self, rows: Sequence[Post]) -> Output:
        """Everything that the model computes for one batch of rows."""
        with self._computing():
            return self.model(self.collate(rows).to(self.device))

    @contextmanager
    def _computing(self) -> Iterator[None]:
        self.model.eval()
        with torch.no_grad(), arithmetic(self.precision, self.device):
            yield

    def states(self, rows: Sequence[Post]) -> States:
        """Encode and project all posts once, to put them together anew.

        Raises:
            UserError: the model has polarity biases, which belong to pairs of texts.
        """
        biased = [name for name, modality in self.config.modalities.items() if modality.polarity]
        if biased:
            raise UserError(
                f"the modality {biased[0]!r} has a polarity bias between two texts: such a run cannot be probed"
            )
        blocks: dict[str, dict[str, list[Tensor]]] = {"states": {}, "masks": {}, "edges": {}}
        with self._computing(), progress("encoding posts", len(rows)) as bar:
            for start in range(0, len(rows), self.batch_size):
                chunk = [rows[number] for number in range(start, min(len(rows), start + self.batch_size))]
                for name, found in self.model.project(self.collate(chunk).to(self.device)).items():
                    blocks["states"].setdefault(name, []).append(found.states.float().cpu())
                    blocks["masks"].setdefault(name, []).append(found.mask.cpu())
                    if found.edges is not None:
                        blocks["edges"].setdefault(name, []).append(found.edges.cpu())
                bar.add(len(chunk))
        return _stacked(blocks)

    def recombine(
        self, parts: States, texts: NDArray, images: NDArray, batch_size: int = 256
    ) -> Float[NDArray, "posts classes"]:
        """Logits of M posts made of the texts of some posts and the images of others.

        Args:
            parts: of N posts.
            texts: (M,) numbers of the posts whose modalities about the text are taken; `ABSENT` masks them.
            images: (M,) the same for those about the image.
            batch_size: posts per pass of the fusion.
        """
        logits = []
        for start in range(0, len(texts), batch_size):
            tokens = {}
            for name in parts.states:
                side = texts if self.config.side(name) == "text" else images
                places = torch.from_numpy(side[start : start + batch_size])
                mask = parts.masks[name][places.clamp(min=0)] & (places != ABSENT)[:, None]
                length = int(mask.any(dim=0).nonzero().max()) + 1 if mask.any() else 1
                places = places.clamp(min=0)
                edges = parts.edges[name][places, :length, :length].to(self.device) if name in parts.edges else None
                states = parts.states[name][places, :length].to(self.device)
                tokens[name] = Tokens(states, mask[:, :length].to(self.device), edges)
            with self._computing():
                logits.append(self.model.fuse(tokens).logits.double().cpu().numpy())
        return np.concatenate(logits)


def _compact(kind: Kind, preparer: Any, max_length: int, values: list) -> list[Tensor]:
    """Undecoded contents, compact; decoded by several threads."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return kind.compact(preparer, list(pool.map(kind.decode, values)), max_length)


def open_encoder(
    modality: ModalityConfig, max_length: int, means: bool, fingerprint: str, precision: Precision
) -> Compute:
    """What computes the states of a frozen encoder, or of frozen layers, in a process of its own.

    Raises:
        UserError: the encoder of that name is another one here.
    """
    encoder = load_encoder(modality.encoder, modality.kind, True, modality.pooled, modality.trained_layers)
    if modality.frozen:
        encoder.requires_grad_(False)
    if _fingerprint(encoder, modality) != fingerprint:
        raise UserError(
            f"the encoder {modality.encoder!r} is not the same on all machines: put one folder on all of them"
        )
    encoder.to("cuda" if torch.cuda.is_available() else "cpu")
    return by_products(precision, partial(_encode, encoder, modality, max_length, means))


def _fingerprint(encoder: Encoder, modality: ModalityConfig, *settings: str) -> str:
    """Of what `_encode` computes."""
    return (encoder.fingerprint if modality.frozen else encoder.lower_fingerprint)(*settings)


def _encode(
    encoder: Encoder, modality: ModalityConfig, max_length: int, means: bool, values: list
) -> list[Float[Tensor, "tokens width"]]:
    """States of each content, of the frozen layers alone where only these are frozen; with `means` their mean."""
    states = (encoder.encode if modality.frozen else encoder.encode_lower)(values, max_length)
    return [one.mean(dim=0, keepdim=True) for one in states] if means else states


def _stacked(blocks: Mapping[str, Mapping[str, list[Tensor]]]) -> States:
    """States from blocks of each part and modality."""
    return States(
        **{part: {n: _stack(b, square=part == "edges") for n, b in found.items()} for part, found in blocks.items()}
    )


def _stack(blocks: list[Tensor], square: bool = False) -> Tensor:
    """Blocks (B, L, …), padded to the longest L; graphs (`square`) in both of their lengths."""
    longest = max(block.shape[1] for block in blocks)

    def padded(block: Tensor) -> Tensor:
        missing = [0, longest - block.shape[1]]
        return pad(block, missing * 2 if square else [0, 0] * (block.ndim - 2) + missing)

    return torch.cat([padded(block) for block in blocks])
