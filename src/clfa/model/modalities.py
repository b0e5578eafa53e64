"""What a kind of modality is to a model: how values are prepared for an encoder, linked and masked.

Nobody else branches on a kind: `KINDS[modality.kind]` is asked. A new kind is a class here, one of its cells in
`clfa.data.cells` and, where Hugging Face does not have its encoders, a case in `clfa.model.encoders`.
"""

import os
from abc import abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
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
    samples: tuple
    """Decoded values to try a preparer with, the last of them a large one."""
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
    def signature(self, preparer: Any) -> str:
        """What changes when a preparer does."""

    @abstractmethod
    def compact(self, preparer: Any, values: list, max_length: int) -> list[Tensor]:
        """Decoded values -> integers (length, D) each, from which `expand` makes what `prepare` does."""

    @abstractmethod
    def expand(self, preparer: Any, compact: list[Tensor]) -> dict[str, Tensor]:
        """Compact values -> the inputs of an encoder."""

    def can_compact(self, preparer: Any, max_length: int) -> bool:
        """Whether `expand` gives of some values what `prepare` gives, to the bit."""
        values = [self.blank, *self.samples]
        try:
            own = self.expand(preparer, self.compact(preparer, values, max_length))
        except Exception:  # there are preparers of many kinds; one that cannot do it is used as it is
            return False
        prepared = self.prepare(preparer, values, max_length)
        return own.keys() == prepared.keys() and all(torch.equal(own[name], prepared[name]) for name in own)

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
    samples = ("A short text, with a #hashtag", "[SEP] is text here, too. " * 100)
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

    def signature(self, preparer: Any) -> str:
        """All of a tokenizer but the truncation and padding of its last texts."""
        preparer.backend_tokenizer.no_truncation()
        preparer.backend_tokenizer.no_padding()
        sides = f"{preparer.truncation_side} {preparer.padding_side}"
        return f"{preparer.pad_token_id} {sides} {preparer.backend_tokenizer.to_str()}"

    def can_compact(self, preparer: Any, max_length: int) -> bool:
        """Not with a tokenizer that is none of the library `tokenizers`: nothing says what changes when it does."""
        return preparer.is_fast and super().can_compact(preparer, max_length)

    def compact(self, preparer: Any, values: list, max_length: int) -> list[Tensor]:
        """Token ids (tokens, 1) in int32."""
        ids = preparer(values, truncation=True, max_length=max_length)["input_ids"]
        return [torch.tensor(one, dtype=torch.int32)[:, None] for one in ids]

    def expand(self, preparer: Any, compact: list[Tensor]) -> dict[str, Tensor]:
        """Padded to the longest text."""
        ids = pad_sequence([one[:, 0].long() for one in compact], batch_first=True, padding_value=preparer.pad_token_id)
        lengths = torch.tensor([len(one) for one in compact])
        return {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long()}

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
    samples = tuple(
        Image.fromarray(np.random.default_rng(0).integers(0, 256, size, np.uint8))
        for size in ((9, 40, 3), (333, 250, 3))
    )
    edges = staticmethod(grid_edges)

    def load_preparer(self, folder: str | Path) -> Any:
        """The PIL backend is asked for: torchvision is never needed."""
        return AutoImageProcessor.from_pretrained(folder, backend="pil")

    def prepare(self, preparer: Any, values: list, max_length: int) -> dict[str, Tensor]:
        """`pixel_values` (B, 3, h, w)."""
        return {"pixel_values": preparer(images=values, return_tensors="pt").pixel_values}

    def signature(self, preparer: Any) -> str:
        """Its settings."""
        return repr(preparer)

    def compact(self, preparer: Any, values: list, max_length: int) -> list[Tensor]:
        """The resized and cropped image (3 * h, w) in uint8."""

        def one(image: Image.Image) -> Tensor:
            (resized,) = preparer(images=[image], do_rescale=False, do_normalize=False)["pixel_values"]
            if resized.dtype != np.uint8:
                raise TypeError(f"{type(preparer).__name__} gives {resized.dtype}")
            return torch.from_numpy(resized.copy()).flatten(0, 1)

        with ThreadPoolExecutor(os.cpu_count()) as pool:  # what resizes images lets others work meanwhile
            return list(pool.map(one, values))

    def expand(self, preparer: Any, compact: list[Tensor]) -> dict[str, Tensor]:
        """Scaled and normalised: what the preparer makes of each of the 256 values of a channel is looked up."""
        ramp = np.tile(np.arange(256, dtype=np.uint8), (3, 1, 1))
        kept = {"do_resize": False, "do_center_crop": False, "input_data_format": "channels_first"}
        table = preparer(images=[ramp], **kept, return_tensors="pt").pixel_values[0, :, 0]
        pixels = torch.stack(compact).unflatten(1, (3, -1))
        flat = [channel.index_select(0, pixels[:, n].flatten().int()) for n, channel in enumerate(table)]
        return {"pixel_values": torch.stack([one.view(pixels[:, 0].shape) for one in flat], dim=1)}

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
