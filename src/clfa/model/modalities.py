"""What a kind of modality is to a model: how values are prepared for an encoder, linked and masked.

Nobody else branches on a kind: `KINDS[modality.kind]` is asked. A new kind is a class here, one of its cells in
`clfa.data.cells` and, where Hugging Face does not have its encoders, a case in `clfa.model.encoders`.
"""

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer

from clfa.config import ModalityConfig
from clfa.data.cells import ByKind, Cells, ImageCells, TextCells
from clfa.fusion import grid_edges, window_edges


class Kind(Cells):
    """One kind of modality: its cells, and what becomes of them."""

    tower: str
    """Where a dual encoder's configuration keeps the encoder of this kind."""
    needs: str
    """Files that an encoder's folder must hold beside config and weights."""
    edges: Callable[[Tensor], Tensor]
    """Mask (B, L) -> the graph of the tokens (B, L, L) where none is given."""

    @abstractmethod
    def load_preparer(self, folder: str | Path) -> Any:
        """Tokenizer or image processor of a folder."""

    def save_preparer(self, preparer: Any, folder: str | Path) -> None:
        """What `load_preparer` reads; the same files whatever was prepared before."""
        preparer.save_pretrained(folder)

    @abstractmethod
    def prepare(self, preparer: Any, values: list, max_length: int) -> dict[str, Tensor]:
        """Decoded values -> the inputs of an encoder, in Hugging Face names."""

    @abstractmethod
    def stand_in(self, preparer: Any, mask: Bool[Tensor, "batch tokens"]) -> dict[str, Tensor]:
        """Inputs of this shape and mask, for layers that read states instead."""

    @abstractmethod
    def width(self, backbone: Any, preparer: Any) -> int:
        """H, the size of a token state."""

    def mask(
        self, states: Float[Tensor, "batch tokens width"], inputs: dict[str, Tensor]
    ) -> Bool[Tensor, "batch tokens"]:
        """Which tokens are there."""
        return torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)


class TextKind(TextCells, Kind):
    """Texts, read by a tokenizer."""

    tower, needs = "text_config", "tokenizer files"
    edges = staticmethod(window_edges)

    def load_preparer(self, folder: str | Path) -> Any:
        """A tokenizer for which `[SEP]` or `<|endoftext|>` in a post are text, and not its own marks."""
        return AutoTokenizer.from_pretrained(folder, split_special_tokens=True)

    def save_preparer(self, preparer: Any, folder: str | Path) -> None:
        """Without the truncation and padding of the last texts, which a tokenizer keeps and would write."""
        if preparer.is_fast:
            preparer.backend_tokenizer.no_truncation()
            preparer.backend_tokenizer.no_padding()
        preparer.save_pretrained(folder)

    def prepare(self, preparer: Any, values: list, max_length: int) -> dict[str, Tensor]:
        """`input_ids`, `attention_mask` (B, L), padded to the longest text."""
        encoded = preparer(values, truncation=True, max_length=max_length, padding=True, return_tensors="pt")
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}

    def stand_in(self, preparer: Any, mask: Tensor) -> dict[str, Tensor]:
        """Padding; a post without a text attends to its first token."""
        attended = mask.clone()
        attended[:, 0] = True
        ids = torch.full(mask.shape, preparer.pad_token_id or 0)
        return {"input_ids": ids, "attention_mask": attended.long()}

    def width(self, backbone: Any, preparer: Any) -> int:
        return backbone.config.hidden_size

    def mask(self, states: Tensor, inputs: dict[str, Tensor]) -> Tensor:
        """The tokenizer's mask."""
        return inputs["attention_mask"].bool()


class ImageKind(ImageCells, Kind):
    """Images, read by an image processor."""

    tower, needs = "vision_config", "preprocessor_config.json"
    edges = staticmethod(grid_edges)

    def load_preparer(self, folder: str | Path) -> Any:
        """The PIL backend is asked for: torchvision is never needed."""
        return AutoImageProcessor.from_pretrained(folder, backend="pil")

    def prepare(self, preparer: Any, values: list, max_length: int) -> dict[str, Tensor]:
        """`pixel_values` (B, 3, h, w)."""
        return {"pixel_values": preparer(images=values, return_tensors="pt").pixel_values}

    def stand_in(self, preparer: Any, mask: Tensor) -> dict[str, Tensor]:
        """Black images."""
        return {
            name: value.expand(len(mask), *value.shape[1:])
            for name, value in self.prepare(preparer, [self.blank], 0).items()
        }

    @torch.no_grad()
    def width(self, backbone: Any, preparer: Any) -> int:
        """Feature-map encoders do not name it alike in their configs, so one image is sent through."""
        training = backbone.training
        states = backbone.eval()(**self.prepare(preparer, [self.blank], 0)).last_hidden_state
        backbone.train(training)
        return states.shape[1] if states.ndim == 4 else states.shape[-1]


KINDS = ByKind({kind.name: kind for kind in (TextKind(), ImageKind())})


def kind_of(modality: ModalityConfig) -> Kind:
    """The kind of a modality; a `UserError` if there is no such kind."""
    return KINDS[modality.kind]
