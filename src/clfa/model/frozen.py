"""States of frozen encoders, computed once per post and kept next to the data.

Files: `DATASET/states/<key>/<split>.safetensors`, key = 16 hex digits of the encoder's weights and settings.
"""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from clfa.config import ModalityConfig
from clfa.data.cache import Cache, fill
from clfa.data.records import load_split
from clfa.model.batch import column_values, decode
from clfa.model.classifier import Classifier
from clfa.model.encoders import Encoder, fingerprint, prepare, settings_of
from clfa.model.knowledge import hashtags


def cache_states(model: Classifier, dataset: Path, splits: list[str]) -> dict[str, Cache]:
    """Make sure that the states of all frozen encoders are cached for these splits.

    Args:
        model: its device computes what is missing.
        dataset: dataset directory.
        splits: which files to read; others are not opened.

    Returns:
        modality -> cache, for `clfa.model.batch.Collator`; empty if no encoder is frozen.
    """
    caches = {}
    for name, modality in model.config.modalities.items():
        encoder = model.encoders[modality.shares or name]
        owner = model.config.modalities[modality.shares or name]
        if not owner.frozen:
            continue
        part = [modality.part] if modality.part != "all" else []
        settings = [settings_of(encoder.preparer), str(modality.max_length), modality.column or name]
        key = fingerprint(encoder.backbone, *settings, *part, *(["pooled"] if encoder.pooled else []))
        folder = dataset / "states" / key
        for split in splits:
            values = column_values(load_split(dataset, split), modality.column or name)
            if modality.part == "hashtags":
                values = [hashtags(str(value)) if value is not None else None for value in values]
            known = Cache(
                folder / f"{other}.safetensors"
                for other in splits
                if other != split and (folder / f"{other}.safetensors").is_file()
            )
            fill(
                folder / f"{split}.safetensors",
                [value for value in values if value is not None],
                partial(encode_frozen, encoder, modality),
                known=known,
            )
        files = [folder / f"{split}.safetensors" for split in splits if (folder / f"{split}.safetensors").is_file()]
        if files:  # without any, the collator masks the modality
            caches[name] = Cache(files)
    return caches


@torch.no_grad()
def encode_frozen(encoder: Encoder, modality: ModalityConfig, batch: list) -> list[Tensor]:
    """(length, H) states of each text or undecoded image, without padding."""
    device = next(encoder.parameters()).device
    values = [decode(value, modality.kind) for value in batch]
    inputs = prepare(encoder.preparer, modality.kind, values, modality.max_length)
    training = encoder.training
    states, masks = encoder.eval()({name: value.to(device) for name, value in inputs.items()})
    encoder.train(training)
    return [row[mask] for row, mask in zip(states.cpu(), masks.cpu())]
