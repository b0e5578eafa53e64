"""Posts taken apart: each side encoded once, then put together anew, with the parts of other posts or without one."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from clfa.config import ModalityConfig
from clfa.data.columns import PICTURE_WORDS
from clfa.errors import UserError
from clfa.model.batch import Collator
from clfa.model.classifier import Classifier

ABSENT = -1


@dataclass(frozen=True)
class Parts:
    """Projected states of each modality for all posts, to be put together anew."""

    model: Classifier
    states: dict[str, Tensor]
    """modality -> (N, L, D)."""
    masks: dict[str, Tensor]
    """modality -> (N, L)."""
    knowledge: dict[str, Tensor]
    """Graphs of words by their names in the batch -> (N, L, L)."""

    def joined(self, other: "Parts") -> "Parts":
        """The posts of both, one after the other."""
        return Parts(
            self.model,
            {name: _stack([self.states[name], other.states[name]]) for name in self.states},
            {name: _stack([self.masks[name], other.masks[name]]) for name in self.masks},
            {name: _stack([self.knowledge[name], other.knowledge[name]]) for name in self.knowledge},
        )

    @torch.no_grad()
    def logits(self, texts: NDArray, images: NDArray, batch_size: int = 256) -> NDArray[np.float64]:
        """(M, C) logits of posts made of the text of one post and the image of another; `ABSENT` masks a modality."""
        device = next(self.model.parameters()).device
        found = []
        for start in range(0, len(texts), batch_size):
            states, masks, knowledge = {}, {}, {}
            for name in self.states:
                side = images if shows_picture(name, self.model.config.modalities[name]) else texts
                places = torch.from_numpy(side[start : start + batch_size])
                there = places != ABSENT
                mask = self.masks[name][places.clamp(min=0)] & there[:, None]
                length = int(mask.any(dim=0).nonzero().max()) + 1 if mask.any() else 1
                states[name] = self.states[name][places.clamp(min=0), :length].to(device)
                masks[name] = mask[:, :length].to(device)
            for key, values in self.knowledge.items():
                name = key.removesuffix("_edges")
                side = images if shows_picture(name, self.model.config.modalities[name]) else texts
                picked = values[torch.from_numpy(side[start : start + batch_size]).clamp(min=0)]
                knowledge[key] = picked[:, : states[name].shape[1], : states[name].shape[1]].to(device)
            found.append(self.model.fuse(states, masks, knowledge).logits.double().cpu().numpy())
        return np.concatenate(found)

    def predict(self, texts: NDArray, images: NDArray) -> NDArray[np.int64]:
        """(M,) class numbers."""
        return self.logits(texts, images).argmax(1)


def shows_picture(name: str, modality: ModalityConfig) -> bool:
    """Whether a modality goes with the picture of a post: images, and words that say what is in them."""
    return modality.kind == "image" or (modality.column or name) in ("knowledge", *PICTURE_WORDS)


@torch.no_grad()
def read_parts(model: Classifier, rows: Any, collator: Collator, batch_size: int = 64) -> Parts:
    """Encode and project all posts once.

    Raises:
        UserError: the model has polarity biases, which belong to pairs of texts and cannot be put together anew.
    """
    biased = [name for name, modality in model.config.modalities.items() if modality.polarity]
    if biased:
        raise UserError(
            f"the modality {biased[0]!r} has a polarity bias between two texts: such a run cannot be probed"
        )
    model.eval()
    device = next(model.parameters()).device
    states: dict[str, list[Tensor]] = {}
    masks: dict[str, list[Tensor]] = {}
    knowledge: dict[str, list[Tensor]] = {}
    for start in range(0, len(rows), batch_size):
        batch = collator([rows[number] for number in range(start, min(len(rows), start + batch_size))])
        found, there = model.project({name: value.to(device) for name, value in batch.items()})
        for name in found:
            states.setdefault(name, []).append(found[name].float().cpu())
            masks.setdefault(name, []).append(there[name].cpu())
        for name, value in batch.items():
            if name.endswith("_edges"):
                knowledge.setdefault(name, []).append(value)
    return Parts(
        model,
        {name: _stack(blocks) for name, blocks in states.items()},
        {name: _stack(blocks) for name, blocks in masks.items()},
        {name: _stack(blocks) for name, blocks in knowledge.items()},
    )


def _stack(blocks: list[Tensor]) -> Tensor:
    """Blocks (B, L, …), padded to the longest L; graphs in both of their lengths."""
    sizes = [max(block.shape[place] for block in blocks) for place in range(1, blocks[0].ndim)]
    return torch.cat(
        [
            pad(
                block,
                [
                    amount
                    for place in reversed(range(len(sizes)))
                    for amount in (0, sizes[place] - block.shape[1 + place])
                ],
            )
            for block in blocks
        ]
    )
