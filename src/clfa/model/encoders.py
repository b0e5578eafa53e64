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
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer
from transformers.utils import logging

from clfa.config import WordVectors
from clfa.errors import UserError
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
        pooler = getattr(backbone, "pooler", None)
        if not pooled and isinstance(pooler, nn.Module) and any(True for _ in pooler.parameters()):
            backbone.pooler = None  # never read here: its weights would be kept and saved for nothing
        self.backbone, self.preparer, self.kind, self.pooled = backbone, preparer, kind, pooled
        self.width = _width(backbone, preparer, kind)

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
        if self.kind == "text" and not self.pooled:
            return states, inputs["attention_mask"].bool()
        return states, torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)

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
    folder = resolve(name)
    try:
        config = AutoConfig.from_pretrained(folder)
        config = getattr(config, f"{'vision' if kind == 'image' else kind}_config", config)
        if pretrained:
            backbone = AutoModel.from_pretrained(folder, config=config, dtype=torch.float32, use_safetensors=True)
        else:
            backbone = AutoModel.from_config(config)
        preparer = load_preparer(folder, kind)
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


def load_preparer(folder: str | Path, kind: str):
    """Tokenizer or image processor of a folder. The PIL backend is asked for: torchvision is never needed."""
    if kind == "text":
        return AutoTokenizer.from_pretrained(folder)
    return AutoImageProcessor.from_pretrained(folder, backend="pil")


def prepare(preparer: Any, kind: str, values: list, max_length: int = 77) -> dict[str, Tensor]:
    """Texts (padded to the longest) or RGB images -> the inputs of an encoder, in Hugging Face names."""
    if kind == "image":
        return {"pixel_values": preparer(images=values, return_tensors="pt").pixel_values}
    encoded = preparer(values, truncation=True, max_length=max_length, padding=True, return_tensors="pt")
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


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


@torch.no_grad()
def _width(backbone: Any, preparer: Any, kind: str) -> int:
    """H. Feature-map encoders do not name it alike in their configs, so an image of zeros is sent through once."""
    if kind == "text":
        return backbone.config.hidden_size
    from PIL import Image

    inputs = prepare(preparer, kind, [Image.new("RGB", (32, 32))])
    training = backbone.training
    states = backbone.eval()(**inputs).last_hidden_state
    backbone.train(training)
    return states.shape[1] if states.ndim == 4 else states.shape[-1]


def _cannot_load(name: str, kind: str, error: Exception) -> str:
    needed = "tokenizer files" if kind == "text" else "preprocessor_config.json"
    return (
        f"cannot load the {kind} encoder {name!r}: {(str(error) or type(error).__name__).splitlines()[0]}\n"
        f"Give a local folder with config.json, model.safetensors and {needed}, or a hub name while online"
    )
