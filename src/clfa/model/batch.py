"""Rows -> Batch: what a classifier reads of some posts, modality by modality."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from clfa.config import ModelConfig
from clfa.data.cache import Cache, content_key
from clfa.data.cells import value_of
from clfa.data.rows import NONE, UNKNOWN, Row
from clfa.model.knowledge import (
    Words,
    WordStore,
    align_words,
    bias_of,
    edges_of,
    read_words,
)
from clfa.model.modalities import kind_of

NO_LABEL = -100
"""The class that PyTorch's cross entropy leaves out."""


@dataclass(frozen=True)
class Inputs:
    """One modality of a batch."""

    present: Bool[Tensor, " batch"]
    """Whether each post has it at all; a missing image is masked, never zero."""
    inputs: dict[str, Tensor] = field(default_factory=dict)
    """What its encoder takes, in Hugging Face names (`input_ids`, `attention_mask`; `pixel_values`), and `lower_states` from
    a cache where only the last layers are trained; or …"""
    states: Float[Tensor, "batch tokens width"] | None = None
    """… the states of a frozen encoder from the cache."""
    mask: Bool[Tensor, "batch tokens"] | None = None
    """Which of the cached states are there."""
    edges: Float[Tensor, "batch tokens tokens"] | None = None
    """Graph of the tokens, where the modality has one: 1 between neighbours."""
    bias: Float[Tensor, "batch queries tokens"] | None = None
    """Polarity bias between the query's tokens and these, where the modality has one."""
    teacher_embeds: Float[Tensor, "batch dim"] | None = None
    """The teacher's embeddings, in training, where the modality is aligned."""
    teacher_entries: Int[Tensor, " batch"] | None = None
    """Their numbers in the teacher's cache; -1 where the modality is missing."""

    @property
    def length(self) -> int:
        """Number of tokens of a text."""
        return self.inputs["input_ids"].shape[1] if self.states is None else self.states.shape[1]


@dataclass(frozen=True)
class Batch:
    """Some posts, ready for the classifier."""

    modalities: dict[str, Inputs]
    """Name -> what it reads."""
    labels: Int[Tensor, " batch"] | None = None
    """Class numbers, in training; `NO_LABEL` for a post without."""

    def to(self, device: torch.device | str) -> "Batch":
        """The same on another device."""

        def move(inputs: Inputs) -> Inputs:
            moved: dict[str, Any] = {
                name: value.to(device) for name, value in vars(inputs).items() if isinstance(value, Tensor)
            }
            return replace(inputs, **moved, inputs={name: value.to(device) for name, value in inputs.inputs.items()})

        labels = None if self.labels is None else self.labels.to(device)
        return Batch({name: move(inputs) for name, inputs in self.modalities.items()}, labels)


