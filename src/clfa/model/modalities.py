"""What a kind of modality is: how its values are cleaned, checked, left blank, prepared for an encoder, and linked.

Nobody else branches on a kind: `KINDS[modality.kind]` is asked. A new kind is a class here and, where Hugging Face does not
have its encoders, a case in `clfa.model.encoders`.
"""

import io
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from PIL import Image, ImageOps
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer

from clfa.config import ModalityConfig
from clfa.data.columns import as_cell
from clfa.data.images import open_image, read_image, refuse_url, to_rgb
from clfa.data.records import normalise_text
from clfa.errors import UserError
from clfa.fusion import grid_edges, window_edges
from clfa.model.knowledge import hashtags, without_hashtags


class Kind(ABC):
    """One kind of modality. A value of it is what a cell of a dataset directory holds: a text, or bytes."""

    name: str
    """Key in `KINDS`, and in the keys of caches."""
    tower: str
    """Where a dual encoder's configuration keeps the encoder of this kind."""
    needs: str
    """Files that an encoder's folder must hold beside config and weights."""
    in_files: bool = False
    """Whether the cells of a table name files."""
    blank: Any
    """Decoded stand-in for a missing value, so that shapes hold; its mask says that it is not there."""
    edges: Callable[[Tensor], Tensor]
    """Mask (B, L) -> the graph of the tokens (B, L, L) where none is given."""
    silent: Any
    """A cell that says nothing: an empty text, a grey image."""

    @abstractmethod
    def clean(self, value: Any, text_cleaning: str) -> Any:
        """A user's value as a dataset directory holds it; `None` where there is none.

        Raises:
            UserError: the value cannot be read.
        """

    def read(self, cell: Any, modality: ModalityConfig) -> str | bytes | None:
        """The value of a stored cell for one modality; `None` where the post has none."""
        return cell

    def decode(self, value: Any) -> Any:
        """What a preparer takes."""
        return value

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


PARTS: dict[str, Callable[[str], str | None]] = {
    "all": str,
    "hashtags": hashtags,
    "without_hashtags": without_hashtags,
}
"""What `ModalityConfig.part` takes of a text."""


class TextKind(Kind):
    """Texts, read by a tokenizer."""

    name, tower, needs = "text", "text_config", "tokenizer files"
    blank = silent = ""
    edges = staticmethod(window_edges)

    def clean(self, value: Any, text_cleaning: str) -> str | None:
        """The text, normalised unless the training set was `raw`; bytes are refused."""
        cell = as_cell(value)
        if isinstance(cell, bytes):
            raise UserError(f"a text was expected, found {len(cell):,} bytes")
        return None if cell is None else normalise_text(cell) if text_cleaning == "normalised" else cell

    def read(self, cell: Any, modality: ModalityConfig) -> str | None:
        """The text, or the part of it that the modality reads."""
        return cell if cell is None else PARTS[modality.part](cell)

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


class ImageKind(Kind):
    """Images, read by an image processor. A cell is `{"bytes": …, "path": None}`, as the library `datasets` stores it."""

    name, tower, needs, in_files = "image", "vision_config", "preprocessor_config.json", True
    edges = staticmethod(grid_edges)
    blank = Image.new("RGB", (32, 32))

    def __init__(self) -> None:
        self.silent = {"bytes": _stored(Image.new("RGB", (224, 224), (127, 127, 127))), "path": None}

    def clean(self, value: Any, text_cleaning: str) -> dict[str, Any] | None:
        """Checked bytes of a path, of bytes, of a PIL image or of a cell."""
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if value is None or (isinstance(value, str) and not value) or (isinstance(value, float) and value != value):
            return None
        if isinstance(value, Image.Image):
            return {"bytes": _stored(to_rgb(ImageOps.exif_transpose(value))), "path": None}
        if isinstance(value, (bytes, bytearray, memoryview)):
            return {"bytes": read_image(bytes(value)), "path": None}
        if not isinstance(value, (str, Path)):
            raise UserError(f"an image is a path, bytes or a PIL image, found {type(value).__name__}", "image-path")
        refuse_url(value)
        return {"bytes": read_image(Path(value)), "path": None}

    def read(self, cell: Any, modality: ModalityConfig) -> bytes | None:
        return cell["bytes"] if isinstance(cell, dict) else cell

    def decode(self, value: bytes) -> Image.Image:
        """The RGB image."""
        return open_image(value)

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


def _stored(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


class _Kinds(dict[str, Kind]):
    """Kinds by name; an unknown name is a `UserError`."""

    def __missing__(self, name: str) -> Kind:
        raise UserError(f"unknown kind {name!r} of a modality; allowed: {', '.join(self)}")


KINDS = _Kinds({kind.name: kind for kind in (TextKind(), ImageKind())})


def kind_of(modality: ModalityConfig) -> Kind:
    """The kind of a modality; a `UserError` if there is no such kind."""
    return KINDS[modality.kind]


def value_of(row: Any, name: str, modality: ModalityConfig) -> str | bytes | None:
    """The text or the undecoded bytes of a row for one modality; `None` where the post has none."""
    return kind_of(modality).read(row.get(modality.column or name), modality)
