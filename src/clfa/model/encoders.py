"""Text and image encoders from Hugging Face, as one thing: inputs -> token states (B, L, H).

Texts: any `AutoModel` with a tokenizer (BERT, RoBERTa, MiniLM …). Images: encoders with tokens (ViT, DeiT, Swin) as they
are, encoders with feature maps (ResNet, MobileNetV2) flattened to one token per place.
"""

import functools
import hashlib
import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel
from transformers.utils import logging

from clfa.config import WordVectors
from clfa.errors import UserError
from clfa.model.modalities import KINDS, find_kind
from clfa.model.word_vectors import build_words_model  # also registers its model with transformers

logging.disable_progress_bar()
logging.set_verbosity_error()  # unused pooling heads are reported as missing weights on each load


class Encoder(nn.Module):
    """A Hugging Face backbone and what prepares its inputs.

    Attributes:
        backbone: the `AutoModel`; its outputs are passed on unchanged.
        preparer: tokenizer (texts) or image processor (images).
        pooled: whether the backbone's own summary is the only token.
        width: H, the size of a token state.
    """

    backbone: Any
    preparer: Any

    def __init__(self, backbone: Any, preparer: Any, kind: str, pooled: bool = False):
        super().__init__()
        self._weights: str | None = None
        pooler = getattr(backbone, "pooler", None)
        if not pooled and isinstance(pooler, nn.Module) and any(True for _ in pooler.parameters()):
            backbone.pooler = None  # never read here: its weights would be kept and saved for nothing
        self.backbone, self.preparer, self.kind, self.pooled = backbone, preparer, KINDS[kind], pooled
        self.width = self.kind.width(backbone, preparer)

    def forward(
        self, inputs: dict[str, Tensor]
    ) -> tuple[Float[Tensor, "batch tokens width"], Bool[Tensor, "batch tokens"]]:
        """Token states of `{"input_ids" (B,L), "attention_mask" (B,L)}` or `{"pixel_values" (B,3,h,w)}`, and their mask."""
        output = self.backbone(**inputs)
        states = output.last_hidden_state
        if self.pooled:
            states = output.pooler_output.flatten(1)[:, None]
        elif states.ndim == 4:
            states = states.flatten(2).transpose(1, 2)
        if self.pooled:
            return states, torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        return states, self.kind.mask(states, inputs)

    def prepare(self, values: list, max_length: int = 77) -> dict[str, Tensor]:
        """Texts (padded to the longest) or RGB images -> inputs, in Hugging Face names."""
        return self.kind.prepare(self.preparer, values, max_length)

    @torch.no_grad()
    def encode(self, values: list, max_length: int = 77) -> list[Float[Tensor, "tokens width"]]:
        """States of each text or undecoded image without padding, in evaluation mode, on the encoder's device."""
        inputs = self.prepare([self.kind.decode(value) for value in values], max_length)
        device, training = next(self.parameters()).device, self.training
        states, masks = self.eval()({name: value.to(device) for name, value in inputs.items()})
        self.train(training)
        return [row[mask] for row, mask in zip(states.cpu(), masks.cpu())]

    @property
    def positions(self) -> int | None:
        """The longest input in tokens, special ones included, where the encoder has a limit."""
        config = self.backbone.config
        limit = getattr(config, "max_position_embeddings", None)
        # the positions of these start after the padding index
        return limit - 2 if limit and config.model_type in ("roberta", "xlm-roberta", "camembert") else limit

    def fingerprint(self, *settings: str) -> str:
        """16 hex digits that change with the weights, the preparer and further settings; hashed once for a frozen one."""
        if self._weights is None or any(parameter.requires_grad for parameter in self.parameters()):
            self._weights = fingerprint(self.backbone, settings_of(self.preparer))
        return fingerprint(self._weights, *settings, *(["pooled"] if self.pooled else []))

    def save(self, folder: Path) -> None:
        """Write `config.json` and the preparer's files; weights are saved by whoever owns the encoder."""
        self.backbone.config.save_pretrained(folder)
        self.preparer.save_pretrained(folder)


def load_encoder(name: str, kind: str, pretrained: bool = True, pooled: bool = False) -> Encoder:
    """Load a text or image encoder from a local folder, a hub name or `package:NAME/FOLDER`.

    Args:
        name: where it is. Of a dual encoder (CLIP) the tower of this kind is taken.
        kind: `text` or `image`.
        pretrained: `False` builds the architecture in its config.json with fresh weights.
        pooled: take the backbone's summary of the whole text or image as its only token (CLIP, BERT, ResNet have one).

    Raises:
        UserError: it cannot be loaded (says what to place where).
    """
    folder, of_kind = resolve(name), find_kind(kind)
    try:
        config = AutoConfig.from_pretrained(folder)
        config = getattr(config, of_kind.tower, config)
        if pretrained:
            backbone = AutoModel.from_pretrained(folder, config=config, dtype=torch.float32, use_safetensors=True)
        else:
            backbone = AutoModel.from_config(config)
        preparer = of_kind.load_preparer(folder)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(_cannot_load(name, kind, error)) from None
    # convolutions run about twice as fast on CPUs in this layout; the numbers are the same to rounding
    backbone.to(memory_format=torch.channels_last)
    return Encoder(backbone, preparer, kind, pooled)


def build_words(config: WordVectors, texts: Iterable[str]) -> Encoder:
    """A new encoder of word vectors with the vocabulary of these texts, see `clfa.model.word_vectors`."""
    return Encoder(*build_words_model(config, texts), "text")


@functools.cache
def can_load(name: str) -> bool:
    """Whether a model is here, or can be had from the hub: its configuration is read, nothing more."""
    try:
        AutoConfig.from_pretrained(resolve(name))
    except (OSError, ValueError, KeyError, UserError):
        return Path(resolve(name), "config.json").is_file() if name and not name.startswith("package:") else False
    return True


def resolve(name: str) -> str:
    """`package:NAME/FOLDER` -> the folder inside an installed package; anything else stays.

    Raises:
        UserError: the package is not installed.
    """
    if not name.startswith("package:"):
        return name
    package, _, folder = name.removeprefix("package:").partition("/")
    try:
        return str(files(package) / folder)
    except ModuleNotFoundError:
        raise UserError(f"{name}: the Python package {package!r} is not installed; pip install it") from None


def settings_of(preparer: Any) -> str:
    """The settings of a tokenizer or image processor in words, wherever it was loaded from."""
    return re.sub(r"name_or_path='[^']*', ", "", repr(preparer))


def fingerprint(*parts: nn.Module | str) -> str:
    """16 hex digits of the weights of modules and of strings; names the caches made with them."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        if isinstance(part, str):
            digest.update(part.encode())
        else:
            for name, tensor in sorted(part.state_dict().items()):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _cannot_load(name: str, kind: str, error: Exception) -> str:
    return (
        f"cannot load the {kind} encoder {name!r}: {(str(error) or type(error).__name__).splitlines()[0]}\n"
        f"Give a local folder with config.json, model.safetensors and {KINDS[kind].needs}, or a hub name while online"
    )