@dataclass(frozen=True)
class Collator:
    """Callable `rows -> Batch`. Rows are `clfa.data.rows.Row`s or plain dictionaries.

    Args:
        config: the model's modalities.
        preparers: modality -> tokenizer or image processor (those that share an encoder share it).
        states: modality -> cached states of its frozen encoder, or of its frozen layers. Rows whose content is not in it are
            encoded anew.
        teacher: modality -> cached teacher embeddings, when training with alignment.
    """

    config: ModelConfig
    preparers: Mapping[str, Any]
    states: Mapping[str, Cache] = field(default_factory=dict)
    teacher: Mapping[str, Cache] = field(default_factory=dict)
    compact: Mapping[str, Cache] = field(default_factory=dict)
    """Modality -> its compact inputs (see `clfa.model.modalities.Kind.compact`), where they are cached."""
    words: WordStore = field(default_factory=WordStore)
    """Words of the texts of a split by row number."""

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        modalities: dict[str, Inputs] = {}
        prepared: dict[tuple, Inputs] = {}  # what several modalities read in the same way is prepared once
        for name, modality in self.config.modalities.items():
            how = (id(self.preparers[name]), self.config.column(name), modality.part, modality.max_length)
            found = self._cached(name, rows)
            if found is None:
                found = prepared[how] = prepared.get(how) or self._expanded(name, rows) or self._prepared(name, rows)
            if name in self.teacher:
                embeds, entries = self._teacher_embeds(name, rows)
                found = replace(found, teacher_embeds=embeds, teacher_entries=entries)
            modalities[name] = found
        modalities |= {name: self._with_knowledge(name, rows, modalities) for name in modalities}
        labels = [NO_LABEL if label is None or label < 0 else label for label in (row.get("label") for row in rows)]
        return Batch(modalities, torch.tensor(labels) if any(label != NO_LABEL for label in labels) else None)

    def _prepared(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Inputs:
        modality = self.config.modalities[name]
        kind = kind_of(modality)
        values = [value_of(row, name, self.config) for row in rows]
        decoded = [kind.blank if value is None else kind.decode(value) for value in values]
        present = torch.tensor([value is not None for value in values])
        return Inputs(present, kind.prepare(self.preparers[name], decoded, modality.max_length))

    def _cached(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Inputs | None:
        """States from the cache, padded; `None` where one of the rows is not in it."""
        if name not in self.states:
            return None
        cache = self.states[name]
        entries = self._entries(cache, name, rows)
        present = entries != NONE
        if (entries == UNKNOWN).any():
            return None
        # a missing value takes one token of zeros; its mask is 0 everywhere
        states = [
            cache.read(entry) if there else torch.zeros(1, cache.width)
            for entry, there in zip(entries.tolist(), present)
        ]
        padded = pad_sequence(states, batch_first=True)
        lengths = torch.tensor([len(value) if there else 0 for value, there in zip(states, present)])
        mask = torch.arange(padded.shape[1])[None] < lengths[:, None]
        if self.config.modalities[self.config.owner(name)].frozen:
            return Inputs(torch.from_numpy(present), states=padded, mask=mask)
        inputs = kind_of(self.config.modalities[name]).stand_in(self.preparers[name], mask)
        return Inputs(torch.from_numpy(present), inputs | {"lower_states": padded})

    def _expanded(self, name: str, rows: Sequence[Mapping[str, Any]]) -> Inputs | None:
        """What `_prepared` gives, from the cache; `None` where one of the rows is not in it."""
        if name not in self.compact:
            return None
        cache = self.compact[name]
        entries = self._entries(cache, name, rows)
        present = entries != NONE
        if (entries == UNKNOWN).any():
            return None
        modality, preparer = self.config.modalities[name], self.preparers[name]
        kind = kind_of(modality)
        blank = [] if present.all() else kind.compact(preparer, [kind.blank], modality.max_length)
        values = [cache.read(entry) if there else blank[0] for entry, there in zip(entries.tolist(), present)]
        return Inputs(torch.from_numpy(present), kind.expand(preparer, values))

    def _teacher_embeds(self, name: str, rows: Sequence[Mapping[str, Any]]) -> tuple[Tensor, Tensor]:
        cache = self.teacher[name]
        entries = self._entries(cache, name, rows).clip(min=UNKNOWN)
        embeds = [cache.read(entry)[0] if entry >= 0 else torch.zeros(cache.width) for entry in entries.tolist()]
        return torch.stack(embeds), torch.from_numpy(entries)

    def _entries(self, cache: Cache, name: str, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """(B,) entries of what a modality reads of each row, or `UNKNOWN` or `NONE`."""
        modality, column = self.config.modalities[name], self.config.column(name)
        filled = self.config.empty_is_missing(name)

        def entry(row: Mapping[str, Any]) -> int:
            if isinstance(row, Row) and modality.part == "all":
                stored = row.entry(cache, column, modality.kind, filled)
                if stored is not None:
                    return stored
            value = value_of(row, name, self.config)
            if value is None:
                return NONE
            return int(cache.find(np.array([content_key(modality.kind, value)], dtype="S16"))[0])

        return np.array([entry(row) for row in rows])

    def _with_knowledge(self, name: str, rows: Sequence[Mapping[str, Any]], modalities: Mapping[str, Inputs]) -> Inputs:
        modality, inputs = self.config.modalities[name], modalities[name]
        if not modality.fused or not (modality.graph or modality.polarity):
            return inputs
        words = [self._words(name, row) for row in rows]
        if modality.graph:
            inputs = replace(inputs, edges=torch.from_numpy(edges_of(words, inputs.length)))
        if modality.polarity:
            query = self.config.query()
            asking = [self._words(query, row) for row in rows]
            lengths = (modalities[query].length, inputs.length)
            inputs = replace(inputs, bias=torch.from_numpy(bias_of(asking, words, modality.polarity, lengths)))
        return inputs

    def _words(self, name: str, row: Mapping[str, Any]) -> Words:
        modality = self.config.modalities[name]

        tokenizer, text = self.preparers[name], str(value_of(row, name, self.config) or "")
        aligned = None
        if isinstance(row, Row) and not row.changes:
            aligned = self.words.get(
                f"{name} of {row.rows.name}",
                row.number,
                int(row.rows.ends[-1]),
                lambda: align_words(tokenizer, text, modality.graph, modality.max_length),
            )
        return read_words(tokenizer, row, text, modality.graph, modality.max_length, aligned)
