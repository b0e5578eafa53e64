"""Rows of a dataset directory -> Batch: a flat dict of tensors with Hugging Face names.

    input_ids, attention_mask    (B, T)        texts, padded to the longest of the batch
    pixel_values                 (B, 3, h, w)  images
    <modality>_mask              (B,)          bool, whether the post has it at all; a missing image is masked, never zero
    <modality>_states            (B, L, H)     instead of the inputs where the encoder is frozen and cached
    <modality>_attention_mask    (B, L)        … with their mask
    labels                       (B,)          in training
    teacher_<modality>_embeds    (B, D)        in training, where the modality is aligned
    <modality>_edges             (B, L, L)     where the modality has a graph: 1 between neighbouring tokens
    <modality>_attention_bias    (B, Q, L)     where it has polarities: bias between the query's tokens and its own

Inputs of modalities not called `text` or `image` carry the modality's name in front (`knowledge_input_ids`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from clfa.config import ModalityConfig
from clfa.data.cache import Cache, content_key
from clfa.data.images import open_image
from clfa.model.encoders import prepare
from clfa.model.knowledge import hashtags, polarity_bias, read_lexicon, token_edges, token_words

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Collator:
    """Callable `rows -> Batch`.

    Args:
        modalities: the model's mapping.
        preparers: modality -> tokenizer or image processor (those that share an encoder share it).
        states: modality -> cached states of its frozen encoder.
        teacher: cached teacher embeddings by content (texts and images alike), when training with alignment.
    """

    modalities: dict[str, ModalityConfig]
    preparers: dict[str, Any]
    states: dict[str, Cache] = field(default_factory=dict)
    teacher: dict[str, Cache] = field(default_factory=dict)

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Batch:
        batch: Batch = {}
        texts: dict[str, list[str]] = {}
        for name, modality in self.modalities.items():
            values = [modality_value(row, name, modality) for row in rows]
            batch[f"{name}_mask"] = torch.tensor([value is not None for value in values])
            if name in self.states:
                batch |= _cached_states(name, values, self.states[name])
            else:
                blank = blank_value(modality.kind)
                filled = [decode(blank if value is None else value, modality.kind) for value in values]
                inputs = prepare(self.preparers[name], modality.kind, filled, modality.max_length)
                batch |= {input_name(name, key): value for key, value in inputs.items()}
            if name in self.teacher:
                batch[f"teacher_{name}_embeds"] = _teacher_embeds(values, self.teacher[name])
            texts[name] = [str(value or "") for value in values] if modality.kind == "text" else []
        for name, modality in self.modalities.items():
            if modality.graph and modality.fused:
                batch[f"{name}_edges"] = self._edges(name, rows, texts[name], _length(batch, name))
            if modality.polarity and modality.fused:
                batch[f"{name}_attention_bias"] = self._bias(name, texts, batch)
        if all(row.get("label") is not None for row in rows):
            batch["labels"] = torch.tensor([row["label"] for row in rows])
        return batch

    def _edges(self, name: str, rows: Sequence[dict[str, Any]], texts: list[str], length: int) -> Tensor:
        modality = self.modalities[name]
        return torch.stack(
            [
                token_edges(self.preparers[name], row, text, str(modality.graph), modality.max_length, length)
                for row, text in zip(rows, texts)
            ]
        )

    def _bias(self, name: str, texts: dict[str, list[str]], batch: Batch) -> Tensor:
        query = next(iter(self.modalities))
        lexicon = read_lexicon(str(self.modalities[name].polarity))
        sides = [
            [token_words(self.preparers[side], text, self.modalities[side].max_length) for text in texts[side]]
            for side in (query, name)
        ]
        bias = torch.zeros(len(texts[name]), _length(batch, query), _length(batch, name))
        for place, (first, second) in enumerate(zip(*sides)):
            found = polarity_bias(first, second, lexicon)[: bias.shape[1], : bias.shape[2]]
            bias[place, : found.shape[0], : found.shape[1]] = found
        return bias


def modality_value(row: dict[str, Any], name: str, modality: ModalityConfig) -> str | bytes | None:
    """The text or the image bytes of a row for one modality; `None` where the post has none."""
    value = row.get(modality.column or name)
    if modality.kind == "image" and isinstance(value, dict):
        value = value["bytes"]
    if modality.part == "hashtags" and value is not None:
        value = hashtags(value)
    return value


def column_values(rows, column: str) -> list[str | bytes | None]:
    """One column of a split, images as undecoded bytes; empty where the data set has no such column."""
    if column not in rows.column_names:
        return []
    return [value["bytes"] if isinstance(value, dict) else value for value in rows[column]]


def input_name(modality: str, key: str) -> str:
    """Name in the Batch of an encoder input: bare for `text` and `image`, with the modality in front otherwise."""
    return key if modality in ("text", "image") else f"{modality}_{key}"


def decode(value: str | bytes, kind: str):
    """What the preparer takes: the text itself, or the RGB image."""
    return open_image(value) if kind == "image" and isinstance(value, bytes) else value


def blank_value(kind: str):
    """Stands in for a missing text or image, so that shapes hold; its mask says that it is not there."""
    from PIL import Image

    return "" if kind == "text" else Image.new("RGB", (32, 32))


def _length(batch: Batch, name: str) -> int:
    """Number of tokens of a text modality in a batch."""
    key = f"{name}_states" if f"{name}_states" in batch else input_name(name, "input_ids")
    return batch[key].shape[1]


def _cached_states(name: str, values: list, cache: Cache) -> Batch:
    """Padded states. A missing value takes the states of a neighbour's shape in zeros; its mask is 0 everywhere."""
    found = [None if value is None else cache[content_key(value)] for value in values]
    width = next((states.shape[1] for states in found if states is not None), None) or cache.files[0].shape[1]
    states = [torch.zeros(1, width) if value is None else value for value in found]
    padded = pad_sequence(states, batch_first=True)
    lengths = torch.tensor([0 if value is None else len(value) for value in found])
    return {
        f"{name}_states": padded,
        f"{name}_attention_mask": torch.arange(padded.shape[1])[None] < lengths[:, None],
    }


def _teacher_embeds(values: list, cache: Cache) -> Tensor:
    found = [None if value is None else cache[content_key(value)][0] for value in values]
    width = cache.files[0].shape[1]
    return torch.stack([torch.zeros(width) if value is None else value for value in found])
